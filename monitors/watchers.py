"""Windows of days against a reference: how far traffic and losses are from it, and what that is likely to cost.

No state, no time of their own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from monitors.estimates import Estimate, Outcomes, histogram
from monitors.incidents import Evidence, Finding, Severity
from monitors.reference import Null, Reference, SegmentReference
from monitors.sketches import ColumnSketch, Sketches
from monitors.statistics import distance, null_rate, tail_share

__all__ = [
    "Result",
    "SegmentWindow",
    "Spend",
    "Window",
    "distances",
    "enough_days",
    "estimate_window",
    "feature_window",
    "gravest",
    "judge",
    "performance_window",
    "weigh",
]

HOUR_MS: Final = 3_600_000
_WHOLE_DAY: Final = 0.25
_SEGMENT_RESULTS: Final = 3
"""Results reported of a segment, beside those that fired: the strangest."""


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


def weigh(evidence: Sequence[tuple[str, str, float, float]]) -> tuple[Evidence, ...]:
    """Evidence, gravest first; shares in proportion to how far each is beyond its threshold."""
    weights = [value / max(threshold, 1e-9) for _, _, value, threshold in evidence]
    total = sum(weights) or 1.0
    weighed = [Evidence(*each, share=weight / total) for each, weight in zip(evidence, weights, strict=True)]
    return tuple(sorted(weighed, key=lambda each: (-each.share, each.column)))


def gravest(fired: Sequence[Result]) -> tuple[tuple[Evidence, ...], str]:
    """Evidence of what fired, and the three columns that differ most, in words."""
    evidence = weigh([(each.column, each.statistic, each.value, each.threshold) for each in fired])
    return evidence, ", ".join(list(dict.fromkeys(each.column for each in evidence))[:3])


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


Spend = Callable[[float], float]
"""What a look with such a p-value, corrected for its many tests, may spend: its level."""


@dataclass(frozen=True)
class SegmentWindow:
    """Some days of one segment.

    Attributes
    ----------
    name : str
    rows : Sketches
        Of traffic in tiles of a day, or of losses.
    reference : SegmentReference
    is_open : bool
        Whether an incident of it is open: it has no other to raise, so that its tests spend nothing.
    """

    name: str
    rows: Sketches
    reference: SegmentReference
    is_open: bool


@dataclass(frozen=True)
class _Test:
    """One statistic of one column before it is judged; `alarms` where it may raise one."""

    column: str
    statistic: str
    value: float
    null: Null
    count: int
    alarms: bool
    segment: str = ""


def judge(
    tests: Sequence[_Test], parts: Sequence[_Test], enough: bool, usual: float, spend: Spend
) -> tuple[tuple[Result, ...], tuple[Result, ...]]:
    """Results of all tests of one look, each at its part of the level; without enough rows nothing is spent or fires.

    The level is shared by Bonferroni's rule, which holds however much the tests hang together: between those of all
    traffic and those of segments by halves, so that many segments do not drown the whole, then evenly.
    """
    alarming = [sum(test.alarms for test in each) for each in (tests, parts)]
    shares = [max(count, 1) * (2 if alarming[1] else 1) for count in alarming]
    worst = min(
        (
            test.null.strange(test.value) * share
            for each, share in zip((tests, parts), shares, strict=True)
            for test in each
            if test.alarms
        ),
        default=1.0,
    )
    level = spend(min(worst, 1.0)) if enough else usual
    whole, segments = (
        tuple(_result(test, level / share, enough) for test in each)
        for each, share in zip((tests, parts), shares, strict=True)
    )
    return whole, segments


def _result(test: _Test, level: float, enough: bool) -> Result:
    return Result(
        test.column,
        test.segment,
        test.statistic,
        test.value,
        test.null.limit(level, test.value),
        test.null.p_value(test.value),
        test.count,
        test.alarms and enough and test.null.strange(test.value) <= level,
    )


def distances(
    window: Sketches, reference: Reference, usual: Mapping[str, ColumnSketch], nulls: Mapping[str, tuple[Null, ...]],
    segment: str = "",
) -> list[_Test]:  # fmt: skip
    """Every column of a window by every distance that there is a null for."""
    whole, tests = window.collapse(), []
    rows = int(whole.rows.sum())
    for name in whole.names:
        known, found = usual[name], whole.column(name)
        for null in nulls[name]:
            if null.statistic == "null_rate":
                value, count = abs(null_rate(found) - null_rate(known)), rows
            elif null.statistic == "tail":
                value, count = tail_share(known, found), found.count
            else:
                value, count = distance(null.statistic, known, found), found.count
            if not math.isnan(value):
                alarms = reference.columns[name].role == "monitored"
                tests.append(_Test(name, null.statistic, value, null, count, alarms, segment))
    return tests


def enough_days(window: Sketches, days: int, rows_min: int) -> bool:
    """A week without its Sunday is unlike any week for that reason alone."""
    whole = int(window.rows.sum()) >= rows_min and len(window.tiles) == days
    return whole and bool(window.rows.min() >= _WHOLE_DAY * np.median(window.rows))


def feature_window(
    window: Sketches,
    reference: Reference,
    rows_min: int,
    usual: float,
    spend: Spend,
    estimates: Sequence[Estimate] = (),
    segments: Sequence[SegmentWindow] = (),
    segment_rows_min: int = 0,
    is_open: bool = False,
) -> tuple[tuple[Result, ...], dict[str, Finding]]:
    """Judge some days of traffic: every column by every distance that the reference has a null for.

    `window` is in tiles of a day. Where a day is missing, or has less than a quarter of the usual traffic, nothing is
    judged; its thresholds are those of the `usual` level. `estimates` are of the same days. While an incident of all
    traffic `is_open`, a quiet day of it is no reason to tell of segments.

    Returns
    -------
    results, findings : tuple of Result, dict of str to Finding
        Findings by segment, that of all traffic under "". What all traffic shows is not told again by segments: theirs
        is what disappears in the whole.
    """
    enough = enough_days(window, reference.window_days, rows_min)
    judged = [each for each in segments if enough and enough_days(each.rows, reference.window_days, segment_rows_min)]
    results, parts = _judged(
        distances(window, reference, reference.usual, reference.nulls),
        {each.name: distances(each.rows, reference, each.reference.usual, each.reference.nulls, each.name)
         for each in judged},
        judged, enough, usual, spend,
    )  # fmt: skip
    findings = {"": Finding(None) if not enough else Finding(False)}
    if worst := [each for each in results if each.fired]:
        findings[""] = _traffic(worst, [each for told in parts.values() for each in told if each.fired], reference,
                                estimates)  # fmt: skip
    elif not is_open:
        for name, told in parts.items():
            fired = [each for each in told if each.fired]
            findings[name] = _traffic(fired, (), reference, (), name) if fired else Finding(False)
    return (*results, *(each for told in parts.values() for each in _strangest(told))), findings


def _judged(
    tests: Sequence[_Test],
    parts: Mapping[str, Sequence[_Test]],
    segments: Sequence[SegmentWindow],
    enough: bool,
    usual: float,
    spend: Spend,
) -> tuple[tuple[Result, ...], dict[str, list[Result]]]:
    """Results of all traffic and of each segment; those with an open incident spend nothing."""
    closed = [test for each in segments if not each.is_open for test in parts[each.name]]
    is_open = [test for each in segments if each.is_open for test in parts[each.name]]
    results, found = judge(tests, closed, enough, usual, spend)
    share = 2 * max(sum(test.alarms for told in parts.values() for test in told), 1)
    found += tuple(_result(test, usual / share, enough) for test in is_open)
    return results, {each.name: [told for told in found if told.segment == each.name] for each in segments}


def _strangest(told: Sequence[Result]) -> list[Result]:
    ranked = sorted(told, key=lambda each: (not each.fired, 1.0 if each.p_value is None else each.p_value, each.column))
    return ranked[: max(_SEGMENT_RESULTS, sum(each.fired for each in told))]


def _traffic(
    worst: Sequence[Result],
    parts: Sequence[Result],
    reference: Reference,
    estimates: Sequence[Estimate],
    segment: str = "",
) -> Finding:
    """Traffic, or a segment of it, that is unlike the reference; `parts` are what fired in segments of it."""
    evidence, names = gravest(worst)
    words, harm = _likely(estimates)
    among = _ranked(parts)
    where = f" Segments that differ most: {', '.join(among)}." if among else ""
    what = f"Traffic of {segment}" if segment else "Traffic"
    alone = " All traffic together does not show it." if segment else ""
    summary = (
        f"{what} differs from what version {reference.version} was trained on, most of all in {names}.{where}{alone}"
        f"{words}"
    )
    return Finding(True, "warning", "world", summary, evidence, harm)


def _ranked(parts: Sequence[Result]) -> list[str]:
    """Up to three segments, those furthest beyond their thresholds first."""
    far: dict[str, float] = {}
    for each in parts:
        far[each.segment] = max(far.get(each.segment, 0.0), each.value / max(each.threshold, 1e-9))
    return sorted(far, key=lambda name: (-far[name], name))[:3]


def performance_window(
    losses: Sketches,
    reference: Reference,
    rows_min: int,
    usual: float,
    spend: Spend,
    segments: Sequence[SegmentWindow] = (),
    segment_rows_min: int = 0,
    is_open: bool = False,
) -> tuple[tuple[Result, ...], dict[str, Finding]]:
    """Judge the losses of the labels that arrived in some days; see :func:`feature_window`."""
    rows = int(losses.rows.sum())
    enough = rows >= rows_min
    judged = [
        each
        for each in segments
        if enough and each.reference.losses and int(each.rows.rows.sum()) >= segment_rows_min
    ]  # fmt: skip
    results, parts = _judged(
        _means(losses, reference.losses),
        {each.name: _means(each.rows, each.reference.losses, each.name) for each in judged},
        judged, enough, usual, spend,
    )  # fmt: skip
    findings = {"": Finding(None) if not enough else Finding(False)}
    worst = [each for each in results if each.fired]
    if worst:
        findings[""] = _misfit(worst, len(results), reference.losses, losses)
    elif not is_open:
        by_name = {each.name: each for each in judged}
        for name, told in parts.items():
            mine, fired = by_name[name], [each for each in told if each.fired]
            findings[name] = (
                _misfit(fired, len(told), mine.reference.losses, mine.rows, name) if fired else Finding(False)
            )
    return (*results, *(each for told in parts.values() for each in _strangest(told))), findings


def _means(losses: Sketches, nulls: Sequence[Null], segment: str = "") -> list[_Test]:
    means = {null.statistic: _mean(losses, null.statistic) for null in nulls}
    rows = int(losses.rows.sum())
    return [
        _Test(null.statistic, "mean", means[null.statistic], null, rows, True, segment)
        for null in nulls
        if not math.isnan(means[null.statistic])
    ]


def _misfit(
    worst: Sequence[Result], tests: int, nulls: Sequence[Null], losses: Sketches, segment: str = ""
) -> Finding:  # fmt: skip
    expected = next(null.center for null in nulls if null.statistic == "log_loss")
    harm = max(_mean(losses, "log_loss") - expected, 0.0)
    evidence = tuple(Evidence(r.column, r.statistic, r.value, r.threshold, 1 / len(worst)) for r in worst)
    told = "; ".join(f"{each.column} {each.value:+.3f} where {each.threshold:+.3f} is the limit" for each in worst)
    severity: Severity = "critical" if len(worst) == tests else "warning"
    where = f" in {segment}, which all traffic together does not show" if segment else ""
    return Finding(True, severity, "world", f"The model no longer fits its labels{where}: {told}.", evidence, harm)


def _mean(losses: Sketches, name: str) -> float:
    column = losses.column(name)
    return column.total / column.count if column.count else float("nan")
