"""Many histories, side by side, and what they say together."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from jobs.retraining.simulation.histories import History, Outcome, Start, agents
from jobs.retraining.simulation.rivals import mirror_only, naive, no_epoch

__all__ = ["CONSUMERS", "OURS", "Summary", "simulate", "trace"]

OURS = "headwater"
CONSUMERS: dict[str, Start] = {OURS: agents, "naive": naive, "mirror-only": mirror_only, "no-epoch": no_epoch}
CHUNK = 25
SEEDS_TOLD = 10


@dataclass
class Summary:
    """What came of many histories.

    Attributes
    ----------
    histories, incidents, lost, duplicates : int
    violations : Counter
        Of what must hold at every moment.
    seeds : list of int
        Of the first histories that went wrong.
    seen : Counter
        Everything that happened, and how often: what the histories have been through.
    """

    histories: int = 0
    incidents: int = 0
    lost: int = 0
    duplicates: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    seeds: list[int] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def is_right(self) -> bool:
        """Whether nothing went wrong in any."""
        return not (self.lost or self.duplicates or self.violations)

    def add(self, outcome: Outcome) -> None:
        """Count a history."""
        self.histories += 1
        self.incidents += outcome.incidents
        self.lost += outcome.lost
        self.duplicates += outcome.duplicates
        self.violations.update(outcome.violations)
        self.seen += outcome.seen
        if not outcome.is_right and len(self.seeds) < SEEDS_TOLD:
            self.seeds.append(outcome.seed)


def simulate(consumer: str, seed: int, runs: int, progress: Callable[[int], object] = lambda done: None) -> Summary:
    """Run histories with the seeds from one on.

    Parameters
    ----------
    consumer : str
        One of :data:`CONSUMERS`.
    seed, runs : int
    progress : callable
        Called with how many have been run since the last time.
    """
    found = Summary()
    for outcomes in _outcomes(consumer, iter(range(seed, seed + runs))):
        for each in outcomes:
            found.add(each)
        progress(len(outcomes))
    return found


def trace(consumer: str, seed: int, tell: Callable[[str], None]) -> Outcome:
    """Run one history, and have everything told that happens in it."""
    history = History(seed, CONSUMERS[consumer])
    history.world.tell = tell
    return history.run()


def _outcomes(consumer: str, seeds: Iterator[int]) -> Iterator[list[Outcome]]:
    chunks = iter(lambda: list(islice(seeds, CHUNK)), [])
    with ProcessPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(_run, ((consumer, chunk) for chunk in chunks))


def _run(work: tuple[str, list[int]]) -> list[Outcome]:
    consumer, seeds = work
    return [History(seed, CONSUMERS[consumer]).run() for seed in seeds]
