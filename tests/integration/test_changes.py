"""Tables that change, as topics of Debezium's and as upserts, from Kafka through Flink to feature rows."""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic
from every_function import OF_EITHER, agreed
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat, JsonFormat
from feast.types import Float64, Int64, String
from sql_on_kafka import Sql

from compose.local.platform import Platform
from features.comparison import Parity
from features.compiler.sources import avro_schema, encoding
from features.compiler.topics import feature_codec, feature_topic
from features.versions import standing
from jobs import features as features_job
from jobs.tables import Broker
from schemas.codec import ANY_ID, Codec

Row = dict[str, Any]
START_MS = 1_700_000_000_000
SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
DELAY_MS = 5 * MINUTE_MS
TIME = {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.Timestamp"}
ROW = {
    "type": "record",
    "name": "Value",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "user", "type": ["null", "string"]},
        {"name": "shop", "type": "long"},
        {"name": "placed", "type": ["null", TIME]},
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
ENVELOPE = {
    "type": "record",
    "name": "Envelope",
    "namespace": "bank.orders",
    "fields": [
        {"name": "before", "type": ["null", ROW], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {
            "name": "source",
            "type": {
                "type": "record",
                "name": "Source",
                "fields": [
                    {"name": "connector", "type": "string"},
                    {"name": "ts_ms", "type": "long"},
                    {"name": "lsn", "type": ["null", "long"], "default": None},
                ],
            },
        },
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": None},
        {
            "name": "transaction",
            "type": [
                "null",
                {"type": "record", "name": "block", "fields": [{"name": "id", "type": "string"}]},
            ],
            "default": None,
        },
    ],
}
UPSERTED = json.loads(json.dumps(ROW).replace(json.dumps(TIME), '{"type": "long", "logicalType": "timestamp-millis"}'))
ROW_IN_JSON = (
    "id bigint, user string, shop bigint, placed timestamp, amount double, items int, gift boolean, "
    "price decimal(12, 2), address struct<country string, zone float>"
)
ENVELOPE_IN_JSON = (
    f"before struct<{ROW_IN_JSON}>, after struct<{ROW_IN_JSON}>, source struct<connector string, ts_ms bigint>, "
    "op string, ts_ms bigint"
)
FORMATS = {
    "debezium": AvroFormat(json.dumps(ENVELOPE)),
    "upsert": AvroFormat(json.dumps(UPSERTED)),
    "debezium.json": JsonFormat(ENVELOPE_IN_JSON),
    "upsert.json": JsonFormat(ROW_IN_JSON),
}


@pytest.fixture(scope="module")
def sql(platform: Platform) -> Sql:
    return Sql(platform)


class Table:
    """A table and the changes made to it: key, time, and the row that is there after it."""

    def __init__(self, seed: int, span_ms: int, users: int = 3) -> None:
        self._random = np.random.default_rng(seed)
        self._span_ms, self._users = span_ms, users
        self._bursts = START_MS + self._random.integers(0, span_ms, 12)
        self.rows: dict[int, Row] = {}
        self.changes: list[Row] = []

    def run(self, count: int) -> "Table":
        """Changes in the order of their time, some at the same; inserts, updates of anything, deletes, new inserts."""
        times = self._random.choice(self._bursts, count) + self._random.exponential(HOUR_MS, count).astype(int)
        times = np.where(self._random.random(count) < 0.2, times // (10 * SECOND_MS) * 10 * SECOND_MS, times)
        for at in np.sort(times):
            there = sorted(self.rows)
            what = self._random.random()
            if not there or what < 0.45:
                self._change(int(self._random.integers(count)), self._row(int(at)), int(at))
            else:
                key = int(self._random.choice(there))
                self._change(key, None if what < 0.65 else self._updated(self.rows[key], int(at)), int(at))
        return self

    def _change(self, key: int, row: Row | None, at: int) -> None:
        before = self.rows.pop(key, None)
        if row is not None:
            row = self.rows[key] = row | {"id": key}
        self.changes.append({"key": key, "changed": at, "before": before, "row": row})

    def _updated(self, row: Row, at: int) -> Row:
        """Of another key, of another time, or of other values."""
        fresh = self._row(at)
        names = [("user", "shop"), ("placed",), ("amount", "items", "price"), ("address", "gift"), tuple(fresh)]
        return row | {name: fresh[name] for name in names[self._random.integers(len(names))]}

    def _row(self, at: int) -> Row:
        random = self._random
        # Of now, of long ago, of some time to come.
        off = random.choice([0, -random.integers(MINUTE_MS), -random.integers(2 * DAY_MS), random.integers(HOUR_MS)])
        return {
            "user": None if random.random() < 0.05 else f"u{random.integers(self._users)}",
            "shop": int(random.integers(2)),
            "placed": None if random.random() < 0.03 else int(at + off),
            "amount": self._maybe(float(random.normal(10, 1000) * 10.0 ** random.integers(-6, 6))),
            "items": int(random.integers(-3, 10)),
            "gift": self._maybe(bool(random.integers(2))),
            "price": Decimal(int(random.integers(0, 10**9))).scaleb(-2),
            "address": {"country": self._maybe(f"c{random.integers(20)}"), "zone": float(random.integers(0, 5))},
        }

    def _maybe(self, value: Any) -> Any:
        return None if self._random.random() < 0.2 else value

    def shuffled(self, seed: int) -> list[Row]:
        """As they may arrive: those of one row in order, those of different rows in any within the bound."""
        random = np.random.default_rng(seed)
        arrivals: list[float] = []
        last: dict[int, float] = {}
        for each in self.changes:
            at = max(each["changed"] + random.uniform(0, DELAY_MS), last.get(each["key"], 0))
            arrivals.append(at)
            last[each["key"]] = at
        return [self.changes[at] for at in np.argsort(arrivals, kind="stable")]


def view_of(
    topic: str, kind: str, aggregations: Sequence[tuple[str, str, Any, int, int]], **options: Any
) -> StreamFeatureView:
    """A view on the table's rows: name's type, column, function, window and slide in milliseconds."""
    name = f"view_{uuid.uuid4().hex[:8]}"
    made = [(f"f{number}", *each) for number, each in enumerate(aggregations)]
    return StreamFeatureView(
        name=name,
        entities=[
            Entity(name="user", join_keys=["user"], value_type=ValueType.STRING),
            Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64),
        ],
        source=KafkaSource(
            name=f"source_{name}",
            timestamp_field="placed",
            kafka_bootstrap_servers="",
            topic=topic,
            message_format=FORMATS[kind],
            watermark_delay_threshold=timedelta(milliseconds=DELAY_MS),
            batch_source=FileSource(name=f"file_{name}", path="none.parquet", timestamp_field="placed"),
            tags={"changelog": kind.partition(".")[0]},
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


def records(view: StreamFeatureView, changes: Sequence[Row]) -> list[tuple[bytes, bytes | None, int]]:
    """Key, value and timestamp of what the topic holds: after a delete, Debezium writes a tombstone."""
    source = view.stream_source
    encode = _json if encoding(source) == "json" else Codec(avro_schema(source), ANY_ID).encode
    made: list[tuple[bytes, bytes | None, int]] = []
    for each in changes:
        key, at = f"key {each['key']}".encode(), each["changed"]
        row = each["row"] and stamped(each["row"])
        if source.tags["changelog"] == "upsert":
            made.append((key, encode(row) if row else None, at))
            continue
        op = "d" if row is None else "u" if each["before"] else "c"
        envelope = {"after": row, "source": {"connector": "db", "ts_ms": at}, "op": op, "ts_ms": at + 90}
        # Kafka has it much later than the database; were that what counts, the next would be late.
        made.append((key, encode(envelope), at + DAY_MS))
        if row is None:
            made.append((key, None, at + DAY_MS))
    return made


def _json(record: Row) -> bytes:
    def plain(value: Decimal | datetime) -> str | int:
        return str(value) if isinstance(value, Decimal) else round(value.timestamp() * 1e6)

    return json.dumps(record, default=plain).encode()


def stamped(row: Row) -> Row:
    return row | {"placed": row["placed"] and datetime.fromtimestamp(row["placed"] / 1000, UTC)}


def produce(sql: Sql, topic: str, made: Sequence[tuple[bytes | None, bytes | None, int]]) -> None:
    producer = Producer({"bootstrap.servers": sql.address, "log_level": 0})
    for key, value, at in made:
        producer.produce(topic, key=key, value=value, timestamp=at)
        producer.poll(0)
    assert producer.flush(30) == 0


def streamed(sql: Sql, view: StreamFeatureView) -> pd.DataFrame:
    """The rows of a view as its job wrote them."""
    topic = view.stream_source.kafka_options.topic
    names = [f"{topic}.late", feature_topic(view).name]
    for each in sql.admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        each.result()
    broker = Broker(sql.address, view.name, carries=True, bounded=True)
    features_job.build(sql.tables, broker, [view]).execute().wait()
    codec = feature_codec(view)
    # The job has ended, so everything is there.
    messages = sql.received(feature_topic(view).name, 10**9, timeout_s=2)
    return pd.DataFrame([codec.decode(each.value()) for each in messages if each.key() is not None])


def versions_of(changes: Sequence[Row]) -> pd.DataFrame:
    """As the witness takes them."""
    there = [each["row"] is not None and each["row"]["placed"] is not None for each in changes]
    frame = pd.DataFrame({"key": [c["key"] for c in changes], "changed": [c["changed"] for c in changes]})
    stood = standing(frame.assign(there=there))
    table = pd.DataFrame([changes[at]["row"] for at in stood.index])
    address = pd.DataFrame(list(table["address"])).add_prefix("address.")
    table = table.assign(event_time=table["placed"].astype("int64"), price=table["price"].astype(float)).join(address)
    return table.join(stood.reset_index(drop=True))


def check(view: StreamFeatureView, got: pd.DataFrame, changes: Sequence[Row]) -> Parity:
    return agreed(view, got, versions_of(changes))


EVERY = [*OF_EITHER, ("price", "var", Float64)]
SPANS = [(MINUTE_MS, 10 * SECOND_MS), (HOUR_MS, 10 * MINUTE_MS), (DAY_MS, 6 * HOUR_MS)]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_function_over_three_windows(sql: Sql, kind: str) -> None:
    view = view_of(sql.topic(), kind, [(*each, *span) for each in EVERY for span in SPANS])
    table = Table(1, DAY_MS).run(800)
    changes = table.shuffled(1)
    assert [each["changed"] for each in changes] != sorted(each["changed"] for each in changes)
    produce(sql, view.stream_source.kafka_options.topic, records(view, changes))
    got = streamed(sql, view)
    assert not sql.received(f"{view.stream_source.kafka_options.topic}.late", 1, timeout_s=0.5)
    assert check(view, got, changes).compared > 50_000


@pytest.mark.parametrize("kind", ["debezium", "upsert"])
def test_a_late_change_is_never_made_and_the_next_of_its_row_is(sql: Sql, kind: str) -> None:
    view = view_of(sql.topic(), kind, [(*each, *SPANS[1]) for each in EVERY])
    changes = Table(3, DAY_MS).run(400).changes
    random = np.random.default_rng(3)
    delays = np.where(random.random(len(changes)) < 0.1, random.uniform(0, HOUR_MS, len(changes)), 0)
    arrivals = [each["changed"] + delay for each, delay in zip(changes, delays, strict=True)]
    order = np.argsort(arrivals, kind="stable")
    topic = view.stream_source.kafka_options.topic
    made = [records(view, [changes[at]]) for at in order]
    produce(sql, topic, [each for several in made for each in several])
    got = streamed(sql, view)
    first = np.cumsum([0, *(len(several) for several in made)])  # a delete of Debezium's is two records
    late = {int(dict(each.headers())["headwater.offset"]) for each in sql.received(f"{topic}.late", 1)}
    assert 0 < len(late) < 40
    kept = [changes[at] for number, at in enumerate(order) if first[number] not in late]
    assert len(kept) == len(changes) - len(late)
    assert check(view, got, kept).compared > 1_000
