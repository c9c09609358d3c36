"""A real Kafka of one node, broker and controller in one process, and its topics."""

import base64
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compose.local.home import Home, PlatformError, write_text
from compose.local.jars import jars
from compose.local.java import java_command
from compose.local.services import HOST, Service
from schemas.topics import DLQ_SUFFIX, LATE_SUFFIX, TOPICS, Topic

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = ["HEAP_MB", "create_topics", "kafka_ready", "kafka_service", "side_topics"]

HEAP_MB = 512
READY_TIMEOUT_S = 2.0
ADMIN_TIMEOUT_S = 20
_FOREVER_MS = 2**63 - 1

_JVM = (
    "-Xms192m",
    f"-Xmx{HEAP_MB}m",
    "-XX:+UseSerialGC",  # two cores are shared with everything else: collector threads would only take them away
    "-Xshare:auto",
    "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)

_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # A topic nobody declared is a typing error.
    "auto.create.topics.enable": "false",
    "num.partitions": 1,
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "group.initial.rebalance.delay.ms": 0,
    # A job that is down must find its transactions on its return: one that expired is data a checkpoint has promised.
    "transaction.max.timeout.ms": 24 * 3_600_000,
    # Record time is event time, and event time may be years ago: nothing may be refused for its time, nor deleted or
    # rolled into a new segment because of it.
    "log.message.timestamp.type": "CreateTime",
    "log.message.timestamp.before.max.ms": _FOREVER_MS,
    "log.message.timestamp.after.max.ms": _FOREVER_MS,
    "log.retention.ms": -1,
    "log.retention.bytes": -1,
    "log.roll.ms": 100 * 365 * 86_400_000,
    "log.segment.bytes": 256 << 20,
    "log.index.size.max.bytes": 2 << 20,
    "log.cleaner.dedupe.buffer.size": 16 << 20,
    "message.max.bytes": 8 << 20,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "num.recovery.threads.per.data.dir": 2,
}


def kafka_service(
    home: Home,
    port: int,
    controller_port: int,
    *,
    topics: Callable[[], Iterable[Topic]] | None = None,
    host: str = HOST,
) -> Service:
    """Kafka as a service of the platform; its data outlive it.

    Parameters
    ----------
    home : Home
    port, controller_port : int
        Where clients and the node itself connect.
    topics : function, optional
        Topics to create once Kafka answers, beside those of ``schemas/topics.py``.
    host : str
        Address to listen at.
    """
    address = f"{host}:{port}"
    return Service(
        name="kafka",
        argv=lambda: _prepare(home, address, f"{host}:{controller_port}"),
        ready=kafka_ready(address),
        on_ready=lambda: create_topics(address, topics() if topics else ()),
        # Unflushed log segments are recovered at start, and a clean stop avoids that.
        stop_timeout_s=20,
        endpoint=address,
    )


def _prepare(home: Home, address: str, controller: str) -> list[str]:
    """Write the configuration, format the directory on first use, and return the command."""
    data = home.path("kafka", "data")
    properties = {
        **_PROPERTIES,
        "listeners": f"PLAINTEXT://{address},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{address}",
        "controller.quorum.voters": f"1@{controller}",
        "log.dirs": data,
    }
    config = home.path("kafka", "server.properties")
    write_text(config, "".join(f"{key}={value}\n" for key, value in properties.items()))
    classpath = jars("kafka")
    if not (data / "meta.properties").exists():
        _format(config, classpath)
    return java_command("kafka.Kafka", classpath, options=_JVM, arguments=[str(config)])


def _format(config: Path, classpath: Sequence[Path]) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = java_command(
        "kafka.tools.StorageTool",
        classpath,
        options=("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
        arguments=("format", "--ignore-formatted", f"--cluster-id={cluster}", "--config", str(config)),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise PlatformError(f"Kafka could not format its data directory: {(done.stderr or done.stdout).strip()}")


def kafka_ready(address: str) -> Callable[[], bool]:
    """A check that passes when the broker knows of a controller.

    It asks for metadata, as every client does, and not by an operation of the admin client, such as describing the
    cluster: librdkafka aborts the process where an answer to one of those is cut off at the wrong moment
    (``rd_kafka_admin_response_parse: Assertion `rko_result' failed``, seen as brokers were killed), and this process is
    the one that keeps all others running.
    """

    def check() -> bool:
        # Closed here, whatever comes of it, and not by whichever thread is the last to let go of an error's frame.
        with _admin(address) as admin:
            found = admin.list_topics(timeout=READY_TIMEOUT_S)
            return bool(found.brokers) and found.controller_id >= 0

    return check


def _admin(address: str) -> "AdminClient":
    from confluent_kafka.admin import AdminClient

    # A broker that is not there yet is expected; librdkafka would print every refusal.
    return AdminClient({"bootstrap.servers": address, "log_level": 0, "socket.timeout.ms": 10_000})


def side_topics(topic: Topic) -> tuple[Topic, ...]:
    """The topics beside an event topic: what could not be decoded, and what came too late."""
    return tuple(
        Topic(topic.name + suffix, topic.schema_id, key=topic.key, partitions=topic.partitions)
        for suffix in (DLQ_SUFFIX, LATE_SUFFIX)
    )


def create_topics(address: str, extra: Iterable[Topic] = ()) -> list[str]:
    """Create the topics of ``schemas/topics.py``, their side topics and some more; those that exist are left alone.

    Parameters
    ----------
    address : str
        ``host:port`` of a broker.
    extra : iterable of Topic
        Such as a Feast repo gives rise to. Every topic gets its side topics.

    Returns
    -------
    list of str
        Names of the topics that were not there before. All can be written and read by the time it returns.

    Raises
    ------
    PlatformError
        When Kafka refuses one, with its reason.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.cimpl import NewTopic

    main = {each.name: each for each in (*TOPICS.values(), *extra)}
    wanted = {each.name: each for topic in main.values() for each in (topic, *side_topics(topic))}
    with _admin(address) as admin:
        there = set(admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics)
        new = [
            NewTopic(
                each.name,
                num_partitions=each.partitions,
                replication_factor=1,
                config=_config(each),
            )
            for each in wanted.values()
            if each.name not in there
        ]
        created = []
        for name, future in (admin.create_topics(new, request_timeout=ADMIN_TIMEOUT_S) if new else {}).items():
            try:
                future.result(timeout=ADMIN_TIMEOUT_S)
                created.append(name)
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else was quicker
                    raise PlatformError(f"Kafka at {address} would not create the topic {name}: {exc}") from exc
        _await_served(admin, address, wanted)
    return created


def _config(topic: Topic) -> dict[str, str]:
    config = {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": str(topic.retention_ms),
    }
    return config | ({"segment.bytes": str(topic.segment_bytes)} if topic.segment_bytes else {})


def _await_served(admin: "AdminClient", address: str, names: Collection[str]) -> None:
    """Return once the broker, which hears of new topics from the controller, serves them all."""
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while lacking := _unserved(admin, names):
        if time.monotonic() > deadline:
            raise PlatformError(
                f"Kafka at {address} does not serve {', '.join(sorted(lacking))} after {ADMIN_TIMEOUT_S} s. "
                "`headwater logs kafka` says why."
            )
        time.sleep(0.05)


def _unserved(admin: "AdminClient", names: Collection[str]) -> set[str]:
    """Topics with a partition that has no leader, or of which the leader does not tell the end."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

    there = admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics
    led = {name for name, topic in there.items() if all(each.leader >= 0 for each in topic.partitions.values())}
    if lacking := set(names) - led:
        return lacking
    # A broker makes known that it leads a partition before it has opened it, and refuses requests in between.
    newest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    ends = {TopicPartition(name, partition): newest for name in names for partition in there[name].partitions}
    asked = admin.list_offsets(ends, request_timeout=ADMIN_TIMEOUT_S)
    return {str(at.topic) for at, end in asked.items() if end.exception() is not None or end.result().offset < 0}
