"""How well a model does before any label has come: what its scores say of themselves, and what labels then correct.

A score that is calibrated says how likely its answer is to be right, so the scores of a window tell what AUC, log loss,
accuracy and F1 to expect of it: confidence-based performance estimation, as NannyML calls it (CBPE). All it takes is
the window's histogram of scores and, from the reference, the share of positives at each score. Traffic that has become
harder shows at once. A world that has changed what a score means does not: that only labels tell.

Labels come late and for a part of the traffic first. So they correct what a score means and not what traffic there is:
two numbers, how much likelier a positive is than the reference has it and how much more a difference of scores counts
(Cox, "Two further applications of a model for binary regression", 1958). How far the two wander while nothing is wrong
the reference knows of its own weeks, and few labels move them little.

How far an estimate is off is measured too: windows are drawn from the reference's days as for thresholds, estimated by
the days left out, and compared with their own labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.optimize import isotonic_regression

from monitors.buckets import SCORE_BINS, ColumnSketch, Floats, Ints
from monitors.sketches import Sketches

__all__ = [
    "MEASURES",
    "Estimate",
    "Estimator",
    "Outcomes",
    "Usual",
    "build_estimator",
    "histogram",
]

_MIDDLES: Final = (np.arange(SCORE_BINS) + 0.5) / SCORE_BINS
_HALF: Final = SCORE_BINS // 2
_CERTAIN: Final = 1e-4
_Z95: Final = 1.959963984540054
_NEWTON_STEPS: Final = 12
_NO_TILT: Final = (0.0, 1.0)
Counts = Ints | Floats


@dataclass(frozen=True)
class Outcomes:
    """Joint histogram of score and label; merging is addition.

    Attributes
    ----------
    positives, negatives : ndarray, shape (..., SCORE_BINS)
        Requests of either outcome at each score, ascending: numbers, or what is expected of them.
    """

    positives: Counts
    negatives: Counts

    @staticmethod
    def of(losses: Sketches) -> "Outcomes":
        """Of what :func:`monitors.losses.sketch_losses` gave, all tiles together."""
        whole = losses.collapse()
        return Outcomes(histogram(whole.column("score_positive")), histogram(whole.column("score_negative")))

    @staticmethod
    def by_tile(losses: Sketches) -> "Outcomes":
        """The same of each tile, shape (T, SCORE_BINS)."""
        return Outcomes(_by_tile(losses, "score_positive"), _by_tile(losses, "score_negative"))

    @property
    def total(self) -> Any:
        """Labelled requests, shape (...)."""
        return self.positives.sum(axis=-1) + self.negatives.sum(axis=-1)


def histogram(scores: ColumnSketch) -> Ints:
    """Requests at each score, shape (SCORE_BINS,)."""
    counts = np.zeros(SCORE_BINS, dtype=np.int64)
    counts[scores.codes] = scores.counts
    return counts


def _by_tile(losses: Sketches, name: str) -> Ints:
    tile, column = np.divmod(losses.cells, len(losses.names))
    mine = column == losses.names.index(name)
    counts = np.zeros((len(losses.tiles), SCORE_BINS), dtype=np.int64)
    counts[tile[mine], losses.codes[mine]] = losses.counts[mine]
    return counts


def auc(outcomes: Outcomes) -> Floats:
    """Area under the ROC curve, scores of one bin taken for ties; NaN without both outcomes."""
    positives, negatives = outcomes.positives, outcomes.negatives
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    pairs = positives.sum(axis=-1) * negatives.sum(axis=-1)
    return _ratio((positives * below).sum(axis=-1), pairs)


def log_loss(outcomes: Outcomes) -> Floats:
    """Mean negative log likelihood in nats of scores in the middle of their bins."""
    lost = outcomes.positives @ -np.log(_MIDDLES) + outcomes.negatives @ -np.log(1 - _MIDDLES)
    return _ratio(lost, outcomes.total)


def accuracy(outcomes: Outcomes) -> Floats:
    """Share of answers that are right, where scores of a half and more say yes."""
    right = outcomes.positives[..., _HALF:].sum(axis=-1) + outcomes.negatives[..., :_HALF].sum(axis=-1)
    return _ratio(right, outcomes.total)


def f1(outcomes: Outcomes) -> Floats:
    """Harmonic mean of precision and recall of the same answers; NaN where there are neither positives nor yeses."""
    found = 2 * outcomes.positives[..., _HALF:].sum(axis=-1)
    wrong = outcomes.negatives[..., _HALF:].sum(axis=-1) + outcomes.positives[..., :_HALF].sum(axis=-1)
    return _ratio(found, found + wrong)


def _ratio(above: Any, below: Any) -> Floats:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


MEASURES: Final[Mapping[str, Callable[[Outcomes], Floats]]] = {
    "auc": auc,
    "log_loss": log_loss,
    "accuracy": accuracy,
    "f1": f1,
}


@dataclass(frozen=True)
class Usual:
    """What the reference knows of a measure.

    Attributes
    ----------
    measure : str
    value : float
        Of the whole reference, by its labels.
    blind, corrected : float
        How far estimates of windows were off, without any label of the window and corrected by all of them: root of the
        mean square.
    """

    measure: str
    value: float
    blind: float
    corrected: float


@dataclass(frozen=True)
class Estimate:
    """A measure of a window, as far as it can be told. Ranges are to hold it in 95 of 100 windows.

    Attributes
    ----------
    measure : str
    usual : float
        Of the reference.
    blind, corrected : (float, float, float)
        Value, low and high: by the scores alone, and corrected by the labels that have come.
    realised : float
        Of those labels; NaN without both outcomes.
    """

    measure: str
    usual: float
    blind: tuple[float, float, float]
    corrected: tuple[float, float, float]
    realised: float


@dataclass(frozen=True)
class Estimator:
    """What the scores of a model version mean. Build with :func:`build_estimator`.

    Attributes
    ----------
    chances : ndarray, shape (SCORE_BINS,)
        Share of positives at each score, never falling.
    wander : (float, float)
        Spread of the two corrections from window to window while nothing is wrong.
    labels : float
        Labels of a usual window.
    usual : tuple of Usual
    """

    chances: Floats
    wander: tuple[float, float]
    labels: float
    usual: tuple[Usual, ...]

    def estimate(self, scores: Ints, arrived: Outcomes) -> tuple[Estimate, ...]:
        """Every measure of a window.

        Parameters
        ----------
        scores : ndarray of int64, shape (SCORE_BINS,)
            Requests at each score, see :func:`histogram`.
        arrived : Outcomes
            Of the labels that arrived in the window, for requests of it or a little before.
        """
        blind = expected(scores, self.chances)
        tilt = fit_tilt(self.chances, arrived, self.wander)
        corrected = expected(scores, tilted(self.chances, tilt))
        share = min(float(arrived.total) / max(self.labels, 1.0), 1.0)
        found = []
        for usual in self.usual:
            measure = MEASURES[usual.measure]
            after = usual.blind + share * (usual.corrected - usual.blind)
            found.append(
                Estimate(
                    measure=usual.measure,
                    usual=usual.value,
                    blind=_range(float(measure(blind)), usual.blind, usual.measure),
                    corrected=_range(float(measure(corrected)), after, usual.measure),
                    realised=float(measure(arrived)),
                )
            )
        return tuple(found)


def _range(value: float, error: float, measure: str) -> tuple[float, float, float]:
    top = np.inf if measure == "log_loss" else 1.0
    return value, max(value - _Z95 * error, 0.0), min(value + _Z95 * error, top)


def expected(scores: Counts, chances: Floats) -> Outcomes:
    """What is to be expected of requests with these scores, shape (..., SCORE_BINS)."""
    return Outcomes(scores * chances, scores * (1 - chances))


def chances_of(outcomes: Outcomes) -> Floats:
    """Share of positives at each score as it was, made to rise with the score; scores that nobody had lie between.

    Pooling adjacent violators (Ayer et al., 1955), of one joint histogram.
    """
    count = np.asarray(outcomes.positives + outcomes.negatives, dtype=np.float64)
    seen = np.flatnonzero(count)
    if len(seen) == 0:
        return _MIDDLES.copy()
    rising = isotonic_regression(outcomes.positives[seen] / count[seen], weights=count[seen]).x
    filled: Floats = np.clip(np.interp(np.arange(SCORE_BINS), seen, rising), _CERTAIN, 1 - _CERTAIN)
    return filled


def tilted(chances: Floats, tilt: Floats | tuple[float, float]) -> Floats:
    """Chances after a correction: added to their logits, and their logits times so much; shapes (..., B), (..., 2)."""
    shift, slope = np.asarray(tilt)[..., :1], np.asarray(tilt)[..., 1:]
    found: Floats = 1 / (1 + np.exp(-(shift + slope * _logit(chances))))
    return found


def _logit(chances: Floats) -> Floats:
    found: Floats = np.log(chances / (1 - chances))
    return found


def fit_tilt(chances: Floats, outcomes: Outcomes, wander: tuple[float, float]) -> Floats:
    """The likeliest correction, shape (..., 2), given how far it usually wanders from none.

    Newton's method on the logistic likelihood with a normal prior; all of several windows at once.
    """
    z = _logit(chances)
    count, positives = np.asarray(outcomes.positives + outcomes.negatives, float), np.asarray(outcomes.positives, float)
    prior = 1 / np.maximum(np.asarray(wander), 1e-6) ** 2
    tilt = np.broadcast_to(np.asarray(_NO_TILT), (*count.shape[:-1], 2)).copy()
    for _ in range(_NEWTON_STEPS):
        p = tilted(chances, tilt)
        off, weight = positives - count * p, count * p * (1 - p)
        slope = np.stack([off.sum(axis=-1), (off * z).sum(axis=-1)], axis=-1) - prior * (tilt - np.asarray(_NO_TILT))
        a, b, c = weight.sum(axis=-1) + prior[0], (weight * z).sum(axis=-1), (weight * z**2).sum(axis=-1) + prior[1]
        determinant = a * c - b * b
        step = np.stack(
            [
                (c * slope[..., 0] - b * slope[..., 1]) / determinant,
                (a * slope[..., 1] - b * slope[..., 0]) / determinant,
            ],
            axis=-1,
        )
        tilt += np.clip(step, -1.0, 1.0)
    return tilt


def build_estimator(losses: Sketches, inside: Ints) -> Estimator:
    """The estimator of a reference.

    Parameters
    ----------
    losses : Sketches
        :func:`monitors.losses.sketch_losses` of predictions that the model had not been fitted to, in tiles of a day.
    inside : ndarray of int64, shape (replicates, days)
        How often each day is in each of some windows, see :func:`monitors.drawing.draw_windows`.
    """
    days = Outcomes.by_tile(losses)
    outside = (inside == 0).astype(np.int64)
    windows, rest = (Outcomes(each @ days.positives, each @ days.negatives) for each in (inside, outside))
    judged = np.flatnonzero((windows.total > 0) & (rest.total > 0))
    windows = Outcomes(windows.positives[judged], windows.negatives[judged])
    chances = np.stack(
        [chances_of(Outcomes(*each)) for each in zip(rest.positives[judged], rest.negatives[judged], strict=True)]
    )
    # 1. How far calibration wanders: what each window's own labels say, hardly held back by anything.
    free = fit_tilt(chances, windows, (10.0, 10.0))
    wander = np.sqrt(np.mean((free - np.asarray(_NO_TILT)) ** 2, axis=0))
    # 2. How far estimates are off, before and after those labels.
    scores = windows.positives + windows.negatives
    held = (float(wander[0]), float(wander[1]))
    after = tilted(chances, fit_tilt(chances, windows, held))
    whole = Outcomes(days.positives.sum(axis=0), days.negatives.sum(axis=0))
    usual = []
    for name, measure in MEASURES.items():
        realised = measure(windows)
        off = (measure(expected(scores, each)) - realised for each in (chances, after))
        usual.append(Usual(name, float(measure(whole)), *(_spread(each) for each in off)))
    return Estimator(chances_of(whole), held, float(np.mean(windows.total)), tuple(usual))


def _spread(off: Floats) -> float:
    known = off[np.isfinite(off)]
    return float(np.sqrt(np.mean(known**2))) if len(known) else 1.0
