"""When a drift incident retrains a model: rules as data, decisions as pure functions of event time.

Nothing here knows the wall clock, so what was decided on past traffic can be decided again, and comes out the same.
Records are those of ``drift.alerts`` with times in UTC epoch milliseconds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from monitors.durations import DurationError, parse_duration

__all__ = [
    "DEFAULT_POLICY",
    "Decision",
    "Policy",
    "PolicyError",
    "Quarantine",
    "Retraining",
    "State",
    "Version",
    "decide",
    "earliest_retraining_ms",
    "load_policy",
    "quarantine_spans",
]

DEFAULT_POLICY = Path(__file__).parent / "policies" / "delay.yaml"
PRIOR = "prior"
BUDGET_DAYS = 30
DAY_MS = 86_400_000
SEVERITIES = ("info", "warning", "critical")
CAUSES = ("world", "data", "us")


class PolicyError(ValueError):
    """A policy file that cannot be used. The message names the file, the field, and what was expected."""


@dataclass(frozen=True)
class Quarantine:
    """Which alerts keep their span out of training sets, and how far it reaches beyond their windows.

    Attributes
    ----------
    causes : tuple of str
    severity_min : str
        Milder alerts are news, as of a producer's new schema, and their span is as good as any other.
    before_ms, after_ms : int
        Event time ahead of the first faulty window, and behind the one that resolved the incident.
    settle_ms : int
        For so long behind a fault nothing retrains: windows of days still have it in them.
    """

    causes: tuple[str, ...] = ("data", "us")
    severity_min: str = "warning"
    before_ms: int = 6 * 3_600_000
    after_ms: int = 24 * 3_600_000
    settle_ms: int = 7 * 86_400_000

    def takes(self, cause: str, severity: str) -> bool:
        """Whether alerts of that cause and severity keep their span out of training sets."""
        return cause in self.causes and SEVERITIES.index(severity) >= SEVERITIES.index(self.severity_min)


@dataclass(frozen=True)
class Policy:
    """The rules for one model. Durations are event time.

    Attributes
    ----------
    version : str
        Carried by every retraining event.
    bootstrap_after_ms : int
        From the start of traffic to the first trained model.
    bootstrap_gap_ms : int
        How much earlier its training set ends.
    lead_ms : int
        From the window that decided to the moment a promoted model answers.
    cool_down_ms : int
        Least distance of two retrainings, whatever came of the first.
    debounce_ms : int
        How long an incident has to be open.
    retrain_max_30d : int
    margin : float
        Log loss by which a challenger has to win.
    parity : float
        Share of the held-out rows' feature values that may differ from their definitions; with more, none wins.
    severity_min : str
    concurrency : int
        Training runs of the model at a time.
    expected : tuple of str
        Monitors that have to judge a window before it counts as settled.
    retrain : tuple of str
        Monitors whose incidents may retrain.
    quarantine : Quarantine
    """

    version: str
    bootstrap_after_ms: int = 31 * 86_400_000
    bootstrap_gap_ms: int = 86_400_000
    lead_ms: int = 4 * 86_400_000
    cool_down_ms: int = 14 * 86_400_000
    debounce_ms: int = 0
    retrain_max_30d: int = 3
    margin: float = 0.001
    parity: float = 0.0
    severity_min: str = "warning"
    concurrency: int = 1
    expected: tuple[str, ...] = ("data", "features", "performance", "sequential")
    retrain: tuple[str, ...] = ("features", "performance", "sequential")
    quarantine: Quarantine = field(default_factory=Quarantine)

    def __post_init__(self) -> None:
        _require(self.lead_ms > 0, "lead", "more than zero", self.lead_ms)
        _require(0 <= self.bootstrap_gap_ms < self.bootstrap_after_ms, "bootstrap_gap", "less than bootstrap_after", "")
        # While a run is under way its model cools down: so there is never a second.
        shortest_ms = max(self.lead_ms, self.bootstrap_gap_ms)
        _require(self.cool_down_ms >= shortest_ms, "cool_down", "at least lead and bootstrap_gap", self.cool_down_ms)
        _require(self.concurrency == 1, "concurrency", "1: runs of one model follow one another", self.concurrency)
        _require(self.retrain_max_30d > 0, "retrain_max_30d", "a positive number", self.retrain_max_30d)
        _require(math.isfinite(self.margin) and self.margin >= 0, "margin", "a number not below zero", self.margin)
        _require(0 <= self.parity <= 1, "parity", "a share, 0 to 1", self.parity)
        _require(self.severity_min in SEVERITIES, "severity_min", f"one of {SEVERITIES}", self.severity_min)
        _require(set(self.quarantine.causes) <= set(CAUSES), "causes", f"some of {CAUSES}", self.quarantine.causes)
        least = self.quarantine.severity_min
        _require(least in SEVERITIES, "quarantine.severity_min", f"one of {SEVERITIES}", least)
        _require(bool(self.expected), "monitors.expected", "at least one monitor", self.expected)


def _require(holds: bool, name: str, wanted: str, found: object) -> None:
    if not holds:
        raise PolicyError(f"{name}: expected {wanted}, got {found!r}")


@dataclass(frozen=True)
class Retraining:
    """A retraining that was asked for."""

    incident_id: str
    event_time_ms: int


@dataclass(frozen=True)
class Version:
    """A model version and the event time from which it answers."""

    version: str
    from_ms: int


@dataclass(frozen=True)
class State:
    """What is known of one model, for all event times.

    Attributes
    ----------
    versions : tuple of Version
        In the order of their time.
    retrained : tuple of Retraining
        In the order of their time, bootstraps among them.
    faults : tuple of (int, int)
        Spans in quarantine as far as known, ``[start, end)`` in epoch milliseconds.
    """

    versions: tuple[Version, ...] = (Version(PRIOR, 0),)
    retrained: tuple[Retraining, ...] = ()
    faults: tuple[tuple[int, int], ...] = ()

    def version_at(self, time_ms: int) -> str:
        """The version that answers at an event time."""
        return next((each.version for each in reversed(self.versions) if each.from_ms <= time_ms), PRIOR)


@dataclass(frozen=True)
class Decision:
    """What to do about an alert: retrain, hold (look again later), quarantine its span, or ignore it; and why."""

    action: Literal["retrain", "hold", "quarantine", "ignore"]
    reason: str


def decide(
    policy: Policy, state: State, alert: Mapping[str, Any], at_ms: int | None = None, opened_ms: int | None = None
) -> Decision:
    """What an alert, or an incident that is still open, leads to.

    Parameters
    ----------
    policy : Policy
    state : State
        Retrainings later than `at_ms` in it do not count.
    alert : mapping
        Newest record of the incident.
    at_ms : int, optional
        Event time of the decision; default: the end of the alert's window.
    opened_ms : int, optional
        End of the window that opened the incident; default: this alert's.
    """
    at_ms = alert["window_end"] if at_ms is None else at_ms
    opened_ms = alert["window_end"] if opened_ms is None else opened_ms
    if refused := _never(policy, state, alert, at_ms):
        return refused
    if state.version_at(at_ms) == PRIOR:
        return Decision("hold", "no model has been trained yet; the first is due by itself")
    if any(start < at_ms < end + policy.quarantine.settle_ms for start, end in state.faults):
        return Decision("hold", "a data fault is open or hardly over, and this may be its effect")
    if at_ms < opened_ms + policy.debounce_ms:
        return Decision("hold", "open for less than the debounce time")
    if at_ms < (earliest := earliest_retraining_ms(policy, state, at_ms)):
        return Decision("hold", f"the model cools down until {earliest}")
    return Decision("retrain", str(alert["summary"]) or f"{alert['monitor']} drifted")


def _never(policy: Policy, state: State, alert: Mapping[str, Any], at_ms: int) -> Decision | None:
    """The decision on what cannot retrain, now or later."""
    if alert["status"] == "resolved":
        return Decision("ignore", "resolved")
    if policy.quarantine.takes(alert["cause"], alert["severity"]):
        return Decision("quarantine", f"cause {alert['cause']}: the span is kept out of training sets")
    if alert["cause"] != "world":
        return Decision("ignore", f"cause {alert['cause']}: retraining cannot help")
    if alert["monitor"] not in policy.retrain:
        return Decision("ignore", f"monitor {alert['monitor']} may not retrain")
    if SEVERITIES.index(alert["severity"]) < SEVERITIES.index(policy.severity_min):
        return Decision("ignore", f"severity {alert['severity']} is below {policy.severity_min}")
    if any(each.incident_id == alert["incident_id"] for each in state.retrained):
        return Decision("ignore", "this incident has had its retraining")
    if alert["model_version"] != (now := state.version_at(at_ms)):
        return Decision("ignore", f"about version {alert['model_version']}, but {now} answers")
    return None


def earliest_retraining_ms(policy: Policy, state: State, at_ms: int | None = None) -> int:
    """The first event time at which cool-down and budget allow another retraining; 0 where there was none.

    Parameters
    ----------
    policy : Policy
    state : State
    at_ms : int, optional
        Only retrainings up to this event time count; default: all.
    """
    times = [each.event_time_ms for each in state.retrained if at_ms is None or each.event_time_ms <= at_ms]
    earliest = max((time_ms + policy.cool_down_ms for time_ms in times), default=0)
    if len(times) >= policy.retrain_max_30d:
        earliest = max(earliest, sorted(times)[-policy.retrain_max_30d] + BUDGET_DAYS * DAY_MS)
    return earliest


def quarantine_spans(policy: Policy, alerts: Iterable[Mapping[str, Any]], until_ms: int) -> tuple[tuple[int, int], ...]:
    """Event-time spans to keep out of training sets, as known at an event time.

    Parameters
    ----------
    policy : Policy
    alerts : iterable of mapping
        Records of ``drift.alerts`` of one model in their order; those with windows that end later do not count.
    until_ms : int

    Returns
    -------
    tuple of (int, int)
        ``[start, end)`` in epoch milliseconds, disjoint, in order; what is still open ends at `until_ms`.
    """
    first: dict[str, int] = {}
    last: dict[str, int | None] = {}
    for each in alerts:
        if not policy.quarantine.takes(each["cause"], each["severity"]) or each["window_end"] > until_ms:
            continue
        first.setdefault(each["incident_id"], each["window_start"] - policy.quarantine.before_ms)
        # An alert's window starts where its incident does.
        resolved = each["status"] == "resolved"
        last[each["incident_id"]] = each["window_end"] + policy.quarantine.after_ms if resolved else None
    spans = sorted((first[key], until_ms if end is None else min(end, until_ms)) for key, end in last.items())
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return tuple(merged)


def load_policy(path: str | Path = DEFAULT_POLICY) -> Policy:
    """The policy in a YAML file.

    Raises
    ------
    PolicyError
        Where the file cannot be read, a field is unknown or missing, or a value is not what it has to be.
    """
    try:
        found = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as exc:
        raise PolicyError(f"{path}: expected a policy in YAML, got {exc}") from exc
    try:
        return _policy(found)
    except (DurationError, PolicyError) as exc:
        raise PolicyError(f"{path}: {exc}") from None


_DURATIONS = tuple(each.name[:-3] for each in fields(Policy) if each.name.endswith("_ms"))
_KINDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "version": ("a text", (str,)),
    "severity_min": ("a text", (str,)),
    "retrain_max_30d": ("a whole number", (int,)),
    "concurrency": ("a whole number", (int,)),
    "margin": ("a number", (int, float)),
    "parity": ("a number", (int, float)),
}


def _policy(found: Any) -> Policy:
    found = _mapping("the file", found, {*_DURATIONS, *_KINDS, "monitors", "quarantine"})
    _require("version" in found, "version", "a text that names this policy", None)
    values: dict[str, Any] = {f"{name}_ms": parse_duration(name, found[name]) for name in _DURATIONS if name in found}
    for name, (wanted, kinds) in _KINDS.items():
        if name in found:
            _require(isinstance(found[name], kinds) and not isinstance(found[name], bool), name, wanted, found[name])
            values[name] = found[name]
    monitors = _mapping("monitors", found.get("monitors", {}), {"expected", "retrain"})
    values |= {name: _names(f"monitors.{name}", value) for name, value in monitors.items()}
    quarantine = _mapping(
        "quarantine", found.get("quarantine", {}), {"causes", "severity_min", "before", "after", "settle"}
    )
    spans: dict[str, Any] = {
        f"{name}_ms": parse_duration(f"quarantine.{name}", quarantine[name])
        for name in ("before", "after", "settle")
        if name in quarantine
    }
    if "causes" in quarantine:
        spans["causes"] = _names("quarantine.causes", quarantine["causes"])
    if "severity_min" in quarantine:
        spans["severity_min"] = quarantine["severity_min"]
    return Policy(**values, quarantine=Quarantine(**spans))


def _mapping(name: str, found: Any, known: set[str]) -> Mapping[str, Any]:
    _require(isinstance(found, dict), name, "names with values", found)
    unknown = sorted(str(key) for key in found if key not in known or str(key).endswith("_ms"))
    _require(
        not unknown, name, f"only {', '.join(sorted(k for k in known if not k.endswith('_ms')))}", ", ".join(unknown)
    )
    return dict(found)


def _names(name: str, found: Any) -> tuple[str, ...]:
    _require(isinstance(found, Sequence) and not isinstance(found, str), name, "a list of names", found)
    _require(all(isinstance(each, str) for each in found), name, "a list of names", found)
    return tuple(found)
