"""Whether anything still moves between the topics and the archive."""

from confluent_kafka import TopicPartition

from compose.reading import reader
from jobs.retraining.payload import Archive
from schemas.topics import DLQ_SUFFIX, LATE_SUFFIX

__all__ = ["Pulse"]

INTERNAL = "__"


class Pulse:
    """The pulse of a platform: the end of every topic.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    clickhouse : str
        ``http://host:port``.
    """

    def __init__(self, kafka: str, clickhouse: str) -> None:
        self._consumer = reader(kafka)
        self._archive = Archive(kafka, clickhouse)

    def beat(self) -> tuple[tuple[str, int, int], ...]:
        """Topic, partition and end offset of everything; equal twice when nothing was written between."""
        found = self._consumer.list_topics(timeout=10).topics
        return tuple(
            (name, part, int(self._consumer.get_watermark_offsets(TopicPartition(name, part), timeout=10)[1]))
            for name in sorted(found)
            if not name.startswith(INTERNAL)
            for part in sorted(found[name].partitions)
        )

    def lag(self) -> list[str]:
        """What the archive lacks, in words."""
        names = {name for name, _, _ in self.beat() if not name.endswith((DLQ_SUFFIX, LATE_SUFFIX))}
        return self._archive.lag(self._archive.ends(tuple(sorted(names))))
