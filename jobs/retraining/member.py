"""A region's part in who retrains what, over its own Kafka: what the retrainer is where there are several regions.

Of several processes in a region the consumer group lets one at a time speak for it, and its transactional id fences off
whoever did before. It reads the region's own topics and those that others mirror to it; it writes to the region's own.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from jobs.kafka import Publish, TopicLog, Writer, reader
from jobs.retraining.agent import ORDERS, OWNERSHIP, Agent
from jobs.retraining.backends.base import Submits
from jobs.retraining.regions import Region, Regions
from jobs.retraining.retrainer import Preparation

__all__ = ["Agents", "clock", "run"]

GROUP = "headwater-member"
POLL_S = 0.05
WORK_S = 0.02

Said = Sequence[tuple[str, Mapping[str, Any]]]


def clock() -> float:
    """Seconds that go on while the machine sleeps, as leases do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Agents:
    """One agent a model, from the moment on that the model is heard of; who can own works in a thread of its own.

    Parameters
    ----------
    make : callable
        From a model and everything that has been said of it to its agent.
    said : sequence of (str, mapping)
        Topics and records.
    models : iterable of str
        Known beforehand: their first incident does not wait for an election.
    """

    def __init__(self, make: Callable[[str, Said], Agent], said: Said, models: Iterable[str] = ()) -> None:
        self._make = make
        self._agents: dict[str, Agent] = {}
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        by_model: dict[str, list[tuple[str, Mapping[str, Any]]]] = {model: [] for model in models}
        for topic, record in said:
            by_model.setdefault(record["model"], []).append((topic, record))
        for model, some in by_model.items():
            self._add(model, some)

    def take(self, topic: str, record: Mapping[str, Any]) -> None:
        """A record, be it of a model that is new."""
        model = record["model"]
        if model in self._agents:
            self._agents[model].take(topic, record)
        else:
            self._add(model, [(topic, record)])

    def vote(self) -> None:
        """Of every model: see :meth:`Agent.vote`; and :meth:`Agent.say_again`.

        Raises
        ------
        Exception
            What has ended the work on a model.
        """
        if self._error is not None:
            raise self._error
        for each in self._agents.values():
            each.vote()
            each.say_again()

    def close(self) -> None:
        """Stop working, once what is being asked has been answered."""
        self._over.set()
        for each in self._threads:
            each.join()

    def _add(self, model: str, said: Said) -> None:
        agent = self._agents[model] = self._make(model, said)
        if not agent.can_own:
            return
        thread = threading.Thread(target=self._work, args=(agent,), name=f"agent-{model}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, agent: Agent) -> None:
        try:
            while not self._over.wait(WORK_S):
                agent.carry_out()
        except Exception as exc:
            self._error = exc


def run(
    regions: Regions,
    name: str,
    backend: Submits,
    preparation: Preparation,
    stopped: Callable[[], bool],
    log: Callable[[Mapping[str, Any]], None],
    models: Sequence[str] = (),
    concurrency: int = 1,
) -> None:
    """Speak for a region as long as the group lets us.

    Parameters
    ----------
    regions : Regions
    name : str
        Of the region.
    backend : Submits
    preparation : Preparation
    stopped : callable
    log : callable
    models : sequence of str
    concurrency : int
        Runs of a model under way at a time.

    Raises
    ------
    FencedError
        Where another process has taken over.
    BrokerError
    """
    region = regions.region(name)
    turn = _Turn(region.kafka, region.settings)

    def make(publish: Callable[[Sequence[Publish]], None], model: str, said: Said) -> Agent:
        electorate = regions.electorate(model)
        work = (backend, preparation, concurrency)
        return Agent(name, model, electorate, regions.timing, publish, clock, log, said, *work)

    try:
        while not stopped():
            if turn.is_ours(POLL_S):
                _speak(regions, region, make, turn, stopped, log, models)
    finally:
        turn.close()


def _speak(
    regions: Regions,
    region: Region,
    make: Callable[[Callable[[Sequence[Publish]], None], str, Said], Agent],
    turn: "_Turn",
    stopped: Callable[[], bool],
    log: Callable[[Mapping[str, Any]], None],
    models: Sequence[str],
) -> None:
    """Until it is another's turn."""
    # 1. Who spoke before can write no more; what they wrote is all there.
    writer = Writer(region.kafka, f"{GROUP}-{region.name}", **region.settings)
    heard = regions.topics_at(region.name, more=(ORDERS,))
    topics = TopicLog(region.kafka, heard, **region.settings)
    agents = Agents(partial(make, writer.publish), list(topics.to_end()), models)
    log({"state": "speaks", "member": region.name})
    # 2. Hear, and vote; the agents work by themselves.
    try:
        while turn.is_ours() and not stopped():
            for topic, record in topics.poll(POLL_S):
                agents.take(topic, record)
            agents.vote()
    finally:
        agents.close()
        topics.close()


class _Turn:
    """Whose turn it is in a region: the group gives the topic of ownership to one process, which reads it elsewhere."""

    def __init__(self, kafka: str, settings: Mapping[str, str]) -> None:
        self._consumer = reader(kafka, GROUP, session_timeout_ms=6000, **settings)
        self._is_ours = False
        self._consumer.subscribe([OWNERSHIP], on_assign=self._assigned, on_revoke=self._revoked)

    def is_ours(self, timeout_s: float = 0.0) -> bool:
        """Whether we speak; to be asked often."""
        self._consumer.poll(timeout_s)
        return self._is_ours

    def close(self) -> None:
        """Let another speak."""
        self._consumer.close()

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.assign(list(partitions))
        consumer.pause(list(partitions))
        self._is_ours = bool(partitions)

    def _revoked(self, *_: Any) -> None:
        self._is_ours = False
