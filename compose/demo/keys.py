"""Keys and places of a topic's records, and of the records that were put aside."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message

from jobs.reading import TopicReader
from schemas.topics import DLQ_SUFFIX, LATE_SUFFIX

__all__ = ["OFFSET_BITS", "Aside", "Places", "TopicKeys", "is_aside"]

# A place is one integer: the partition above the offset's 48 bits, which hold 280 million million records.
OFFSET_BITS = 48

Places = npt.NDArray[np.int64]


def is_aside(name: str) -> bool:
    """Whether a topic holds what was put aside from another."""
    return name.endswith((DLQ_SUFFIX, LATE_SUFFIX))


@dataclass(frozen=True)
class TopicKeys:
    """Keys and places of a topic's records, heartbeats and progress rows left out."""

    records: list[bytes]
    timestamps_ms: Places
    places: Places
    count: int
    distinct: int

    @classmethod
    def read(cls, kafka: str, topic: str, keyless: bool = False) -> "TopicKeys":
        """Read a topic from its start to its end.

        Parameters
        ----------
        kafka : str
            ``host:port``.
        topic : str
        keyless : bool
            Count records without a key too. On the topics that jobs write those carry a watermark and nothing else.
        """
        records: list[bytes] = []
        stamps: list[int] = []
        partitions: list[int] = []
        offsets: list[int] = []

        def take(messages: list[Message]) -> None:
            good: list[Any] = [each for each in messages if each.value() is not None]
            if not keyless:
                good = [each for each in good if each.key() is not None]
            records.extend([each.key() or b"" for each in good])
            stamps.extend([each.timestamp()[1] for each in good])
            partitions.extend([each.partition() for each in good])
            offsets.extend([each.offset() for each in good])

        source = TopicReader(kafka, [topic])
        try:
            source.read(take)
        finally:
            source.close()
        places = (np.array(partitions, np.int64) << OFFSET_BITS) | np.array(offsets, np.int64)
        return cls(records, np.array(stamps, np.int64), places, len(records), len(set(records)))

    def without_records(self) -> "TopicKeys":
        """The counts alone: a year of feature rows is worth a few hundred MB of keys."""
        none = np.empty(0, np.int64)
        return TopicKeys([], none, none, self.count, self.distinct)

    def repeated(self) -> int:
        """Records whose key and event time an earlier one had."""
        # 64-bit hashes: among a million keys, two would meet by chance once in 10^7 runs, and count as a duplicate.
        hashes = np.fromiter(map(hash, self.records), np.int64, len(self.records))
        order = np.lexsort((self.timestamps_ms, hashes))
        same = (np.diff(hashes[order]) == 0) & (np.diff(self.timestamps_ms[order]) == 0)
        return int(same.sum())


@dataclass(frozen=True)
class Aside:
    """Dead letters and late records: the places their headers name."""

    dead: set[tuple[str, int, int]]
    late: set[tuple[str, int, int]]

    @classmethod
    def read(cls, kafka: str, names: Iterable[str]) -> "Aside":
        """Read the topics among `names` that hold such records; see :func:`is_aside`."""
        dead: set[tuple[str, int, int]] = set()
        late: set[tuple[str, int, int]] = set()

        def take(messages: list[Message]) -> None:
            for each in messages:
                into = dead if str(each.topic()).endswith(DLQ_SUFFIX) else late
                into.add(_origin(each))

        source = TopicReader(kafka, [name for name in names if is_aside(name)])
        try:
            source.read(take)
        finally:
            source.close()
        return cls(dead, late)

    def places(self, topic: str) -> tuple[Places, Places]:
        """Places of that topic's dead letters and of its late records."""
        return _places_of(self.dead, topic), _places_of(self.late, topic)


def _origin(message: Message) -> tuple[str, int, int]:
    """Where a record that was put aside had lain; where it lies now, if its headers do not say."""
    headers: Any = message.headers() or ()
    given = {name: value for name, value in headers if value is not None}
    try:
        topic = bytes(given["headwater.topic"]).decode()
        return topic, int(given["headwater.partition"]), int(given["headwater.offset"])
    except (KeyError, ValueError):
        return str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)


def _places_of(aside: set[tuple[str, int, int]], topic: str) -> Places:
    found = [(part << OFFSET_BITS) | offset for name, part, offset in aside if name == topic]
    return np.array(sorted(found), np.int64)
