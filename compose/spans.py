"""Two spans of a model's traffic compared, from the sketches that the archive keeps: no row is read again.

What a span may differ by is drawn from the days of the reference, as thresholds are: rows of traffic hang together, so
that a chance as of independent rows would find a difference between any two weeks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np

from compose.local.home import PlatformError
from jobs.stored import Stored
from monitors.comparison import Comparison
from monitors.drawing import Calibration
from monitors.durations import DurationError, parse_duration
from monitors.figures import Figures, compare
from monitors.reference import ColumnSpec, Null, Reference
from monitors.shift import FORMS, dates_of
from monitors.sketches import Sketches, merge
from monitors.thresholds import DAY_MS, HOUR_MS, distance_nulls

__all__ = ["REFERENCES", "Span", "compare_spans", "current_span", "reference_span"]

REFERENCES: Final = ("training", *FORMS)
CURRENTS: Final = ("last:DURATION", "FROM..TO")
_BATCH_MS: Final = 31 * DAY_MS
"""That a batch of a replay spans at most; its sketch is on the last of its rows."""
_FOREVER_MS: Final = 2**52
_NAN: Final = float("nan")


@dataclass(frozen=True)
class Span:
    """Request time, [start, end), in whole hours; UTC epoch milliseconds."""

    start_ms: int
    end_ms: int

    def __str__(self) -> str:
        first, last = (datetime.fromtimestamp(each / 1000, UTC) for each in (self.start_ms, self.end_ms))
        return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}"

    @property
    def days(self) -> int:
        """How many whole days it has; 0 where it is not made of such."""
        days, rest = divmod(self.end_ms - self.start_ms, DAY_MS)
        return days if rest == 0 and self.start_ms % DAY_MS == 0 else 0


def current_span(text: str, stored: Stored) -> Span:
    """The span of a text, one of :data:`CURRENTS`.

    Parameters
    ----------
    text : str
    stored : Stored
        Where its last hour that is over ends, `last` does.

    Raises
    ------
    PlatformError
        Where it is none.
    """
    kind, _, rest = text.partition(":")
    if kind == "last":
        if (known := stored.span(_FOREVER_MS)) is None:
            raise PlatformError("Nothing has been asked yet.")
        end_ms = known[1] // HOUR_MS * HOUR_MS
        return Span(end_ms - _hours(text, rest), end_ms)
    return _between(text, CURRENTS)


def reference_span(text: str, current: Span) -> Span | None:
    """The span of a text, one of :data:`REFERENCES`; None for what the version that answers was trained on.

    Parameters
    ----------
    text : str
        ``trailing`` is before `current`, ``earlier`` the same hours so long ago.
    current : Span

    Raises
    ------
    PlatformError
        Where it is none.
    """
    kind, _, rest = text.partition(":")
    if text == "training":
        return None
    if kind == "trailing":
        return Span(current.start_ms - _hours(text, rest), current.start_ms)
    if kind == "earlier":
        ago = _hours(text, rest)
        return Span(current.start_ms - ago, current.end_ms - ago)
    return _between(text, REFERENCES)


def compare_spans(
    stored: Stored, load: Callable[[str], Reference | None], reference: Span | None, current: Span, seed: int
) -> Comparison:
    """Compare the inputs and scores of two spans, whichever versions answered.

    Parameters
    ----------
    stored : Stored
    load : callable of str to Reference or None
        Of a version.
    reference : Span, optional
        None for what the version that answers as `current` begins was trained on.
    current : Span
    seed : int

    Returns
    -------
    Comparison
        With the chance of each figure that one is drawn for: where the reference has at least twice as many days as
        `current`, which is of whole days. NaN elsewhere.

    Raises
    ------
    PlatformError
        Where a span has no traffic, or the two have other columns.
    """
    now = _read(stored, current)
    if reference is None:
        version = [each.version for each in stored.versions(current.start_ms + 1)][-1]
        known = load(version)
        if known is None:
            raise PlatformError(f"Expected a trained model to answer from {current} on, but it was the prior.")
        before, nulls = known.merged, known.nulls if current.days == known.window_days else {}
    else:
        hours = _read(stored, reference)
        before, nulls = hours.collapse(), _nulls(hours, reference, current, seed)
    if before.names != now.names or before.kinds != now.kinds:
        other = sorted(set(before.names) ^ set(now.names))
        raise PlatformError(f"Expected the same columns in both spans, but only one has {', '.join(other)}.")
    sides = {name: (before.column(name), now.column(name)) for name in now.names}
    return Comparison(
        rows=(int(before.rows.sum()), int(now.rows.sum())),
        columns={name: _with_chances(compare(*each, seed), nulls.get(name, ())) for name, each in sides.items()},
        categorical=tuple(name for name, kind in zip(now.names, now.kinds, strict=True) if kind == "categorical"),
    )


def _read(stored: Stored, span: Span) -> Sketches:
    inputs = stored.sketches(span.start_ms, span.end_ms + _BATCH_MS)
    found = [part for table in inputs.values() if len((part := table.between(span.start_ms, span.end_ms)).tiles)]
    if not found:
        raise PlatformError(f"Expected requests from {span}, but the archive has none with sketches.")
    return merge(found)


def _nulls(hours: Sketches, reference: Span, current: Span, seed: int) -> dict[str, tuple[Null, ...]]:
    days = hours.coarsen(DAY_MS)
    if not current.days or len(days.tiles) < 2 * current.days:
        return {}
    columns = {name: ColumnSpec(kind) for name, kind in zip(hours.names, hours.kinds, strict=True)}
    settings = Calibration(window_days=current.days, block_days=min(Calibration.block_days, current.days))
    return distance_nulls(columns, days, np.random.default_rng(seed), settings)


def _with_chances(figures: Figures, nulls: tuple[Null, ...]) -> Figures:
    drawn = {each.statistic: each for each in nulls}
    found = {}
    for name, figure in figures.items():
        chance = drawn[name].p_value(abs(figure.value)) if name in drawn else None
        found[name] = replace(figure, p_value=_NAN if chance is None else chance)
    return found


def _hours(text: str, duration: str) -> int:
    try:
        found = parse_duration(text.partition(":")[0], duration)
    except DurationError as exc:
        raise PlatformError(f"{exc}.") from exc
    if found == 0 or found % HOUR_MS:
        raise PlatformError(f"{text}: expected whole hours, got {duration}.")
    return found


def _between(text: str, forms: tuple[str, ...]) -> Span:
    if (dates := dates_of(text)) is None:
        raise PlatformError(
            f"Expected a span of {' or '.join(forms)}, with dates such as 2013-08-12 or 2013-08-12T06:00, got {text!r}."
        )
    first, last = dates
    if first >= last or first % HOUR_MS or last % HOUR_MS:
        raise PlatformError(f"{text}: expected whole hours, the first before the last.")
    return Span(first, last)
