"""The four monitors, each a judgement of one window against a reference. No state, no time of their own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import Floats, Ints, bucket_values
from monitors.incidents import Evidence, Finding, Severity
from monitors.reference import ColumnSpec, Null, Reference
from monitors.sketches import ColumnSketch, Sketches
from monitors.statistics import distance, null_rate

__all__ = ["DataSettings", "Result", "Window", "data_window", "feature_window", "performance_window", "stands_still"]

HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class Result:
    """One statistic of one column; see the schema of ``drift.windows``."""

    column: str
    segment: str
    statistic: str
    value: float
    threshold: float
    p_value: float | None
    count: int
    fired: bool


@dataclass(frozen=True)
class Window:
    """One record of ``drift.windows``. Times are UTC epoch milliseconds."""

    model: str
    model_version: str
    monitor: str
    window_start: int
    window_end: int
    results: tuple[Result, ...]

    def record(self) -> dict[str, Any]:
        """As the schema of ``drift.windows`` has it."""
        return {**asdict(self), "results": [asdict(each) for each in self.results]}


@dataclass(frozen=True)
class DataSettings:
    """When a feed is at fault. Shares are of the rows of a data window.

    Attributes
    ----------
    rows_min : int
        Fewest rows to judge by. At night 13 come in three hours; the last window of an evening has about 50.
    likely, sure : float
        Two columns of a feed beyond `likely`, or one beyond `sure`, convict it. One alone is not enough: before dawn a
        single straggler of last night is all that an airport's 3-hour mean knows, up to 58% of a window's rows. Shares
        are of rows, not of values: where most are null the few left are such stragglers.
    volume : float
        Fewer requests than this part of the fewest ever seen at the hour are an outage.
    activity : float, activity_hours : int
        Features that fall silent are the feed's fault only while labels still arrive at this part of the usual rate,
        over so many hours and in the newest of them. In the blizzard of 8 February 2013 departures and arrivals ended
        together.
    labels_min : float
        Fewest labels expected in the newest hour for it to count by itself.
    companion : float
        Least KS or total variation at which another column of a convicted feed is named as well.
    columns_reported : int
        Columns of a window's results that did not fire: those nearest to it.
    """

    rows_min: int = 40
    likely: float = 0.3
    sure: float = 0.7
    volume: float = 0.5
    activity: float = 0.6
    activity_hours: int = 6
    labels_min: float = 10.0
    companion: float = 0.25
    columns_reported: int = 3


@dataclass(frozen=True)
class _Shares:
    """Per column: share of rows or values at fault, and what the reference has at the hour."""

    statistic: str
    value: Floats
    usual: Floats

    @property
    def excess(self) -> Floats:
        return self.value - self.usual


def stands_still(labels: Mapping[int, int], hour_ms: int, reference: Reference, settings: DataSettings) -> bool:
    """Whether labels come so much slower than usual that silence elsewhere is the world's, not a feed's.

    Parameters
    ----------
    labels : mapping of int to int
        Labels that arrived in each hour, by its start.
    hour_ms : int
        Start of the newest hour.
    reference : Reference
    settings : DataSettings
    """
    hours = [hour_ms - i * HOUR_MS for i in range(settings.activity_hours)]
    usual = [float(reference.profile.labels[hour // HOUR_MS % 24]) for hour in hours]
    found = [labels.get(hour, 0) for hour in hours]
    newest = usual[0] >= settings.labels_min and found[0] < settings.activity * usual[0]
    return newest or sum(found) < settings.activity * sum(usual)


def data_window(
    window: Sketches | None, end_ms: int, still: bool, reference: Reference, settings: DataSettings
) -> tuple[tuple[Result, ...], dict[str, Finding]]:
    """Judge the newest few hours: one finding for each feed, and one (of segment "") for the number of requests.

    Parameters
    ----------
    window : Sketches or None
        Its tiles; None for no rows.
    end_ms : int
        End of the window, the end of an hour.
    still : bool
        See :func:`stands_still`.
    reference : Reference
    settings : DataSettings
    """
    hour = (end_ms // HOUR_MS - 1) % 24
    rows = 0 if window is None else int(window.rows.sum())
    volume, results = _volume(rows, float(reference.profile.rows_low[hour]), still, settings)
    findings = {"": volume}
    sources = sorted({spec.source for spec in reference.columns.values() if spec.role == "monitored"})
    if window is None or rows < settings.rows_min:
        return results, findings | {source: Finding(None) for source in sources}
    shares = _shares(window, rows, hour, reference)
    for source in sources:
        columns = [c for c, name in enumerate(window.names) if _watched(reference.columns[name], source)]
        found, fired = _feed(source, columns, shares, still, window, reference, settings)
        findings[source] = fired
        results += found
    quiet = sorted((each for each in results if not each.fired), key=lambda r: r.threshold - r.value)
    loud = [each for each in results if each.fired]
    return (*loud, *quiet[: settings.columns_reported]), findings


def _watched(spec: ColumnSpec, source: str) -> bool:
    return spec.role == "monitored" and spec.source == source


def _volume(rows: int, usual: float, still: bool, settings: DataSettings) -> tuple[Finding, tuple[Result, ...]]:
    least = settings.volume * usual
    if usual < settings.rows_min:
        return Finding(None), ()
    fired = rows < least
    result = Result("", "", "rows", float(rows), least, None, rows, fired)
    evidence = (Evidence("", "rows", float(rows), least, 1.0),)
    summary = f"Only {rows} requests where the quietest day had {usual:.0f}: the feed of requests is at fault."
    return Finding(fired, "critical", "data", summary, evidence) if fired else Finding(False), (result,)


def _shares(window: Sketches, rows: int, hour: int, reference: Reference) -> list[_Shares]:
    width, profile = len(window.names), reference.profile
    nulls = window.nulls.sum(axis=0)
    column, codes = window.cells % width, window.codes
    kinds = np.array([("numeric", "score", "categorical").index(kind) for kind in window.kinds])[column]
    values = np.where(kinds == 1, bucket_values(codes, "score"), bucket_values(codes, "numeric"))
    outside = (kinds < 2) & ((values < profile.range_low[column]) | (values > profile.range_high[column]))
    unseen = _unseen(window, column, codes, kinds == 2, reference)
    zero = np.zeros(width)
    return [
        _Shares("null_rate", nulls / rows, profile.null_high[hour]),
        _Shares("outside_range", np.bincount(column, window.counts * outside, width) / rows, zero),
        _Shares("unseen", np.bincount(column, window.counts * unseen, width) / rows, zero),
    ]


def _unseen(
    window: Sketches, column: Ints, codes: Ints, text: npt.NDArray[np.bool_], reference: Reference
) -> npt.NDArray[np.bool_]:
    """Buckets of categories that their own column of the reference does not have."""
    merged = reference.merged
    position = {name: i for i, name in enumerate(merged.vocabulary)}
    code = np.array([position.get(name, -1) for name in window.vocabulary] or [-1])
    size = len(merged.vocabulary) + 1
    known = np.isin(
        column * size + code[np.where(text, codes, 0)], merged.cells % len(merged.names) * size + merged.codes
    )
    return text & ~known


def _feed(
    source: str,
    columns: Sequence[int],
    shares: Sequence[_Shares],
    still: bool,
    window: Sketches,
    reference: Reference,
    settings: DataSettings,
) -> tuple[tuple[Result, ...], Finding]:
    """Whether one feed is at fault, and what says so."""
    rows = int(window.rows.sum())
    suspects = [
        (window.names[c], each.statistic, float(each.value[c]), float(each.usual[c]))
        for each in shares
        for c in columns
        if each.excess[c] > settings.likely and not (still and each.statistic == "null_rate")
    ]
    certain = any(value - usual > settings.sure for _, _, value, usual in suspects)
    fired = certain or len({name for name, *_ in suspects}) > 1
    named = {(name, statistic) for name, statistic, *_ in suspects} if fired else set()
    results = []
    for each in shares:
        for c in columns:
            threshold = min(float(each.usual[c]) + settings.likely, 1.0)
            hit = (window.names[c], each.statistic) in named
            if hit or each.value[c] > 0:
                value = float(each.value[c])
                results.append(Result(window.names[c], source, each.statistic, value, threshold, None, rows, hit))
    if not fired:
        return tuple(results), Finding(False)
    evidence = [(name, statistic, value, usual + settings.likely) for name, statistic, value, usual in suspects]
    evidence += _companions(columns, {name for name, *_ in suspects}, window, reference, settings)
    return tuple(results), Finding(
        True, "critical", "data", _sentence(source, suspects, window, reference), _weigh(evidence)
    )


def _companions(
    columns: Sequence[int], named: set[str], window: Sketches, reference: Reference, settings: DataSettings
) -> list[tuple[str, str, float, float]]:
    """Other columns of a convicted feed that are far from the reference, though each of their values is possible."""
    found = []
    for name in sorted({window.names[c] for c in columns} - named):
        statistic = "tv" if reference.columns[name].kind == "categorical" else "ks"
        value = distance(statistic, reference.merged.column(name), window.column(name))
        if value > settings.companion:
            found.append((name, statistic, value, settings.companion))
    return found


def _weigh(evidence: Sequence[tuple[str, str, float, float]]) -> tuple[Evidence, ...]:
    """Evidence, gravest first; shares in proportion to how far each is beyond its threshold."""
    weights = [value / max(threshold, 1e-9) for _, _, value, threshold in evidence]
    total = sum(weights) or 1.0
    weighed = [Evidence(*each, share=weight / total) for each, weight in zip(evidence, weights, strict=True)]
    return tuple(sorted(weighed, key=lambda each: (-each.share, each.column)))


def _sentence(
    source: str, suspects: Sequence[tuple[str, str, float, float]], window: Sketches, reference: Reference
) -> str:
    names = ", ".join(dict.fromkeys(name for name, *_ in suspects))
    kinds = {statistic for _, statistic, *_ in suspects}
    feed = source or "a feed"
    if kinds == {"null_rate"}:
        return f"{feed} has fallen silent while labels still arrive: no values in {names}."
    if kinds == {"unseen"}:
        return f"{feed} sends categories never seen before in {names}."
    scale = [_scale(reference.merged.column(name), window.column(name)) for name, kind, *_ in suspects
             if kind == "outside_range"]  # fmt: skip
    factor = float(np.median([each for each in scale if each > 0] or [0.0]))
    unit = f"; they are about {factor:.0f} times as large as usual, as of another unit" if factor > 5 else ""
    return f"{feed} sends values beyond any plausible range in {names}{unit}."


def _scale(reference: ColumnSketch, current: ColumnSketch) -> float:
    """How many times as large values are: the ratio of median magnitudes."""

    def median_magnitude(sketch: ColumnSketch) -> float:
        order = np.argsort(np.abs(sketch.values), kind="stable")
        cumulative = np.cumsum(sketch.counts[order])
        if len(cumulative) == 0:
            return 0.0
        return float(np.abs(sketch.values[order][np.searchsorted(cumulative, cumulative[-1] / 2)]))

    usual = median_magnitude(reference)
    return median_magnitude(current) / usual if usual > 0 else 0.0


def feature_window(window: Sketches, reference: Reference, rows_min: int) -> tuple[tuple[Result, ...], Finding]:
    """Judge some days of traffic: every column by every distance that the reference has thresholds for."""
    whole, results = window.collapse(), []
    rows = int(whole.rows.sum())
    for name in whole.names:
        usual, found = reference.merged.column(name), whole.column(name)
        for null in reference.nulls[name]:
            if null.statistic == "null_rate":
                value, count = abs(null_rate(found) - null_rate(usual)), rows
            else:
                value, count = distance(null.statistic, usual, found), found.count
            if math.isnan(value):
                continue
            fired = reference.columns[name].role == "monitored" and rows >= rows_min and null.fired(value)
            results.append(Result(name, "", null.statistic, value, null.high, null.p_value(value), count, fired))
    if rows < rows_min:
        return tuple(results), Finding(None)
    worst = [each for each in results if each.fired]
    if not worst:
        return tuple(results), Finding(False)
    evidence = _weigh([(each.column, each.statistic, each.value, each.threshold) for each in worst])
    names = ", ".join(list(dict.fromkeys(each.column for each in evidence))[:3])
    summary = f"Traffic differs from what version {reference.version} was trained on, most of all in {names}."
    return tuple(results), Finding(True, "warning", "world", summary, evidence)


def performance_window(losses: Sketches, reference: Reference, rows_min: int) -> tuple[tuple[Result, ...], Finding]:
    """Judge the losses of the labels that arrived in some days."""
    rows = int(losses.rows.sum())
    means = {null.statistic: _mean(losses, null.statistic) for null in reference.losses}
    results = tuple(
        Result(null.statistic, "", "mean", means[null.statistic], _limit(null, means[null.statistic]),
               null.p_value(means[null.statistic]), rows, rows >= rows_min and null.fired(means[null.statistic]))
        for null in reference.losses
        if not math.isnan(means[null.statistic])
    )  # fmt: skip
    if rows < rows_min:
        return results, Finding(None)
    worst = [each for each in results if each.fired]
    usual = next(null.center for null in reference.losses if null.statistic == "log_loss")
    harm = max(means["log_loss"] - usual, 0.0)
    if not worst:
        return results, Finding(False)
    evidence = tuple(Evidence(r.column, r.statistic, r.value, r.threshold, 1 / len(worst)) for r in worst)
    told = "; ".join(f"{each.column} {each.value:+.3f} where {each.threshold:+.3f} is the limit" for each in worst)
    severity: Severity = "critical" if len(worst) == len(results) else "warning"
    return results, Finding(True, severity, "world", f"The model no longer fits its labels: {told}.", evidence, harm)


def _mean(losses: Sketches, name: str) -> float:
    column = losses.column(name)
    return column.total / column.count if column.count else float("nan")


def _limit(null: Null, value: float) -> float:
    return null.high if value >= null.center or null.low == -math.inf else null.low
