"""What sketches are made of: buckets, packed keys, exact sums. All vectorised, all the same on every machine."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "CODE_BIAS",
    "CODE_BITS",
    "RELATIVE_ERROR",
    "SCORE_BINS",
    "ColumnSketch",
    "Floats",
    "Ints",
    "Kind",
    "bucket_codes",
    "bucket_edges",
    "bucket_values",
    "carry",
    "count_codes",
    "count_doubles",
    "count_keys",
    "factorize",
    "hash_text",
    "limb_sums",
    "limbs_to_float",
    "pack_keys",
    "unpack_codes",
]

Kind = Literal["numeric", "categorical", "score"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

RELATIVE_ERROR: Final = 2.0**-6
SCORE_BINS: Final = 128
CODE_BITS: Final = 32
CODE_BIAS: Final = 1 << (CODE_BITS - 1)

_MANTISSA_SHIFT: Final = 52 - 5
_COUNTERS_A_ROW: Final = 16
_SIGN: Final = 1 << (63 - _MANTISSA_SHIFT)
_INFINITY: Final = 0x7FF << 5  # of the top bits, the sign apart; what is above is no number
_SUM_SCALE: Final = 2.0**20  # sums are kept in units of 2**-20: finer than any unit of the columns we know
_LIMB_BITS: Final = 26
_LIMB_MASK: Final = (1 << _LIMB_BITS) - 1
_SUM_LIMIT: Final = 2.0**88  # leaves 2**27 rows a cell before the top limb of an int64 could overflow
_WHOLE_LIMIT: Final = 2.0**62
_HALF_BITS: Final = 40


@dataclass(frozen=True)
class ColumnSketch:
    """One column over one span: what the statistics of :mod:`monitors.statistics` compare.

    Attributes
    ----------
    kind : Kind
    values : ndarray, shape (B,)
        Middle of each bucket that holds something, ascending; for a categorical column the texts, sorted.
    codes : ndarray of int64, shape (B,)
        Bucket numbers, ascending, the same in every sketch; for a categorical column 0 to B - 1.
    counts : ndarray of int64, shape (B,)
    nulls, other : int
        Missing values (null or NaN) and values of categories not kept.
    low, high : float
        Exact extremes; inf and -inf where there is no value.
    total, total_squares : float
        Sum of the values and of their squares, each rounded to 2**-20 before it was added.
    """

    kind: Kind
    values: npt.NDArray[Any]
    codes: Ints
    counts: Ints
    nulls: int
    other: int
    low: float
    high: float
    total: float
    total_squares: float

    @property
    def count(self) -> int:
        """Values that are not null."""
        return int(self.counts.sum()) + self.other


def bucket_codes(values: Floats, kind: Kind) -> Ints:
    """Bucket number of each value, none of them NaN; ascending with the value."""
    if kind == "score":
        bins: Ints = np.clip(np.floor(values * SCORE_BINS), 0, SCORE_BINS - 1).astype(np.int64)
        return bins
    magnitude = (np.ascontiguousarray(np.abs(values)).view(np.int64) >> _MANTISSA_SHIFT) + 1
    return np.where(values > 0, magnitude, np.where(values < 0, -magnitude, 0))


def count_doubles(values: Floats) -> tuple[Ints, Ints]:
    """Bucket numbers of numeric values, ascending, and how often each came; NaN is left out.

    The same as sorting :func:`bucket_codes`, by counting the top bits of all at once: a pass in place
    of a sort.
    """
    bits = np.ascontiguousarray(values).view(np.uint64)
    counts = np.bincount((bits >> np.uint64(_MANTISSA_SHIFT)).view(np.int64), minlength=2 * _SIGN)
    above, below = counts[:_SIGN], counts[_SIGN:]
    # 1. Zeros share their top bits with the smallest doubles, infinities with some of those that are no numbers.
    zeros = np.count_nonzero(values == 0) if above[0] or below[0] else 0
    if zeros:
        plus = np.count_nonzero(bits == 0)
        above[0] -= plus
        below[0] -= zeros - plus
    for side, infinity in ((above, np.inf), (below, -np.inf)):
        if side[_INFINITY]:
            side[_INFINITY] = np.count_nonzero(values == infinity)
        side[_INFINITY + 1 :] = 0
    # 2. In the order of the values.
    down, up = np.flatnonzero(below)[::-1], np.flatnonzero(above)
    middle = np.zeros(1 if zeros else 0, dtype=np.int64)
    codes = np.concatenate([-(down + 1), middle, up + 1])
    return codes, np.concatenate([below[down], middle + zeros, above[up]])


def count_codes(tile: Ints, codes: Ints, tiles: int) -> tuple[Ints, Ints, Ints]:
    """Tiles and codes that came, in that order, and how often; `tile`, of each row, is from 0 to `tiles` - 1.

    Where codes are few for so many rows each pair has a counter of its own; else the pairs are sorted.
    """
    if len(codes) == 0:
        return codes, codes, codes
    least = int(codes.min())
    span = int(codes.max()) - least + 1
    if tiles * span <= _COUNTERS_A_ROW * len(codes):
        every = np.bincount(tile * span + (codes - least))
        at = np.flatnonzero(every)
        counts = every[at]
    else:
        at, counts = np.unique(tile * span + (codes - least), return_counts=True)
    found, rest = np.divmod(at, span)
    return found, rest + least, counts


def bucket_values(codes: Ints, kind: Kind) -> Floats:
    """Middle of each bucket, within ``RELATIVE_ERROR`` of every value in it (of a score within 1/256)."""
    if kind == "score":
        return (codes + 0.5) / SCORE_BINS
    magnitude = np.maximum(np.abs(codes) - 1, 0)
    lower = (magnitude << _MANTISSA_SHIFT).view(np.float64)
    upper = ((magnitude + 1) << _MANTISSA_SHIFT).view(np.float64)
    with np.errstate(invalid="ignore"):
        middle = np.where(np.isfinite(upper), lower + (upper - lower) / 2, lower)
    return np.where(codes == 0, 0.0, np.sign(codes) * middle)


def bucket_edges(codes: Ints, kind: Kind) -> tuple[Floats, Floats]:
    """The least and the largest that a value of each bucket can be, shape (n,) each; infinities have buckets alone."""
    if kind == "score":
        return codes / SCORE_BINS, (codes + 1) / SCORE_BINS
    magnitude = np.maximum(np.abs(codes) - 1, 0)
    near = (magnitude << _MANTISSA_SHIFT).view(np.float64)
    far = np.where(np.isfinite(near), ((magnitude + 1) << _MANTISSA_SHIFT).view(np.float64), near)
    near, far = (np.where(codes == 0, 0.0, each) for each in (near, far))
    return np.where(codes < 0, -far, near), np.where(codes < 0, -near, far)


def pack_keys(cells: Ints, codes: Ints) -> Ints:
    """Cell and bucket number as one sortable integer: cells below 2**31, codes within 2**31 of zero."""
    return (cells << CODE_BITS) + (codes + CODE_BIAS)


def unpack_codes(keys: Ints) -> Ints:
    """Bucket numbers of packed keys."""
    return (keys & ((1 << CODE_BITS) - 1)) - CODE_BIAS


def count_keys(keys: Ints, weights: Ints) -> tuple[Ints, Ints]:
    """Distinct keys, ascending, and with what total weight each came."""
    if len(keys) == 0:
        return keys, np.zeros(0, np.int64)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return ordered[first], np.add.reduceat(weights[order], first)


def factorize(columns: Sequence[npt.NDArray[Any]]) -> tuple[tuple[str, ...], Iterator[Ints]]:
    """Texts of all columns together, sorted, and each column as positions in them (-1 for null)."""
    import pandas as pd  # hashing a column of texts in C; numpy would sort it

    pairs = [pd.factorize(np.asarray(column, dtype=object)) for column in columns]
    texts = sorted({str(text) for _, unique in pairs for text in unique})
    position = {text: i for i, text in enumerate(texts)}
    lookups = [np.array([*(position[str(text)] for text in unique), -1], dtype=np.int64) for _, unique in pairs]
    return tuple(texts), iter([lookup[codes] for lookup, (codes, _) in zip(lookups, pairs, strict=True)])


def limb_sums(values: Floats, first: Ints, most: float = np.inf) -> Ints:
    """Exact sums over runs of rows that start at `first`, shape (len(first), 3).

    Each value is rounded to 2**-20 (and held within 2**68) before it is added, so that the order cannot show. Where no
    magnitude is above `most` and that is little, fewer limbs do, to the same sums.
    """
    scaled = values * _SUM_SCALE
    bound = most * _SUM_SCALE
    if bound * len(values) < _WHOLE_LIMIT:
        whole = np.add.reduceat(np.rint(scaled, out=scaled).astype(np.int64), first)
        return _limbs(whole)
    if bound < _SUM_LIMIT and max(bound * 2.0**-_HALF_BITS, 2.0**_HALF_BITS) * len(values) < _WHOLE_LIMIT:
        rounded = np.rint(scaled, out=scaled)
        high = np.rint(rounded * 2.0**-_HALF_BITS)
        rounded -= high * 2.0**_HALF_BITS  # exact: both are whole, and what is left has fewer bits
        low_sum, high_sum = (np.add.reduceat(each.astype(np.int64), first) for each in (rounded, high))
        shift = _HALF_BITS - _LIMB_BITS
        rest = _LIMB_BITS - shift
        raised = np.stack([np.zeros_like(high_sum), (high_sum & ((1 << rest) - 1)) << shift, high_sum >> rest], axis=-1)
        return carry(_limbs(low_sum) + raised)
    rounded = np.rint(np.clip(scaled, -_SUM_LIMIT, _SUM_LIMIT))
    top = np.floor(rounded * 2.0 ** (-2 * _LIMB_BITS))
    rest_of = (rounded - top * 2.0 ** (2 * _LIMB_BITS)).astype(np.int64)  # exact: the low bits of one double
    limbs = (rest_of & _LIMB_MASK, rest_of >> _LIMB_BITS, top.astype(np.int64))
    return carry(np.stack([np.add.reduceat(limb, first) for limb in limbs], axis=-1))


def _limbs(whole: Ints) -> Ints:
    """Canonical limbs of integers, shape (..., 3)."""
    return np.stack([whole & _LIMB_MASK, (whole >> _LIMB_BITS) & _LIMB_MASK, whole >> (2 * _LIMB_BITS)], axis=-1)


def carry(limbs: Ints) -> Ints:
    """Canonical limbs: the two lower ones within [0, 2**26), the sign in the top one."""
    middle = limbs[..., 1] + (limbs[..., 0] >> _LIMB_BITS)
    top = limbs[..., 2] + (middle >> _LIMB_BITS)
    return np.stack([limbs[..., 0] & _LIMB_MASK, middle & _LIMB_MASK, top], axis=-1)


def limbs_to_float(limbs: Ints) -> Floats:
    """The sum that limbs hold, in the unit of the column; within one rounding of exact."""
    low = limbs[..., 0] + (limbs[..., 1] << _LIMB_BITS)  # below 2**52
    total: Floats = (low.astype(np.float64) + limbs[..., 2].astype(np.float64) * 2.0 ** (2 * _LIMB_BITS)) / _SUM_SCALE
    return total


@cache
def hash_text(text: str) -> int:
    """64 bits of BLAKE2b: which categories stay when a cell is full."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
