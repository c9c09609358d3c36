"""Ways to what has been written: topics from their start to where they end now, without a trace, and the archive."""

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

__all__ = ["TopicReader", "client_of", "reader"]

# consume(n) is 12 times as fast as poll(); a batch is what Python holds at once.
BATCH_RECORDS = 20_000
POLL_S = 0.05
QUIET_POLLS_MAX = 600


def client_of(clickhouse: str) -> Client:
    """A client of the ClickHouse at a URL."""
    address = urlsplit(clickhouse)
    return clickhouse_connect.get_client(host=address.hostname or "", port=address.port or 8123)


def reader(kafka: str) -> Consumer:
    """A read-committed consumer that belongs to no group's progress.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    """
    return Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "headwater-reader",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "check.crcs": False,
            "fetch.wait.max.ms": 20,
            # At the default of 1 s, a reader that empties its queue faster than that mostly waits: 8 s a million.
            "fetch.queue.backoff.ms": 5,
            "queued.max.messages.kbytes": 65_536,
            # A broker that is away is told to the caller; librdkafka would print every refused connection.
            "log_level": 0,
        }
    )


class TopicReader:
    """Read topics from where the last call stopped to where they end now.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    topics : iterable of str
        Those that do not exist (yet) are left out until they do.
    """

    def __init__(self, kafka: str, topics: Iterable[str]) -> None:
        self._consumer = reader(kafka)
        self._wanted = tuple(topics)
        self._next: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def read(self, take: Callable[[list[Message]], None], timeout_s: float = 10.0) -> None:
        """Hand over everything new, in batches, each of one or more partitions in their order.

        Parameters
        ----------
        take : callable
            Called with lists of records, heartbeats and progress rows among them.
        timeout_s : float
            For the list of topics.

        Raises
        ------
        KafkaException
            Where the broker does not answer, or stops answering.
        """
        places = self._assign(timeout_s)
        open_ends = {(at.topic, at.partition) for at in places}
        quiet = 0
        try:
            while open_ends:
                messages = self._consumer.consume(BATCH_RECORDS, POLL_S)
                quiet = 0 if messages else quiet + 1
                if quiet > QUIET_POLLS_MAX:
                    raise KafkaException(
                        KafkaError(KafkaError._TIMED_OUT, f"no end of {sorted(open_ends)} was reached")
                    )
                if good := [each for each in messages if each.error() is None]:
                    take(good)
                for error, each in [(each.error(), each) for each in messages] if len(good) < len(messages) else ():
                    if error is None:
                        continue
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    open_ends.discard((str(each.topic()), int(each.partition() or 0)))
        finally:
            for at in self._consumer.position(places) if places else ():
                if at.offset >= 0:
                    self._next[at.topic, at.partition] = at.offset
            self._consumer.unassign()

    def _assign(self, timeout_s: float) -> list[TopicPartition]:
        present = self._consumer.list_topics(timeout=timeout_s).topics
        places = [
            TopicPartition(name, part, self._next.get((name, part), 0))
            for name in self._wanted
            if name in present
            for part in present[name].partitions
        ]
        self._consumer.assign(places)
        return places
