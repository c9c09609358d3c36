"""How windows are drawn from the days of a reference: in blocks of consecutive days, each from its weekday."""

from dataclasses import dataclass, replace

import numpy as np

from monitors.buckets import Ints
from monitors.memory import WEEK

__all__ = ["Calibration", "draw_pairs", "draw_windows", "drawn_too_narrow"]


@dataclass(frozen=True)
class Calibration:
    """How thresholds are drawn.

    Attributes
    ----------
    window_days : int
        A week, so that every window has the same weekdays.
    block_days : int
        Weather systems pass in about three days.
    replicates : int
    distance_floor : float
        Smallest threshold of any distance: less does no harm, however certain. Schedules change with the seasons, by a
        PSI of 0.05 to 0.13 in a year of flights.
    tail_floor : float
        The same of the share of values in the reference's tails, which hold at most 0.01 of the reference.
    weekdays : bool
        Whether all that each weekday is known from a few weeks only is allowed for: in spreads of distances, and in how
        many days a spread is known from. Spreads of losses always are: of 60 models of independent days that never
        change, `performance` alone raised 0.17 in 30 days of a budget of 0.125, and 0.07 since. Allowing for all of it
        leaves 0.03, so that most of the budget would go unspent. With blocks of one day it is exact for days that are
        independent. See :meth:`of_segments`.
    """

    window_days: int = 7
    block_days: int = 3
    replicates: int = 500
    distance_floor: float = 0.1
    tail_floor: float = 0.025
    weekdays: bool = False

    def of_segments(self) -> "Calibration":
        """The same for segments, whose many tests lie so far out that a spread a little too small costs dearly.

        Of 50 models that never change, with five segments, a reference of five weeks and a budget of 0.25 in 30 days,
        all traffic raised 0.10 and segments 0.19, thresholds drawn alike; the streams whose spreads had come out
        smallest raised most of it.
        """
        return replace(self, block_days=1, weekdays=True)


def draw_windows(days: Ints, settings: Calibration, random: np.random.Generator) -> Ints:
    """How often each day is in each of `replicates` windows, shape (replicates, len(days)).

    A window is filled with blocks of consecutive days, each from the weekday it stands for, so that a window of a week
    has every weekday once, as real ones do.

    Parameters
    ----------
    days : ndarray of int64
        Day numbers, ascending, with or without gaps; a gap drawn is left empty.
    settings : Calibration
    random : numpy Generator
    """
    span = int(days[-1] - days[0]) + 1
    weights = np.zeros((settings.replicates, span), dtype=np.int64)
    row = np.arange(settings.replicates)
    phase = random.integers(0, 7, settings.replicates)
    for offset in range(0, settings.window_days, settings.block_days):
        length = min(settings.block_days, settings.window_days - offset)
        first = (phase + offset) % 7
        start = first + 7 * random.integers(0, np.maximum((span - length - first) // 7 + 1, 1))
        for i in range(length):
            np.add.at(weights, (row, (start + i) % span), 1)
    return weights[:, days - days[0]]


def draw_pairs(days: Ints, settings: Calibration, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Two windows of each replicate without a day in common, each as of :func:`draw_windows`.

    Both are cut into the same blocks of weekdays, and a block of one is of another week than that of the other.
    """
    span = int(days[-1] - days[0]) + 1
    weights = np.zeros((2, settings.replicates, span), dtype=np.int64)
    row = np.arange(settings.replicates)
    phase = random.integers(0, 7, settings.replicates)
    for offset in range(0, settings.window_days, settings.block_days):
        length = min(settings.block_days, settings.window_days - offset)
        first = (phase + offset) % 7
        weeks = (span - length - first) // 7 + 1
        one, other = random.integers(0, weeks), random.integers(0, weeks - 1)
        for side, week in enumerate((one, other + (other >= one))):
            for i in range(length):
                np.add.at(weights[side], (row, first + 7 * week + i), 1)
    held = days - days[0]
    return weights[0][:, held], weights[1][:, held]


def drawn_too_narrow(days: int) -> float:
    """By how much windows of drawn days vary less than others do: each of their weekdays is drawn from few weeks."""
    weeks = days / WEEK
    return weeks / (weeks - 1)
