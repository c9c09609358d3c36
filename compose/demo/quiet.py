"""Whether anything still moves between the topics and the archive, and what has not arrived yet."""

from collections.abc import Mapping

from confluent_kafka import TopicPartition

from compose.control import WINDOWS_TOPIC, ControlLog, milliseconds
from compose.demo.keys import Aside
from compose.demo.ledger import REQUESTS
from compose.reading import reader
from jobs.retraining.payload import Archive
from schemas.topics import DAY_MS, DLQ_SUFFIX, LATE_SUFFIX

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
        self._kafka = kafka
        self._consumer = reader(kafka)
        self._archive = Archive(kafka, clickhouse)
        self._control = ControlLog(kafka, windows=True)

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

    def outstanding(self, sent: Mapping[str, int], end_ms: int, predictions: str = "predictions.delay") -> list[str]:
        """What traffic that is over must still lead to, in words: an answer to each request, judged windows.

        Silence alone would not tell: on a busy machine a job can be quiet for longer than anyone would wait.

        Parameters
        ----------
        sent : mapping of str to int
            Events by topic.
        end_ms : int
            Event time of the last heartbeat.
        predictions : str
        """
        found = []
        asked, answered = sent.get(REQUESTS, 0), self._archive.rows(predictions)
        if answered < asked:  # what was set aside is not answered; read only while something is missing
            aside = Aside.read(self._kafka, self._consumer.list_topics(timeout=10).topics)
            answered += sum(len(places) for places in aside.places(REQUESTS))
        if answered < asked:
            found.append(f"{asked - answered:,} predictions")
        self._control.refresh()
        judged_ms = max((milliseconds(each["window_end"]) for each in self._control.records[WINDOWS_TOPIC]), default=0)
        # The watermark ends a millisecond before the last heartbeat, so a day that ends with it stays open.
        if judged_ms < (end_ms - 1) // DAY_MS * DAY_MS:
            found.append("the last windows of the drift job")
        return found
