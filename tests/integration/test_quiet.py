"""Topics in which nothing comes for a while: windows close all the same, and nothing is late by it."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from guests import guest_platform, headwater

from compose.local.platform import Platform, Running
from features.compiler.repo import load_repo
from features.compiler.sources import avro_schema, schema_id
from features.compiler.topics import feature_topic
from jobs.quiet import QUIET_SECONDS, QuietTopics, is_ours
from jobs.reading import TopicReader
from schemas.codec import Codec
from schemas.topics import LATE_SUFFIX

SETTINGS = """
project: pulse
provider: local
registry: registry.db
entity_key_serialization_version: 3
online_store: {type: sqlite, path: online.db}
"""
DEFINITIONS = '''
from datetime import timedelta

from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import AvroFormat
from feast.types import Int64, String

beats = KafkaSource(
    name="beats",
    kafka_bootstrap_servers="unused:9092",
    topic="pulse.beats",
    timestamp_field="at",
    message_format=AvroFormat("""{"type": "record", "name": "Beat", "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "heart", "type": "string"}]}"""),
    watermark_delay_threshold=timedelta(seconds=2),
    batch_source=FileSource(name="beats_history", path="beats.parquet", timestamp_field="at"),
)
rate = StreamFeatureView(
    name="rate",
    entities=[Entity(name="heart", join_keys=["heart"])],
    source=beats,
    timestamp_field="at",
    schema=[Field(name="heart", dtype=String), Field(name="beats", dtype=Int64)],
    aggregations=[
        Aggregation(
            column="*", function="count", time_window=timedelta(seconds=10), slide_interval=timedelta(seconds=2),
            name="beats",
        )
    ],
)
'''


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with guest_platform(tmp_path_factory.mktemp("quiet")) as started:
        yield started


@pytest.fixture(scope="module")
def repo(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo that runs."""
    folder = tmp_path_factory.mktemp("pulse")
    (folder / "feature_store.yaml").write_text(SETTINGS)
    (folder / "definitions.py").write_text(DEFINITIONS)
    headwater(platform, "submit", "features", "--repo", str(folder))
    return folder


def send(producer: Producer, codec: Codec, heart: str, at_ms: int) -> None:
    value = codec.encode({"at": datetime.fromtimestamp(at_ms / 1000, UTC), "heart": heart})
    producer.produce("pulse.beats", value=value, timestamp=at_ms)
    producer.poll(0)


def now_ms() -> int:
    return int(time.time() * 1e3)


def values(kafka: str, topic: str) -> list[Message]:
    found: list[Message] = []
    reader = TopicReader(kafka, [topic])
    try:
        reader.read(found.extend)
    finally:
        reader.close()
    return found


def counts(kafka: str, repo: Path, heart: str) -> dict[int, int]:
    """What the stream said of a heart, by event time."""
    topic = feature_topic(load_repo(repo).view("rate"))
    codec = Codec(topic.schema, topic.schema_id)
    rows: list[dict[str, Any]] = [codec.decode(each.value()) for each in values(kafka, topic.name) if each.key()]
    return {int(row["event_time"].timestamp() * 1e3): row["beats"] for row in rows if row["heart"] == heart}


def until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return held


@pytest.fixture
def producer(platform: Platform) -> Producer:
    return Producer({"bootstrap.servers": platform.endpoints.kafka, "log_level": 0})


@pytest.fixture
def codec(repo: Path) -> Codec:
    source = load_repo(repo).kafka_source("beats")
    return Codec(avro_schema(source), schema_id(source))


def test_the_last_window_closes_and_decays(platform: Platform, repo: Path, producer: Producer, codec: Codec) -> None:
    """Three records, and never another: their windows close, and are empty in the end."""
    kafka, last_ms = platform.endpoints.kafka, now_ms()
    for before_ms in (3000, 1500, 0):
        send(producer, codec, "quiet", last_ms - before_ms)
    assert producer.flush(30) == 0
    assert until(lambda: 0 in counts(kafka, repo, "quiet").values(), 60)
    found = counts(kafka, repo, "quiet")
    assert max(found.values()) == 3
    assert max(found) == min(at for at, count in found.items() if not count)  # and nothing after that
    # Time has gone on from the records, at the pace of the clock.
    beats = [each.timestamp()[1] for each in values(kafka, "pulse.beats") if each.value() is None]
    assert beats == sorted(beats)
    assert last_ms < beats[-1] < now_ms() - 4000


def test_what_a_dead_broker_held_up_is_not_late(
    platform: Platform, repo: Path, producer: Producer, codec: Codec
) -> None:
    """A broker that hangs for longer than the bound of late records: what was meant for it meanwhile counts."""
    kafka = platform.endpoints.kafka
    running = Running.find(platform.home)
    assert running is not None
    send(producer, codec, "held", now_ms())
    assert producer.flush(30) == 0
    pid = int(running.services["kafka"]["pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(12):
            send(producer, codec, "held", now_ms())
            time.sleep(1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert producer.flush(60) == 0
    assert until(lambda: 0 in counts(kafka, repo, "held").values(), 90)
    assert values(kafka, f"pulse.beats{LATE_SUFFIX}") == []
    assert max(counts(kafka, repo, "held").values()) in (10, 11)  # of a second each, in ten seconds


class Clock:
    """Passes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Watched:
    """A topic of two partitions whose newest record is of the time 1,000,000."""

    def __init__(self, kafka: str) -> None:
        self.kafka, self.clock, self.name = kafka, Clock(), f"quiet_{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": kafka})
        admin.create_topics([NewTopic(self.name, 2, 1)])[self.name].result()
        self.quiet = QuietTopics(kafka, {self.name: (0, 1)}, self.clock)
        self.quiet.reached(self.name, 1_000_000)

    def passing(self, seconds: float, caught_up: Callable[[str], set[int]]) -> None:
        for _ in range(int(seconds)):
            self.clock.seconds += 1
            self.quiet.look(caught_up)

    def comes(self, partition: int, time_ms: int) -> None:
        self.quiet.heard(self.name, partition)
        self.quiet.reached(self.name, time_ms)

    def beats(self, partition: int) -> list[int]:
        self.quiet.close()
        found = values(self.kafka, self.name)
        assert all(is_ours(each) and each.key() is None for each in found)
        return [each.timestamp()[1] for each in found if each.partition() == partition]


@pytest.fixture
def watched(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Its clock runs ahead of the broker's: a heartbeat may take its time on a busy machine."""
    monkeypatch.setattr("jobs.quiet._CONFIRMED_MS", 60_000)
    return Watched(platform.endpoints.kafka)


def everything(_: str) -> set[int]:
    return {0, 1}


def unanswered(_: str) -> set[int]:
    raise KafkaException("no answer")


def nothing(_: str) -> set[int]:
    return set()


def test_time_goes_on_at_the_pace_of_the_clock(watched: Watched) -> None:
    watched.passing(QUIET_SECONDS + 3, everything)
    assert watched.beats(0) == watched.beats(1) == [1_001_000, 1_002_000, 1_003_000]


def test_the_silence_before_a_record_is_not_counted_again_after_it(watched: Watched) -> None:
    watched.passing(60, everything)
    for partition in (0, 1):
        watched.comes(partition, 1_060_000)
    watched.passing(1, everything)
    before = len(watched.beats(0))
    watched.passing(QUIET_SECONDS + 3, everything)
    assert watched.beats(0)[before:] == [1_061_000, 1_062_000, 1_063_000]


@pytest.mark.parametrize("caught_up", [unanswered, nothing])
def test_silence_that_is_not_vouched_for_does_not_count(watched: Watched, caught_up: Callable[[str], set[int]]) -> None:
    watched.passing(QUIET_SECONDS - 1, everything)
    watched.passing(60, caught_up)
    assert watched.beats(0) == []
    watched.passing(QUIET_SECONDS + 1, everything)
    assert watched.beats(0)[0] == 1_001_000


def test_a_partition_without_traffic_does_not_hold_back_the_others(watched: Watched) -> None:
    for time_ms in range(2_000_000, 2_009_000, 1000):
        watched.comes(0, time_ms)
        watched.passing(1, everything)
    assert watched.beats(0) == []
    assert watched.beats(1) == [2_005_000, 2_006_000, 2_007_000, 2_008_000]
    watched.comes(1, 2_008_500)
    watched.passing(1, everything)
    assert watched.beats(1)[4:] == []


def test_a_long_silence_is_told_ever_more_rarely(watched: Watched) -> None:
    watched.passing(3600, everything)
    found = watched.beats(0)
    assert found[-1] > 1_000_000 + 3_500_000
    assert len(found) < 400
