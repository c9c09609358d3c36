"""The monitor `sequential`: detectors of river, each on one of :mod:`monitors.series`, told one value an hour.

A detector proposes and the model's budget disposes. Detectors have parameters in place of a chance, and those of
independent values: of days that resemble the ones before, ADWIN finds changes where nothing has changed. So once one
has found a change, the days since it began to hear are cut where they differ most, and the chance of as much is known
from what a day of the reference is like (Bonferroni over the places to cut; Student's t, as all thresholds). That holds
whatever the detector, so that each has a week to be borne out, and costs what a look of the budget does.

DDM and EDDM take nothing but 0 and 1. They hear whether an hour was above what is usual, which is a mean of the
reference for every series, since a reference keeps no medians of hours. Where hours are skewed fewer than half are
above it; both detectors compare the share with its own past, so that does them no harm.

HDDM's bounds hold in [0, 1]. Rates and scores lie there; a log loss is told as one less the likelihood that it stands
for, ``1 - exp(-loss)``; bias and surprise as ``(1 + value) / 2``, a surprise of more than 1 as one of 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from scipy.special import stdtr

from monitors.detectors import DETECTORS, DetectorStateError, SequentialDetector
from monitors.incidents import Evidence, Finding
from monitors.reference import Null, Reference
from monitors.series import HOUR_ROWS_MIN, SCORES, SERIES, hourly, overall, score_column
from monitors.sketches import Sketches
from monitors.watchers import Result, Spend

__all__ = ["HOURLY", "Change", "Sequential", "SequentialSpec", "SpecError", "change", "parse_specs"]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
BORNE_OUT_DAYS: Final = 7
"""So long a change that a detector has found is looked at, since a day seldom says enough."""

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
class Change:
    """Days cut where those before and after differ most.

    Attributes
    ----------
    before, since : float
        Mean of the days on either side.
    days : int
        After the cut.
    chance : float
        Of days as far apart as these while nothing changes.
    """

    before: float
    since: float
    days: int
    chance: float


def change(days: Sequence[float], null: Null) -> Change | None:
    """Where days in a row differ most, by what one day is like; None of a single day.

    Parameters
    ----------
    days : sequence of float
        The mean of each.
    null : Null
        Of one day; where its `sides` are 1 only a rise is a change.
    """
    if len(days) < 2:
        return None
    totals = np.cumsum(days)
    first = np.arange(1, len(days))
    last = len(days) - first
    before, since = totals[:-1] / first, (totals[-1] - totals[:-1]) / last
    far = (since - before) / (null.spread * np.sqrt(1 / first + 1 / last))
    far = far if null.sides == 1 else np.abs(far)
    at = int(np.argmax(far))
    chance = null.sides * len(first) * float(stdtr(null.degrees, -far[at]))
    return Change(float(before[at]), float(since[at]), int(last[at]), min(chance, 1.0))


@dataclass(frozen=True)
class _Day:
    """One series on one day: the hours with enough rows, in order, the mean of all, and of how many rows."""

    hours: list[float]
    mean: float
    rows: int


@dataclass
class _Watched:
    """A detector, the days it has heard since the last alarm, and for how many more days what it found is looked at."""

    detector: SequentialDetector
    days: list[float] = field(default_factory=list)
    pending: int = 0

    def hear(self, hours: Sequence[float]) -> None:
        """One day."""
        found = self.detector.hear(hours)
        self.days.append(sum(hours) / len(hours))
        self.pending = BORNE_OUT_DAYS if found else max(self.pending - 1, 0)


class Sequential:
    """The detectors of one model version.

    Parameters
    ----------
    specs : sequence of SequentialSpec
    reference : Reference, optional
        Without one nothing is ever judged. A series of which it does not know the days is not heard.

    Raises
    ------
    SpecError
        Where a detector of a series is there twice.
    """

    def __init__(self, specs: Sequence[SequentialSpec], reference: Reference | None = None) -> None:
        _refuse_twice(specs)
        self._specs = {each.name: each for each in specs}
        self._scores: dict[int, tuple[float, int]] = {}
        self._watched = {
            name: _Watched(each.new(reference.series[each.series].center))
            for name, each in self._specs.items()
            if reference is not None and each.series in reference.series
        }

    def add_hour(self, hour: int, hours: Sketches | None) -> None:
        """Take note of the scores of an hour that is over: what a day is made of is gone when it ends."""
        name = score_column(hours) if hours is not None else None
        if hours is None or name is None or all(each.series != SCORES for each in self._specs.values()):
            return
        column = hours.between(hour, hour + HOUR_MS).column(name)
        if column.count:
            self._scores[hour] = (column.total / column.count, column.count)

    def judge(
        self, end: int, losses: Sketches | None, reference: Reference, spend: Spend
    ) -> tuple[tuple[Result, ...], Finding]:
        """Hear the day that ends here; what each detector that heard something says, and what they come to together.

        The level of a look is shared by all detectors. Value and threshold of a result are means for people, of the
        day and of what its detector had heard before; of a change, of the days on either side of it.
        """
        day = losses.between(end - DAY_MS, end) if losses is not None else None
        heard: dict[str, _Day] = {}
        known: dict[str, tuple[float, Change | None]] = {}
        for name, each in self._watched.items():
            series = self._specs[name].series
            found = self._score_day(end) if series == SCORES else _label_day(series, day)
            if found is not None:
                before = each.detector.estimate
                each.hear(found.hours)
                heard[name] = found
                known[name] = (before, change(each.days, reference.series[series]))
        self._scores = {hour: each for hour, each in self._scores.items() if hour >= end}
        if not heard:
            return (), Finding(None)
        proposed = [cut.chance for name, (_, cut) in known.items() if cut and self._watched[name].pending]
        level = spend(min(min(proposed, default=1.0) * len(self._watched), 1.0)) / len(self._watched)
        told = [(self._result(name, heard[name], *known[name], level), known[name][1]) for name in heard]
        fired = [(each, found) for each, found in told if each.fired]
        return tuple(each for each, _ in told), _finding(fired, day, reference)

    def _result(self, name: str, day: _Day, before: float, told: Change | None, level: float) -> Result:
        each, spec = self._watched[name], self._specs[name]
        value, limit = day.mean, day.mean if math.isnan(before) else before
        fired = told is not None and each.pending > 0 and told.chance <= level
        if told is not None and each.pending:
            value, limit = told.since, told.before
        if fired:
            each.days, each.pending = [], 0
        return Result(spec.series, "", spec.detector, value, limit, told.chance if told else None, day.rows, fired)

    def _score_day(self, end: int) -> _Day | None:
        known = [each for hour, each in sorted(self._scores.items()) if end - DAY_MS <= hour < end]
        rows = sum(count for _, count in known)
        heard = [mean for mean, count in known if count >= HOUR_ROWS_MIN]
        return _Day(heard, sum(mean * count for mean, count in known) / rows, rows) if heard else None

    def state(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Of each detector by name, and what else there is as plain data; for :meth:`restore`."""
        detectors = {name: each.detector.to_bytes() for name, each in self._watched.items()}
        return detectors, {
            "scores": [[hour, *each] for hour, each in sorted(self._scores.items())],
            "days": {name: [each.pending, each.days] for name, each in sorted(self._watched.items())},
        }

    def restore(self, detectors: Mapping[str, bytes], plain: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave. A detector that was not there, or had other parameters, begins anew."""
        for name, each in self._watched.items():
            known = SequentialDetector.from_bytes(detectors[name]) if name in detectors else None
            if known is not None and known.like(each.detector):
                pending, days = plain["days"][name]
                self._watched[name] = _Watched(known, list(days), pending)
        self._scores = {int(hour): (mean, int(count)) for hour, mean, count in plain["scores"]}


def _label_day(series: str, day: Sketches | None) -> _Day | None:
    enough = day.rows >= HOUR_ROWS_MIN if day is not None else np.zeros(0, bool)
    if day is None or not enough.any():
        return None
    # NaN: labels of answers that were no number.
    heard = [each for each in hourly(series, day)[enough].tolist() if not math.isnan(each)]
    return _Day(heard, overall(series, day), int(day.rows.sum())) if heard else None


def _finding(fired: Sequence[tuple[Result, Change | None]], day: Sketches | None, reference: Reference) -> Finding:
    if not fired:
        return Finding(False)
    told: dict[str, str] = {}
    for each, found in fired:  # of several detectors of a series the first
        told.setdefault(each.column, _sentence(each, found))
    evidence = tuple(Evidence(r.column, r.statistic, r.value, r.threshold, 1 / len(fired)) for r, _ in fired)
    harm = None
    if day is not None and len(day.tiles) and "log_loss" in reference.series:
        harm = max(overall("log_loss", day) - reference.series["log_loss"].center, 0.0)
    return Finding(True, "warning", "world", " ".join(told.values()), evidence, harm)


def _sentence(each: Result, found: Change | None) -> str:
    series = SERIES[each.column]
    verb = "risen" if series.sides == 1 else "changed"
    days = "today" if found is None or found.days == 1 else f"in the last {found.days} days"
    return f"The {series.title} has {verb}: {each.value:.3f} {days} where it was {each.threshold:.3f} before."
