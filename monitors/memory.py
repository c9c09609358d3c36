"""How long days remember the ones before: what makes a stream that hangs together look as if it had changed.

Where a stormy day is followed by another, a week holds fewer independent days than seven, and differs more from the
rest of a month than weeks of days that know nothing of each other. Blocks of three days drawn at random keep some of
that and lose the rest, and a month holds only a few such weeks to learn from. Both are put right by the
autocorrelation of the days themselves, of all columns together, since of one column a month of days shows little.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from monitors.buckets import Floats, Ints

__all__ = ["Memory", "autocorrelation", "remember"]

SHUFFLES: Final = 40
WEEK: Final = 7


@dataclass(frozen=True)
class Memory:
    """What autocorrelation does to windows drawn from a reference.

    Attributes
    ----------
    excess : float
        How many times as large the variance of a real window's mean is as that of one drawn in blocks; at least 1.
    days : float
        As many independent days would say as much about a mean as those of the reference.
    """

    excess: float
    days: float


def remember(lagged: Floats, days: int, window_days: int, block_days: int) -> Memory:
    """What an autocorrelation amounts to.

    Parameters
    ----------
    lagged : ndarray, shape (window_days - 1,)
        At lags of 1, 2, ... days.
    days : int
        Of the reference.
    window_days, block_days : int
    """
    whole = max(_variance(lagged, window_days), 1.0)
    sizes = [min(block_days, window_days - start) for start in range(0, window_days, block_days)]
    drawn = max(sum(size * _variance(lagged, size) for size in sizes) / window_days, 1.0)
    # The reference's mean is off as well, for the same reason.
    off = (1 + window_days * whole / days) / (1 + window_days / days)
    return Memory(max(whole / drawn, 1.0) * off, days / whole)


def _variance(lagged: Floats, size: int) -> float:
    """Variance of a mean of `size` days in a row, in units of that of as many independent ones."""
    lag = np.arange(1, size)
    return 1 + 2 * float(((1 - lag / size) * lagged[: size - 1]).sum())


def autocorrelation(days: Ints, columns: Sequence[Floats], lags: int, random: np.random.Generator) -> Floats:
    """Of what days are like, the round of the week apart, shape (lags,); zero on average for independent days.

    Estimates of few days are too low. By how much is found from the same days in other orders, each on its weekday.

    Parameters
    ----------
    days : ndarray of int64, shape (n,)
        Day numbers, ascending, with or without gaps.
    columns : sequence of ndarray, shape (n, B)
        Of each column what its days are like, such as the shares of its buckets. All weigh alike.
    lags : int
    random : numpy Generator
    """
    members = [np.flatnonzero(days % WEEK == weekday) for weekday in range(WEEK)]
    left = [_without_weekdays(np.asarray(column, dtype=np.float64), members) for column in columns]
    left = [each / scale for each in left if (scale := float(np.sqrt((each * each).mean()))) > 0]
    if not left:
        return np.zeros(lags)
    every = np.concatenate([each / np.sqrt(each.shape[1]) for each in left], axis=1)
    orders = np.tile(np.arange(len(days)), (SHUFFLES, 1))
    for order in orders:
        for member in members:
            order[member] = random.permutation(member)
    chance = np.mean([_lagged(days, every[order], lags) for order in orders], axis=0)
    found: Floats = _lagged(days, every, lags) - chance
    return found


def _without_weekdays(column: Floats, members: Sequence[Ints]) -> Floats:
    left = column - column.mean(axis=0)
    for member in members:
        if len(member) > 1:
            left[member] -= left[member].mean(axis=0)
    return left


def _lagged(days: Ints, left: Floats, lags: int) -> Floats:
    variance = float((left * left).sum()) / len(left)
    found = np.zeros(lags)
    for lag in range(1, lags + 1):
        at = np.searchsorted(days, days + lag)
        pairs = np.flatnonzero((at < len(days)) & (days[np.minimum(at, len(days) - 1)] == days + lag))
        if len(pairs):
            found[lag - 1] = float((left[pairs] * left[at[pairs]]).sum()) / len(pairs) / variance
    return found
