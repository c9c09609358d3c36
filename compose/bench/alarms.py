"""How often monitors cry wolf, beside the budget stated for it, and what they find, beside others at the same rate.

Streams that never change say the first: each is a model with one column and scored requests with labels, watched for a
year by the code that watches real ones. Streams with planted drifts say the second, see :mod:`compose.bench.planted`.
"""

import math
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.table import Table
from scipy.special import expit

from compose.bench import contestants, planted
from compose.bench.planted import Power, days_like_those_before, verdict
from compose.bench.spread import plain_table
from monitors.budget import MONTH_DAYS, Budget
from monitors.incidents import Finding, IncidentBook
from monitors.losses import sketch_losses
from monitors.reference import ColumnSpec, Reference
from monitors.sequential import Sequential
from monitors.settings import MonitorSettings
from monitors.sketches import Sketches, sketch_batch
from monitors.thresholds import DAY_MS, HOUR_MS, build_reference
from monitors.watchers import feature_window, performance_window

__all__ = ["KINDS", "Sizes", "Stream", "Watched", "measure", "stream", "summary", "tables", "watch"]

KINDS: Final = ("independent", "together", "weekly")
MONITORS: Final = ("features", "performance", "sequential")
UNCHANGED: Final = 6
"""Times as many streams set the others' thresholds as have a drift planted."""

_SEED: Final = 7
_FIRST_DAY: Final = 20_000
_RESAMPLED: Final = 2000
_NARROW: Final = {
    contestants.OURS: "ours",
    contestants.UNFLOORED: "no\nfloor",
    "Evidently": "Evi-\ndently",
    "NannyML": "Nanny-\nML",
    "Page-Hinkley": "Page-\nHinkley",
}
"""Heads of columns: eight of them have to fit a terminal."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    streams : int
        That never change, a third of each of ``KINDS``.
    planted : int
        With each of the drifts, in either population.
    days : int
        Watched of each stream that never changes, after `reference_days`.
    reference_days, rows_a_day : int
    """

    streams: int = 300
    planted: int = 40
    days: int = 365
    reference_days: int = 35
    rows_a_day: int = 300


@dataclass(frozen=True)
class Stream:
    """A model's column and losses in tiles of an hour; before `from_ms` is its reference."""

    features: Sketches
    losses: Sketches
    from_ms: int
    days: int


@dataclass(frozen=True)
class Watched:
    """What one stream's monitors said.

    Attributes
    ----------
    opened : tuple of (monitor, time_ms, renewed)
        Incidents that opened, by the end of their window; a renewed one had been open for a whole epoch before.
    looks, fired : dict of monitor to int
        Windows judged, and those beyond a threshold, whether or not an incident was open.
    """

    opened: tuple[tuple[str, int, bool], ...]
    looks: dict[str, int]
    fired: dict[str, int]

    def count(self, monitors: tuple[str, ...]) -> int:
        """Incidents of these monitors."""
        return sum(monitor in monitors for monitor, *_ in self.opened)


def levels(kind: str, days: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """What all rows of a day have in common, in units of the rows' own deviation, shape (days,)."""
    if kind == "together":
        return days_like_those_before((days, 1), 0.7, 0.3, rng)[:, 0]
    if kind == "weekly":
        return 0.5 * np.sin(2 * np.pi * np.arange(days) / 7) + rng.normal(0, 0.1, days)
    return np.zeros(days)


def stream(kind: str, number: int, sizes: Sizes) -> Stream:
    """One that never changes; its model is calibrated on every day."""
    rng = np.random.default_rng([_SEED, KINDS.index(kind), number])
    days = sizes.reference_days + sizes.days
    level = levels(kind, days, rng)[:, None]
    shape = (days, sizes.rows_a_day)
    rows = level + rng.standard_normal(shape)
    probability = expit(-1 + level + 0.7 * rng.standard_normal(shape))
    label = rng.random(shape) < probability
    within = np.arange(sizes.rows_a_day) * (DAY_MS // sizes.rows_a_day)
    times = ((_FIRST_DAY + np.arange(days)[:, None]) * DAY_MS + within).ravel()
    features = sketch_batch({"x": rows.ravel()}, {"x": "numeric"}, times, HOUR_MS)
    losses = sketch_losses(probability.ravel(), label.ravel(), times)
    return Stream(features, losses, (_FIRST_DAY + sizes.reference_days) * DAY_MS, sizes.days)


def reference_of(each: Stream) -> Reference:
    """Of the days before it is watched."""
    before = (each.features.between(0, each.from_ms), each.losses.between(0, each.from_ms))
    return build_reference("unchanged", "1", {"x": ColumnSpec("numeric")}, *before, seed=0)


def watch(each: Stream) -> Watched:
    """Judge every day as :class:`monitors.evaluate.ModelMonitor` does, but for its hourly monitor of feeds."""
    settings, reference = MonitorSettings(), reference_of(each)
    days, book = reference.window_days, IncidentBook("unchanged", settings.version)
    budget = Budget(settings.false_retrains_a_month, len(MONITORS), days)
    features, losses = each.features.coarsen(DAY_MS), each.losses.coarsen(DAY_MS)
    detectors = Sequential(settings.sequential, reference)
    opened: list[tuple[str, int, bool]] = []
    looks, fired = dict.fromkeys(MONITORS, 0), dict.fromkeys(MONITORS, 0)

    def spend(monitor: str, end: int, p_value: float) -> float:
        return budget.look(end, p_value, book.is_open(monitor, ""))

    def judge(monitor: str, window: tuple[int, int], finding: Finding) -> None:
        looks[monitor] += finding.fired is not None
        fired[monitor] += bool(finding.fired)
        told = book.judge("1", monitor, "", window, finding, settings.patience[monitor])
        statuses = [alert.status for alert in told]
        if "opened" in statuses:
            opened.append((monitor, window[1], "resolved" in statuses))

    for day in range(1, each.days + 1):
        end = each.from_ms + day * DAY_MS
        window = (end - days * DAY_MS, end)
        if day >= days:
            args = (reference, settings.rows_min, budget.usual)
            _, traffic = feature_window(features.between(*window), *args, partial(spend, "features", end))
            judge("features", window, traffic[""])
            _, fit = performance_window(losses.between(*window), *args, partial(spend, "performance", end))
            judge("performance", window, fit[""])
        _, heard = detectors.judge(end, each.losses, reference, partial(spend, "sequential", end))
        judge("sequential", (end - DAY_MS, end), heard)
    return Watched(tuple(opened), looks, fired)


def _watched(kind: str, sizes: Sizes, number: int) -> Watched:
    return watch(stream(kind, number, sizes))


def summary(watched: list[Watched]) -> dict[str, Any]:
    """Of streams of one kind: incidents opened a stream-month, with the ends of a 95% interval, and looks that fired.

    A month is 30 days of looks. The interval is of the mean over streams, by resampling them.
    """
    found: dict[str, Any] = {"streams": len(watched)}
    for name in (*MONITORS, "all"):
        mine = MONITORS if name == "all" else (name,)
        days = [each.looks[mine[0]] for each in watched]
        monthly = np.array([each.count(mine) for each in watched]) * MONTH_DAYS / np.array(days)
        rng = np.random.default_rng(_SEED)
        means = monthly[rng.integers(0, len(monthly), (_RESAMPLED, len(monthly)))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975]).tolist()
        found[name] = {
            "incidents": sum(each.count(mine) for each in watched),
            "renewed": sum(renewed for each in watched for monitor, _, renewed in each.opened if monitor in mine),
            "months": sum(days) / MONTH_DAYS,
            "incidents_a_month": {"mean": float(monthly.mean()), "low": low, "high": high},
            "looks": sum(each.looks[monitor] for each in watched for monitor in mine),
            "looks_fired": sum(each.fired[monitor] for each in watched for monitor in mine),
        }
    found["all"]["budget_a_month"] = MonitorSettings().false_retrains_a_month
    return found


def measure(folder: Path, uv: str | None, sizes: Sizes, tell: Callable[[str], None]) -> dict[str, Any]:
    """Everything the bench says.

    Parameters
    ----------
    folder : Path
        For the streams with drifts: 0.24 MB for each of numbers, of one population after the other.
    uv : str, optional
        Without it NannyML and Alibi Detect are left out.
    sizes : Sizes
    tell : callable
        Told what is going on.

    Raises
    ------
    PlatformError
        Where one of those two fails.
    """
    # Not by fork: libraries that compute have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context) as pool:
        each, kinds = math.ceil(sizes.streams / len(KINDS)), {}
        for kind in KINDS:
            tell(f"Watching {each} streams for {sizes.days} days: {kind}")
            kinds[kind] = summary(list(pool.map(partial(_watched, kind, sizes), range(each), chunksize=4)))
        populations = {}
        for name, noise in planted.POPULATIONS.items():
            tell(f"Planting drifts into streams whose days differ by {_listed(noise)}")
            paths = planted.write_streams(folder, name, sizes.planted, UNCHANGED * sizes.planted)
            populations[name] = _power_of(noise, *contestants.scored(pool, paths, uv, tell))
    return {
        "sizes": asdict(sizes) | {"unchanged": UNCHANGED * sizes.planted},
        "unchanged": kinds,
        "planted": {"alarms_a_year": planted.ALARMS_A_YEAR, "populations": populations},
    }


def _power_of(
    noise: tuple[float, ...], scores: dict[str, dict[str, planted.Array]], settings: dict[str, float]
) -> dict[str, Any]:
    """Of one population, each detector with one threshold for the whole of it, as who watches a fleet sets one."""
    found = planted.compare(scores)
    others = [name for name in scores if name not in (contestants.OURS, contestants.UNFLOORED)]
    return {
        "noise": noise,
        "thresholds": found["unchanged"],
        "tuned": settings,
        "drifts": {
            drift: {name: asdict(each) for name, each in told.items()} for drift, told in found["drifts"].items()
        },
        "verdicts": {drift: verdict(told, contestants.OURS, others) for drift, told in found["drifts"].items()},
        "by_noise": planted.by_noise(scores, found["unchanged"], len(noise)),
    }


def _listed(noise: tuple[float, ...]) -> str:
    *others, last = [f"{each:g}" for each in noise]
    return f"{', '.join(others)} or {last}" if others else last


def tables(found: dict[str, Any]) -> list[Table]:
    """For people."""
    shown = [_powers(found, population) for population in found["planted"]["populations"]]
    shown[-1].caption = (
        f"Thresholds are set on {found['sizes']['unchanged']} streams of such days that never change. 'no floor' is "
        "ours by chance alone; 'close' is within 5% of who finds most. Who always fires finds 1.00 after 0 days, with "
        "a false alarm that never ends; who never fires finds 0.00."
    )
    shown[-1].caption_justify = "left"
    return [_alarms(found), *shown]


def _alarms(found: dict[str, Any]) -> Table:
    title = f"Streams that never change, {found['sizes']['days']} days of each: incidents opened in 30 days of a stream"
    shown = plain_table(title, "days", "monitor", "a month", "95%", "budget", "fired", texts=2)
    for kind, told in found["unchanged"].items():
        for name in (*MONITORS, "all"):
            each = told[name]
            rate, budget = each["incidents_a_month"], each.get("budget_a_month")
            stated = f"{budget:g}" if budget is not None else ""
            ends, fired = f"{rate['low']:.3f} to {rate['high']:.3f}", each["looks_fired"] / each["looks"]
            shown.add_row(kind, name, f"{rate['mean']:.3f}", ends, stated, f"{fired:.2%}")
    shown.caption = f"{told['streams']} streams of each kind. The budget is of all together; fired: share of looks."
    shown.caption_justify = "left"
    return shown


def _short(verdict: str) -> str:
    return "behind" if verdict.startswith("behind") else verdict.replace("within 5%", "close")


def _powers(found: dict[str, Any], population: str) -> Table:
    sizes, told = found["sizes"], found["planted"]["populations"][population]
    title = (
        f"Drifts planted into {sizes['planted']} streams each, whose days differ by {_listed(told['noise'])} of what "
        f"their rows do: share found within {planted.WITHIN_DAYS} days, below it the median delay, at "
        f"{found['planted']['alarms_a_year']:g} false alarm a stream-year"
    )
    names = list(dict.fromkeys(name for each in told["drifts"].values() for name in each))
    shown = plain_table(title, "drift", *(_NARROW.get(name, name) for name in names), "verdict")
    for drift, each in told["drifts"].items():
        cells = [Power(**each[name]).shown() if name in each else "" for name in names]
        shown.add_row(drift, *cells, _short(told["verdicts"][drift]))
    return shown
