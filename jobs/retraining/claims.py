"""Who may submit an incident's training, and what is to be done next: pure decisions over the topic ``submissions``.

The order is: say that we are about to submit (intent), look whether the run exists, submit, say that it was accepted,
wait, record the outcome. A process may die between any two, and records may come twice or out of order: whoever reads
the topic comes to the same claim, and no step is wrong to repeat.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from jobs.retraining.backends.base import Submission

__all__ = ["UNKNOWN", "Alone", "Claim", "Claims", "Office", "Step", "next_step"]

_FACTS = ("intent", "accepted", "succeeded")
_CONCLUSIONS = ("cancelled", "failed")

Step = Literal[
    "intend", "hold", "find", "submit", "accept", "wait", "settle", "conflict", "vanished", "stand down", "done"
]


class Office(Protocol):
    """What an owner knows of its own term."""

    @property
    def epoch(self) -> int:
        """Of the term; 0 once it is over."""

    def may_submit(self) -> bool:
        """Whether nobody else can submit now."""

    @property
    def knows_all(self) -> bool:
        """Whether nobody can have asked for a run whose intent is not known here."""

    def is_committed(self, number: int) -> bool:
        """Whether a majority holds our claims up to that number."""


@dataclass(frozen=True)
class Alone:
    """The office of one whom nobody else stands against; who comes after has the next epoch."""

    epoch: int
    knows_all: bool = True

    def may_submit(self) -> bool:
        """Always."""
        return True

    def is_committed(self, number: int) -> bool:
        """Once it is published."""
        return number > 0


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
    number : int
        Of the last record about it among all those of that epoch's owner, from 1.
    status : str
        The furthest it has come.
    submission_id : str, optional
    payload_hashes : frozenset of str
        Of what owners were about to submit: what they made of the same event where they were.
    event : mapping
        The retraining event, so that whoever holds the claim can go on with it.
    detail : str, optional
    """

    incident_id: str
    epoch: int
    number: int
    status: str
    submission_id: str | None
    payload_hashes: frozenset[str]
    event: Mapping[str, Any] = field(hash=False)
    detail: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether its outcome is recorded."""
        return self.status not in ("intent", "accepted")


class _Told:
    """What records say of one incident, in whatever order they come.

    How far it has come is so whoever says it. That it failed is a conclusion, and counts as long as nobody has taken
    the incident over since: who had been an owner too long may have drawn it from what another did.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.newest = record
        self._fact: Mapping[str, Any] | None = None
        self._conclusion: Mapping[str, Any] | None = None
        self._submission_id: str | None = None
        self._hashes: frozenset[str] = frozenset()
        self.take(record)

    def take(self, record: Mapping[str, Any]) -> None:
        self.newest = max(self.newest, record, key=lambda each: (each["epoch"], each["number"]))
        if record["status"] in _FACTS:
            self._fact = max(self._fact or record, record, key=_further)
        else:
            self._conclusion = max(self._conclusion or record, record, key=_later)
        names = [each for each in (self._submission_id, record["submission_id"]) if each is not None]
        self._submission_id = min(names, default=None)
        self._hashes |= {record["payload_hash"]}
        self.claim = self._merged()

    def _merged(self) -> Claim:
        told, last = self._fact, self._conclusion
        is_last = last is not None and last["epoch"] == self.newest["epoch"]
        if told is None or (is_last and told["status"] != "succeeded"):
            told = last
        assert told is not None  # a record is one or the other
        return Claim(
            incident_id=self.newest["incident_id"],
            epoch=self.newest["epoch"],
            number=self.newest["number"],
            status=told["status"],
            submission_id=self._submission_id,
            payload_hashes=self._hashes,
            event=self.newest["event"],
            detail=told["detail"],
        )


def _further(record: Mapping[str, Any]) -> tuple[int, int, str]:
    return _FACTS.index(record["status"]), record["epoch"], record["detail"] or ""


def _later(record: Mapping[str, Any]) -> tuple[int, int, str]:
    return record["epoch"], _CONCLUSIONS.index(record["status"]), record["detail"] or ""


class Claims:
    """Claims by incident. Taking records in is commutative and idempotent.

    Parameters
    ----------
    records : iterable of mapping
        Of ``submissions``.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self._by_id: dict[str, _Told] = {}
        # By epoch and number: whose claim a record was, and with what payload.
        self._places: dict[int, dict[int, tuple[str, str]]] = {}
        self._counted: dict[int, int] = {}
        for each in records:
            self.take(each)

    def __iter__(self) -> Iterator[Claim]:
        return iter([told.claim for told in self._by_id.values()])

    def take(self, record: Mapping[str, Any]) -> None:
        """A record of ``submissions``."""
        key = record["incident_id"]
        self._places.setdefault(record["epoch"], {})[record["number"]] = key, record["payload_hash"]
        if key in self._by_id:
            self._by_id[key].take(record)
        else:
            self._by_id[key] = _Told(record)

    @property
    def newest_epoch(self) -> int:
        """Of any claim; 0 where there is none."""
        return max(self._places, default=0)

    def get(self, incident_id: str) -> Claim | None:
        """The incident's claim, if there is one."""
        return self._by_id[incident_id].claim if incident_id in self._by_id else None

    def counted(self, epoch: int) -> int:
        """How many records of an epoch's owner are here without a gap, from the first."""
        places, found = self._places.get(epoch, {}), self._counted.get(epoch, 0)
        while found + 1 in places:
            found += 1
        self._counted[epoch] = found
        return found

    def next_number(self, epoch: int) -> int:
        """Of the next record of an epoch's owner."""
        return max(self._places.get(epoch, {}), default=0) + 1

    def again(self, epoch: int, after: int = 0) -> list[dict[str, Any]]:
        """Records that say once more, of those of an epoch's owner that come after a number, what is known now."""
        places = sorted(self._places.get(epoch, {}).items())
        return [self._record(key, epoch, number, wanted) for number, (key, wanted) in places if number > after]

    def carried(self, epoch: int) -> list[dict[str, Any]]:
        """Records that say all that is known under another epoch, numbered from 1."""
        claims = sorted(self, key=lambda each: each.incident_id)
        known = [(each.incident_id, wanted) for each in claims for wanted in sorted(each.payload_hashes)]
        return [self._record(key, epoch, number, wanted) for number, (key, wanted) in enumerate(known, 1)]

    def _record(self, incident_id: str, epoch: int, number: int, wanted: str) -> dict[str, Any]:
        told = self._by_id[incident_id]
        said = {name: getattr(told.claim, name) for name in ("status", "submission_id", "event", "detail")}
        return {**told.newest, **said, "epoch": epoch, "number": number, "payload_hash": wanted}


def next_step(
    claim: Claim | None,
    run: Submission | _Unknown | None,
    office: Office,
    wanted: str,
    is_hidden: bool = False,
) -> Step:
    """What the owner of an epoch does next about an incident.

    Parameters
    ----------
    claim : Claim or None
        What the topic says.
    run : Submission, UNKNOWN or None
        What the backend says.
    office : Office
        Ours.
    wanted : str
        Hash of the payload that we would submit.
    is_hidden : bool
        Whether the backend may have a run that it does not show yet.

    Returns
    -------
    str
        "intend", "find", "submit" (also a run that was lost), "accept", "wait", "settle"; "hold" where nothing may be
        done yet, because a majority does not hold the intent, or may have another owner, or the backend may hide a run;
        "conflict" where the run has another payload, "vanished" where a run that was accepted is not there any more,
        "stand down" where a higher epoch has taken over, "done".
    """
    if claim is not None and claim.is_settled:
        return "done"
    if claim is not None and claim.epoch > office.epoch:
        return "stand down"
    if claim is None or claim.epoch < office.epoch or wanted not in claim.payload_hashes:
        return "intend"  # also what another owner has begun: take it over before touching the backend
    if isinstance(run, _Unknown):
        return "find"
    if run is None and is_hidden:
        return "hold"
    if run is not None and claim.status == "intent" and run.payload_hash in claim.payload_hashes:
        return "accept"
    if run is not None and run.state == "running" and run.payload_hash in claim.payload_hashes:
        return "wait"
    # What follows is up to the owner alone: one that was may not know what another has claimed.
    if not office.may_submit():
        return "hold"
    if run is not None and run.payload_hash not in claim.payload_hashes:
        return "conflict"
    if run is None and claim.status != "intent":
        # Never submit twice: what was accepted and is gone cannot be told from what ran and was cleaned up.
        return "vanished"
    if run is None or run.state == "lost":
        return "submit" if office.is_committed(claim.number) else "hold"
    return "settle"
