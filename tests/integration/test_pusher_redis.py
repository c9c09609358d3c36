"""The pusher between a real broker and a real Redis, as a repo names it; whichever of them is killed."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from feast import FeatureStore
from feast.infra.online_stores.redis import RedisOnlineStore
from own_redis import RedisServer, own_redis
from own_services import own_kafka

from features.compiler.repo import load_repo
from features.compiler.topics import entity_codec, feature_codec
from features.online.pusher import Pusher
from features.online.store import open_store

DEFINITIONS = """
from datetime import timedelta
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat
from feast.types import Float64, Int64

service = Entity(name="service", join_keys=["flight"], value_type=ValueType.INT64)
history = FileSource(name="history", path="none.parquet", timestamp_field="event_time")
events = KafkaSource(name="events", timestamp_field="event_time", kafka_bootstrap_servers="none", topic="events",
                     message_format=AvroFormat("{}"), batch_source=history)
mean = Aggregation(column="x", function="mean", name="x_mean", time_window=timedelta(hours=1))
small = StreamFeatureView(name="small", entities=[service], source=events, aggregations=[mean], ttl=timedelta(0),
                          timestamp_field="event_time",
                          schema=[Field(name="flight", dtype=Int64), Field(name="x_mean", dtype=Float64)])
"""
TOPIC = "features.small"
NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
ENTITIES = 200


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[str]:
    with own_kafka(tmp_path / "kafka") as address:
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_topics([NewTopic(TOPIC, 1, 1)])[TOPIC].result(20)
        yield address


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    # What was answered is on disk: the pusher commits offsets on the strength of it.
    with own_redis(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def repo(tmp_path: Path, server: RedisServer) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / "feature_store.yaml").write_text(
        "project: test\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        "online_store:\n  type: features.online.redis_store.HeadwaterRedisOnlineStore\n"
        f"  connection_string: '{server.address}'\n"
    )
    subprocess.run([Path(sys.executable).with_name("feast"), "apply"], cwd=folder, check=True, capture_output=True)
    return folder


class Traffic:
    """Rows on the topic, as the job writes them."""

    def __init__(self, kafka: str, repo: Path) -> None:
        view = load_repo(repo).views["small"]
        self._keys, self._values = entity_codec(view), feature_codec(view)
        self.producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})

    def send(self, flight: int, second: int) -> None:
        at = NOON + timedelta(seconds=second)
        record = {"flight": flight, "event_time": at, "watermark": at, "x_mean": float(second)}
        key, value = self._keys.encode({"flight": flight}), self._values.encode(record)
        self.producer.produce(TOPIC, value, key, timestamp=round(at.timestamp() * 1000))
        self.producer.poll(0)


def read(repo: Path, flights: list[int]) -> dict[int, Any]:
    """By Feast's own store, from what the repo applied."""
    stock = repo / "stock.yaml"
    ours = (repo / "feature_store.yaml").read_text()
    stock.write_text(ours.replace("features.online.redis_store.HeadwaterRedisOnlineStore", "redis"))
    store = FeatureStore(repo_path=str(repo), fs_yaml_file=stock)
    assert type(store._get_provider().online_store) is RedisOnlineStore
    found = store.get_online_features(["small:x_mean"], [{"flight": flight} for flight in flights]).to_dict()
    return dict(zip(found["flight"], found["x_mean"], strict=True))


def test_rows_reach_redis_whichever_is_killed(kafka: str, server: RedisServer, repo: Path) -> None:
    command = [sys.executable, "-m", "features.online.pusher", "--kafka", kafka, "--topics", TOPIC, "--repo", str(repo)]
    rng, newest, topic = random.Random(7), dict[int, int](), Traffic(kafka, repo)

    def traffic(seconds: range) -> None:
        for second in seconds:
            flight, at = rng.randrange(ENTITIES), second + rng.randrange(-50, 50)
            newest[flight] = max(at, newest.get(flight, at))
            topic.send(flight, at)
        topic.producer.flush()

    traffic(range(2000))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while server.client().dbsize() < ENTITIES:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.kill()
    traffic(range(2000, 4000))
    time.sleep(1)
    assert process.poll() is None  # it waits
    server.start()
    traffic(range(4000, 6000))
    process.kill()
    process.wait()
    traffic(range(6000, 8000))

    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    line: dict[str, int] = {"lag": -1}
    while line["lag"]:
        line = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
    assert line["refused"] == 0
    assert read(repo, list(newest)) == {flight: float(at) for flight, at in newest.items()}


def test_a_record_of_another_schema_is_counted_and_the_next_ones_go_on(kafka: str, repo: Path) -> None:
    topic = Traffic(kafka, repo)
    topic.producer.produce(TOPIC, b"?", b"?", timestamp=1)
    topic.send(1, 5)
    topic.producer.flush()
    pusher = Pusher(kafka, open_store(repo), [TOPIC])
    deadline = time.monotonic() + 30
    while pusher.counts["read"] < 2:
        pusher.step()
        assert time.monotonic() < deadline
    assert pusher.refused == 1
    pusher.close()
    assert read(repo, [1]) == {1: 5.0}
