"""The pusher against a real broker: only what is committed, the newest row, whatever is killed or held."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from own_services import own_kafka

from features.online.pusher import GROUP, Pusher, PusherError
from features.online.rows import RowStore, StoreBusyError


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with own_kafka(tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture
def new_topic(kafka: str) -> Callable[..., str]:
    def create(partitions: int = 1) -> str:
        name = f"features.v{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": kafka})
        admin.create_topics([NewTopic(name, partitions, 1)])[name].result(20)
        return name

    return create


@pytest.fixture
def producer(kafka: str) -> Producer:
    found = Producer({"bootstrap.servers": kafka, "transactional.id": uuid.uuid4().hex, "linger.ms": 5, "log_level": 0})
    found.init_transactions(30)
    return found


def committed(kafka: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": GROUP})
    [place] = consumer.committed([TopicPartition(topic, 0)], timeout=10)
    consumer.close()
    return int(place.offset)


def until(condition: Callable[[], bool], pusher: Pusher, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        pusher.step()
        assert time.monotonic() < deadline


def test_committed_rows_arrive_and_the_rest_does_not(
    kafka: str, new_topic: Callable[..., str], producer: Producer, tmp_path: Path
) -> None:
    topic, store = new_topic(), RowStore(tmp_path / "online" / "online.db")
    view = topic.removeprefix("features.")
    producer.begin_transaction()
    for key, at, value in [
        (b"a", 5, b"new"),
        (b"a", 4, b"old"),
        (None, 6, b"progress"),
        (b"b", 1, b"b"),
        (None, 7, None),
    ]:
        producer.produce(topic, value, key, timestamp=at)
    producer.commit_transaction(10)
    producer.begin_transaction()
    producer.produce(topic, b"never", b"a", timestamp=9)
    producer.flush()
    producer.abort_transaction(10)

    pusher = Pusher(kafka, store, [topic])
    until(lambda: pusher.counts["read"] == 5 and pusher.lag() == 0, pusher)
    assert store.read(view, [b"a", b"b"]) == {b"a": (5, b"new"), b"b": (1, b"b")}
    assert pusher.counts == {"read": 5, "written": 2, "skipped": 2, "waits": 0}
    pusher.close()
    assert committed(kafka, topic) >= 5  # its end, beyond the transactions' markers

    again = Pusher(kafka, store, [topic])
    producer.begin_transaction()
    producer.produce(topic, b"older", b"a", timestamp=3)
    producer.produce(topic, b"newer", b"b", timestamp=2)
    producer.commit_transaction(10)
    until(lambda: again.counts["read"] == 2, again)
    assert store.read(view, [b"a", b"b"]) == {b"a": (5, b"new"), b"b": (2, b"newer")}
    again.close()


def test_offsets_wait_for_the_store(
    kafka: str, new_topic: Callable[..., str], producer: Producer, tmp_path: Path
) -> None:
    topic, store = new_topic(), RowStore(tmp_path / "online.db", busy_seconds=0.05)
    pusher = Pusher(kafka, store, [topic], patience_seconds=0.2)
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    producer.begin_transaction()
    producer.produce(topic, b"v", b"a", timestamp=1)
    producer.commit_transaction(10)
    with pytest.raises(StoreBusyError, match="held by another writer"):
        until(lambda: pusher.counts["written"] > 0, pusher)
    assert pusher.counts["waits"] == 2
    pusher.close()
    assert committed(kafka, topic) < 0  # nothing was written, so nothing is done
    holder.execute("ROLLBACK")

    after = Pusher(kafka, store, [topic])
    until(lambda: after.counts["written"] == 1, after)
    after.close()


def test_rows_of_a_view_s_old_definition_make_room_once(
    kafka: str, new_topic: Callable[..., str], producer: Producer, tmp_path: Path
) -> None:
    topic, store = new_topic(2), RowStore(tmp_path / "online.db")
    view, keys = topic.removeprefix("features."), [b"a", b"b"]

    def written(value: bytes, key: bytes, at: int, partition: int = 0) -> None:
        producer.begin_transaction()
        producer.produce(topic, value, key, timestamp=at, partition=partition)
        producer.commit_transaction(10)

    written(b"old", b"a", 9)
    written(b"old", b"b", 9)
    pusher = Pusher(kafka, store, [topic])
    until(lambda: pusher.counts["written"] == 2, pusher)
    begins = {topic: {0: 4, 1: 0}}  # two records and the markers of their transactions
    written(b"new", b"a", 5)
    until(lambda: pusher.counts["read"] == 3, pusher)  # and kept out: it is older than what is there
    pusher.close()
    assert store.read(view, keys) == {b"a": (9, b"old"), b"b": (9, b"old")}

    after = Pusher(kafka, store, [topic], since=begins)
    until(lambda: after.counts["written"] == 1, after)
    assert store.read(view, keys) == {b"a": (5, b"new")}
    after.close()
    again = Pusher(kafka, store, [topic], since=begins)
    written(b"new", b"b", 3, partition=1)
    until(lambda: again.counts["written"] == 1, again)
    assert again.counts["read"] == 1
    assert store.read(view, keys) == {b"a": (5, b"new"), b"b": (3, b"new")}
    again.close()


def test_topics_that_are_not_there_or_no_views_are_named(kafka: str, tmp_path: Path) -> None:
    store = RowStore(tmp_path / "online.db")
    with pytest.raises(PusherError, match=r"features\.nowhere"):
        Pusher(kafka, store, ["features.nowhere"])
    with pytest.raises(PusherError, match="expected topics named"):
        Pusher(kafka, store, ["flights.requests"])


def test_killed_at_random_moments_it_ends_with_the_newest_rows(
    kafka: str, new_topic: Callable[..., str], producer: Producer, tmp_path: Path
) -> None:
    rng = random.Random(3)
    topics = [new_topic(2), new_topic(1)]
    path = tmp_path / "online.db"
    command = [sys.executable, "-m", "features.online.pusher", "--kafka", kafka, "--path", str(path)]
    command += ["--topics", ",".join(topics)]
    newest: dict[tuple[str, bytes], int] = {}
    done = threading.Event()

    def produce() -> None:
        at = 0
        while not done.is_set():
            producer.begin_transaction()
            for _ in range(500):
                topic, entity = rng.choice(topics), rng.randrange(200)
                # An entity stays in its partition; its rows come a little out of order.
                partition = entity % 2 if topic is topics[0] else 0
                at += 1
                stamp, key = max(1, at + rng.randrange(-50, 50)), b"e%d" % entity
                producer.produce(topic, b"%d" % stamp, key, partition=partition, timestamp=stamp)
                newest[topic, key] = max(stamp, newest.get((topic, key), 0))
            producer.commit_transaction(20)
            done.wait(0.02)

    writer = threading.Thread(target=produce)
    writer.start()
    kills = 0
    try:
        for _ in range(6):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.6, 2.0))
            assert process.poll() is None
            process.kill()
            process.wait()
            kills += 1
    finally:
        done.set()
        writer.join()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    line: dict[str, int] = {"lag": -1}
    while line["lag"]:
        line = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
    store = RowStore(path)
    for topic in topics:
        expected = {key: (at, b"%d" % at) for (name, key), at in newest.items() if name == topic}
        assert store.read(topic.removeprefix("features."), list(expected)) == expected
    assert kills == 6
