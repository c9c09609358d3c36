"""The monitor `sequential`: detectors of river, each on one series of a model, told one value an hour.

=============  =====================================================  ============  ===================================
series         every hour's                                           fires for     what is usual (DDM, EDDM)
=============  =====================================================  ============  ===================================
log_loss       mean log loss of the labels that arrived               a rise        center of its null
surprise       mean log loss beyond what the scores lead to expect    a rise        center of its null
error_rate     share of answers that were wrong                       a rise        the reference's own, by its labels
bias           mean of label less probability                         any change    center of its null
positive_rate  share of positives among the labels                    any change    what the reference's scores mean
score          mean score of the requests                             any change    the reference's mean
=============  =====================================================  ============  ===================================

DDM and EDDM take nothing but 0 and 1. They hear whether an hour was above what is usual, which is a mean of the
reference for every series: nulls are centered on means, and a reference keeps no medians of hours. Where hours are
skewed fewer than half are above it; both detectors compare the share with its own past, so that does them no harm.

HDDM's bounds hold in [0, 1]. Rates and scores lie there; a log loss is told as one less the likelihood that it stands
for, ``1 - exp(-loss)``; bias and surprise as ``(1 + value) / 2``, a surprise of more than 1 as one of 1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from monitors.buckets import Floats
from monitors.detectors import DETECTORS, DetectorStateError, Scale, SequentialDetector
from monitors.estimates import MEASURES, Outcomes, expected, histogram
from monitors.incidents import Evidence, Finding
from monitors.losses import LOSSES
from monitors.reference import Reference
from monitors.sketches import Sketches
from monitors.watchers import Result

__all__ = ["HOURLY", "SERIES", "Sequential", "SequentialSpec", "SpecError", "parse_specs"]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
SCORES: Final = "score"

WEEK: Final = 7 * 24
HOURLY: Final[Mapping[str, Mapping[str, Any]]] = {
    # Its own delta: over a year of a model frozen in January it reports four rises, of means of days none.
    "adwin": {"delta": 0.002, "clock": 1, "grace_period": 7, "min_window_length": 5},
    # What is usual is learnt from a week, so that every hour of it counts.
    "ddm": {"warm_start": WEEK},
    # About half the hours are above what is usual: at river's 0.9 distances so short fire of themselves.
    "eddm": {"warm_start": WEEK, "alpha": 0.9, "beta": 0.8},
    # Bounds for any values in [0, 1] are wide for means of hours: at river's 0.001 hardly anything is beyond them.
    "hddm_a": {"drift_confidence": 0.05, "warning_confidence": 0.1},
    "hddm_w": {"drift_confidence": 0.05, "warning_confidence": 0.1, "lambda_val": 0.01},
    # A week beside the two before it: of less, the round of the week would be a change. It looks every hour, so its
    # level is far below river's.
    "kswin": {"alpha": 0.0003, "window_size": 3 * WEEK, "stat_size": WEEK, "seed": 0},
    # In units of the series: 4 is a rise of 0.1 beyond the 0.05 that is let pass, for 40 hours.
    "page_hinkley": {"min_instances": WEEK, "delta": 0.05, "threshold": 4.0},
}
"""Parameters of each detector for values of hours, unless told otherwise."""


class SpecError(ValueError):
    """What is no series, no detector, or there twice. The message says what there is and what came."""


@dataclass(frozen=True)
class Series:
    """One value an hour.

    Attributes
    ----------
    title : str
        What alerts call it.
    sides : int
        1 where only a rise is worth an alert, 2 where a fall is too.
    scale : {"share", "loss", "signed"}
        Into [0, 1], see ``monitors.detectors.SCALES``.
    usual : callable of Reference to float
        NaN where the reference cannot tell.
    """

    title: str
    sides: int
    scale: Scale
    usual: Callable[[Reference], float]


def _center(name: str) -> Callable[[Reference], float]:
    return lambda reference: next(null.center for null in reference.losses if null.statistic == name)


def _usual_errors(reference: Reference) -> float:
    return 1 - next(each.value for each in reference.estimator.usual if each.measure == "accuracy")


def _usual_score(reference: Reference) -> float:
    name = score_column(reference.merged)
    column = reference.usual[name] if name else None
    return column.total / column.count if column and column.count else math.nan


def _usual_positives(reference: Reference) -> float:
    name = score_column(reference.merged)
    if name is None:
        return math.nan
    return float(_positives(expected(histogram(reference.usual[name]), reference.estimator.chances)))


SERIES: Final[Mapping[str, Series]] = {
    "log_loss": Series("log loss", 1, "loss", _center("log_loss")),
    "surprise": Series("surprise", 1, "signed", _center("surprise")),
    "error_rate": Series("error rate", 1, "share", _usual_errors),
    "bias": Series("bias", 2, "signed", _center("bias")),
    "positive_rate": Series("share of positives", 2, "share", _usual_positives),
    SCORES: Series("mean score", 2, "share", _usual_score),
}


@dataclass(frozen=True)
class SequentialSpec:
    """A detector on a series.

    Attributes
    ----------
    series, detector : str
        Keys of ``SERIES`` and of ``monitors.detectors.DETECTORS``.
    parameters : mapping
        Of river's class; those not given are of ``HOURLY``.

    Raises
    ------
    SpecError
        For an unknown series or detector, or parameters that river refuses.

    Examples
    --------
    >>> SequentialSpec("score", "adwin", {"delta": 0.01}).name
    'score:adwin'
    """

    series: str
    detector: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, name, known in (("series", self.series, SERIES), ("detector", self.detector, DETECTORS)):
            if name not in known:
                raise SpecError(f"{self.name}: expected as {what} one of {', '.join(known)}, got {name!r}")
        # All of them, so that the version of the settings changes where a default does.
        object.__setattr__(self, "parameters", {**HOURLY[self.detector], **self.parameters})
        try:
            self.new()
        except DetectorStateError as exc:
            raise SpecError(str(exc)) from exc

    @property
    def name(self) -> str:
        """``series:detector``."""
        return f"{self.series}:{self.detector}"

    def new(self, usual: float = math.nan) -> SequentialDetector:
        """The detector, that has heard nothing; `usual` is what DDM and EDDM compare hours with."""
        series = SERIES[self.series]
        return SequentialDetector(self.detector, self.parameters, series.sides, usual, series.scale)


def parse_specs(texts: Sequence[str]) -> tuple[SequentialSpec, ...]:
    """Specs of texts such as ``log_loss:adwin``.

    Raises
    ------
    SpecError
    """
    found = []
    for text in texts:
        series, colon, detector = text.partition(":")
        if not colon:
            known = f"{', '.join(SERIES)} with one of {', '.join(DETECTORS)}"
            raise SpecError(f"expected SERIES:DETECTOR, one of {known}, got {text!r}")
        found.append(SequentialSpec(series, detector))
    _refuse_twice(found)
    return tuple(found)


def _refuse_twice(specs: Sequence[SequentialSpec]) -> None:
    names = [each.name for each in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"expected each detector of a series once, got more of {', '.join(twice)}")


@dataclass(frozen=True)
class _Day:
    """One series on one day: the hours with enough rows, in order, the mean of all, and of how many rows."""

    hours: list[float]
    mean: float
    rows: int


class Sequential:
    """The detectors of one model version.

    Parameters
    ----------
    specs : sequence of SequentialSpec
    rows_min : int
        Fewest labels, or requests of ``score``, of an hour that is heard.
    reference : Reference, optional
        Without one nothing is ever judged.

    Raises
    ------
    SpecError
        Where a detector of a series is there twice.
    """

    def __init__(self, specs: Sequence[SequentialSpec], rows_min: int, reference: Reference | None = None) -> None:
        _refuse_twice(specs)
        self._specs = {each.name: each for each in specs}
        self._rows_min = rows_min
        self._scores: dict[int, tuple[float, int]] = {}
        self._detectors: dict[str, SequentialDetector] = {}
        for name, each in self._specs.items():
            by_level = DETECTORS[each.detector].hears == "bits"
            usual = SERIES[each.series].usual(reference) if by_level and reference else math.nan
            if not (by_level and math.isnan(usual)):
                self._detectors[name] = each.new(usual)

    def add_hour(self, hour: int, hours: Sketches | None) -> None:
        """Take note of the scores of an hour that is over: what a day is made of is gone when it ends."""
        name = score_column(hours) if hours is not None else None
        if hours is None or name is None or all(each.series != SCORES for each in self._specs.values()):
            return
        column = hours.between(hour, hour + HOUR_MS).column(name)
        if column.count:
            self._scores[hour] = (column.total / column.count, column.count)

    def judge(self, end: int, losses: Sketches | None, reference: Reference) -> tuple[tuple[Result, ...], Finding]:
        """Hear the day that ends here; what each detector that heard something says, and what they come to together.

        The threshold of a result is the mean of what its detector had heard before: for people, since it is the
        detector that decides.
        """
        day = losses.between(end - DAY_MS, end) if losses is not None else None
        results = []
        for name, detector in self._detectors.items():
            spec = self._specs[name]
            heard = self._score_day(end) if spec.series == SCORES else self._label_day(spec.series, day)
            if heard is None:
                continue
            before = detector.estimate
            fired = detector.hear(heard.hours)
            limit = heard.mean if math.isnan(before) else before
            results.append(Result(spec.series, "", spec.detector, heard.mean, limit, None, heard.rows, fired))
        self._scores = {hour: each for hour, each in self._scores.items() if hour >= end}
        return tuple(results), self._finding(results, day, reference)

    def _score_day(self, end: int) -> _Day | None:
        known = [each for hour, each in sorted(self._scores.items()) if end - DAY_MS <= hour < end]
        rows = sum(count for _, count in known)
        heard = [mean for mean, count in known if count >= self._rows_min]
        return _Day(heard, sum(mean * count for mean, count in known) / rows, rows) if heard else None

    def _label_day(self, series: str, day: Sketches | None) -> _Day | None:
        enough = day.rows >= self._rows_min if day is not None else np.zeros(0, bool)
        if day is None or not enough.any():
            return None
        hours, mean = _values(series, day)
        # NaN: labels of answers that were no number.
        heard = [each for each in hours[enough].tolist() if not math.isnan(each)]
        return _Day(heard, mean, int(day.rows.sum())) if heard else None

    def _finding(self, results: Sequence[Result], day: Sketches | None, reference: Reference) -> Finding:
        if not results:
            return Finding(None)
        fired = [each for each in results if each.fired]
        if not fired:
            return Finding(False)
        told: dict[str, str] = {}
        for each in fired:  # of several detectors of a series the first
            told.setdefault(each.column, _sentence(each))
        evidence = tuple(Evidence(r.column, r.statistic, r.value, r.threshold, 1 / len(fired)) for r in fired)
        harm = None
        if day is not None and len(day.tiles):
            harm = max(_values("log_loss", day)[1] - SERIES["log_loss"].usual(reference), 0.0)
        return Finding(True, "warning", "world", " ".join(told.values()), evidence, harm)

    def state(self) -> tuple[dict[str, bytes], list[list[float]]]:
        """Of each detector by name, and what is noted of scores; for :meth:`restore`."""
        detectors = {name: each.to_bytes() for name, each in self._detectors.items()}
        return detectors, [[hour, *each] for hour, each in sorted(self._scores.items())]

    def restore(self, detectors: Mapping[str, bytes], scores: Sequence[Sequence[float]]) -> None:
        """Take up what :meth:`state` gave. A detector that was not there, or had other parameters, begins anew."""
        for name, new in self._detectors.items():
            known = SequentialDetector.from_bytes(detectors[name]) if name in detectors else None
            if known is not None and known.like(new):
                self._detectors[name] = known
        self._scores = {int(hour): (mean, int(count)) for hour, mean, count in scores}


def score_column(sketches: Sketches) -> str | None:
    """The column that holds the model's scores; None where there is none."""
    return next((name for name, kind in zip(sketches.names, sketches.kinds, strict=True) if kind == "score"), None)


def _sentence(each: Result) -> str:
    series = SERIES[each.column]
    verb = "risen" if series.sides == 1 else "changed"
    return f"The {series.title} has {verb}: {each.value:.3f} today where it was {each.threshold:.3f} on average."


def _positives(outcomes: Outcomes) -> Floats:
    found = np.asarray(outcomes.positives.sum(axis=-1), dtype=np.float64)
    total = np.asarray(outcomes.total, dtype=np.float64)
    return np.divide(found, total, out=np.full(found.shape, np.nan), where=total > 0)


def _errors(outcomes: Outcomes) -> Floats:
    wrong: Floats = 1 - MEASURES["accuracy"](outcomes)
    return wrong


_RATES: Final[Mapping[str, Callable[[Outcomes], Floats]]] = {"positive_rate": _positives, "error_rate": _errors}


def _values(series: str, day: Sketches) -> tuple[Floats, float]:
    """Value of each hour of a day's losses, and of the whole day."""
    if series in LOSSES:
        return day.means[:, day.names.index(series)], float(day.column(series).total / day.rows.sum())
    rate = _RATES[series]
    return rate(Outcomes.by_tile(day)), float(rate(Outcomes.of(day)))
