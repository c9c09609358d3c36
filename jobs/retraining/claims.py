"""Who may submit an incident's training, and what is to be done next: pure decisions over the topic ``submissions``.

The order is: say that we are about to submit (intent), look whether the run exists, submit, say that it was accepted,
wait, record the outcome. A process may die between any two, and records may come twice or out of order: whoever reads
the topic comes to the same claim, and no step is wrong to repeat.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from jobs.retraining.backends.base import Submission

__all__ = ["UNKNOWN", "Claim", "Claims", "Step", "next_step"]

_RANKS = {"intent": 0, "accepted": 1, "cancelled": 2, "failed": 3, "succeeded": 4}

Step = Literal["intend", "find", "submit", "accept", "wait", "settle", "conflict", "vanished", "stand down", "done"]


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()
"""The backend has not been asked yet."""


@dataclass(frozen=True)
class Claim:
    """What ``submissions`` says of an incident.

    Attributes
    ----------
    epoch : int
        The highest that has claimed it.
    status : str
        The furthest it has come.
    submission_id : str, optional
    payload_hash : str
        Of the first claim.
    detail : str, optional
    """

    incident_id: str
    epoch: int
    status: str
    submission_id: str | None
    payload_hash: str
    detail: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether its outcome is recorded."""
        return _RANKS[self.status] > _RANKS["accepted"]


class Claims:
    """Claims by incident. Taking records in is commutative and idempotent."""

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self._by_id: dict[str, Claim] = {}
        for each in records:
            self.take(each)

    def take(self, record: Mapping[str, Any]) -> None:
        """A record of ``submissions``."""
        fields = ("incident_id", "epoch", "status", "submission_id", "payload_hash", "detail")
        new = Claim(**{name: record[name] for name in fields})
        old = self._by_id.get(new.incident_id)
        if old is None:
            self._by_id[new.incident_id] = new
            return
        further = max(old, new, key=lambda each: (_RANKS[each.status], each.epoch, each.detail or ""))
        self._by_id[new.incident_id] = replace(
            further,
            epoch=max(old.epoch, new.epoch),
            submission_id=further.submission_id or old.submission_id or new.submission_id,
        )

    def get(self, incident_id: str) -> Claim | None:
        """The incident's claim, if there is one."""
        return self._by_id.get(incident_id)


def next_step(claim: Claim | None, run: Submission | _Unknown | None, epoch: int, wanted: str) -> Step:
    """What the owner of an epoch does next about an incident.

    Parameters
    ----------
    claim : Claim or None
        What the topic says.
    run : Submission, UNKNOWN or None
        What the backend says.
    epoch : int
        Ours.
    wanted : str
        Hash of the payload that we would submit.

    Returns
    -------
    str
        "intend", "find", "submit" (also a run that was lost), "accept", "wait", "settle"; "conflict" where the run has
        another payload, "vanished" where a run that was accepted is not there any more, "stand down" where a higher
        epoch has taken over, "done".
    """
    if claim is None:
        return "intend"
    if claim.is_settled:
        return "done"
    if claim.epoch > epoch:
        return "stand down"
    if claim.epoch < epoch:
        return "intend"  # take it over before touching the backend
    if isinstance(run, _Unknown):
        return "find"
    if run is None:
        # Never submit twice: what was accepted and is gone cannot be told from what ran and was cleaned up.
        return "submit" if claim.status == "intent" else "vanished"
    if run.payload_hash not in (wanted, claim.payload_hash):
        return "conflict"
    if claim.status == "intent":
        return "accept"
    if run.state == "lost":
        return "submit"
    return "wait" if run.state == "running" else "settle"
