"""JSON inside Flink: every value is what the archive's decoder makes of it, and no record stops a job or the next."""

import random
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic
from json_values import GOOD, REFUSED, SCHEMA, WHOLE, WHOLE_GOOD, everything, mutilate
from sql_on_kafka import Sql

from compose.local.platform import Platform
from features.compiler.json_records import record_schema
from jobs.tables import Broker, event_source, set_aside
from schemas.codec import ANY_ID, Codec, DecodeError
from schemas.json_codec import JsonCodec
from schemas.topics import Topic

ID = 7
T0_MS = 1_709_208_000_000
CODEC = JsonCodec(SCHEMA, ANY_ID)
JSON = {"value_headwater__avro_encoding": "json"}
DEAD = (
    ", kafka_offset BIGINT METADATA FROM 'offset' VIRTUAL, decode_error STRING METADATA FROM 'value.error' VIRTUAL"
    ", decode_bytes BYTES METADATA FROM 'value.bytes' VIRTUAL"
)


@pytest.fixture(scope="module")
def sql(platform: Platform) -> Sql:
    return Sql(platform)


def through(sql: Sql, values: Sequence[bytes], schema: Mapping[str, Any] = SCHEMA) -> tuple[list[Any], dict[int, Any]]:
    """What Flink makes of JSON records: the good ones, in order, and by offset the bytes and error of the others."""
    source, target = sql.topic(), sql.topic()
    sql.send(source, [(value, T0_MS) for value in values])
    read = sql.table(source, schema, ANY_ID, more=DEAD, **JSON)
    names = ", ".join(f"`{field['name']}`" for field in schema["fields"])
    # Behind it Avro, whose every type is known to survive: what comes out is what the JSON was read as.
    write = sql.table(target, schema, ID)
    sql.tables.execute_sql(f"INSERT INTO {write} SELECT {names} FROM {read} WHERE decode_error IS NULL").wait()
    dead = sql.rows(f"SELECT kafka_offset, decode_bytes, decode_error FROM {read} WHERE decode_error IS NOT NULL")
    good = sql.received(target, len(values) - len(dead))
    decoded = [Codec(schema, ID).decode(each.value()) for each in good]
    return [_plain(each) for each in decoded], {offset: (bytes(value), error) for offset, value, error in dead}


def _plain(value: Any) -> Any:
    """Floats of 32 bits, and times with their zone: what the two codecs say in different words."""
    if isinstance(value, dict):
        return {
            name: struct.unpack("<f", struct.pack("<f", each))[0]
            if name == "single" and each is not None
            else _plain(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def judged(values: Sequence[bytes]) -> tuple[list[Any], set[int]]:
    rows, bad = [], set()
    for at, value in enumerate(values):
        try:
            rows.append(_plain(CODEC.decode(value)))
        except DecodeError:
            bad.add(at)
    return rows, bad


def test_every_value_is_what_it_says(sql: Sql) -> None:
    values = [f'{{"{column}": {text}}}'.encode() for column, text, _ in GOOD]
    rows, dead = through(sql, [*values, *(record for record, _ in WHOLE_GOOD)])
    assert dead == {}
    for row, (column, text, value) in zip(rows, GOOD, strict=False):
        assert row[column] == value, text
        assert [name for name, each in row.items() if each is not None] == ([] if value is None else [column])
    for row, (record, found) in zip(rows[len(GOOD) :], WHOLE_GOOD, strict=True):
        assert {name: each for name, each in row.items() if each is not None} == found, record[:40]


def test_bad_records_name_the_field_what_was_expected_and_what_came(sql: Sql) -> None:
    good = b'{"small": 1}'
    bad = [f'{{"label": "x", "{column}": {text}}}'.encode() for column, text, _, _ in REFUSED if column != "label"]
    refused = [each for each in REFUSED if each[0] != "label"]
    records = [*bad, *(record for record, _, _ in WHOLE)]
    rows, dead = through(sql, [each for record in records for each in (good, record, good)])
    assert len(rows) == 2 * len(records)
    assert {row["small"] for row in rows} == {1}
    assert {offset: value for offset, (value, _) in dead.items()} == {
        3 * at + 1: each for at, each in enumerate(records)
    }
    errors = [dead[offset][1] for offset in sorted(dead)]
    for error, (column, text, expected, got) in zip(errors, refused, strict=False):
        assert error.startswith(f"field {column}: expected {expected}"), (text, error)
        assert f", got {got}" in error, (text, error)
    for error, (record, field, says) in zip(errors[len(refused) :], WHOLE, strict=True):
        assert error.startswith(f"field {field}: " if field else "expected"), (record[:40], error)
        assert says in error, (record[:40], error)


@pytest.mark.parametrize("times", ["text", "millis", "floats"])
def test_whatever_bytes_come_the_verdict_and_the_values_are_the_archives(sql: Sql, times: str) -> None:
    rng = random.Random(times)
    values = [mutilate(rng, everything(rng, times)) for _ in range(4000)]
    rows, bad = judged(values)
    found, dead = through(sql, values)
    assert set(dead) == bad
    assert all(value == values[offset] for offset, (value, _) in dead.items())
    assert found == rows
    assert 400 < len(bad) < 3000


def test_maps_and_fields_that_no_column_takes(sql: Sql) -> None:
    """A record is bad by a field that the query does not read; of a map each key counts once."""
    schema = record_schema("id string, unread struct<a: int>, tags map<string, bigint>")
    topic = sql.topic()
    values = [
        b'{"id": "a", "unread": {"a": 1}, "tags": {"x": 1, "y": null}}',
        b'{"id": "b", "unread": {"a": "1"}}',
        b'{"id": "c", "tags": {"x": 1, "x": 2}}',
        b'{"id": "d", "tags": {"x": 1.5}}',
        b'{"id": "e", "tags": {"\\ud83d": 1}}',
        b'{"id": "f"}',
    ]
    sql.send(topic, [(value, T0_MS) for value in values])
    table = sql.table(topic, schema, ANY_ID, columns="id STRING, tags MAP<STRING, BIGINT>", more=DEAD, **JSON)
    rows = sql.rows(f"SELECT id, tags, decode_error FROM {table}")
    assert [row[:2] for row in rows] == [("a", {"x": 1, "y": None}), *[(None, None)] * 4, ("f", None)]
    assert [row[2] for row in rows[1:5]] == [
        'field unread.a: expected an integer of 32 bits, got the string "1"',
        "field tags.x: expected the field once, got it twice",
        "field tags.x: expected an integer of 64 bits, got the number 1.5",
        "field tags.?: expected text in UTF-8, got half of a character, \\ud83d",
    ]


def test_dead_letters_late_records_and_heartbeats_are_as_those_of_avro(sql: Sql) -> None:
    schema = record_schema("id string, at timestamp")
    topic = sql.topic()
    sql.admin.create_topics([NewTopic(f"{topic}.late", 1, 1)])[f"{topic}.late"].result()
    day = "2024-02-29T12:"
    sent = [
        (f'{{"id": "first", "at": "{day}00:00Z"}}'.encode(), T0_MS),
        (b'{"id": 5}', T0_MS),
        (None, T0_MS + 3_600_000),
        (f'{{"id": "late", "at": "{day}10:00Z"}}'.encode(), T0_MS),
        (b"\xff", T0_MS + 3_600_000),
        (f'{{"id": "last", "at": {T0_MS + 7_200_000}}}'.encode(), T0_MS),
    ]
    sql.send(topic, sent)
    broker = Broker(sql.address, f"json-{topic}", carries=True, bounded=True)
    events = Topic(topic, ANY_ID, key="", encoding="json", definition=schema)
    for ddl in event_source(broker, topic, events, "at", 60_000, shift_ms=0):
        sql.tables.execute_sql(ddl)
    ddl, insert = set_aside(broker, topic, topic)
    sql.tables.execute_sql(ddl)
    rows = sql.rows(f"SELECT id, CAST(rowtime AS STRING) FROM {topic}_events")
    assert rows == [
        ("first", "2024-02-29 12:00:00.000"),
        (None, "2024-02-29 13:00:00.000"),
        ("last", "2024-02-29 14:00:00.000"),
    ]
    sql.tables.execute_sql(insert).wait()
    (late,) = sql.received(f"{topic}.late", 1)
    assert late.value() == sent[3][0]
    dead = sql.received(f"{topic}.dlq", 2)
    assert [each.value() for each in dead] == [sent[1][0], sent[4][0]]
    headers = [{key: value.decode() for key, value in each.headers()} for each in dead]
    assert [(each["headwater.topic"], each["headwater.partition"], each["headwater.offset"]) for each in headers] == [
        (topic, "0", "1"),
        (topic, "0", "4"),
    ]
    assert headers[0]["headwater.error"] == "field id: expected a string, got the number 5"
    assert headers[1]["headwater.error"] == "expected text in UTF-8 at byte 0, got a byte that is not"


def test_a_field_that_may_not_be_null_has_to_be_there(sql: Sql) -> None:
    schema = record_schema("at timestamp, inner struct<x: int>")
    schema["fields"][0]["type"] = schema["fields"][0]["type"][1]
    good = b'{"at": 1709208000}'
    rows, dead = through(sql, [b'{"inner": {"x": 1}}', b'{"at": null}', good], schema)
    assert len(rows) == 1
    assert [error for _, error in dead.values()] == [
        "field at: expected a value, got nothing",
        'field at: expected a time like "2024-02-29T12:00:00Z", in the years 1 to 9999, got null',
    ]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("id INT", r"column `id`: expected STRING"),
        ("at BIGINT", r"column `at`: expected a TIMESTAMP_WITH_LOCAL_TIME_ZONE over JSON, found BIGINT"),
        ("at TIMESTAMP_LTZ(3)", r"column `at`: expected TIMESTAMP_LTZ\(6\)"),
        ("id STRING NOT NULL", r"column `id`: expected a nullable type, as heartbeats"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_when_planned(sql: Sql, columns: str, says: str) -> None:
    table = sql.table("none", record_schema("id string, at timestamp"), ANY_ID, columns=columns, **JSON)
    with pytest.raises(Exception, match=says):
        sql.tables.explain_sql(f"SELECT * FROM {table}")


def test_json_is_not_written(sql: Sql) -> None:
    table = sql.table("none", record_schema("id string"), ANY_ID, **JSON)
    with pytest.raises(Exception, match="expected 'encoding' = 'avro', as no other is written"):
        sql.tables.explain_sql(f"INSERT INTO {table} VALUES ('a')")


def test_a_type_of_avro_that_json_is_not_read_as_is_refused(sql: Sql) -> None:
    colour = {"type": "enum", "name": "Colour", "symbols": ["red"]}
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": colour}]}
    table = sql.table("none", schema, ANY_ID, **JSON)
    with pytest.raises(Exception, match="column `a`: expected a type that JSON is read as"):
        sql.tables.explain_sql(f"SELECT * FROM {table}")
