"""A region's part in the retraining of one model: takes in what all regions say, votes, and submits while it owns.

It does no I/O and reads no clock: records come in by :meth:`Agent.take`, go out by the function it is given, and
:meth:`Agent.tick` is called often. So the same code runs over Kafka and in :mod:`jobs.retraining.simulation`.

What a backend is asked may take longer than a lease, so voting and carrying out may have a thread each: all is done
under one lock, which is let go while a backend or the preparation of a run is at work. A term may be over by the time
they answer. Then nothing more is done in its name, as if the process had died there.

What others may have missed is said again until they show that they have it: a claim until every region that is alive
holds it, an event until it is claimed. So a mirror may lose whatever it likes, as long as it brings something now and
then.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from jobs.kafka import Publish
from jobs.retraining.backends.base import Submission, Submits
from jobs.retraining.claims import Claims
from jobs.retraining.ownership import Member
from jobs.retraining.retrainer import DECISIONS, EVENTS, SUBMISSIONS, Preparation, Retrainer
from jobs.retraining.standing import Electorate, Standing, Timing

__all__ = ["ORDERS", "OWNERSHIP", "Agent", "Term"]

OWNERSHIP, ORDERS = "ownership", "ownership.orders"
AGAIN_BEATS = 3
"""Beats to wait before saying something again."""
T = TypeVar("T")


class TermOverError(Exception):
    """What was asked for in a term has been answered after it."""


class Term:
    """A member's office, see :class:`jobs.retraining.claims.Office`: of one epoch, and over with it."""

    def __init__(self, member: Member, clock: Callable[[], float]) -> None:
        self._member, self._clock = member, clock
        self.epoch = member.epoch
        # Owners that a person has declared gone may have claimed what only they know of.
        self.knows_all = not member.standing.gone

    @property
    def is_over(self) -> bool:
        """Whether nothing may be said in its name any more."""
        return self._member.epoch != self.epoch

    def may_submit(self) -> bool:
        """See :meth:`Member.may_submit`."""
        return not self.is_over and self._member.may_submit(self._clock())

    def is_committed(self, number: int) -> bool:
        """See :meth:`Member.is_committed`."""
        return not self.is_over and self._member.is_committed(number)


class _Aside:
    """What takes its time, in a term: called without the lock that the caller holds."""

    def __init__(self, lock: threading.RLock, term: Term) -> None:
        self._lock, self._term = lock, term

    def call(self, function: Callable[[], T]) -> T:
        """The function's result.

        Raises
        ------
        TermOverError
            Where the term has ended meanwhile, whatever came of the function.
        """
        self._lock.release()
        try:
            return function()
        finally:
            self._lock.acquire()
            if self._term.is_over:
                raise TermOverError


class _SubmitsAside:
    """A backend that is asked aside."""

    def __init__(self, backend: Submits, aside: _Aside) -> None:
        self.name, self.hidden_s = backend.name, backend.hidden_s
        self._backend, self._aside = backend, aside

    def submit(self, incident_id: str, payload: Mapping[str, Any]) -> Submission:
        """See :meth:`Submits.submit`."""
        return self._aside.call(lambda: self._backend.submit(incident_id, payload))

    def find(self, incident_id: str) -> Submission | None:
        """See :meth:`Submits.find`."""
        return self._aside.call(lambda: self._backend.find(incident_id))


class _PreparesAside:
    """A preparation that is made aside."""

    def __init__(self, preparation: Preparation, aside: _Aside) -> None:
        self._preparation, self._aside = preparation, aside

    def payload(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`Preparation.payload`."""
        return self._aside.call(lambda: self._preparation.payload(event))

    def missing(self, event: Mapping[str, Any]) -> list[str]:
        """See :meth:`Preparation.missing`."""
        return self._aside.call(lambda: self._preparation.missing(event))


class Agent:
    """One member: a region with a backend to submit to, or a witness, which has none.

    Parameters
    ----------
    name, model : str
    electorate : Electorate
    timing : Timing
    publish : callable
        Writes records, all or none, and returns once they will not be lost.
    clock : callable
        Seconds, never going back while this process lives.
    log : callable
    said : sequence of (str, mapping)
        Topics and records: everything that the member's own logs hold, mirrored ones too.
    backend : Submits, optional
    preparation : Preparation, optional
    concurrency : int
        Runs of the model under way at a time.
    wall : callable
        Wall time in seconds, for people.
    """

    def __init__(
        self,
        name: str,
        model: str,
        electorate: Electorate,
        timing: Timing,
        publish: Callable[[Sequence[Publish]], None],
        clock: Callable[[], float],
        log: Callable[[Mapping[str, Any]], None],
        said: Sequence[tuple[str, Mapping[str, Any]]] = (),
        backend: Submits | None = None,
        preparation: Preparation | None = None,
        concurrency: int = 1,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.model, self.timing = name, model, timing
        self._publish, self._clock, self._log, self._wall = publish, clock, log, wall
        self._backend, self._preparation, self._concurrency = backend, preparation, concurrency
        self._events: dict[str, Mapping[str, Any]] = {}
        self.claims = Claims()
        self._decisions: dict[str, Mapping[str, Any]] = {}
        self._retrainer: Retrainer | None = None
        self._lock = threading.RLock()
        own = [_standing(each) for topic, each in said if topic == OWNERSHIP and each["member"] == name]
        last = max(own, key=lambda each: each.revision, default=None)
        self.member = Member(name, electorate, timing, clock(), self.claims.counted, last)
        self._said_again_at = clock()
        for topic, record in said:
            self.take(topic, record)

    def take(self, topic: str, record: Mapping[str, Any]) -> None:
        """A record of our own logs, or of another region's that was mirrored to them; twice is as good as once."""
        if record["model"] != self.model:
            return
        with self._lock:
            if topic == OWNERSHIP:
                self.member.hear(_standing(record), self._clock())
            elif topic == SUBMISSIONS:
                self.claims.take(record)
            elif topic == EVENTS:
                self._events.setdefault(record["incident_id"], record)
            elif topic == DECISIONS:
                self._decisions.setdefault(record["incident_id"], record)
            elif topic == ORDERS:
                self._obey(record)

    def tick(self) -> None:
        """Vote, and carry out what is ours to carry out, as far as it goes without waiting."""
        self.vote()
        self.carry_out()
        self.say_again()

    def vote(self) -> None:
        """Say what has changed in who owns the model."""
        with self._lock:
            # What we say counts once it is written; what is carried over with it is written with it.
            standing = self.member.step(self._clock())
            if standing is not None:
                self._say(standing)

    def carry_out(self) -> None:
        """Of one who owns: take up what is not settled, and go on with it."""
        with self._lock:
            # Who does not own any more does nothing more.
            if self._retrainer is not None and self._retrainer.office.epoch != self.member.epoch:
                self._retrainer = None
            if self.member.epoch and self._backend is not None and self._preparation is not None:
                try:
                    self._carry_out(self._backend, self._preparation)
                except TermOverError:
                    self._retrainer = None

    def say_again(self) -> None:
        """Say again what may have been lost on the way, now and then."""
        with self._lock:
            if self._clock() - self._said_again_at >= AGAIN_BEATS * self.timing.beat_s:
                self._said_again_at = self._clock()
                self._say_again()

    @property
    def can_own(self) -> bool:
        """Whether it has anything to carry out: a witness has not."""
        return self._backend is not None and self._preparation is not None

    @property
    def may_submit(self) -> bool:
        """Whether this member owns the model now, and nobody else can."""
        return self.member.may_submit(self._clock())

    def _obey(self, order: Mapping[str, Any]) -> None:
        """What a person says holds for the epoch they knew of: read again later, it is void."""
        hands_over = order["order"] == "hand_over"
        epoch = self.member.epoch if hands_over else self.member.newest_epoch
        if order["member"] != self.name or order["epoch"] != epoch:
            return
        if hands_over:
            self.member.hand_over(self._clock(), *order["members"])
        else:
            self.member.declare_gone(order["members"])
        self._log({"model": self.model, "member": self.name, "order": order["order"], "members": order["members"]})

    def _say(self, standing: Standing) -> None:
        carried = self.claims.carried(standing.epoch) if self.member.carries(standing) else None
        if carried is not None:
            standing = replace(standing, carried=len(carried))
        record = _record(standing, self.model, round(self._wall() * 1000))
        self._publish([*(Publish(SUBMISSIONS, each) for each in carried or ()), Publish(OWNERSHIP, record)])
        for each in carried or ():
            self.claims.take(each)
        if standing.role != self.member.standing.role:
            self._log({"model": self.model, "member": self.name, "epoch": standing.epoch, "role": standing.role})
        self.member.said(standing)

    def _carry_out(self, backend: Submits, preparation: Preparation) -> None:
        if self._retrainer is None:
            office = Term(self.member, self._clock)
            aside = _Aside(self._lock, office)
            self._retrainer = Retrainer(
                _SubmitsAside(backend, aside),
                _PreparesAside(preparation, aside),
                self._publish,
                self._log,
                self.claims,
                office,
                self._clock,
                self._wall,
                concurrency=self._concurrency,
            )
        for event in [*(claim.event for claim in self.claims), *self._events.values()]:
            self._retrainer.on_event(event)
        self._retrainer.tick()

    def _say_again(self) -> None:
        after = self.member.lacking(self._clock())
        again = [] if after is None else self.claims.again(self.member.epoch, after)
        if (epoch := self.member.supplies()) is not None:
            again += self.claims.again(epoch)
        about = {each["incident_id"] for each in again}
        records = [
            *(Publish(EVENTS, self._events[key]) for key in self._unheard()),
            *(Publish(DECISIONS, self._decisions[key]) for key in sorted(about & set(self._decisions))),
            *(Publish(SUBMISSIONS, each) for each in again),
        ]
        if records:
            self._publish(records)

    def _unheard(self) -> list[str]:
        """Incidents that the owner does not seem to know of."""
        if self.member.epoch:
            return []
        epoch = self.member.owner.epoch if self.member.owner is not None else 0
        claims = {key: self.claims.get(key) for key in self._events}
        return [key for key, claim in claims.items() if claim is None or (claim.epoch < epoch and not claim.is_settled)]


def _record(standing: Standing, model: str, time_ms: int) -> dict[str, Any]:
    """For ``ownership``."""
    values = asdict(standing)
    held_epoch, held_number = values.pop("held")
    held = {"held_epoch": held_epoch, "held_number": held_number}
    seat = f"{model}/{standing.member}"
    return {**values, **held, "gone": list(standing.gone), "seat": seat, "model": model, "event_time": time_ms}


def _standing(record: Mapping[str, Any]) -> Standing:
    """From a record of ``ownership``."""
    plain = {each.name: record[each.name] for each in fields(Standing) if each.name not in ("held", "gone")}
    return Standing(**plain, held=(record["held_epoch"], record["held_number"]), gone=tuple(record["gone"]))
