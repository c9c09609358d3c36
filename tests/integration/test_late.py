"""A record behind the watermark is counted nowhere and lost nowhere: it lies in `<topic>.late`, whole."""

from datetime import UTC, datetime

import pytest
from confluent_kafka.admin import NewTopic
from sql_on_kafka import Sql

from compose.local.platform import Platform
from jobs.tables import Broker, event_source, set_aside
from schemas.codec import Codec
from schemas.topics import Topic

SCHEMA = {
    "type": "record",
    "name": "Late",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
CODEC = Codec(SCHEMA, 77)
START_MS = 1_356_998_400_000
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def sql(platform: Platform) -> Sql:
    return Sql(platform)


def encoded(name: str, minute: int) -> tuple[bytes, int]:
    at_ms = START_MS + minute * MINUTE_MS
    return CODEC.encode({"id": name, "event_time": datetime.fromtimestamp(at_ms / 1000, UTC)}), at_ms


def test_late_records_lie_aside_with_their_bytes_and_the_reason(sql: Sql) -> None:
    topic = sql.topic()
    sql.admin.create_topics([NewTopic(f"{topic}.late", 1, 1)])[f"{topic}.late"].result()
    sent = [
        encoded("first", 0),
        encoded("second", 30),
        encoded("within the bound", 21),
        encoded("beyond the bound", 19),
        (None, START_MS + 40 * MINUTE_MS),  # a heartbeat moves the watermark as a record does
        encoded("behind a heartbeat", 29),
        (b"\0junk", START_MS + 41 * MINUTE_MS),
        encoded("last", 41),
        (None, START_MS + 5 * MINUTE_MS),  # a heartbeat that is repeated promises nothing new, and is no loss
    ]
    sql.send(topic, sent)
    events = Topic(topic, 77, key="id", definition=SCHEMA)
    broker = Broker(sql.address, f"late-{topic}", carries=True, bounded=True)
    for ddl in event_source(broker, topic, events, "event_time", 10 * MINUTE_MS, shift_ms=0):
        sql.tables.execute_sql(ddl)
    ddl, insert = set_aside(broker, topic, topic)
    sql.tables.execute_sql(ddl)
    sql.tables.execute_sql(insert).wait()

    late = sql.received(f"{topic}.late", 2)
    assert [each.value() for each in late] == [sent[3][0], sent[5][0]]
    headers = [{key: value.decode() for key, value in each.headers()} for each in late]
    assert [each["headwater.offset"] for each in headers] == ["3", "5"]
    assert {each["headwater.topic"] for each in headers} == {topic}
    assert headers[0]["headwater.error"].startswith("late: event time 2013-01-01 00:19:00")
    assert "watermark 2013-01-01 00:19:59.999" in headers[0]["headwater.error"]
    (dead,) = sql.received(f"{topic}.dlq", 1)
    assert dead.value() == b"\0junk"

    ids = [row[0] for row in sql.rows(f"SELECT id FROM {topic}_events") if row[0] is not None]
    assert ids == ["first", "second", "within the bound", "last"]
