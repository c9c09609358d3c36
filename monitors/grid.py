"""Every numeric cell of a table of sketches against one reference at once: windows x columns in a few numpy calls.

Columns may be the features of each segment, so a day of minutes of a thousand features in twenty segments is one table
after another of the same columns. What comes out is what :func:`monitors.statistics.distance` says of each cell alone.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import Floats, Ints
from monitors.sketches import SketchError, Sketches
from monitors.statistics import PSI_GROUPS

__all__ = ["Comparer", "Grid"]

_HALF: Final = 0.5


@dataclass(frozen=True)
class Grid:
    """Statistics of the cells of a table, shape (T, C); NaN for categorical columns and where a side has no values.

    Attributes
    ----------
    psi, ks : ndarray
    mean : ndarray
        Of the cell itself.
    null_rate : ndarray
        Of the cell itself, for categorical columns too; NaN where there are no rows.
    """

    psi: Floats
    ks: Floats
    mean: Floats
    null_rate: Floats


class Comparer:
    """What a reference is to many tables.

    Parameters
    ----------
    reference : Sketches
        One tile.

    Raises
    ------
    SketchError
        Where it is not one tile.
    """

    def __init__(self, reference: Sketches) -> None:
        if len(reference.tiles) != 1:
            raise SketchError(f"expected a reference of one tile, got {len(reference.tiles)}")
        self.names = reference.names
        self._numeric = np.array([kind != "categorical" for kind in reference.kinds], dtype=bool)
        mine = self._numeric[reference.cells]
        column, codes, counts = reference.cells[mine], reference.codes[mine], reference.counts[mine]
        width = len(self.names)
        self._rows = np.bincount(column, counts, width).astype(np.int64)
        # 1. A place for every bucket from the lowest to the highest that a column has, and one either side.
        low, high = np.zeros(width, np.int64), np.full(width, -1, np.int64)
        first = np.flatnonzero(np.r_[True, column[1:] != column[:-1]]) if len(column) else np.zeros(0, np.int64)
        low[column[first]] = codes[first]
        high[column[first]] = codes[np.r_[first[1:], len(codes)] - 1] if len(first) else 0
        places = high - low + 3
        self._end = np.cumsum(places) - 1
        self._start = self._end + 1 - places
        self._shift = self._start - low + 1
        held = np.zeros(int(places.sum()), dtype=np.int64)
        held[self._shift[column] + codes] = counts
        # 2. At each place the share of the column below it and up to it, and its group of about equal shares.
        owner = np.repeat(np.arange(width), places)
        total = np.maximum(self._rows, 1)[owner]
        running = np.cumsum(held)
        until = running - (running - held)[self._start][owner]
        self._until, self._below = until / total, (until - held) / total
        group = np.minimum((until - held) * PSI_GROUPS // total, PSI_GROUPS - 1)
        self._group = group.astype(np.int64)
        self._grouped = np.bincount(owner * PSI_GROUPS + group, held, width * PSI_GROUPS).reshape(width, PSI_GROUPS)

    def compare(self, table: Sketches) -> Grid:
        """The cells of a table of the same columns.

        Raises
        ------
        SketchError
            Where the columns differ.
        """
        if table.names != self.names:
            raise SketchError(f"expected the columns {list(self.names)}, got {list(table.names)}")
        shape = (len(table.tiles), len(self.names))
        psi, ks = np.full(shape[0] * shape[1], np.nan), np.full(shape[0] * shape[1], np.nan)
        cells, codes, counts = table.cells, table.codes, table.counts
        usable = self._numeric & (self._rows > 0)
        if not usable.all():
            known = usable[cells % max(shape[1], 1)]
            cells, codes, counts = cells[known], codes[known], counts[known]
        if len(cells):
            first = np.flatnonzero(np.r_[True, cells[1:] != cells[:-1]])
            mine = cells[first]
            ks[mine], psi[mine] = self._distances(codes, counts, first, mine % shape[1])
        rows = table.rows[:, None].astype(np.float64)
        return Grid(psi.reshape(shape), ks.reshape(shape), table.means, table.nulls / rows)

    def _distances(self, codes: Ints, counts: Ints, first: Ints, column: Ints) -> tuple[Floats, Floats]:
        """KS and PSI of cells that begin at `first`, each of a column."""
        length = np.diff(np.r_[first, len(counts)])
        place = codes + np.repeat(self._shift[column], length)
        np.maximum(place, np.repeat(self._start[column], length), out=place)
        np.minimum(place, np.repeat(self._end[column], length), out=place)
        running = np.cumsum(counts)
        before = (running - counts)[first]
        until = (running - np.repeat(before, length)) * np.repeat(1 / np.add.reduceat(counts, first), length)
        below = np.r_[0.0, until[:-1]]
        below[first] = 0.0
        # Between two buckets of the cell the reference's share only grows: the ends of the gap are its extremes.
        below -= self._below[place]
        until -= self._until[place]
        gap = np.maximum(np.abs(until, out=until), np.abs(below, out=below), out=until)
        ks: Floats = np.maximum.reduceat(gap, first)
        at = np.repeat(np.arange(len(first)) * PSI_GROUPS, length) + self._group[place]
        current = np.bincount(at, counts, len(first) * PSI_GROUPS).reshape(-1, PSI_GROUPS)
        return ks, _psi(self._grouped[column], current)


def _psi(reference: npt.NDArray[Any], current: npt.NDArray[Any]) -> Floats:
    """As :func:`monitors.statistics.psi`, of the groups that either side has values in."""
    there = (reference > 0) | (current > 0)
    groups = there.sum(axis=-1, keepdims=True)

    def smoothed(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        filled: npt.NDArray[Any] = (counts + _HALF) / (counts.sum(axis=-1, keepdims=True) + _HALF * groups)
        return filled

    p, q = smoothed(reference), smoothed(current)
    value: Floats = np.where(there, (q - p) * np.log(q / p), 0.0).sum(axis=-1)
    return value
