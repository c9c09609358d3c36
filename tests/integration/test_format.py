"""Headwater's Avro format inside Flink: exact both ways, and no record stops a job or spoils the next."""

import json
import random
import re
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from avro_kinds import CODEC, COLUMNS, ID, KINDS, SAMPLE, SCHEMA, T0_MS, TS_MILLIS, at, everything, mutilate
from sql_on_kafka import Sql

from compose.local.platform import Platform
from schemas.codec import Codec, DecodeError

SIMPLE: dict[str, Any] = {
    "type": "record",
    "name": "Simple",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "event_time", "type": TS_MILLIS},
        {"name": "open", "type": "boolean"},
        {"name": "size", "type": {"type": "enum", "name": "Size", "symbols": ["S", "L"]}},
        {"name": "value", "type": ["null", "double"]},
        {"name": "counts", "type": {"type": "array", "items": "int"}},
        {"name": "unread", "type": {"type": "map", "values": ["null", "string", "long"]}},
    ],
}
SIMPLE_CODEC = Codec(SIMPLE, ID)
READ: dict[str, Any] = {**SIMPLE, "fields": SIMPLE["fields"][:-1]}
# A table need not declare every field: `unread` is stepped over.
SIMPLE_COLUMNS = (
    "id STRING, event_time TIMESTAMP_LTZ(3), `open` BOOLEAN, size STRING, `value` DOUBLE, counts ARRAY<INT>"
)
METADATA = """,
    kafka_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
    kafka_topic STRING METADATA FROM 'topic' VIRTUAL,
    kafka_partition INT METADATA FROM 'partition' VIRTUAL,
    kafka_offset BIGINT METADATA FROM 'offset' VIRTUAL,
    decode_error STRING METADATA FROM 'value.error' VIRTUAL,
    decode_bytes BYTES METADATA FROM 'value.bytes' VIRTUAL,
    rowtime AS COALESCE(event_time, kafka_time),
    WATERMARK FOR rowtime AS rowtime - INTERVAL '0.001' SECOND"""
ERROR = (
    ", decode_error STRING METADATA FROM 'value.error' VIRTUAL, decode_bytes BYTES METADATA FROM 'value.bytes' VIRTUAL"
)
HEADERS = """MAP['headwater.topic', ENCODE(kafka_topic, 'UTF-8'),
    'headwater.partition', ENCODE(CAST(kafka_partition AS STRING), 'UTF-8'),
    'headwater.offset', ENCODE(CAST(kafka_offset AS STRING), 'UTF-8'),
    'headwater.error', ENCODE(decode_error, 'UTF-8')]"""


@pytest.fixture(scope="module")
def sql(platform: Platform) -> Sql:
    return Sql(platform)


def simple(number: int) -> dict[str, Any]:
    return {
        "id": f"flight-{number}",
        "event_time": at(T0_MS + number * 1000),
        "open": number % 2 == 0,
        "size": "SL"[number % 2],
        "value": None if number % 3 == 0 else number / 8,
        "counts": list(range(number % 4)),
        "unread": {"a": None, "b": "text", "c": number},
    }


def varint(number: int) -> bytes:
    bits = (number << 1) ^ (number >> 63)
    out = bytearray()
    while bits & ~0x7F:
        out.append(bits & 0x7F | 0x80)
        bits >>= 7
    return bytes([*out, bits])


def corruptions() -> dict[str, tuple[bytes, str]]:
    """Bad records of every kind, and what must be said of each."""
    good = SIMPLE_CODEC.encode(simple(1))
    head, id_, time_ = good[:5], varint(8) + b"flight-1", varint(T0_MS)
    rest = b"\0\0\0\0\0"  # closed, S, null, no counts, nothing unread
    return {
        "empty": (b"", "an empty record"),
        "short header": (b"\0\0", "got 00 00"),
        "magic": (b"\1" + good[1:], "a zero byte and a schema id of four at byte 0, got 01"),
        "json": (b'{"id": "flight-1"}', "a zero byte"),
        "other id": (b"\0" + struct.pack(">I", 8) + good[5:], "expected schema id 7 at byte 1, got 8"),
        "no body": (head, "field id"),
        "truncated": (good[:-1], "field unread"),
        "cut in a string": (
            good[:9],
            "field id: expected the length of a string, 0 to the 3 bytes left, at byte 5, got 8",
        ),
        "trailing": (good + b"\0", "expected the end of the record"),
        "utf-8": (head + varint(2) + b"\xc3\x28" + time_ + rest, "field id: expected a string in UTF-8 at byte 6"),
        "negative length": (head + varint(-5) + good[6:], "field id: expected the length of a string"),
        "absurd length": (head + varint(2**60) + good[6:], "got 1152921504606846976"),
        "endless varint": (head + b"\xff" * 30, "field id"),
        "boolean": (head + id_ + time_ + b"\2\0\0\0\0", "field open: expected a boolean, 0 or 1, at byte"),
        "enum": (
            head + id_ + time_ + b"\0" + varint(2) + b"\0\0\0",
            "field size: expected the index of an enum's symbol",
        ),
        "union": (head + id_ + time_ + b"\0\0" + varint(-1) + b"\0\0", "field value: expected the index of a union's"),
        "cut double": (head + id_ + time_ + b"\0\0\2\1\2\3", "field value: expected the 8 bytes of a double"),
        "items": (head + id_ + time_ + b"\0\0\0" + varint(2**40) + b"\0", "field counts: expected a block of items"),
        "least count": (head + id_ + time_ + b"\0\0\0" + varint(-(2**63)) + b"\0\0", "field counts"),
        "int": (
            head + id_ + time_ + b"\0\0\0" + varint(1) + varint(2**40) + b"\0\0",
            "field counts[0]: expected an int",
        ),
        "wild time": (
            head + id_ + varint(2**61) + rest,
            "field event_time: expected a timestamp in the years 1 to 9999",
        ),
        "unread union": (head + id_ + time_ + b"\0\0\0\0" + varint(1) + b"\2k" + varint(3), "field unread"),
        "unread utf-8": (
            head + id_ + time_ + b"\0\0\0\0" + varint(1) + b"\2\xff\0\0",
            "field unread: expected a string",
        ),
    }


def test_corrupt_records_become_dead_letters_and_good_ones_pass(sql: Sql) -> None:
    source, target = sql.topic(partitions=2), sql.topic()
    sent: dict[int, list[tuple[bytes | None, int]]] = {0: [], 1: []}
    expected: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    letters: dict[tuple[int, int], tuple[bytes, str]] = {}
    for number, (bad, reason) in enumerate(corruptions().values()):
        partition = number % 2
        good = [simple(3 * number), simple(3 * number + 1)]
        values = [SIMPLE_CODEC.encode(good[0]), bad, SIMPLE_CODEC.encode(good[1]), None]
        letters[partition, len(sent[partition]) + 1] = (bad, reason)
        sent[partition] += [(value, T0_MS + number * 1000) for value in values]
        expected[partition] += good
    for partition, records in sent.items():
        sql.send(source, records, partition)

    records_table = sql.table(source, SIMPLE, ID, columns=SIMPLE_COLUMNS, more=METADATA, bounded=False)
    read = {**SIMPLE, "fields": [*READ["fields"], {"name": "partition", "type": "int"}]}
    output = sql.table(target, read, ID, **sql.exactly_once(target))
    statements = sql.tables.create_statement_set()
    statements.add_insert_sql(
        f"INSERT INTO {output} SELECT id, event_time, `open`, size, `value`, counts, kafka_partition "
        f"FROM {records_table} WHERE decode_error IS NULL AND id IS NOT NULL"
    )
    statements.add_insert_sql(
        f"INSERT INTO {sql.dead_letters(source)} SELECT decode_bytes, {HEADERS} "
        f"FROM {records_table} WHERE decode_error IS NOT NULL"
    )
    job = statements.execute().get_job_client()
    assert job is not None
    try:
        passed = [Codec(read, ID).decode(each.value()) for each in sql.received(target, 2 * len(letters))]
        for partition, good in expected.items():
            mine = [each for each in passed if each["partition"] == partition]
            assert mine == [
                {**{k: v for k, v in each.items() if k != "unread"}, "partition": partition} for each in good
            ]
        dead = {}
        for each in sql.received(f"{source}.dlq", len(letters)):
            headers = {key: value.decode() for key, value in each.headers()}
            assert headers["headwater.topic"] == source
            place = int(headers["headwater.partition"]), int(headers["headwater.offset"])
            dead[place] = (each.value(), headers["headwater.error"])
        assert {place: value for place, (value, _) in dead.items()} == {p: bad for p, (bad, _) in letters.items()}
        for place, (_, reason) in letters.items():
            assert reason in dead[place][1]
        # After all of that the job still runs.
        sql.send(source, [(SIMPLE_CODEC.encode(simple(999)), T0_MS)])
        assert Codec(read, ID).decode(sql.received(target, 2 * len(letters) + 1)[-1].value())["id"] == "flight-999"
    finally:
        job.cancel().result()


def test_mutilated_records_are_never_read_as_something_else(sql: Sql) -> None:
    """Whatever bytes come, a row that passes is what fastavro reads, and what fastavro cannot read is a dead letter."""
    rng = random.Random(11)
    topic = sql.topic()
    records = [mutilate(rng, CODEC.encode(everything(rng))) for _ in range(3000)]
    sql.send(topic, [(each, T0_MS) for each in records])
    table = sql.table(
        topic, SCHEMA, ID, columns=COLUMNS, more=ERROR + ", kafka_offset BIGINT METADATA FROM 'offset' VIRTUAL"
    )
    rows = sql.rows(f"SELECT kafka_offset, decode_error, decode_bytes, a_long, a_string, c_enum FROM {table}")
    assert [each[0] for each in rows] == list(range(len(records)))
    good = 0
    for record, (_, error, original, *values) in zip(records, rows, strict=True):
        if error is None:
            good += 1
            decoded = CODEC.decode(record)
            assert values == [decoded["a_long"], decoded["a_string"], decoded["c_enum"]]
        else:
            assert bytes(original) == record
            assert values == [None] * 3
            stricter = (
                r"UTF-8|boolean, 0 or 1|the length of|timestamp in the years|date, in days|decimal of at most|index|"
                r"64 bits|block"
            )
            if not re.search(stricter, error):
                with pytest.raises((DecodeError, OverflowError)):
                    CODEC.decode(record)
    assert 100 < good < 2900


def test_every_type_survives_both_ways(sql: Sql) -> None:
    rng = random.Random(3)
    source, target = sql.topic(), sql.topic()
    records = [everything(rng) for _ in range(2000)]
    sql.send(source, [(CODEC.encode(each), T0_MS) for each in records])
    read, write = sql.table(source, SCHEMA, ID, columns=COLUMNS), sql.table(target, SCHEMA, ID, columns=COLUMNS)
    sql.tables.execute_sql(f"INSERT INTO {write} SELECT * FROM {read}").wait()
    found = [CODEC.decode(each.value()) for each in sql.received(target, len(records))]
    assert found == [CODEC.decode(CODEC.encode(each)) for each in records]


def test_sql_sees_the_values_that_were_sent(sql: Sql) -> None:
    """Two errors that undo each other survive a round trip; SQL's own text of a value does not lie."""
    topic = sql.topic()
    record = {
        **{f"{side}_{kind}": None for kind in KINDS for side in "bc"},
        **{f"a_{kind}": value for kind, value in SAMPLE.items()},
        "b_decimal": Decimal("-0.001"),
        "c_micros": datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
    }
    sql.send(topic, [(CODEC.encode(record), T0_MS)])
    casts = [f"CAST(a_{kind} AS STRING)" for kind in KINDS if kind not in ("bytes", "fixed")]
    more = ["a_bytes", "a_fixed", "CAST(b_decimal AS STRING)", "CAST(c_micros AS STRING)", "b_map", "c_array"]
    (row,) = sql.rows(f"SELECT {', '.join(casts + more)} FROM {sql.table(topic, SCHEMA, ID, columns=COLUMNS)}")
    assert row == (
        *("TRUE", "-2147483648", "9223372036854775807", "0.25", "-1.5E10", "naïve ✈", "green"),
        *("2013-03-10 02:30:00.123", "1913-01-01 00:00:00.000001", "2013-02-28", "12345678901234567.890", "-0.05"),
        *("[1, NULL, -3]", "{k=0.5}", "(2.5, NULL)", "[{}, {a=x, b=NULL}]"),
        *(b"\0\xff", b"\1\2\3\4", "-0.001", "1969-12-31 23:59:59.999999", None, None),
    )


def test_a_heartbeat_is_a_row_of_nulls_that_moves_the_watermark(sql: Sql) -> None:
    topic = sql.topic()
    records = [(SIMPLE_CODEC.encode(simple(number)), T0_MS + number * 1000) for number in range(3)]
    sql.send(topic, [*records, (None, T0_MS + 3_600_000), (b"junk", T0_MS + 3_600_001)])
    source = sql.table(topic, SIMPLE, ID, columns=SIMPLE_COLUMNS, more=METADATA, bounded=False)
    target = sql.topic()
    counts = {"type": "record", "name": "Counts", "fields": [{"name": "n", "type": "long"}]}
    output = sql.table(target, counts, ID)
    job = sql.tables.execute_sql(
        f"INSERT INTO {output} SELECT COUNT(id) FROM TUMBLE(TABLE {source}, DESCRIPTOR(rowtime), INTERVAL '1' MINUTE) "
        "GROUP BY window_start, window_end"
    ).get_job_client()
    assert job is not None
    try:
        (closed,) = sql.received(target, 1)
        assert Codec(counts, ID).decode(closed.value()) == {"n": 3}
    finally:
        job.cancel().result()
    bounded = sql.table(topic, SIMPLE, ID, columns=SIMPLE_COLUMNS, more=METADATA)
    rows = sql.rows(
        f"SELECT id, counts, decode_error, decode_bytes, UNIX_TIMESTAMP(CAST(rowtime AS STRING)) FROM {bounded}"
    )
    assert rows[3] == (None, None, None, None, (T0_MS + 3_600_000) // 1000)
    assert rows[4][0] is None
    assert bytes(rows[4][3]) == b"junk"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("id INT", r"column `id`: expected STRING, as the field is string in Avro, found INT. The schema is Simple"),
        ("event_time TIMESTAMP_LTZ(6)", r"column `event_time`: expected TIMESTAMP_LTZ\(3\), TIMESTAMP\(3\) or BIGINT"),
        (
            "ident STRING",
            r"column `ident`: expected a column that is a field of Avro record Simple \(id, .*found no such",
        ),
        ("counts ARRAY<BIGINT>", r"column `counts\[\]`: expected INT, as the field is int in Avro, found BIGINT"),
        ("unread MAP<STRING, STRING>", r"column `unread\[\]`: expected a union of null and one type in Avro"),
        ("id STRING NOT NULL", r"column `id`: expected a nullable type, as heartbeats"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_when_planned(sql: Sql, columns: str, says: str) -> None:
    table = sql.table("none", SIMPLE, ID, columns=columns)
    with pytest.raises(Exception, match=says):
        sql.tables.explain_sql(f"SELECT * FROM {table}")


def test_a_sink_must_have_what_the_schema_requires(sql: Sql) -> None:
    table = sql.table("none", SIMPLE, ID, columns="id STRING, `value` DOUBLE")
    with pytest.raises(Exception, match="column `event_time`: expected a column, as the field is not nullable in Avro"):
        sql.tables.explain_sql(f"INSERT INTO {table} VALUES ('a', 1.0)")


def test_null_in_a_field_that_is_not_nullable_fails_with_its_name(sql: Sql) -> None:
    topic = sql.topic()
    table = sql.table(topic, READ, ID)
    with pytest.raises(Exception, match=r"is no Simple: field open: expected a value.*got NULL"):
        sql.tables.execute_sql(
            f"INSERT INTO {table} VALUES ('a', TO_TIMESTAMP_LTZ(0, 3), CAST(NULL AS BOOLEAN), 'S', 1.0, ARRAY[1])"
        ).wait()


def test_a_row_without_a_key_has_a_null_key(sql: Sql) -> None:
    topic = sql.topic()
    schema = {
        "type": "record",
        "name": "Feature",
        "fields": [
            {"name": "origin", "type": ["null", "string"]},
            {"name": "dest", "type": ["null", "string"]},
            {"name": "event_time", "type": TS_MILLIS},
        ],
    }
    key = {
        "type": "record",
        "name": "Entity",
        "fields": [{"name": "dest", "type": "string"}, {"name": "origin", "type": "string"}],
    }
    table = sql.table(
        topic,
        schema,
        ID,
        more=", kafka_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'",
        **{"key_format": "headwater-avro", "key_fields": "dest;origin", "value_fields__include": "ALL"},
        **{"key_headwater__avro_schema": json.dumps(key), "key_headwater__avro_schema__id": "8"},
        **sql.exactly_once(topic),
    )
    moment = f"TO_TIMESTAMP_LTZ({T0_MS}, 3)"
    none = "CAST(NULL AS STRING)"
    sql.tables.execute_sql(
        f"INSERT INTO {table} VALUES ('JFK', 'ATL', {moment}, {moment}), ({none}, {none}, {moment}, {moment})"
    ).wait()
    keyed, progress = sql.received(topic, 2)
    assert Codec(key, 8).decode(keyed.key()) == {"dest": "ATL", "origin": "JFK"}
    assert keyed.timestamp()[1] == T0_MS
    assert progress.key() is None
    assert Codec(schema, ID).decode(progress.value()) == {"origin": None, "dest": None, "event_time": at(T0_MS)}
