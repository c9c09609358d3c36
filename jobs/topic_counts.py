"""How the records of topics come, counted where Kafka knows it: from offsets for times, and from a few records.

Only these are read, whatever the traffic:

- of each slice of time before the span the last ``BLOCK`` records of each partition, and as many of each part of the
  span: for the share of heartbeats among them and the ids of their schemas;
- of a partition whose sample of the span has heartbeats all records of the span, up to ``WHOLE_MAX``. Heartbeats come
  once a second at most, so these are most often the heartbeats of an hour; of more, the sample's share is taken;
- of what was set aside the newest ``LETTERS_MAX`` of each partition.

Offsets of transactions' marks count as records: a few more for every partition.

What offsets for times cannot know: where timestamps are not event times, as in a replay of a producer that leaves them
to Kafka, spans are empty and tell nothing; and behind a record of the future all times begin at the same offset.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from jobs.kafka import PASSING, TIMEOUT_S, BrokerError, reader, watermarks
from monitors.buckets import Ints
from monitors.topics import Aside, SchemaSeen, TopicCounts
from schemas.topics import DLQ_SUFFIX, LATE_SUFFIX

__all__ = ["SLICES", "count_topics", "newest_event_ms"]

SLICES = 24
BLOCK = 16
PARTS = 12
WHOLE_MAX = 20_000
LETTERS_MAX = 100_000
TAIL = 200

Place = tuple[str, int]
Ranges = dict[Place, tuple[int, int]]
Take = Callable[[Place, Message], None]


@dataclass
class _Sample:
    """Of one partition: records and heartbeats read of each slice, and records by schema in and before the span."""

    read: Ints
    beats: Ints
    schemas: dict[int | None, list[int]] = field(default_factory=dict)

    def take(self, row: int, message: Message, beat: bool) -> None:
        self.read[row] += 1
        self.beats[row] += beat
        if beat or (value := message.value()) is None:
            return
        before, now, first = self.schemas.get(name := _schema_of(value), [0, 0, -1])
        if row < len(self.read) - 1:
            before += 1
        else:
            now += 1
            offset = int(message.offset() or 0)
            first = offset if first < 0 else min(first, offset)
        self.schemas[name] = [before, now, first]


def count_topics(
    kafka: str, topics: Mapping[str, bool], end_ms: int, last_ms: int, slices: int = SLICES
) -> list[TopicCounts]:
    """Count a span of event time, and as many slices of its length before it.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    topics : mapping of str to bool
        Names, and whether a record that has a key and no value is one (it deletes a row) and no heartbeat. Those that
        are not there are left out.
    end_ms, last_ms : int
        End of the span and its length; record timestamps, UTC epoch milliseconds.
    slices : int

    Raises
    ------
    jobs.kafka.BrokerError
        Where the broker does not answer.
    """
    with closing(_consumer(kafka)) as consumer:
        there = _there(consumer)
        places = [(name, p) for name in topics if name in there for p in there[name]]
        if not places:
            return []
        ends = {place: watermarks(consumer, *place) for place in places}
        times = [end_ms - last_ms * back for back in range(slices + 1, -1, -1)]
        bounds = _bounds(consumer, ends, times)
        samples = _samples(consumer, bounds, topics)
        records = {place: _records(consumer, place, bounds[place], samples[place], topics) for place in places}
        found = []
        for name in dict.fromkeys(name for name, _ in places):
            edges = np.stack([bounds[name, p] for p in there[name]], axis=1)
            late, dead = (
                _aside(consumer, name, name + suffix, there.get(name + suffix, ()), edges)
                for suffix in (LATE_SUFFIX, DLQ_SUFFIX)
            )
            counted = np.stack([records[name, p] for p in there[name]], axis=1)
            found.append(TopicCounts(name, counted, late, dead, tuple(_seen(samples, name, there[name]))))
    return found


def newest_event_ms(kafka: str, topics: Mapping[str, bool]) -> int | None:
    """Timestamp of the newest record of topics, as far as there are any but heartbeats at their ends; None of none.

    Raises
    ------
    jobs.kafka.BrokerError
        Where the broker does not answer.
    """
    newest: dict[bool, int] = {}

    def take(place: Place, message: Message) -> None:
        beat = _is_beat(message, topics[place[0]])
        newest[beat] = max(newest.get(beat, 0), int(message.timestamp()[1]))

    with closing(_consumer(kafka)) as consumer:
        there = _there(consumer)
        ends = {(name, p): watermarks(consumer, name, p) for name in topics if name in there for p in there[name]}
        _read(consumer, {place: (max(low, high - TAIL), high) for place, (low, high) in ends.items()}, take)
    return newest.get(False, newest.get(True))


def _consumer(kafka: str) -> Consumer:
    # Blocks are small, and what is fetched beyond them is for nothing.
    small: dict[str, Any] = {"queued_min_messages": 100, "fetch_message_max_bytes": 16_384, "fetch_queue_backoff_ms": 5}
    return reader(kafka, enable_partition_eof=True, log_level=0, **small)


def _there(consumer: Consumer) -> dict[str, list[int]]:
    try:
        listed = consumer.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as exc:
        raise BrokerError(f"expected a Kafka broker, got {exc}: is the platform up?") from exc
    return {name: sorted(each.partitions) for name, each in listed.items() if each.error is None}


def _bounds(consumer: Consumer, ends: Mapping[Place, tuple[int, int]], times: list[int]) -> dict[Place, Ints]:
    """Per partition the first offset of each time, shape (times,): slices lie between them."""
    found: dict[Place, list[int]] = {place: [] for place in ends}
    for time_ms in times:
        try:
            asked = consumer.offsets_for_times([TopicPartition(*each, max(0, time_ms)) for each in ends], TIMEOUT_S)
        except KafkaException as exc:
            raise BrokerError(f"expected Kafka to tell offsets for times, got {exc}") from exc
        for each in asked:
            if each.error is not None:
                raise BrokerError(f"expected the offset of a time of {each.topic}-{each.partition}, got {each.error}")
            place = (str(each.topic), int(each.partition))
            found[place].append(int(each.offset) if 0 <= each.offset <= ends[place][1] else ends[place][1])
    return {place: np.maximum.accumulate(np.array(each, dtype=np.int64)) for place, each in found.items()}


def _samples(consumer: Consumer, bounds: Mapping[Place, Ints], topics: Mapping[str, bool]) -> dict[Place, _Sample]:
    rows = len(next(iter(bounds.values()))) - 1
    found = {place: _Sample(np.zeros(rows, np.int64), np.zeros(rows, np.int64)) for place in bounds}
    for row, ranges in _blocks(bounds, rows):

        def take(place: Place, message: Message, row: int = row) -> None:
            found[place].take(row, message, _is_beat(message, topics[place[0]]))

        _read(consumer, ranges, take)
    return found


def _blocks(bounds: Mapping[Place, Ints], rows: int) -> Iterator[tuple[int, Ranges]]:
    """What is read at once of all partitions: the end of each slice, and of each part of the span."""
    for row in range(rows):
        for part in range(PARTS if row == rows - 1 else 1):
            parts = PARTS if row == rows - 1 else 1
            ranges = {}
            for place, edges in bounds.items():
                low, n = int(edges[row]), int(edges[row + 1] - edges[row])
                first, end = low + n * part // parts, low + n * (part + 1) // parts
                if end > first:
                    ranges[place] = (max(first, end - BLOCK), end)
            if ranges:
                yield row, ranges


def _records(consumer: Consumer, place: Place, edges: Ints, sample: _Sample, topics: Mapping[str, bool]) -> Ints:
    """Records of a partition by slice, without heartbeats as far as that is known."""
    offsets = np.diff(edges)
    share = 1 - sample.beats / np.maximum(sample.read, 1)
    counted: Ints = np.rint(offsets * share).astype(np.int64)
    if sample.beats[-1] and offsets[-1] <= WHOLE_MAX:
        real = [0]

        def take(_: Place, message: Message) -> None:
            real[0] += not _is_beat(message, topics[place[0]])

        _read(consumer, {place: (int(edges[-2]), int(edges[-1]))}, take)
        counted[-1] = real[0]
    return counted


def _aside(consumer: Consumer, name: str, side: str, partitions: list[int] | tuple[()], edges: Ints) -> Aside:
    """Records of a topic that were set aside, each once, whoever did so and however often."""
    ranges: Ranges = {}
    cut = False
    for p in partitions:
        low, high = watermarks(consumer, side, p)
        cut |= high - low > LETTERS_MAX
        ranges[side, p] = (max(low, high - LETTERS_MAX), high)
    reasons: dict[tuple[int, int], str] = {}

    def take(_: Place, message: Message) -> None:
        headers = dict(cast(list[tuple[str, bytes]], message.headers() or []))
        if headers.get("headwater.topic", b"").decode() == name:
            at = (int(headers["headwater.partition"]), int(headers["headwater.offset"]))
            reasons.setdefault(at, headers.get("headwater.error", b"").decode(errors="replace"))

    _read(consumer, ranges, take)
    return _folded(reasons, edges, cut)


def _folded(reasons: Mapping[tuple[int, int], str], edges: Ints, cut: bool) -> Aside:
    """Counts by slice; where not all that were set aside could be read, -1 for the slices before the first of them."""
    counts = np.zeros((len(edges) - 1, edges.shape[1]), np.int64)
    offsets: dict[int, tuple[int, int]] = {}
    kinds: Counter[str] = Counter()
    example: dict[str, str] = {}
    for (p, offset), reason in sorted(reasons.items()):
        if p >= edges.shape[1]:
            continue
        row = int(np.searchsorted(edges[:, p], offset, side="right")) - 1
        if not 0 <= row < len(counts):
            continue
        counts[row, p] += 1
        if row == len(counts) - 1:
            offsets[p] = (offsets.get(p, (offset, offset))[0], offset)
            kind = re.sub(r"\d+", "#", reason)  # numbers, and times, differ from record to record
            kinds[kind] += 1
            example.setdefault(kind, reason)
    if cut:
        counts[: int(np.argmax(counts.sum(axis=1) > 0))] = -1
    return Aside(counts, offsets, example[kinds.most_common(1)[0][0]] if kinds else "")


def _seen(samples: Mapping[Place, _Sample], name: str, partitions: list[int]) -> Iterator[SchemaSeen]:
    for p in partitions:
        for schema_id, (before, now, first) in samples[name, p].schemas.items():
            yield SchemaSeen(p, schema_id, before, now, first)


def _schema_of(value: bytes) -> int | None:
    """Id in the header of the Confluent wire format, where there is one."""
    return int.from_bytes(value[1:5], "big") if len(value) >= 5 and value[0] == 0 else None


def _is_beat(message: Message, deletes: bool) -> bool:
    """Whether a record is a heartbeat: of no value, and of no key where that with one deletes a row."""
    return message.value() is None and not (deletes and message.key() is not None)


def _read(consumer: Consumer, ranges: Ranges, take: Take) -> None:
    """Hand over the records of ranges of offsets, of many partitions at once.

    Raises
    ------
    jobs.kafka.BrokerError
        Where they do not come in time.
    """
    missing = {place for place, (low, high) in ranges.items() if high > low}
    if not missing:
        return
    consumer.assign([TopicPartition(*place, ranges[place][0]) for place in missing])
    quiet_s, wait_s = 0.0, 0.1
    try:
        while missing:
            # A wait for more than one is waited out to its end, so the first is waited for alone.
            messages = consumer.consume(1, wait_s) + consumer.consume(1000, 0)
            quiet_s = 0.0 if messages else quiet_s + wait_s
            if quiet_s > TIMEOUT_S:
                raise BrokerError(f"expected records of {sorted(missing)}, got nothing in time")
            for each in messages:
                place, error = (str(each.topic()), int(each.partition() or 0)), each.error()
                if error is None:
                    offset, (_, high) = int(each.offset() or 0), ranges[place]
                    if offset < high:
                        take(place, each)
                    if offset >= high - 1:
                        missing.discard(place)
                elif error.code() == KafkaError._PARTITION_EOF:
                    missing.discard(place)
                elif not error.retriable() and error.code() not in PASSING:
                    raise BrokerError(f"expected records of {place[0]}-{place[1]}, got {error}")
    finally:
        consumer.unassign()
