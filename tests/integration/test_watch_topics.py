"""How the records of topics come, as `headwater watch` sees it: a real Kafka, and an archive that has nothing yet."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import fastavro
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from own_services import own_clickhouse, own_kafka
from rich.console import Console

from compose.commands.watch import _show
from compose.local.home import PlatformError
from compose.local.kafka import _unserved
from compose.local.platform import Endpoints
from compose.services import REPO
from compose.watch import Look, look
from features.compiler.repo import load_repo
from schemas.topics import AVRO_DIR

START_MS, HOUR_MS, MINUTE_MS = 1_356_998_400_000, 3_600_000, 60_000
TOPIC, REQUESTS = "flights.departures", "flights.requests"
HOURS, PARTITIONS, PER_HOUR = 12, 3, 60
OLD, NEW = 2, 22
REASON = "field dep_delay: expected a double, got the end of the record inside it"
HEARTBEAT = None


class World:
    """Topics, and what is sent to them hour by hour."""

    def __init__(self, at: Endpoints) -> None:
        self.at, self.repo = at, load_repo(REPO)
        admin = AdminClient({"bootstrap.servers": at.kafka, "log_level": 0})
        new = [NewTopic(name, PARTITIONS, 1) for name in (TOPIC, REQUESTS, f"{TOPIC}.late", f"{TOPIC}.dlq")]
        created = admin.create_topics([*new, NewTopic("drift.alerts", 1, 1)])
        for done in created.values():
            done.result(30)
        while _unserved(admin, created):
            time.sleep(0.05)
        self.producer = Producer({"bootstrap.servers": at.kafka, "linger.ms": 5, "log_level": 0})

    def hour(self, hour: int, schemas: dict[int, tuple[int | None, ...]]) -> None:
        """An hour of departures, of these schemas in turn (or heartbeats), and of requests up to a minute later."""
        for minute in range(PER_HOUR):
            time_ms = START_MS + hour * HOUR_MS + minute * MINUTE_MS + 500
            for p in range(PARTITIONS):
                ids = schemas.get(p, (OLD,))
                self.put(TOPIC, p, time_ms, ids[minute * len(ids) // PER_HOUR])
                self.put(REQUESTS, p, time_ms, 1)
        self.put(REQUESTS, 0, START_MS + (hour + 1) * HOUR_MS + MINUTE_MS, 1)
        assert self.producer.flush(30) == 0

    def put(self, topic: str, partition: int, time_ms: int, schema: int | None) -> None:
        if schema is HEARTBEAT:
            self.producer.produce(topic, None, None, partition, timestamp=time_ms, headers={"headwater.clock": b""})
            return
        self.producer.produce(topic, bytes([0]) + schema.to_bytes(4, "big") + b"body", b"key", partition,
                              timestamp=time_ms)  # fmt: skip

    def letter(self, suffix: str, partition: int, offset: int, reason: str, generation: int = 0) -> None:
        """As the jobs write them."""
        headers = {
            "headwater.topic": TOPIC,
            "headwater.partition": str(partition),
            "headwater.offset": str(offset),
            "headwater.timestamp": "2013-01-01 00:00:00.000",
            "headwater.job": "features",
            "headwater.generation": str(generation),
            "headwater.error": reason,
        }
        given = {name: value.encode() for name, value in headers.items()}
        self.producer.produce(TOPIC + suffix, b"\0junk", partition=partition, timestamp=START_MS, headers=given)

    def look(self) -> Look:
        return look(self.at, self.repo, "delay", "as-of", HOUR_MS, 5 * MINUTE_MS, 0.0)

    def published(self) -> list[dict[str, object]]:
        """Every alert, as a subscriber reads them."""
        schema = fastavro.parse_schema(json.loads((AVRO_DIR / "drift.alerts.avsc").read_text()))
        client = Consumer({"bootstrap.servers": self.at.kafka, "group.id": "on-call", "auto.offset.reset": "earliest",
                           "isolation.level": "read_committed", "enable.auto.commit": False})  # fmt: skip
        client.subscribe(["drift.alerts"])
        found = []
        while (message := client.poll(5.0)) is not None:
            assert message.error() is None
            found.append(fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), schema))
        client.close()
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root: Path = tmp_path_factory.mktemp("watch")
    with own_kafka(root) as kafka, own_clickhouse(root) as (clickhouse, _):
        yield World(Endpoints(kafka=kafka, flink="", clickhouse=clickhouse, page=""))


def text(found: Look) -> str:
    console = Console(file=io.StringIO(), width=80)
    _show(console, found)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_topic_at_fault_is_one_incident_from_when_it_begins_until_it_is_over(world: World) -> None:
    with pytest.raises(PlatformError, match=r"Nothing has been asked of delay yet\. Nor is there a record in"):
        world.look()

    for hour in range(HOURS):
        world.hour(hour, {})
    for offset in (5, 6):  # of long ago
        world.letter(".late", 1, offset, "late: event time 1, watermark 2")
    world.producer.flush(30)
    well = world.look()
    assert (well.wrong(0.0), well.alerts, well.verification) == (False, [], None)
    assert well.end_ms == START_MS + HOURS * HOUR_MS
    told = {each["topic"]: each for each in well.as_dict()["topics"]}
    assert set(told) == {TOPIC, REQUESTS}
    assert (told[TOPIC]["records"], told[TOPIC]["schemas"], told[TOPIC]["slices"]) == ([60, 60, 60], [OLD], 11)
    assert "Nothing has been asked of delay yet." in text(well)

    # Partition 2 has heartbeats alone, as many as it had records; half of what 0 has is of another schema.
    world.hour(HOURS, {0: (OLD, NEW), 2: (HEARTBEAT,)})
    first = HOURS * PER_HOUR
    for offset in range(first + 40, first + 52):
        world.letter(".dlq", 0, offset, REASON)
        world.letter(".dlq", 0, offset, f"feature view tail: {REASON}")  # of two that read it
    for generation in (0, 1):
        for number in range(10):
            world.letter(".late", 1, first + 3 * number, f"late: event time {number}, watermark {number}", generation)
    assert world.producer.flush(30) == 0
    wrong = world.look()
    assert wrong.wrong(0.0)
    (alert,) = wrong.alerts
    assert (alert.status, alert.monitor, alert.segment, alert.cause) == ("opened", "topics", TOPIC, "data")
    assert (alert.severity, alert.model_version, alert.window_end) == ("critical", "prior", wrong.end_ms)
    (departures,) = (each for each in wrong.as_dict()["topics"] if each["topic"] == TOPIC)
    assert (departures["records"], departures["late"], departures["dead"]) == ([60, 60, 0], 10, 12)
    assert {each.column for each in alert.evidence} == {"partition 2", f"{TOPIC}.dlq", f"{TOPIC}.late", f"schema {NEW}"}
    for part in (
        "partition 2 has stopped, with 0 records where 60 were to be expected by",
        f"12 of 120 records (10%, 0.1% are let pass) cannot be used, of partition and offsets 0 from {first + 40} to "
        f"{first + 51}, mostly: {REASON}",
        f"10 of 120 records (8.33%, 1% are let pass) came late, of partition and offsets 1 from {first} to "
        f"{first + 27}, mostly: late: event time",
        f"records have schema {NEW} now, where they had {OLD} before: 25% of those sampled, in partition 0 from "
        f"offset {first + 30}",
    ):
        assert part in alert.summary
    assert f"{TOPIC}: 60 + 60 + 0 records by partition" in text(wrong)

    again = world.look()
    assert (again.wrong(0.0), again.alerts) == (True, [])
    world.hour(HOURS + 1, {0: (NEW,), 1: (NEW,), 2: (NEW,)})
    over = world.look()
    assert [(each.status, each.incident_id) for each in over.alerts] == [("resolved", alert.incident_id)]
    assert not over.wrong(0.0)
    assert [each["status"] for each in world.published()] == ["opened", "resolved"]
    published = world.published()[0]
    assert published["summary"] == alert.summary
    assert published["evidence"] == [
        {"column": e.column, "statistic": e.statistic, "value": e.value, "threshold": e.threshold, "share": e.share}
        for e in alert.evidence
    ]
