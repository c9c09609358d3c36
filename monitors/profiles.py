"""What is usual in a few hours, by the hour of the day: how a feed at fault is told from a quiet night or a storm."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import Floats, Ints, bucket_values
from monitors.sketches import Sketches
from monitors.statistics import quantiles

__all__ = ["WINDOW_HOURS", "Activity", "Profile", "ProfileSettings", "build_profile", "count_outside", "rows_where"]

HOUR_MS: Final = 3_600_000
WINDOW_HOURS: Final = 3
"""Of a data window: long enough for rows to judge by, short enough for a fault to fill it soon."""


@dataclass(frozen=True)
class Activity:
    """When the world itself is at a standstill.

    Attributes
    ----------
    share : float, hours : int
        Labels come at less than this part of the usual rate, over so many hours or in the newest of them.
    labels_min : float
        Fewest labels expected in the newest hour for it to count by itself.
    """

    share: float = 0.6
    hours: int = 6
    labels_min: float = 10.0

    def stands_still(self, labels: Mapping[int, int], hour_ms: int, usual: Floats) -> bool:
        """Whether silence elsewhere is the world's, not a feed's.

        Parameters
        ----------
        labels : mapping of int to int
            Labels that arrived in each hour, by its start.
        hour_ms : int
            Start of the newest hour.
        usual : ndarray, shape (24,)
            Labels expected in each hour of the day.
        """
        hours = [hour_ms - i * HOUR_MS for i in range(self.hours)]
        expected = [float(usual[hour // HOUR_MS % 24]) for hour in hours]
        found = [labels.get(hour, 0) for hour in hours]
        newest = expected[0] >= self.labels_min and found[0] < self.share * expected[0]
        return newest or sum(found) < self.share * sum(expected)


@dataclass(frozen=True)
class ProfileSettings:
    """How a profile is made.

    Attributes
    ----------
    range_quantile, range_factor : float
        Range of a column: its median and `range_factor` times as far as the quantiles at `range_quantile` from either
        end. How many rows are usually beyond it is counted by the hour, since before dawn a single straggler is all
        that an airport's 3-hour mean knows. 60 times minutes sent as seconds, planted into a year of flights, were
        judged by references of two months before every month: within three hours 67% were found, 57% at 4 times the
        quantiles; either way 94% within six, and none in the year as it was. At 2.5 times five hours of it were.
    activity : Activity
        Hours in which the world stood still do not count for what null rates are usual: with a blizzard in the
        reference every hour has once been silent.
    rows_min : int
        Fewest rows from which a window counts by itself: at night there are ten in three hours.
    """

    range_quantile: float = 0.005
    range_factor: float = 3.0
    activity: Activity = field(default_factory=Activity)
    rows_min: int = 40


@dataclass(frozen=True)
class Profile:
    """What is usual at each hour of the day (UTC), one hour either side included, since clocks change.

    Attributes
    ----------
    rows_low : ndarray, shape (24,)
        Fewest rows seen in the hours of a data window that ends with this one.
    labels : ndarray, shape (24,)
        Mean number of labels that arrive in the hour.
    null_high : ndarray, shape (24, C)
        Largest null rate of such a window while labels arrived; 1 where the reference had too few rows to tell.
    outside_high : ndarray, shape (24, C)
        Largest share of its rows that were out of range; 0 where it had too few to tell.
    range_low, range_high : ndarray, shape (C,)
        Values outside are out of range; infinite for columns that have none.
    """

    rows_low: Floats
    labels: Floats
    null_high: Floats
    outside_high: Floats
    range_low: Floats
    range_high: Floats


def build_profile(
    features: Sketches, losses: Sketches, with_ranges: Collection[str], settings: ProfileSettings | None = None
) -> Profile:
    """The profile of a training span.

    Parameters
    ----------
    features : Sketches
        Tiles of an hour of request time.
    losses : Sketches
        Tiles of an hour by the arrival of the label.
    with_ranges : collection of str
        Columns of numbers or scores that have a range.
    settings : ProfileSettings, optional
    """
    settings = settings or ProfileSettings()
    start, end = int(features.tiles[0]), int(features.tiles[-1]) + HOUR_MS
    hours = (end - start) // HOUR_MS
    low, high = _ranges(features, with_ranges, settings)
    rows, nulls, outside = (
        _rolling_sum(_every_hour(counts, (features.tiles - start) // HOUR_MS, hours))
        for counts in (features.rows, features.nulls, count_outside(features, low, high))
    )
    hour = ((start // HOUR_MS) + np.arange(hours))[WINDOW_HOURS - 1 :] % 24
    rows_low = np.full(24, np.inf)
    np.minimum.at(rows_low, hour, rows)
    labels = np.bincount(losses.tiles // HOUR_MS % 24, weights=losses.rows, minlength=24)
    label_days = max((int(losses.tiles[-1]) - int(losses.tiles[0])) / (24 * HOUR_MS), 1.0)
    usual = _neighbours(labels / label_days, np.mean)
    arrived = dict(zip(losses.tiles.tolist(), losses.rows.tolist(), strict=True))
    ends = [start + (i + WINDOW_HOURS - 1) * HOUR_MS for i in range(len(hour))]
    alive = np.array([not settings.activity.stands_still(arrived, end, usual) for end in ends])
    return Profile(
        rows_low=_neighbours(np.where(np.isinf(rows_low), 0.0, rows_low), np.min),
        labels=usual,
        null_high=_highest(hour[alive], rows[alive], nulls[alive], 1.0, settings),
        outside_high=_highest(hour, rows, outside, 0.0, settings),
        range_low=low,
        range_high=high,
    )


def count_outside(hours: Sketches, low: Floats, high: Floats) -> Ints:
    """Rows of each tile that are out of their column's range, shape (T, C); none of categories.

    Parameters
    ----------
    hours : Sketches
    low, high : ndarray, shape (C,)
        See :class:`Profile`.
    """
    width = len(hours.names)
    column = hours.cells % width
    kinds = np.array([("numeric", "score", "categorical").index(kind) for kind in hours.kinds])[column]
    values = np.where(kinds == 1, bucket_values(hours.codes, "score"), bucket_values(hours.codes, "numeric"))
    outside = (kinds < 2) & ((values < low[column]) | (values > high[column]))
    return rows_where(hours, outside)


def rows_where(hours: Sketches, hit: npt.NDArray[np.bool_]) -> Ints:
    """Rows of each tile and column in the buckets that are hit, shape (T, C)."""
    counted = np.bincount(hours.cells[hit], hours.counts[hit], hours.nulls.size)
    return counted.astype(np.int64).reshape(hours.nulls.shape)


def _every_hour(counts: Ints, at: Ints, hours: int) -> Ints:
    every = np.zeros((hours, *counts.shape[1:]), np.int64)
    every[at] = counts
    return every


def _highest(hour: Ints, rows: Ints, counts: Ints, unknown: float, settings: ProfileSettings) -> Floats:
    """Largest share of a window by hour of the day, shape (24, C); of all days together where rows are few."""
    enough = rows >= settings.rows_min
    high = np.zeros((24, counts.shape[1]))
    np.maximum.at(high, hour[enough], counts[enough] / rows[enough, None])
    rows_pooled, counts_pooled = np.zeros(24), np.zeros(high.shape)
    np.add.at(rows_pooled, hour, rows)
    np.add.at(counts_pooled, hour, counts)
    pooled = np.where(
        rows_pooled[:, None] >= settings.rows_min, counts_pooled / np.maximum(rows_pooled, 1)[:, None], unknown
    )
    return _neighbours(np.maximum(high, pooled), np.max)


def _rolling_sum(values: Ints) -> Ints:
    """Sums of the hours of each window, shape (n - WINDOW_HOURS + 1, ...)."""
    total = np.cumsum(values, axis=0)
    total[WINDOW_HOURS:] = total[WINDOW_HOURS:] - total[:-WINDOW_HOURS]
    return total[WINDOW_HOURS - 1 :]


def _neighbours(hourly: Floats, reduce: Any) -> Floats:
    """Each hour of the day with the one before and the one after: in spring and autumn the clocks change."""
    value: Floats = reduce(np.stack([np.roll(hourly, shift, axis=0) for shift in (-1, 0, 1)]), axis=0)
    return value


def _ranges(features: Sketches, with_ranges: Collection[str], settings: ProfileSettings) -> tuple[Floats, Floats]:
    low, high = np.full(len(features.names), -np.inf), np.full(len(features.names), np.inf)
    whole = features.collapse()
    q, factor = settings.range_quantile, settings.range_factor
    for c, name in enumerate(features.names):
        column = whole.column(name)
        if name not in with_ranges or column.count == 0:
            continue
        bottom, middle, top = quantiles(column, [q, 0.5, 1 - q])
        least = 0.05 * abs(middle) + 1e-9  # a constant has no spread of its own
        low[c] = middle - factor * max(middle - bottom, least)
        high[c] = middle + factor * max(top - middle, least)
    return low, high
