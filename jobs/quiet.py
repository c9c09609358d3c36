"""Event time in topics that have gone quiet goes on by the wall clock.

A window closes when a later record comes; where none comes, its last rows would wait for ever. So a heartbeat a second,
and fewer as the silence grows long, is written to ``<topic>.clock``, a record of no value whose timestamp is

    the newest event time of the topic, plus how long nothing has come, less ``QUIET_SECONDS``

and the features job reads that topic beside the other. What a producer sends a little after the silence began is not
late by it: it has ``QUIET_SECONDS`` beside the source's own ``watermark_delay_threshold``. Time goes on from the newest
record and not from the date, so an old topic that is replayed with a pause stays in the past.

Only silence that Kafka vouches for counts. While the broker does not answer, producers hold back what they have, and
time that went on would make all of it late.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.topics import CLOCK_SUFFIX

__all__ = ["QUIET_SECONDS", "QuietTopics"]

QUIET_SECONDS = 5.0  # as long as a partition takes to be idle to the features job, see jobs/submit.py
_BEAT_SECONDS = 1.0
# In a long silence a heartbeat comes after a 60th of it, at most a minute: each is a row of every view without windows.
_BEAT_SHARE, _BEAT_SECONDS_MAX = 60, 60.0
_CONFIRMED_MS = 3000


@dataclass
class _Silence:
    """Of one topic.

    Attributes
    ----------
    reached_ms : int
        Event time of the newest record, or where heartbeats had come to when it came.
    seconds : float
        How long nothing has come.
    came : bool
        Whether something came since the last look.
    next_seconds : float
        How long it will have lasted at the next heartbeat.
    tail : float
        Until when heartbeats go on although records come again.
    """

    reached_ms: int
    seconds: float = 0.0
    came: bool = False
    next_seconds: float = 0.0
    tail: float = 0.0

    def now_ms(self) -> int:
        return self.reached_ms + int(max(0.0, self.seconds - QUIET_SECONDS) * 1e3)

    def end(self) -> None:
        self.reached_ms, self.seconds, self.next_seconds = self.now_ms(), 0.0, 0.0


class QuietTopics:
    """Watch topics and write their heartbeats.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    newest_ms : mapping of str to int
        The newest event time of each topic, as far as it is known from before; UTC epoch milliseconds.
    clock : callable
        Seconds.
    """

    def __init__(self, kafka: str, newest_ms: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silences = {topic: _Silence(newest) for topic, newest in newest_ms.items()}
        self._looked = clock()
        # A heartbeat that waits for a broker to come back would speak of a silence that nobody vouched for.
        self._producer = Producer({"bootstrap.servers": kafka, "message.timeout.ms": _CONFIRMED_MS, "log_level": 0})

    def came(self, topic: str, newest_ms: int) -> None:
        """Records came, the newest of this event time."""
        silence = self._silences.setdefault(topic, _Silence(newest_ms))
        silence.end()
        silence.reached_ms, silence.came = max(newest_ms, silence.reached_ms), True

    def look(self, all_read: Callable[[str], bool]) -> None:
        """Write the heartbeats that are due; to be called often.

        Parameters
        ----------
        all_read : callable
            Asks Kafka whether a topic has nothing that was not read; raises KafkaException where it does not answer.
        """
        now = self._clock()
        passed, due = now - self._looked, now - self._looked >= _BEAT_SECONDS
        self._producer.poll(0)
        if not due:
            return
        self._looked = now
        for topic, silence in self._silences.items():
            if silence.came or not _asked(all_read, topic):
                silence.end()
            else:
                silence.seconds += passed
            silence.came = False
            if silence.seconds <= QUIET_SECONDS:
                # The job takes this long to see that the clock stands still again, and would wait for it.
                due = now < silence.tail
            elif due := silence.seconds >= silence.next_seconds:
                silence.next_seconds = silence.seconds + min(silence.seconds / _BEAT_SHARE, _BEAT_SECONDS_MAX)
                silence.tail = now + QUIET_SECONDS
            if due:
                self._beat(topic, silence)

    def close(self) -> None:
        """Have what was written confirmed."""
        self._producer.flush(_CONFIRMED_MS / 1e3)

    def _beat(self, topic: str, silence: _Silence) -> None:
        def told(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                silence.end()

        self._producer.produce(topic + CLOCK_SUFFIX, value=None, timestamp=silence.now_ms(), on_delivery=told)


def _asked(all_read: Callable[[str], bool], topic: str) -> bool:
    try:
        return all_read(topic)
    except KafkaException:
        return False
