"""From Kafka topics to ClickHouse tables, every record once.

The position of a topic's partition is the table's own ``max(_offset) + 1``, and a batch of a topic is one insert, which
is one block, which is there as a whole or not at all. So there is nothing that could disagree with the table: whatever
dies, the next archiver starts where the table ends. The order of a flush:

1. undecodable records go to ``<topic>.dlq``, and Kafka has confirmed them;
2. the good ones are inserted, one insert a topic.

Dead letters have no such anchor: one at the very end of a topic, or of a batch whose insert did not happen, is read and
written again after a restart. Their readers take the coordinates in the headers (topic, partition, offset, job) as key.
Records without value (heartbeats) are not rows, nor are those that a job writes without a key (progress rows); those at
the end of a partition are re-read too. In an upsert topic, a key without value is a row: it deletes the one of its key.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from jobs.quiet import QuietTopics, is_ours
from schemas.batch import TIMESTAMP as MILLISECONDS
from schemas.batch import BatchDecoder, RecordDecoder, nulls_through
from schemas.codec import DecodeError
from schemas.json_batch import JsonBatchDecoder
from schemas.tables import (
    DATABASE,
    DELETED,
    KEY,
    OFFSET,
    PARTITION,
    TIMESTAMP,
    UPSERT,
    columns,
    create_table,
    table_name,
)
from schemas.topics import DLQ_SUFFIX, WITH_PROGRESS, Topic

__all__ = ["STORE_ERRORS", "ArchiveError", "Archiver", "Limits", "prepare_tables", "table_positions"]

JOB = "archive"
ASK_SECONDS = 1.0
STORE_ERRORS = (ClickHouseError, OSError)
log = logging.getLogger(JOB)


class ArchiveError(RuntimeError):
    """The archive cannot go on. The message says what stands in the way and what to do."""


@dataclass(frozen=True)
class Limits:
    """When a batch is written, and how long to bear with the stores.

    Attributes
    ----------
    rows, size_bytes : int
        Of all topics together.
    delay_ms : int
        A record waits no longer for company.
    timeout_seconds : float
        For Kafka to confirm dead letters, and for inserts left by a predecessor to end.
    """

    rows: int = 50_000
    size_bytes: int = 32 << 20
    delay_ms: int = 500
    timeout_seconds: float = 30.0


@dataclass
class _Batch:
    """Records of one topic, by column."""

    values: list[bytes | None] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def add(self, message: Message, value: bytes | None) -> None:
        self.values.append(value)
        self.partitions.append(message.partition() or 0)
        self.offsets.append(message.offset() or 0)
        self.messages.append(message)


def prepare_tables(client: Client, topics: Iterable[Topic], database: str = DATABASE) -> None:
    """Create what is missing: database, tables, columns.

    Raises
    ------
    ArchiveError
        Where a column is there with another type.
    """
    client.command(f"CREATE DATABASE IF NOT EXISTS `{database}`")
    for topic in topics:
        name = table_name(topic.name)
        client.command(create_table(topic, database))
        found = client.query(
            "SELECT name, type FROM system.columns WHERE database = {d:String} AND table = {t:String}",
            parameters={"d": database, "t": name},
        ).result_rows
        present = {str(column): str(kind) for column, kind in found}
        for column, kind in columns(topic.schema, topic.changelog).items():
            if column not in present:
                client.command(f"ALTER TABLE `{database}`.`{name}` ADD COLUMN `{column}` {kind}")
            elif present[column].replace("`", "") != kind.replace("`", ""):
                raise ArchiveError(
                    f"table {database}.{name}: expected column {column} of type {kind}, as {topic.name} has it, "
                    f"got {present[column]}; archive the changed topic under a new name, or drop the table"
                )


def table_positions(client: Client, topic: str, database: str = DATABASE) -> dict[int, int]:
    """The next offset to read of each partition of which the table has rows."""
    name = f"`{database}`.`{table_name(topic)}`"
    found = client.query(f"SELECT {PARTITION}, max({OFFSET}) + 1 FROM {name} GROUP BY {PARTITION}").result_rows
    return {int(partition): int(offset) for partition, offset in found}


class Archiver:
    """Consume topics and insert them, see the module.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    client : Client
    topics : sequence of Topic
    limits : Limits
    database : str
    clock : callable
        Seconds, for delays.

    Raises
    ------
    ArchiveError
        Where a topic is not there, or shorter than its table.
    """

    def __init__(
        self,
        kafka: str,
        client: Client,
        topics: Sequence[Topic],
        limits: Limits | None = None,
        database: str = DATABASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or Limits()
        self._client, self._database, self._clock = client, database, clock
        self._topics = {topic.name: topic for topic in topics}
        self._decoders = {topic.name: _decoder(topic) for topic in topics}
        self._kafka = kafka
        self._admin = AdminClient({"bootstrap.servers": kafka})
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": "headwater-archive",  # required by the client; offsets are never committed
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.partition.eof": True,  # tells the end where it is a transaction's marker and no record
                "queued.max.messages.kbytes": 32 << 10,
                "fetch.wait.max.ms": 100,
            }
        )
        self._producer = Producer({"bootstrap.servers": kafka, "acks": "all", "linger.ms": 5})
        self._batches: dict[str, _Batch] = {}
        self._next: dict[tuple[str, int], int] = {}
        self._rows = self._bytes = 0
        self._oldest = 0.0
        self.counts = {"rows": 0, "dead_letters": 0, "skipped": 0, "inserts": 0}
        prepare_tables(client, topics, database)
        self.rewind()
        timed = [name for name, topic in self._topics.items() if topic.time]
        parts = {name: [part for other, part in self._next if other == name] for name in timed}
        self._quiet = QuietTopics(kafka, parts, clock)
        for name, newest_ms in self._newest_times():
            self._quiet.reached(name, newest_ms)

    def rewind(self) -> None:
        """Forget what is buffered and read on from where the tables end."""
        self._wait_for_inserts()
        self._batches.clear()
        self._rows = self._bytes = 0
        self._next = {
            (name, partition): offset for name in self._topics for partition, offset in self._start(name).items()
        }
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in self._next.items()])

    def step(self) -> None:
        """Read some, and write what is due."""
        wait_seconds = self._limits.delay_ms / 1e3
        if self._rows:
            wait_seconds = max(0.0, self._oldest + wait_seconds - self._clock())
        room = max(1, self._limits.rows - self._rows)
        for message in self._consumer.consume(min(room, 10_000), min(wait_seconds, 0.1)):
            self._take(message)
        due = self._rows >= self._limits.rows or self._bytes >= self._limits.size_bytes
        if self._rows and (due or self._clock() - self._oldest >= self._limits.delay_ms / 1e3):
            self.flush()
        self._quiet.look(self._caught_up)

    def flush(self) -> None:
        """Write everything buffered: dead letters first, see the module."""
        decoded = {name: self._decode(name, batch) for name, batch in self._batches.items()}
        if left := self._producer.flush(self._limits.timeout_seconds):
            raise ArchiveError(f"Kafka did not confirm {left} dead letters in {self._limits.timeout_seconds:.0f} s")
        for name, table in decoded.items():
            if table.num_rows:
                self._client.insert_arrow(table_name(name), table, database=self._database)
                self.counts["inserts"] += 1
                self.counts["rows"] += table.num_rows
                self._note_time(name, table)
        self._batches.clear()
        self._rows = self._bytes = 0

    def lag(self) -> dict[str, int]:
        """Records of each topic that are in Kafka and not read yet, as far as the consumer has heard."""
        found = dict.fromkeys(self._topics, 0)
        for (name, partition), offset in self._next.items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(name, partition), cached=True)
            found[name] += max(0, high - offset)
        return found

    def has_read(self, ends: Mapping[tuple[str, int], int]) -> bool:
        """Whether everything before these offsets has been read; :meth:`flush` writes what of it is buffered."""
        return all(self._next.get(place, 0) >= end for place, end in ends.items())

    def close(self) -> None:
        """Leave without writing; what is buffered is read again."""
        self._consumer.close()
        self._quiet.close()

    def _note_time(self, name: str, table: pa.Table) -> None:
        if time := self._topics[name].time:
            times = table[time].cast(pa.timestamp("ms", table.schema.field(time).type.tz), safe=False)
            if (newest := pc.max(times).value) is not None:
                self._quiet.reached(name, newest)

    def _caught_up(self, name: str) -> set[int]:
        """The partitions of a topic of which Kafka, asked now, has nothing that was not read."""
        # Not get_watermark_offsets: while the broker is away, librdkafka may abort the process in it (its issue 5160).
        newest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(*place): newest for place in self._next if place[0] == name}
        asked = self._admin.list_offsets(wanted, request_timeout=ASK_SECONDS)
        try:
            ends = {at.partition: int(found.result().offset) for at, found in asked.items()}
        except KafkaException:
            # A client that knew the leader from before an election is refused for ever (FENCED_LEADER_EPOCH).
            self._admin = AdminClient({"bootstrap.servers": self._kafka})
            raise
        # A partition of which no answer came in time has the offset OFFSET_INVALID, below zero.
        return {partition for partition, end in ends.items() if 0 <= end <= self._next[name, partition]}

    def _newest_times(self) -> Iterator[tuple[str, int]]:
        """Of the topics whose time goes on by the wall clock, as far as their tables have rows."""
        for topic in self._topics.values():
            if topic.time:
                table = f"`{self._database}`.`{table_name(topic.name)}`"
                text = f"SELECT toUnixTimestamp64Milli(toDateTime64(max(`{topic.time}`), 3)), count() FROM {table}"
                ((newest, rows),) = self._client.query(text).result_rows
                if rows and newest is not None:
                    yield topic.name, int(newest)

    def _take(self, message: Message) -> None:
        place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        if (error := message.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._next[place] = max(offset, self._next[place])
            elif error.code() not in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):  # it reconnects by itself
                raise ArchiveError(f"{place[0]} {place[1]}: {error}")
            return
        name, value = place[0], message.value()
        self._next[place] = offset + 1
        foreign = value is not None or not is_ours(message)
        if foreign:
            self._quiet.heard(*place)
        keyless = message.key() is None
        is_change = value is not None or (self._topics[name].changelog == UPSERT and not keyless)
        if not is_change or (keyless and name.startswith(WITH_PROGRESS)):
            self.counts["skipped"] += 1
            if value is None and self._topics[name].time and foreign:
                self._quiet.reached(name, message.timestamp()[1])  # a heartbeat of the producer's
            return
        if not self._rows:
            self._oldest = self._clock()
        self._batches.setdefault(name, _Batch()).add(message, value)
        self._rows += 1
        self._bytes += len(value or b"")

    def _decode(self, name: str, batch: _Batch) -> pa.Table:
        places = [index for index, each in enumerate(batch.values) if each is not None]
        decoded, bad = self._decoders[name].decode([each for each in batch.values if each is not None])
        for index, error in bad:
            self._bury(batch.messages[places[index]], error)
        dropped = {places[index] for index, _ in bad}
        places = [index for index in places if index not in dropped] if bad else places
        table = pa.Table.from_arrays([nulls_through(each) for each in decoded.columns], names=decoded.schema.names)
        if deleted := [index for index, each in enumerate(batch.values) if each is None]:
            nulls = [nulls_through(pa.nulls(len(deleted), each.type)) for each in table.schema]
            table = pa.concat_tables([table, pa.Table.from_arrays(nulls, names=table.schema.names)])
            places += deleted
        if self._topics[name].changelog:
            table = _with_change(table, [batch.messages[index] for index in places])
        table = table.append_column(PARTITION, pa.array([batch.partitions[i] for i in places], pa.int32()))
        return table.append_column(OFFSET, pa.array([batch.offsets[i] for i in places], pa.int64()))

    def _bury(self, message: Message, error: DecodeError) -> None:
        name, timestamp = message.topic() or "", message.timestamp()[1]
        headers = {
            "headwater.topic": name,
            "headwater.partition": message.partition(),
            "headwater.offset": message.offset(),
            "headwater.timestamp": timestamp,
            "headwater.job": JOB,
            "headwater.error": error,
        }
        self._producer.produce(
            name + DLQ_SUFFIX,
            value=message.value(),
            key=message.key(),
            timestamp=timestamp,
            headers=[(key, str(value).encode()) for key, value in headers.items()],
            on_delivery=_delivered,
        )
        self.counts["dead_letters"] += 1

    def _start(self, name: str) -> dict[int, int]:
        """The offset to start each partition of a topic from."""
        listed = self._admin.list_topics(name, timeout=self._limits.timeout_seconds).topics[name]
        if listed.error is not None:
            raise ArchiveError(f"topic {name}: {listed.error}; create it first, or leave it out of --topics")
        positions = table_positions(self._client, name, self._database)
        start: dict[int, int] = {}
        for partition in listed.partitions:
            place = TopicPartition(name, partition)
            low, high = self._consumer.get_watermark_offsets(place, timeout=self._limits.timeout_seconds)
            start[partition] = max(low, positions.get(partition, 0))
            if start[partition] > high:
                raise ArchiveError(
                    f"{name} {partition}: table {self._database}.{table_name(name)} has records up to offset "
                    f"{start[partition] - 1}, the topic ends at {high}: it is not the topic that was archived; "
                    f"drop the table, or start from another state directory"
                )
            if start[partition] < positions.get(partition, low) or low > positions.get(partition, 0):
                log.warning("%s %d: offsets before %d are gone from Kafka", name, partition, low)
        return start

    def _wait_for_inserts(self) -> None:
        """A predecessor that was killed may have left an insert under way; positions are read after it."""
        deadline = self._clock() + self._limits.timeout_seconds
        text = "SELECT count() FROM system.processes WHERE query ILIKE 'INSERT INTO%' AND match(query, {ours:String})"
        tables = "|".join(map(table_name, self._topics))
        ours = rf"{self._database}`?\.`?({tables})\b"
        while int(str(self._client.command(text, parameters={"ours": ours}))):
            if self._clock() > deadline:
                raise ArchiveError(
                    f"inserts into {self._database} are under way since {self._limits.timeout_seconds} s"
                )
            time.sleep(0.05)


def _decoder(topic: Topic) -> RecordDecoder:
    decoder = JsonBatchDecoder if topic.encoding == "json" else BatchDecoder
    return decoder(topic.schema, topic.schema_id)


def _with_change(table: pa.Table, messages: Sequence[Message]) -> pa.Table:
    """A table of changes with what says whose they are, of when, and whether they delete."""
    table = table.append_column(KEY, pa.array([each.key() for each in messages], pa.binary()))
    table = table.append_column(TIMESTAMP, pa.array([each.timestamp()[1] for each in messages], MILLISECONDS))
    return table.append_column(DELETED, pa.array([each.value() is None for each in messages], pa.bool_()))


def _delivered(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        raise KafkaException(error)
