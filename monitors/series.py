"""Series of a model, a value an hour: what the monitor `sequential` hears, and references know the days of.

=============  =====================================================  ============
series         every hour's                                           fires for
=============  =====================================================  ============
log_loss       mean log loss of the labels that arrived               a rise
surprise       mean log loss beyond what the scores lead to expect    a rise
error_rate     share of answers that were wrong                       a rise
bias           mean of label less probability                         any change
positive_rate  share of positives among the labels                    any change
score          mean score of the requests                             any change
=============  =====================================================  ============
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from monitors.buckets import Floats
from monitors.detectors import Scale
from monitors.estimates import MEASURES, Outcomes
from monitors.losses import LOSSES
from monitors.sketches import Sketches

__all__ = ["HOUR_ROWS_MIN", "SCORES", "SERIES", "Series", "hourly", "overall", "score_column"]

HOUR_ROWS_MIN: Final = 10
"""Fewest labels, or requests where it is scores, of an hour that counts."""
SCORES: Final = "score"


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
    """

    title: str
    sides: int
    scale: Scale


SERIES: Final[Mapping[str, Series]] = {
    "log_loss": Series("log loss", 1, "loss"),
    "surprise": Series("surprise", 1, "signed"),
    "error_rate": Series("error rate", 1, "share"),
    "bias": Series("bias", 2, "signed"),
    "positive_rate": Series("share of positives", 2, "share"),
    SCORES: Series("mean score", 2, "share"),
}


def score_column(sketches: Sketches) -> str | None:
    """The column that holds the model's scores; None where there is none."""
    return next((name for name, kind in zip(sketches.names, sketches.kinds, strict=True) if kind == "score"), None)


def _positives(outcomes: Outcomes) -> Floats:
    found = np.asarray(outcomes.positives.sum(axis=-1), dtype=np.float64)
    total = np.asarray(outcomes.total, dtype=np.float64)
    return np.divide(found, total, out=np.full(found.shape, np.nan), where=total > 0)


def _errors(outcomes: Outcomes) -> Floats:
    wrong: Floats = 1 - MEASURES["accuracy"](outcomes)
    return wrong


_RATES: Final[Mapping[str, Callable[[Outcomes], Floats]]] = {"positive_rate": _positives, "error_rate": _errors}


def hourly(series: str, table: Sketches) -> Floats:
    """Value of each tile of losses, or of requests for ``score``, shape (tiles,); NaN where there is none.

    Raises
    ------
    KeyError
        For scores of requests without any, and for what is no series.
    """
    if series == SCORES:
        name = score_column(table)
        if name is None:
            raise KeyError(SCORES)
        return table.means[:, table.names.index(name)]
    if series in LOSSES:
        return table.means[:, table.names.index(series)]
    return _RATES[series](Outcomes.by_tile(table))


def overall(series: str, losses: Sketches) -> float:
    """Value of all tiles of losses together."""
    if series in LOSSES:
        return float(losses.column(series).total / losses.rows.sum())
    return float(_RATES[series](Outcomes.of(losses)))
