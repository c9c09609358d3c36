"""Thresholds from the reference's own past: what a statistic does while nothing is wrong.

A fixed threshold (PSI > 0.2) sleeps on small windows and cries wolf on big ones, and says nothing of a column whose
ordinary weeks differ. Here windows of whole days are drawn from the training span, in blocks of consecutive days so
that autocorrelation and the round of the week count, and each is compared with the days it left out (a block
bootstrap: Kuensch 1989). A curve through the statistics found gives any value its chance; how far out an alarm is, the
budget says (:mod:`monitors.budget`). The curve is Student's, since a spread learnt from a month is itself uncertain,
and allows for days that hang together for longer than a block (:mod:`monitors.memory`).

It is honest about seasons only as far as the training span is: a model of January learns what January's weeks do.
Columns that follow the season itself are to be marked context.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from monitors.buckets import Floats, Ints
from monitors.drawing import Calibration, draw_pairs, draw_windows, drawn_too_narrow
from monitors.estimates import build_estimator
from monitors.losses import LOSSES
from monitors.memory import Memory, autocorrelation, remember
from monitors.profiles import build_profile
from monitors.reference import (
    ColumnSpec,
    Null,
    Reference,
    Scale,
    SegmentReference,
    UnusableReferenceError,
    scaled,
)
from monitors.segments import SPAN_MS, Segmentation, only
from monitors.series import HOUR_ROWS_MIN, SCORES, SERIES, hourly, score_column
from monitors.sketches import Sketches
from monitors.statistics import COUNT_DISTANCES, group_by_mass, regroup, tail_limits

__all__ = ["DAY_MS", "HOUR_MS", "SegmentedSpan", "build_reference", "distance_nulls", "pair_nulls"]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
_FOREVER_DAYS: Final = 10**9


@dataclass(frozen=True)
class SegmentedSpan:
    """A training span cut into segments: `features` and `losses` as :func:`monitors.segments.sketch_segments` has them.

    Attributes
    ----------
    segmentation : Segmentation
    features, losses : Sketches
        Tiles of an hour.
    """

    segmentation: Segmentation
    features: Sketches
    losses: Sketches


def build_reference(
    model: str,
    version: str,
    columns: Mapping[str, ColumnSpec],
    features: Sketches,
    losses: Sketches,
    seed: int,
    settings: Calibration | None = None,
    segmented: SegmentedSpan | None = None,
) -> Reference:
    """The reference of a model version.

    Parameters
    ----------
    model, version : str
    columns : mapping of name to ColumnSpec
        The columns of `features`.
    features : Sketches
        What the model was trained on, in tiles of an hour of request time.
    losses : Sketches
        :func:`monitors.losses.sketch_losses` of predictions the model had not been fitted to (folds of whole days),
        in tiles of an hour by the arrival of the label.
    seed : int
    settings : Calibration, optional
    segmented : SegmentedSpan, optional
        The same rows.

    Raises
    ------
    UnusableReferenceError
        Where the span is shorter than two windows, or the columns are not those of `features`.
    """
    settings = settings or Calibration()
    if set(columns) != set(features.names):
        raise UnusableReferenceError(f"expected sketches of {sorted(columns)}, got {list(features.names)}")
    days, loss_days = features.coarsen(DAY_MS), losses.coarsen(DAY_MS)
    if min(len(days.tiles), len(loss_days.tiles)) < 2 * settings.window_days:
        raise UnusableReferenceError(
            f"expected at least {2 * settings.window_days} days to draw windows of {settings.window_days} days from, "
            f"got {len(days.tiles)} with requests and {len(loss_days.tiles)} with labels"
        )
    inside = draw_windows(loss_days.tiles // DAY_MS, settings, np.random.default_rng(seed))
    return Reference(
        model=model,
        version=version,
        columns=dict(columns),
        merged=features.collapse(),
        profile=build_profile(features, losses, _with_ranges(columns)),
        nulls=distance_nulls(columns, days, np.random.default_rng(seed), settings),
        losses=_loss_nulls(loss_days, inside, np.random.default_rng(seed), settings),
        series=_series_nulls(features, losses, seed, settings),
        window_days=settings.window_days,
        estimator=build_estimator(loss_days, inside),
        segmentation=segmented.segmentation if segmented else Segmentation(),
        segments=_segments(columns, segmented, seed, settings) if segmented else {},
    )


def _with_ranges(columns: Mapping[str, ColumnSpec]) -> set[str]:
    return {name for name, spec in columns.items() if spec.kind != "categorical" and spec.role == "monitored"}


def _segments(
    columns: Mapping[str, ColumnSpec], span: SegmentedSpan, seed: int, settings: Calibration
) -> dict[str, SegmentReference]:
    """Each with thresholds of its own, from its own days; not of those that are too seldom there."""
    found, least = {}, 2 * settings.window_days
    settings = settings.of_segments()
    features, losses = span.features.coarsen(DAY_MS), span.losses.coarsen(DAY_MS)
    for number, name in enumerate(span.segmentation.segments):
        days = only(features, number, 0, SPAN_MS)
        loss_days = only(losses, number, 0, SPAN_MS)
        if len(days.tiles) < least:
            continue
        loss_nulls: tuple[Null, ...] = ()
        if len(loss_days.tiles) >= least:
            inside = draw_windows(loss_days.tiles // DAY_MS, settings, np.random.default_rng(seed))
            loss_nulls = _loss_nulls(loss_days, inside, np.random.default_rng(seed), settings)
        nulls = distance_nulls(columns, days, np.random.default_rng(seed), settings)
        found[name] = SegmentReference(days.collapse(), nulls, loss_nulls)
    return found


def day_matrix(days: Sketches, name: str) -> tuple[Ints, Ints]:
    """Codes of one column's buckets, ascending, and their counts, shape (days, buckets)."""
    c = days.names.index(name)
    tile, column = np.divmod(days.cells, len(days.names))
    mine = column == c
    codes, inverse = np.unique(days.codes[mine], return_inverse=True)
    matrix = np.zeros((len(days.tiles), max(len(codes), 1)), dtype=np.int64)
    np.add.at(matrix, (tile[mine], inverse), days.counts[mine])
    return codes, matrix


def distance_nulls(
    columns: Mapping[str, ColumnSpec], days: Sketches, random: np.random.Generator, settings: Calibration
) -> dict[str, tuple[Null, ...]]:
    """What each statistic of each column does while nothing is wrong, drawn from days.

    Parameters
    ----------
    columns : mapping of name to ColumnSpec
    days : Sketches
        Tiles of a day; twice the days of a window at least.
    random : numpy Generator
    settings : Calibration
    """
    inside = draw_windows(days.tiles // DAY_MS, settings, random)
    drawn, shares = _drawn_distances(columns, days, (inside == 0).astype(np.int64), inside, tails=True)
    memory = _memory(days, shares, random, settings)
    return _fitted(drawn, memory, len(days.tiles), settings)


def pair_nulls(
    columns: Mapping[str, ColumnSpec], days: Sketches, random: np.random.Generator, settings: Calibration
) -> dict[str, tuple[Null, ...]]:
    """What the distances of two windows, one as short as the other, are while nothing is wrong, drawn from days.

    Where the block of one window comes from another week than that of the other, their difference varies as that of
    two windows of other days does: nothing is too narrow for weekdays that are known from few weeks, but fewer
    independent days are known. Of tails there are no nulls: how far they reach one window does not know.

    Parameters
    ----------
    columns : mapping of name to ColumnSpec
    days : Sketches
        Tiles of a day, over three times the days of a window at least.
    random : numpy Generator
    settings : Calibration
    """
    at = days.tiles // DAY_MS
    pair = draw_pairs(at, settings, random)
    drawn, shares = _drawn_distances(columns, days, *pair, tails=False)
    lagged = autocorrelation(at, shares, settings.window_days - 1, random)
    # Neither side is a long mean, whose own error `remember` allows for.
    excess = remember(lagged, _FOREVER_DAYS, settings.window_days, settings.block_days).excess
    known = remember(lagged, len(at), settings.window_days, settings.block_days).days / drawn_too_narrow(len(at))
    return _fitted(drawn, Memory(excess, known), len(at), settings)


def _drawn_distances(
    columns: Mapping[str, ColumnSpec], days: Sketches, outside: Ints, inside: Ints, tails: bool
) -> tuple[dict[str, dict[str, Floats]], list[Floats]]:
    """Each distance of each column in every replicate, and what the days of monitored columns are like.

    `outside` and `inside` say how often each day is on either side, shape (replicates, days).
    """
    drawn: dict[str, dict[str, Floats]] = {}
    shares = []
    for c, name in enumerate(days.names):
        codes, matrix = day_matrix(days, name)
        text = columns[name].kind == "categorical"
        group = np.arange(matrix.shape[1]) if text else group_by_mass(matrix.sum(axis=0))
        grouped, shape = regroup(matrix, group), "tv" if text else "ks"
        rates = [_null_rate(weights, days, c) for weights in (outside, inside)]
        drawn[name] = {
            "psi": COUNT_DISTANCES["psi"](outside @ grouped, inside @ grouped),
            shape: COUNT_DISTANCES[shape](outside @ matrix, inside @ matrix),
            "null_rate": np.abs(rates[0] - rates[1]),
        }
        if tails and not text and len(codes):
            drawn[name]["tail"] = _tail_share(codes, matrix, inside)
        if columns[name].role == "monitored":
            shares.append(_day_shares(grouped))
    return drawn, shares


def _fitted(
    drawn: Mapping[str, Mapping[str, Floats]], memory: Memory, days: int, settings: Calibration
) -> dict[str, tuple[Null, ...]]:
    return {
        name: tuple(
            _tail_null(values, memory, days, settings)
            if each == "tail"
            else _distance_null(each, values, memory, settings.distance_floor)
            for each, values in found.items()
        )
        for name, found in drawn.items()
    }


def _day_shares(grouped: Ints) -> Floats:
    """What part of a day is in each group, in units of what chance would move it; shape of `grouped`."""
    usual = grouped.sum(axis=0) / max(grouped.sum(), 1)
    each = grouped / np.maximum(grouped.sum(axis=1, keepdims=True), 1)
    shares: Floats = (each - usual) / np.sqrt(np.where(usual > 0, usual, 1.0))
    return shares


def _memory(days: Sketches, like: Sequence[Floats], random: np.random.Generator, settings: Calibration) -> Memory:
    at = days.tiles // DAY_MS
    lagged = autocorrelation(at, like, settings.window_days - 1, random)
    found = remember(lagged, len(at), settings.window_days, settings.block_days)
    if not settings.weekdays:
        return found
    wider = drawn_too_narrow(len(days.tiles))
    return Memory(found.excess * wider, found.days / wider)


def _tail_share(codes: Ints, matrix: Ints, inside: Ints) -> Floats:
    low, high = tail_limits(codes, matrix.sum(axis=0))
    far = matrix[:, (codes < low) | (codes > high)].sum(axis=1)
    share: Floats = (inside @ far) / np.maximum(inside @ matrix.sum(axis=1), 1)
    return share


def _null_rate(weights: Ints, days: Sketches, c: int) -> Floats:
    rate: Floats = (weights @ days.nulls[:, c]) / np.maximum(weights @ days.rows, 1)
    return rate


def _distance_null(statistic: str, values: Floats, memory: Memory, floor: float) -> Null:
    """Through bootstrapped distances; an alarm takes more than the reference itself has met."""
    values = values[np.isfinite(values)]
    scale: Scale = "log" if statistic == "psi" else "odds"
    at = scaled(values, scale)
    center, spread = (float(at.mean()), float(max(at.std(), 1e-3))) if len(at) else (0.0, 1.0)
    # PSI goes with the variance of what it compares, the other distances with its root.
    center += math.log(memory.excess) * (1.0 if statistic == "psi" else 0.5)
    least = max(floor, float(values.max(initial=0.0)))
    return Null(statistic, center, _uncertain(spread, memory), _degrees(memory), least, sides=1, scale=scale)


def _tail_null(values: Floats, memory: Memory, days: int, settings: Calibration) -> Null:
    at = scaled(values, "odds")
    spread = float(max(at.std(), 1e-3)) * _off(memory, days, settings)
    least = max(settings.tail_floor, float(values.max(initial=0.0)))
    return Null("tail", float(at.mean()), spread, _degrees(memory), least, sides=1, scale="odds")


def _off(memory: Memory, days: int, settings: Calibration) -> float:
    """How much further one window is from a center that is itself the mean of so many days."""
    return math.sqrt(memory.excess * (1 + settings.window_days / days))


def _loss_nulls(days: Sketches, inside: Ints, random: np.random.Generator, settings: Calibration) -> tuple[Null, ...]:
    daily = {name: np.nan_to_num(days.means[:, days.names.index(name)]) for name in LOSSES}
    memory = _memory(days, [mean[:, None] for mean in daily.values()], random, settings)
    if not settings.weekdays:
        memory = replace(memory, excess=memory.excess * drawn_too_narrow(len(days.tiles)))
    nulls = []
    for name, mean in daily.items():
        count = days.non_null[:, days.names.index(name)].astype(np.float64)
        means = (inside @ (mean * count)) / np.maximum(inside @ count, 1)
        spread = float(max(means.std(), 1e-6)) * _off(memory, len(days.tiles), settings)
        sides = 1 if name == "log_loss" else 2  # fewer hard days than usual are no fault of the model
        nulls.append(Null(name, float(means.mean()), spread, _degrees(memory), -np.inf, sides, "plain"))
    return tuple(nulls)


def _series_nulls(features: Sketches, losses: Sketches, seed: int, settings: Calibration) -> dict[str, Null]:
    """What one day of each series is like.

    Its spread is that of days, or of weeks where they differ by more than days that know nothing of each other would:
    the one has the round of the week in it, the other what days have from the ones before.
    """
    nulls = {}
    of_labels = [name for name in SERIES if name != SCORES]
    for names, hours in ((of_labels, losses), ([SCORES] if score_column(features) else [], features)):
        days, means = _daily(names, hours)
        if len(days) < 2 * settings.window_days:
            continue
        random = np.random.default_rng(seed)
        lagged = autocorrelation(days, list(means.T[:, :, None]), settings.window_days - 1, random)
        memory = remember(lagged, len(days), settings.window_days, settings.block_days)
        inside = draw_windows(days, settings, random)
        weeks = (inside @ means) / np.maximum(inside.sum(axis=1), 1)[:, None]
        of_week = weeks.std(axis=0) * math.sqrt(settings.window_days * memory.excess * drawn_too_narrow(len(days)))
        spreads = np.maximum(np.maximum(means.std(axis=0, ddof=1), of_week), 1e-6)
        for name, center, spread in zip(names, means.mean(axis=0).tolist(), spreads.tolist(), strict=True):
            nulls[name] = Null(name, center, spread, _degrees(memory), -np.inf, SERIES[name].sides, "plain")
    return nulls


def _daily(names: Sequence[str], hours: Sketches) -> tuple[Ints, Floats]:
    """Days, and of each series the mean of a day's hours that have enough rows, shape (days, series)."""
    values = np.stack([hourly(name, hours) for name in names], axis=1) if names else np.zeros((len(hours.tiles), 0))
    heard = (hours.rows >= HOUR_ROWS_MIN) & np.isfinite(values).all(axis=1)
    days, at, counts = np.unique(hours.tiles[heard] // DAY_MS, return_inverse=True, return_counts=True)
    means = np.zeros((len(days), len(names)))
    np.add.at(means, at, values[heard])
    return days, means / counts[:, None]


def _degrees(memory: Memory) -> float:
    return max(memory.days - 1, 1.0)


def _uncertain(spread: float, memory: Memory) -> float:
    """With what is not known of the center, as for any prediction of one more value."""
    return spread * math.sqrt(1 + 1 / memory.days)
