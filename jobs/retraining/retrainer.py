"""From retraining events to runs and decisions: does what :func:`jobs.retraining.claims.next_step` says comes next.

It holds nothing that the topics and the backend could not tell again, and waits for nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jobs.kafka import Publish
from jobs.retraining.backends.base import (
    ConflictError,
    RefusedError,
    Submission,
    Submits,
    UnreachableError,
    payload_hash,
)
from jobs.retraining.claims import UNKNOWN, Claims, Office, next_step

__all__ = ["DECISIONS", "EVENTS", "SUBMISSIONS", "Preparation", "Retrainer", "decision_record"]

EVENTS, SUBMISSIONS, DECISIONS = "retraining.events", "submissions", "models.decisions"
PRIOR = "prior"
RETRY_S, REFUSED_S = 1.0, 15.0
GATHER_S = 0.05
NAN = float("nan")


class Preparation(Protocol):
    """What a run needs before it can start."""

    def payload(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The payload of the event's run; the same whenever it is asked for."""

    def missing(self, event: Mapping[str, Any]) -> list[str]:
        """What the run would not find yet, in words."""


@dataclass
class _Incident:
    event: Mapping[str, Any]
    payload: dict[str, Any]
    wanted: str
    since: float
    run: Any = UNKNOWN
    told: str = ""
    look_at: float = 0.0
    rests_until: float = 0.0
    shown_at: float = 0.0


@dataclass(frozen=True)
class _Entry:
    """A record of ``submissions`` that is still to be written, and what becomes known with it."""

    record: dict[str, Any]
    decision: dict[str, Any] | None = None


class Retrainer:
    """Carries out incidents; holds nothing that the topics and the backend could not tell again.

    What there is to record of several incidents goes out in one transaction: one costs the same whatever it holds.

    Parameters
    ----------
    backend : Submits
    preparation : Preparation
    publish : callable
        Writes records, all or none.
    log : callable
    claims : Claims
        What ``submissions`` says; what is published is taken in too.
    office : Office
        Of the epoch in which all this is done.
    clock : callable
        Seconds of a clock that never goes back.
    wall : callable
        Wall time in seconds, for people.
    prepare_seconds : float
        How long to wait for what a run needs before the incident is given up.
    concurrency : int
        Runs of one model under way at a time; others wait their turn.
    """

    def __init__(
        self,
        backend: Submits,
        preparation: Preparation,
        publish: Callable[[Sequence[Publish]], None],
        log: Callable[[Mapping[str, Any]], None],
        claims: Claims,
        office: Office,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        prepare_seconds: float = 600.0,
        concurrency: int = 1,
    ) -> None:
        self.backend, self.preparation, self.claims, self.office = backend, preparation, claims, office
        self._publish, self._log, self._clock, self._wall = publish, log, clock, wall
        self._prepare_seconds, self._concurrency = prepare_seconds, concurrency
        self._active: dict[str, _Incident] = {}
        self._under_way: Counter[str] = Counter()
        self._outbox: dict[str, _Entry] = {}
        self._gathers_since = 0.0

    def on_event(self, event: Mapping[str, Any]) -> None:
        """A record of ``retraining.events``; one that has come before changes nothing."""
        key, claim = event["incident_id"], self.claims.get(event["incident_id"])
        if key in self._active or (claim is not None and claim.is_settled):
            return
        now = self._clock()
        # What others have asked the backend for may show later; what nobody has claimed, nobody has asked for.
        may_be_asked_for = claim is not None or not self.office.knows_all
        shown_at = now + self.backend.hidden_s if may_be_asked_for else now
        if claim is not None:
            self._log({"incident_id": key, "step": "taken over", "status": claim.status, "epoch": self.office.epoch})
            event = claim.event
        payload = {**self.preparation.payload(event), "epoch": self.office.epoch}
        self._active[key] = _Incident(event, payload, payload_hash(payload), now, shown_at=shown_at)

    @property
    def active(self) -> set[str]:
        """Incidents that are not settled."""
        return set(self._active)

    def tick(self) -> None:
        """Take every incident as far as it goes without waiting."""
        claims = {key: self.claims.get(key) for key in self._active}
        accepted = [key for key, claim in claims.items() if claim is not None and claim.status == "accepted"]
        self._under_way = Counter(self._active[key].event["model"] for key in accepted)
        going = list(self._active)
        while going:
            written = [key for key in going if self._goes_on(key)]
            self._write()
            going = [key for key in written if key in self._active]

    def _goes_on(self, key: str) -> bool:
        """Take an incident to where it waits, or cannot go on before something is written; whether it is the latter."""
        if self._outbox and self._clock() - self._gathers_since > GATHER_S:
            self._write()  # a backend that takes its time must not keep back what the others have come to
        incident = self._active[key]
        if self._clock() < incident.rests_until:
            return False
        try:
            while key not in self._outbox:
                if not self._step(key, incident):
                    return False
        except (UnreachableError, RefusedError) as exc:
            # It may have done what it was asked for; so it is asked what there is, before anything else.
            incident.run = UNKNOWN
            is_refused = isinstance(exc, RefusedError)
            incident.rests_until = self._clock() + (REFUSED_S if is_refused else RETRY_S)
            if incident.told != str(exc):
                incident.told = str(exc)
                step = "refused" if is_refused else "unreachable"
                self._log({"incident_id": key, "step": step, "error": str(exc)})
            return False
        return True

    def _write(self) -> None:
        """Write what is to be recorded, and take it in; who has an outcome is done with."""
        entries, self._outbox = list(self._outbox.values()), {}
        decisions = [Publish(DECISIONS, each.decision) for each in entries if each.decision is not None]
        if entries:
            self._publish([*decisions, *(Publish(SUBMISSIONS, each.record) for each in entries)])
        for each in entries:
            key, status, detail = (each.record[name] for name in ("incident_id", "status", "detail"))
            self.claims.take(each.record)
            self._log({"incident_id": key, "step": status, "detail": detail})
            if each.decision is not None:
                del self._active[key]

    def _step(self, key: str, incident: _Incident) -> bool:
        """One step; whether another may follow, at once or as soon as what it comes to is written."""
        wanted = incident.wanted
        is_hidden = self._clock() < incident.shown_at
        step = next_step(self.claims.get(key), incident.run, self.office, wanted, is_hidden)
        if step == "intend":
            self._record(incident, "intent", None, wanted)
        elif step == "find":
            incident.run = self.backend.find(key)
        elif step == "submit":
            return self._submit(key, incident)
        elif step == "accept":
            self._under_way[incident.event["model"]] += 1
            self._record(incident, "accepted", incident.run.submission_id, wanted)
        elif step in ("hold", "wait"):
            incident.run = UNKNOWN
            return False
        elif step == "settle":
            self._settle(key, incident, incident.run)
        elif step in ("conflict", "vanished"):
            found = f"one with payload {incident.run.payload_hash[:12]}" if incident.run else "none"
            self._give_up(key, incident, f"expected the backend to have a run with {wanted[:12]}, found {found}")
        else:
            self._log({"incident_id": key, "step": step})
            del self._active[key]
            return False
        return True

    def _submit(self, key: str, incident: _Incident) -> bool:
        now = self._clock()
        if incident.run is None:
            if now < incident.look_at or self._under_way[incident.event["model"]] >= self._concurrency:
                return False
            if missing := self.preparation.missing(incident.event):
                incident.look_at = now + 0.2
                if now - incident.since > self._prepare_seconds:
                    waited = f"{self._prepare_seconds:.0f} s"
                    self._give_up(key, incident, f"expected the training set to be complete within {waited}: {missing}")
                elif incident.told != missing[0]:
                    incident.told = missing[0]
                    self._log({"incident_id": key, "step": "prepare", "missing": missing})
                return False
        if not self.office.may_submit():
            return False  # to find out what is missing may have taken longer than the lease
        # Whatever the answer is, or if none comes: it may have begun.
        incident.shown_at, incident.look_at = now + self.backend.hidden_s, now + RETRY_S
        try:
            incident.run = self.backend.submit(key, incident.payload)
        except ConflictError as exc:
            # Another owner's request may have come first, with what it made of the event.
            found, claim = self.backend.find(key), self.claims.get(key)
            if found is None or claim is None or found.payload_hash not in claim.payload_hashes:
                self._give_up(key, incident, str(exc))
                return False
            incident.run = found
        self._log({"incident_id": key, "step": "submit", "attempt": incident.run.attempts, "state": incident.run.state})
        # A run that cannot be started now is tried again with the next tick.
        return bool(incident.run.state != "lost")

    def _settle(self, key: str, incident: _Incident, found: Submission) -> None:
        if found.state == "succeeded" and found.result is not None:
            record = decision_record(incident.event, incident.payload, found.result)
            self._finish(key, incident, "succeeded", str(found.result.get("uri") or ""), record, found.payload_hash)
        else:
            status = "cancelled" if found.state == "cancelled" else "failed"
            reason = found.detail or f"the run {found.state}"
            record = decision_record(incident.event, incident.payload, {"reason": reason})
            self._finish(key, incident, status, reason, record, found.payload_hash)

    def _give_up(self, key: str, incident: _Incident, reason: str) -> None:
        record = decision_record(incident.event, incident.payload, {"reason": reason})
        self._finish(key, incident, "failed", reason, record, incident.wanted)

    def _finish(
        self, key: str, incident: _Incident, status: str, detail: str, decision: dict[str, Any], found_hash: str
    ) -> None:
        """Outcome and decision become known together."""
        claim = self.claims.get(key)
        submission_id = claim.submission_id if claim else None
        self._record(incident, status, submission_id, found_hash, detail, decision)

    def _record(
        self,
        incident: _Incident,
        status: str,
        submission_id: str | None,
        found_hash: str,
        detail: str | None = None,
        decision: dict[str, Any] | None = None,
    ) -> None:
        epoch = self.office.epoch
        if not self._outbox:
            self._gathers_since = self._clock()
        record = {
            "incident_id": incident.event["incident_id"],
            "model": incident.event["model"],
            "backend": self.backend.name,
            "submission_id": submission_id,
            "epoch": epoch,
            "number": self.claims.next_number(epoch) + len(self._outbox),
            "status": status,
            "payload_hash": found_hash,
            "event": dict(incident.event),
            "event_time": incident.event["event_time"],
            "recorded_at": round(self._wall() * 1000),
            "detail": detail,
        }
        self._outbox[record["incident_id"]] = _Entry(record, decision)


def decision_record(event: Mapping[str, Any], payload: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The record of ``models.decisions`` for a run's result; a run without figures is a refusal with its reason."""
    champion = payload.get("champion") or {}

    def figure(name: str) -> float | None:
        return None if result.get(name) is None else float(result[name])

    challenger = {name: figure(f"challenger_{name}") for name in ("log_loss", "auc")}
    return {
        "incident_id": event["incident_id"],
        "model": event["model"],
        "decision": "promoted" if result.get("decision") == "promoted" else "refused",
        "champion_version": champion.get("version", PRIOR),
        "challenger_version": str(result.get("version") or ""),
        "champion_log_loss": figure("champion_log_loss"),
        "challenger_log_loss": NAN if challenger["log_loss"] is None else challenger["log_loss"],
        "champion_auc": figure("champion_auc"),
        "challenger_auc": NAN if challenger["auc"] is None else challenger["auc"],
        "margin": float(payload["margin"]),
        "held_out_rows": int(result.get("held_out_rows") or 0),
        "reason": str(result.get("reason") or ""),
        "event_time": event["event_time"],
    }
