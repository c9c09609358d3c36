"""The flights' features computed again, by pandas and numpy, from their meaning alone.

A witness for the witness: the definitions are written out here a second time on purpose, so that a wrong definition
shows, too.

- A windowed view has a row for a key at each slide boundary s (multiples of the slide since the epoch) while its
  longest window (s - W, s] holds events of the key, and one more when it no longer does: counts 0, means null.
- A view without windows has a row for each event.
- The value at time t is that of the newest row with event time <= t; before any row, and for a null key, it is null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
LATE_MINUTES = 15

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Windowed:
    """A view of sliding windows.

    Attributes
    ----------
    name, stream : str
        The view, and the topic of its events.
    keys : tuple of str
        Entity columns, of the events and of the requests; none for one key that all share.
    slide_ms : int
    features : tuple of (str, str, str, int)
        Feature name; column, or ``column>limit`` for 1.0 where it is greater; ``count`` or ``mean``; window in ms.
    """

    name: str
    stream: str
    keys: tuple[str, ...]
    slide_ms: int
    features: tuple[tuple[str, str, str, int], ...]


@dataclass(frozen=True)
class Latest:
    """A view of the newest event of each key.

    Attributes
    ----------
    name, stream : str
    keys : tuple of str
    features : tuple of (str, str)
        Feature name and column.
    """

    name: str
    stream: str
    keys: tuple[str, ...]
    features: tuple[tuple[str, str], ...]


_LATE = f"dep_delay>{LATE_MINUTES}"
_WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

VIEWS: tuple[Windowed | Latest, ...] = (
    Windowed(
        "origin",
        "flights.departures",
        ("origin",),
        15 * MINUTE_MS,
        (
            ("dep_count_1h", "dep_delay", "count", HOUR_MS),
            ("dep_delay_mean_1h", "dep_delay", "mean", HOUR_MS),
            ("dep_late_share_1h", _LATE, "mean", HOUR_MS),
            ("dep_count_3h", "dep_delay", "count", 3 * HOUR_MS),
            ("dep_delay_mean_3h", "dep_delay", "mean", 3 * HOUR_MS),
            ("dep_late_share_3h", _LATE, "mean", 3 * HOUR_MS),
        ),
    ),
    Windowed(
        "carrier",
        "flights.departures",
        ("carrier",),
        HOUR_MS,
        (("dep_delay_mean_3h", "dep_delay", "mean", 3 * HOUR_MS),),
    ),
    Windowed(
        "carrier_origin",
        "flights.departures",
        ("carrier", "origin"),
        HOUR_MS,
        (("dep_delay_mean_3h", "dep_delay", "mean", 3 * HOUR_MS),),
    ),
    Windowed(
        "destination",
        "flights.arrivals",
        ("dest",),
        HOUR_MS,
        (("arr_delay_mean_6h", "arr_delay", "mean", 6 * HOUR_MS),),
    ),
    Windowed(
        "route",
        "flights.arrivals",
        ("origin", "dest"),
        6 * HOUR_MS,
        (("arr_delay_mean_24h", "arr_delay", "mean", 24 * HOUR_MS),),
    ),
    Latest("tail", "flights.arrivals", ("tailnum",), (("arr_delay_last", "arr_delay"),)),
    Latest("flight", "flights.arrivals", ("carrier", "flight"), (("arr_delay_last", "arr_delay"),)),
    Latest("weather", "flights.weather", ("origin",), tuple((each, each) for each in _WEATHER)),
    Windowed(
        "base_rate",
        "flights.arrivals",
        (),
        6 * HOUR_MS,
        (("late_share_31d", f"arr_delay>{LATE_MINUTES}", "mean", 31 * 24 * HOUR_MS),),
    ),
)


def as_of(
    events: Mapping[str, pd.DataFrame],
    requests: pd.DataFrame,
    views: Sequence[Windowed | Latest] = VIEWS,
    at: Mapping[str, pd.Series] | None = None,
) -> pd.DataFrame:
    """What the features of each request should have been.

    Parameters
    ----------
    events : mapping of str to DataFrame
        By topic: event times as int64 epoch milliseconds in ``event_time``, rows in the order of the topic.
    requests : DataFrame
        ``event_time`` and the entity columns of every view.
    views : sequence
    at : mapping of str to Series, optional
        For these views, other times (epoch ms, null for never) than the requests' own: how a value is checked that
        was read from an online store, at the event time of the row it was logged with.

    Returns
    -------
    DataFrame
        Indexed as the requests: ``<view>__<feature>`` as float64 (NaN for null), ``<view>__event_time`` as Int64.
    """
    columns: dict[str, Any] = {}
    for view in views:
        times = requests["event_time"] if at is None or view.name not in at else at[view.name]
        known = pd.Series(times).notna().to_numpy()
        asked = pd.Series(times).fillna(0).to_numpy().astype(np.int64)
        log = _Log(events[view.stream], requests, view.keys)
        if isinstance(view, Windowed):
            columns |= _windowed(view, log, asked, known)
        else:
            columns |= _latest(view, log, asked, known)
    return pd.DataFrame(columns, index=requests.index)


class _Log:
    """Events sorted by key and time, in which any number of (key, time) are looked up at once.

    Key number and time make one integer, so that one binary search answers for all keys.
    """

    def __init__(self, events: pd.DataFrame, requests: pd.DataFrame, keys: tuple[str, ...]) -> None:
        codes, self.asked = _numbered(events, requests, keys)
        events, codes = events[codes >= 0], codes[codes >= 0]
        times = events["event_time"].to_numpy().astype(np.int64)
        self.start_ms = int(times.min()) - 1 if len(times) else 0
        self.span_ms = int(times.max()) - self.start_ms + 1 if len(times) else 1
        # Stable: of two events of one key at one time, the one written later is the newer.
        order = np.lexsort((times, codes))
        self.events, self.times = events.iloc[order], times[order]
        self._places = codes[order] * self.span_ms + (self.times - self.start_ms)

    def until(self, times_ms: Ints) -> Ints:
        """For each request's key, the place after its last event with event time <= the time given."""
        offsets = np.clip(times_ms - self.start_ms, 0, self.span_ms - 1)
        # A null key is before all others: number -1, place 0.
        return np.searchsorted(self._places, self.asked * self.span_ms + offsets, side="right").astype(np.int64)

    def column(self, text: str) -> Floats:
        name, _, limit = text.partition(">")
        values = self.events[name].to_numpy(dtype=np.float64)
        return np.where(np.isnan(values), np.nan, values > float(limit)) if limit else values


def _numbered(events: pd.DataFrame, requests: pd.DataFrame, keys: tuple[str, ...]) -> tuple[Ints, Ints]:
    """Numbers of the keys of events and of requests; -1 for null."""
    codes = np.zeros(len(events) + len(requests), dtype=np.int64)
    null = np.zeros(len(codes), dtype=bool)
    for key in keys:
        part, _ = pd.factorize(pd.concat([events[key], requests[key]], ignore_index=True))
        null |= part < 0
        codes, _ = pd.factorize(codes * (part.max() + 2) + part)
    codes = np.where(null, -1, codes).astype(np.int64)
    return codes[: len(events)], codes[len(events) :]


def _windowed(view: Windowed, log: _Log, asked: Ints, known: NDArray[np.bool_]) -> dict[str, Any]:
    slide = view.slide_ms
    longest = max(window for *_, window in view.features)
    first = log.until(np.full(len(asked), log.start_ms))
    boundary = asked // slide * slide
    newest = log.until(boundary)
    any_row = (newest > first) & known & (log.asked >= 0)
    # An event at e keeps rows coming up to the last boundary before e + W + slide; the last of them finds it gone.
    event = log.times[np.maximum(newest - 1, 0)] if len(log.times) else np.zeros(len(asked), dtype=np.int64)
    row = np.minimum(boundary, -(-(event + longest + slide) // slide) * slide - slide)
    end = log.until(row)
    result: dict[str, Any] = {}
    for name, column, function, window in view.features:
        count, total = _sums(log.column(column), log.until(row - window), end)
        value = count.astype(np.float64) if function == "count" else _mean(total, count)
        result[f"{view.name}__{name}"] = np.where(any_row, value, np.nan)
    result[f"{view.name}__event_time"] = pd.array(row, dtype="Int64")
    result[f"{view.name}__event_time"][~any_row] = pd.NA
    return result


def _sums(values: Floats, start: Ints, end: Ints) -> tuple[Ints, Floats]:
    """Count and sum of the non-null values in [start, end). Sums of whole minutes are exact in float64."""
    there = ~np.isnan(values)
    counts = np.concatenate([[0], np.cumsum(there)])
    totals = np.concatenate([[0.0], np.cumsum(np.where(there, values, 0.0))])
    return counts[end] - counts[start], totals[end] - totals[start]


def _mean(total: Floats, count: Ints) -> Floats:
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _latest(view: Latest, log: _Log, asked: Ints, known: NDArray[np.bool_]) -> dict[str, Any]:
    end = log.until(asked)
    there = (end > log.until(np.full(len(asked), log.start_ms))) & known & (log.asked >= 0)
    place = np.where(there, end - 1, 0)
    result: dict[str, Any] = {}
    for name, column in view.features:
        values = log.column(column)
        result[f"{view.name}__{name}"] = np.where(there, values[place] if len(values) else np.nan, np.nan)
    result[f"{view.name}__event_time"] = pd.array(log.times[place] if len(log.times) else place, dtype="Int64")
    result[f"{view.name}__event_time"][~there] = pd.NA
    return result
