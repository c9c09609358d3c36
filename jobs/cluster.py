"""A table environment on a Flink session cluster, and a job sent to it."""

import sys
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from py4j.java_gateway import GatewayConnection, JavaGateway
from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import StatementSet, StreamTableEnvironment

__all__ = ["Cluster", "gateway", "send", "send_by_table", "stream_environment"]


@dataclass(frozen=True)
class Cluster:
    """Where and how jobs run.

    Attributes
    ----------
    url : str
        The cluster's REST address, ``http://host:port``.
    jars : tuple of str
        Archives that go with every job: the Kafka connector and Headwater's format.
    checkpoint_ms : int
        How often state is saved and transactions commit: what a reader downstream waits for.
    savepoint : str
        Checkpoint to start from; empty starts afresh.
    drops : bool
        Leave what the checkpoint holds of operators that the job has no more; else it is refused.
    """

    url: str
    jars: tuple[str, ...] = ()
    checkpoint_ms: int = 1000
    savepoint: str = ""
    drops: bool = False


class _OwnConnections(threading.local):
    """The idle connections of py4j's client: each thread finds those that it opened itself."""

    def __init__(self) -> None:
        self._idle: list[GatewayConnection] = []

    def __len__(self) -> int:
        return len(self._idle)

    def pop(self) -> GatewayConnection:
        return self._idle.pop()

    def append(self, connection: GatewayConnection) -> None:
        self._idle.append(connection)


def gateway() -> JavaGateway:
    """PyFlink's Java virtual machine, in which each of our threads keeps to one of its own.

    Flink's planner leaves what it needs in the Java thread that made the table environment, and fails in another
    (``NullPointerException: metadataHandlerProvider``, FLINK-23020). py4j gives a command whichever connection is idle,
    and with it another Java thread, once two of our threads were at it at the same time; a garbage collection that
    comes by in a progress bar's thread is enough.
    """
    found = get_gateway()
    client: Any = found._gateway_client
    if not isinstance(client.deque, _OwnConnections):
        ours = _OwnConnections()
        while client.deque:
            ours.append(client.deque.popleft())
        client.deque = ours
    return found


def stream_environment(cluster: Cluster, name: str) -> StreamTableEnvironment:
    """A streaming table environment whose statements run as jobs called ``name`` on the cluster."""
    address = urlsplit(cluster.url)
    options = {
        "execution.target": "remote",
        "rest.address": str(address.hostname),
        "rest.port": str(address.port),
        "execution.attached": "false",
        "pipeline.name": name,
        "pipeline.object-reuse": "true",
        "pipeline.jars": ";".join(f"file://{each}" for each in cluster.jars),
        "parallelism.default": "1",
        "table.local-time-zone": "UTC",
        "pipeline.auto-watermark-interval": "50 ms",
        # A local phase clears its share of managed memory at every boundary, to save shuffling records that have few
        # others of their key in their slice: 61 s of processor time for a year of features, 54 s without.
        "table.optimizer.agg-phase-strategy": "ONE_PHASE",
        "execution.checkpointing.interval": f"{cluster.checkpoint_ms} ms",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        # A job's own setting, not the cluster's: a job that was cancelled goes on from here.
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.min-pause": f"{cluster.checkpoint_ms // 2} ms",
        # Fewer, larger Python bundles: 126 K rows/s through a Pandas function instead of 81 K/s at the defaults.
        "python.fn-execution.arrow.batch.size": "20000",
        "python.fn-execution.bundle.size": "100000",
        "python.fn-execution.bundle.time": "200",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }
    if cluster.savepoint:
        options["execution.state-recovery.path"] = cluster.savepoint
        options["execution.state-recovery.ignore-unclaimed-state"] = str(cluster.drops).lower()
    configuration = Configuration()
    for key, value in options.items():
        if value:
            configuration.set_string(key, value)
    # get_execution_environment() would give a local one whatever execution.target says; this constructor obeys it.
    environment = gateway().jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    return StreamTableEnvironment.create(StreamExecutionEnvironment(environment(configuration._j_configuration)))


def send(statements: StatementSet) -> str:
    """Submit the statements as one job.

    Returns
    -------
    str
        The job's id on the cluster.
    """
    client = statements.execute().get_job_client()
    if client is None:
        raise RuntimeError("the cluster took the statements and gave no job back; look at its web page")
    return str(client.get_job_id())


def send_by_table(environment: StreamTableEnvironment, statements: StatementSet, name: str) -> str:
    """Submit the statements as one job whose sources and sinks find their state by the names of their tables.

    Otherwise Flink finds it by where they are in the job. ``table.exec.uid.generation`` would name them by numbers,
    which count what stands before them.

    Returns
    -------
    str
        The job's id on the cluster.
    """
    statements.attach_as_datastream()
    found = environment._j_tenv.execEnv()
    for each in _all_of(found.getTransformations()):
        kind = each.getClass().getSimpleName()
        if kind == "SourceTransformation":  # KafkaSource-default_catalog.default_database.orders_records
            each.setUid(str(each.getName()).rpartition(".")[2])
        elif kind == "SinkTransformation":  # features_spending[15]
            each.setUid(str(each.getName()).partition("[")[0])
        elif "Python" in str(each.getName()):
            _apart_from_sources(each)
    return str(StreamExecutionEnvironment(found).execute_async(name).get_job_id())


def _apart_from_sources(transformation: Any) -> None:
    """Give the sources before a transformation threads of their own.

    A function in Python may take many seconds for its first batch. In one chain with it the source stands still as
    long, and takes a partition that it did not come to read for idle: its records would all be late.
    """
    never = gateway().jvm.org.apache.flink.streaming.api.operators.ChainingStrategy.NEVER
    for each in transformation.getTransitivePredecessors():
        if each.getClass().getSimpleName() == "SourceTransformation":
            each.setChainingStrategy(never)


def _all_of(transformations: Any) -> list[Any]:
    """Every transformation that leads to those given, once."""
    found: dict[int, Any] = {}
    left = list(transformations)
    while left:
        each = left.pop()
        if each.getId() not in found:
            found[each.getId()] = each
            left.extend(each.getInputs())
    return list(found.values())
