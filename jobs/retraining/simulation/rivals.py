"""What others do with a retraining event, in the same trouble: what it takes for an incident to have one run."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.retraining.backends.base import BackendError
from jobs.retraining.claims import Alone, Claims
from jobs.retraining.retrainer import EVENTS, SUBMISSIONS, Retrainer
from jobs.retraining.simulation.histories import Node, Ready, Start

__all__ = ["mirror_only", "naive", "no_epoch"]

SYNC_S = 5.0
"""Between two translations of a consumer's offset to another cluster's."""


class _Plain:
    """A consumer that submits what it reads and then commits its offset."""

    def __init__(self, node: Node, said: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        self._node = node
        self._held = list(said)

    def take(self, topic: str, record: Mapping[str, Any]) -> None:
        """See :class:`Process`."""
        self._held.append((topic, record))

    def tick(self) -> None:
        """See :class:`Process`."""
        node = self._node
        while self._is_active() and node.committed < len(self._held):
            topic, record = self._held[node.committed]
            if topic == EVENTS:
                try:
                    node.history.backend.submit(record["incident_id"], {"cutoff_ms": record["event_time"]})
                except BackendError:
                    return  # and again with the next tick
            node.world.moment("before commit")
            node.committed += 1

    def _is_active(self) -> bool:
        return self._node.name == self._node.history.electorate.regions[0]


class _Translated(_Plain):
    """Active where the first region is that is alive; its offsets are translated for the others now and then."""

    def __init__(self, node: Node, said: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        super().__init__(node, said)
        self._synced_at = node.world.now

    def tick(self) -> None:
        """See :class:`Process`."""
        super().tick()
        if self._is_active() and self._node.world.now - self._synced_at > SYNC_S:
            self._synced_at = self._node.world.now
            done = {record["incident_id"] for topic, record in self._held[: self._node.committed] if topic == EVENTS}
            for other in self._node.history.nodes.values():
                if other is not self._node and frozenset((other.name, self._node.name)) not in self._cut:
                    self._translate(other, done)

    @property
    def _cut(self) -> set[frozenset[str]]:
        return self._node.history.mirrors.cut

    def _translate(self, other: Node, done: set[str]) -> None:
        for place in range(other.committed, len(other.log.entries)):
            entry = other.log.entries[place]
            if entry.topic == EVENTS and entry.record["incident_id"] not in done:
                return
            other.committed = place + 1

    def _is_active(self) -> bool:
        nodes = self._node.history.nodes
        regions = self._node.history.electorate.regions
        alive = [name for name in regions if nodes[name].log.is_up and nodes[name].process]
        return bool(alive) and alive[0] == self._node.name


class _Unfenced:
    """Claims as ours, and nobody to say whose turn it is."""

    def __init__(self, node: Node, said: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        life = node.life
        self._claims = Claims()
        self._events: dict[str, Mapping[str, Any]] = {}
        self._retrainer = Retrainer(
            node.history.backend,
            Ready(node.name),
            lambda records: node.publish(life, records),
            lambda line: node.world.note("step", str(line["step"])),
            self._claims,
            Alone(1),
            node.clock,
            concurrency=4,
        )
        for topic, record in said:
            self.take(topic, record)

    def take(self, topic: str, record: Mapping[str, Any]) -> None:
        """See :class:`Process`."""
        if topic == SUBMISSIONS:
            self._claims.take(record)
        elif topic == EVENTS:
            self._events.setdefault(record["incident_id"], record)

    def tick(self) -> None:
        """See :class:`Process`."""
        for each in self._events.values():
            self._retrainer.on_event(each)
        self._retrainer.tick()


class _Idle:
    """A witness has no part in this."""

    def take(self, topic: str, record: Mapping[str, Any]) -> None:
        """See :class:`Process`."""

    def tick(self) -> None:
        """See :class:`Process`."""


def _in_regions(start: Start) -> Start:
    return lambda node, said: start(node, said) if node.name in node.history.electorate.regions else _Idle()


naive = _in_regions(_Plain)
"""One region's consumer, which commits after it has submitted."""
mirror_only = _in_regions(_Translated)
"""The same in each region, of which one is active, by MirrorMaker's translated offsets."""
no_epoch = _in_regions(_Unfenced)
"""Our claims and our order of steps, without owners."""
