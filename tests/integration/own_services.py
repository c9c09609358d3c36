"""A broker and an archive of one's own, for tests that need the real names of topics and tables to themselves."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka.admin import AdminClient

from compose.local.home import Home
from compose.local.kafka import kafka_ready, kafka_service
from compose.local.services import HOST, free_ports, http_ready, python_module

STARTED_IN_S = 60


@contextmanager
def running(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """A process, from when it answers until it is killed."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + STARTED_IN_S
        while True:
            try:
                if ready():
                    break
            except Exception:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(log.read_text()[-2000:])
                time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def own_kafka(root: Path) -> Iterator[str]:
    """``host:port`` of an empty broker."""
    ports = free_ports(("kafka", "kafka_controller"))
    service = kafka_service(Home(root), ports["kafka"], ports["kafka_controller"])
    for each in ("kafka", "logs"):
        (root / each).mkdir(parents=True, exist_ok=True)
    address = f"{HOST}:{ports['kafka']}"
    with running(service.command(), root / "kafka.log", kafka_ready(address)):
        yield address


@contextmanager
def own_clickhouse(root: Path) -> Iterator[tuple[str, Client]]:
    """URL of an empty archive, and a client of it."""
    port = free_ports(("clickhouse",))["clickhouse"]
    url = f"http://{HOST}:{port}"
    command = python_module("compose.local.clickhouse", "--directory", root / "clickhouse", "--port", port)
    root.mkdir(parents=True, exist_ok=True)
    with running(command, root / "clickhouse.log", http_ready(f"{url}/ping")):
        client = clickhouse_connect.get_client(dsn=url)
        client.command("CREATE DATABASE IF NOT EXISTS headwater")
        yield url, client
        client.close()


def clear(kafka: str) -> None:
    """Delete every topic."""
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})

    def present() -> list[str]:
        return [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]

    names = present()
    for gone in admin.delete_topics(names).values() if names else ():
        gone.result(10)
    while present():
        time.sleep(0.05)
