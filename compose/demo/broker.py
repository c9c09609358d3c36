"""What Kafka knows about a replay: how far it came, and how far it may go."""

import time

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from schemas.topics import topic

__all__ = ["Horizon", "ReplayError", "written"]

CONTROL = "models.control"
LOOK_BACK = 1_000
"""Records at the end of a partition searched for the last ``seq``: others may have written there."""


class ReplayError(RuntimeError):
    """The traffic cannot be replayed. The message says what was expected and what to do."""


class Horizon:
    """The event time up to which the control loop allows traffic, read from ``models.control``.

    Parameters
    ----------
    kafka : str
        host:port.
    model : str
        Whose records count.
    """

    def __init__(self, kafka: str, model: str) -> None:
        self.model = model
        self.horizon_ms = -1
        self._codec = Codec(topic(CONTROL).schema, topic(CONTROL).schema_id)
        self._consumer = _consumer(kafka)
        partitions = _partitions(self._consumer, CONTROL)
        self._consumer.assign([TopicPartition(CONTROL, each, 0) for each in range(partitions)])

    def read(self, timeout_seconds: float = 0.0) -> int:
        """The newest horizon, epoch ms; -1 before there is any. Waits for news no longer than the timeout."""
        while messages := self._consumer.consume(500, timeout_seconds):
            for message in messages:
                self._take(message)
            timeout_seconds = 0.0
        return self.horizon_ms

    def _take(self, message: Message) -> None:
        value = message.value()
        if message.error() or value is None:
            return
        record = self._codec.decode(value)
        if record["model"] == self.model and record["watermark"] is not None:
            self.horizon_ms = max(self.horizon_ms, round(record["watermark"].timestamp() * 1000))

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()


def written(kafka: str, name: str) -> list[tuple[int, int]]:
    """Per partition, the last `seq` and the timestamp (epoch ms) of the last record; (-1, -1) where it is empty.

    Raises
    ------
    ReplayError
        Where the topic does not exist, or holds records that no replay has written.
    """
    consumer = _consumer(kafka)
    try:
        return [_last(consumer, name, each) for each in range(_partitions(consumer, name))]
    finally:
        consumer.close()


def _last(consumer: Consumer, name: str, partition: int) -> tuple[int, int]:
    at = TopicPartition(name, partition)
    low, high = _settled_watermarks(consumer, at)
    if high <= low:
        return -1, -1
    start = max(low, high - LOOK_BACK)
    consumer.assign([TopicPartition(name, partition, start)])
    sequence, time_ms, offset = -1, -1, start - 1
    while offset < high - 1:
        messages = consumer.consume(LOOK_BACK, 10.0)
        if not messages or messages[0].error():
            got = messages[0].error() if messages else "nothing in 10 s"
            raise ReplayError(f"expected {name}-{partition} up to offset {high}, got {got}")
        for message in messages:
            offset = message.offset() or offset
            if found := dict(message.headers() or ()).get("seq"):
                sequence, time_ms = int(found), message.timestamp()[1]
    if time_ms < 0:
        raise ReplayError(f"expected records of a replay in {name}, found others only: use another topic, or delete it")
    return sequence, time_ms


def _settled_watermarks(consumer: Consumer, at: TopicPartition) -> tuple[int, int]:
    """Offsets of a partition once they stand still: what a killed replay had under way may yet be written."""
    before = consumer.get_watermark_offsets(at, timeout=10)
    while True:
        time.sleep(0.25 if before[1] else 0.0)
        now = consumer.get_watermark_offsets(at, timeout=10)
        if now == before:
            return int(now[0]), int(now[1])
        before = now


def _consumer(kafka: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "headwater-replay",  # required by the client, never joined: partitions are assigned
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )


def _partitions(consumer: Consumer, name: str) -> int:
    try:
        found = consumer.list_topics(name, timeout=10).topics[name]
    except KafkaException as exc:
        raise ReplayError(f"expected a Kafka broker with topic {name}, got {exc}: is the platform up?") from exc
    if found.error is not None:
        raise ReplayError(f"expected topic {name}, got {found.error}: create the topics of schemas/topics.py first")
    return len(found.partitions)
