"""Four consumers that race for one incident, two of them under an epoch that is over."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs.kafka import Publish
from jobs.retraining.backends.base import Backend
from jobs.retraining.claims import Alone, Claims
from jobs.retraining.retrainer import SUBMISSIONS, Retrainer

INCIDENT = "3dd5558920fae127830d3d987f436bf8"
EVENT = {
    "incident_id": INCIDENT,
    "model": "delay",
    "monitor": "features",
    "reason": "drifted",
    "event_time": 1_370_000_000_000,
    "effective_from": 1_370_345_600_000,
    "policy": "delay-2",
}
CONSUMERS, ROUNDS = (1, 2, 1, 2), 25
SECONDS = 240.0


class Ready:
    """A training set that is there; what is to be done with it is the same whoever asks."""

    def payload(self, event: Mapping[str, Any]) -> dict[str, Any]:
        made = {"incident_id": event["incident_id"], "model": event["model"], "cutoff_ms": event["event_time"]}
        return {**made, "margin": 0.001, "mlflow_uri": "http://mlflow:5000", "inputs": {"columns": ["délai"] * 300}}

    def missing(self, event: Mapping[str, Any]) -> list[str]:
        return []


def race(make: Callable[[], Backend]) -> list[str]:
    """Have the incident taken a hundred times; returns the run that each saw at the end.

    In half of the rounds a consumer knows what all have written before, in the others nothing of it has reached it yet.
    """
    written: list[Mapping[str, Any]] = []
    saw: list[str] = []
    errors: list[BaseException] = []
    lock, together = threading.Lock(), threading.Barrier(len(CONSUMERS))

    def publish(records: Sequence[Publish]) -> None:
        with lock:
            written.extend(each.record for each in records if each.topic == SUBMISSIONS)

    def consume(number: int, epoch: int) -> None:
        backend = make()
        # Each takes itself for the only owner: it was stopped after it had looked, say.
        office = Alone(epoch, knows_all=False)
        for turn in range(ROUNDS):
            together.wait(SECONDS)
            with lock:
                known = list(written) if (turn + number) % 2 else []
            claims = Claims(known)
            retrainer = Retrainer(backend, Ready(), publish, lambda _: None, claims, office)
            retrainer.on_event(EVENT)
            until_accepted(retrainer, claims)
            found = backend.find(INCIDENT)
            assert found is not None
            saw.append(found.submission_id)

    def guarded(number: int, epoch: int) -> None:
        try:
            consume(number, epoch)
        except BaseException as exc:
            errors.append(exc)
            together.abort()

    threads = [threading.Thread(target=guarded, args=each) for each in enumerate(CONSUMERS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(SECONDS)
    real = [each for each in errors if not isinstance(each, threading.BrokenBarrierError)]
    if real:
        raise real[0]
    assert len(saw) == len(CONSUMERS) * ROUNDS
    return saw


def until_accepted(retrainer: Retrainer, claims: Claims) -> None:
    """Go on until the run is known to be accepted, or the consumer stands down."""
    wait = threading.Event()
    for _ in range(2000):
        retrainer.tick()
        claim = claims.get(INCIDENT)
        if not retrainer.active or (claim is not None and claim.status != "intent"):
            return
        wait.wait(0.02)
    raise AssertionError(f"not accepted: {claims.get(INCIDENT)}")
