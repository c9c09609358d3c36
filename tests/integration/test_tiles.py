"""Windows of every function and length, from Kafka through Flink to feature rows, against the witness."""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka.admin import NewTopic
from every_function import OF_EITHER, agreed
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat
from feast.types import Float64, Int64, String, UnixTimestamp
from sql_on_kafka import Sql

from compose.local.platform import Platform
from features.comparison import Parity
from features.compiler.topics import feature_codec, feature_topic
from jobs import features as features_job
from jobs.tables import Broker
from schemas.codec import Codec, derived_id

Record = dict[str, Any]
START_MS = 1_700_000_000_000
SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
DELAY = timedelta(minutes=5)
SCHEMA = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "user", "type": ["null", "string"]},
        {"name": "shop", "type": "long"},
        {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": ["null", "double"]},
        {"name": "items", "type": "int"},
        {"name": "gift", "type": ["null", "boolean"]},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {
            "name": "address",
            "type": {
                "type": "record",
                "name": "Address",
                "fields": [{"name": "country", "type": ["null", "string"]}, {"name": "zone", "type": "float"}],
            },
        },
    ],
}
CODEC = Codec(SCHEMA, derived_id(SCHEMA))


@pytest.fixture(scope="module")
def sql(platform: Platform) -> Sql:
    return Sql(platform)


def orders(seed: int, count: int, span_ms: int, users: int = 3) -> list[Record]:
    """Bursts and silences, no two of one time, values and keys that are missing."""
    random = np.random.default_rng(seed)
    bursts = START_MS + random.integers(0, span_ms, 12)
    times = random.choice(bursts, count) + random.exponential(10 * MINUTE_MS, count).astype(int)
    on_boundary = random.random(count) < 0.1
    times = np.unique(np.where(on_boundary, times // (10 * SECOND_MS) * 10 * SECOND_MS, times))

    def maybe(value: Any) -> Any:
        return None if random.random() < 0.2 else value

    return [
        {
            "user": None if random.random() < 0.05 else f"u{random.integers(users)}",
            "shop": int(random.integers(2)),
            "placed": int(time),
            "amount": maybe(float(random.normal(10, 1000) * 10.0 ** random.integers(-6, 6))),
            "items": int(random.integers(-3, 10)),
            "gift": maybe(bool(random.integers(2))),
            "price": Decimal(int(random.integers(0, 10**9))).scaleb(-2),
            "address": {"country": maybe(f"c{random.integers(400)}"), "zone": float(random.integers(0, 5))},
        }
        for time in times
    ]


def view_of(topic: str, aggregations: Sequence[tuple[str, str, Any, int, int]], **options: Any) -> StreamFeatureView:
    """A view on the orders: name's type, column, function, window and slide in milliseconds."""
    name = f"view_{uuid.uuid4().hex[:8]}"
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
    made = [
        (f"f{number}", column, function, dtype, window, slide)
        for number, (column, function, dtype, window, slide) in enumerate(aggregations)
    ]
    return StreamFeatureView(
        name=name,
        entities=[user, shop],
        source=KafkaSource(
            name=f"source_{name}",
            timestamp_field="placed",
            kafka_bootstrap_servers="",
            topic=topic,
            message_format=AvroFormat(json.dumps(SCHEMA)),
            watermark_delay_threshold=DELAY,
            batch_source=FileSource(name=f"file_{name}", path="none.parquet", timestamp_field="placed"),
        ),
        timestamp_field="placed",
        schema=[
            Field(name="user", dtype=String),
            Field(name="shop", dtype=Int64),
            *(Field(name=each, dtype=dtype) for each, _, _, dtype, _, _ in made),
        ],
        aggregations=[
            Aggregation(
                column=column,
                function=function,
                time_window=timedelta(milliseconds=window),
                slide_interval=timedelta(milliseconds=slide),
                name=each,
            )
            for each, column, function, _, window, slide in made
        ],
        **options,
    )


def streamed(sql: Sql, view: StreamFeatureView, records: Sequence[Record]) -> pd.DataFrame:
    """The rows of a view as its job wrote them."""
    topic = view.stream_source.kafka_options.topic
    names = [f"{topic}.late", feature_topic(view).name]
    for each in sql.admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        each.result()
    moments = [record | {"placed": datetime.fromtimestamp(record["placed"] / 1000, UTC)} for record in records]
    sql.send(topic, [(CODEC.encode(each), record["placed"]) for each, record in zip(moments, records, strict=True)])
    broker = Broker(sql.address, view.name, carries=True, bounded=True)
    features_job.build(sql.tables, broker, [view]).execute().wait()
    assert not sql.received(f"{topic}.late", 1, timeout_s=0.5)
    codec = feature_codec(view)
    # The job has ended, so everything is there.
    messages = sql.received(feature_topic(view).name, 10**9, timeout_s=2)
    return pd.DataFrame([codec.decode(each.value()) for each in messages if each.key() is not None])


def events_of(records: Sequence[Record]) -> pd.DataFrame:
    """As the witness takes them: a column for each that is aggregated, in topic order."""
    frame = pd.DataFrame(records)
    address = pd.DataFrame(list(frame["address"])).add_prefix("address.")
    return frame.assign(event_time=frame["placed"], price=frame["price"].astype(float)).join(address)


def check(view: StreamFeatureView, got: pd.DataFrame, records: Sequence[Record]) -> Parity:
    """What was streamed against what the records, in the order of event time, should give."""
    return agreed(view, got, events_of(records))


EVERY = [*OF_EITHER, ("address.country", "approx_count_distinct", Int64)]


def test_every_function_over_three_windows(sql: Sql) -> None:
    spans = [(MINUTE_MS, 10 * SECOND_MS), (HOUR_MS, 10 * MINUTE_MS), (DAY_MS, 6 * HOUR_MS)]
    view = view_of(sql.topic(), [(*each, *span) for each in EVERY for span in spans])
    records = orders(1, 800, 2 * DAY_MS)
    assert check(view, streamed(sql, view, records), records).compared > 50_000


def test_five_windows_from_seconds_to_a_month(sql: Sql) -> None:
    windows = [10 * SECOND_MS, 7 * MINUTE_MS, HOUR_MS, DAY_MS, 30 * DAY_MS]
    view = view_of(sql.topic(), [("items", "sum", Int64, window, min(window, DAY_MS)) for window in windows])
    records = orders(2, 1000, 20 * DAY_MS)
    check(view, streamed(sql, view, records), records)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_within_the_bound_changes_nothing(sql: Sql, seed: int) -> None:
    random = np.random.default_rng(seed)
    spans = [int(each) for each in random.choice([5, 15, 60, 90, 300, 3600, 5400], 4) * SECOND_MS]
    windows = [(spans[0] * 7, spans[0]), (spans[1], spans[2]), (spans[3], spans[3])]
    options = {"enable_tiling": True, "tiling_hop_size": timedelta(seconds=int(random.choice([1, 4])))}
    view = view_of(sql.topic(), [(*each, *span) for each in EVERY for span in windows], **options)
    records = orders(seed + 10, 800, DAY_MS, users=int(random.integers(1, 30)))
    bound_ms = DELAY // timedelta(milliseconds=1)
    arrivals = [each["placed"] + random.uniform(0, bound_ms) for each in records]
    shuffled = [records[at] for at in np.argsort(arrivals)]
    assert [each["placed"] for each in shuffled] != [each["placed"] for each in records]
    check(view, streamed(sql, view, shuffled), records)


def with_country(table: str) -> str:
    return f"SELECT *, address.country AS country FROM {table}"


def test_what_only_flink_can_tell_is_refused_before_it_runs(sql: Sql) -> None:
    made = [("country", "sum", Float64, MINUTE_MS, MINUTE_MS)]
    view = view_of("orders", made, mode="flink", udf=with_country, udf_string="with_country")
    with pytest.raises(Exception, match=r"Feature f0: expected a column of numbers for sum, found: STRING"):
        features_job.build(sql.tables, Broker(sql.address, view.name, bounded=True), [view]).execute()


def test_times_are_values_too(sql: Sql) -> None:
    view = view_of(sql.topic(), [("placed", "max", UnixTimestamp, HOUR_MS, HOUR_MS)])
    records = orders(5, 50, DAY_MS)
    found = streamed(sql, view, records)
    assert len(found) > 50
    for row in found.to_dict("records"):
        at = round(row["event_time"].timestamp() * 1000)
        mine = [r["placed"] for r in records if (r["user"], r["shop"]) == (row["user"], row["shop"])]
        inside = [each for each in mine if at - HOUR_MS < each <= at]
        assert row["f0"] == (datetime.fromtimestamp(max(inside) / 1000, UTC) if inside else None) or not inside
