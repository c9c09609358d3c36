"""Repeats the last promise of topics that are quiet: ``python -m jobs.promises --kafka HOST:PORT --derived FILE``

Watermarks travel in records: a heartbeat on an event topic, the column ``watermark`` of what a job writes. A Flink job
that is restored from a checkpoint has the state of its windows and joins, and its place in each topic, but no
watermark: it waits for the next record to bring one. Where a topic is at rest, because traffic pauses or a view's next
boundary is hours away, that record may never come. So the newest promise of a topic that has been quiet for a while is
written once more, without any content. It was made before and still holds; whoever has heard it learns nothing.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from jobs.kafka import BrokerError, reader
from schemas.codec import Codec, DecodeError
from schemas.topics import Topic, topics_from_json

__all__ = ["Promises", "main", "promise_of"]

QUIET_SECONDS = 2.0
# Quiet topics are not filled up for nothing: each repetition waits longer for the next, up to this.
QUIET_SECONDS_MAX = 16.0
LOOK_BACK = 256
READ_SECONDS = 10.0
TICK_SECONDS = 0.5
EVENT_TIME, WATERMARK = "event_time", "watermark"

Place = tuple[str, int]


def promise_of(schema: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's watermark and nothing else: every field that can be null is."""
    nullable = {f["name"] for f in schema["fields"] if isinstance(f["type"], list) and "null" in f["type"]}
    return {name: None if name in nullable - {WATERMARK} else value for name, value in record.items()}


class Promises:
    """Watches topics and repeats what they last promised.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    events : sequence of str
        Topics whose null records are heartbeats.
    derived : sequence of Topic
        Topics that jobs write, with a column ``watermark``.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        kafka: str,
        events: Sequence[str],
        derived: Sequence[Topic],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer: Consumer = reader(kafka, enable_partition_eof=True)
        self._producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "linger.ms": 0})
        self._events = frozenset(events)
        self._codecs = {each.name: Codec(each.schema, each.schema_id) for each in derived}
        self._clock = clock
        self._ends: dict[Place, tuple[int, float]] = {}
        self._waits: dict[Place, float] = {}
        self.counts = {"repeated": 0}

    def step(self) -> None:
        """Look at every topic once, and repeat where it is time.

        Raises
        ------
        KafkaException
            Where the broker is away; the next step looks again.
        """
        now = self._clock()
        for place in self._places():
            end = int(self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=READ_SECONDS)[1])
            known, since = self._ends.get(place, (-1, now))
            if end != known:
                self._ends[place], self._waits[place] = (end, now), QUIET_SECONDS
            elif end > 0 and now - since >= self._waits[place]:
                self._repeat(place, end)
                wait = min(2 * self._waits[place], QUIET_SECONDS_MAX)
                end = int(self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=READ_SECONDS)[1])
                self._ends[place], self._waits[place] = (end, now), wait

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _places(self) -> list[Place]:
        listed = self._consumer.list_topics(timeout=READ_SECONDS).topics
        names = [name for name in (*self._events, *self._codecs) if name in listed]
        return [(name, part) for name in sorted(names) for part in sorted(listed[name].partitions)]

    def _repeat(self, place: Place, end: int) -> None:
        name, partition = place
        tail = self._tail(place, end)
        if name in self._events:
            beats = [each.timestamp()[1] for each in tail if each.value() is None]
            if not beats:
                return
            self._producer.produce(name, None, None, partition, timestamp=max(beats))
        else:
            newest = max(filter(None, map(self._promise, tail)), key=lambda each: each[WATERMARK], default=None)
            if newest is None:
                return
            time_ms = round(newest[EVENT_TIME].timestamp() * 1000)
            self._producer.produce(name, self._codecs[name].encode(newest), None, partition, timestamp=time_ms)
        self._producer.flush(READ_SECONDS)
        self.counts["repeated"] += 1

    def _promise(self, message: Message) -> dict[str, Any] | None:
        codec, value = self._codecs[str(message.topic())], message.value()
        try:
            record = codec.decode(value) if value is not None else None
        except DecodeError:
            return None
        return promise_of(codec.schema, record) if record and record[WATERMARK] is not None else None

    def _tail(self, place: Place, end: int) -> list[Message]:
        """The last committed records of a partition."""
        name, partition = place
        self._consumer.assign([TopicPartition(name, partition, max(0, end - LOOK_BACK))])
        found: list[Message] = []
        deadline = self._clock() + READ_SECONDS
        try:
            while self._clock() < deadline:
                for each in self._consumer.consume(LOOK_BACK, 0.1):
                    error = each.error()
                    if error is None:
                        found.append(each)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        return found
        finally:
            self._consumer.unassign()
        return found


def run(promises: Promises, stops: Sequence[int]) -> None:
    """Look again and again, until told to stop."""
    while not stops:
        try:
            promises.step()
        except KafkaException as exc:  # the client finds its way back to a broker that was killed
            print(f"promises: {exc}", file=sys.stderr)  # noqa: T201
        time.sleep(TICK_SECONDS)
    promises.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when told to stop, 1 where Kafka fails."""
    parser = argparse.ArgumentParser(prog="jobs.promises", description=(__doc__ or "").splitlines()[0])
    kafka = os.environ.get("HEADWATER_KAFKA")
    parser.add_argument("--kafka", default=kafka, required=kafka is None, metavar="HOST:PORT")
    parser.add_argument("--events", required=True, help="topics with heartbeats, separated by commas")
    parser.add_argument("--derived", type=Path, required=True, help="JSON file of the topics that jobs write")
    given = parser.parse_args(argv)
    stops: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: stops.append(number))
    try:
        run(Promises(given.kafka, given.events.split(","), topics_from_json(given.derived.read_text())), stops)
    except BrokerError as exc:
        print(f"promises: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
