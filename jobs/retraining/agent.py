"""A region's part in the retraining of one model: takes in what all regions say, votes, and submits while it owns.

It does no I/O and reads no clock: records come in by :meth:`Agent.take`, go out by the function it is given, and
:meth:`Agent.tick` is called often. So the same code runs over Kafka and in :mod:`jobs.retraining.simulation`.

What others may have missed is said again until they show that they have it: a claim until every region that is alive
holds it, an event until it is claimed. So a mirror may lose whatever it likes, as long as it brings something now and
then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from jobs.kafka import Publish
from jobs.retraining.backends.base import Submits
from jobs.retraining.claims import Claims
from jobs.retraining.consumer import DECISIONS, EVENTS, SUBMISSIONS, Preparation, Retrainer
from jobs.retraining.ownership import Electorate, Member, Standing, Timing

__all__ = ["OWNERSHIP", "Agent", "Term"]

OWNERSHIP = "ownership"
AGAIN_BEATS = 3
"""Beats to wait before saying something again."""


class Term:
    """A member's office, see :class:`jobs.retraining.claims.Office`: of one epoch, and over with it."""

    def __init__(self, member: Member, clock: Callable[[], float]) -> None:
        self._member, self._clock = member, clock
        self.epoch = member.epoch
        # Owners that a person has declared gone may have claimed what only they know of.
        self.knows_all = not member.standing.gone

    def may_submit(self) -> bool:
        """See :meth:`Member.may_submit`."""
        return self._member.epoch == self.epoch and self._member.may_submit(self._clock())

    def is_committed(self, number: int) -> bool:
        """See :meth:`Member.is_committed`."""
        return self._member.epoch == self.epoch and self._member.is_committed(number)


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
    ) -> None:
        self.name, self.model, self.timing = name, model, timing
        self._publish, self._clock, self._log = publish, clock, log
        self._backend, self._preparation, self._concurrency = backend, preparation, concurrency
        self._events: dict[str, Mapping[str, Any]] = {}
        self.claims = Claims()
        self._decisions: dict[str, Mapping[str, Any]] = {}
        self._retrainer: Retrainer | None = None
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
        if topic == OWNERSHIP:
            self.member.hear(_standing(record), self._clock())
        elif topic == SUBMISSIONS:
            self.claims.take(record)
        elif topic == EVENTS:
            self._events.setdefault(record["incident_id"], record)
        elif topic == DECISIONS:
            self._decisions.setdefault(record["incident_id"], record)

    def tick(self) -> None:
        """Vote, and carry out what is ours to carry out, as far as it goes without waiting."""
        # 1. What we say counts once it is written; what is carried over with it is written with it.
        standing = self.member.step(self._clock())
        if standing is not None:
            self._say(standing)
        # 2. Who does not own any more does nothing more.
        if self._retrainer is not None and self._retrainer.office.epoch != self.member.epoch:
            self._retrainer = None
        # 3. Who owns takes up what is not settled.
        if self.member.epoch and self._backend is not None and self._preparation is not None:
            self._carry_out(self._backend, self._preparation)
        # 4. What may have been lost on the way is said again.
        if self._clock() - self._said_again_at >= AGAIN_BEATS * self.timing.beat_s:
            self._said_again_at = self._clock()
            self._say_again()

    @property
    def may_submit(self) -> bool:
        """Whether this member owns the model now, and nobody else can."""
        return self.member.may_submit(self._clock())

    def _say(self, standing: Standing) -> None:
        carried = self.claims.carried(standing.epoch) if self.member.carries(standing) else None
        if carried is not None:
            standing = replace(standing, carried=len(carried))
        record = {**asdict(standing), "model": self.model}
        self._publish([*(Publish(SUBMISSIONS, each) for each in carried or ()), Publish(OWNERSHIP, record)])
        for each in carried or ():
            self.claims.take(each)
        if standing.role != self.member.standing.role:
            self._log({"model": self.model, "member": self.name, "epoch": standing.epoch, "role": standing.role})
        self.member.said(standing)

    def _carry_out(self, backend: Submits, preparation: Preparation) -> None:
        if self._retrainer is None:
            office = Term(self.member, self._clock)
            self._retrainer = Retrainer(
                backend,
                preparation,
                self._publish,
                self._log,
                self.claims,
                office,
                self._clock,
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


def _standing(record: Mapping[str, Any]) -> Standing:
    """From a record of ``ownership``."""
    values = {key: value for key, value in record.items() if key != "model"}
    return Standing(**{**values, "held": tuple(values["held"]), "gone": tuple(values["gone"])})
