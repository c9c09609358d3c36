"""Whether anything still moves between the topics and the archive, and what has not arrived yet."""

from collections.abc import Mapping

from compose.control import WINDOWS_TOPIC, ControlLog, milliseconds
from compose.demo.keys import Aside, is_aside
from compose.demo.ledger import REQUESTS
from jobs.reading import reader
from jobs.retraining.payload import Archive
from schemas.tables import table_name
from schemas.topics import DAY_MS

__all__ = ["Pulse"]

INTERNAL = "__"
CONTROL = "models.control"


class Pulse:
    """The pulse of a platform: how much of everything is in the archive.

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

    def beat(self) -> dict[str, int]:
        """Archived rows by table; equal twice when nothing has come between. Promises, often repeated, do not count.

        Not the ends of topics: those move with every heartbeat.
        """
        return {name: rows for name, rows in self._archive.tables().items() if name != table_name(CONTROL)}

    def lag(self) -> list[str]:
        """What the archive lacks, in words."""
        names = self._consumer.list_topics(timeout=10).topics
        kept = [name for name in sorted(names) if not name.startswith(INTERNAL) and not is_aside(name)]
        return self._archive.lag(self._archive.ends(tuple(kept)))

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
        # A row carries the watermark of the step before its own, so the last heartbeats are not heard at the end.
        if judged_ms < (end_ms - 1) // DAY_MS * DAY_MS - DAY_MS:
            found.append("the last windows of the drift job")
        return found
