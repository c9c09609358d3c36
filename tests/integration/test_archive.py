"""The archiver against a real broker and the embedded ClickHouse, with processes killed at random moments."""

import datetime as dt
import json
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from own_services import own_clickhouse, own_kafka, running

from compose.local.services import HOST, free_ports, http_ready, python_module
from jobs.archiving import ArchiveError, Archiver, Limits, prepare_tables
from schemas.codec import Codec
from schemas.topics import Topic

TIME = {"type": "long", "logicalType": "timestamp-millis"}
DETAIL = {
    "type": "record",
    "name": "Detail",
    "fields": [{"name": "column", "type": "string"}, {"name": "value", "type": ["null", "double"]}],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Thing",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "event_time", "type": TIME},
        {"name": "watermark", "type": ["null", TIME]},
        {"name": "n", "type": "int"},
        {"name": "x", "type": ["null", "double"]},
        {"name": "ok", "type": "boolean"},
        {"name": "raw", "type": "bytes"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["open", "shut"]}},
        {"name": "details", "type": {"type": "array", "items": DETAIL}},
        {"name": "tags", "type": ["null", {"type": "array", "items": "string"}]},
    ],
}
CODEC = Codec(SCHEMA, 1 << 20)
START = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)


def thing(n: int) -> dict[str, Any]:
    return {
        "id": f"é{n}",
        "event_time": START + dt.timedelta(milliseconds=n),
        "watermark": None if n % 2 else START,
        "n": n,
        "x": None if n % 3 else n / 7,
        "ok": n % 2 == 0,
        "raw": bytes([n % 256, 255]),
        "state": "open" if n % 2 else "shut",
        "details": [{"column": f"c{i}", "value": None if i else 1.5} for i in range(n % 3)],
        "tags": ["a", "b"] if n % 2 else None,
    }


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with own_kafka(tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Client]]:
    with own_clickhouse(tmp_path_factory.mktemp("clickhouse")) as found:
        yield found


@pytest.fixture
def new_topic(kafka: str) -> Callable[..., Topic]:
    def create(partitions: int = 1, prefix: str = "things") -> Topic:
        name = f"{prefix}.{uuid.uuid4().hex[:8]}"
        new = [NewTopic(name, partitions, 1), NewTopic(f"{name}.dlq", 1, 1)]
        admin = AdminClient({"bootstrap.servers": kafka})
        for each in admin.create_topics(new).values():
            each.result(20)
        return Topic(name, CODEC.schema_id, key="id", definition=SCHEMA)

    return create


@pytest.fixture
def producer(kafka: str) -> Producer:
    return Producer({"bootstrap.servers": kafka, "linger.ms": 5, "log_level": 0})


def archive_all(archiver: Archiver, topic: Topic) -> None:
    deadline = time.monotonic() + 20
    archiver.step()
    while archiver.lag()[topic.name] or archiver.counts["rows"] + archiver.counts["skipped"] == 0:
        archiver.step()
        assert time.monotonic() < deadline
    archiver.flush()


def test_records_become_rows_and_the_rest_has_its_place(
    kafka: str, clickhouse: tuple[str, Client], new_topic: Callable[..., Topic], producer: Producer
) -> None:
    topic, client = new_topic(prefix="features"), clickhouse[1]
    bad = CODEC.encode(thing(1)) + b"\0"
    values = [CODEC.encode(thing(n)) for n in range(10)]
    for at, (key, value) in enumerate(
        [*((b"k", value) for value in values[:5]), (None, values[0]), (None, None), (b"k", bad), (b"k", values[5])]
    ):
        producer.produce(topic.name, value, key, timestamp=1_356_998_400_000 + at)
    producer.flush()

    archiver = Archiver(kafka, client, [topic])
    archive_all(archiver, topic)
    archiver.close()

    table = f"headwater.{topic.name.replace('.', '_')}"
    got = list(client.query(f"SELECT * FROM {table} ORDER BY _offset").named_results())
    assert [row["_offset"] for row in got] == [0, 1, 2, 3, 4, 8]
    for row, n in zip(got, range(6), strict=True):
        expected = thing(n)
        for name in ("event_time", "watermark"):
            expected[name] = expected[name] and expected[name].replace(tzinfo=None)
        expected["tags"] = expected["tags"] or []
        raw = client.query(f"SELECT hex(raw) FROM {table} WHERE n = {n}").result_rows[0][0]
        assert bytes.fromhex(raw) == expected.pop("raw")
        assert {name: row[name] for name in expected} == expected

    buried = read(kafka, f"{topic.name}.dlq", 1)[0]
    assert buried.value() == bad
    headers = {name: value.decode() for name, value in buried.headers()}
    assert "1 more bytes" in headers.pop("headwater.error")
    assert headers == {
        "headwater.topic": topic.name,
        "headwater.partition": "0",
        "headwater.offset": "7",
        "headwater.timestamp": "1356998400007",
        "headwater.job": "archive",
    }

    again = Archiver(kafka, client, [topic])
    producer.produce(topic.name, values[6], b"k")
    producer.flush()
    archive_all(again, topic)
    again.close()
    assert client.query(f"SELECT n FROM {table} ORDER BY n").result_columns[0] == list(range(7))


def test_on_somebody_elses_topic_a_record_needs_no_key(
    kafka: str, clickhouse: tuple[str, Client], new_topic: Callable[..., Topic], producer: Producer
) -> None:
    topic, client = new_topic(), clickhouse[1]
    for value in (CODEC.encode(thing(0)), None, CODEC.encode(thing(1))):
        producer.produce(topic.name, value)
    producer.flush()
    archiver = Archiver(kafka, client, [topic])
    archive_all(archiver, topic)
    archiver.close()
    got = client.query(f"SELECT n, _offset FROM headwater.{topic.name.replace('.', '_')} ORDER BY n").result_rows
    assert list(got) == [(0, 0), (1, 2)]


def read(kafka: str, name: str, count: int) -> list[Any]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "test", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(name, 0, 0)])
    found: list[Any] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += consumer.consume(count, 0.5)
    consumer.close()
    return found


def test_a_schema_that_grew_gets_its_column_and_one_that_changed_is_refused(
    clickhouse: tuple[str, Client],
) -> None:
    client, name = clickhouse[1], f"grown.{uuid.uuid4().hex[:8]}"

    def with_fields(**fields: Any) -> Topic:
        listed = [{"name": key, "type": kind} for key, kind in fields.items()]
        return Topic(name, 5, key="a", definition={"type": "record", "name": "G", "fields": listed})

    prepare_tables(client, [with_fields(a="string")])
    prepare_tables(client, [with_fields(a="string", b=["null", "long"])])
    described = client.query(f"DESCRIBE headwater.{name.replace('.', '_')}").result_rows
    assert {row[0]: row[1] for row in described}["b"] == "Nullable(Int64)"
    with pytest.raises(ArchiveError, match="expected column a of type Int32"):
        prepare_tables(client, [with_fields(a="int")])


def test_a_topic_that_was_made_anew_is_not_mixed_in(
    kafka: str, clickhouse: tuple[str, Client], new_topic: Callable[..., Topic]
) -> None:
    topic, client = new_topic(), clickhouse[1]
    prepare_tables(client, [topic])
    client.command(
        f"INSERT INTO headwater.{topic.name.replace('.', '_')} (id, _partition, _offset) VALUES ('a', 0, 41)"
    )
    with pytest.raises(ArchiveError, match="records up to offset 41, the topic ends at 0"):
        Archiver(kafka, client, [topic])


def test_a_missing_topic_is_named(kafka: str, clickhouse: tuple[str, Client]) -> None:
    with pytest.raises(ArchiveError, match=r"things\.nowhere"):
        Archiver(kafka, clickhouse[1], [Topic("things.nowhere", 5, key="id", definition=SCHEMA)], Limits())


def test_killed_at_random_moments_every_record_is_there_once(
    kafka: str, new_topic: Callable[..., Topic], producer: Producer, tmp_path: Path
) -> None:
    """Archiver and ClickHouse are killed again and again while records arrive."""
    rng = random.Random(11)
    topics = [new_topic(2), new_topic(1)]
    derived = tmp_path / "derived.json"
    derived.write_text(
        json.dumps([{"name": t.name, "schema_id": t.schema_id, "key": t.key, "definition": SCHEMA} for t in topics])
    )
    port = free_ports(("clickhouse",))["clickhouse"]
    url = f"http://{HOST}:{port}"
    values = [CODEC.encode(thing(n)) for n in range(1000)]
    done = threading.Event()
    sent = 0

    def produce() -> None:
        nonlocal sent
        while not done.is_set():
            for value in rng.sample(values, 400):
                for topic in topics:
                    producer.produce(topic.name, value, b"k", partition=sent % 2 if topic is topics[0] else 0)
                sent += 1
            producer.flush()
            done.wait(0.05)

    server = python_module("compose.local.clickhouse", "--directory", tmp_path / "clickhouse", "--port", port)
    command = [sys.executable, "-m", "jobs.archive", "--topics", "", "--derived", str(derived), "--kafka", kafka]
    command += ["--clickhouse", url, "--delay-ms", "50"]
    writer = threading.Thread(target=produce)
    writer.start()
    try:
        for round_number in range(5):
            with (
                running(server, tmp_path / "server.log", http_ready(f"{url}/ping")),
                (tmp_path / f"archive{round_number}.log").open("w") as log,
            ):
                process = subprocess.Popen(command, stdout=log, stderr=log)
                time.sleep(rng.uniform(2.0, 4.0))
                if round_number % 2:
                    process.kill()
            # Leaving the block has killed ClickHouse; every other time the archiver has lived through it.
            process.kill()
            process.wait()
    finally:
        done.set()
        writer.join()
    with running(server, tmp_path / "server.log", http_ready(f"{url}/ping")):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        while (line := process.stdout.readline()) and json.loads(line)["lag"]:
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stdout.close()
        client = clickhouse_connect.get_client(dsn=url)
        for topic in topics:
            name = f"headwater.{topic.name.replace('.', '_')}"
            sql = f"SELECT count(), uniqExact(_partition, _offset), uniqExact(_partition) FROM {name}"
            assert client.query(sql).result_rows == [(sent, sent, 2 if topic is topics[0] else 1)]
        client.close()
