"""Aggregates over many ranges of a column at once, for the witness: exact, however long the ranges are.

Nothing here is approximate or depends on the order of an addition. Every float64 is a whole multiple of a power of
two, so sums, means and variances are made of integers and rounded once, at the end. Order statistics and distinct
values are read off a wavelet matrix (Claude, Navarro, Ordonez: *The wavelet matrix*, 2015).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.compiler.definition import percentile

__all__ = ["Column"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Exact = NDArray[Any]  # int64, or Python's integers where those could overflow

_INT64_BITS = 62
_FLOAT64_BITS = 53


class Column:
    """The values of a column, in the order of its log.

    Parameters
    ----------
    values : Series
        Numbers, strings, bytes, booleans or timestamps; null where there is none.
    """

    def __init__(self, values: pd.Series) -> None:
        there = values.notna().to_numpy()
        self._before = np.concatenate([[0], np.cumsum(there)])
        self._values = _typed(values[there])
        self._ranks: tuple[Ints, Any] | None = None

    def at(self, places: Ints) -> Any:
        """Values at places of the log; null at places below 0."""
        there = (places >= 0) & (self._before[places + 1] > self._before[places])
        return _take(self._values, np.where(there, self._before[places], -1))

    def over(self, function: str, start: Ints, end: Ints) -> Any:
        """What a function of the definition is over each [start, end) of the log.

        Returns
        -------
        ExtensionArray
            Counts, and sums of whole numbers, as Int64; means, variances and percentiles as float64; others like the
            column. Null where the definition has none.

        Raises
        ------
        TypeError
            For a sum, mean, variance or percentile of what are not numbers.
        """
        low, high = self._before[start], self._before[end]
        if function == "count":
            return pd.array(high - low, dtype="Int64")
        if function in ("count_distinct", "approx_count_distinct"):
            return pd.array(self._distinct(low, high), dtype="Int64")
        if function in ("first", "last"):
            return _take(self._values, np.where(high > low, low if function == "first" else high - 1, -1))
        if function in ("min", "max"):
            return self._kth(low, high, np.zeros_like(low) if function == "min" else high - low - 1)
        if (quantile := percentile(function)) is not None:
            self._check_numbers(function)
            rank = np.floor(quantile * (high - low - 1)).astype(np.int64)
            return self._kth(low, high, rank).astype(np.float64)
        self._check_numbers(function)
        return self._moment(function, low, high)

    def _check_numbers(self, function: str) -> None:
        if len(self._values) and self._values.dtype.kind not in "iufb":
            raise TypeError(f"{function} of {self._values.name!r}: expected numbers, got {self._values.dtype}")

    def _ranked(self) -> tuple[Ints, Any]:
        """Each value's place among the distinct ones, and those in order."""
        if self._ranks is None:
            ranks, distinct = pd.factorize(self._values, sort=True)
            self._ranks = ranks.astype(np.int64), pd.Series(distinct, dtype=self._values.dtype)
        return self._ranks

    def _kth(self, low: Ints, high: Ints, k: Ints) -> Any:
        ranks, distinct = self._ranked()
        return _take(distinct, np.where(high > low, _kth(ranks, low, high, k), -1))

    def _distinct(self, low: Ints, high: Ints) -> Ints:
        """A value counts where it has not been in the range before."""
        ranks, _ = self._ranked()
        order = np.argsort(ranks, kind="stable")
        again = ranks[order][1:] == ranks[order][:-1]
        after_previous = np.zeros(len(ranks), dtype=np.int64)
        after_previous[order[1:]] = np.where(again, order[:-1] + 1, 0)
        return _below(after_previous, low, high, low + 1)

    def _moment(self, function: str, low: Ints, high: Ints) -> Any:
        values = self._values.to_numpy(
            dtype=np.float64 if self._values.dtype.kind == "f" or self._values.empty else int
        )
        finite = np.isfinite(values)
        if not finite.all():
            return _moment_of_infinite(function, values, low, high)
        whole, scale = _integers(values)
        count, total = high - low, _between(whole, low, high)
        if function == "sum":
            if values.dtype.kind != "f" and not self._values.empty:
                return pd.array(total, dtype="Int64")
            return _array(_quotient(total, np.full(len(total), scale, dtype=object)))
        if function == "mean":
            there = count > 0
            return _array(_quotient(total, _times(np.maximum(count, 1), scale)), there)
        enough = count > 1
        squares = _between(_square(whole), low, high).astype(object)
        above = count.astype(object) * squares - total.astype(object) ** 2
        below = _times(np.maximum(count * (count - 1), 1), scale * scale)
        found = _quotient(above, below)
        return _array(np.sqrt(found) if function == "stddev" else found, enough)


def _typed(values: pd.Series) -> pd.Series:
    """Without nulls; objects as what they are, whole numbers and booleans as types that can be null."""
    values = values.infer_objects()
    if values.dtype.kind in "iu":
        return values.astype("Int64")
    return values.astype("boolean") if values.dtype.kind == "b" else values


def _take(values: pd.Series, places: Ints) -> Any:
    return values.array.take(places, allow_fill=True)


def _array(values: Floats, there: NDArray[np.bool_] | bool = True) -> Any:
    return pd.Series(np.where(there, values, np.nan)).array


def _integers(values: NDArray[Any]) -> tuple[Exact, int]:
    """Whole numbers and a power of two, such that a value is the number divided by the power, exactly."""
    if values.dtype.kind != "f":
        whole, exponent = values.astype(np.int64), np.zeros(len(values), dtype=np.int64)
    else:
        fraction, binary = np.frexp(values)
        whole = np.ldexp(fraction, _FLOAT64_BITS).astype(np.int64)
        zeros = np.frexp((whole & -whole).astype(np.float64))[1].astype(np.int64) - 1  # trailing, in binary
        zeros = np.where(whole == 0, 0, zeros)
        whole = whole >> zeros
        exponent = np.where(whole == 0, 0, binary - _FLOAT64_BITS + zeros)
    lowest = min(int(exponent.min(initial=0)), 0)
    shift = exponent - lowest
    magnitude = float(np.max(np.log2(np.maximum(np.abs(whole.astype(np.float64)), 1)) + shift, initial=0))
    if magnitude + np.log2(len(values) + 1) + 1 < _INT64_BITS:
        return whole << shift, 1 << -lowest
    return whole.astype(object) << shift.astype(object), 1 << -lowest


def _square(whole: Exact) -> Exact:
    largest = max((abs(int(each)) for each in (whole.min(initial=0), whole.max(initial=0))), default=0)
    if 2 * largest.bit_length() + len(whole).bit_length() >= _INT64_BITS:
        whole = whole.astype(object)
    return whole * whole


def _between(whole: Exact, low: Ints, high: Ints) -> Exact:
    """Sums of [low, high): differences of running sums, which is exact for integers."""
    running = np.concatenate([np.zeros(1, dtype=whole.dtype), np.cumsum(whole)])
    return running[high] - running[low]


def _times(numbers: Ints, factor: int) -> Exact:
    return numbers.astype(object) * factor


def _quotient(above: Exact, below: Exact) -> Floats:
    """Correctly rounded, as Python's division of integers is."""
    pairs = zip(above.tolist(), below.tolist(), strict=True)
    return np.fromiter((_divided(*pair) for pair in pairs), dtype=np.float64, count=len(above))


def _divided(above: int, below: int) -> float:
    try:
        return above / below
    except OverflowError:  # beyond float64, which holds an infinity then
        return float("inf") if above > 0 else float("-inf")


def _moment_of_infinite(function: str, values: Floats, low: Ints, high: Ints) -> Any:
    """As IEEE 754 has it: a sum with an infinity is that infinity, with both of them it is not a number."""
    finite = Column(pd.Series(np.where(np.isfinite(values), values, 0.0)))
    found = finite.over(function, low, high).to_numpy()
    infinite = [_between((values == sign * np.inf).astype(np.int64), low, high) > 0 for sign in (1, -1)]
    if function in ("var", "stddev"):
        return _array(found, ~(infinite[0] | infinite[1]))
    with np.errstate(invalid="ignore"):
        return _array(found + np.where(infinite[0], np.inf, 0.0) + np.where(infinite[1], -np.inf, 0.0))


def _levels(numbers: Ints, bits: int) -> Iterator[tuple[int, Ints]]:
    """The wavelet matrix from its top: each bit, and how many zeros it has before each place of its level."""
    for bit in reversed(range(bits)):
        one = (numbers >> bit & 1).astype(bool)
        yield bit, np.concatenate([[0], np.cumsum(~one)])
        numbers = np.concatenate([numbers[~one], numbers[one]])


def _kth(numbers: Ints, low: Ints, high: Ints, k: Ints) -> Ints:
    """The k-th smallest, from 0, of each [low, high)."""
    found = np.zeros(len(k), dtype=np.int64)
    for bit, zeros in _levels(numbers, int(numbers.max(initial=0)).bit_length()):
        first, last = zeros[low], zeros[high]
        is_zero = k < last - first
        found |= np.where(is_zero, 0, 1 << bit)
        k = np.where(is_zero, k, k - (last - first))
        low = np.where(is_zero, first, zeros[-1] + low - first)
        high = np.where(is_zero, last, zeros[-1] + high - last)
    return found


def _below(numbers: Ints, low: Ints, high: Ints, limit: Ints) -> Ints:
    """How many of each [low, high) are less than the limit."""
    found = np.zeros(len(limit), dtype=np.int64)
    largest = max(int(numbers.max(initial=0)), int(limit.max(initial=0)))
    for bit, zeros in _levels(numbers, largest.bit_length()):
        first, last = zeros[low], zeros[high]
        is_one = (limit >> bit & 1).astype(bool)
        found += np.where(is_one, last - first, 0)
        low = np.where(is_one, zeros[-1] + low - first, first)
        high = np.where(is_one, zeros[-1] + high - last, last)
    return found
