"""What Kafka knows about a replay: how far it came, and how far it may go."""

import time
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.codec import Codec
from schemas.topics import topic

__all__ = ["Horizon", "ReplayError", "written"]

CONTROL = "models.control"
LOOK_BACK = 1_000
"""Records at the end of a partition searched for the last ``seq``: others may have written there."""
SETTLE_SECONDS = 0.25

Place = tuple[str, int]
"""Topic and partition."""


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
        # The batch call waits until its batch is full or its time is up: only poll returns at the first record.
        message = self._consumer.poll(timeout_seconds)
        while message is not None:
            for each in [message, *self._consumer.consume(500, 0)]:
                self._take(each)
            message = self._consumer.poll(0)
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


def written(kafka: str, names: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """How far a replay came: by topic and partition, `seq` and timestamp (epoch ms) of its last record.

    (-1, -1) where a partition is empty.

    Raises
    ------
    ReplayError
        Where a topic does not exist, or holds records that no replay has written.
    """
    consumer = _consumer(kafka)
    try:
        places = [(name, each) for name in names for each in range(_partitions(consumer, name))]
        spans = _settled_spans(consumer, places)
        found = _last(consumer, {place: span for place, span in spans.items() if span[1] > span[0]})
    finally:
        consumer.close()
    ends: dict[str, list[tuple[int, int]]] = {}
    for place in places:
        ends.setdefault(place[0], []).append(found.get(place, (-1, -1)))
    return ends


def _settled_spans(consumer: Consumer, places: list[Place]) -> dict[Place, tuple[int, int]]:
    """First and next offset of each partition, once all stand still: what a killed replay sent may yet be written."""

    def read() -> dict[Place, tuple[int, int]]:
        return {place: consumer.get_watermark_offsets(TopicPartition(*place), timeout=10) for place in places}

    before, now = None, read()
    while now != before and any(high for _, high in now.values()):
        time.sleep(SETTLE_SECONDS)
        before, now = now, read()
    return now


def _last(consumer: Consumer, spans: dict[Place, tuple[int, int]]) -> dict[Place, tuple[int, int]]:
    starts = {place: max(low, high - LOOK_BACK) for place, (low, high) in spans.items()}
    consumer.assign([TopicPartition(*place, start) for place, start in starts.items()])
    found: dict[Place, tuple[int, int]] = {}
    left = {place: high for place, (_, high) in spans.items()}
    while left:
        message = consumer.poll(10.0)
        if message is None or message.error():
            got = message.error() if message else "nothing in 10 s"
            raise ReplayError(f"expected records up to the offsets {left}, got {got}")
        place = (str(message.topic()), int(message.partition() or 0))
        if sequence := dict(message.headers() or ()).get("seq"):
            found[place] = int(sequence), message.timestamp()[1]
        if (message.offset() or 0) >= spans[place][1] - 1:
            left.pop(place, None)
    if strange := spans.keys() - found.keys():
        raise ReplayError(f"expected records of a replay in {sorted(strange)}, found others only: use empty topics")
    return found


def _consumer(kafka: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "headwater-replay",  # required by the client, never joined: partitions are assigned
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            # A fetch that waits for records holds up every other request of its connection.
            "fetch.wait.max.ms": 10,
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
