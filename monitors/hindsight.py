"""What a policy was worth, once the labels of the whole span are known: declines, and who retrained in them.

A week is *worse* where its mean log loss, or its mean surprise (log loss beyond what the forecasts themselves expect),
is above what is usual in the reference of the version in charge by more than a margin, and the reference's own nulls
give as much a chance below ``LEVEL``. A *decline* is a run of worse weeks, one ending each day, with no more than
``GAP_DAYS`` days between them that are not. The day on which it begins is the likeliest of its first week, given that
losses were as usual before (Hinkley, "Inference about the change-point in a sequence of random variables", Biometrika
1970), and that on which it ends likewise that of its last.

Among many weeks some are worse by chance. A decline is *sure* where one of its weeks would be strange among all that
were judged (Bonferroni). Any decline excuses a retraining; only a sure one is held against who did not retrain.

It is an estimate, and these are its limits. A retraining is taken to cure after the policy's lead; nothing is trained.
What really answered is what is judged, so a decline ends where a retraining did cure it, for a policy that would have
let it go on as well. The log loss also rises with weeks that are hard for any model. Weeks without enough labels, and
the first of a version, are taken as well as any. And the yardstick is the monitors' own: where a reference is of lucky
weeks, ordinary ones look worse to both. Of 60 simulated years of 200 labels a day in which nothing changed 7 had a sure
decline where days were independent, 10 where a day resembled the one before (a correlation of 0.7).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from monitors.buckets import Floats, Ints
from monitors.reference import Null

__all__ = ["GAP_DAYS", "LEVEL", "MEASURES", "Days", "Decline", "Outcome", "Reign", "declines", "judge", "outcome"]

DAY_MS: Final = 86_400_000
MEASURES: Final = ("log_loss", "surprise")
LEVEL: Final = 0.01
GAP_DAYS: Final = 3
WEEK_DAYS: Final = 7


@dataclass(frozen=True)
class Reign:
    """Days in which one version was in charge: positions ``[start, end)``, and its reference's nulls and window."""

    start: int
    end: int
    nulls: Sequence[Null]
    window_days: int = WEEK_DAYS


@dataclass(frozen=True)
class Days:
    """Consecutive days, judged.

    Attributes
    ----------
    first_ms : int
        Start of the first, UTC epoch milliseconds.
    nats : ndarray of float64, shape (n, 2)
        Loss of each day beyond what is usual, summed over its labels, by each of ``MEASURES``; 0 without a reference.
    chance : ndarray of float64, shape (n,)
        Of the week that ends with the day, under the nulls of the reference; 1 where it is no worse than usual by more
        than the margin, NaN where it could not be judged.
    begins : ndarray of int64, shape (n,)
        Position of the first day of that week.
    """

    first_ms: int
    nats: Floats
    chance: Floats
    begins: Ints


def judge(first_ms: int, labels: Ints, totals: Floats, reigns: Sequence[Reign], rows_min: int, margin: float) -> Days:
    """Hold every week against the reference of the version that was in charge on all of its days.

    Parameters
    ----------
    first_ms : int
        Start of the first day, UTC epoch milliseconds.
    labels : ndarray of int64, shape (n,)
        Labels that arrived in each day, of answers of the version in charge.
    totals : ndarray of float64, shape (n, 2)
        Sums of ``MEASURES`` over them, nats.
    reigns : sequence of Reign
        Disjoint; days in none have no reference.
    rows_min : int
        Fewest labels of a week.
    margin : float
        Nats by which a week's mean has to be above what is usual.
    """
    count = len(labels)
    nats, chance, begins = np.zeros((count, len(MEASURES))), np.full(count, np.nan), np.arange(count)
    for reign in reigns:
        nulls = {each.statistic: each for each in reign.nulls}
        usual = np.array([nulls[name].center for name in MEASURES])
        days = slice(reign.start, reign.end)
        nats[days] = totals[days] - labels[days, None] * usual
        for day in range(reign.start + reign.window_days - 1, reign.end):
            begins[day] = day - reign.window_days + 1
            week = slice(begins[day], day + 1)
            if (rows := int(labels[week].sum())) >= rows_min:
                means = (totals[week].sum(axis=0) / rows).tolist()
                each = [_chance(nulls[name], mean, margin) for name, mean in zip(MEASURES, means, strict=True)]
                chance[day] = min(1.0, min(each) * len(each))
    return Days(first_ms, nats, chance, begins)


def _chance(null: Null, mean: float, margin: float) -> float:
    return null.strange(mean) if mean > null.center + margin else 1.0


@dataclass(frozen=True)
class Decline:
    """Days in a row on which the model in charge did worse than when it was new.

    Attributes
    ----------
    start_ms, end_ms : int
        ``[start, end)``, UTC epoch milliseconds.
    measure : str
        That of ``MEASURES`` which tells of more.
    sure : bool
        Whether it is more than chance, see the module.
    harm : tuple of float
        Nats lost on each day, by that measure: excess times labels. A day that is better than usual does not make up
        for others.
    """

    start_ms: int
    end_ms: int
    measure: str
    sure: bool
    harm: tuple[float, ...]

    def lost_until(self, time_ms: float) -> float:
        """Nats lost on days that begin before a time."""
        return sum(nats for day, nats in enumerate(self.harm) if self.start_ms + day * DAY_MS < time_ms)


def declines(days: Days) -> tuple[Decline, ...]:
    """The declines, in order."""
    ends = np.flatnonzero(days.chance < LEVEL)
    if not len(ends):
        return ()
    weeks = max(np.isfinite(days.chance).sum() / WEEK_DAYS, 1.0)
    runs = np.split(ends, np.flatnonzero(np.diff(ends) > GAP_DAYS + 1) + 1)
    return tuple(_decline(days, int(run[0]), int(run[-1]), LEVEL / weeks) for run in runs)


def _decline(days: Days, first: int, last: int, level: float) -> Decline:
    """Of the worse weeks that end on these days."""
    sure = bool(np.nanmin(days.chance[first : last + 1]) < level)
    start, end = int(days.begins[first]), last + 1
    measure = int(days.nats[start:end].sum(axis=0).argmax())
    nats = days.nats[:, measure]
    late = _later_days(nats[start : first + 1])
    early = _later_days(nats[days.begins[last] : end][::-1])
    if start + late < end - early:
        start, end = start + late, end - early
    harm = tuple(np.maximum(nats[start:end], 0.0).tolist())
    return Decline(days.first_ms + start * DAY_MS, days.first_ms + end * DAY_MS, MEASURES[measure], sure, harm)


def _later_days(week: Floats) -> int:
    """How many days go by before those that are worse: the likeliest, where losses are as usual before and then not."""
    beyond = np.cumsum(week[::-1])[::-1]
    return int((beyond * np.abs(beyond) / np.arange(len(week), 0, -1)).argmax())


@dataclass(frozen=True)
class Outcome:
    """What retraining at certain times came to.

    Attributes
    ----------
    retrains, false : tuple of int
        Times, UTC epoch milliseconds: all, and those at which no decline was under way or began within the lead.
    missed : tuple of Decline
        Sure ones in which nothing was retrained.
    delays_ms : tuple of int
        Of each other sure one, from its beginning to the first retraining.
    harm : float
        Nats lost in sure declines until a model retrained in them would have answered.
    """

    retrains: tuple[int, ...]
    false: tuple[int, ...]
    missed: tuple[Decline, ...]
    delays_ms: tuple[int, ...]
    harm: float

    @property
    def delay_ms(self) -> float | None:
        """Median of the delays; None without any."""
        return float(np.median(self.delays_ms)) if self.delays_ms else None


def outcome(found: Sequence[Decline], retrains_ms: Sequence[int], lead_ms: int, start_ms: int, end_ms: int) -> Outcome:
    """What retraining at certain times came to, within a span.

    A retraining that comes right at the end of a decline, when its last day is known, is in it still.

    Parameters
    ----------
    found : sequence of Decline
        Those that begin in the span count.
    retrains_ms : sequence of int
        Ascending; those in the span count, its end included: what is decided then follows from what was before.
    lead_ms : int
        From a retraining to the answers of its model.
    start_ms, end_ms : int
        UTC epoch milliseconds.
    """
    mine = tuple(each for each in retrains_ms if start_ms < each <= end_ms)
    begun = [each for each in found if each.sure and start_ms <= each.start_ms < end_ms]
    first = [next((at for at in mine if each.start_ms <= at <= each.end_ms), None) for each in begun]
    return Outcome(
        retrains=mine,
        false=tuple(at for at in mine if not any(d.start_ms - lead_ms <= at <= d.end_ms for d in found)),
        missed=tuple(each for each, at in zip(begun, first, strict=True) if at is None),
        delays_ms=tuple(at - each.start_ms for each, at in zip(begun, first, strict=True) if at is not None),
        harm=sum(
            each.lost_until(np.inf if at is None else at + lead_ms) for each, at in zip(begun, first, strict=True)
        ),
    )
