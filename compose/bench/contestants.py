"""The detectors that :mod:`compose.bench.planted` compares: ours, and others by their own functions.

Each gives streams of shape (streams, days, rows) a score a look, shape (streams, LOOKS); more is more drift.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from river.drift import ADWIN, PageHinkley

from compose.bench.apart import run_apart
from compose.bench.estimates import PACKAGES as NANNYML
from compose.bench.planted import CATEGORIES, KINDS, LOOKS, REFERENCE_DAYS, ROWS_A_DAY, WINDOW_DAYS, Array, tuned
from monitors.losses import sketch_losses
from monitors.reference import ColumnSpec
from monitors.settings import MonitorSettings
from monitors.sketches import Kind, Sketches, sketch_batch
from monitors.thresholds import DAY_MS, HOUR_MS, build_reference
from monitors.watchers import feature_window

__all__ = ["APART", "OURS", "RIVER", "UNFLOORED", "evidently", "headwater", "river_fires", "scored"]

OURS: Final = "headwater"
UNFLOORED: Final = "no floor"
"""Ours by chance alone: our own alarms also take a distance that does harm (``Calibration.distance_floor``)."""

_ADWIN: Any = ADWIN  # has no types

APART: Final = {"NannyML": ("nannyml", NANNYML), "Alibi": ("alibi", ("alibi-detect==0.13.0",))}
"""In environments of their own: by name what the script calls them, and packages."""

RIVER: Final[dict[str, tuple[tuple[float, ...], Callable[[float], Any]]]] = {
    # Settings from what fires most to what fires least, and a detector of one. ADWIN takes days that differ for drift
    # unless its delta is many powers of ten below what it is by itself.
    "ADWIN": (tuple(np.geomspace(5, 150, 64).tolist()), lambda power: _ADWIN(delta=10.0**-power)),
    "Page-Hinkley": (tuple(np.geomspace(20, 20_000, 128).tolist()), lambda limit: PageHinkley(threshold=limit)),
}

_CHUNK: Final = 20
_FIRST_DAY: Final = 20_000


def headwater(rows: Array, text: bool) -> Array:
    """Ours, each stream the only column of a model: shape (2, streams, LOOKS), with the floor and without."""
    return np.stack([_headwater(stream, text) for stream in rows], axis=1)


def _headwater(stream: Array, text: bool) -> Array:
    kinds: dict[str, Kind] = {"x": "categorical" if text else "numeric"}
    values = np.array([f"c{i}" for i in range(len(CATEGORIES))], object)[stream] if text else stream

    def sketched(first: int, last: int, tile_ms: int) -> Sketches:
        return sketch_batch({"x": values[first:last].ravel()}, kinds, _times(first, last), tile_ms)

    reference = build_reference(
        "planted",
        "1",
        {"x": ColumnSpec(kinds["x"])},
        sketched(0, REFERENCE_DAYS, HOUR_MS),
        _some_losses(),
        seed=0,
    )
    watched = sketched(REFERENCE_DAYS, len(stream), DAY_MS)
    settings, chances = MonitorSettings(), np.ones((2, LOOKS))
    for look in range(LOOKS):

        def spend(p_value: float, look: int = look) -> float:
            chances[0, look] = p_value
            return 0.0

        window = watched.take(np.arange(look, look + WINDOW_DAYS))
        results, _ = feature_window(window, reference, settings.rows_min, 0.0, spend)
        told = [each.p_value for each in results if each.p_value is not None]
        chances[1, look] = min(told) * len(results)
    return -np.log10(np.maximum(chances, 1e-300))


def _times(first: int, last: int) -> Array:
    return (np.arange(first, last)[:, None] * DAY_MS + np.arange(ROWS_A_DAY) * (DAY_MS // ROWS_A_DAY)).ravel() + (
        _FIRST_DAY * DAY_MS
    )


@cache
def _some_losses() -> Sketches:
    """A reference needs some; what they are says nothing of its columns."""
    rng = np.random.default_rng(0)
    times = _times(0, REFERENCE_DAYS)
    return sketch_losses(np.full(len(times), 0.3), rng.random(len(times)) < 0.3, times)


def evidently(rows: Array, text: bool) -> Array:
    """Evidently's defaults for a reference of more than 1000 rows, by its own functions."""
    from evidently.legacy.calculations.stattests import jensenshannon_stat_test, wasserstein_stat_test
    from evidently.legacy.core import ColumnType

    test = jensenshannon_stat_test if text else wasserstein_stat_test
    kind = ColumnType.Categorical if text else ColumnType.Numerical
    found = np.empty((len(rows), LOOKS))
    for number, stream in enumerate(rows):
        reference = pd.Series(stream[:REFERENCE_DAYS].ravel())
        for look in range(LOOKS):
            start = REFERENCE_DAYS + look
            current = pd.Series(stream[start : start + WINDOW_DAYS].ravel())
            found[number, look] = test(reference, current, kind, None).drift_score
    return found


def river_fires(rows: Array, name: str, strength: float) -> Array:
    """1 on days on which a detector of river fires, which hears every row, of the reference too. Not of texts."""
    found = np.zeros((len(rows), LOOKS))
    first = REFERENCE_DAYS + WINDOW_DAYS - 1
    for number, stream in enumerate(rows):
        detector = RIVER[name][1](strength)
        for day, values in enumerate(stream.tolist()):
            fired = False
            for value in values:
                detector.update(value)
                fired |= detector.drift_detected
            if day >= first:
                found[number, day - first] = fired
    return found


def _some(path: Path, first: int, last: int, score: Callable[[Array], Array]) -> Array:
    return score(np.load(path, mmap_mode="r")[first:last])


class _Pending:
    """Scores of one file, made in parts."""

    def __init__(self, pool: Executor, path: Path, score: Callable[[Array], Array]) -> None:
        streams = len(np.load(path, mmap_mode="r"))
        starts = range(0, streams, _CHUNK)
        self._parts: list[Future[Array]] = [
            pool.submit(_some, path, start, min(start + _CHUNK, streams), score) for start in starts
        ]

    def result(self) -> Array:
        return np.concatenate([each.result() for each in self._parts], axis=-2)


def scored(
    pool: Executor, paths: dict[str, Path], uv: str | None, tell: Callable[[str], None]
) -> tuple[dict[str, dict[str, Array]], dict[str, float]]:
    """By detector and file its scores; and the settings of those that were tuned.

    Parameters
    ----------
    pool : Executor
    paths : mapping of a name of ``planted.KINDS`` to Path
    uv : str, optional
        Without it those with environments of their own are left out.
    tell : callable
        Told what is going on.
    """
    apart = {} if uv is None else {name: pool.submit(_apart, uv, name, paths) for name in APART}
    own = {file: _Pending(pool, path, partial(headwater, text=KINDS[file] == "text")) for file, path in paths.items()}
    theirs = {
        file: _Pending(pool, path, partial(evidently, text=KINDS[file] == "text")) for file, path in paths.items()
    }
    numbers = {file: path for file, path in paths.items() if KINDS[file] == "numeric"}
    settings, heard = {}, {}
    for name, (strengths, _) in RIVER.items():
        tell(f"Planted drifts: {name} is tuned to the common rate of false alarms")
        settings[name] = tuned(strengths, partial(_unchanged, pool, paths["numeric"], name))
        fires = partial(river_fires, name=name, strength=settings[name])
        heard[name] = {file: _Pending(pool, path, fires) for file, path in numbers.items()}
    tell("Planted drifts: ours and the others")
    ours = {file: each.result() for file, each in own.items()}
    found = {OURS: {file: both[0] for file, both in ours.items()}}
    found[UNFLOORED] = {file: both[1] for file, both in ours.items()}
    found["Evidently"] = {file: each.result() for file, each in theirs.items()}
    found |= {name: each.result() for name, each in apart.items()}
    found |= {name: {file: each.result() for file, each in files.items()} for name, files in heard.items()}
    return found, settings


def _unchanged(pool: Executor, path: Path, name: str, strength: float) -> Array:
    return _Pending(pool, path, partial(river_fires, name=name, strength=strength)).result()


def _apart(uv: str, name: str, paths: dict[str, Path]) -> dict[str, Array]:
    library, packages = APART[name]
    written = {file: str(path.with_name(f"{path.stem}-{library}.npy")) for file, path in paths.items()}
    files = [(str(path), written[file], KINDS[file] == "text") for file, path in paths.items()]
    order = {"library": library, "files": files, "reference_days": REFERENCE_DAYS, "window_days": WINDOW_DAYS}
    run_apart(uv, packages, Path(__file__).with_name("contestants_script.py"), order)
    return {file: np.load(path) for file, path in written.items()}
