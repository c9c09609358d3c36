"""Windows of days against a reference: how far traffic and losses are from it, and what that is likely to cost.

No state, no time of their own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from monitors.estimates import Estimate, Outcomes, histogram
from monitors.incidents import Evidence, Finding, Severity
from monitors.reference import Null, Reference
from monitors.sketches import Sketches
from monitors.statistics import distance, null_rate

__all__ = ["Result", "Spend", "Window", "estimate_window", "feature_window", "performance_window", "weigh"]

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


def weigh(evidence: Sequence[tuple[str, str, float, float]]) -> tuple[Evidence, ...]:
    """Evidence, gravest first; shares in proportion to how far each is beyond its threshold."""
    weights = [value / max(threshold, 1e-9) for _, _, value, threshold in evidence]
    total = sum(weights) or 1.0
    weighed = [Evidence(*each, share=weight / total) for each, weight in zip(evidence, weights, strict=True)]
    return tuple(sorted(weighed, key=lambda each: (-each.share, each.column)))


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
class _Test:
    """One statistic of one column before it is judged; `alarms` where it may raise one."""

    column: str
    statistic: str
    value: float
    null: Null
    count: int
    alarms: bool


def _judge(tests: Sequence[_Test], enough: bool, usual: float, spend: Spend) -> tuple[Result, ...]:
    """Results of all tests of one look, each at its part of the level; without enough rows nothing is spent or fires.

    The level is shared by Bonferroni's rule, which holds however much the tests hang together.
    """
    alarming = [each for each in tests if each.alarms]
    worst = min((each.null.strange(each.value) for each in alarming), default=1.0)
    level = (spend(min(worst * len(alarming), 1.0)) if enough else usual) / max(len(alarming), 1)
    return tuple(
        Result(
            each.column,
            "",
            each.statistic,
            each.value,
            each.null.limit(level, each.value),
            each.null.p_value(each.value),
            each.count,
            each.alarms and enough and each.null.strange(each.value) <= level,
        )
        for each in tests
    )


def feature_window(
    window: Sketches,
    reference: Reference,
    rows_min: int,
    usual: float,
    spend: Spend,
    estimates: Sequence[Estimate] = (),
) -> tuple[tuple[Result, ...], Finding]:
    """Judge some days of traffic: every column by every distance that the reference has a null for.

    `window` is in tiles of a day. Where a day is missing, or has less than a quarter of the usual traffic, nothing is
    judged: a week without its Sunday is unlike any week for that reason alone; its thresholds are those of the `usual`
    level. `estimates` are of the same days.
    """
    whole, tests = window.collapse(), []
    rows = int(whole.rows.sum())
    enough = rows >= rows_min and len(window.tiles) == reference.window_days
    enough = enough and bool(window.rows.min() >= _WHOLE_DAY * np.median(window.rows))
    for name in whole.names:
        known, found = reference.usual[name], whole.column(name)
        for null in reference.nulls[name]:
            if null.statistic == "null_rate":
                value, count = abs(null_rate(found) - null_rate(known)), rows
            else:
                value, count = distance(null.statistic, known, found), found.count
            if not math.isnan(value):
                alarms = reference.columns[name].role == "monitored"
                tests.append(_Test(name, null.statistic, value, null, count, alarms))
    results = _judge(tests, enough, usual, spend)
    if not enough:
        return results, Finding(None)
    worst = [each for each in results if each.fired]
    if not worst:
        return results, Finding(False)
    evidence = weigh([(each.column, each.statistic, each.value, each.threshold) for each in worst])
    names = ", ".join(list(dict.fromkeys(each.column for each in evidence))[:3])
    words, harm = _likely(estimates)
    summary = f"Traffic differs from what version {reference.version} was trained on, most of all in {names}.{words}"
    return results, Finding(True, "warning", "world", summary, evidence, harm)


def performance_window(
    losses: Sketches, reference: Reference, rows_min: int, usual: float, spend: Spend
) -> tuple[tuple[Result, ...], Finding]:
    """Judge the losses of the labels that arrived in some days; see :func:`feature_window`."""
    rows = int(losses.rows.sum())
    means = {null.statistic: _mean(losses, null.statistic) for null in reference.losses}
    tests = [
        _Test(null.statistic, "mean", means[null.statistic], null, rows, alarms=True)
        for null in reference.losses
        if not math.isnan(means[null.statistic])
    ]
    results = _judge(tests, rows >= rows_min, usual, spend)
    if rows < rows_min:
        return results, Finding(None)
    worst = [each for each in results if each.fired]
    expected = next(null.center for null in reference.losses if null.statistic == "log_loss")
    harm = max(means["log_loss"] - expected, 0.0)
    if not worst:
        return results, Finding(False)
    evidence = tuple(Evidence(r.column, r.statistic, r.value, r.threshold, 1 / len(worst)) for r in worst)
    told = "; ".join(f"{each.column} {each.value:+.3f} where {each.threshold:+.3f} is the limit" for each in worst)
    severity: Severity = "critical" if len(worst) == len(results) else "warning"
    return results, Finding(True, severity, "world", f"The model no longer fits its labels: {told}.", evidence, harm)


def _mean(losses: Sketches, name: str) -> float:
    column = losses.column(name)
    return column.total / column.count if column.count else float("nan")
