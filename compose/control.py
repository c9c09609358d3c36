"""The control loop as its own topics tell it: alerts, retraining, submissions, decisions and the model in charge.

These topics are small and keep everything, so whoever wants to know what happened reads them from the start. Nothing
here asks the jobs that wrote them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from confluent_kafka import Message

from jobs.reading import TopicReader
from jobs.retraining.loop import standing
from monitors.policy import Quarantine
from schemas.codec import Codec, DecodeError
from schemas.topics import TOPICS

__all__ = [
    "CONTROL_TOPICS",
    "WINDOWS_TOPIC",
    "ControlLog",
    "Evidence",
    "Incident",
    "first_model",
    "fold",
    "milliseconds",
    "promotions",
    "read_control",
    "story",
]

CONTROL_TOPICS = ("drift.alerts", "retraining.events", "submissions", "models.decisions", "models.control")
WINDOWS_TOPIC = "drift.windows"


def milliseconds(moment: datetime) -> int:
    """UTC epoch milliseconds of an aware datetime."""
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


class ControlLog:
    """What the control topics have said so far, decoded.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    windows : bool
        Read ``drift.windows`` too, which is larger than the rest together.

    Attributes
    ----------
    records : dict of str to list of dict
        By topic, in the order of the topic; timestamps as aware datetimes.
    undecodable : int
    """

    def __init__(self, kafka: str, windows: bool = False) -> None:
        topics = (*CONTROL_TOPICS, WINDOWS_TOPIC) if windows else CONTROL_TOPICS
        self.records: dict[str, list[dict[str, Any]]] = {name: [] for name in topics}
        self.undecodable = 0
        self._codecs = {name: Codec(TOPICS[name].schema, TOPICS[name].schema_id) for name in topics}
        self._reader = TopicReader(kafka, topics)

    def refresh(self) -> None:
        """Read what came since the last call."""
        self._reader.read(self._take)

    def close(self) -> None:
        """Leave the broker."""
        self._reader.close()

    def _take(self, messages: list[Message]) -> None:
        for each in messages:
            value, name = each.value(), str(each.topic())
            if value is None:
                continue
            try:
                self.records[name].append(self._codecs[name].decode(value))
            except DecodeError:
                self.undecodable += 1


def read_control(kafka: str) -> dict[str, list[dict[str, Any]]]:
    """What the control topics say now, as :attr:`ControlLog.records`."""
    log = ControlLog(kafka)
    try:
        log.refresh()
    finally:
        log.close()
    return log.records


@dataclass(frozen=True)
class Evidence:
    """What one column had to do with an incident; `share` is its part of the drift, 0 to 1."""

    column: str
    statistic: str
    value: float
    threshold: float
    share: float


@dataclass(frozen=True)
class Incident:
    """One incident from its first alert to what became of it. Times are UTC epoch milliseconds.

    Attributes
    ----------
    incident_id : str
    kind : {"alert", "scheduled"}
        Whether a drift alert stands behind it; the first model has none.
    alerts : int
        Times it was opened or updated.
    start_ms, end_ms : int
        First window's start, and the end of the window that resolved it or was told of last. A fault of data or ours
        keeps this span, widened as the policy has it, out of training sets.
    opened_ms : int
        Event time of the first record about it.
    resolved : bool
    evidence : tuple of Evidence
        Of the latest alert, largest share first.
    report : str, optional
    effective_from_ms : int, optional
        Event time from which a promoted model would answer.
    submission : str, optional
        Newest status.
    submission_ids : tuple of str
        Distinct. More than one is a broken promise.
    decision : dict, optional
        The record of ``models.decisions``, times in milliseconds.
    promoted_version : str, optional
    """

    incident_id: str
    kind: str
    model: str
    monitor: str
    cause: str
    severity: str
    segment: str
    summary: str
    alerts: int
    start_ms: int
    end_ms: int
    opened_ms: int
    resolved: bool
    evidence: tuple[Evidence, ...] = ()
    report: str | None = None
    effective_from_ms: int | None = None
    submission: str | None = None
    submission_ids: tuple[str, ...] = ()
    decision: dict[str, Any] | None = field(default=None, hash=False)
    promoted_version: str | None = None

    @property
    def quarantined(self) -> bool:
        """Whether its span is kept out of training sets, unless the policy has it otherwise."""
        return Quarantine().takes(self.cause, self.severity)


def fold(records: Mapping[str, list[dict[str, Any]]]) -> list[Incident]:
    """Everything known of each incident, oldest first.

    Parameters
    ----------
    records : mapping
        As :attr:`ControlLog.records`.
    """
    by_id: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in CONTROL_TOPICS[:4]:
        for each in records.get(name, ()):
            by_id.setdefault(each["incident_id"], {}).setdefault(name, []).append(each)
    found = [_incident(incident_id, told) for incident_id, told in by_id.items()]
    return sorted(found, key=lambda each: (each.opened_ms, each.incident_id))


def story(records: Mapping[str, list[dict[str, Any]]], incident_id: str) -> list[dict[str, Any]]:
    """All that was said of an incident, in the order of its event time: ``at`` and ``topic``, and what it says.

    Parameters
    ----------
    records : mapping
        As :attr:`ControlLog.records`.
    incident_id : str
    """
    found = []
    for rank, name in enumerate(CONTROL_TOPICS):
        for each in records.get(name, ()):
            if each["incident_id"] == incident_id:
                at = each["window_end"] if name == "drift.alerts" else each["event_time"]
                found.append(((at, rank), {"at": at, "topic": name, **each}))
    return [each for _, each in sorted(found, key=lambda entry: entry[0])]


def _incident(incident_id: str, told: Mapping[str, list[dict[str, Any]]]) -> Incident:
    alerts, events = told.get("drift.alerts", []), told.get("retraining.events", [])
    submissions, decisions = told.get("submissions", []), told.get("models.decisions", [])
    fired = [each for each in alerts if each["status"] != "resolved"] or alerts
    decision = _in_milliseconds(reduce(standing, decisions)) if decisions else None
    verdict = decision["challenger_version"] if decision and decision["decision"] == "promoted" else None
    first = (alerts or events or submissions or decisions)[0]
    opened = milliseconds(first["window_end"] if alerts else first["event_time"])
    last = fired[-1] if fired else {}
    return Incident(
        incident_id=incident_id,
        kind="alert" if alerts else "scheduled",
        model=first["model"],
        monitor=last.get("monitor") or (events[0]["monitor"] if events else "scheduled"),
        cause=last.get("cause", ""),
        severity=last.get("severity", "info"),
        segment=last.get("segment", ""),
        summary=last.get("summary") or (events[0]["reason"] if events else ""),
        alerts=len(fired),
        start_ms=milliseconds(alerts[0]["window_start"]) if alerts else opened,
        end_ms=milliseconds(alerts[-1]["window_end"]) if alerts else opened,
        opened_ms=opened,
        resolved=any(each["status"] == "resolved" for each in alerts),
        evidence=_evidence(last.get("evidence", [])),
        report=next((each["report"] for each in alerts[::-1] if each["report"]), None),
        effective_from_ms=milliseconds(events[-1]["effective_from"]) if events else None,
        submission=submissions[-1]["status"] if submissions else None,
        submission_ids=tuple(sorted({each["submission_id"] for each in submissions if each["submission_id"]})),
        decision=decision,
        promoted_version=verdict,
    )


def _evidence(entries: list[dict[str, Any]]) -> tuple[Evidence, ...]:
    named = ("column", "statistic", "value", "threshold", "share")
    found = (Evidence(**{name: each[name] for name in named}) for each in entries)
    return tuple(sorted(found, key=lambda each: -each.share))


def _in_milliseconds(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: milliseconds(value) if isinstance(value, datetime) else value for name, value in record.items()}


def promotions(records: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Model versions in the order they took over: ``version``, ``from_ms``, ``incident_id``, ``uri``."""
    changes = {
        (each["version"], milliseconds(each["event_time"])): each
        for each in records["models.control"]
        if each["action"] != "hold" and each["version"] != "prior"
    }
    return [
        {"version": version, "from_ms": from_ms, "incident_id": each["incident_id"], "uri": each["uri"]}
        for (version, from_ms), each in sorted(changes.items(), key=lambda change: change[0][1])
    ]


def first_model(records: dict[str, list[dict[str, Any]]]) -> tuple[str, str, int] | None:
    """Version, directory and first event time (UTC epoch ms) of the first trained model; None before there is one."""
    trained = [each for each in promotions(records) if each["uri"]]
    return (trained[0]["version"], trained[0]["uri"], trained[0]["from_ms"]) if trained else None
