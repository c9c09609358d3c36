"""A virtual clock, logs, mirrors between them, a training backend: everything around the agents, and what breaks in it.

All that happens is an entry of one queue in the order of virtual time, and all chance comes from one generator: so a
seed is a history.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.kafka import Publish
from jobs.retraining.backends.base import ConflictError, RunState, Submission, UnreachableError, payload_hash

__all__ = ["BACKENDS", "Backend", "BackendKind", "CrashError", "Entry", "Log", "Mirrors", "World"]

MIRROR_S = 0.2
RUN_S = (2.0, 12.0)
RESULT = {"status": "succeeded", "uri": "models/m/2", "version": "2", "decision": "promoted"}


class CrashError(Exception):
    """The process is gone, between any two things that it does."""


class World:
    """Virtual time and chance.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.seen: Counter[str] = Counter()
        self.tell: Callable[[str], None] | None = None
        self.crash_chance = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        """Have something done later."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._count, do))

    def until(self, end_s: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= end_s and not is_over():
            self.now, _, do = heapq.heappop(self._queue)
            do()

    def note(self, kind: str, what: str, more: str = "") -> None:
        """Count what happens, and say it to whoever listens."""
        self.seen[f"{kind} {what}".strip()] += 1
        if self.tell is not None:
            self.tell(f"{self.now:7.2f} s  {kind} {what} {more}".rstrip())

    def moment(self, name: str) -> None:
        """Somewhere a process may die."""
        if self.crash_chance and self.random.random() < self.crash_chance:
            self.note("crash", name)
            raise CrashError(name)


@dataclass(frozen=True)
class Entry:
    """A record in a log, and whose log it was first written to."""

    origin: str
    topic: str
    record: Mapping[str, Any]


@dataclass
class Log:
    """A region's Kafka, or a witness's file: it may be away, and loses nothing."""

    name: str
    entries: list[Entry] = field(default_factory=list)
    is_up: bool = True

    def write(self, records: Sequence[Publish]) -> None:
        """All or none.

        Raises
        ------
        CrashError
            Where it is away: who cannot write gives up.
        """
        if not self.is_up:
            raise CrashError("the log is away")
        self.entries += [Entry(self.name, each.topic, dict(each.record)) for each in records]


class Mirrors:
    """Copies what is written to each log into all others: late, in any order, twice, or not at all.

    Parameters
    ----------
    world : World
    logs : mapping of str to Log
    """

    def __init__(self, world: World, logs: Mapping[str, Log]) -> None:
        self._world, self._logs = world, logs
        self._next = {(source, target): 0 for source in logs for target in logs if source != target}
        self.cut: set[frozenset[str]] = set()
        self.loss = self.twice = 0.0
        self.slow_s = 0.0
        for pair in self._next:
            self._later(pair)

    def rewind(self, source: str, target: str, entries: int) -> None:
        """Forget how far it has come; what was copied is copied again."""
        self._next[source, target] = max(0, self._next[source, target] - entries)
        self._world.note("mirror", "rewound")

    def skip(self, source: str, target: str) -> None:
        """Forget it the other way: what has not been copied never is."""
        self._next[source, target] = len(self._logs[source].entries)
        self._world.note("mirror", "skipped")

    def _later(self, pair: tuple[str, str]) -> None:
        self._world.after(MIRROR_S * self._world.random.uniform(0.5, 1.5), lambda: self._copy(pair))

    def _copy(self, pair: tuple[str, str]) -> None:
        source, target = self._logs[pair[0]], self._logs[pair[1]]
        chance = self._world.random.random
        if source.is_up and target.is_up and frozenset(pair) not in self.cut:
            new = source.entries[self._next[pair] :]
            self._next[pair] = len(source.entries)
            for each in new:
                if each.origin != source.name:  # what comes from elsewhere is not passed on
                    continue
                if self.loss and chance() < self.loss:
                    self._world.note("mirror", "lost a record", f"of {each.topic} from {pair[0]} to {pair[1]}")
                    continue
                for _ in range(2 if self.twice and chance() < self.twice else 1):
                    delay_s = chance() * (self.slow_s or MIRROR_S)
                    self._world.after(delay_s, lambda each=each: self._arrive(target, each))  # type: ignore[misc]
        self._later(pair)

    def _arrive(self, target: Log, entry: Entry) -> None:
        if target.is_up:
            target.entries.append(entry)
        else:
            self._world.after(1.0, lambda: self._arrive(target, entry))


@dataclass(frozen=True)
class BackendKind:
    """How a backend treats an incident's id.

    Attributes
    ----------
    name : str
    keyed : bool
        The id is the run's own name there, so that there cannot be two. Otherwise each request that comes is a run.
    request_s : float
        How long a request may be under way, its sender dead or not.
    listing_s : float
        How old a run is before it is found.
    """

    name: str
    keyed: bool
    request_s: float
    listing_s: float


BACKENDS = (BackendKind("keyed", True, 30.0, 0.0), BackendKind("labelled", False, 15.0, 10.0))


@dataclass
class _Run:
    incident_id: str
    payload_hash: str
    began_s: float
    ends_s: float


class Backend:
    """A training platform in the middle of nowhere, reached from every region.

    Parameters
    ----------
    world : World
    kind : BackendKind
    """

    name = "simulated"

    def __init__(self, world: World, kind: BackendKind) -> None:
        self._world, self.kind = world, kind
        self.hidden_s = 0.0 if kind.keyed else 1.2 * (kind.request_s + kind.listing_s)
        self.runs: list[_Run] = []
        self.is_up = True
        self.late_chance = 0.0

    def submit(self, incident_id: str, payload: Mapping[str, Any]) -> Submission:
        """See :meth:`jobs.retraining.backends.base.Submits.submit`."""
        world, wanted = self._world, payload_hash(payload)
        world.moment("before submit")
        if world.random.random() < self.late_chance:
            # Stopped between the last look at the clock and the network, say; the request comes when it comes.
            world.note("request", "late", incident_id)
            world.after(world.random.uniform(0, self.kind.request_s), lambda: self._begin(incident_id, wanted))
            if world.random.random() < 0.5:
                raise CrashError("in submit")
            raise UnreachableError("no answer")
        if not self.is_up:
            raise UnreachableError("no backend")
        self._begin(incident_id, wanted)
        world.moment("after submit")
        found = self._found(incident_id)
        assert found is not None
        if self.kind.keyed and found.payload_hash != wanted:
            world.note("request", "in conflict", incident_id)
            raise ConflictError(f"incident {incident_id} has a run with another payload")
        return self._as_submission(found)

    def find(self, incident_id: str) -> Submission | None:
        """See :meth:`jobs.retraining.backends.base.Submits.find`."""
        self._world.moment("before find")
        if not self.is_up:
            raise UnreachableError("no backend")
        found = self._found(incident_id, self.kind.listing_s)
        return self._as_submission(found) if found is not None else None

    def count(self, incident_id: str) -> int:
        """Runs there have been of an incident."""
        return sum(each.incident_id == incident_id for each in self.runs)

    def _begin(self, incident_id: str, wanted: str) -> None:
        there = self._found(incident_id) if self.kind.keyed else None
        if there is not None:
            self._world.note("request", "again", incident_id)
            return
        now = self._world.now
        self._world.note("run", "begins", incident_id)
        self.runs.append(_Run(incident_id, wanted, now, now + self._world.random.uniform(*RUN_S)))

    def _found(self, incident_id: str, age_s: float = 0.0) -> _Run | None:
        now = self._world.now
        known = [each for each in self.runs if each.incident_id == incident_id and each.began_s + age_s <= now]
        return known[0] if known else None

    def _as_submission(self, run: _Run) -> Submission:
        is_done = self._world.now >= run.ends_s
        name = f"{run.incident_id}@{run.began_s}"
        state: RunState = "succeeded" if is_done else "running"
        return Submission(run.incident_id, name, run.payload_hash, state, 1, RESULT if is_done else None)
