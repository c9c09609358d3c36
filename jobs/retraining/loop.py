"""What the control loop decides, without I/O: alerts to retraining events, decisions to promotions, and the horizon.

Every decision is a function of event times alone, so the state is rebuilt after a crash by reading the topics again,
and what has been published is not published twice.

What traffic may be scored is promised on ``models.control``: a record's watermark says that no change of model at or
before it will follow. The promise, called the horizon, ends

- while a training run is under way: just before the moment from which its model would answer;
- before there is a model: just before the moment from which the first will;
- otherwise: ``lead`` behind the newest window that every monitor has judged, since an incident found in a later one
  takes effect later than that; and never sooner than ``lead`` behind the end of the cool-down.

Real traffic never notices; a replay holds there, which makes its results independent of the machine's speed.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.kafka import Publish
from monitors.policy import (
    PRIOR,
    SEVERITIES,
    Policy,
    Retraining,
    State,
    Version,
    decide,
    earliest_retraining_ms,
    quarantine_spans,
)
from schemas.topics import DAY_MS

__all__ = ["BOOTSTRAP", "CONTROL", "EVENTS", "Controller", "Settings", "bootstrap_id", "coalesce", "standing"]

CONTROL, EVENTS = "models.control", "retraining.events"
BOOTSTRAP = "bootstrap"
LOOK_AGAIN = 1
"""Rank behind any alert of the same time."""


@dataclass(frozen=True)
class Settings:
    """How the controller runs, apart from the policy.

    Attributes
    ----------
    model : str
    live : bool
        The horizon is the wall clock, less `live_bound_ms`; nothing waits for training runs.
    live_bound_ms, live_step_ms : int
        How far the horizon stays behind, and its least progress.
    step_ms : int
        Event time that a new horizon has to add, otherwise.
    """

    model: str
    live: bool = False
    live_bound_ms: int = 1000
    live_step_ms: int = 1000
    step_ms: int = 3_600_000


@dataclass(frozen=True, order=True)
class _Step:
    """An alert, or another look at the incidents that are open; in an order that does not depend on arrival."""

    end_ms: int
    rank: int
    monitor: str
    incident_id: str
    number: int
    alert: Mapping[str, Any] | None = field(default=None, compare=False)


def bootstrap_id(model: str, attempt: int) -> str:
    """Incident id of the first model, which no alert stands behind; 32 hex digits."""
    return hashlib.sha256(json.dumps([model, PRIOR, BOOTSTRAP, "", attempt]).encode()).hexdigest()[:32]


def standing(earlier: Mapping[str, Any] | None, later: Mapping[str, Any]) -> Mapping[str, Any]:
    """Which of two decisions about an incident holds, in whatever order they come.

    That a run won is so whoever says it; that it came to nothing may be what an owner concluded who was one no more, as
    with the claims of :mod:`jobs.retraining.claims`. There is one run, so there are no two that won.
    """
    is_outdone = earlier is not None and earlier["decision"] != "promoted" and later["decision"] == "promoted"
    return later if earlier is None or is_outdone else earlier


class Controller:
    """Decides for one model; every method takes records with times in epoch milliseconds and returns what to publish.

    Parameters
    ----------
    settings : Settings
    policy : Policy
    """

    def __init__(self, settings: Settings, policy: Policy) -> None:
        self.settings, self.policy = settings, policy
        self.horizon_ms = -1
        self.first_due_ms: int | None = None
        self._versions: list[tuple[int, str, str]] = []
        self._events: dict[str, Mapping[str, Any]] = {}
        self._verdicts: dict[str, Mapping[str, Any]] = {}
        self._uris: dict[str, str] = {}
        self._promoted: set[str] = set()
        self._newest: dict[str, int] = {}
        self._points: set[int] = set()
        self._settled_ms = -1
        self._ahead: list[_Step] = []
        self._alerts = 0
        self._seen: list[Mapping[str, Any]] = []
        self._open: dict[str, tuple[int, Mapping[str, Any]]] = {}

    def recover(self, events: Iterable[Mapping[str, Any]], controls: Iterable[Mapping[str, Any]]) -> None:
        """Take in what an earlier run has published; first of all."""
        self._events = {each["incident_id"]: each for each in events if each["model"] == self.settings.model}
        for each in controls:
            if each["model"] != self.settings.model:
                continue
            if not self._versions and not self.settings.live:
                self.first_due_ms = each["watermark"] + 1
            if not self._versions or each["action"] != "hold":
                self._versions.append((each["event_time"], each["version"], each["uri"]))
            if each["action"] == "promote":
                self._promoted.add(each["incident_id"])
            self.horizon_ms = max(self.horizon_ms, each["watermark"] or -1)

    def start(self, start_ms: int, wall_ms: int = 0) -> list[Publish]:
        """Traffic starts on the day of `start_ms`: the prior answers, up to the day the first model is due."""
        if self.first_due_ms is None:
            self.first_due_ms = start_ms // DAY_MS * DAY_MS + self.policy.bootstrap_after_ms
        if self._versions:
            return self.on_clock(wall_ms)
        self._versions.append((0, PRIOR, ""))
        first_ms = wall_ms - self.settings.live_bound_ms if self.settings.live else self.first_due_ms - 1
        self.horizon_ms = first_ms
        return [self._control("hold", 0, first_ms)]

    def on_window(self, window: Mapping[str, Any], wall_ms: int = 0) -> list[Publish]:
        """A monitor has judged a window (a record of ``drift.windows``); its alerts have been handed over before."""
        if window["model"] == self.settings.model:
            monitor, end_ms = window["monitor"], window["window_end"]
            self._newest[monitor] = max(self._newest.get(monitor, -1), end_ms)
            if monitor in self.policy.retrain and end_ms not in self._points:
                self._points.add(end_ms)
                heapq.heappush(self._ahead, _Step(end_ms, LOOK_AGAIN, "", "", len(self._points)))
        return self._advance(wall_ms)

    def on_alert(self, alert: Mapping[str, Any], wall_ms: int = 0) -> list[Publish]:
        """A record of ``drift.alerts``; it counts once its window is settled."""
        if alert["model"] == self.settings.model:
            rank = -SEVERITIES.index(alert["severity"])
            self._alerts += 1
            step = _Step(alert["window_end"], rank, alert["monitor"], alert["incident_id"], self._alerts, alert)
            heapq.heappush(self._ahead, step)
        return self._advance(wall_ms)

    def on_event(self, event: Mapping[str, Any], wall_ms: int = 0) -> list[Publish]:
        """A record of ``retraining.events``: another region's counts as our own, for the cool-down as for promotion."""
        if event["model"] == self.settings.model and event["incident_id"] not in self._events:
            # What has been promised here stays true: its model takes effect after that.
            effective_ms = max(event["effective_from"], self.horizon_ms + 1)
            self._events[event["incident_id"]] = {**event, "effective_from": effective_ms}
        return self._advance(wall_ms)

    def on_submission(self, submission: Mapping[str, Any], wall_ms: int = 0) -> list[Publish]:
        """A record of ``submissions``: that of a run which succeeded says where its model is."""
        if submission["status"] == "succeeded":
            self._uris[submission["incident_id"]] = submission["detail"] or ""
        return self._advance(wall_ms)

    def on_decision(self, decision: Mapping[str, Any], wall_ms: int = 0) -> list[Publish]:
        """A record of ``models.decisions``."""
        key = decision["incident_id"]
        self._verdicts[key] = standing(self._verdicts.get(key), decision)
        return self._advance(wall_ms)

    def on_clock(self, wall_ms: int) -> list[Publish]:
        """Wall time passes."""
        return self._advance(wall_ms)

    def promise(self) -> Publish | None:
        """The promise that stands, once more; None before there is one."""
        return self._control("hold", self.horizon_ms, self.horizon_ms) if self._versions else None

    @property
    def in_flight(self) -> list[str]:
        """Incidents whose retraining has been asked for and not been decided."""
        return [key for key in self._events if not self._is_decided(key)]

    def _advance(self, wall_ms: int) -> list[Publish]:
        if self.first_due_ms is None:
            return []
        # 1. What has been decided takes effect, before any later promise.
        found = [each for key in self._events for each in self._promotion(key)]
        # 2. Windows that every monitor has judged are closed, in the order of their time.
        found += self._settle()
        # 3. The first model is due without any alert.
        found += self._bootstrap()
        # 4. Traffic may go on.
        return found + self._hold(wall_ms)

    def _is_decided(self, incident_id: str) -> bool:
        verdict = self._verdicts.get(incident_id)
        return verdict is not None and (incident_id in self._promoted or verdict["decision"] != "promoted")

    def _promotion(self, incident_id: str) -> list[Publish]:
        verdict = self._verdicts.get(incident_id)
        if verdict is None or self._is_decided(incident_id) or incident_id not in self._uris:
            return []
        from_ms = max(self._events[incident_id]["effective_from"], self.horizon_ms + 1)
        self._versions.append((from_ms, verdict["challenger_version"], self._uris[incident_id]))
        self._promoted.add(incident_id)
        self.horizon_ms = from_ms
        return [self._control("promote", from_ms, from_ms, incident_id)]

    def _settle(self) -> list[Publish]:
        settled_ms = min(self._newest.get(each, -1) for each in self.policy.expected)
        found = []
        while self._ahead and self._ahead[0].end_ms <= settled_ms:
            step = heapq.heappop(self._ahead)
            at_ms = max(step.end_ms, self._settled_ms)
            found += self._judge(at_ms, [*self._open] if step.alert is None else self._enter(step.alert))
        self._settled_ms = settled_ms
        return found

    def _enter(self, alert: Mapping[str, Any]) -> list[str]:
        """Note the alert; the incident, if it is open."""
        self._seen.append(alert)
        key = alert["incident_id"]
        if alert["status"] == "resolved":
            self._open.pop(key, None)
            return []
        opened_ms = self._open[key][0] if key in self._open else alert["window_end"]
        self._open[key] = (opened_ms, alert)
        return [key]

    def _judge(self, at_ms: int, incident_ids: Sequence[str]) -> list[Publish]:
        found: list[Publish] = []
        for key in incident_ids:
            opened_ms, alert = self._open[key]
            # Events follow one another in time, also where an alert that came late is met in time on recovery.
            if key in self._events or any(each["event_time"] >= at_ms for each in self._events.values()):
                continue
            decision = decide(self.policy, self._state(at_ms), alert, at_ms, opened_ms)
            if decision.action == "retrain":
                effective_ms = at_ms if self.settings.live else at_ms + self.policy.lead_ms
                found.append(self._event(key, alert["monitor"], decision.reason, at_ms, effective_ms))
        return found

    def _bootstrap(self) -> list[Publish]:
        due_ms = self._bootstrap_due_ms()
        at_ms = due_ms - self.policy.bootstrap_gap_ms
        if self._is_trained() or self.in_flight or max(self._newest.values(), default=-1) < at_ms:
            return []
        attempt = self._attempts()
        reason = f"the first model is due, attempt {attempt + 1}" if attempt else "the first model is due"
        return [self._event(bootstrap_id(self.settings.model, attempt), BOOTSTRAP, reason, at_ms, due_ms)]

    def _bootstrap_due_ms(self) -> int:
        assert self.first_due_ms is not None  # nothing is asked before start() or recover()
        return self.first_due_ms + self._attempts() * self.policy.cool_down_ms

    def _attempts(self) -> int:
        return len([each for each in self._events.values() if each["monitor"] == BOOTSTRAP])

    def _is_trained(self) -> bool:
        return any(version != PRIOR for _, version, _ in self._versions)

    def _hold(self, wall_ms: int) -> list[Publish]:
        live, step_ms = self.settings.live, self.settings.live_step_ms if self.settings.live else self.settings.step_ms
        horizon_ms = wall_ms - self.settings.live_bound_ms if live else self._allowed_ms()
        if horizon_ms < self.horizon_ms + step_ms:
            return []
        self.horizon_ms = horizon_ms
        return [self._control("hold", horizon_ms, horizon_ms)]

    def _allowed_ms(self) -> int:
        if under_way := self.in_flight:
            return min(int(self._events[key]["effective_from"]) for key in under_way) - 1
        if not self._is_trained():
            return self._bootstrap_due_ms() - 1
        earliest_ms = earliest_retraining_ms(self.policy, self._state())
        return max(self._settled_ms, earliest_ms) + self.policy.lead_ms - 1

    def _state(self, at_ms: int | None = None) -> State:
        retrained = sorted((each["event_time"], each["incident_id"]) for each in self._events.values())
        return State(
            versions=tuple(Version(version, from_ms) for from_ms, version, _ in self._versions),
            retrained=tuple(Retraining(key, time_ms) for time_ms, key in retrained),
            faults=quarantine_spans(self.policy, self._seen, at_ms) if at_ms is not None else (),
        )

    def _event(self, incident_id: str, monitor: str, reason: str, at_ms: int, effective_ms: int) -> Publish:
        record = {
            "incident_id": incident_id,
            "model": self.settings.model,
            "monitor": monitor,
            "reason": reason,
            "event_time": at_ms,
            "effective_from": max(effective_ms, self.horizon_ms + 1),
            "policy": self.policy.version,
        }
        self._events[incident_id] = record
        return Publish(EVENTS, record)

    def _control(self, action: str, time_ms: int, watermark_ms: int, incident_id: str | None = None) -> Publish:
        _, version, uri = self._versions[-1]
        record = {
            "model": self.settings.model,
            "version": version,
            "uri": uri,
            "event_time": time_ms,
            "watermark": watermark_ms,
            "action": action,
            "incident_id": incident_id,
        }
        return Publish(CONTROL, record)


def coalesce(records: Sequence[Publish]) -> list[Publish]:
    """The records without promises that a later one of them outdoes; the first version stays."""
    controls = [index for index, each in enumerate(records) if each.topic == CONTROL]
    idle = {i for i in controls[:-1] if records[i].record["action"] == "hold" and records[i].record["event_time"] > 0}
    return [each for index, each in enumerate(records) if index not in idle]
