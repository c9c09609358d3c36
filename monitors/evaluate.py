"""All monitors of one model as one state: told sketches and losses in any order, it judges what a watermark settles.

What comes out depends on what the tiles hold, never on how records were batched or when they came, so that two regions
and two runs say the same. An hour is judged once the watermark has passed its end, a day likewise:

===========  =========  ==============================  =======================================================
monitor      every      over                            finds
===========  =========  ==============================  =======================================================
data         hour       3 hours                         a feed at fault: silent, out of range, unheard of
features     day        7 days                          traffic unlike the reference's
performance  day        7 days of arrived labels        losses unlike those of the reference
sequential   day        every hour since the version    a rise of the loss, by river's ADWIN; or as told, see
                                                        :mod:`monitors.sequential`
shift        day        7 days                          traffic unlike that of other days, where it is told which: see
                                                        :mod:`monitors.shift`
===========  =========  ==============================  =======================================================

Features and performance judge every segment that the reference knows as well, see :mod:`monitors.segments`.

With the days' windows come two that judge nothing: ``estimate`` tells how well the model is likely to do, ``budget``
how many false alarms the looks of all but `data` were worth in the last 30 days.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from monitors import checkpoint
from monitors.budget import MONTH_DAYS, Budget
from monitors.estimates import Estimate
from monitors.feeds import Tally, data_window, tally
from monitors.incidents import Alert, Finding, IncidentBook
from monitors.losses import TILE_MS, sketch_losses, sketch_segment_losses
from monitors.matching import Match, Matcher
from monitors.profiles import WINDOW_HOURS
from monitors.reference import Reference
from monitors.segments import SPAN_MS, only
from monitors.sequential import Sequential
from monitors.settings import MonitorSettings
from monitors.shift import SHIFT, Shift
from monitors.sketches import SketchError, Sketches, merge, sketch_batch
from monitors.thresholds import DAY_MS, HOUR_MS
from monitors.watchers import Result, SegmentWindow, Window, estimate_window, feature_window, performance_window

__all__ = ["MONITORS", "ModelMonitor"]

MONITORS: Final = ("data", "features", "performance", "sequential")
_WINDOW_DAYS: Final = 7
_SPENDING: Final = ("features", "performance", "sequential")
_END_OF_STREAM_MS: Final = 2**62  # a bounded stream ends with a watermark of 2**63 - 1


@dataclass
class _Track:
    """What is held of one model version: hours not yet judged, days of the trailing window, those of its segments."""

    since: int = 0
    hours: Sketches | None = None
    days: Sketches | None = None
    losses: Sketches | None = None
    segments: Sketches | None = None
    segment_losses: Sketches | None = None

    def tables(self) -> dict[str, Sketches | None]:
        return {name: getattr(self, name) for name in checkpoint.TABLES}


class ModelMonitor:
    """The monitors of one model.

    Parameters
    ----------
    model : str
    references : callable of str to Reference or None
        The reference of a version; None for one without, such as the prior, whose windows have no results. A version's
        answer must not change.
    settings : MonitorSettings, optional
    """

    def __init__(
        self,
        model: str,
        references: Callable[[str], Reference | None],
        settings: MonitorSettings | None = None,
    ) -> None:
        self.model = model
        self.settings = settings or MonitorSettings()
        self._load = references
        self._references: dict[str, Reference | None] = {}
        self._book = IncidentBook(model, self.settings.version)
        self._tracks: dict[str, _Track] = {}
        self._labels: dict[int, int] = {}
        self._version: str | None = None
        self._next_hour: int | None = None
        self._begun: int = 0
        self._counted: tuple[Sketches, Reference, Tally] | None = None
        self._waiting = Matcher()
        self._sequential = self._detectors(None)
        self._shift = Shift(self.settings.against, self.settings.rows_min)
        looks = len(_SPENDING) + len(self.settings.against)
        self._budget = Budget(self.settings.false_retrains_a_month, looks, _WINDOW_DAYS)

    def add_sketches(self, version: str, sketches: Sketches) -> None:
        """Hear what a version was asked. Tiles already judged are too late for their hour; their day may still count.

        Raises
        ------
        SketchError
            Where the columns are not those of the sketches of this version before.
        """
        if sketches.tile_ms != TILE_MS:
            raise SketchError(f"expected tiles of {TILE_MS} ms, got {sketches.tile_ms}")
        track = self._tracks.setdefault(version, _Track())
        track.hours = _added(track.hours, sketches)
        track.days = _added(track.days, days := sketches.coarsen(DAY_MS))
        self._shift.add(days)

    def add_segments(self, version: str, sketches: Sketches) -> None:
        """Hear what a version was asked, by segment, see :func:`monitors.segments.sketch_segments`.

        Raises
        ------
        SketchError
            Where the columns are not those of before.
        """
        track = self._tracks.setdefault(version, _Track())
        track.segments = _added(track.segments, sketches.coarsen(DAY_MS))

    def add_answers(self, version: str, packed: bytes) -> None:
        """Hear what a version answered, see :func:`monitors.matching.pack_answers`."""
        self._take(self._waiting.add_answers(version, packed))

    def add_labels(self, packed: bytes) -> None:
        """Hear what became of requests, see :func:`monitors.matching.pack_labels`."""
        self._take(self._waiting.add_labels(packed))

    def _take(self, matches: list[Match]) -> None:
        for each in matches:
            self.add_losses(each.version, sketch_losses(each.probability, each.positive, each.time_ms))
            reference = self._reference(each.version)
            if reference is not None and reference.segmentation:
                losses = sketch_segment_losses(
                    reference.segmentation, each.segment, each.probability, each.positive, each.time_ms
                )
                self.add_segment_losses(each.version, losses)

    def add_losses(self, version: str, losses: Sketches) -> None:
        """Hear how a version did, see :func:`monitors.losses.sketch_losses`."""
        track = self._tracks.setdefault(version, _Track())
        track.losses = _added(track.losses, losses)
        for hour, rows in zip(losses.tiles.tolist(), losses.rows.tolist(), strict=True):
            self._labels[hour] = self._labels.get(hour, 0) + rows

    def add_segment_losses(self, version: str, losses: Sketches) -> None:
        """Hear how a version did in each segment, see :func:`monitors.losses.sketch_segment_losses`."""
        track = self._tracks.setdefault(version, _Track())
        track.segment_losses = _added(track.segment_losses, losses.coarsen(DAY_MS))

    def advance(self, watermark_ms: int) -> tuple[list[Window], list[Alert]]:
        """Judge every hour and day that ended by the watermark: windows, in order of their end, and alerts."""
        windows: list[Window] = []
        alerts: list[Alert] = []
        if watermark_ms >= _END_OF_STREAM_MS:
            watermark_ms = self._last_known()
        if self._next_hour is None:
            tiles = [int(t.hours.tiles[0]) for t in self._tracks.values() if t.hours is not None and len(t.hours.tiles)]
            if not tiles or min(tiles) + HOUR_MS > watermark_ms:
                return windows, alerts
            self._next_hour = self._begun = min(tiles)
        while self._next_hour + HOUR_MS <= watermark_ms:
            hour, self._next_hour = self._next_hour, self._next_hour + HOUR_MS
            alerts += self._switch(hour)
            version = self._version or ""
            reference = self._reference(version)
            if reference is not None:
                track = self._tracks[version]
                if hour > track.since:  # the hour of a change holds what the version before was asked, too
                    self._sequential.add_hour(hour, track.hours)
                self._judge_hour(hour, reference, windows, alerts)
            if (hour + HOUR_MS) % DAY_MS == 0:
                self._judge_day(hour + HOUR_MS, version, reference, windows, alerts)
        self._forget()
        return windows, alerts

    def _last_known(self) -> int:
        """End of the last hour that was asked anything: as far as the end of a stream leads."""
        tables = [track.hours for track in self._tracks.values() if track.hours is not None]
        return max((int(table.tiles[-1]) + HOUR_MS for table in tables if len(table.tiles)), default=0)

    def _reference(self, version: str) -> Reference | None:
        if version not in self._references:
            self._references[version] = self._load(version)
        return self._references[version]

    def _detectors(self, version: str | None) -> Sequential:
        reference = self._reference(version) if version is not None else None
        return Sequential(self.settings.sequential, reference)

    def _switch(self, hour: int) -> list[Alert]:
        """Change to another version in its first hour. Incidents of the one before end, those of feeds do not."""
        answering = sorted(v for v, t in self._tracks.items() if t.hours is not None and hour in t.hours.tiles)
        others = [version for version in answering if version != self._version]
        if not others:
            return []
        before, self._version = self._version, others[-1]
        track = self._tracks[self._version]
        track.since = hour
        old = self._tracks.pop(before, None) if before is not None else None
        if (
            old is not None
            and old.hours is not None
            and track.hours is not None
            and old.hours.names == track.hours.names
        ):
            track.hours = merge([old.hours, track.hours])  # inputs are inputs, whichever version was asked
        self._sequential = self._detectors(self._version)
        window = (hour, hour + HOUR_MS)
        reason = f"version {self._version} answers from here"
        return self._book.close(("features", "performance", "sequential"), window, reason) if before else []

    def _judge_hour(self, hour: int, reference: Reference, windows: list[Window], alerts: list[Alert]) -> None:
        start, end = hour - (WINDOW_HOURS - 1) * HOUR_MS, hour + HOUR_MS
        if start < self._begun:
            return
        hours = self._tracks[reference.version].hours
        if hours is None:  # nothing asked for days: the number of requests is what there is to judge
            hours = _nothing(reference)
        counted = self._tally(hours, reference).between(start, end)
        still = self.settings.data.activity.stands_still(self._labels, hour, reference.profile.labels)
        results, findings = data_window(
            counted, partial(hours.between, start, end), end, still, reference, self.settings.data
        )
        windows.append(Window(self.model, reference.version, "data", start, end, results))
        for segment, finding in findings.items():
            alerts += self._judged(reference.version, "data", segment, (start, end), finding)

    def _tally(self, hours: Sketches, reference: Reference) -> Tally:
        """Tally of all hours held, counted once for as long as they do not change."""
        if self._counted is None or self._counted[0] is not hours or self._counted[1] is not reference:
            self._counted = (hours, reference, tally(hours, reference))
        return self._counted[2]

    def _judge_day(
        self, end: int, version: str, reference: Reference | None, windows: list[Window], alerts: list[Alert]
    ) -> None:
        track = self._tracks.get(version, _Track())
        days = reference.window_days if reference is not None else _WINDOW_DAYS
        start = end - days * DAY_MS
        full = reference is not None and start >= track.since // DAY_MS * DAY_MS
        estimates: tuple[Estimate, ...] = ()
        if reference is not None and full and track.days is not None:
            losses = track.losses.between(start, end) if track.losses is not None else None
            told, estimates = estimate_window(track.days.between(start, end), losses, reference, self.settings.rows_min)
            windows.append(Window(self.model, version, "estimate", start, end, told))
        for monitor in MONITORS:
            results: tuple[Result, ...] = ()
            findings = {"": Finding(None)}
            if monitor == "data" and reference is not None:
                continue
            if reference is not None and monitor == "features" and full and track.days is not None:
                results, findings = feature_window(
                    track.days.between(start, end),
                    reference,
                    self.settings.rows_min,
                    self._budget.usual,
                    partial(self._spend, monitor, end),
                    estimates,
                    self._segments(monitor, track.segments, reference, start, end),
                    self.settings.segment_rows_min,
                    self._book.is_open(monitor, ""),
                )
            elif reference is not None and monitor == "performance" and full and track.losses is not None:
                results, findings = performance_window(
                    track.losses.between(start, end),
                    reference,
                    self.settings.rows_min,
                    self._budget.usual,
                    partial(self._spend, monitor, end),
                    self._segments(monitor, track.segment_losses, reference, start, end),
                    self.settings.segment_rows_min,
                    self._book.is_open(monitor, ""),
                )
            elif reference is not None and monitor == "sequential":
                results, findings[""] = self._sequential.judge(
                    end, track.losses, reference, partial(self._spend, monitor, end)
                )
            begun = end - DAY_MS if monitor in ("sequential", "data") else start
            windows.append(Window(self.model, version, monitor, begun, end, results))
            for segment, finding in findings.items():
                alerts += self._judged(version, monitor, segment, (begun, end), finding)
        if self.settings.against:
            alerts += self._judge_shift(end, version, reference, windows)
        if reference is not None:
            windows.append(Window(self.model, version, "budget", end - MONTH_DAYS * DAY_MS, end, self._spent(end)))

    def _judge_shift(self, end: int, version: str, reference: Reference | None, windows: list[Window]) -> list[Alert]:
        """Traffic against other days of it: an incident of it is about no version, and outlives them."""
        window = (end - _WINDOW_DAYS * DAY_MS, end)
        results, findings = self._shift.judge(end, reference, self._budget.usual, partial(self._spend, SHIFT, end))
        windows.append(Window(self.model, version, SHIFT, *window, results))
        return [alert for name, each in findings.items() for alert in self._judged(version, SHIFT, name, window, each)]

    def _segments(
        self, monitor: str, table: Sketches | None, reference: Reference, start: int, end: int
    ) -> list[SegmentWindow]:
        if table is None:
            return []
        numbers = {name: number for number, name in enumerate(reference.segmentation.segments)}
        return [
            SegmentWindow(name, only(table, numbers[name], start, end), part, self._book.is_open(monitor, name))
            for name, part in reference.segments.items()
        ]

    def _spend(self, monitor: str, end: int, p_value: float, segment: str = "") -> float:
        return self._budget.look(end, p_value, self._book.is_open(monitor, segment))

    def _spent(self, end: int) -> tuple[Result, ...]:
        """What the budget's last 30 days came to: it has no monitor of its own and never fires."""
        allowed, found = self._budget.a_month, self._budget.found(end)
        spent = self._budget.spent(end)
        return (
            Result("", "", "spent", spent, allowed, None, self._budget.looks(end), False),
            Result("", "", "alarms", float(found), allowed, None, self._budget.looks(end), False),
        )

    def _judged(
        self, version: str, monitor: str, segment: str, window: tuple[int, int], finding: Finding
    ) -> list[Alert]:
        return self._book.judge(version, monitor, segment, window, finding, self.settings.patience[monitor])

    def _forget(self) -> None:
        """Drop what no later window can need."""
        now = self._next_hour or 0
        self._waiting.forget(now - 1)
        self._shift.forget(now)
        reference = self._references.get(self._version or "")
        days = reference.window_days if reference is not None else 1
        keep_hours, keep_days = now - WINDOW_HOURS * HOUR_MS, (now // DAY_MS - days) * DAY_MS
        keep_labels = now - self.settings.data.activity.hours * HOUR_MS
        self._labels = {hour: n for hour, n in self._labels.items() if hour >= keep_labels}
        for version, track in list(self._tracks.items()):
            track.hours = _since(track.hours, keep_hours)
            track.days = _since(track.days, keep_days)
            track.losses = _since(track.losses, keep_days)
            track.segments = _since(track.segments, keep_days)
            track.segment_losses = _since(track.segment_losses, keep_days)
            stale = all(table is None for table in track.tables().values())
            if stale and version != self._version:
                del self._tracks[version]

    def to_bytes(self) -> bytes:
        """State for a checkpoint, see :mod:`monitors.checkpoint`. Equal states give equal bytes."""
        detectors, heard = self._sequential.state()
        plain = {
            "version": self._version,
            "next_hour": self._next_hour,
            "begun": self._begun,
            "labels": sorted(self._labels.items()),
            "book": self._book.state(),
            "budget": self._budget.state(),
            "sequential": heard,
        }
        tracks = {version: (each.since, each.tables()) for version, each in sorted(self._tracks.items())}
        return checkpoint.encode(
            checkpoint.State(
                self.model, self.settings.version, plain, detectors, tracks, *self._waiting.state(), self._shift.state()
            )
        )

    @staticmethod
    def from_bytes(
        payload: bytes, references: Callable[[str], Reference | None], settings: MonitorSettings | None = None
    ) -> "ModelMonitor":
        """What :meth:`to_bytes` wrote, in the same state.

        Raises
        ------
        monitors.checkpoint.CheckpointError
            Where the bytes are of another layout or do not decode.
        """
        state = checkpoint.decode(payload)
        monitor, plain = ModelMonitor(state.model, references, settings), state.plain
        monitor._version, monitor._next_hour, monitor._begun = plain["version"], plain["next_hour"], plain["begun"]
        monitor._labels = {int(hour): n for hour, n in plain["labels"]}
        monitor._book.restore(plain["book"])
        monitor._budget.restore(plain["budget"])
        monitor._sequential = monitor._detectors(monitor._version)
        monitor._sequential.restore(state.detectors, plain["sequential"])
        monitor._waiting = Matcher(state.answers, state.labels)
        monitor._shift.restore(state.shift)
        monitor._tracks = {version: _Track(since, **tables) for version, (since, tables) in state.tracks.items()}
        return monitor


def _nothing(reference: Reference) -> Sketches:
    columns = {
        name: np.zeros(0, dtype=object if kind == "categorical" else float) for name, kind in reference.kinds.items()
    }
    return sketch_batch(columns, reference.kinds, np.zeros(0, dtype=np.int64), TILE_MS)


def _added(held: Sketches | None, more: Sketches) -> Sketches:
    return more if held is None else merge([held, more])


def _since(held: Sketches | None, start_ms: int) -> Sketches | None:
    """What is of a time, those of segments included; None for nothing."""
    if held is None:
        return None
    kept = held.tiles % SPAN_MS >= start_ms
    if kept.all():
        return held if len(held.tiles) else None
    left = held.take(np.flatnonzero(kept))
    return left if len(left.tiles) else None
