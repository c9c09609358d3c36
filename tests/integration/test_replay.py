"""The replay against a real broker: everything once, in step, in order, across kills and holds."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from compose.demo.broker import Horizon, ReplayError, written
from compose.demo.flights import STREAMS, load_events
from compose.demo.replay import HOUR_MS, Pacing, Replay
from compose.local.jars import jars
from compose.local.java import java_command
from schemas.codec import Codec
from schemas.topics import DAY_MS, topic

SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={logs}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("kafka")
    port = free_port()
    config = root / "server.properties"
    config.write_text(SETTINGS.format(port=port, controller=free_port(), logs=root / "logs"))
    classpath = jars("kafka")
    options = ["-Xmx384m"]
    storage = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(config)]
    subprocess.run(java_command("kafka.tools.StorageTool", classpath, options=options, arguments=storage), check=True)
    command = java_command("kafka.Kafka", classpath, options=options, arguments=[str(config)])
    with (root / "kafka.log").open("w") as log:
        broker = subprocess.Popen(command, stdout=log, stderr=log)
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    deadline = time.monotonic() + 60
    while True:
        try:
            admin.list_topics(timeout=1)
            break
        except Exception:
            if broker.poll() is not None or time.monotonic() > deadline:
                pytest.fail((root / "kafka.log").read_text()[-2000:])
    yield f"127.0.0.1:{port}"
    broker.kill()
    broker.wait()


@pytest.fixture
def topics(kafka: str) -> Iterator[Callable[[int], str]]:
    """Makes empty topics of so many partitions; gives the broker."""
    admin = AdminClient({"bootstrap.servers": kafka})
    names = [*STREAMS, "models.control"]

    def create(partitions: int) -> str:
        config = {"retention.ms": "-1"}
        for future in admin.create_topics([NewTopic(name, partitions, 1, config=config) for name in names]).values():
            future.result()
        return kafka

    yield create
    for future in admin.delete_topics(names).values():
        future.result()
    while set(admin.list_topics(timeout=5).topics) & set(names):
        time.sleep(0.05)


def records(kafka: str, name: str) -> list[list[Message]]:
    """Everything in a topic, by partition."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "test", "enable.partition.eof": True})
    found: list[list[Message]] = []
    for partition in consumer.list_topics(name).topics[name].partitions:
        consumer.assign([TopicPartition(name, partition, 0)])
        found.append([])
        while True:
            batch = consumer.consume(1_000, 0.2)
            found[-1] += [each for each in batch if not each.error()]
            if batch and batch[-1].error():
                break
    consumer.close()
    return found


def check_everything_once(kafka: str, frames: dict[str, Any], end_ms: int) -> None:
    for name, frame in frames.items():
        codec = Codec(topic(name).schema, topic(name).schema_id)
        seen: list[int] = []
        for partition in records(kafka, name):
            promised = 0
            for record in partition:
                _, time_ms = record.timestamp()
                if record.value() is None:
                    assert record.key() is None
                    promised = max(promised, time_ms)
                    continue
                assert time_ms >= promised
                value = codec.decode(record.value())
                assert value["event_time"] == datetime.fromtimestamp(time_ms / 1000, UTC)
                assert record.key().decode() == value[topic(name).key]
                seen.append(int(dict(record.headers())["seq"]))
                assert frame[topic(name).key].iloc[seen[-1]] == value[topic(name).key]
            assert promised == end_ms
        assert sorted(seen) == list(range(len(frame)))


def control(kafka: str, watermark_ms: int, model: str = "delay") -> None:
    codec = Codec(topic("models.control").schema, 11)
    watermark = datetime.fromtimestamp(watermark_ms / 1000, UTC)
    producer = Producer({"bootstrap.servers": kafka})
    value = {"model": model, "version": "prior", "uri": "", "event_time": watermark, "watermark": watermark}
    producer.produce("models.control", codec.encode({**value, "action": "hold", "incident_id": None}), model)
    producer.flush()


def replay_process(kafka: str, *arguments: str, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "compose.demo.replay", "--kafka", kafka, *arguments]
    with out.open("a") as stdout:
        return subprocess.Popen(command, stdout=stdout, text=True)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("}\n")]


@pytest.mark.parametrize("partitions", [1, 3])
def test_everything_arrives_once_in_order_across_kills(
    topics: Callable[[int], str], tmp_path: Path, partitions: int
) -> None:
    kafka = topics(partitions)
    out = tmp_path / "out"
    # 36,000 events: nine seconds at this rate, so that a machine which stalls for some still sees both kills.
    options = ["--flights", "12000", "--no-hold"]
    kills = 0
    while True:
        process = replay_process(kafka, *options, *(("--rate", "4000") if kills < 2 else ()), out=out)
        deadline = time.monotonic() + 60
        before = len(lines(out))
        while kills < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            told = lines(out)[before:]
            if told and sum(told[-1]["sent"].values()) - told[-1]["resumed"] > 4_000:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
        if process.wait(60) == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills == 2
    last = lines(out)[-1]
    assert last["state"] == "done"
    assert last["resumed"] > 8_000
    check_everything_once(kafka, load_events(flights=12_000), last["end_ms"])


def test_it_holds_at_the_horizon(topics: Callable[[int], str]) -> None:
    kafka = topics(1)
    frames = load_events(flights=3_000)
    start_ms = int(frames["flights.requests"]["event_time"].iloc[0])
    reports: list[dict[str, Any]] = []
    horizons = [start_ms + DAY_MS + 17, start_ms + 2 * DAY_MS, start_ms + 99 * DAY_MS]
    stands: Counter[int] = Counter()

    def report(line: dict[str, Any]) -> None:
        reports.append(line)
        if line["state"] == "held":
            at_ms = line["horizon_ms"]
            for [(_, last_ms)] in written(kafka, STREAMS).values():
                # Before any horizon the first heartbeat alone: it tells when traffic will start.
                first = last_ms == line["event_time_ms"]
                assert first if at_ms < 0 else at_ms - HOUR_MS < last_ms <= at_ms
            assert at_ms in (-1, line["event_time_ms"])
            stands[at_ms] += 1
            # Told a tenth of a second apart: what is held does not hang on how fast the broker is.
            if horizons and stands[at_ms] == 3:
                control(kafka, horizons.pop(0))

    control(kafka, start_ms + 50 * DAY_MS, model="another")
    replay = Replay(kafka, frames, Pacing(progress_seconds=0.1), Horizon(kafka, "delay"), report)
    assert replay.run()
    assert not horizons
    assert reports[-1]["held_seconds"] > 0.2
    check_everything_once(kafka, frames, replay.end_ms)


def test_topics_stay_in_step(topics: Callable[[int], str]) -> None:
    kafka = topics(1)
    frames = load_events(flights=2_000)
    pacing = Pacing(slice_ms=6 * HOUR_MS, progress_seconds=0)
    spans: list[int] = []

    def report(_line: dict[str, Any]) -> None:
        last = [each[0][1] for each in written(kafka, STREAMS).values()]
        if min(last) > 0:
            spans.append(max(last) - min(last))

    Replay(kafka, frames, pacing, None, report).run()
    assert len(spans) > 8
    assert max(spans) <= 6 * HOUR_MS


def test_a_stop_ends_after_the_slice(topics: Callable[[int], str], tmp_path: Path) -> None:
    kafka = topics(1)
    out = tmp_path / "out"
    process = replay_process(kafka, "--flights", "5000", "--no-hold", "--rate", "500", out=out)
    while not out.read_text().strip():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert lines(out)[-1]["state"] == "stopped"


def test_another_replay_is_not_gone_on_with(topics: Callable[[int], str]) -> None:
    kafka = topics(1)
    told: list[dict[str, Any]] = []
    Replay(kafka, load_events(flights=2_000), Pacing(), None, told.append).run()
    march = round(datetime(2013, 3, 1, tzinfo=UTC).timestamp() * 1000)
    with pytest.raises(ReplayError, match="another replay"):
        Replay(kafka, load_events(flights=5_000, start_ms=march), Pacing(), None, told.append)


def test_missing_topics_are_named(kafka: str) -> None:
    with pytest.raises(ReplayError, match=r"flights\.requests"):
        Replay(kafka, load_events(flights=10), Pacing(), None, lambda line: None)
