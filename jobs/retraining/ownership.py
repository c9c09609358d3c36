"""Which region submits a model's training: epochs, won by the votes of a majority and kept while a majority listens.

Members are regions, which may own the model, and witnesses, which only vote. A member is what it last said of itself,
its :class:`Standing`; whoever takes in what all have said, in any order and however often, comes to the same view. Four
rules make it safe, whatever is lost, late or dead:

1. A member gives one vote an epoch, and none while the owner it voted for may count on it: for `lease_s` by its own
   clock since it last heard of that owner, and longer by `skew`.
2. An owner may submit until `lease_s` after it *sent* the newest beat that a majority says it has heard. So before a
   majority can vote for somebody else, the last owner's time is up. Clocks have to run alike, not to agree.
3. What a member has published counts, and nothing else, for itself too. A process that starts again knows of no beat
   that it has sent: it waits as any voter does, and stands for another epoch. So an epoch belongs to one process.
4. What an owner is about to submit is published first, and submitted once a majority holds it. Who is voted for has
   to hold whatever any of its voters holds, before it owns: so an intent is known to every owner after its own.

Whoever hears an owner does not stand, also where it cannot follow, having stood for a later epoch before it heard. The
owner sees that, and stands again for an epoch that all can follow.

A majority of two is both. Where one of two regions is gone a person has to say so (:meth:`Member.declare_gone`),
and has to be right: that nothing of that region runs until it hears of the others again.

The rules are those of Raft's elections (Ongaro and Ousterhout, "In search of an understandable consensus algorithm",
2014) with the leases of Gray and Cheriton ("Leases", 1989), over logs that others mirror instead of calls.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from jobs.retraining.standing import Electorate, Standing, Timing

__all__ = ["Member"]

BEATS_KEPT = 64


class Member:
    """One member's part in who owns one model. It does no I/O and knows no clock but the seconds it is given.

    Parameters
    ----------
    name : str
        One of the electorate's voters.
    electorate : Electorate
    timing : Timing
    now : float
        Seconds of a clock that never goes back.
    counted : callable
        From an epoch to how many of its owner's claims this member holds without a gap, see
        :meth:`jobs.retraining.claims.Claims.counted`.
    last : Standing, optional
        What this member has said last, before it started again.

    Notes
    -----
    Whoever drives it calls :meth:`hear` for what others say and :meth:`step` often; publishes what that returns, with
    the claims that are to be carried over where :meth:`carries` says so; and then calls :meth:`said`.
    """

    def __init__(
        self,
        name: str,
        electorate: Electorate,
        timing: Timing,
        now: float,
        counted: Callable[[int], int],
        last: Standing | None = None,
    ) -> None:
        if name not in electorate.voters:
            raise ValueError(f"expected one of {', '.join(electorate.voters)}, got {name!r}")
        self.name, self.electorate, self.timing = name, electorate, timing
        self._counted = counted
        self._known: dict[str, Standing] = {}
        self._seen_at: dict[str, float] = {}
        self._sent_at: dict[int, float] = {}
        self._public = last or Standing(name)
        # An epoch that was ours is another process's now, and who was gone then may have been told the same of us. The
        # vote stays given.
        self._draft = replace(self._public, role="follower", successor="", gone=())
        self._heard_at = now
        # Nobody counts on the vote of one that votes alone and never has, nor of one that stopped owning in order.
        alone = last is None and len(electorate.voters) == 1
        self._released = alone or (last is not None and (last.role, last.granted) == ("leaving", name))
        self._stood_at = self._led_at = self._beat_at = self._stepped_at = self._followed_at = now

    @property
    def standing(self) -> Standing:
        """What was said last."""
        return self._public

    @property
    def epoch(self) -> int:
        """Of the term this member owns; 0 where it does not own."""
        return self._public.epoch if self._public.role == "owner" and self._draft.role == "owner" else 0

    @property
    def owner(self) -> Standing | None:
        """The newest owner this member knows of."""
        owners = [each for each in self._everyone() if each.role == "owner"]
        return max(owners, key=lambda each: each.epoch, default=None)

    @property
    def newest_epoch(self) -> int:
        """Of all that anybody is known to have stood for or voted in."""
        return max(max(each.promised, each.epoch) for each in [*self._known.values(), self._draft])

    def may_submit(self, now: float) -> bool:
        """Whether this member owns, and nobody else can."""
        return bool(self.epoch) and now < self._leased_until()

    def is_committed(self, number: int) -> bool:
        """Whether a majority holds this owner's claims up to that number."""
        wanted = (self.epoch, number)
        return bool(self.epoch) and self._is_majority(each.member for each in self._everyone() if each.held >= wanted)

    def hear(self, said: Standing, now: float) -> None:
        """Take in what a member has said; what has been taken in before changes nothing."""
        before = self._known.get(said.member)
        if said.member == self.name or (before is not None and before.revision >= said.revision):
            return
        self._known[said.member] = said
        self._seen_at[said.member] = now
        if said.member in self._draft.gone and self.epoch and said.promised >= self.epoch:
            # It follows us, so it is back, and counts from here on.
            self._draft = replace(self._draft, gone=tuple(each for each in self._draft.gone if each != said.member))
        self._consider(said, now)

    def step(self, now: float) -> Standing | None:
        """What is to be said now, if anything has changed."""
        # 1. Whom do we vote for: those who stand, and were heard before we were free.
        for each in sorted(self._known.values(), key=self._precedence):
            if self._is_alive(each, now):
                self._consider(each, now)
        # 2. Do we stand, own, or give up?
        {"follower": self._follow, "leaving": self._follow, "candidate": self._stand, "owner": self._lead}[
            self._draft.role
        ](now)
        # 3. What do we hold?
        self._draft = replace(self._draft, held=max(self._draft.held, self._holds()))
        self._stepped_at = now
        if self._draft == self._public:
            return None
        return replace(self._draft, revision=self._public.revision + 1)

    def said(self, standing: Standing) -> None:
        """What :meth:`step` returned has been published."""
        self._public = self._draft = standing

    def carries(self, standing: Standing) -> bool:
        """Whether, with this, all known claims are to be published anew, under its epoch, numbered from 1."""
        return standing.role == "owner" and self._public.role != "owner"

    def hand_over(self, now: float, successor: str = "") -> None:
        """Stop owning, at once; for a region that is to own next, or for whoever comes first."""
        if self._draft.role in ("owner", "candidate"):
            self._draft = replace(self._draft, role="leaving", successor=successor)
            self._released, self._heard_at = True, now

    def declare_gone(self, members: Sequence[str]) -> None:
        """A person says that nothing of these members runs any more."""
        self._draft = replace(self._draft, gone=tuple(each for each in members if each != self.name))

    def lacking(self, now: float) -> int | None:
        """The number of our claims from which on some member that is alive lacks them; None where none does."""
        numbers = [
            each.held[1] if each.held[0] == self.epoch else 0
            for each in self._known.values()
            if self.epoch and each.held < self._public.held and self._is_alive(each, now)
        ]
        return min(numbers, default=None)

    def supplies(self) -> int | None:
        """The epoch whose claims the one we voted for lacks and we have; None where it lacks none."""
        held = self._public.held
        chosen = self._known.get(self._public.granted)
        wanted = chosen is not None and chosen.role == "candidate" and chosen.epoch == self._public.promised
        return held[0] if wanted and chosen is not None and held > chosen.held else None

    def _everyone(self) -> list[Standing]:
        return [*self._known.values(), self._public]

    def _is_majority(self, members: Iterable[str]) -> bool:
        voters = set(self.electorate.voters) - set(self._public.gone)
        return len(voters & set(members)) > len(voters) // 2

    def _is_free(self, now: float) -> bool:
        """Whether nobody may count on our last vote any more."""
        return self._released or now - self._heard_at > self.timing.patience_s

    def _precedence(self, said: Standing) -> tuple[int, int]:
        return -said.epoch, self._rank(said.member)

    def _rank(self, name: str) -> int:
        return self.electorate.regions.index(name) if name in self.electorate.regions else len(self.electorate.regions)

    def _consider(self, said: Standing, now: float) -> None:
        """Vote for one who stands, hear the one we voted for, or follow an owner that others voted for."""
        mine = self._draft
        if said.epoch < mine.promised or said.role == "follower":
            return
        if said.epoch == mine.promised and said.member == mine.granted:
            if said.beat > mine.heard:
                self._listen(said, now)
            if said.role == "leaving" and not self._released:
                self._released = True
                self._heard_at = now
            return
        is_elected = said.role == "owner"
        may_vote = said.role == "candidate" and said.epoch > mine.promised and self._is_free(now)
        if is_elected or may_vote:
            # Of one epoch there is one owner: had somebody else our vote in it, they have lost.
            self._draft = replace(mine, promised=said.epoch, granted=said.member, role="follower", successor="")
            self._listen(said, now)

    def _listen(self, said: Standing, now: float) -> None:
        self._draft = replace(self._draft, heard=said.beat)
        self._heard_at, self._released = now, False

    def _follow(self, now: float) -> None:
        if self.name not in self.electorate.regions or not self._is_free(now) or self._hears_owner(now):
            return
        # The others let the one that comes before them be first.
        since, leaving = self._heard_at + (0 if self._released else self.timing.patience_s), self._leaving(now)
        if leaving is not None:
            since = max(since, self._seen_at[leaving.member])
        if now - since < self._turn(leaving) * 2 * self.timing.beat_s:
            return
        epoch = self._next_epoch()
        self._draft = replace(
            self._draft, role="candidate", epoch=epoch, promised=epoch, granted=self.name, carried=0, successor=""
        )
        self._stood_at = now
        self._beat(now)

    def _hears_owner(self, now: float) -> bool:
        return any(each.role == "owner" and self._is_alive(each, now) for each in self._known.values())

    def _is_alive(self, said: Standing, now: float) -> bool:
        return now - self._seen_at[said.member] < self.timing.lease_s

    def _next_epoch(self) -> int:
        """After all that are known of, and of no other region, whatever that does not know of."""
        after = 1 + self.newest_epoch
        return after + (self._rank(self.name) - after) % len(self.electorate.regions)

    def _leaving(self, now: float) -> Standing | None:
        """The newest owner that has just stopped."""
        known = [each for each in self._known.values() if each.role == "leaving" and self._is_alive(each, now)]
        return max(known, key=lambda each: each.epoch, default=None)

    def _turn(self, leaving: Standing | None) -> int:
        """How many others are to be let go first."""
        rank = self._rank(self.name)
        if self._draft.role == "leaving":
            return 0 if self._draft.successor == self.name else len(self.electorate.regions) + rank
        if leaving is not None and leaving.successor in self.electorate.regions:
            return 0 if leaving.successor == self.name else 1 + rank
        return rank

    def _stand(self, now: float) -> None:
        mine = self._public
        if now - self._stood_at > self.timing.patience_s:
            self._draft = replace(self._draft, role="follower")
            return
        self._beat_when_due(now)
        votes = [each for each in self._everyone() if each.promised == mine.epoch and each.granted == self.name]
        if mine.role != "candidate" or not self._is_majority(each.member for each in votes):
            return
        epoch, number = max(each.held for each in votes)
        if self._counted(epoch) >= number:
            self._draft = replace(self._draft, role="owner")
            self._led_at = self._followed_at = now

    def _lead(self, now: float) -> None:
        paused = now - self._stepped_at > self.timing.beat_s  # who was not running has not been unheard
        if now < self._leased_until() or paused:
            self._led_at = now
        if now - self._led_at > self.timing.lease_s:
            # Nobody hears us. Who goes on would keep its own vote for ever.
            self._draft = replace(self._draft, role="follower")
            return
        ahead = [each for each in self._known.values() if each.promised > self.epoch]
        if not ahead or any(each.role != "follower" and self._is_alive(each, now) for each in ahead):
            self._followed_at = now  # who still stands does not hear us, and would not follow then either
        if now - self._followed_at > 2 * self.timing.patience_s:
            self.hand_over(now, self.name)
            return
        self._beat_when_due(now)

    def _beat_when_due(self, now: float) -> None:
        if now - self._beat_at >= self.timing.beat_s:
            self._beat(now)

    def _beat(self, now: float) -> None:
        beat = self._public.beat + 1
        self._sent_at[beat] = self._beat_at = self._heard_at = now
        self._released = False
        self._sent_at.pop(beat - BEATS_KEPT, None)
        self._draft = replace(self._draft, beat=beat, heard=beat)

    def _leased_until(self) -> float:
        """When the time of the newest beat is up that a majority has heard."""
        mine = self._public
        followers = [each for each in self._everyone() if (each.promised, each.granted) == (mine.epoch, self.name)]
        for beat in sorted(self._sent_at, reverse=True):
            if self._is_majority(each.member for each in followers if each.heard >= beat):
                return self._sent_at[beat] + self.timing.lease_s
        return float("-inf")

    def _holds(self) -> tuple[int, int]:
        """What we hold of the claims of the one we voted for, once that is all of what it carried over."""
        mine = self._draft
        chosen = self._known.get(mine.granted) if mine.granted != self.name else self._public
        if chosen is None or chosen.role not in ("owner", "leaving") or chosen.epoch != mine.promised:
            return (0, 0)
        number = self._counted(chosen.epoch)
        return (chosen.epoch, number) if number >= chosen.carried else (0, 0)
