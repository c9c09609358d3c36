"""Sources whose records are changes of rows: what they are taken for, and what is refused before anything runs."""

import json
from datetime import timedelta
from typing import Any

import pytest
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat, JsonFormat
from feast.types import Float64, String

from compose.plan import Recorded, facts_of, plan
from features.compiler.changes import changed_at
from features.compiler.definition import definition
from features.compiler.flink import compile_view
from features.compiler.sources import archived_topic, avro_schema, row_schema
from features.compiler.topics import UnsupportedViewError
from jobs.changes import change_source, set_changes_aside
from jobs.tables import Broker
from schemas.json_batch import JsonBatchDecoder
from schemas.tables import columns, create_table
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
ROW_IN_JSON = "who string, at timestamp, amount double"
ENVELOPE_IN_JSON = (
    f"before struct<{ROW_IN_JSON}>, after struct<{ROW_IN_JSON}>, source struct<ts_ms bigint>, op string, ts_ms bigint"
)
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
    tag: str = "debezium",
    schema: dict[str, Any] | str | None = None,
    function: str = "sum",
    **options: Any,
) -> StreamFeatureView:
    """With a schema of text in JSON, else in Avro."""
    written = schema or (plain_row() if tag == "upsert" else envelope())
    made = [Aggregation(column="amount", function=function, time_window=timedelta(hours=1), name="f")]
    return StreamFeatureView(
        name="view",
        entities=[Entity(name="who", join_keys=["who"], value_type=ValueType.STRING)],
        source=KafkaSource(
            name="source",
            timestamp_field="at",
            topic="rows",
            kafka_bootstrap_servers="",
            message_format=JsonFormat(written) if isinstance(written, str) else AvroFormat(json.dumps(written)),
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
            lambda: view(schema=f"schema string, payload struct<{ENVELOPE_IN_JSON}>"),
            "with a record or null as 'after', got the fields schema, payload.*schemas.enable=false",
        ),
        (
            lambda: view(mode="pandas", udf=lambda frame: frame, udf_string="same"),
            "view 'view': expected a transformation in SQL .* over source 'source', whose records are changes of rows, "
            "got one in pandas",
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


def test_a_topic_that_is_taken_otherwise_begins() -> None:
    before = Recorded("then", "1", facts_of([view("upsert")]), {}, {})
    (found,) = plan("features", before, facts_of([view()]), topics=["rows", "features.view"]).views
    assert "~ changelog: upsert -> debezium" in found.changes
    assert (found.state, found.why) == ("begins", "it takes the records of its topic otherwise")


def test_rows_of_another_schema_begin_as_those_that_are_kept_would_be_misread() -> None:
    more = json.loads(json.dumps(ROW).replace('"fields": [', '"fields": [{"name": "more", "type": "string"}, ', 1))
    before = Recorded("then", "1", facts_of([view()]), {}, {})
    (found,) = plan("features", before, facts_of([view(schema=envelope(before=["null", more]))])).views
    assert (found.state, found.why) == (
        "begins",
        "the rows that may be taken back are kept whole, and would be misread",
    )


def test_state_of_rows_is_found_by_source_and_generation() -> None:
    source = view().stream_source
    first, second = (change_source(Broker("k:1", "job", generation=each), source) for each in (0, 2))
    assert "uid => 'hw_changes_source'" in first[2]
    assert "uid => 'hw_changes_source__g2'" in second[2]
    assert "VIEW source__g2_events AS" in second[2]
    assert [each.replace("__g2", "") for each in second] == first
    assert "FROM source__g2_events" in compile_view(view(), 2).views[0][1]
    late_alone = set_changes_aside(Broker("k:1", "job", generation=2), source, dead=False)[1]
    assert "FROM source__g2_records" in late_alone
    assert "(`decode_error` IS NULL AND `rowtime` <=" in late_alone


def test_time_goes_on_by_the_wall_clock_of_upserts_alone() -> None:
    times = {tag: archived_topic(view(tag).stream_source).time for tag in ("debezium", "upsert")}
    assert times["debezium"] == ""
    assert times["upsert"] != ""


def test_changes_in_json_are_those_in_avro() -> None:
    avro, made = compile_view(view()), compile_view(view(schema=ENVELOPE_IN_JSON))
    assert (made.views, made.select) == (avro.views, avro.select)
    source = view(schema=ENVELOPE_IN_JSON).stream_source
    topic = archived_topic(source)
    assert (topic.encoding, topic.changelog, topic.time) == ("json", "debezium", "")
    records, changes, _ = change_source(BROKER, source)
    assert "'value.headwater-avro.encoding' = 'json'" in records
    assert "`after`.`amount` AS `amount`" in changes

    # Debezium's micro seconds; a row without its time, which is in no window, but no dead letter.
    after = {"who": "a", "at": 1_700_000_000_123_456, "amount": 1.5}
    told = [
        {"before": None, "after": after, "op": "u", "source": {"ts_ms": 7}, "ts_ms": 8},
        {"after": after | {"at": None}, "op": "c", "source": {"ts_ms": 9}},
    ]
    table, bad = JsonBatchDecoder(topic.schema, topic.schema_id).decode([json.dumps(each).encode() for each in told])
    assert not bad
    one, other = table.column("after").to_pylist()
    assert one["at"].isoformat() == "2023-11-14T22:13:20.123456+00:00"
    assert other == {"who": "a", "at": None, "amount": 1.5}
    assert columns(topic.schema, topic.changelog)["after"] == (
        "Tuple(`who` Nullable(String), `at` Nullable(DateTime64(6, 'UTC')), `amount` Nullable(Float64))"
    )


def test_upserts_in_json_need_no_time_either() -> None:
    source = view("upsert", ROW_IN_JSON).stream_source
    assert "null" in avro_schema(source)["fields"][1]["type"]
    assert compile_view(view("upsert", ROW_IN_JSON)).select == compile_view(view("upsert")).select
