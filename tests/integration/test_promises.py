"""Quiet topics get their newest promise once more, and nothing else; busy ones are left alone."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from own_services import own_kafka

from jobs.promises import QUIET_SECONDS, QUIET_SECONDS_MAX, Promises
from jobs.reading import TopicReader
from schemas.codec import Codec
from schemas.topics import Topic

TIME = {"type": "long", "logicalType": "timestamp-millis"}
SCHEMA = {
    "type": "record",
    "name": "answers",
    "fields": [
        {"name": "request_id", "type": ["null", "string"], "default": None},
        {"name": "event_time", "type": TIME},
        {"name": "watermark", "type": ["null", TIME], "default": None},
        {"name": "model", "type": "string"},
        {"name": "probability", "type": ["null", "double"], "default": None},
    ],
}
ANSWERS = Topic("answers", 99, key="request_id", definition=SCHEMA)
CODEC = Codec(SCHEMA, 99)


def at(second: int) -> datetime:
    return datetime.fromtimestamp(1_357_000_000 + second, UTC)


def answer(name: str | None, second: int, watermark: int | None) -> bytes:
    promised = None if watermark is None else at(watermark)
    return CODEC.encode(
        {"request_id": name, "event_time": at(second), "watermark": promised, "model": "m", "probability": 0.5}
    )


class World:
    def __init__(self, kafka: str) -> None:
        self.kafka, self.now = kafka, 100.0
        admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
        for done in admin.create_topics([NewTopic("events", 2, 1), NewTopic("answers", 1, 1)]).values():
            done.result(20)
        self.producer = Producer({"bootstrap.servers": kafka, "log_level": 0})
        self.promises = Promises(kafka, ["events"], [ANSWERS], clock=lambda: self.now)

    def write(self, topic: str, partition: int, value: bytes | None, second: int) -> None:
        self.producer.produce(topic, value, None if value is None else b"k", partition, timestamp=1000 * second)
        self.producer.flush()

    def step(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.promises.step()

    def read(self, topic: str) -> list[Message]:
        found: list[Message] = []
        reader = TopicReader(self.kafka, [topic])
        reader.read(found.extend)
        reader.close()
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with own_kafka(tmp_path) as kafka:
        made = World(kafka)
        yield made
        made.promises.close()


def test_quiet_topics_get_their_newest_promise_again_and_nothing_else(world: World) -> None:
    world.write("events", 0, b"a record", 7)
    world.write("events", 0, None, 10)
    world.write("events", 0, b"another", 12)  # no heartbeat: nothing is promised of its time
    world.write("events", 1, b"never a heartbeat here", 5)
    world.write("answers", 0, answer("r1", 8, 3), 8)
    world.write("answers", 0, answer("r2", 9, 6), 9)
    world.write("answers", 0, answer("r3", 9, None), 9)
    world.step()
    assert world.promises.counts["repeated"] == 0
    world.step(QUIET_SECONDS)
    assert world.promises.counts["repeated"] == 2

    events = world.read("events")
    assert [(e.partition(), e.value(), e.timestamp()[1]) for e in events if e.value() is None] == [
        (0, None, 10_000),
        (0, None, 10_000),
    ]
    repeated = world.read("answers")[-1]
    assert repeated.key() is None
    assert CODEC.decode(repeated.value()) == {
        "request_id": None,
        "event_time": at(9),
        "watermark": at(6),
        "model": "m",
        "probability": None,
    }


def test_repetitions_become_rarer_and_start_anew_after_news(world: World) -> None:
    world.write("events", 0, None, 10)
    world.step()
    waits = []
    for _ in range(5):
        before, waited = world.promises.counts["repeated"], 0.0
        while world.promises.counts["repeated"] == before:
            world.step(1.0)
            waited += 1.0
        waits.append(waited)
    assert waits == [QUIET_SECONDS, 4.0, 8.0, QUIET_SECONDS_MAX, QUIET_SECONDS_MAX]
    world.write("events", 0, None, 11)
    world.step()
    world.step(QUIET_SECONDS)
    assert world.promises.counts["repeated"] == 6
    assert [each.timestamp()[1] for each in world.read("events")][-2:] == [11_000, 11_000]
