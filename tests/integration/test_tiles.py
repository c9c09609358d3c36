"""Windows of every function and length, from Kafka through Flink to feature rows, against plain loops."""

import json
import math
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import NewTopic
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat
from feast.types import Bool, Float64, Int64, String, UnixTimestamp
from sql_on_kafka import Sql

from compose.local.platform import Platform
from features.compiler.definition import definition
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


def streamed(sql: Sql, view: StreamFeatureView, records: Sequence[Record]) -> dict[tuple[Any, ...], Record]:
    """The rows of a view as its job wrote them, by key and time; each once."""
    topic = view.stream_source.kafka_options.topic
    names = [f"{topic}.late", feature_topic(view).name]
    for each in sql.admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        each.result()
    moments = [record | {"placed": datetime.fromtimestamp(record["placed"] / 1000, UTC)} for record in records]
    sql.send(topic, [(CODEC.encode(each), record["placed"]) for each, record in zip(moments, records, strict=True)])
    broker = Broker(sql.address, view.name, carries=True, bounded=True)
    features_job.build(sql.tables, broker, [view]).execute().wait()
    codec = feature_codec(view)
    found: dict[tuple[Any, ...], Record] = {}
    for message in sql.received(feature_topic(view).name, 10**9, timeout_s=3):
        if message.key() is None:
            continue
        row = codec.decode(message.value())
        at_ms = round(row.pop("event_time").timestamp() * 1000)
        key = (row["user"], row["shop"], at_ms)
        assert key not in found, "a row came twice"
        found[key] = row
    assert not sql.received(f"{topic}.late", 1, timeout_s=1)
    return found


def computed(view: StreamFeatureView, records: Sequence[Record]) -> dict[tuple[Any, ...], Record]:
    """The rows a view should have: its definition read out loud."""
    meaning = definition(view)
    hop = meaning.hop_ms
    found: dict[tuple[Any, ...], Record] = {}
    for key in {(each["user"], each["shop"]) for each in records if each["user"] is not None}:
        mine = sorted((r for r in records if (r["user"], r["shop"]) == key), key=lambda record: record["placed"])
        due = {-(-each["placed"] // hop) * hop for each in mine}
        while due:
            at = min(due)
            due.remove(at)
            row = {}
            for feature in meaning.features:
                inside = [each for each in mine if at - feature.window_ms < each["placed"] <= at]
                if inside:
                    due.add((at // feature.slide_ms + 1) * feature.slide_ms)
                values = [value_of(each, feature.column) for each in inside] if feature.column else [1] * len(inside)
                row[feature.name] = AGGREGATES[feature.function]([each for each in values if each is not None])
            found[(*key, at)] = row
    return found


def value_of(record: Record, column: str) -> Any:
    for part in column.split("."):
        record = record[part]
    return record


def quantile(q: float) -> Callable[[list[Any]], Any]:
    return lambda values: sorted(map(float, values))[math.floor(q * (len(values) - 1))] if values else None


AGGREGATES: dict[str, Callable[[list[Any]], Any]] = {
    "count": len,
    "sum": lambda values: sum(values) if isinstance(next(iter(values), 0), Decimal | int) else math.fsum(values),
    "mean": lambda values: math.fsum(map(float, values)) / len(values) if values else None,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
    "var": lambda values: float(np.var(np.array(values, float), ddof=1)) if len(values) > 1 else None,
    "stddev": lambda values: float(np.std(np.array(values, float), ddof=1)) if len(values) > 1 else None,
    "first": lambda values: values[0] if values else None,
    "last": lambda values: values[-1] if values else None,
    "count_distinct": lambda values: len(set(values)),
    "approx_count_distinct": lambda values: len(set(values)),
    "p50": quantile(0.5),
    "p99": quantile(0.99),
}
RELATIVE = {"sum": 1e-9, "mean": 1e-9, "var": 1e-9, "stddev": 1e-9, "p50": 0.0101, "p99": 0.0101}
RELATIVE |= {"approx_count_distinct": 0.05}


def differences(
    view: StreamFeatureView, got: dict[tuple[Any, ...], Record], want: dict[tuple[Any, ...], Record]
) -> list[str]:
    """What is not as it should be, in words."""
    lines = [f"row {key} is missing" for key in want.keys() - got.keys()]
    lines += [f"row {key} is one too many" for key in got.keys() - want.keys()]
    functions = {each.name: each.function for each in definition(view).features}
    for key in want.keys() & got.keys():
        for name, expected in want[key].items():
            found, function = got[key][name], functions[name]
            if function in RELATIVE and expected is not None and found is not None:
                right = math.isclose(float(found), float(expected), rel_tol=RELATIVE[function], abs_tol=1e-300)
            else:
                right = found == expected
            if not right:
                lines.append(f"{key} {name} {function}: expected {expected!r}, got {found!r}")
    return lines


EVERY = [
    ("amount", "count", Int64),
    ("", "count", Int64),
    ("items", "sum", Int64),
    ("amount", "sum", Float64),
    ("price", "sum", Float64),
    ("amount", "mean", Float64),
    ("items", "mean", Float64),
    ("price", "mean", Float64),
    ("amount", "min", Float64),
    ("address.country", "max", String),
    ("gift", "max", Bool),
    ("items", "stddev", Float64),
    ("amount", "var", Float64),
    ("address.country", "first", String),
    ("items", "last", Int64),
    ("address.country", "count_distinct", Int64),
    ("amount", "count_distinct", Int64),
    ("address.country", "approx_count_distinct", Int64),
    ("amount", "p50", Float64),
    ("address.zone", "p99", Float64),
]


def test_every_function_over_three_windows(sql: Sql) -> None:
    spans = [(MINUTE_MS, 10 * SECOND_MS), (HOUR_MS, 10 * MINUTE_MS), (DAY_MS, 6 * HOUR_MS)]
    view = view_of(sql.topic(), [(*each, *span) for each in EVERY for span in spans])
    records = orders(1, 1500, 3 * DAY_MS)
    got = streamed(sql, view, records)
    want = computed(view, records)
    assert len(want) > 1000
    assert differences(view, got, want)[:20] == []


def test_five_windows_from_seconds_to_a_month(sql: Sql) -> None:
    windows = [10 * SECOND_MS, 7 * MINUTE_MS, HOUR_MS, DAY_MS, 30 * DAY_MS]
    view = view_of(sql.topic(), [("items", "sum", Int64, window, min(window, DAY_MS)) for window in windows])
    records = orders(2, 1000, 20 * DAY_MS)
    got, want = streamed(sql, view, records), computed(view, records)
    assert differences(view, got, want)[:20] == []


def test_the_order_within_the_bound_changes_nothing(sql: Sql) -> None:
    spans = [(MINUTE_MS, MINUTE_MS), (HOUR_MS, 7 * MINUTE_MS)]
    options = {"enable_tiling": True, "tiling_hop_size": timedelta(seconds=5)}
    view = view_of(sql.topic(), [(*each, *span) for each in EVERY for span in spans], **options)
    records = orders(3, 1500, DAY_MS)
    random = np.random.default_rng(4)
    bound_ms = DELAY // timedelta(milliseconds=1)
    arrivals = [each["placed"] + random.uniform(0, bound_ms) for each in records]
    shuffled = [records[at] for at in np.argsort(arrivals)]
    assert [each["placed"] for each in shuffled] != [each["placed"] for each in records]
    got, want = streamed(sql, view, shuffled), computed(view, records)
    assert differences(view, got, want)[:20] == []


def test_a_view_that_cannot_be_is_refused_before_it_runs(sql: Sql) -> None:
    view = view_of("orders", [("address.country", "sum", Float64, MINUTE_MS, MINUTE_MS)])
    with pytest.raises(Exception, match=r"Feature f0: expected a column of numbers for sum, found: STRING"):
        features_job.build(sql.tables, Broker(sql.address, view.name, bounded=True), [view]).execute()


def test_times_are_values_too(sql: Sql) -> None:
    view = view_of(sql.topic(), [("placed", "max", UnixTimestamp, HOUR_MS, HOUR_MS)])
    records = orders(5, 50, DAY_MS)
    for key, row in streamed(sql, view, records).items():
        inside = [r["placed"] for r in records if key[2] - HOUR_MS < r["placed"] <= key[2] and r["user"] == key[0]
                  and r["shop"] == key[1]]  # fmt: skip
        assert row["f0"] == (datetime.fromtimestamp(max(inside) / 1000, UTC) if inside else None)
