"""What a training run is told, and when the store has all it will ask for.

Everything is read from topics as of the event's time, so a payload made again after a crash is the same.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Message, TopicPartition

from features.compiler.inputs import Inputs
from jobs.kafka import BrokerError, TopicLog, decode, end_offsets, reader
from jobs.reading import client_of
from monitors.policy import Policy, quarantine_spans
from schemas.codec import DecodeError
from schemas.topics import TOPICS

__all__ = ["REPO", "Archive", "Places", "Sources", "champion_at", "last_kept_offset", "training_payload"]

REPO = Path(__file__).parents[2] / "features"
LOOK_BACK = 256
READ_SECONDS = 30.0


@dataclass(frozen=True)
class Places:
    """Where a run finds what it needs.

    Attributes
    ----------
    clickhouse : str
        ``http://host:port``.
    mlflow_uri : str
    models_dir : str
    repo : str
        The Feast repo that defines what the models read.
    """

    clickhouse: str
    mlflow_uri: str
    models_dir: str
    repo: str


def training_payload(
    kafka: str, event: Mapping[str, Any], policy: Policy, places: Places, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """The payload of an incident's run, see :mod:`jobs.training`; times in epoch milliseconds.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    event : mapping
        A record of ``retraining.events``.
    policy : Policy
    places : Places
    inputs : mapping
        Of the model, see :meth:`features.compiler.inputs.Inputs.as_dict`.
    """
    log = TopicLog(kafka, ("drift.alerts", "models.control"))
    told = [(name, record) for name, record in log.to_end() if record["model"] == event["model"]]
    log.close()
    cutoff_ms = event["event_time"]
    spans = quarantine_spans(policy, [record for name, record in told if name == "drift.alerts"], cutoff_ms)
    return {
        "incident_id": event["incident_id"],
        "model": event["model"],
        "cutoff_ms": cutoff_ms,
        "effective_from_ms": event["effective_from"],
        "quarantine": [list(span) for span in spans],
        "champion": champion_at(cutoff_ms, [record for name, record in told if name == "models.control"]),
        "margin": policy.margin,
        "parity": policy.parity,
        "reason": event["reason"],
        "inputs": dict(inputs),
        "kafka": kafka,
        "repo": places.repo,
        "clickhouse": places.clickhouse,
        "mlflow_uri": places.mlflow_uri,
        "models_dir": places.models_dir,
    }


def champion_at(time_ms: int, controls: list[Mapping[str, Any]] | list[dict[str, Any]]) -> dict[str, str] | None:
    """Version and uri of the trained model that answers at an event time; None while the prior does."""
    known = [each for each in controls if each["event_time"] <= time_ms]
    newest = max(known, key=lambda each: int(each["event_time"]), default=None)
    if newest is None or not newest["uri"]:
        return None
    return {"version": newest["version"], "uri": newest["uri"]}


class Archive:
    """Whether ClickHouse has caught up with Kafka.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    clickhouse : str
        ``http://host:port``.
    """

    def __init__(self, kafka: str, clickhouse: str) -> None:
        self.kafka, self.clickhouse = kafka, clickhouse

    def ends(self, topics: tuple[str, ...]) -> dict[tuple[str, int], int]:
        """Per topic and partition the offset of the last record that is archived; partitions without any left out.

        Heartbeats, progress rows and records that do not decode are not archived.
        """
        found = {}
        for name in topics:
            for part, (low, high) in end_offsets(self.kafka, name).items():
                last = last_kept_offset(self.kafka, name, part, low, high, _is_archived)
                if last is not None:
                    found[name, part] = last
        return found

    def rows(self, topic: str) -> int:
        """Archived records of a topic; 0 where ClickHouse cannot say."""
        try:
            return sum(int(count) for _, _, count in self._stored(topic))
        except (ClickHouseError, OSError):
            return 0

    def tables(self) -> dict[str, int]:
        """Archived records by table; empty where ClickHouse cannot say."""
        sql = "SELECT table, sum(rows) FROM system.parts WHERE active AND database = 'headwater' GROUP BY table"
        try:
            return {str(name): int(rows) for name, rows in self._query(sql)}
        except (ClickHouseError, OSError):
            return {}

    def _stored(self, topic: str) -> list[tuple[int, int, int]]:
        """Partition, newest offset and number of records of a topic's table."""
        table = f"headwater.{topic.replace('.', '_')}"
        sql = f"SELECT _partition, max(_offset), count() FROM {table} GROUP BY _partition"
        return [(int(part), int(offset), int(count)) for part, offset, count in self._query(sql)]

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        client = client_of(self.clickhouse)
        try:
            return [tuple(row) for row in client.query(sql).result_rows]
        finally:
            client.close()

    def lag(self, ends: Mapping[tuple[str, int], int]) -> list[str]:
        """What ClickHouse lacks, in words; empty once it has everything up to these offsets."""
        try:
            names = {name for name, _ in ends}
            found = {(name, part): offset for name in names for part, offset, _ in self._stored(name)}
        except (ClickHouseError, OSError) as exc:  # it may be starting, and the table may not be there yet
            return [f"{self.clickhouse}: {exc}"]
        return [
            f"{name}-{part}: {found.get((name, part), 'nothing')} of {offset}"
            for (name, part), offset in ends.items()
            if found.get((name, part), -1) < offset
        ]


class Sources:
    """Preparation from Kafka's topics and ClickHouse.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    policy : Policy
    places : Places
    inputs : mapping of model to Inputs
    """

    def __init__(self, kafka: str, policy: Policy, places: Places, inputs: Mapping[str, Inputs]) -> None:
        self.kafka, self.policy, self.places, self.inputs = kafka, policy, places, inputs
        self._archive = Archive(kafka, places.clickhouse)
        self._ends: dict[str, dict[tuple[str, int], int]] = {}

    def payload(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """See :class:`jobs.retraining.retrainer.Preparation`."""
        inputs = self.inputs.get(event["model"])
        known = inputs.as_dict() if inputs else {}
        return training_payload(self.kafka, event, self.policy, self.places, known)

    def missing(self, event: Mapping[str, Any]) -> list[str]:
        """See :class:`jobs.retraining.retrainer.Preparation`: all that Kafka held at the first look."""
        key, model = event["incident_id"], event["model"]
        if model not in self.inputs:
            known = ", ".join(sorted(self.inputs)) or "none"
            return [f"what model {model!r} reads: known are {known}; is it a feature service of the repo?"]
        if key not in self._ends:
            inputs = self.inputs[model]
            read = {f"predictions.{model}", inputs.labels, *inputs.feeds.values()}
            self._ends[key] = self._archive.ends(tuple(sorted(read)))
        found = self._archive.lag(self._ends[key])
        if not found:
            del self._ends[key]
        return found


def _is_archived(message: Message) -> bool:
    name, value = str(message.topic()), message.value()
    if value is None or message.key() is None:
        return False
    if name in TOPICS:
        try:
            decode(name, value)
        except DecodeError:
            return False
    return True


def last_kept_offset(
    kafka: str, name: str, partition: int, low: int, high: int, keep: Callable[[Message], bool]
) -> int | None:
    """Offset of the last record of a partition that is kept, looking back further and further from its end.

    Raises
    ------
    BrokerError
        Where the end is not reached in time.
    """
    consumer = reader(kafka, enable_partition_eof=True)
    try:
        look_back, end = LOOK_BACK, high
        while end > low:
            start = max(low, end - look_back)
            consumer.assign([TopicPartition(name, partition, start)])
            kept = [each.offset() for each in _between(consumer, end) if keep(each)]
            if kept:
                return int(kept[-1] or 0)
            end, look_back = start, look_back * 4
    finally:
        consumer.close()
    return None


def _between(consumer: Any, end: int) -> list[Message]:
    """Records up to an offset, of one assigned partition."""
    found: list[Message] = []
    deadline = time.monotonic() + READ_SECONDS
    while time.monotonic() < deadline:
        for each in consumer.consume(10_000, 0.1):
            if each.error() is not None or each.offset() >= end:
                if each.error() is None or each.offset() >= end:
                    return found
                continue
            found.append(each)
            if each.offset() == end - 1:
                return found
    raise BrokerError(
        f"expected to read a partition up to offset {end} in {READ_SECONDS:.0f} s, got {len(found)} records"
    )
