"""A topic as a versioned table: the right side of an event-time temporal join, straight from the format."""

import bisect
import random
from typing import Any

import pytest
from avro_kinds import ID, T0_MS, TS_MILLIS, at
from sql_on_kafka import Sql

from compose.local.platform import Platform
from schemas.codec import Codec

FEATURE = {
    "type": "record",
    "name": "Feature",
    "fields": [
        {"name": "origin", "type": ["null", "string"]},
        {"name": "flight", "type": ["null", "int"]},
        {"name": "event_time", "type": TS_MILLIS},
        {"name": "watermark", "type": ["null", TS_MILLIS]},
        {"name": "delay", "type": ["null", "double"]},
    ],
}
REQUEST = {
    "type": "record",
    "name": "Request",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "origin", "type": "string"},
        {"name": "flight", "type": "int"},
        {"name": "event_time", "type": TS_MILLIS},
    ],
}
ANSWER = {
    "type": "record",
    "name": "Answer",
    "fields": [{"name": "id", "type": "string"}, {"name": "delay", "type": ["null", "double"]}],
}
TIME = """, kafka_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
    decode_error STRING METADATA FROM 'value.error' VIRTUAL,
    rowtime AS COALESCE(event_time, kafka_time), WATERMARK FOR rowtime AS """
JOIN = """SELECT r.id, f.delay FROM {requests} AS r LEFT JOIN {features} FOR SYSTEM_TIME AS OF r.rowtime AS f
    ON r.origin = f.origin AND r.flight = f.flight"""
Versions = dict[tuple[str, int], list[tuple[int, float | None]]]


@pytest.fixture(scope="module")
def sql(platform: Platform) -> Sql:
    return Sql(platform)


def features(rng: random.Random, count: int) -> tuple[list[tuple[bytes | None, int]], Versions]:
    """Versions of 50 keys a second apart, with progress rows, heartbeats and junk between; and what they say."""
    records: list[tuple[bytes | None, int]] = []
    versions: Versions = {}
    for number in range(count):
        time_ms = T0_MS + number * 1000
        row: dict[str, Any] = {"event_time": at(time_ms), "watermark": at(time_ms - 1)}
        if number % 10 == 3:
            row |= {"origin": None, "flight": None, "delay": None}
        elif number % 10 in (4, 5):
            records.append((None if number % 10 == 4 else b"\0junk", time_ms))
            continue
        else:
            key = f"o{rng.randrange(10)}", rng.randrange(5)
            delay = rng.choice([None, float(number)])
            versions.setdefault(key, []).append((time_ms, delay))
            row |= {"origin": key[0], "flight": key[1], "delay": delay}
        records.append((Codec(FEATURE, ID).encode(row), time_ms))
    return records, versions


def newest(versions: list[tuple[int, float | None]], time_ms: int) -> float | None:
    index = bisect.bisect_right([time for time, _ in versions], time_ms)
    return versions[index - 1][1] if index else None


def source(sql: Sql, topic: str, schema: dict[str, Any], watermark: str, key: str = "", **options: str) -> str:
    return sql.table(topic, schema, ID, more=TIME + watermark + key, **options)


def test_a_temporal_join_gets_the_newest_version_of_its_time(sql: Sql) -> None:
    rng = random.Random(5)
    feature_topic, request_topic, answer_topic = sql.topic(), sql.topic(), sql.topic()
    records, versions = features(rng, 3000)
    sql.send(feature_topic, records)
    requests: list[tuple[bytes | None, int]] = []
    expected: dict[str, float | None] = {}
    for number in range(3000):
        # At the very time of a version, between two, of keys that have none, and of the key that a row without has.
        time_ms = T0_MS + number * 1000 + rng.choice([0, 500])
        key = ("", 0) if number % 50 == 7 else (f"o{rng.randrange(11)}", rng.randrange(5))
        expected[f"r{number}"] = newest(versions.get(key, []), time_ms)
        row = {"id": f"r{number}", "origin": key[0], "flight": key[1], "event_time": at(time_ms)}
        requests.append((Codec(REQUEST, ID).encode(row), time_ms))
    sql.send(request_topic, requests)

    versioned = source(
        sql,
        feature_topic,
        FEATURE,
        "`watermark`",
        ", PRIMARY KEY (origin, flight) NOT ENFORCED",
        value_headwater__avro_changelog="versioned",
    )
    asked = source(sql, request_topic, REQUEST, "rowtime - INTERVAL '1' SECOND")
    query = JOIN.format(requests=asked, features=versioned)
    plan = sql.tables.explain_sql(query)
    assert "TemporalJoin" in plan
    assert "ChangelogNormalize" not in plan
    assert "Deduplicate" not in plan
    assert "watermark=[watermark]" in plan  # made by the source, partition by partition
    sql.tables.execute_sql(f"INSERT INTO {sql.table(answer_topic, ANSWER, ID)} {query}").wait()
    answers = [Codec(ANSWER, ID).decode(each.value()) for each in sql.received(answer_topic, len(expected))]
    assert len(answers) == len(expected)
    assert {each["id"]: each["delay"] for each in answers} == expected
    assert sum(each is not None for each in expected.values()) > 1000


def test_only_the_columns_of_a_key_are_filled_in_where_there_is_none(sql: Sql) -> None:
    topic = sql.topic()
    sql.send(topic, features(random.Random(1), 7)[0])
    table = source(
        sql,
        topic,
        FEATURE,
        "`watermark`",
        ", PRIMARY KEY (origin, flight) NOT ENFORCED",
        value_headwater__avro_changelog="versioned",
    )
    rows = sql.rows(f"SELECT origin, flight, delay, decode_error IS NULL FROM {table}")
    assert rows[3:6] == [("", 0, None, True), ("", 0, None, True), ("", 0, None, False)]
