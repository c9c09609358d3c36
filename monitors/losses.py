"""How much an answer was off, once its label is known, as sketches that merge."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitors.buckets import Ints, Kind
from monitors.segments import Segmentation
from monitors.sketches import Sketches, sketch_batch

__all__ = ["LOSSES", "LOSS_KINDS", "TILE_MS", "sketch_losses", "sketch_segment_losses"]

TILE_MS: Final = 3_600_000
LOSSES: Final = ("log_loss", "surprise", "bias")
"""Those that are watched."""
LOSS_KINDS: Final[dict[str, Kind]] = {
    "bias": "numeric",
    "log_loss": "numeric",
    "score_negative": "score",
    "score_positive": "score",
    "surprise": "numeric",
}
_PROBABILITY_MIN: Final = 1e-6


def sketch_losses(
    probability: npt.NDArray[np.float64], label: npt.NDArray[Any], event_time_ms: npt.NDArray[np.int64]
) -> Sketches:
    """Losses of labelled predictions in tiles of an hour.

    ``log_loss`` rises with every stormy week, since such weeks are hard to call. ``bias`` (label less probability) and
    ``surprise`` (log loss less the entropy of the forecast, which is what a calibrated model expects to lose) are zero
    on average for a calibrated model whatever the weather: what moves them is the model. The scores of either class are
    there for the AUC.

    Parameters
    ----------
    probability : ndarray of float64, shape (n,)
    label : ndarray, shape (n,)
        0 or 1, or bool.
    event_time_ms : ndarray of int64, shape (n,)
        When each label arrived.
    """
    p = np.clip(np.asarray(probability, dtype=np.float64), _PROBABILITY_MIN, 1 - _PROBABILITY_MIN)
    y = np.asarray(label, dtype=np.float64)
    log_loss = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    columns = {
        "bias": y - p,
        "log_loss": log_loss,
        "score_negative": np.where(y == 0, p, np.nan),
        "score_positive": np.where(y == 1, p, np.nan),
        "surprise": log_loss + (p * np.log(p) + (1 - p) * np.log(1 - p)),
    }
    return sketch_batch(columns, LOSS_KINDS, event_time_ms, TILE_MS)


def sketch_segment_losses(
    segmentation: Segmentation,
    codes: Ints,
    probability: npt.NDArray[np.float64],
    label: npt.NDArray[Any],
    event_time_ms: Ints,
) -> Sketches:
    """:func:`sketch_losses` of every segment, see :meth:`monitors.segments.Segmentation.codes`."""
    rows, times = segmentation.spread(codes, event_time_ms)
    return sketch_losses(probability[rows], label[rows], times)
