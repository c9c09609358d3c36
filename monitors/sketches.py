"""Mergeable sketches of columns over tiles of event time.

A :class:`Sketches` is a table: one row a tile (a fixed span of event time), one column a model input, and in each cell
what is left of the values. All cells live in the same few arrays, so filling, merging and comparing cost a handful of
numpy calls whatever the number of columns. Merging is addition. Counts and sums are integers and the form is canonical,
so any order of merging gives the same bytes.

===========  ====================================================================================================
kind         what a bucket is
===========  ====================================================================================================
numeric      the sign, exponent and first five mantissa bits of the double: 32 buckets an octave, fixed for all time
             and exact on every machine. The middle of a bucket is within ``RELATIVE_ERROR`` (2**-6, 1.6%) of every
             value in it. Zero and each infinity have their own. The idea is that of DDSketch (Masson, Rim, Lee, VLDB
             2019), with the piecewise linear mapping in place of a logarithm.
score        1/128 of [0, 1]
categorical  the text itself, up to ``CATEGORIES_MAX`` in a cell. Beyond it those with the smallest hashes stay, each
             with its exact count, and the rest is counted as ``other``: unlike a heavy-hitter rule this does not
             depend on the order of arrival.
===========  ====================================================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import (
    CODE_BITS,
    RELATIVE_ERROR,
    SCORE_BINS,
    ColumnSketch,
    Floats,
    Ints,
    Kind,
    bucket_codes,
    bucket_values,
    carry,
    count_codes,
    count_doubles,
    count_keys,
    factorize,
    hash_text,
    limb_sums,
    limbs_to_float,
    pack_keys,
    unpack_codes,
)

__all__ = [
    "CATEGORIES_MAX",
    "RELATIVE_ERROR",
    "SCORE_BINS",
    "ColumnSketch",
    "Kind",
    "SketchError",
    "Sketches",
    "merge",
    "sketch_batch",
]

CATEGORIES_MAX: Final = 4096
_COUNTED_ROWS: Final = 1 << 12

_PER_TILE: Final = ("tiles", "rows", "nulls", "other", "low", "high", "sums", "squares")


class SketchError(ValueError):
    """Columns, kinds or bytes that do not fit together. The message names what was expected and what came."""


@dataclass(frozen=True)
class Sketches:
    """Sketches of C columns over T tiles of event time. Build with :func:`sketch_batch`, combine with :func:`merge`.

    Attributes
    ----------
    tile_ms : int
        Length of a tile; tiles start at its multiples.
    names : tuple of str, length C
        Sorted.
    kinds : tuple of Kind, length C
    tiles : ndarray of int64, shape (T,)
        Start of each tile that has rows, epoch milliseconds, ascending.
    rows : ndarray of int64, shape (T,)
    nulls, other : ndarray of int64, shape (T, C)
    low, high : ndarray of float64, shape (T, C)
    sums, squares : ndarray of int64, shape (T, C, 3)
        Fixed point: limbs of 26 bits, lowest first, in units of 2**-20.
    keys, counts : ndarray of int64, shape (E,)
        The buckets that hold something: ``((tile * C + column) << 32) + code + 2**31``, ascending, and their counts.
    vocabulary : tuple of str
        Sorted texts that the codes of categorical columns point into.
    """

    tile_ms: int
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    tiles: Ints
    rows: Ints
    nulls: Ints
    other: Ints
    low: Floats
    high: Floats
    sums: Ints
    squares: Ints
    keys: Ints
    counts: Ints
    vocabulary: tuple[str, ...] = ()

    @cached_property
    def cells(self) -> Ints:
        """``tile * C + column`` of each bucket, shape (E,)."""
        return self.keys >> CODE_BITS

    @cached_property
    def codes(self) -> Ints:
        """Code of each bucket, shape (E,)."""
        return unpack_codes(self.keys)

    @property
    def non_null(self) -> Ints:
        """Values that are not null, shape (T, C)."""
        return self.rows[:, None] - self.nulls

    @property
    def means(self) -> Floats:
        """Mean of each cell, shape (T, C); NaN where a cell is empty or categorical."""
        count = self.non_null.astype(np.float64)
        return np.divide(limbs_to_float(self.sums), count, out=np.full(count.shape, np.nan), where=count > 0)

    def between(self, start_ms: int, end_ms: int) -> "Sketches":
        """Only the tiles that start in [start_ms, end_ms)."""
        return self.take(np.flatnonzero((self.tiles >= start_ms) & (self.tiles < end_ms)))

    def take(self, positions: npt.ArrayLike) -> "Sketches":
        """Only the tiles at these ascending positions."""
        at = np.asarray(positions, dtype=np.int64)
        width = len(self.names)
        first = np.searchsorted(self.cells, at * width)
        length = np.searchsorted(self.cells, (at + 1) * width) - first
        kept = np.repeat(first - (np.cumsum(length) - length), length) + np.arange(int(length.sum()))
        moved = np.repeat((at - np.arange(len(at))) * width, length)
        picked = {name: getattr(self, name)[at] for name in _PER_TILE}
        return replace(self, keys=self.keys[kept] - (moved << CODE_BITS), counts=self.counts[kept], **picked)

    def moved(self, by_ms: int) -> "Sketches":
        """The same, so much later; a multiple of `tile_ms`."""
        return replace(self, tiles=self.tiles + by_ms)

    def coarsen(self, tile_ms: int) -> "Sketches":
        """The same in longer tiles, a multiple of these.

        Raises
        ------
        SketchError
            Where `tile_ms` is not a multiple.
        """
        if tile_ms % self.tile_ms:
            raise SketchError(f"expected tiles of a multiple of {self.tile_ms} ms, got {tile_ms}")
        return _combine(tile_ms, [self], [self.tiles // tile_ms * tile_ms])

    def collapse(self) -> "Sketches":
        """All tiles as one, which keeps the start of the first and `tile_ms`."""
        return _combine(self.tile_ms, [self], [np.full(len(self.tiles), self.tiles[:1].sum(), dtype=np.int64)])

    def column(self, name: str) -> ColumnSketch:
        """One column over all tiles.

        Raises
        ------
        SketchError
            Where there is no such column.
        """
        if name not in self.names:
            raise SketchError(f"expected one of the columns {', '.join(self.names)}, got {name!r}")
        c = self.names.index(name)
        if len(self.tiles) == 1:
            mine = slice(*np.searchsorted(self.cells, [c, c + 1]))
            codes, counts = self.codes[mine], self.counts[mine]
        else:
            every = np.flatnonzero(self.cells % len(self.names) == c)
            codes, counts = count_keys(self.codes[every], self.counts[every])
        text = self.kinds[c] == "categorical"
        return ColumnSketch(
            kind=self.kinds[c],
            values=np.array([self.vocabulary[i] for i in codes], object)
            if text
            else bucket_values(codes, self.kinds[c]),
            codes=np.arange(len(codes)) if text else codes,
            counts=counts,
            nulls=int(self.nulls[:, c].sum()),
            other=int(self.other[:, c].sum()),
            low=float(self.low[:, c].min(initial=np.inf)),
            high=float(self.high[:, c].max(initial=-np.inf)),
            total=float(limbs_to_float(carry(self.sums[:, c].sum(axis=0)))),
            total_squares=float(limbs_to_float(carry(self.squares[:, c].sum(axis=0)))),
        )

    def to_bytes(self) -> bytes:
        """Versioned Avro, see :mod:`monitors.sketch_codec`. Equal sketches give equal bytes."""
        from monitors.sketch_codec import encode

        return encode(_prune(self))

    @staticmethod
    def from_bytes(payload: bytes) -> "Sketches":
        """What :meth:`to_bytes` wrote.

        Raises
        ------
        SketchError
            Where the bytes are of another version or do not decode.
        """
        from monitors.sketch_codec import decode

        return decode(payload)


def sketch_batch(
    columns: Mapping[str, npt.NDArray[Any]],
    kinds: Mapping[str, Kind],
    event_time_ms: npt.NDArray[np.int64],
    tile_ms: int,
) -> Sketches:
    """Sketch a batch of n rows.

    Parameters
    ----------
    columns : mapping of name to ndarray, shape (n,)
        Numbers (NaN is null) for numeric columns and scores; texts, with None or NaN for null, for categorical ones.
    kinds : mapping of name to Kind
        The columns to sketch; others are left alone.
    event_time_ms : ndarray of int64, shape (n,)
        In any order.
    tile_ms : int

    Raises
    ------
    SketchError
        Where a column is missing or not of length n.
    """
    times = np.asarray(event_time_ms, dtype=np.int64)
    for name in kinds:
        if name not in columns or len(columns[name]) != len(times):
            found = len(columns[name]) if name in columns else "no such column"
            raise SketchError(f"column {name!r}: expected {len(times)} values, got {found}")
    names = tuple(sorted(kinds))
    starts = times // tile_ms * tile_ms
    order = np.arange(0) if np.all(starts[1:] >= starts[:-1]) else np.argsort(starts, kind="stable")
    starts = starts[order] if len(order) else starts
    tiles, first, rows = np.unique(starts, return_index=True, return_counts=True)
    table = _empty(tile_ms, names, tuple(kinds[name] for name in names), tiles, rows)
    tile_at = np.repeat(np.arange(len(tiles)), rows)
    texts, text_codes = factorize([columns[name] for name in names if kinds[name] == "categorical"])
    top_bits = len(tiles) == 1 and len(times) >= _COUNTED_ROWS
    counted: list[tuple[Ints, Ints, Ints]] = []
    for c, name in enumerate(names):
        text = kinds[name] == "categorical"
        values: npt.NDArray[Any] = next(text_codes) if text else np.asarray(columns[name], dtype=np.float64)
        values = values[order] if len(order) else values
        null = values < 0 if text else np.isnan(values)
        some_null = bool(null.any())
        if some_null:
            table.nulls[:, c] = np.add.reduceat(null, first, dtype=np.int64)
        if not text and len(values):
            _fill_moments(table, c, values, null if some_null else None, first)
        if top_bits and kinds[name] == "numeric":
            codes, counts = count_doubles(values)
            counted.append((np.zeros(len(codes), np.int64), codes, counts))
            continue
        present = values[~null] if some_null else values
        codes = (present if text else bucket_codes(present, kinds[name])).astype(np.int64)
        counted.append(count_codes(tile_at[~null] if some_null else tile_at, codes, len(tiles)))
    packed, counts = _in_order(counted, len(tiles))
    return _prune(replace(table, keys=packed, counts=counts, vocabulary=texts))


def _in_order(counted: Sequence[tuple[Ints, Ints, Ints]], tiles: int) -> tuple[Ints, Ints]:
    """Keys and counts of all columns by tile, then column, then code; each column comes in the order of its own.

    Every key knows its place from how many are ahead of its cell, so that nothing is sorted.
    """
    width = len(counted)
    if not width:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    sizes = np.stack([np.bincount(tile, minlength=tiles) for tile, _, _ in counted], axis=1, dtype=np.int64)
    ends = np.cumsum(sizes.ravel()).reshape(sizes.shape)
    keys, counts = (np.empty(int(sizes.sum()), np.int64) for _ in range(2))
    for c, (tile, codes, count) in enumerate(counted):
        before = ends[:, c] - np.cumsum(sizes[:, c])
        place = np.arange(len(codes)) + before[tile]
        keys[place] = pack_keys(tile * width + c, codes)
        counts[place] = count
    return keys, counts


def _empty(tile_ms: int, names: tuple[str, ...], kinds: tuple[Kind, ...], tiles: Ints, rows: Ints) -> Sketches:
    shape, none = (len(tiles), len(names)), np.zeros(0, np.int64)
    nulls, other = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    sums, squares = np.zeros((*shape, 3), np.int64), np.zeros((*shape, 3), np.int64)
    return Sketches(tile_ms, names, kinds, tiles, rows, nulls, other, low, high, sums, squares, none, none)


def _fill_moments(table: Sketches, c: int, values: Floats, null: npt.NDArray[np.bool_] | None, first: Ints) -> None:
    """Extremes and exact sums of one column of a batch; `null` says which of the values are none, if any."""
    low, high = (values, values) if null is None else (np.where(null, each, values) for each in (np.inf, -np.inf))
    # No minus zero: which of two zeros is the lower would depend on the order.
    table.low[:, c] = np.minimum.reduceat(low, first) + 0.0
    table.high[:, c] = np.maximum.reduceat(high, first) + 0.0
    filled = values if null is None else np.where(null, 0.0, values)
    most = float(max(-table.low[:, c].min(), table.high[:, c].max(), 0.0))
    with np.errstate(over="ignore"):  # a square beyond the doubles is held at the limit of the sums, like any other
        table.sums[:, c] = limb_sums(filled, first, most)
        table.squares[:, c] = limb_sums(filled * filled, first, most * most)


def merge(parts: Sequence[Sketches]) -> Sketches:
    """Add sketches of the same columns and tile length. In any order or grouping the result has the same bytes.

    Raises
    ------
    SketchError
        Where there is nothing to merge or columns, kinds or tile lengths differ.
    """
    if not parts:
        raise SketchError("expected at least one sketch to merge, got none")
    head = parts[0]
    for part in parts[1:]:
        if (part.tile_ms, part.names, part.kinds) != (head.tile_ms, head.names, head.kinds):
            odd = sorted(set(zip(part.names, part.kinds, strict=True)) ^ set(zip(head.names, head.kinds, strict=True)))
            raise SketchError(
                f"expected sketches of the same columns in tiles of {head.tile_ms} ms, got tiles of {part.tile_ms} ms "
                f"and a difference in {odd}; sketch each model version apart"
            )
    return head if len(parts) == 1 else _combine(head.tile_ms, parts, [part.tiles for part in parts])


def _combine(tile_ms: int, parts: Sequence[Sketches], starts: Sequence[Ints]) -> Sketches:
    """Add up the tiles of all parts that have the same start."""
    head, width = parts[0], len(parts[0].names)
    tiles, at = np.unique(np.concatenate(starts), return_inverse=True)
    vocabulary = tuple(sorted(set().union(*(part.vocabulary for part in parts))))
    position = {text: i for i, text in enumerate(vocabulary)}
    is_text = np.array([kind == "categorical" for kind in head.kinds], dtype=bool)
    keys, offset = [], 0
    for part in parts:
        tile, column = np.divmod(part.cells, max(width, 1))
        codes = part.codes.copy()
        if part.vocabulary != vocabulary:
            moved = np.array([position[text] for text in part.vocabulary], dtype=np.int64)
            texts = is_text[column]
            codes[texts] = moved[codes[texts]]
        keys.append(pack_keys(at[offset + tile] * width + column, codes))
        offset += len(part.tiles)

    def added(name: str) -> Ints:
        stacked = np.concatenate([getattr(part, name) for part in parts])
        out = np.zeros((len(tiles), *stacked.shape[1:]), dtype=np.int64)
        np.add.at(out, at, stacked)
        return out

    table = _empty(tile_ms, head.names, head.kinds, tiles, added("rows"))
    np.minimum.at(table.low, at, np.concatenate([part.low for part in parts]))
    np.maximum.at(table.high, at, np.concatenate([part.high for part in parts]))
    merged, counts = count_keys(np.concatenate(keys), np.concatenate([part.counts for part in parts]))
    return _prune(
        replace(
            table,
            nulls=added("nulls"),
            other=added("other"),
            sums=carry(added("sums")),
            squares=carry(added("squares")),
            keys=merged,
            counts=counts,
            vocabulary=vocabulary,
        )
    )


def _prune(raw: Sketches) -> Sketches:
    """Bound each categorical cell, then drop texts that no cell uses any more: the canonical form."""
    if not raw.vocabulary:
        return raw
    keys, counts, other, width = raw.keys, raw.counts, raw.other, len(raw.names)
    texts = np.array([kind == "categorical" for kind in raw.kinds], dtype=bool)[raw.cells % width]
    sizes = np.bincount(raw.cells[texts], minlength=len(raw.tiles) * width)
    if sizes.max(initial=0) > CATEGORIES_MAX:
        other, dropped = other.copy(), []
        for cell in np.flatnonzero(sizes > CATEGORIES_MAX):
            mine = np.flatnonzero(raw.cells == cell)
            ranks = np.argsort([hash_text(raw.vocabulary[code]) for code in raw.codes[mine]], kind="stable")
            dropped.append(mine[ranks[CATEGORIES_MAX:]])
            other[cell // width, cell % width] += counts[dropped[-1]].sum()
        keep = np.ones(len(keys), dtype=bool)
        keep[np.concatenate(dropped)] = False
        keys, counts, texts = keys[keep], counts[keep], texts[keep]
    codes = unpack_codes(keys)
    used = np.flatnonzero(np.bincount(codes[texts]))
    if keys is raw.keys and len(used) == len(raw.vocabulary):
        return raw
    codes[texts] = np.searchsorted(used, codes[texts])
    vocabulary = tuple(raw.vocabulary[i] for i in used)
    return replace(raw, keys=pack_keys(keys >> CODE_BITS, codes), counts=counts, other=other, vocabulary=vocabulary)
