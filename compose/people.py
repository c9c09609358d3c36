"""What people decide about an incident themselves: that it retrains after all, or that it is tried again."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compose.control import milliseconds
from compose.local.home import PlatformError
from monitors.policy import Policy

__all__ = ["again", "asked_for"]

Records = Mapping[str, Sequence[Mapping[str, Any]]]
OVER = ("failed", "cancelled")


def asked_for(records: Records, incident_id: str, policy: Policy) -> dict[str, Any]:
    """The retraining event of an incident that the policy has not let retrain, at the end of its newest window.

    Parameters
    ----------
    records : mapping
        As :attr:`compose.control.ControlLog.records`.
    incident_id : str
    policy : Policy

    Raises
    ------
    PlatformError
        Where it has an event already, or no alert.
    """
    if any(_of(records, "retraining.events", incident_id)):
        raise PlatformError(
            f"{incident_id} has been asked for already: `headwater incidents show` tells what came of it, "
            "`headwater incidents requeue` has it tried again once its run has failed or was cancelled."
        )
    alerts = list(_of(records, "drift.alerts", incident_id))
    if not alerts:
        raise PlatformError(f"{incident_id} has no alert, so there is no time at which to train.")
    newest = max(alerts, key=lambda each: each["window_end"])
    at_ms = milliseconds(newest["window_end"])
    return {
        "incident_id": incident_id,
        "model": newest["model"],
        "monitor": newest["monitor"],
        "reason": "asked for by a person",
        "event_time": at_ms,
        "effective_from": at_ms + policy.lead_ms,
        "policy": policy.version,
    }


def again(records: Records, incident_id: str) -> dict[str, Any]:
    """The event of another try: an incident of its own, so that this one too is submitted once.

    Its id follows from the first's and the number of tries, so that two people who ask at once ask for the same.

    Raises
    ------
    PlatformError
        Where there was no try, or the newest has neither failed nor been cancelled.
    """
    tries = [incident_id]
    while any(_of(records, "retraining.events", following := _following(incident_id, len(tries)))):
        tries.append(following)
    events = list(_of(records, "retraining.events", tries[-1]))
    if not events:
        raise PlatformError(f"{incident_id} was never tried; `headwater incidents submit` has it tried.")
    told = {each["status"]: each for each in _of(records, "submissions", tries[-1])}
    over = next((told[each] for each in OVER if each in told), None)
    if over is None or "succeeded" in told:
        now = "succeeded" if "succeeded" in told else "not settled"
        raise PlatformError(f"Expected the newest try, {tries[-1]}, to have failed or been cancelled; it is {now}.")
    first = events[0]
    return {
        **first,
        "incident_id": _following(incident_id, len(tries)),
        "reason": f"try {len(tries) + 1} of {incident_id}, after one that was {over['status']}: {over['detail'] or ''}",
        "event_time": milliseconds(first["event_time"]),
        "effective_from": milliseconds(first["effective_from"]),
    }


def _following(incident_id: str, number: int) -> str:
    return hashlib.sha256(json.dumps([incident_id, "again", number]).encode()).hexdigest()[:32]


def _of(records: Records, topic: str, incident_id: str) -> Iterator[Mapping[str, Any]]:
    return (each for each in records[topic] if each["incident_id"] == incident_id)
