"""Segments of traffic: which part of it a row belongs to, and sketches of all parts as one table.

A model's traffic is cut along a few dimensions, each a categorical column (a segment for each of its frequent values,
the rest under ``other``) or a condition over columns (``yes`` and ``no``). Each row is in one segment of every
dimension. Which values are kept is settled when a model is trained and pinned to its version, so that they are bounded
and mean the same in every region.

Segments are kept as tiles are: segment number ``s`` of a version has the tiles from ``s * SPAN_MS`` on. So one call
sketches all of them, they merge, coarsen and travel as any sketches do, and those of one dimension add up to the whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from monitors.buckets import Ints, Kind
from monitors.sketches import Sketches, sketch_batch

__all__ = [
    "MONITORS",
    "OTHER",
    "SEGMENTS_MAX",
    "SPAN_MS",
    "Dimension",
    "SegmentError",
    "Segmentation",
    "dimensions_of",
    "only",
    "sketch_segments",
]

MONITORS: Final = ("features", "performance")
"""Those that judge segments of traffic."""
SPAN_MS: Final = 100_000 * 86_400_000
"""Between the tiles of two segments: whole days, until the year 2243."""
SEGMENTS_MAX: Final = 20
"""Values of a column that are segments of their own."""
OTHER: Final = "other"
YES, NO = "yes", "no"


class SegmentError(ValueError):
    """A dimension that cannot be made. The message says what was expected and what came."""


@dataclass(frozen=True)
class Dimension:
    """One way to cut traffic.

    Attributes
    ----------
    name : str
    column : str
        A categorical one; empty for a condition.
    condition : str
        Of pandas (``DataFrame.eval``) over columns; empty for a column.
    values : tuple of str
        Of the column, those that are segments of their own.
    """

    name: str
    column: str = ""
    condition: str = ""
    values: tuple[str, ...] = ()

    @property
    def segments(self) -> tuple[str, ...]:
        """What its segments are called, in the order of their numbers: ``name=value``."""
        values = (*self.values, OTHER) if self.column else (NO, YES)
        return tuple(f"{self.name}={value}" for value in values)

    @property
    def reads(self) -> frozenset[str]:
        """Names in its column or condition."""
        return frozenset([self.column]) if self.column else frozenset(_names(self.condition))

    def of(self, frame: pd.DataFrame) -> Ints:
        """The segment of each row, a position in `segments`; a null is ``other``, or ``no``. Shape (n,).

        Raises
        ------
        SegmentError
            Where a condition cannot be evaluated.
        """
        if self.column:
            position = {value: number for number, value in enumerate(self.values)}
            codes, distinct = pd.factorize(frame[self.column], use_na_sentinel=True)
            at = np.array([*(position.get(str(each), len(position)) for each in distinct), len(position)], np.int64)
            return at[codes]
        try:
            found = frame.eval(self.condition, engine="python")
            return np.asarray(pd.Series(found, dtype="boolean").fillna(False), dtype=np.int64)
        except Exception as exc:  # pandas raises whatever the words led it into
            raise SegmentError(
                f"segment {self.name!r}: expected a condition over {', '.join(map(str, frame.columns))}, "
                f"got {self.condition!r}: {exc}"
            ) from exc


def _names(condition: str) -> Sequence[str]:
    try:
        return compile(condition, "segment", "eval").co_names
    except SyntaxError as exc:
        raise SegmentError(f"expected a condition such as 'distance > 1000', got {condition!r}: {exc.msg}") from exc


def dimensions_of(text: str, kinds: Mapping[str, Kind]) -> tuple[Dimension, ...]:
    """What a text says: ``origin; evening: sched_hour >= 18``, without the values of columns.

    Parameters
    ----------
    text : str
        Entries between semicolons: a categorical column, or a name and a condition.
    kinds : mapping of str to Kind
        The columns there are.

    Raises
    ------
    SegmentError
        Where a name is taken twice, a column is not there or has numbers, or a condition is none.
    """
    found: list[Dimension] = []
    for entry in filter(None, (each.strip() for each in text.split(";"))):
        name, colon, condition = (part.strip() for part in entry.partition(":"))
        each = Dimension(name, condition=condition) if colon else Dimension(name, column=name)
        if colon and not condition:
            raise SegmentError(f"segment {name!r}: expected a condition behind the colon, got none")
        if strangers := sorted(each.reads - set(kinds)):
            raise SegmentError(f"segment {name!r}: expected columns of {', '.join(sorted(kinds))}, got {strangers}")
        if each.column and kinds[each.column] != "categorical":
            raise SegmentError(f"segment {name!r}: expected a column of texts or 'name: condition', got one of numbers")
        if name in [other.name for other in found]:
            raise SegmentError(f"segment {name!r}: expected to be named once, got it twice")
        if each.condition:
            _try(each, kinds)
        found.append(each)
    return tuple(found)


def _try(dimension: Dimension, kinds: Mapping[str, Kind]) -> None:
    types = {name: object if kinds[name] == "categorical" else np.float64 for name in sorted(dimension.reads)}
    one = pd.DataFrame({name: pd.Series(["" if kind is object else 0.0], dtype=kind) for name, kind in types.items()})
    dimension.of(one)
    if np.asarray(one.eval(dimension.condition, engine="python")).dtype != np.bool_:
        raise SegmentError(f"segment {dimension.name!r}: expected a condition, got {dimension.condition!r}")


@dataclass(frozen=True)
class Segmentation:
    """How the traffic of one model version is cut."""

    dimensions: tuple[Dimension, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.dimensions)

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """All segments, in the order of their numbers."""
        return tuple(name for each in self.dimensions for name in each.segments)

    @property
    def reads(self) -> list[str]:
        """Columns that its dimensions are made of, sorted."""
        return sorted({name for each in self.dimensions for name in each.reads})

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(len(each.segments) for each in self.dimensions)

    def codes(self, frame: pd.DataFrame) -> Ints:
        """For each row one number that says its segment of every dimension, shape (n,); 0 without dimensions.

        Raises
        ------
        SegmentError
        """
        code = np.zeros(len(frame), np.int64)
        for each, size in zip(reversed(self.dimensions), reversed(self._sizes), strict=True):
            code = code * size + each.of(frame)
        return code

    def numbers(self, codes: Ints) -> Iterator[Ints]:
        """For each dimension the number of each row's segment, shape (n,)."""
        first, left = 0, np.asarray(codes, dtype=np.int64)
        for size in self._sizes:
            left, mine = np.divmod(left, size)
            yield mine + first
            first += size

    def rows_of(self, segment: str, frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which rows are of a segment, shape (n,).

        Raises
        ------
        SegmentError
            Where there is none of that name.
        """
        for each in self.dimensions:
            if segment in each.segments:
                return each.of(frame) == each.segments.index(segment)
        raise SegmentError(f"expected one of the segments {', '.join(self.segments)}, got {segment!r}")

    def spread(self, codes: Ints, time_ms: Ints) -> tuple[Ints, Ints]:
        """Every row once a dimension: its position, and its time among the tiles of its segment; both (n * D,)."""
        times = [number * SPAN_MS + time_ms for number in self.numbers(codes)]
        return np.tile(np.arange(len(codes)), len(times)), np.concatenate([*times, np.zeros(0, np.int64)])

    def restricted(self, frame: pd.DataFrame, rows_min: float) -> "Segmentation":
        """The same with the values of a frame: the most frequent of each column, with at least so many rows."""
        return Segmentation(
            tuple(
                replace(each, values=_frequent(frame[each.column], rows_min)) if each.column else each
                for each in self.dimensions
            )
        )

    def plain(self) -> list[dict[str, Any]]:
        """For JSON, see :meth:`of_plain`."""
        return [asdict(each) for each in self.dimensions]

    @staticmethod
    def of_plain(found: Sequence[Mapping[str, Any]]) -> "Segmentation":
        """What :meth:`plain` gave."""
        return Segmentation(tuple(Dimension(**{**each, "values": tuple(each["values"])}) for each in found))


def _frequent(column: pd.Series, rows_min: float) -> tuple[str, ...]:
    """Ties go by name, so that every region keeps the same."""
    counts = column.dropna().astype(str).value_counts()
    kept = sorted((-int(rows), str(name)) for name, rows in counts.items() if rows >= rows_min)
    return tuple(name for _, name in kept[:SEGMENTS_MAX])


def sketch_segments(
    segmentation: Segmentation,
    codes: Ints,
    columns: Mapping[str, npt.NDArray[Any]],
    kinds: Mapping[str, Kind],
    event_time_ms: Ints,
    tile_ms: int,
) -> Sketches:
    """:func:`monitors.sketches.sketch_batch` of every segment, see :meth:`Segmentation.codes`."""
    rows, times = segmentation.spread(codes, event_time_ms)
    return sketch_batch({name: values[rows] for name, values in columns.items()}, kinds, times, tile_ms)


def only(table: Sketches, segment: int, start_ms: int, end_ms: int) -> Sketches:
    """The tiles of one segment that start in [start_ms, end_ms), at their own time."""
    offset = segment * SPAN_MS
    return table.between(offset + start_ms, offset + end_ms).moved(-offset)
