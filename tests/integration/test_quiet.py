"""Topics in which nothing comes for a while: windows close all the same, and nothing is late by it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from compose.local.home import Home
from compose.local.platform import Platform, Running, local_services
from compose.projects import services
from features.compiler.repo import load_repo
from features.compiler.sources import avro_schema, schema_id
from features.compiler.topics import feature_topic
from jobs.quiet import QUIET_SECONDS, QuietTopics
from jobs.reading import TopicReader
from schemas.codec import Codec
from schemas.topics import CLOCK_SUFFIX, LATE_SUFFIX

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
    home = Home(tmp_path_factory.mktemp("quiet")).prepare()
    with Platform(home, services=local_services, more=lambda: services(home)).running() as started:
        yield started


@pytest.fixture(scope="module")
def repo(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo that runs."""
    folder = tmp_path_factory.mktemp("pulse")
    (folder / "feature_store.yaml").write_text(SETTINGS)
    (folder / "definitions.py").write_text(DEFINITIONS)
    done = subprocess.run(
        [sys.executable, "-m", "compose.cli", "submit", "features", "--repo", str(folder)],
        env={**os.environ, "HEADWATER_HOME": str(platform.home.root)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
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
    beats = [each.timestamp()[1] for each in values(kafka, f"pulse.beats{CLOCK_SUFFIX}")]
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


def seen(platform: Platform, topic: str, watch: Callable[[QuietTopics, Clock], None]) -> list[int]:
    """The heartbeats of a topic whose newest record is of the time 1,000,000."""
    kafka, clock = platform.endpoints.kafka, Clock()
    name = f"{topic}{CLOCK_SUFFIX}"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result()
    quiet = QuietTopics(kafka, {topic: 1_000_000}, clock)
    watch(quiet, clock)
    quiet.close()
    return [each.timestamp()[1] for each in values(kafka, name)]


def passing(quiet: QuietTopics, clock: Clock, seconds: float, all_read: Callable[[str], bool]) -> None:
    for _ in range(int(seconds)):
        clock.seconds += 1
        quiet.look(all_read)


def unanswered(_: str) -> bool:
    raise KafkaException("no answer")


def test_time_goes_on_at_the_pace_of_the_clock(platform: Platform) -> None:
    found = seen(platform, "pace", lambda quiet, clock: passing(quiet, clock, QUIET_SECONDS + 3, lambda _: True))
    assert found == [1_001_000, 1_002_000, 1_003_000]


@pytest.mark.parametrize("all_read", [unanswered, lambda _: False], ids=["no answer", "more to read"])
def test_silence_that_is_not_vouched_for_does_not_count(platform: Platform, all_read: Callable[[str], bool]) -> None:
    def watch(quiet: QuietTopics, clock: Clock) -> None:
        passing(quiet, clock, QUIET_SECONDS - 1, lambda _: True)
        passing(quiet, clock, 60, all_read)
        passing(quiet, clock, QUIET_SECONDS, lambda _: True)
        passing(quiet, clock, 1, lambda _: True)

    assert seen(platform, f"vouched_{all_read.__name__.strip('<>')}", watch) == [1_001_000]


def test_after_a_silence_the_clock_keeps_up_until_it_is_idle(platform: Platform) -> None:
    def watch(quiet: QuietTopics, clock: Clock) -> None:
        passing(quiet, clock, QUIET_SECONDS + 2, lambda _: True)
        for newest_ms in range(2_000_000, 2_020_000, 1000):
            quiet.came("tail", newest_ms)
            passing(quiet, clock, 1, lambda _: True)

    found = seen(platform, "tail", watch)
    assert found[:2] == [1_001_000, 1_002_000]
    assert found[2:] == [2_000_000, 2_001_000, 2_002_000, 2_003_000]
