"""Event time where nothing comes goes on by the wall clock: heartbeats in quiet partitions of somebody else's topic.

A window closes when a later record comes; where none comes, its last rows would wait for ever, and a partition without
traffic would hold back the others. So a heartbeat, a record of no key and no value, is written to each partition in
which nothing came for ``QUIET_SECONDS``. Its timestamp is

    the newest event time of the topic, plus how long nothing has come at all, less ``QUIET_SECONDS``

What a producer sends a little after the silence began is not late by it: it has ``QUIET_SECONDS`` beside the source's
own ``watermark_delay_threshold``. Time goes on from the newest record and not from the date, so an old topic that is
replayed with a pause stays in the past.

It is written behind the records it speaks of, in their own partition, and so nobody can read it before them. From a
topic of its own it could be: a job that starts slowly has not read a partition for a while, and takes it for idle.

Only silence that Kafka vouches for counts. While the broker does not answer, producers hold back what they have, and
time that went on would make all of it late.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

__all__ = ["QUIET_SECONDS", "QuietTopics", "is_ours"]

QUIET_SECONDS = 5.0
HEARTBEAT_HEADER = "headwater.clock"
_LOOK_SECONDS = 1.0
# In a long silence a heartbeat comes after a 60th of it, at most a minute: each is a row of every view without windows.
_BEAT_SHARE, _BEAT_SECONDS_MAX = 60, 60.0
_CONFIRMED_MS = 3000


def is_ours(message: Message) -> bool:
    """Whether a record of no value is a heartbeat that was written here."""
    headers = cast(list[tuple[str, bytes]], message.headers() or [])
    return any(name == HEARTBEAT_HEADER for name, _ in headers)


@dataclass
class _Silence:
    """Of one topic.

    Attributes
    ----------
    reached_ms : int
        Event time when the silence began: of the newest record, or where heartbeats had come to; below 0 before there
        is any.
    newest_ms : int
        Of the newest record that is known; apart, for it is told while the silence that it ends still counts.
    seconds : dict of int to float
        How long nothing has come, by partition.
    next_seconds : float
        How long it will have lasted everywhere at the next heartbeat.
    """

    seconds: dict[int, float]
    reached_ms: int = -1
    newest_ms: int = -1
    next_seconds: float = 0.0
    heard: set[int] = field(default_factory=set)

    @property
    def everywhere(self) -> float:
        return min(self.seconds.values(), default=0.0)

    def now_ms(self) -> int:
        return self.reached_ms + int(max(0.0, self.everywhere - QUIET_SECONDS) * 1e3)

    def end(self, partitions: Iterable[int]) -> None:
        self.reached_ms, self.next_seconds = self.now_ms(), 0.0
        self.seconds |= dict.fromkeys(partitions, 0.0)


class QuietTopics:
    """Watch topics and write their heartbeats.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    partitions : mapping of str to iterable of int
        Of each topic.
    clock : callable
        Seconds.
    """

    def __init__(
        self, kafka: str, partitions: Mapping[str, Iterable[int]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._silences = {topic: _Silence(dict.fromkeys(parts, 0.0)) for topic, parts in partitions.items()}
        self._looked = clock()
        # A heartbeat that waits for a broker to come back would speak of a silence that nobody vouched for.
        self._producer = Producer({"bootstrap.servers": kafka, "message.timeout.ms": _CONFIRMED_MS, "log_level": 0})

    def heard(self, topic: str, partition: int) -> None:
        """Something came."""
        if topic in self._silences:
            self._silences[topic].heard.add(partition)

    def reached(self, topic: str, time_ms: int) -> None:
        """Event time has come so far."""
        silence = self._silences[topic]
        silence.newest_ms = max(time_ms, silence.newest_ms)

    def look(self, caught_up: Callable[[str], set[int]]) -> None:
        """Write the heartbeats that are due; to be called often.

        Parameters
        ----------
        caught_up : callable
            Asks Kafka in which partitions of a topic there is nothing that was not read; raises KafkaException where it
            does not answer.
        """
        now = self._clock()
        passed = now - self._looked
        self._producer.poll(0)
        if passed < _LOOK_SECONDS:
            return
        self._looked = now
        for topic, silence in self._silences.items():
            try:
                vouched = caught_up(topic)
            except KafkaException:
                silence.end(silence.seconds)
                continue
            if silence.heard:
                silence.end(silence.heard)
            for partition in vouched - silence.heard:
                silence.seconds[partition] += passed
            silence.heard = set()
            silence.reached_ms = max(silence.newest_ms, silence.reached_ms)
            self._beat(topic, silence)

    def close(self) -> None:
        """Have what was written confirmed."""
        self._producer.flush(_CONFIRMED_MS / 1e3)

    def _beat(self, topic: str, silence: _Silence) -> None:
        if silence.reached_ms < 0 or silence.everywhere < silence.next_seconds:
            return
        if silence.everywhere > QUIET_SECONDS:
            silence.next_seconds = silence.everywhere + min(silence.everywhere / _BEAT_SHARE, _BEAT_SECONDS_MAX)

        def told(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                silence.end(silence.seconds)

        for partition, seconds in silence.seconds.items():
            if seconds > QUIET_SECONDS:
                self._producer.produce(
                    topic,
                    value=None,
                    partition=partition,
                    timestamp=silence.now_ms(),
                    headers={HEARTBEAT_HEADER: b""},
                    on_delivery=told,
                )
