"""The four monitors, each a judgement of one window against a reference. No state, no time of their own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import Floats, Ints, bucket_values
from monitors.estimates import Estimate, Outcomes, histogram
from monitors.incidents import Evidence, Finding, Severity
from monitors.reference import Activity, Null, Reference
from monitors.sketches import ColumnSketch, Sketches
from monitors.statistics import distance, null_rate

__all__ = [
    "DataSettings",
    "Result",
    "Tally",
    "Window",
    "data_window",
    "estimate_window",
    "feature_window",
    "performance_window",
    "tally",
]

HOUR_MS: Final = 3_600_000
_WHOLE_DAY: Final = 0.25


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
    rows_min, rows_few : int
        Fewest rows to judge by. At night 13 come in three hours; the last window of an evening has about 50. From
        `rows_few` on, two columns beyond `sure` are enough.
    likely, sure : float
        Two columns of a feed beyond `likely`, or one beyond `sure`, convict it. One alone is not enough: before dawn a
        single straggler of last night is all that an airport's 3-hour mean knows, up to 58% of a window's rows. Shares
        are of rows, not of values: where most are null the few left are such stragglers.
    volume : float
        Fewer requests than this part of the fewest ever seen at the hour are an outage.
    activity : Activity
        Features or requests that fall silent are the feed's fault only while labels still arrive. In the blizzard of
        8 February 2013 departures and arrivals ended together. What stops altogether is for the lag and throughput of
        jobs to show.
    companion : float
        Least KS or total variation at which another column of a convicted feed is named as well.
    columns_reported : int
        Columns of a window's results that did not fire: those nearest to it.
    """

    rows_min: int = 40
    rows_few: int = 10
    likely: float = 0.3
    sure: float = 0.7
    volume: float = 0.5
    activity: Activity = field(default_factory=Activity)
    companion: float = 0.25
    columns_reported: int = 3


_STATISTICS: Final = ("null_rate", "outside_range", "unseen")


@dataclass(frozen=True)
class Tally:
    """Per tile, what a data window adds up.

    Attributes
    ----------
    tiles, rows : ndarray of int64, shape (T,)
    faults : ndarray of int64, shape (T, 3, C)
        Rows of each column that are null, outside its range, of a category unheard of.
    """

    tiles: Ints
    rows: Ints
    faults: Ints

    def between(self, start_ms: int, end_ms: int) -> "Tally":
        """Only the tiles that start in [start_ms, end_ms)."""
        first, last = np.searchsorted(self.tiles, [start_ms, end_ms])
        return Tally(self.tiles[first:last], self.rows[first:last], self.faults[first:last])


def tally(hours: Sketches, reference: Reference) -> Tally:
    """Count what is out of order in each tile, in the order of the reference's columns."""
    width, profile = len(hours.names), reference.profile
    column, codes = hours.cells % width, hours.codes
    kinds = np.array([("numeric", "score", "categorical").index(kind) for kind in hours.kinds])[column]
    values = np.where(kinds == 1, bucket_values(codes, "score"), bucket_values(codes, "numeric"))
    outside = (kinds < 2) & ((values < profile.range_low[column]) | (values > profile.range_high[column]))
    unseen = _unseen(hours, column, codes, kinds == 2, reference)
    cells = len(hours.tiles) * width
    counted = [
        np.bincount(hours.cells[hit], hours.counts[hit], cells).astype(np.int64).reshape(-1, width)
        for hit in (outside, unseen)
    ]
    return Tally(hours.tiles, hours.rows, np.stack([hours.nulls, *counted], axis=1))


def data_window(
    window: Tally,
    sketches: Callable[[], Sketches],
    end_ms: int,
    still: bool,
    reference: Reference,
    settings: DataSettings,
) -> tuple[tuple[Result, ...], dict[str, Finding]]:
    """Judge the newest few hours: one finding for each feed, and one (of segment "") for the number of requests.

    Parameters
    ----------
    window : Tally
        Of the tiles of the window.
    sketches : callable
        Their sketches, asked for where a feed is at fault.
    end_ms : int
        End of the window, the end of an hour.
    still : bool
        See :meth:`monitors.reference.Activity.stands_still`.
    reference : Reference
    settings : DataSettings
    """
    hour = (end_ms // HOUR_MS - 1) % 24
    rows = int(window.rows.sum())
    volume, results = _volume(rows, float(reference.profile.rows_low[hour]), still, settings)
    findings = {"": volume}
    if rows < settings.rows_few:
        return results, findings | {source: Finding(None) for source in reference.feeds}
    value = window.faults.sum(axis=0) / rows
    usual = np.zeros_like(value)
    usual[0] = reference.profile.null_high[hour]
    excess = value - usual
    if still:
        excess[0] = 0.0
    for source, columns in reference.feeds.items():
        suspects = (
            [
                (reference.merged.names[c], _STATISTICS[i], float(value[i, c]), float(usual[i, c]) + settings.likely)
                for i in range(len(_STATISTICS))
                for c in columns
                if excess[i, c] > settings.likely
            ]
            if excess[:, columns].max() > settings.likely
            else []
        )
        sure = {name for name, _, share, threshold in suspects if share - threshold > settings.sure - settings.likely}
        several = len({name for name, *_ in suspects}) > 1
        fired = len(sure) > 1 if rows < settings.rows_min else bool(sure) or several
        if fired:
            findings[source] = _convict(source, columns, suspects, sketches(), reference, settings)
            results += tuple(
                Result(name, source, statistic, share, threshold, None, rows, True)
                for name, statistic, share, threshold in suspects
            )
        else:
            findings[source] = Finding(False if rows >= settings.rows_min else None)
    return results + _nearest(value, usual, rows, {each.column for each in results}, reference, settings), findings


def _nearest(
    value: Floats, usual: Floats, rows: int, told: set[str], reference: Reference, settings: DataSettings
) -> tuple[Result, ...]:
    """The columns that came nearest to a fault without one."""
    results: list[Result] = []
    for at in np.argsort((usual - value).ravel(), kind="stable"):
        i, c = divmod(int(at), value.shape[1])
        name = reference.merged.names[c]
        if len(results) == settings.columns_reported or value[i, c] == 0:
            break
        if reference.columns[name].role == "monitored" and name not in told:
            threshold = min(float(usual[i, c]) + settings.likely, 1.0)
            source = reference.columns[name].source
            results.append(Result(name, source, _STATISTICS[i], float(value[i, c]), threshold, None, rows, False))
    return tuple(results)


def _volume(rows: int, usual: float, still: bool, settings: DataSettings) -> tuple[Finding, tuple[Result, ...]]:
    least = settings.volume * usual
    if usual < settings.rows_min:
        return Finding(None), ()
    few = rows < least
    fired = few and not still
    result = Result("", "", "rows", float(rows), least, None, rows, fired)
    if few and still:  # labels have ended too: traffic itself has
        return Finding(None), (result,)
    evidence = (Evidence("", "rows", float(rows), least, 1.0),)
    summary = f"Only {rows} requests where the quietest day had {usual:.0f}: the feed of requests is at fault."
    return Finding(fired, "critical", "data", summary, evidence) if fired else Finding(False), (result,)


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


def _convict(
    source: str,
    columns: Ints,
    suspects: Sequence[tuple[str, str, float, float]],
    window: Sketches,
    reference: Reference,
    settings: DataSettings,
) -> Finding:
    """One feed is at fault: what says so, and what else of it looks odd."""
    evidence = [*suspects, *_companions(columns, {name for name, *_ in suspects}, window, reference, settings)]
    return Finding(True, "critical", "data", _sentence(source, suspects, window, reference), _weigh(evidence))


def _companions(
    columns: Ints, named: set[str], window: Sketches, reference: Reference, settings: DataSettings
) -> list[tuple[str, str, float, float]]:
    """Other columns of a convicted feed that are far from the reference, though each of their values is possible."""
    found = []
    for name in sorted({window.names[c] for c in columns} - named):
        statistic = "tv" if reference.columns[name].kind == "categorical" else "ks"
        value = distance(statistic, reference.usual[name], window.column(name))
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
    scale = [_scale(reference.usual[name], window.column(name)) for name, kind, *_ in suspects
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


def estimate_window(
    window: Sketches, losses: Sketches | None, reference: Reference, rows_min: int
) -> tuple[tuple[Result, ...], tuple[Estimate, ...]]:
    """How well the model is likely to have done in some days, by its scores and by the labels that have come so far.

    Each measure is ``estimated`` by the scores alone, ``corrected`` by those labels and ``realised`` by them alone;
    what ends in ``_low`` and ``_high`` bounds it in 95 of 100 windows. The threshold is what was usual in the
    reference. It never fires: what traffic is likely to cost is for the alerts of the monitor of features to tell.
    """
    names = [name for name, kind in reference.kinds.items() if kind == "score"]
    rows = int(window.rows.sum())
    if not names or rows < rows_min:
        return (), ()
    scores = histogram(window.collapse().column(names[0]))
    nothing = np.zeros_like(scores)
    arrived = Outcomes.of(losses) if losses is not None and len(losses.tiles) else Outcomes(nothing, nothing)
    estimates = reference.estimator.estimate(scores, arrived)
    labels, results = int(arrived.total), []
    for each in estimates:
        told = {"estimated": each.blind, "corrected": each.corrected, "realised": (each.realised,)}
        for statistic, values in told.items():
            for end, value in zip(("", "_low", "_high"), values, strict=False):
                if not math.isnan(value):
                    count = rows if statistic == "estimated" else labels
                    results.append(Result(each.measure, "", statistic + end, value, each.usual, None, count, False))
    return tuple(results), estimates


def _likely(estimates: Sequence[Estimate]) -> tuple[str, float | None]:
    """What traffic is likely to cost: in words, and by how much the log loss rises."""
    found = {each.measure: each for each in estimates}
    if "auc" not in found or math.isnan(found["auc"].corrected[0]):
        return "", None
    value, low, high = found["auc"].corrected
    words = f" By its scores its AUC is {value:.3f} ({low:.3f} to {high:.3f}) where {found['auc'].usual:.3f} was usual."
    return words, max(found["log_loss"].corrected[0] - found["log_loss"].usual, 0.0)


def feature_window(
    window: Sketches, reference: Reference, rows_min: int, estimates: Sequence[Estimate] = ()
) -> tuple[tuple[Result, ...], Finding]:
    """Judge some days of traffic: every column by every distance that the reference has thresholds for.

    `window` is in tiles of a day. Where a day is missing, or has less than a quarter of the usual traffic, nothing is
    judged: a week without its Sunday is unlike any week for that reason alone. `estimates` are of the same days.
    """
    whole, results = window.collapse(), []
    rows = int(whole.rows.sum())
    enough = rows >= rows_min and len(window.tiles) == reference.window_days
    enough = enough and bool(window.rows.min() >= _WHOLE_DAY * np.median(window.rows))
    for name in whole.names:
        usual, found = reference.usual[name], whole.column(name)
        for null in reference.nulls[name]:
            if null.statistic == "null_rate":
                value, count = abs(null_rate(found) - null_rate(usual)), rows
            else:
                value, count = distance(null.statistic, usual, found), found.count
            if math.isnan(value):
                continue
            fired = reference.columns[name].role == "monitored" and enough and null.fired(value)
            results.append(Result(name, "", null.statistic, value, null.high, null.p_value(value), count, fired))
    if not enough:
        return tuple(results), Finding(None)
    worst = [each for each in results if each.fired]
    if not worst:
        return tuple(results), Finding(False)
    evidence = _weigh([(each.column, each.statistic, each.value, each.threshold) for each in worst])
    names = ", ".join(list(dict.fromkeys(each.column for each in evidence))[:3])
    words, harm = _likely(estimates)
    summary = f"Traffic differs from what version {reference.version} was trained on, most of all in {names}.{words}"
    return tuple(results), Finding(True, "warning", "world", summary, evidence, harm)


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
