"""The control loop's way to Kafka: whole topics read from the start, and records written together or not at all.

Records are dicts of the topic's schema with times as UTC epoch milliseconds. The timestamp of what is written is its
event time.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.codec import Codec, DecodeError
from schemas.topics import topic

__all__ = [
    "PASSING",
    "BrokerError",
    "FencedError",
    "Publish",
    "TopicLog",
    "Writer",
    "decode",
    "encode",
    "end_offsets",
    "first_timestamp_ms",
    "produce",
    "reader",
    "watermarks",
]

TIMEOUT_S = 30.0
BATCH_RECORDS = 5_000
POLL_S = 0.1
RETRIES_MAX = 20


class BrokerError(RuntimeError):
    """Kafka did not do what was asked. The message says what was expected and what came."""


class FencedError(BrokerError):
    """Another process has taken over this one's transactional id: whatever is under way here must be given up."""


@dataclass(frozen=True)
class Publish:
    """A record to be written.

    Attributes
    ----------
    topic : str
        One of ``schemas/topics.py``.
    record : mapping
        Times in UTC epoch milliseconds; ``event_time``, or an alert's ``window_end``, is the record's own.
    """

    topic: str
    record: Mapping[str, Any] = field(hash=False)


@cache
def _codec(name: str) -> Codec:
    """A codec that leaves times as the integers they are on the wire."""
    return Codec(_plain(topic(name).schema), topic(name).schema_id)


def _plain(avro: Any) -> Any:
    if isinstance(avro, list):
        return [_plain(each) for each in avro]
    if isinstance(avro, dict):
        return {key: _plain(value) for key, value in deepcopy(avro).items() if key != "logicalType"}
    return avro


def encode(name: str, record: Mapping[str, Any]) -> bytes:
    """Wire bytes of a record of that topic."""
    return _codec(name).encode(record)


def decode(name: str, value: bytes) -> dict[str, Any]:
    """The record in wire bytes, times in epoch milliseconds.

    Raises
    ------
    schemas.codec.DecodeError
    """
    return _codec(name).decode(value)


def reader(kafka: str, group: str = "headwater-reader", **settings: Any) -> Consumer:
    """A read-committed consumer that commits nothing by itself.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    group : str
        Joined only by those who subscribe.
    **settings
        More of librdkafka's, with underscores for dots.
    """
    return Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
            **_named(settings),
        }
    )


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """By librdkafka's names, of which one has no dots."""
    return {name if name == "log_level" else name.replace("_", "."): value for name, value in settings.items()}


class TopicLog:
    """Some of our topics from their first record on, by explicit assignment: no group, no stored progress.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    names : sequence of str, or mapping of str to str
        Topics of ``schemas/topics.py``; or the names of topics at the broker and those of ours that they are mirrors
        of. Records are handed over under ours.
    **settings
        More of librdkafka's, with underscores for dots.

    Raises
    ------
    BrokerError
        Where the broker does not answer or a topic is missing.
    """

    def __init__(self, kafka: str, names: Sequence[str] | Mapping[str, str], **settings: Any) -> None:
        self._ours = names if isinstance(names, Mapping) else {name: name for name in names}
        self._kafka, self._settings = kafka, settings
        self._consumer = reader(kafka, enable_partition_eof=True, **settings)
        self._uncommitted: Consumer | None = None
        self._next: dict[tuple[str, int], int] = {}
        places = [TopicPartition(name, part, 0) for name in self._ours for part in _partitions(self._consumer, name)]
        self._places = [(str(each.topic), int(each.partition)) for each in places]
        self._open = set(self._places)
        self._consumer.assign(places)
        self.undecodable: list[str] = []

    def to_end(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Topic and record of everything there is, each partition in its order.

        Raises
        ------
        BrokerError
            Where an end is not reached in time.
        """
        quiet_s = 0.0
        while self._open:
            # A wait for more than one is waited out to its end, so the first is waited for alone.
            messages = self._consumer.consume(1, POLL_S) + self._consumer.consume(BATCH_RECORDS, 0)
            quiet_s = 0.0 if messages else quiet_s + POLL_S
            if quiet_s > TIMEOUT_S:
                raise BrokerError(f"expected Kafka to bring {sorted(self._open)} to their ends, got nothing in time")
            yield from self._take(messages)

    def poll(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """What has come since, waiting for the first record no longer than the timeout."""
        found = list(self._take(self._consumer.consume(1, timeout_s)))
        while more := self._consumer.consume(BATCH_RECORDS, 0):
            found += self._take(more)
        return found

    def written(self, name: str) -> dict[int, int]:
        """Per partition of a topic the offset behind the last record, also of transactions that are still open."""
        if self._uncommitted is None:
            self._uncommitted = reader(self._kafka, isolation_level="read_uncommitted", **self._settings)
        parts = [part for topic_name, part in self._places if topic_name == name]
        return {part: watermarks(self._uncommitted, name, part)[1] for part in parts}

    def has_read(self, name: str, offsets: Mapping[int, int]) -> bool:
        """Whether everything before these offsets has been handed over, or was never committed."""
        return all(self._next.get((name, part), 0) >= offset for part, offset in offsets.items())

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()
        if self._uncommitted is not None:
            self._uncommitted.close()

    def _take(self, messages: list[Message]) -> Iterator[tuple[str, dict[str, Any]]]:
        for each in messages:
            place, error, value = (str(each.topic()), int(each.partition() or 0)), each.error(), each.value()
            if error is None:
                self._next[place] = int(each.offset() or 0) + 1
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._open.discard(place)
                    self._next[place] = int(each.offset() or 0)
                elif not error.retriable() and error.code() not in PASSING:
                    raise BrokerError(f"expected records of {place}, got {error}")
            elif value is not None:
                name = self._ours[place[0]]
                try:
                    yield name, decode(name, value)
                except DecodeError as exc:  # not ours to judge; said, and passed over
                    self.undecodable.append(f"{place[0]}-{place[1]}@{each.offset()}: {exc}")


PASSING = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE}
"""Errors that librdkafka heals by itself."""


class Writer:
    """Writes records in transactions: all of them or none, and nothing of a process that has been superseded.

    Threads may share it: their transactions follow one another.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    transactional_id : str
        Who opens a writer of the same id later fences this one off.
    **settings
        More of librdkafka's, with underscores for dots.

    Raises
    ------
    BrokerError
        Where the broker does not answer.
    """

    def __init__(self, kafka: str, transactional_id: str, **settings: Any) -> None:
        self._id = transactional_id
        self._lock = threading.Lock()
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "transactional.id": transactional_id,
                "enable.idempotence": True,
                "linger.ms": 0,
                "transaction.timeout.ms": 60_000,
                **_named(settings),
            }
        )
        self._try(lambda: self._producer.init_transactions(TIMEOUT_S))

    def publish(
        self,
        records: Sequence[Publish],
        offsets: Sequence[TopicPartition] = (),
        consumer: Consumer | None = None,
    ) -> None:
        """Write the records, and a consumer's progress with them.

        Raises
        ------
        FencedError
            Where a newer writer has the transactional id.
        BrokerError
            Where the transaction did not come about; nothing of it is to be seen then.
        """
        if records or offsets:
            with self._lock:
                self._transact(records, offsets, consumer)

    def close(self) -> None:
        """Let go of the broker."""
        self._producer.close()

    def _transact(
        self, records: Sequence[Publish], offsets: Sequence[TopicPartition], consumer: Consumer | None
    ) -> None:
        self._try(self._producer.begin_transaction)
        try:
            for each in records:
                produce(self._producer, each)
            if offsets and consumer is not None:
                group = consumer.consumer_group_metadata()
                self._try(lambda: self._producer.send_offsets_to_transaction(list(offsets), group, TIMEOUT_S))
            self._try(lambda: self._producer.commit_transaction(TIMEOUT_S))
        except FencedError:
            raise
        except BaseException:
            self._try(lambda: self._producer.abort_transaction(TIMEOUT_S))
            raise

    def _try(self, call: Callable[[], Any]) -> None:
        for attempt in range(RETRIES_MAX):
            try:
                call()
            except KafkaException as exc:
                error = exc.args[0]
                if error.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
                    raise FencedError(f"{self._id}: another process has taken over ({error})") from exc
                if error.retriable() and attempt + 1 < RETRIES_MAX:
                    continue  # the call itself has waited
                raise BrokerError(f"{self._id}: expected Kafka to take a transaction, got {error}") from exc
            else:
                return


def produce(producer: Producer, each: Publish) -> None:
    """Hand a record to a client of Kafka: encoded, under its topic's key, and with its event time."""
    key = str(each.record[topic(each.topic).key]).encode()
    # Zero would mean "now" to the client.
    time_ms = max(1, int(each.record["window_end" if each.topic == "drift.alerts" else "event_time"]))
    producer.produce(each.topic, encode(each.topic, each.record), key, timestamp=time_ms)


def end_offsets(kafka: str, name: str, committed: bool = True) -> dict[int, tuple[int, int]]:
    """Per partition the first offset and the one behind the last committed record, or behind the last of any."""
    consumer = reader(kafka, **({} if committed else {"isolation.level": "read_uncommitted"}))
    try:
        found = {part: watermarks(consumer, name, part) for part in _partitions(consumer, name)}
    finally:
        consumer.close()
    return found


def first_timestamp_ms(kafka: str, name: str) -> int | None:
    """The smallest timestamp of the first record of each partition, heartbeats among them; None where all are empty."""
    consumer = reader(kafka)
    found = []
    try:
        for part in _partitions(consumer, name):
            low, high = watermarks(consumer, name, part)
            if high > low:
                consumer.assign([TopicPartition(name, part, low)])
                message = consumer.poll(TIMEOUT_S)
                if message is not None and message.error() is None:
                    found.append(int(message.timestamp()[1]))
    finally:
        consumer.close()
    return min(found, default=None)


def watermarks(consumer: Consumer, name: str, partition: int) -> tuple[int, int]:
    """The first offset of a partition and the one behind its last record, as far as a consumer is let see.

    Raises
    ------
    BrokerError
        Where the broker does not answer.
    """
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=TIMEOUT_S)
    except KafkaException as exc:
        raise BrokerError(f"expected the offsets of {name}-{partition}, got {exc}: is the platform up?") from exc
    return int(low), int(high)


def _partitions(consumer: Consumer, name: str) -> list[int]:
    try:
        found = consumer.list_topics(name, timeout=TIMEOUT_S).topics[name]
    except KafkaException as exc:
        raise BrokerError(f"expected a Kafka broker with topic {name}, got {exc}: is the platform up?") from exc
    if found.error is not None:
        raise BrokerError(f"expected topic {name}, got {found.error}: create the topics of schemas/topics.py first")
    return sorted(found.partitions)
