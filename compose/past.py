"""Traffic that is over: what the archive keeps of it, and what the monitors say when they hear it again.

Alerts are those of the drift job, since what it judges is a function of what the tiles hold.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from clickhouse_connect.driver.exceptions import ClickHouseError

from compose.local.home import Home, PlatformError
from features.compiler.inputs import read_inputs
from jobs.reading import client_of
from jobs.references import Loader
from jobs.segmenting import Cards
from jobs.stored import Batch, Stored
from monitors.evaluate import ModelMonitor
from monitors.incidents import Alert
from monitors.policy import PRIOR, Version
from monitors.reference import Reference, UnusableReferenceError
from monitors.segments import SPAN_MS
from monitors.settings import MonitorSettings
from monitors.sketches import SketchError, Sketches, merge
from monitors.thresholds import DAY_MS, HOUR_MS

__all__ = ["Past", "References", "open_archive", "read_past"]

NO_TABLE = "UNKNOWN_TABLE"
SLICE_MS = 31 * DAY_MS
References = Callable[[str], Reference | None]


@contextmanager
def open_archive(home: Home, clickhouse: str, model: str) -> Iterator[tuple[Stored, References]]:
    """The traffic of a model and its references, of a platform; what is wrong with them is said for people.

    Parameters
    ----------
    home : Home
    clickhouse : str
        URL.
    model : str

    Raises
    ------
    PlatformError
        Where there is no such model, nothing is archived, or a reference or sketch cannot be read.
    """
    try:
        known = read_inputs(home.path("inputs.json"))
        if model not in known:
            raise PlatformError(f"Expected one of the models {', '.join(sorted(known))}, got {model!r}.")
        models = home.path("models", model)
        yield Stored(client_of(clickhouse), known[model], Cards(models)), Loader(models)
    except OSError as exc:
        raise PlatformError(f"{exc.filename or clickhouse}: {exc.strerror or exc}.") from exc
    except ClickHouseError as exc:
        nothing = f"Nothing of {model} is archived in {clickhouse} yet."
        raise PlatformError(nothing if NO_TABLE in str(exc) else f"{clickhouse} does not answer: {exc}") from exc
    except (SketchError, UnusableReferenceError) as exc:
        raise PlatformError(f"{exc}.") from exc


@dataclass
class Past:
    """What happened, as the archive tells it. Times are UTC epoch milliseconds.

    Attributes
    ----------
    model : str
    settings : MonitorSettings
    start_ms, end_ms : int
        Of the traffic, in whole hours.
    versions : tuple of Version
        In the order of their time, the prior first and one that was trained at least.
    retrainings : tuple of (str, int)
        Monitor and time of each that was asked for.
    alerts : list of Alert
    windows : list of (str, int)
        Monitor and end of each window judged, in order.
    losses : dict of version to Sketches
        Tiles of a day.
    sketches, labelled : int
        Read.
    """

    model: str
    settings: MonitorSettings
    start_ms: int
    end_ms: int
    versions: tuple[Version, ...]
    retrainings: tuple[tuple[str, int], ...]
    alerts: list[Alert] = field(default_factory=list)
    windows: list[tuple[str, int]] = field(default_factory=list)
    losses: dict[str, Sketches] = field(default_factory=dict)
    sketches: int = 0
    labelled: int = 0

    @property
    def first_model_ms(self) -> int:
        """From when on a model answers that was trained."""
        return next(each.from_ms for each in self.versions if each.version != PRIOR)


def read_past(
    stored: Stored,
    model: str,
    references: References,
    settings: MonitorSettings,
    until_ms: int,
    tell: Callable[[float], None] = lambda _: None,
) -> Past:
    """Tell the monitors everything again, from the beginning.

    Parameters
    ----------
    stored : Stored
    model : str
    references : callable of str to Reference or None
    settings : MonitorSettings
    until_ms : int
        Traffic before it counts.
    tell : callable
        Told how far it is, 0 to 1.

    Raises
    ------
    PlatformError
        Where there are no sketches, or no trained model has answered.
    """
    span, versions = stored.span(until_ms), stored.versions(until_ms)
    if span is None:
        raise PlatformError(f"Expected sketches of the traffic of {model} in the archive, got none of that time.")
    if all(each.version == PRIOR for each in versions):
        raise PlatformError(f"Expected a model that was trained, but of {model} only the prior has answered by then.")
    start_ms, end_ms = span[0] // HOUR_MS * HOUR_MS, min(span[1] // HOUR_MS * HOUR_MS + HOUR_MS, until_ms)
    past = Past(model, settings, start_ms, end_ms, versions, stored.retrainings(until_ms))
    rerun = _Rerun(ModelMonitor(model, references, settings), past)
    for slice_ms in range(start_ms // DAY_MS * DAY_MS, end_ms, SLICE_MS):
        batch = stored.read(slice_ms, min(slice_ms + SLICE_MS, end_ms), until_ms)
        rerun.take(batch)
        # A batch's sketches are on its last row: those of the next slice may hold hours of this one.
        rerun.judge(slice_ms)
        tell(min(slice_ms + SLICE_MS - start_ms, end_ms - start_ms) / (end_ms - start_ms))
    rerun.judge(end_ms)
    return past


class _Rerun:
    """Hands traffic to the monitors a day at a time, as the stream does."""

    def __init__(self, monitor: ModelMonitor, past: Past) -> None:
        self._monitor, self._past = monitor, past
        self._day = past.start_ms // DAY_MS
        # What is told, how, and what of it waits for its day.
        self._takes: dict[str, Callable[[str, Sketches], None]] = {
            "inputs": monitor.add_sketches,
            "segments": monitor.add_segments,
            "losses": monitor.add_losses,
            "segment_losses": monitor.add_segment_losses,
        }
        self._held: dict[str, dict[int, list[tuple[str, Sketches]]]] = {name: {} for name in self._takes}

    def take(self, batch: Batch) -> None:
        """Keep it until its days are judged."""
        past = self._past
        past.sketches += batch.sketches
        past.labelled += batch.labelled
        for name, held in self._held.items():
            tables: Mapping[str, Sketches] = getattr(batch, name)
            for version, table in sorted(tables.items()):
                days = table.tiles % SPAN_MS // DAY_MS
                for day in np.unique(days).tolist():
                    held.setdefault(day, []).append((version, table.take(np.flatnonzero(days == day))))
        for version, losses in batch.losses.items():
            daily = losses.coarsen(DAY_MS)
            past.losses[version] = merge([past.losses[version], daily]) if version in past.losses else daily

    def judge(self, until_ms: int) -> None:
        """Judge the days up to a time."""
        while self._day * DAY_MS < until_ms:
            for name, take in self._takes.items():
                self._tell(self._held[name], take)
            self._day += 1
            windows, alerts = self._monitor.advance(min(self._day * DAY_MS, until_ms))
            self._past.windows += [(each.monitor, each.window_end) for each in windows]
            self._past.alerts += alerts

    def _tell(self, held: dict[int, list[tuple[str, Sketches]]], take: Callable[[str, Sketches], None]) -> None:
        for day in sorted(each for each in held if each <= self._day):
            for version, table in held.pop(day):
                take(version, table)
