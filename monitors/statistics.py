"""Distances between two distributions, of counts over the same buckets or of two column sketches.

The functions on counts take arrays of shape (..., B) and work along the last axis, so that thousands of resampled
windows are compared at once. Zero rows of counts give NaN. ``distance`` and the functions below it take two
:class:`~monitors.sketches.ColumnSketch`.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import RELATIVE_ERROR, Floats
from monitors.sketches import ColumnSketch

__all__ = [
    "COUNT_DISTANCES",
    "PSI_GROUPS",
    "align",
    "chi_square",
    "cramer_von_mises",
    "distance",
    "energy",
    "group_by_mass",
    "hellinger",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "kullback_leibler",
    "l_infinity",
    "null_rate",
    "outside_share",
    "psi",
    "quantiles",
    "rank_squares",
    "regroup",
    "tail_limits",
    "tail_share",
    "total_variation",
    "unseen_share",
    "wasserstein",
    "wasserstein_bound",
]

PSI_GROUPS: Final = 16
TAIL: Final = 0.005
"""Share of the reference that is taken for either of its tails."""
Counts = npt.NDArray[Any]


def _shares(counts: Counts, smoothing: float = 0.0) -> Floats:
    filled = np.asarray(counts, dtype=np.float64) + smoothing
    total = filled.sum(axis=-1, keepdims=True)
    return np.divide(filled, total, out=np.full(filled.shape, np.nan), where=total > 0)


def psi(reference: Counts, current: Counts) -> Floats:
    """Population stability index, sum of (q - p) ln(q / p) (the symmetric Kullback-Leibler divergence; Lewis 1994).

    Half a value is added to every bucket (Krichevsky and Trofimov), so that an empty one gives a large number, not an
    infinite one. Exact for the groups it is given; NaN where a side is empty.
    """
    p, q = _shares(reference, 0.5), _shares(current, 0.5)
    empty = (np.sum(reference, axis=-1) == 0) | (np.sum(current, axis=-1) == 0)
    value: Floats = np.where(empty, np.nan, ((q - p) * np.log(q / p)).sum(axis=-1))
    return value


def jensen_shannon(reference: Counts, current: Counts) -> Floats:
    """Jensen-Shannon distance, square root of the divergence in bits: 0 to 1 (Endres and Schindelin 2003).

    Of bucketed values never more than of the values themselves (data processing inequality).
    """
    p, q = _shares(reference), _shares(current)
    middle = (p + q) / 2

    def relative_entropy(a: Floats) -> Floats:
        ratio = np.divide(a, middle, out=np.ones_like(a), where=a > 0)
        total: Floats = np.where(np.isnan(a), np.nan, a * np.log2(ratio)).sum(axis=-1)
        return total

    value: Floats = np.sqrt(np.maximum((relative_entropy(p) + relative_entropy(q)) / 2, 0.0))
    return value


def total_variation(reference: Counts, current: Counts) -> Floats:
    """Half the sum of absolute differences: the share of traffic that would have to move. 0 to 1."""
    value: Floats = np.abs(_shares(reference) - _shares(current)).sum(axis=-1) / 2
    return value


def kullback_leibler(reference: Counts, current: Counts) -> Floats:
    """Relative entropy of current to reference in nats (Kullback and Leibler 1951), smoothed as in :func:`psi`."""
    p, q = _shares(reference, 0.5), _shares(current, 0.5)
    empty = (np.sum(reference, axis=-1) == 0) | (np.sum(current, axis=-1) == 0)
    value: Floats = np.where(empty, np.nan, np.maximum((q * np.log(q / p)).sum(axis=-1), 0.0))
    return value


def hellinger(reference: Counts, current: Counts) -> Floats:
    """Hellinger distance, 0 to 1: square root of one less the Bhattacharyya coefficient."""
    coefficient = np.sqrt(_shares(reference) * _shares(current)).sum(axis=-1)
    value: Floats = np.sqrt(np.maximum(1 - coefficient, 0.0))
    return value


def l_infinity(reference: Counts, current: Counts) -> Floats:
    """Largest difference of the share of any one bucket. 0 to 1."""
    value: Floats = np.abs(_shares(reference) - _shares(current)).max(axis=-1, initial=0.0)
    return value


def chi_square(reference: Counts, current: Counts) -> Floats:
    """Pearson's statistic of the table of two rows, without a correction; buckets that both leave empty do not count.

    It has one degree of freedom fewer than there are buckets, and grows with the number of rows.
    """
    table = np.stack(np.broadcast_arrays(np.asarray(reference, float), np.asarray(current, float)), axis=-2)
    column, row = table.sum(axis=-2, keepdims=True), table.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = column * row / table.sum(axis=(-2, -1), keepdims=True)
        terms = np.where(expected > 0, (table - expected) ** 2 / expected, 0.0)
    empty = (row == 0).any(axis=(-2, -1))
    value: Floats = np.where(empty, np.nan, terms.sum(axis=(-2, -1)))
    return value


def kolmogorov_smirnov(reference: Counts, current: Counts) -> Floats:
    """Largest difference of the two distribution functions, buckets in ascending order.

    Exact at the edges of buckets; between them the true statistic can be larger by at most the share of the fullest
    bucket, and by nothing where a bucket holds one value only.
    """
    difference = np.cumsum(_shares(reference), axis=-1) - np.cumsum(_shares(current), axis=-1)
    value: Floats = np.abs(difference).max(axis=-1, initial=0.0)
    return value


def wasserstein(reference: Counts, current: Counts, values: Floats) -> Floats:
    """Wasserstein-1: area between the two distribution functions, in the unit of the column.

    `values`, shape (B,), ascending. See :func:`wasserstein_bound` for the error that buckets cause.
    """
    difference = np.cumsum(_shares(reference), axis=-1) - np.cumsum(_shares(current), axis=-1)
    value: Floats = (np.abs(difference[..., :-1]) * np.diff(values)).sum(axis=-1)
    return value


def cramer_von_mises(left: Counts, right: Counts) -> Floats:
    """The two-sample criterion T of Anderson (1962), values of a bucket taken for ties: by their mean ranks."""
    n, m = left.sum(axis=-1), right.sum(axis=-1)
    total = n + m
    u = n * rank_squares(left, right).sum(axis=-1) + m * rank_squares(right, left).sum(axis=-1)
    value: Floats = u / (n * m * total) - (4 * n * m - 1) / (6 * total)
    return value


def rank_squares(own: Counts, other: Counts) -> Floats:
    """Sum over a bucket's own values of (rank among all - rank among their own) squared, the first a mean rank."""
    count = own.astype(np.float64)
    both = count + other
    # Mean rank of the bucket among all, less how many of the own come before it.
    ahead = np.cumsum(both, axis=-1) - both - (np.cumsum(count, axis=-1) - count) + (both + 1) / 2
    value: Floats = count * ahead**2 - ahead * count * (count + 1) + count * (count + 1) * (2 * count + 1) / 6
    return np.maximum(value, 0.0)


def energy(left: Counts, right: Counts, values: Floats) -> Floats:
    """Energy distance of one dimension, square root of twice the integral of (F - G) squared (Szekely 2002)."""
    p, q = left / left.sum(axis=-1, keepdims=True), right / right.sum(axis=-1, keepdims=True)
    difference = np.cumsum(p, axis=-1) - np.cumsum(q, axis=-1)
    value: Floats = np.sqrt(2 * (difference[..., :-1] ** 2 * np.diff(values)).sum(axis=-1))
    return value


COUNT_DISTANCES: Final[dict[str, Callable[[Counts, Counts], Floats]]] = {
    "psi": psi,
    "ks": kolmogorov_smirnov,
    "tv": total_variation,
    "js": jensen_shannon,
}


def align(reference: ColumnSketch, current: ColumnSketch) -> tuple[npt.NDArray[Any], Counts, Counts]:
    """Values, ascending, of the buckets that either side uses, and the counts of each side, shape (B,).

    Categories not kept by name are one more bucket on both sides, last.
    """
    text = reference.kind == "categorical"
    left, right = (reference.values, current.values) if text else (reference.codes, current.codes)
    keys, first = np.unique(np.concatenate([left, right]), return_index=True)
    counts = []
    for own, sketch in ((left, reference), (right, current)):
        out = np.zeros(len(keys) + text, dtype=np.int64)
        out[np.searchsorted(keys, own)] = sketch.counts
        if text:
            out[-1] = sketch.other
        counts.append(out)
    values = np.append(keys, "") if text else np.concatenate([reference.values, current.values])[first]
    return values, counts[0], counts[1]


def group_by_mass(reference: Counts, groups: int = PSI_GROUPS) -> npt.NDArray[np.int64]:
    """Group of each bucket, shape (B,): at most `groups` runs of buckets of about the same share of the reference."""
    total = reference.sum()
    if total == 0:
        return np.zeros(len(reference), dtype=np.int64)
    before = np.cumsum(reference) - reference
    group: npt.NDArray[np.int64] = np.minimum((before * groups) // total, groups - 1).astype(np.int64)
    return group


def regroup(counts: Counts, group: npt.NDArray[np.int64]) -> Counts:
    """Counts added up by group, shape (..., G)."""
    first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    added: Counts = np.add.reduceat(counts, first, axis=-1)
    return added


def distance(statistic: str, reference: ColumnSketch, current: ColumnSketch) -> float:
    """One of ``psi``, ``ks``, ``tv``, ``js``, ``wasserstein`` of two sketches; NaN where a side has no values.

    PSI of a numeric column is over groups of about equal share of the reference. KS and Wasserstein need an order, so
    they are NaN for a categorical column.
    """
    values, left, right = align(reference, current)
    text = reference.kind == "categorical"
    if len(left) == 0 or left.sum() == 0 or right.sum() == 0 or (text and statistic in ("ks", "wasserstein")):
        return float("nan")
    if statistic == "wasserstein":
        return float(wasserstein(left, right, values.astype(np.float64)))
    if statistic == "psi" and not text:
        group = group_by_mass(left)
        left, right = regroup(left, group), regroup(right, group)
    return float(COUNT_DISTANCES[statistic](left, right))


def wasserstein_bound(reference: ColumnSketch, current: ColumnSketch) -> float:
    """How far :func:`distance` ``wasserstein`` can be from that of the values, each moved within its bucket.

    ``RELATIVE_ERROR * (E|x| + E|y|)`` for numeric columns, by the triangle inequality; 1/128 for scores.
    """
    if reference.kind == "score":
        return 1 / 128
    sides = [np.abs(each.values) @ each.counts / max(each.count, 1) for each in (reference, current)]
    return float(RELATIVE_ERROR * sum(sides) * (1 + RELATIVE_ERROR))


def null_rate(sketch: ColumnSketch) -> float:
    """Share of rows without a value; NaN for no rows. Exact."""
    rows = sketch.count + sketch.nulls
    return sketch.nulls / rows if rows else float("nan")


def quantiles(sketch: ColumnSketch, at: npt.ArrayLike) -> Floats:
    """Values below which these shares lie, each within ``RELATIVE_ERROR`` of the exact one; NaN for no values."""
    if len(sketch.counts) == 0:
        return np.full(np.shape(at), np.nan)
    cumulative = np.cumsum(sketch.counts)
    position = np.searchsorted(cumulative, np.asarray(at) * cumulative[-1], side="left")
    middle = sketch.values[np.minimum(position, len(cumulative) - 1)].astype(np.float64)
    value: Floats = np.clip(middle, sketch.low, sketch.high)
    return value


def outside_share(sketch: ColumnSketch, low: float, high: float) -> float:
    """Share of values outside [low, high]; exact but for values within ``RELATIVE_ERROR`` of a limit."""
    outside = (sketch.values < low) | (sketch.values > high)
    return float(sketch.counts[outside].sum() / sketch.count) if sketch.count else float("nan")


def tail_limits(codes: npt.NDArray[np.int64], counts: Counts) -> tuple[int, int]:
    """Codes of buckets between which all but `TAIL` of either end of a reference lies; ascending codes, not empty."""
    until = np.cumsum(counts)
    low, high = np.searchsorted(until, [TAIL * until[-1], (1 - TAIL) * until[-1]])
    return int(codes[low]), int(codes[high])


def tail_share(reference: ColumnSketch, current: ColumnSketch) -> float:
    """Share of numbers or scores below or above nearly all of the reference's, see :func:`tail_limits`.

    What KS and groups of equal shares do not see: a few values far out. Exact at the edges of buckets; NaN where a side
    has no values.
    """
    if reference.count == 0 or current.count == 0:
        return float("nan")
    low, high = tail_limits(reference.codes, reference.counts)
    outside = (current.codes < low) | (current.codes > high)
    return float(current.counts[outside].sum() / current.count)


def unseen_share(reference: ColumnSketch, current: ColumnSketch) -> float:
    """Share of values of categories that the reference has never seen; exact while both keep all categories."""
    known = np.isin(current.values, reference.values)
    return float(current.counts[~known].sum() / current.count) if current.count else float("nan")
