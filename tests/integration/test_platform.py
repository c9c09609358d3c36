"""The local platform as a whole: real processes, killed for real."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from compose.local import watchdog
from compose.local.flink import client_environ, latest_checkpoint
from compose.local.home import Home
from compose.local.kafka import create_topics
from compose.local.platform import AlreadyRunningError, Platform, Running, memory_bytes
from schemas.topics import TOPICS, Topic

START_S = 120
JAN_2013_MS = 1_356_998_400_000

# Doubles numbers in vectorised Python on their way from one topic to another, exactly once.
JOB = """
import os, sys
import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import udf
from jobs.cluster import Cluster, send, stream_environment

kafka, flink, source, sink, *checkpoint = sys.argv[1:]
savepoint = f"file://{checkpoint[0]}" if checkpoint else ""
tables = stream_environment(Cluster(flink, checkpoint_ms=500, savepoint=savepoint), "doubling")

@udf(result_type=DataTypes.BIGINT(), func_type="pandas")
def double(x: pd.Series) -> pd.Series:
    return x * 2

tables.create_temporary_function("twice", double)
common = f"'connector' = 'kafka', 'properties.bootstrap.servers' = '{kafka}', 'format' = 'json'"
tables.execute_sql(f"CREATE TABLE source (x BIGINT) WITH ({common}, 'topic' = '{source}', "
                   "'scan.startup.mode' = 'earliest-offset', 'properties.group.id' = 'doubling')")
tables.execute_sql(f"CREATE TABLE sink (x BIGINT) WITH ({common}, 'topic' = '{sink}', "
                   f"'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = '{sink}')")
statements = tables.create_statement_set()
statements.add_insert_sql("INSERT INTO sink SELECT twice(x) FROM source")
print(send(statements), flush=True)
os._exit(0)
"""


def eventually(condition: Callable[[], Any], timeout_s: float = 60, what: str = "it") -> Any:
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {timeout_s} s"
        time.sleep(0.1)
    return result


def submit(platform: Platform, *arguments: str) -> str:
    environ = {**platform.environ, **client_environ(platform.home)}
    command = [sys.executable, "-c", JOB, platform.endpoints.kafka, platform.endpoints.flink, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()[-1]


def cancel(platform: Platform, job: str) -> None:
    url = f"{platform.endpoints.flink}/jobs/{job}?mode=cancel"
    urllib.request.urlopen(urllib.request.Request(url, method="PATCH"), timeout=10).close()


def produce(platform: Platform, topic: str, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": platform.endpoints.kafka, "enable.idempotence": True, "log_level": 0})
    refused: list[Any] = []
    for number in numbers:
        value, time_ms = json.dumps({"x": number}).encode(), JAN_2013_MS + number
        producer.produce(topic, value, timestamp=time_ms, on_delivery=lambda error, _: error and refused.append(error))
    assert producer.flush(30) == 0
    assert not refused, refused[0]


class Reader:
    """What a topic holds, committed transactions only, from its beginning."""

    def __init__(self, platform: Platform, topic: str) -> None:
        self.records: list[Any] = []
        self._consumer = Consumer(
            {
                "bootstrap.servers": platform.endpoints.kafka,
                "group.id": "reader",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self._consumer.subscribe([topic])

    def numbers(self) -> list[int]:
        self.records += [each for each in self._consumer.consume(10_000, timeout=0.2) if each.error() is None]
        return sorted(json.loads(each.value())["x"] for each in self.records)


@pytest.fixture
def fresh_home(tmp_path: Path) -> Iterator[Path]:
    """A state directory; whatever still runs in it at the end was left behind, and is ended."""
    yield tmp_path / "home"
    if (running := Running.read(Home(tmp_path / "home"))) is not None:
        if running.alive:
            os.kill(running.pid, signal.SIGKILL)
        left = watchdog.end_all(running.token)
        assert not left, f"left behind: {left}"


def headwater(home: Path, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "compose.cli", *arguments],
        env={**os.environ, "HEADWATER_HOME": str(home), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_topics_are_there_and_creating_them_again_changes_nothing(platform, kafka_topic):
    extra = Topic(f"{kafka_topic('extra')}.more", 99, key="k", partitions=2)
    address = platform.endpoints.kafka
    assert sorted(create_topics(address, [extra])) == [extra.name, f"{extra.name}.dlq", f"{extra.name}.late"]
    assert create_topics(address, [extra]) == []
    there = AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).topics
    for name, topic in TOPICS.items():
        assert len(there[name].partitions) == topic.partitions
        assert {f"{name}.dlq", f"{name}.late"} <= set(there)
    assert len(there[extra.name].partitions) == 2


def test_topics_are_served_as_soon_as_they_are_created(platform):
    """So many that the broker is seen to take its time for opening them."""
    address = platform.endpoints.kafka
    created = create_topics(address, [Topic(f"many.{uuid.uuid4().hex}", 1, key="", partitions=9) for _ in range(9)])
    consumer = Consumer({"bootstrap.servers": address, "group.id": "ends", "log_level": 0})
    try:
        for name in created:
            for partition in range(9):
                assert consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10) == (0, 0)
    finally:
        consumer.close()
        admin = AdminClient({"bootstrap.servers": address})
        for done in admin.delete_topics(created).values():
            done.result()


def test_records_of_a_year_long_past_are_kept_in_event_time(platform, kafka_topic):
    topic = kafka_topic("past")
    produce(platform, topic, range(100))
    reader = Reader(platform, topic)
    eventually(lambda: reader.numbers() == list(range(100)), what="reading back")
    assert [each.timestamp()[1] for each in reader.records] == [JAN_2013_MS + n for n in range(100)]


def test_a_second_platform_in_the_same_directory_is_refused(platform):
    with pytest.raises(AlreadyRunningError, match="is running in"):
        Platform(platform.home).start()
    running = Running.find(platform.home)
    assert running is not None
    assert running.pid == os.getpid()


def test_a_python_job_survives_kill_9_of_each_part(platform, kafka_topic):
    """TaskManager, one of its Python workers, Kafka: everything arrives, once."""
    source, sink = kafka_topic("numbers"), kafka_topic("doubles")
    job = submit(platform, source, sink)
    reader = Reader(platform, sink)
    try:
        produce(platform, source, range(1000))
        eventually(lambda: len(reader.numbers()) >= 1000, 90, "the first thousand")
        expected = 1000
        facts = platform.supervisor.facts()
        workers = set(watchdog.members(platform.token, "taskmanager")) - {facts["taskmanager"]["pid"]}
        assert workers, "no Python worker carries the token"
        for victim in (facts["taskmanager"]["pid"], max(workers), facts["kafka"]["pid"]):
            if victim in watchdog.members(platform.token):
                os.kill(victim, signal.SIGKILL)
            time.sleep(0.5)
            eventually(lambda: all(each["state"] == "ready" for each in platform.supervisor.facts().values()), 60)
            produce(platform, source, range(expected, expected + 1000))
            expected += 1000
            eventually(lambda: len(reader.numbers()) >= expected, 120, f"record {expected}")  # noqa: B023
        assert reader.numbers() == list(range(0, 2 * expected, 2))
        # Workers of the killed TaskManager are gone, not only those of the living one.
        assert not workers & set(watchdog.members(platform.token))
        assert latest_checkpoint(platform.home, job) is not None
    finally:
        cancel(platform, job)


def test_kill_9_leaves_nothing_behind_and_the_next_start_goes_on(fresh_home):
    home = Home(fresh_home)
    first = headwater(fresh_home, "up")
    running = eventually(lambda: (r := Running.find(home)) and r.state == "up" and r, START_S, "the platform")
    pids = set(watchdog.members(running.token))
    assert len(pids) >= 4
    # Idle, 2.1 GiB once the retrainer has imported what training needs; jobs and their workers need less than as much.
    assert sum(memory_bytes(running).values()) < 9 << 28
    topics = Platform(home)
    topics.ports = {
        name: int(running.endpoints.kafka.split(":")[1]) for name in ("kafka", "flink", "clickhouse", "page")
    }
    produce(topics, "flights.weather", range(10))
    first.kill()
    first.wait()
    eventually(lambda: not watchdog.members(running.token), 30, "the end of what it had started")
    assert Running.find(home) is None
    assert Running.read(home) is not None, "kill -9 leaves no time to remove it"

    second = headwater(fresh_home, "up", "--detach")
    out, err = second.communicate(timeout=START_S)
    assert second.returncode == 0, err
    assert "headwater down" in out
    again = Running.find(home)
    assert again is not None
    assert again.endpoints == running.endpoints, "ports are kept"
    reader = Reader(topics, "flights.weather")
    eventually(lambda: reader.numbers() == list(range(10)), what="the records of before")

    third = headwater(fresh_home, "up")
    out, err = third.communicate(timeout=30)
    assert third.returncode == 0, err
    assert f"process {again.pid}" in " ".join(out.split())

    down = headwater(fresh_home, "down")
    out, err = down.communicate(timeout=60)
    assert down.returncode == 0, err
    assert not watchdog.members(again.token)
    assert Running.read(home) is None


@pytest.mark.parametrize("started", [False, True], ids=["before it starts", "while it starts"])
def test_ctrl_c_stops_everything(fresh_home, started):
    # A shell that has the tests run in the background lets them, and what they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = headwater(fresh_home, "up")
    if started:
        running = eventually(lambda: (r := Running.find(Home(fresh_home))) and r.services and r, 60, "platform.json")
        eventually(lambda: watchdog.members(running.token), 30, "a service")
    else:
        eventually((fresh_home / "kafka").exists, 30, "the state directory")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Stopped." in out
    assert "Traceback" not in err
    assert not started or not watchdog.members(running.token)
    assert not (fresh_home / "platform.json").exists()


def test_a_jobmanager_that_died_has_its_jobs_again(platform, kafka_topic, monkeypatch):
    """The cluster forgets its jobs; sent again from the last checkpoint, they lose nothing and repeat nothing."""
    source, sink = kafka_topic("numbers"), kafka_topic("doubles")
    jobs = [submit(platform, source, sink)]

    def again(told: Platform) -> None:
        assert told is platform
        jobs.append(submit(platform, source, sink, str(latest_checkpoint(platform.home, jobs[0]))))

    monkeypatch.setattr(platform, "_on_jobmanager_restart", again)
    reader = Reader(platform, sink)
    try:
        produce(platform, source, range(1000))
        eventually(lambda: len(reader.numbers()) >= 1000, 90, "the first thousand")
        os.kill(platform.supervisor.facts()["jobmanager"]["pid"], signal.SIGKILL)
        produce(platform, source, range(1000, 2000))
        eventually(lambda: len(reader.numbers()) >= 2000, 120, "the second thousand")
        assert reader.numbers() == list(range(0, 4000, 2))
        assert len(jobs) == 2
    finally:
        cancel(platform, jobs[-1])
