"""Faults to put into the code that decides who submits, each of which the simulator has to find."""

import importlib
import multiprocessing
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "jobs.retraining"
# In the order in which they import one another.
MODULES = ("claims", "ownership", "retrainer", "agent", "simulation.world", "simulation.histories")


ENDLESS_S = 30


@dataclass(frozen=True)
class Mutant:
    """A piece of a module, what to put in its place, and a history that goes wrong with it."""

    name: str
    module: str
    right: str
    wrong: str
    seed: int


MUTANTS = (
    Mutant(
        "a lease too long", "ownership", "self._sent_at[beat] + self.timing.lease_s", "self._sent_at[beat] + 12.0", 19
    ),
    Mutant("a lease from the newest beat", "ownership", "return self._sent_at[beat] +", "return self._beat_at +", 145),
    Mutant(
        "no lease at all",
        "ownership",
        "return bool(self.epoch) and now < self._leased_until()",
        "return bool(self.epoch)",
        19,
    ),
    Mutant(
        "an impatient voter",
        "ownership",
        "self._heard_at > self.timing.patience_s",
        "self._heard_at > self.timing.beat_s",
        18,
    ),
    Mutant("half is a majority", "ownership", "> len(voters) // 2", ">= len(voters) // 2", 1),
    Mutant(
        "a vote right after a start",
        "ownership",
        "self._heard_at = now\n        # Nobody",
        "self._heard_at = now - 99\n        # Nobody",
        52,
    ),
    Mutant(
        "an epoch kept over a start",
        "ownership",
        'self._draft = replace(self._public, role="follower", successor="", gone=())',
        "self._draft = self._public",
        1,
    ),
    Mutant(
        "a vote while another may count on it",
        "ownership",
        "said.epoch > mine.promised and self._is_free(now)",
        "said.epoch > mine.promised",
        107,
    ),
    Mutant(
        "an owner without the claims of its voters", "ownership", "if self._counted(epoch) >= number:", "if True:", 55
    ),
    Mutant(
        "a candidate that nobody votes for stays",
        "ownership",
        "if now - self._stood_at > self.timing.patience_s:",
        "if False:",
        26,
    ),
    Mutant("what is hidden is not there", "claims", "if run is None and is_hidden:", "if False:", 0),
    Mutant(
        "gaps are no gaps",
        "claims",
        "while found + 1 in places:\n            found += 1\n",
        "found = max(places, default=0)\n",
        1248,
    ),
    Mutant(
        "another owner's payload is a conflict",
        "claims",
        "run.payload_hash not in claim.payload_hashes:",
        "run.payload_hash != wanted:",
        0,
    ),
    Mutant("a payload that nobody announced", "claims", "or wanted not in claim.payload_hashes:", "or False:", 9),
    Mutant(
        "others' requests are not waited for",
        "retrainer",
        "self.backend.hidden_s if may_be_asked_for else now",
        "0.0 if may_be_asked_for else now",
        2,
    ),
    Mutant(
        "own requests are not waited for",
        "retrainer",
        "incident.shown_at, incident.look_at = now + self.backend.hidden_s,",
        "incident.shown_at, incident.look_at = now,",
        0,
    ),
    Mutant(
        "submitted without asking what there is",
        "retrainer",
        "incident.run = self.backend.find(key)",
        "incident.run = None",
        0,
    ),
    Mutant(
        "claims are not carried over",
        "agent",
        "self.claims.carried(standing.epoch) if self.member.carries(standing)",
        "[] if self.member.carries(standing)",
        1023,
    ),
    Mutant("nothing is said again", "agent", "again = [] if after is None else", "again = [] if True else", 460),
    Mutant(
        "voters do not supply",
        "agent",
        "if (epoch := self.member.supplies()) is not None:",
        "if (epoch := self.member.supplies()) is not None and False:",
        142,
    ),
    Mutant(
        "events are said once",
        "agent",
        "if claim is None or (claim.epoch < epoch and not claim.is_settled)",
        "if False",
        132,
    ),
)


def source(module: str) -> str:
    return Path(importlib.import_module(f"{PACKAGE}.{module}").__file__ or "").read_text()


def first_failure(mutant: Mutant | None, seeds: Iterable[int]) -> int | None:
    """The first seed whose history goes wrong, or never ends, with the mutant in place: in a process of its own."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_look, args=(mutant, seeds, answers))
    child.start()
    found = answers.get()
    child.join()
    return found


def _look(mutant: Mutant | None, seeds: Iterable[int], answers) -> None:
    for name in MODULES:
        module = importlib.import_module(f"{PACKAGE}.{name}")
        text = source(name)
        if mutant is not None and mutant.module == name:
            text = text.replace(mutant.right, mutant.wrong)
        exec(compile(text, module.__file__ or name, "exec"), module.__dict__)
    histories = importlib.import_module(f"{PACKAGE}.simulation.histories")
    signal.signal(signal.SIGALRM, _endless)
    for seed in seeds:
        signal.alarm(ENDLESS_S)
        try:
            if not histories.History(seed, histories.agents).run().is_right:
                answers.put(seed)
                return
        except Exception:  # it went wrong by breaking
            answers.put(seed)
            return
    answers.put(None)


def _endless(*_) -> None:
    raise TimeoutError
