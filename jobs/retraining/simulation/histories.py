"""One history: regions and witnesses, incidents, and what befalls them; and whether each incident had its one run."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.kafka import Publish
from jobs.retraining.agent import Agent
from jobs.retraining.retrainer import EVENTS
from jobs.retraining.simulation.world import BACKENDS, Backend, CrashError, Log, Mirrors, World
from jobs.retraining.standing import Electorate, Timing

__all__ = ["History", "Outcome", "Process", "Start", "agents"]

MODEL = "m"
TIMING = Timing(beat_s=1.0, lease_s=6.0, skew=0.1)
TICK_S = 0.5
TROUBLE_S = 45.0
END_S = 400.0
ELECTORATES = (
    Electorate(("a", "b"), ("w",)),
    Electorate(("a", "b", "c")),
    Electorate(("a", "b")),
    Electorate(("a", "b"), ("v", "w", "x")),
    Electorate(("a",)),
)


class Process(Protocol):
    """What runs in a region."""

    def take(self, topic: str, record: Mapping[str, Any]) -> None:
        """A record of the region's log."""

    def tick(self) -> None:
        """Do what is to be done."""


Start = Callable[["Node", Sequence[tuple[str, Mapping[str, Any]]]], Process]
"""Makes the process of a node from what its log holds."""


class Ready:
    """Preparation that needs nothing.

    Parameters
    ----------
    name : str
        Of the region.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def payload(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """See :class:`jobs.retraining.retrainer.Preparation`."""
        # Where it is made, and of which region's event, is in a payload too.
        made = {"made": self._name, "effective_from_ms": event["effective_from"]}
        return {"incident_id": event["incident_id"], "margin": 0.0, "champion": None, **made}

    def missing(self, event: Mapping[str, Any]) -> list[str]:
        """See :class:`jobs.retraining.retrainer.Preparation`."""
        del event
        return []


@dataclass
class Node:
    """A region or a witness: its log, its process of the moment, and its clock."""

    name: str
    world: World
    log: Log
    history: "History"
    start: Start
    process: Process | None = None
    place: int = 0
    committed: int = 0
    stopped_until: float = 0.0
    down_until: float = 0.0
    clock: Callable[[], float] = lambda: 0.0
    life: int = 0

    def publish(self, life: int, records: Sequence[Publish]) -> None:
        """Write to the log, unless another process of this node has begun to."""
        self.world.moment("before publish")
        if life != self.life:
            self.world.note("process", "fenced", self.name)
            raise CrashError("fenced")
        self.log.write(records)
        self.world.moment("after publish")

    def kill(self, for_s: float) -> None:
        """End the process; it starts again later."""
        self.process, self.life = None, self.life + 1
        self.down_until = max(self.down_until, self.world.now + for_s)

    def turn(self) -> None:
        """Start the process if it is time, and let it do what it has to."""
        world = self.world
        world.after(TICK_S * world.random.uniform(0.6, 1.4), self.turn)
        if world.now < max(self.stopped_until, self.down_until):
            return
        try:
            if self.process is None:
                if not self.log.is_up:
                    return
                self.clock = self._new_clock()
                self.place = len(self.log.entries)
                self.process = self.start(self, [(each.topic, each.record) for each in self.log.entries])
            if self.log.is_up:
                new, self.place = self.log.entries[self.place :], len(self.log.entries)
                for each in new:
                    self.process.take(each.topic, each.record)
            self.process.tick()
        except CrashError:
            self.kill(world.random.uniform(0.5, 8.0))

    def _new_clock(self) -> Callable[[], float]:
        """A process's own: from anywhere, a little too fast or too slow."""
        world = self.world
        offset, rate = world.random.uniform(0, 1e6), 1 + TIMING.skew * world.random.uniform(-0.4, 0.4)
        return lambda: offset + rate * world.now

    def zombie(self, for_s: float) -> None:
        """Stop the process where it is and start another beside it; the first wakes up later and knows nothing."""
        old, self.process, self.life = self.process, None, self.life + 1
        if isinstance(old, Agent):
            self.history.zombies.append(old)
            self.world.after(for_s, lambda: self._wake(old, 8))

    def _wake(self, old: Agent, turns: int) -> None:
        try:
            old.tick()
        except CrashError:
            turns = 0
        if turns:
            self.world.after(TICK_S, lambda: self._wake(old, turns - 1))
        elif old in self.history.zombies:
            self.history.zombies.remove(old)


@dataclass(frozen=True)
class Outcome:
    """What came of a history.

    Attributes
    ----------
    seed : int
    incidents, lost, duplicates : int
    violations : tuple of str
        Of what must hold at every moment.
    seen : Counter
        What happened, and how often.
    """

    seed: int
    incidents: int
    lost: int
    duplicates: int
    violations: tuple[str, ...]
    seen: Counter[str] = field(hash=False)

    @property
    def is_right(self) -> bool:
        """Whether every incident had its one run, and nothing that must hold did not."""
        return not (self.lost or self.duplicates or self.violations)


class History:
    """Regions in trouble.

    Parameters
    ----------
    seed : int
    start : callable
        What runs in the regions.
    """

    def __init__(self, seed: int, start: Start) -> None:
        self.seed = seed
        self.world = world = World(seed)
        chance = world.random
        self.electorate = chance.choices(ELECTORATES, weights=(6, 4, 2, 2, 1))[0]
        self.backend = Backend(world, chance.choices(BACKENDS, weights=(1, 2))[0])
        logs = {name: Log(name) for name in self.electorate.voters}
        self.mirrors = Mirrors(world, logs)
        self.nodes = {name: Node(name, world, log, self, start) for name, log in logs.items()}
        self.zombies: list[Agent] = []
        self.incidents: list[str] = []
        self.violations: set[str] = set()
        self._owners: dict[int, Agent] = {}
        for node in self.nodes.values():
            world.after(chance.uniform(0, 1), node.turn)
        self._schedule()

    def run(self) -> Outcome:
        """Let it happen, and everything be mended, and see."""
        world, seen = self.world, self.world.seen
        world.after(TICK_S, self._watch)
        world.until(TROUBLE_S)
        self._mend()
        # Whatever is still under way has come by then.
        world.until(TROUBLE_S + 45.0)
        world.until(END_S, self._is_settled)
        world.until(world.now + 3 * TIMING.lease_s)
        counts = {key: self.backend.count(key) for key in self.incidents}
        lost = [key for key in self.incidents if not counts[key] or not self._is_settled()]
        seen[f"backend {self.backend.kind.name}"] += 1
        seen[f"{len(self.electorate.regions)} regions, {len(self.electorate.witnesses)} witnesses"] += 1
        duplicates = sum(max(0, each - 1) for each in counts.values())
        return Outcome(self.seed, len(counts), len(lost), duplicates, tuple(sorted(self.violations)), seen)

    def _schedule(self) -> None:
        world, chance = self.world, self.world.random
        troubles = [chance.uniform(0, TROUBLE_S - 5) for _ in range(chance.randint(0, 8))]
        for number in range(chance.randint(1, 6)):
            key, at = f"i{number}", chance.uniform(2, TROUBLE_S * 0.8)
            if troubles and chance.random() < 0.6:  # so that trouble comes while something is under way
                at = max(2.0, chance.choice(troubles) + chance.uniform(-5, 5))
            self.incidents.append(key)
            regions = [each for each in self.electorate.regions if chance.random() < 0.6]
            for name in regions or [chance.choice(self.electorate.regions)]:
                world.after(at + chance.expovariate(0.5), lambda name=name, key=key: self._see(name, key))  # type: ignore[misc]
        if chance.random() < 0.5:
            world.crash_chance = chance.choice((0.005, 0.02, 0.06))
        if chance.random() < 0.4:
            self.backend.late_chance = chance.choice((0.2, 0.7))
        for at in troubles:
            world.after(at, self._trouble)
            if chance.random() < 0.5:  # which seldom comes alone
                world.after(at + chance.uniform(0.5, 8), self._trouble)

    def _see(self, name: str, incident_id: str) -> None:
        """A region finds an incident, and says so as soon as it can."""
        log = self.nodes[name].log
        if not log.is_up:
            self.world.after(1.0, lambda: self._see(name, incident_id))
            return
        seen = {"event_time": int(incident_id[1:]), "effective_from": self.world.random.randint(0, 3)}
        event = {"incident_id": incident_id, "model": MODEL, **seen}
        log.write([Publish(EVENTS, event)])

    def _trouble(self) -> None:
        chance = self.world.random
        kinds = (
            self._kill,
            self._lose_region,
            self._cut,
            self._stop,
            self._double,
            self._spoil_mirror,
            self._lose_backend,
            self._swap,
            self._isolate,
        )
        kind = chance.choice(kinds)
        nodes = list(self.nodes.values())
        owners = [each for each in nodes if isinstance(each.process, Agent) and each.process.member.epoch]
        node = chance.choice(owners if owners and chance.random() < 0.5 else nodes)
        for_s = chance.choice((1.0, 4.0, 10.0, 25.0)) * chance.uniform(0.5, 1.5)
        self.world.note("fault", kind.__name__.strip("_").replace("_", " "), f"{node.name} for {for_s:.1f} s")
        kind(node, for_s)

    def _kill(self, node: Node, for_s: float) -> None:
        node.kill(for_s)

    def _lose_region(self, node: Node, for_s: float) -> None:
        """Log and process, all at once."""
        node.kill(for_s)
        node.log.is_up = False
        self.world.after(for_s, lambda: setattr(node.log, "is_up", True))
        others = [each for each in self.electorate.regions if each != node.name]
        if len(self.electorate.voters) == 2 and node.name in self.electorate.regions:
            self.world.after(2.0, lambda: self._tell(others[0], node))

    def _tell(self, name: str, gone: Node) -> None:
        """A person says who is gone, and is right: it does not come back before it hears of the others."""
        process = self.nodes[name].process
        if isinstance(process, Agent) and not gone.log.is_up and gone.process is None:
            self.world.note("person", "says who is gone", gone.name)
            process.member.declare_gone([gone.name])

    def _cut(self, node: Node, for_s: float) -> None:
        others = [each for each in self.nodes if each != node.name]
        if others:
            self._cut_off(node, [self.world.random.choice(others)], for_s)

    def _isolate(self, node: Node, for_s: float) -> None:
        self._cut_off(node, [each for each in self.nodes if each != node.name], for_s)

    def _cut_off(self, node: Node, others: list[str], for_s: float) -> None:
        links = {frozenset((node.name, each)) for each in others}
        self.mirrors.cut |= links
        self.world.after(for_s, lambda: self.mirrors.cut.difference_update(links))

    def _stop(self, node: Node, for_s: float) -> None:
        node.stopped_until = self.world.now + for_s

    def _double(self, node: Node, for_s: float) -> None:
        node.zombie(for_s)

    def _spoil_mirror(self, node: Node, for_s: float) -> None:
        mirrors, chance = self.mirrors, self.world.random
        others = [each for each in self.nodes if each != node.name]
        how = chance.randint(0, 4)
        if how <= 1 and others:
            other = chance.choice(others)
            mirrors.rewind(node.name, other, chance.choice((5, 50, 1000))) if how else mirrors.skip(node.name, other)
        elif how == 2:
            mirrors.loss = chance.choice((0.1, 0.5))
        elif how == 3:
            mirrors.twice = 0.5
        else:
            mirrors.slow_s = chance.choice((1.0, 6.0))
        self.world.after(for_s, lambda: self._clear(how))

    def _clear(self, how: int) -> None:
        name = {2: "loss", 3: "twice", 4: "slow_s"}.get(how)
        if name:
            setattr(self.mirrors, name, 0.0)

    def _lose_backend(self, _: Node, for_s: float) -> None:
        self.backend.is_up = False
        self.world.after(for_s, lambda: setattr(self.backend, "is_up", True))

    def _swap(self, _: Node, for_s: float) -> None:
        """A planned failover."""
        del for_s
        chance = self.world.random
        for node in self.nodes.values():
            if isinstance(node.process, Agent) and node.process.member.epoch:
                node.process.member.hand_over(node.clock(), chance.choice([*self.electorate.regions, ""]))
                self.world.note("person", "hands over", node.name)

    def _mend(self) -> None:
        self.world.crash_chance = self.backend.late_chance = 0.0
        self.mirrors.loss = self.mirrors.twice = self.mirrors.slow_s = 0.0
        self.mirrors.cut.clear()
        self.backend.is_up = True
        for node in self.nodes.values():
            node.log.is_up = True
            node.stopped_until = min(node.stopped_until, self.world.now + 5.0)
            node.down_until = min(node.down_until, self.world.now + 5.0)

    def _watch(self) -> None:
        """What must hold at every moment: one owner an epoch, and one who may submit."""
        self.world.after(TICK_S, self._watch)
        running = [each.process for each in self.nodes.values() if isinstance(each.process, Agent)]
        members = [*running, *self.zombies]
        able = [each for each in members if each.may_submit]
        if len(able) > 1:
            self.violations.add("two may submit at once")
        for each in members:
            epoch = each.member.epoch
            if epoch and self._owners.setdefault(epoch, each) is not each:
                self.violations.add("an epoch of two owners")

    def _is_settled(self) -> bool:
        """Whether every region knows the outcome of every incident; those without claims know nothing."""
        for name in self.electorate.regions:
            process = self.nodes[name].process
            if process is None:
                return False
            if isinstance(process, Agent):
                claims = [process.claims.get(key) for key in self.incidents]
                if not all(claim is not None and claim.status == "succeeded" for claim in claims):
                    return False
        return True


def agents(node: Node, said: Sequence[tuple[str, Mapping[str, Any]]]) -> Agent:
    """What runs in production."""
    history, life = node.history, node.life
    is_region = node.name in history.electorate.regions

    def log(line: Mapping[str, Any]) -> None:
        if "role" in line:
            node.world.note("role", line["role"], f"{node.name} in epoch {line['epoch']}")
        else:
            step = line["step"] if line["step"] != "taken over" else f"taken over {line['status']}"
            node.world.note("" if step != line["step"] else "step", step, f"{line['incident_id']} by {node.name}")

    return Agent(
        node.name,
        MODEL,
        history.electorate,
        TIMING,
        lambda records: node.publish(life, records),
        node.clock,
        log,
        said,
        history.backend if is_region else None,
        Ready(node.name) if is_region else None,
        concurrency=4,
        wall=lambda: node.world.now,
    )
