"""Drifts planted into streams, and who finds them at the same rate of false alarms.

Every detector gives a stream one score a day, of the trailing week against the reference. What score raises an alarm is
set on streams that never change, so that all of them raise as many alarms for nothing; then each is given streams that
do change. Days differ by themselves, and each is a little like the one before, as days of real traffic are. By how much
they differ is one figure for all streams of one population, and one of three in another: see ``POPULATIONS``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALARMS_A_YEAR",
    "BEGINS",
    "CATEGORIES",
    "DRIFTS",
    "KINDS",
    "LOOKS",
    "POPULATIONS",
    "REFERENCE_DAYS",
    "ROWS_A_DAY",
    "WATCHED_DAYS",
    "WINDOW_DAYS",
    "WITHIN_DAYS",
    "Array",
    "Power",
    "by_noise",
    "compare",
    "days_like_those_before",
    "episodes",
    "power",
    "quietest",
    "tuned",
    "verdict",
    "write_streams",
]

Array = npt.NDArray[Any]

ROWS_A_DAY: Final = 300
REFERENCE_DAYS: Final = 35
WATCHED_DAYS: Final = 63
WINDOW_DAYS: Final = 7
LOOKS: Final = WATCHED_DAYS - WINDOW_DAYS + 1
BEGINS: Final = 14
"""Day of the watched part on which a drift begins: so many have passed unchanged."""
WITHIN_DAYS: Final = 42
ALARMS_A_YEAR: Final = 1.0
"""False alarms that every detector is allowed, of a stream."""
QUIET_DAYS: Final = 3
"""End an alarm, as the patience of our own monitors has it."""
CLOSE: Final = 0.95

CATEGORIES: Final = np.array([0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05, 0.05])
POPULATIONS: Final[dict[str, tuple[float, ...]]] = {"alike": (0.15,), "mixed": (0.05, 0.15, 0.45)}
"""Noise of days, as a share of the deviation of a day's rows: of each stream one of these, in turn.

Whoever sets one threshold for a fleet sets it for all features at once. It fits them where their days differ alike, and
they seldom do. Of the year of flights (:mod:`compose.demo.flights`), seasons taken out by a mean of 35 days, hours and
time in the air differ by 0.04 from day to day, delays by 0.3 and 0.4, rain by 0.4 and other weather by 0.8 to 2.6.
So ``mixed`` has the noise of ``alike``, a third of it, and three times as much, which is still less than the weather's.
Of texts it is the deviation of the logarithm of each category's share; the flights' carriers and origins differ by less
than 0.06, so that 0.45 is more than they know. Drifts are as large in one population as in the other.
"""

_MEMORY: Final = 0.5
_SEED: Final = 11

Planted = Callable[[Array, Array, np.random.Generator], Array]
"""Of the days since the drift began: their rows, (streams, days, rows), and each day's number after it, (days, 1)."""


def _tail(rows: Array, _: Array, rng: np.random.Generator) -> Array:
    return np.where(rng.random(rows.shape) < 0.02, rng.uniform(4, 8, rows.shape), rows)


def _segment(rows: Array, _: Array, rng: np.random.Generator) -> Array:
    return rows + 1.5 * (rng.random(rows.shape) < 0.05)


DRIFTS: Final[dict[str, Planted]] = {
    "mean": lambda rows, _, __: rows + 0.25,
    "scale": lambda rows, _, __: rows * 1.25,
    "tail": _tail,
    "segment": _segment,
    "slow": lambda rows, after, _: rows + 0.4 * np.minimum(after / 40, 1),
    "sudden": lambda rows, _, __: rows + 0.6,
    "recurring": lambda rows, after, _: rows + 0.4 * (after % 7 < 3),
}
"""Of numbers; that of a column of texts is ``category``."""

KINDS: Final = {"numeric": "numeric", "text": "text", **dict.fromkeys(DRIFTS, "numeric"), "category": "text"}
"""What is in the file of each name: those that never change, of either kind, and those with a drift."""


def days_like_those_before(
    shape: tuple[int, ...], memory: float, deviation: float | npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Levels of days, an autoregression along the last axis but one at its stationary state.

    Parameters
    ----------
    shape : tuple of int
        Days are the last axis but one.
    memory : float
        Autocorrelation of a day and the next.
    deviation : float or ndarray that broadcasts to `shape`
        Of each level.
    rng : numpy Generator
    """
    levels = rng.normal(0.0, deviation, shape)
    for day in range(1, shape[-2]):
        fresh = np.sqrt(1 - memory * memory) * levels[..., day, :]
        levels[..., day, :] = memory * levels[..., day - 1, :] + fresh
    return levels


def write_streams(folder: Path, population: str, planted: int, unchanged: int) -> dict[str, Path]:
    """Write the streams of each of ``KINDS`` to a file of numpy: an array of shape (streams, days, rows).

    Parameters
    ----------
    folder : Path
    population : str
        A name of ``POPULATIONS``.
    planted, unchanged : int
        Streams with each drift, and streams of either kind that never change.

    Notes
    -----
    Days are those of the reference and then those watched. Texts are written as their position in ``CATEGORIES``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        rng = np.random.default_rng([_SEED, number, list(POPULATIONS).index(population)])
        drifts = name not in ("numeric", "text")
        streams = planted if drifts else unchanged
        noise = np.resize(POPULATIONS[population], streams)[:, None, None]
        rows = _texts(noise, drifts, rng) if kind == "text" else _numbers(noise, DRIFTS.get(name), rng)
        paths[name] = folder / f"{name}.npy"
        np.save(paths[name], rows)
    return paths


def _numbers(noise: Array, drift: Planted | None, rng: np.random.Generator) -> Array:
    streams, days = len(noise), REFERENCE_DAYS + WATCHED_DAYS
    rows = days_like_those_before((streams, days, 1), _MEMORY, noise, rng)
    rows = rows + rng.standard_normal((streams, days, ROWS_A_DAY))
    if drift is not None:
        since = REFERENCE_DAYS + BEGINS
        rows[:, since:] = drift(rows[:, since:], np.arange(days - since)[:, None], rng)
    return rows


def _texts(noise: Array, drifts: bool, rng: np.random.Generator) -> Array:
    """Categories, the share of each with a noise of days of its own; drifting, the last is twice as frequent."""
    streams, days = len(noise), REFERENCE_DAYS + WATCHED_DAYS
    levels = days_like_those_before((streams, days, len(CATEGORIES)), _MEMORY, noise, rng)
    shares = CATEGORIES * np.exp(levels)
    shares /= shares.sum(axis=-1, keepdims=True)
    if drifts:
        since = REFERENCE_DAYS + BEGINS
        last = shares[:, since:, -1:]
        others = shares[:, since:, :-1] * (1 - 2 * last) / (1 - last)
        shares[:, since:] = np.concatenate([others, 2 * last], axis=-1)
    ends = np.cumsum(shares, axis=-1)[..., :-1]
    drawn = rng.random((streams, days, ROWS_A_DAY))
    return np.sum([drawn > ends[..., i, None] for i in range(ends.shape[-1])], axis=0).astype(np.int8)


def episodes(fired: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where an alarm opens, and where one is open once the day is over, each of the shape of `fired`.

    Parameters
    ----------
    fired : ndarray of bool, shape (streams, days)
    """
    opened, after = np.zeros_like(fired), np.zeros_like(fired)
    is_open, quiet = np.zeros(len(fired), bool), np.zeros(len(fired), int)
    for day in range(fired.shape[1]):
        now = fired[:, day]
        opened[:, day] = now & ~is_open
        quiet = np.where(now, 0, quiet + 1)
        is_open = (is_open | now) & (quiet < QUIET_DAYS)
        after[:, day] = is_open
    return opened, after


def _allowed(scores: Array) -> float:
    return ALARMS_A_YEAR * scores.size / 365


def quietest(scores: Array) -> float:
    """Least threshold that keeps streams which never change within ``ALARMS_A_YEAR``: what is above it is an alarm.

    Parameters
    ----------
    scores : ndarray, shape (streams, days)
    """
    found = np.inf
    for value in np.unique(scores)[::-1].tolist():
        if episodes(scores > value)[0].sum() > _allowed(scores):
            break
        found = value
    return float(found)


def tuned(strengths: Sequence[float], scores_at: Callable[[float], Array]) -> float:
    """The weakest of some settings of a detector that keeps within ``ALARMS_A_YEAR``, found by halving.

    Parameters
    ----------
    strengths : sequence of float
        From what fires most to what fires least.
    scores_at : callable of float to ndarray, shape (streams, days)
        1 on days on which it fires, on streams that never change.
    """
    low, high = 0, len(strengths) - 1
    while low < high:
        middle = (low + high) // 2
        scores = scores_at(strengths[middle])
        if episodes(scores > 0)[0].sum() > _allowed(scores):
            low = middle + 1
        else:
            high = middle
    return strengths[low]


@dataclass(frozen=True)
class Power:
    """How one detector did on streams with one drift.

    Attributes
    ----------
    found : float
        Share of streams with an alarm within ``WITHIN_DAYS`` of the drift's beginning, and none open before it.
    delay_days : float or None
        Median of those: 0 where the look at the end of the first day of the drift raised it.
    """

    found: float
    delay_days: float | None

    def shown(self) -> str:
        """For people, the share above the delay."""
        return f"{self.found:.2f}\n{'-' if self.delay_days is None else format(self.delay_days, 'g')}"


def power(scores: Array, threshold: float) -> Power:
    """Of streams that drift, one score a look, shape (streams, LOOKS)."""
    fired = scores > threshold
    first = BEGINS - WINDOW_DAYS + 1
    before = episodes(fired)[1][:, first - 1]
    within = fired[:, first : first + WITHIN_DAYS]
    found = within.any(axis=1) & ~before
    delay = float(np.median(within.argmax(axis=1)[found])) if found.any() else None
    return Power(float(found.mean()), delay)


def compare(scores: dict[str, dict[str, Array]]) -> dict[str, Any]:
    """By drift and detector its power; by kind of column and detector its threshold and what that lets through.

    Parameters
    ----------
    scores : mapping of detector to mapping of a name of ``KINDS`` to ndarray, shape (streams, LOOKS)
        A detector that does not hear a kind has nothing there.
    """
    quiet: dict[str, dict[str, dict[str, float]]] = {"numeric": {}, "text": {}}
    for detector, by_file in scores.items():
        for kind, told in quiet.items():
            if kind in by_file:
                unchanged = by_file[kind]
                threshold = quietest(unchanged)
                alarms = int(episodes(unchanged > threshold)[0].sum())
                told[detector] = {"threshold": threshold, "alarms_a_year": alarms * 365 / unchanged.size}
    found = {
        drift: {
            detector: power(by_file[drift], quiet[KINDS[drift]][detector]["threshold"])
            for detector, by_file in scores.items()
            if drift in by_file
        }
        for drift in KINDS
        if drift not in quiet
    }
    return {"unchanged": quiet, "drifts": found}


def by_noise(scores: dict[str, dict[str, Array]], quiet: dict[str, Any], noises: int) -> dict[str, Any]:
    """What :func:`compare` found, of streams of each noise: whose the false alarms are, and where drifts are found.

    Parameters
    ----------
    scores : mapping
        As of :func:`compare`.
    quiet : mapping
        What that says of streams that never change.
    noises : int
        How many there are in the population, in turn.
    """
    alarms: dict[str, dict[str, list[int]]] = {}
    found: dict[str, dict[str, list[float]]] = {}
    for detector, by_file in scores.items():
        for name, each in by_file.items():
            threshold = quiet[KINDS[name]][detector]["threshold"]
            parts = [each[number::noises] for number in range(noises)]
            if name in quiet:
                told = [int(episodes(part > threshold)[0].sum()) for part in parts]
                alarms.setdefault(name, {})[detector] = told
            else:
                found.setdefault(name, {})[detector] = [power(part, threshold).found for part in parts]
    return {"false_alarms": alarms, "found": found}


def verdict(found: dict[str, Power], ours: str, others: Sequence[str]) -> str:
    """Whether ours finds as many as whoever finds most, or nearly."""
    rivals = {name: found[name].found for name in others if name in found}
    best = max(rivals, key=lambda name: rivals[name])
    if found[ours].found >= rivals[best]:
        return "first"
    close = found[ours].found >= CLOSE * rivals[best]
    return "within 5%" if close else f"behind {best}"
