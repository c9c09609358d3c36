"""Incidents: what makes one, when it opens, what keeps it quiet and when it is over.

An incident's id says what it is about, never when or where it was noticed, so that two regions that see the same drift
name it alike.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

__all__ = [
    "Alert",
    "Cause",
    "Evidence",
    "Finding",
    "IncidentBook",
    "Patience",
    "Severity",
    "incident_id",
    "window_epoch",
]

Cause = Literal["world", "data", "us"]
Severity = Literal["info", "warning", "critical"]
Status = Literal["opened", "updated", "resolved"]

_SEVERITIES: Final = ("info", "warning", "critical")


def window_epoch(window_end_ms: int, epoch_ms: int) -> int:
    """Number of the epoch that a window ends in, counted from 1970: the same in every region.

    What opens again within its epoch is the same incident. Regions that notice a drift on either side of an epoch's
    edge do name it differently; the longer the epoch, the rarer.
    """
    return (window_end_ms - 1) // epoch_ms


def incident_id(model: str, reference_version: str, monitor: str, segment: str, epoch: int) -> str:
    """First 32 hex digits of the SHA-256 of the parts as a JSON array, so that no two sets of parts read alike."""
    parts = json.dumps([model, reference_version, monitor, segment, epoch], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Evidence:
    """Why an alert was raised. `share`: the part of the drift that this column explains, 0 to 1."""

    column: str
    statistic: str
    value: float
    threshold: float
    share: float


@dataclass(frozen=True)
class Finding:
    """What a monitor makes of one window of one segment.

    Attributes
    ----------
    fired : bool or None
        None where the window had too few rows to tell: it neither opens an incident nor helps to resolve one.
    """

    fired: bool | None
    severity: Severity = "warning"
    cause: Cause = "world"
    summary: str = ""
    evidence: tuple[Evidence, ...] = ()
    estimated_harm: float | None = None


@dataclass(frozen=True)
class Alert:
    """One record of ``drift.alerts``; see its schema. Times are UTC epoch milliseconds."""

    incident_id: str
    status: Status
    severity: Severity
    cause: Cause
    model: str
    model_version: str
    monitor: str
    segment: str
    window_start: int
    window_end: int
    summary: str
    estimated_harm: float | None
    evidence: tuple[Evidence, ...]
    report: str | None
    policy: str

    def record(self) -> dict[str, Any]:
        """As the schema of ``drift.alerts`` has it."""
        return {**asdict(self), "evidence": [asdict(each) for each in self.evidence]}


@dataclass(frozen=True)
class Patience:
    """Hysteresis of one monitor.

    Attributes
    ----------
    open_after : int
        Windows in a row that must fire.
    resolve_after : int
        Windows in a row, with enough rows, that must not.
    epoch_ms : int
        Length of a window epoch.
    renew : bool
        Whether an incident that has been open for the length of an epoch gives way to a new one, so that a drift that a
        training run did not cure can ask for another.
    """

    open_after: int = 1
    resolve_after: int = 1
    epoch_ms: int = 28 * 86_400_000
    renew: bool = False


@dataclass(frozen=True)
class _Open:
    id: str
    version: str
    start: int
    opened: int
    severity: Severity
    cause: Cause
    columns: tuple[str, ...]
    summary: str
    clean: int = 0


@dataclass
class IncidentBook:
    """Open incidents of one model's monitors.

    Attributes
    ----------
    model, policy : str
    opened : dict of "monitor/segment" to the incident
    streaks : dict of "monitor/segment" to windows in a row that fired, before opening
    """

    model: str
    policy: str
    opened: dict[str, _Open] = field(default_factory=dict)
    streaks: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of_alerts(model: str, policy: str, told: Iterable[Mapping[str, Any]]) -> "IncidentBook":
        """The book of whoever said all this: for monitors that keep no state of their own.

        Parameters
        ----------
        model, policy : str
        told : iterable of mapping
            Records of ``drift.alerts`` in their order, of monitors that open at the first window that fires; those of
            other models do not count.
        """
        book = IncidentBook(model, policy)
        for each in told:
            key = f"{each['monitor']}/{each['segment']}"
            if each["model"] != model:
                continue
            if each["status"] == "resolved":
                book.opened.pop(key, None)
                continue
            columns = tuple(one["column"] for one in each["evidence"])
            before = book.opened.get(key)
            book.opened[key] = _Open(
                each["incident_id"],
                each["model_version"],
                each["window_start"],
                before.opened if before else each["window_end"],
                each["severity"],
                each["cause"],
                tuple(dict.fromkeys((before.columns if before else ()) + columns)),
                before.summary if before else each["summary"],
            )
        return book

    def judge(
        self, version: str, monitor: str, segment: str, window: tuple[int, int], finding: Finding, patience: Patience
    ) -> list[Alert]:
        """Alerts that a window gives rise to: none while nothing changes.

        Parameters
        ----------
        version : str
            Model version, which is also the reference's.
        monitor, segment : str
        window : tuple of int
            Start and end, UTC epoch milliseconds.
        finding : Finding
        patience : Patience
        """
        key = f"{monitor}/{segment}"
        current = self.opened.get(key)
        if finding.fired is None:
            return []
        if current is None:
            self.streaks[key] = self.streaks.get(key, 0) + 1 if finding.fired else 0
            if self.streaks[key] == 0:
                del self.streaks[key]
            elif self.streaks[key] >= patience.open_after:
                return [self._open(key, version, monitor, segment, window, finding, patience)]
            return []
        if not finding.fired:
            if current.clean + 1 >= patience.resolve_after:
                return [self._resolve(key, monitor, segment, window, "back within its thresholds")]
            self.opened[key] = replace(current, clean=current.clean + 1)
            return []
        if patience.renew and window[1] >= current.opened + patience.epoch_ms:
            ended = self._resolve(key, monitor, segment, window, "open for a whole epoch; a new incident carries on")
            return [ended, self._open(key, version, monitor, segment, window, finding, patience)]
        return self._update(key, monitor, segment, window, finding)

    def is_open(self, monitor: str, segment: str) -> bool:
        """Whether an incident of a monitor is open."""
        return f"{monitor}/{segment}" in self.opened

    def close(self, monitors: Sequence[str], window: tuple[int, int], reason: str) -> list[Alert]:
        """Resolve what is open of these monitors, as after a promotion."""
        keys = sorted(key for key in self.opened if key.partition("/")[0] in monitors)
        self.streaks = {key: n for key, n in self.streaks.items() if key.partition("/")[0] not in monitors}
        return [self._resolve(key, *_split(key), window, reason) for key in keys]

    def _open(
        self,
        key: str,
        version: str,
        monitor: str,
        segment: str,
        window: tuple[int, int],
        finding: Finding,
        patience: Patience,
    ) -> Alert:
        self.streaks.pop(key, None)
        epoch = window_epoch(window[1], patience.epoch_ms)
        name = incident_id(self.model, version, monitor, segment, epoch)
        columns = tuple(each.column for each in finding.evidence)
        self.opened[key] = _Open(
            name, version, window[0], window[1], finding.severity, finding.cause, columns, finding.summary
        )
        return self._alert(self.opened[key], "opened", monitor, segment, window, finding)

    def _update(self, key: str, monitor: str, segment: str, window: tuple[int, int], finding: Finding) -> list[Alert]:
        """Say more only where there is more to say: a column not named before, or a graver severity."""
        current = self.opened[key]
        news = tuple(each.column for each in finding.evidence if each.column not in current.columns)
        worse = _SEVERITIES.index(finding.severity) > _SEVERITIES.index(current.severity)
        grown = replace(current, clean=0, columns=current.columns + news)
        if worse:
            grown = replace(grown, severity=finding.severity)
        self.opened[key] = grown
        return [self._alert(grown, "updated", monitor, segment, window, finding)] if news or worse else []

    def _resolve(self, key: str, monitor: str, segment: str, window: tuple[int, int], why: str) -> Alert:
        current = self.opened.pop(key)
        finding = Finding(False, current.severity, current.cause, f"Resolved, {why}. It was: {current.summary}")
        return self._alert(current, "resolved", monitor, segment, window, finding)

    def _alert(
        self, incident: _Open, status: Status, monitor: str, segment: str, window: tuple[int, int], finding: Finding
    ) -> Alert:
        return Alert(
            incident_id=incident.id,
            status=status,
            severity=incident.severity,
            cause=incident.cause,
            model=self.model,
            model_version=incident.version,
            monitor=monitor,
            segment=segment,
            window_start=incident.start,
            window_end=window[1],
            summary=finding.summary,
            estimated_harm=finding.estimated_harm,
            evidence=finding.evidence,
            report=f"reports/{incident.id}.html",
            policy=self.policy,
        )

    def state(self) -> dict[str, Any]:
        """Plain data, for :meth:`restore`."""
        opened = {key: asdict(each) for key, each in sorted(self.opened.items())}
        return {"opened": opened, "streaks": dict(sorted(self.streaks.items()))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.opened = {
            key: _Open(**{**each, "columns": tuple(each["columns"])}) for key, each in state["opened"].items()
        }
        self.streaks = dict(state["streaks"])


def _split(key: str) -> tuple[str, str]:
    monitor, _, segment = key.partition("/")
    return monitor, segment
