"""Alerts about how the records of topics come, one incident a topic: see :mod:`monitors.topics`.

Their cause is `data`, so nothing retrains for them and their span is kept out of training sets; but for that of an
alert of the severity `info`, of a new schema alone. It says what to look at should anything else happen, and no record
is lost by it. Should records be lost, the incident is told again, graver, and its whole span counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from jobs.topic_counts import count_topics
from monitors.incidents import Alert, Finding, IncidentBook, Patience
from monitors.topics import MONITOR, TopicCounts, judge

__all__ = ["TopicLook", "alerts", "look_at"]

_PATIENCE: Final = Patience()


@dataclass(frozen=True)
class TopicLook:
    """What was counted of a topic, and what it comes to."""

    counts: TopicCounts
    finding: Finding

    def as_dict(self) -> dict[str, Any]:
        """For JSON: of the span, but for `slices`, those before it that have records."""
        records, late, dead = self.counts.records, self.counts.late.counts[-1], self.counts.dead.counts[-1]
        ids = sorted({each.schema_id for each in self.counts.schemas if each.now and each.schema_id is not None})
        return {
            "topic": self.counts.topic,
            "records": records[-1].tolist(),
            "slices": int((records[:-1].sum(axis=1) > 0).sum()),
            "late": int(late.sum()),
            "dead": int(dead.sum()),
            "schemas": ids,
            "wrong": self.finding.fired,
            "summary": self.finding.summary,
        }


def look_at(
    kafka: str, model: str, topics: Mapping[str, bool], end_ms: int, last_ms: int, told: Iterable[Mapping[str, Any]]
) -> list[TopicLook]:
    """Count topics and judge them; those that are not there are left out.

    Where a topic has an open incident, what came before that is what it is judged by.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    model : str
    topics, end_ms, last_ms
        See :func:`jobs.topic_counts.count_topics`.
    told : iterable of mapping
        Records of ``drift.alerts`` so far, in their order.

    Raises
    ------
    jobs.kafka.BrokerError
    """
    opened, start_ms = _book(model, "", told).opened, end_ms - last_ms
    found = []
    for counts in count_topics(kafka, topics, end_ms, last_ms):
        incident = opened.get(f"{MONITOR}/{counts.topic}")
        judged = counts.before(incident.start, start_ms, last_ms) if incident else counts
        found.append(TopicLook(counts, judge(judged)))
    return found


def alerts(
    model: str,
    version: str,
    policy: str,
    window: tuple[int, int],
    looks: Iterable[TopicLook],
    told: Iterable[Mapping[str, Any]],
) -> list[Alert]:
    """What looks lead to: incidents that open, get worse or are over.

    Parameters
    ----------
    model, version, policy : str
        Name and version of the model, version of the policy.
    window : tuple of int
        Start and end of the span, UTC epoch milliseconds.
    looks : iterable of TopicLook
    told : iterable of mapping
        Records of ``drift.alerts`` so far, in their order; those of other monitors are left alone.
    """
    book = _book(model, policy, told)
    given: list[Alert] = []
    for each in looks:
        given += book.judge(version, MONITOR, each.counts.topic, window, each.finding, _PATIENCE)
    return [replace(each, report=None) for each in given]  # distributions have nothing to show here


def _book(model: str, policy: str, told: Iterable[Mapping[str, Any]]) -> IncidentBook:
    return IncidentBook.of_alerts(model, policy, (each for each in told if each["monitor"] == MONITOR))
