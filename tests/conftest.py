"""A real platform for tests: started once a session, on free ports, in a directory of its own."""

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from compose.local.platform import Platform, Running, memory_bytes

_MEASURED = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Platform]:
    """Kafka, Flink and ClickHouse. Tests share it, so they use topics and tables of their own."""
    began = time.monotonic()
    with Platform(tmp_path_factory.mktemp("platform")).running() as started:
        measured = {"start_s": time.monotonic() - began}
        request.config.stash[_MEASURED] = measured
        try:
            yield started
        finally:
            if (running := Running.find(started.home)) is not None:
                measured |= {f"{name}_mb": size / 2**20 for name, size in memory_bytes(running).items()}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """An empty archive: ClickHouse alone."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port = each.getsockname()[1]
    command = [sys.executable, "-m", "compose.local.clickhouse", "--port", str(port)]
    command += ["--directory", str(tmp_path_factory.mktemp("chdb"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "ready" in process.stdout.readline()
    with clickhouse_connect.get_client(host="127.0.0.1", port=port) as found:
        found.command("CREATE DATABASE headwater")
        yield found
    process.terminate()
    assert process.wait(15) == 0
    process.stdout.close()


@pytest.fixture(scope="session")
def kafka_topic(platform: Platform) -> Callable[..., str]:
    """A factory of topics nobody else has."""
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": platform.endpoints.kafka})

    def create(prefix: str = "test", partitions: int = 1, **config: str) -> str:
        name = f"{prefix}.{uuid.uuid4().hex[:8]}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        admin.create_topics([new])[name].result(timeout=20)
        return name

    return create


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the platform took."""
    if measured := config.stash.get(_MEASURED, None):
        memory = {name[:-3]: size for name, size in measured.items() if name.endswith("_mb")}
        parts = ", ".join(f"{name} {size:.0f}" for name, size in memory.items())
        total = f"{sum(memory.values()):.0f} MB resident at the end ({parts})"
        terminalreporter.write_line(f"platform: up after {measured['start_s']:.1f} s, {total}")
