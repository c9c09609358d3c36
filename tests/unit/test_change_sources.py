"""Sources whose records are changes of rows: what they are taken for, and what is refused before anything runs."""

import json
from datetime import timedelta
from typing import Any

import pytest
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat
from feast.types import Float64, String

from compose.plan import Recorded, facts_of, plan
from features.compiler.changes import changed_at
from features.compiler.definition import definition
from features.compiler.flink import compile_view
from features.compiler.sources import avro_schema, row_schema
from features.compiler.topics import UnsupportedViewError
from jobs.changes import change_source, set_changes_aside
from jobs.tables import Broker
from schemas.tables import create_table
from schemas.topics import Topic, topics_from_json, topics_to_json

pytestmark = pytest.mark.filterwarnings("ignore")
BROKER = Broker("kafka:9092", "features")
MICROS = {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"}
ROW: dict[str, Any] = {
    "type": "record",
    "name": "Value",
    "fields": [
        {"name": "who", "type": "string"},
        {"name": "at", "type": ["null", MICROS]},
        {"name": "amount", "type": ["null", "double"]},
    ],
}
SOURCE = {"type": "record", "name": "Source", "fields": [{"name": "ts_ms", "type": "long"}]}


def envelope(**fields: Any) -> dict[str, Any]:
    """Debezium's, with other types of some fields; None leaves one out."""
    kinds = {"before": ["null", ROW], "after": ["null", "Value"], "source": SOURCE, "op": "string"}
    kinds |= {"ts_ms": ["null", "long"], **fields}
    listed = [{"name": name, "type": kind} for name, kind in kinds.items() if kind is not None]
    return {"type": "record", "name": "Envelope", "fields": listed}


def plain_row() -> dict[str, Any]:
    return json.loads(
        json.dumps(ROW).replace(json.dumps(MICROS), '{"type": "long", "logicalType": "timestamp-millis"}')
    )


def view(
    tag: str = "debezium", schema: dict[str, Any] | None = None, function: str = "sum", **options: Any
) -> StreamFeatureView:
    made = [Aggregation(column="amount", function=function, time_window=timedelta(hours=1), name="f")]
    return StreamFeatureView(
        name="view",
        entities=[Entity(name="who", join_keys=["who"], value_type=ValueType.STRING)],
        source=KafkaSource(
            name="source",
            timestamp_field="at",
            topic="rows",
            kafka_bootstrap_servers="",
            message_format=AvroFormat(json.dumps(schema or (plain_row() if tag == "upsert" else envelope()))),
            batch_source=FileSource(name="file", path="none.parquet", timestamp_field="at"),
            tags={"changelog": tag},
        ),
        timestamp_field="at",
        schema=[Field(name="who", dtype=String), Field(name="f", dtype=Float64)],
        **{"aggregations": made, **options},
    )


@pytest.mark.parametrize("tag", ["debezium", "upsert"])
def test_the_same_view_reads_either_kind(tag: str) -> None:
    made = compile_view(view(tag))
    assert definition(view(tag)).of_changes
    assert made.views[0][1] == (
        "SELECT `who`, `amount`, `hw_time`, `hw_sign`, `hw_since`, `hw_partition`, `hw_offset`, rowtime\n"
        "FROM source_events"
    )
    assert "FROM HEADWATER_CHANGED_TILES(" in made.select


def test_debeziums_times_are_times() -> None:
    source = view().stream_source
    assert row_schema(source)["fields"][1]["type"][1]["logicalType"] == "timestamp-micros"
    assert changed_at(avro_schema(source)) == ["source.ts_ms", "ts_ms"]
    assert changed_at(envelope(source=None)) == ["ts_ms"]


def test_what_says_nothing_of_a_row_moves_no_time_on() -> None:
    """Debezium's tombstones and dead letters have Kafka's time, which may be hours after the database's."""
    records, changes, events = change_source(BROKER, view().stream_source)
    assert (
        "COALESCE(TO_TIMESTAMP_LTZ(COALESCE(`source`.`ts_ms`, `ts_ms`), 3), CASE WHEN `record_bytes` IS NULL" in records
    )
    assert "ELSE TO_TIMESTAMP_LTZ(0, 3) END" in records
    assert "`after`.`amount` AS `amount`" in changes
    assert "PARTITION BY `hw_key`" in events
    assert "'key.format' = 'raw'" in records
    # A null of an upsert topic is a change, and may be late.
    assert "WHERE NOT (`record_bytes` IS NULL" in set_changes_aside(BROKER, view("upsert").stream_source)[1]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda: view("maxwell"),
            "source 'source': expected its tag 'changelog' to be one of debezium, upsert, got 'maxw",
        ),
        (
            lambda: view(schema=plain_row()),
            "source 'source': expected records of Debezium's envelope, with a record or null",
        ),
        (lambda: view(schema=envelope(op="int")), "a string as 'op'"),
        (lambda: view(schema=envelope(ts_ms=None, source=None)), "a long as 'ts_ms'"),
        (lambda: view("upsert", envelope()), "expected timestamp_field 'at' to be an Avro timestamp"),
        (
            lambda: view(function="approx_count_distinct"),
            "view 'view'.*expected count_distinct over the changes of source",
        ),
        (
            lambda: view(aggregations=[]),
            "view 'view': expected aggregations over source 'source', whose records are chan",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(made: Any, said: str) -> None:
    with pytest.raises(UnsupportedViewError, match=said):
        compile_view(made())


def test_a_topic_of_changes_is_archived_with_keys_and_deletes() -> None:
    topic = Topic("rows", 0, key="", definition=plain_row(), changelog="upsert")
    assert topics_from_json(topics_to_json([topic])) == [topic]
    made = create_table(topic)
    assert "`who` Nullable(String), `at` Nullable(DateTime64(3, 'UTC'))" in made
    assert "`_key` Nullable(String), `_timestamp` DateTime64(3, 'UTC'), `_deleted` Bool" in made
    assert "ORDER BY (`_timestamp`, `_partition`, `_offset`)" in made


def test_a_topic_that_is_taken_otherwise_starts_afresh() -> None:
    before, after = facts_of([view("upsert")]), facts_of([view()])
    found = plan("features", Recorded("then", "1", before), after, topics=["rows", "features.view"])
    assert "~ changelog: upsert -> debezium" in found.views[0].changes
    assert found.views[0].state == "unreadable"
    assert found.fresh
