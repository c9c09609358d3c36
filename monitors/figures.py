"""Everything that two sketches of a column tell of how they differ: each figure with its error and its chance.

A figure is of the sketches; the rows they were made of have one that is no further away than `bound`. Where a figure
needs bins these are groups of buckets of about equal share of the reference, which rows and sketches agree on, so the
bound is 0. What rows alone could tell is told by none: a sketch knows no order inside a bucket.

A chance is that of a figure at least as large by two samples of the same size of what both sides are together, rows
drawn one by one (a bootstrap: Efron 1979). Rows of traffic are not independent of each other, so that of windows it is
only the thresholds of :mod:`monitors.thresholds` that are calibrated; of two files of rows this is what can be said.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erfc, sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import Floats, Ints, bucket_edges
from monitors.embeddings import EmbeddingSketch, mmd, mmd_bound, mmd_under_null
from monitors.sketches import ColumnSketch
from monitors.statistics import (
    align,
    chi_square,
    cramer_von_mises,
    energy,
    group_by_mass,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    kullback_leibler,
    l_infinity,
    psi,
    rank_squares,
    regroup,
    total_variation,
    wasserstein,
    wasserstein_bound,
)

__all__ = ["BINNED", "ORDERED", "Figure", "Figures", "compare", "compare_embeddings"]

REPLICATES: Final = 500
FINE_GROUPS: Final = 128
"""For the chances of what needs an order: a bucket each would take ten times as long and say the same."""

Counts = npt.NDArray[Any]
BINNED: Final[dict[str, Callable[[Counts, Counts], Floats]]] = {
    "psi": psi,
    "js": jensen_shannon,
    "kl": kullback_leibler,
    "hellinger": hellinger,
    "tv": total_variation,
    "l_infinity": l_infinity,
    "chi_square": chi_square,
}
ORDERED: Final = ("ks", "cramer_von_mises", "wasserstein", "energy")


@dataclass(frozen=True)
class Figure:
    """One statistic of two sketches.

    Attributes
    ----------
    value : float
        NaN where a side has no values.
    bound : float
        How far that of the rows can be from it at most; inf where nothing can be said, since categories beyond those
        kept by name could be anything.
    p_value : float
        Chance of as much or more where nothing differs; NaN for no value.
    """

    value: float
    bound: float
    p_value: float


Figures = Mapping[str, Figure]


def compare(reference: ColumnSketch, current: ColumnSketch, seed: int = 0) -> dict[str, Figure]:
    """All statistics that two sketches of one kind have; see `BINNED` and, where values have an order, `ORDERED`.

    Parameters
    ----------
    reference, current : ColumnSketch
    seed : int
        Of the resampling.
    """
    is_text = reference.kind == "categorical"
    names = (*BINNED, *(() if is_text else ORDERED))
    values, left, right = align(reference, current)
    n, m = reference.count + reference.nulls, current.count + current.nulls
    nulls = {"null_rate": _null_rates(n, m, reference.nulls, current.nulls)}
    if not left.sum() or not right.sum():
        return {name: Figure(np.nan, np.nan, np.nan) for name in names} | nulls
    random = np.random.default_rng(seed)
    group = np.arange(len(left)) if is_text else group_by_mass(left)
    binned = regroup(left, group), regroup(right, group)
    drawn = _drawn(*binned, random)
    found = {}
    for name, statistic in BINNED.items():
        value = float(statistic(*binned))
        bound = _unnamed_bound(name, value, *binned) if is_text else 0.0
        found[name] = Figure(value, bound, _chance(value, statistic(*drawn)))
    if not is_text:
        found |= _ordered(reference, current, values.astype(np.float64), left, right, random)
    return found | nulls


def compare_embeddings(reference: EmbeddingSketch, current: EmbeddingSketch, seed: int = 0) -> dict[str, Figure]:
    """The squared MMD of two sketches of embeddings, and their rates of nulls; see :func:`compare`."""
    value = mmd(reference, current)
    found = Figure(value, np.nan, np.nan)
    if not np.isnan(value):
        under_null = mmd_under_null(reference, current, REPLICATES, np.random.default_rng(seed))
        found = Figure(value, mmd_bound(reference, current), _chance(value, under_null))
    n, m = reference.rows + reference.nulls, current.rows + current.nulls
    return {"mmd": found, "null_rate": _null_rates(n, m, reference.nulls, current.nulls)}


def _null_rates(n: int, m: int, before: int, now: int) -> Figure:
    """How many more rows are null, as a share; exact. Its chance is of two shares of one binomial, normally."""
    if not n or not m:
        return Figure(np.nan, np.nan, np.nan)
    value = now / m - before / n
    pooled = (now + before) / (n + m)
    spread = sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return Figure(value, 0.0, erfc(abs(value) / spread / sqrt(2)) if spread else 1.0)


def _drawn(left: Counts, right: Counts, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Samples of both sizes from what both sides are together, shape (REPLICATES, B) each."""
    pooled = (left + right) / (left.sum() + right.sum())
    first, second = (random.multinomial(int(side.sum()), pooled, REPLICATES) for side in (left, right))
    return first, second


def _chance(value: float | Floats, under_null: Floats) -> float:
    """Never 0: the sample itself is one of those that could have come (Davison and Hinkley 1997, 4.2)."""
    as_much = int(np.sum(under_null >= value - 1e-12))
    return (1 + as_much) / (1 + len(under_null))


def _unnamed_bound(name: str, value: float, left: Counts, right: Counts) -> float:
    """What the categories that neither side kept by name, the last bucket, can hide."""
    p, q = left[-1] / left.sum(), right[-1] / right.sum()
    if p == q == 0:
        return 0.0
    if name == "tv":
        return float(min(p, q))
    if name == "l_infinity":
        return float(max(value, p, q) - np.abs(left[:-1] / left.sum() - right[:-1] / right.sum()).max(initial=0.0))
    if name == "hellinger":
        return float(np.sqrt(value**2 + np.sqrt(p * q)) - value)
    if name == "js":
        return float(np.sqrt(value**2 + (p + q) / 2) - value)
    return float("inf")


def _ordered(
    reference: ColumnSketch, current: ColumnSketch, values: Floats, left: Counts, right: Counts, random: Any
) -> dict[str, Figure]:
    """What needs an order: of the buckets, not of bins of them. Chances are by coarser groups."""
    group = group_by_mass(left + right, FINE_GROUPS)
    coarse = regroup(left, group), regroup(right, group)
    drawn = _drawn(*coarse, random)
    by_rank = {
        "ks": (kolmogorov_smirnov, _ks_bound(left, right)),
        "cramer_von_mises": (cramer_von_mises, _cramer_von_mises_bound(left, right)),
    }
    found = {
        name: Figure(float(statistic(left, right)), bound, _chance(statistic(*coarse), statistic(*drawn)))
        for name, (statistic, bound) in by_rank.items()
    }
    if not np.isfinite(values).all():  # a distance to infinity
        return found | dict.fromkeys(("wasserstein", "energy"), Figure(np.nan, np.nan, np.nan))
    least, most = min(reference.low, current.low), max(reference.high, current.high)
    edges = bucket_edges(np.union1d(reference.codes, current.codes), reference.kind)
    low, high, values = (np.clip(each, least, most) for each in (*edges, values))  # so that constants are exact
    middle = regroup((left + right) * values, group) / regroup(left + right, group)
    by_place = {
        "wasserstein": (wasserstein, wasserstein_bound(reference, current)),
        "energy": (energy, _energy_bound(left, right, high - low)),
    }
    return found | {
        name: Figure(
            float(statistic(left, right, values)), bound, _chance(statistic(*coarse, middle), statistic(*drawn, middle))
        )
        for name, (statistic, bound) in by_place.items()
    }


def _ks_bound(left: Counts, right: Counts) -> float:
    """Inside a bucket either side may have all its values before the first of the other."""
    p, q = left / left.sum(), right / right.sum()
    after, other_after = np.cumsum(p), np.cumsum(q)
    before, other_before = after - p, other_after - q
    shared = (left > 0) & (right > 0)  # where one side has none, the difference moves one way
    most = np.maximum(np.abs(after - other_before), np.abs(before - other_after))[shared].max(initial=0.0)
    return float(max(most - np.abs(after - other_after).max(), 0.0))


def _cramer_von_mises_bound(left: Counts, right: Counts) -> float:
    """No value's rank among all is further from the mean rank of its bucket than half the bucket is long.

    So of (rank - own rank) squared, over the n values of a bucket, the sum moves by at most
    half * (2 sqrt(n sum) + n half), by Cauchy and Schwarz.
    """
    n, m = float(left.sum()), float(right.sum())
    half = (left + right - 1) / 2
    moved = 0.0
    for own, other, size in ((left, right, n), (right, left, m)):
        squares = rank_squares(own, other)
        moved += size * float((np.maximum(half, 0) * (2 * np.sqrt(own * squares) + own * half))[own > 0].sum())
    return moved / (n * m * (n + m))


def _energy_bound(left: Counts, right: Counts, width: Floats) -> float:
    """A side's distribution function is known but inside buckets, there to within their share."""
    sides = (np.sqrt(((side / side.sum()) ** 2 * width).sum()) for side in (left, right))
    return float(np.sqrt(2) * sum(sides))
