"""What a stream has to emit, computed a second time, by pandas and numpy, from the definition alone.

An independent witness: it shares a view's :class:`Definition` with the compiler and nothing else, so that both can
only agree by being right. The rules are those of :mod:`features.compiler.definition`, read here as:

- A record keeps its key's windows filled until it leaves them. After the last record before a silence, a feature's
  slides are rows as long as the row before still found its window filled; so where slides differ, the first row of
  *any* of them that finds a window empty is the last that this window asks for.
- A window holds *records*, whether their column is null or not.
- A key of which a part is null is no key: its events belong to no row.
- A view without windows has a row for each event; of equal times the later in topic order is the newer.
- Of a table that changes, an aggregate is over the versions of rows that stand, see :mod:`features.versions`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.aggregates import Column
from features.compiler.definition import ANY, Definition
from features.versions import NEVER, Versions

__all__ = ["newest", "rows"]

EVENT_TIME = "event_time"

Ints = NDArray[np.int64]


def rows(definition: Definition, events: pd.DataFrame, until_ms: int | None = None) -> pd.DataFrame:
    """Every row the stream has to emit.

    Parameters
    ----------
    definition : Definition
    events : DataFrame
        ``event_time`` as int64 epoch milliseconds, the join keys, the columns aggregated; in topic order. Of changes,
        the versions of rows with their own event time, and ``since`` and ``until`` as
        :func:`features.versions.standing` has them.
    until_ms : int, optional
        Rows up to this time alone: the watermark never passed those after it.

    Returns
    -------
    DataFrame
        Join keys, ``event_time`` and the features, by key and time. A view without windows may have several rows of
        one time, in topic order.
    """
    until = NEVER if until_ms is None else until_ms
    if definition.of_changes:
        return _of_changes(definition, events, until)
    log = _Log(definition, events)
    if definition.features:
        codes, times = _row_times(definition, *_closes(definition, log.codes, log.times), until)
        values = _aggregated(definition, log, codes, times)
    else:
        places = np.flatnonzero(log.times <= until)
        codes, times = log.codes[places], log.times[places]
        values = {name: log.column(name).at(places) for name in definition.latest}
    keys = {key: log.events[key].array.take(log.start(codes)) for key in definition.keys}
    return pd.DataFrame(keys | {EVENT_TIME: times} | values)


def newest(definition: Definition, events: pd.DataFrame, keys: pd.DataFrame, at_ms: Any) -> pd.DataFrame:
    """What was known of keys at times: the values of each key's newest row with event time <= the time.

    Parameters
    ----------
    definition : Definition
    events : DataFrame
        As in :func:`rows`.
    keys : DataFrame
        The join keys, of one request a row.
    at_ms : array_like
        Epoch milliseconds, one of each request; null for no time at all.

    Returns
    -------
    DataFrame
        Indexed like `keys`: the row's ``event_time`` as Int64, and the features. All null where there is no row.

    Raises
    ------
    ValueError
        For a view of changes.
    """
    if definition.of_changes:
        raise ValueError(f"view {definition.name!r}: expected records that are rows, got changes of rows")
    asked = pd.Series(at_ms).astype("Int64")
    at = asked.fillna(0).to_numpy().astype(np.int64)
    log = _Log(definition, events, keys)
    hop = definition.hop_ms or 1
    # The last event whose tile has closed; a row is of its close or later.
    end = log.until(log.asked, at // hop * hop)
    there = (end > log.start(log.asked)) & asked.notna().to_numpy()
    places = np.where(there, end - 1, -1)
    times: Ints = np.append(log.times, 0)[places]
    values: Mapping[str, Any]
    if definition.features:
        times = _newest_row(definition, times, at)
        values = _aggregated(definition, log, log.asked, times)
        values = {name: pd.Series(found).where(there).array for name, found in values.items()}
    else:
        values = {name: log.column(name).at(places) for name in definition.latest}
    known = pd.arrays.IntegerArray(times, ~there)
    return pd.DataFrame({EVENT_TIME: known} | values, index=keys.index)


class _Log:
    """Events by key and time, in which any number of (key, time) are looked up at once.

    The number of a key and the place of a time among all times make one integer, so that one binary search answers
    for all keys.
    """

    def __init__(self, definition: Definition, events: pd.DataFrame, asked: pd.DataFrame | None = None) -> None:
        parts = [frame[list(definition.keys)] for frame in (events, asked) if frame is not None]
        codes = _numbered(pd.concat(parts, ignore_index=True))
        self.asked = codes[len(events) :]
        codes = codes[: len(events)]
        times = events[EVENT_TIME].to_numpy(dtype=np.int64)
        # Stable: of two events of one key at one time, the one written later is the newer.
        order = np.lexsort((times, codes))
        order = order[np.searchsorted(codes[order], 0) :]
        self.codes, self.times = codes[order], times[order]
        self.events = events.iloc[order]
        self._columns: dict[str, Column] = {}
        self._moments = np.unique(self.times)
        self._places = self._place(self.codes, self.times)

    def _place(self, codes: Ints, times: Ints) -> Ints:
        return codes * (len(self._moments) + 1) + np.searchsorted(self._moments, times, side="right")

    def until(self, codes: Ints, times: Ints) -> Ints:
        """For each key, the place after its last event with event time <= the time given."""
        return np.searchsorted(self._places, self._place(codes, times), side="right").astype(np.int64)

    def start(self, codes: Ints) -> Ints:
        """For each key, the place of its first event."""
        return np.searchsorted(self.codes, codes).astype(np.int64)

    def column(self, name: str) -> Column:
        if name not in self._columns:
            self._columns[name] = Column(self.events[name])
        return self._columns[name]


def _numbered(keys: pd.DataFrame) -> Ints:
    """A number for each key, in the order of keys; -1 for one of which a part is null."""
    codes = np.zeros(len(keys), dtype=np.int64)
    null = np.zeros(len(keys), dtype=bool)
    for name in keys:
        part, _ = pd.factorize(keys[name], sort=True)
        null |= part < 0
        codes, _ = pd.factorize(codes * (part.max(initial=0) + 2) + part, sort=True)
    return np.where(null, -1, codes).astype(np.int64)


def _spans(definition: Definition) -> list[tuple[int, int]]:
    return sorted({(each.window_ms, each.slide_ms) for each in definition.features})


def _ceil(times: Ints, hop: int) -> Ints:
    return -(-times // hop) * hop


def _due(definition: Definition, row: Ints, event: Ints) -> Ints:
    """When a key that stays quiet has the row after this one; never where this one found every window empty.

    Parameters
    ----------
    definition : Definition
    row : ndarray
        Time of a row of each key.
    event : ndarray
        Time of the newest event up to there.
    """
    due = np.full(len(row), NEVER)
    for window, slide in _spans(definition):
        filled = event > row - window
        due = np.where(filled, np.minimum(due, (row // slide + 1) * slide), due)
    return due


def _closes(definition: Definition, codes: Ints, times: Ints) -> tuple[Ints, Ints, Ints]:
    """Key number, close and newest time of each active tile, of what is ordered by key and time."""
    closes = _ceil(times, definition.hop_ms)
    last = np.ones(len(closes), dtype=bool)  # of its key and tile
    last[:-1] = (codes[1:] != codes[:-1]) | (closes[1:] != closes[:-1])
    return codes[last], closes[last], times[last]


def _of_changes(definition: Definition, events: pd.DataFrame, until: int) -> pd.DataFrame:
    """Every row over a table that changes: at the closes of tiles in which a change takes effect, and from there on."""
    log = Versions(_numbered(events[list(definition.keys)]), events)
    codes, times = log.changes()
    order = np.lexsort((times, codes))
    codes, closes, _ = _closes(definition, codes[order], times[order])
    longest = max(each.window_ms for each in definition.features)
    codes, times = _row_times(definition, codes, closes, log.newest(codes, closes, longest), until)
    values: dict[str, Any] = {}
    for window in {each.window_ms for each in definition.features}:
        among = [each for each in definition.features if each.window_ms == window]
        values |= log.over(among, codes, times, window)
    keys = {key: log.events[key].array.take(log.start(codes)) for key in definition.keys}
    return pd.DataFrame(keys | {EVENT_TIME: times} | {each.name: values[each.name] for each in definition.features})


def _row_times(definition: Definition, codes: Ints, row: Ints, event: Ints, until: int) -> tuple[Ints, Ints]:
    """Key number and time of every row, in that order: closes of active tiles, and the walk from each to the next.

    Parameters
    ----------
    definition : Definition
    codes, row, event : ndarray
        Key number and close of each active tile, in that order, and the time of the newest event there.
    until : int
    """
    following = np.full(len(row), NEVER)
    following[:-1] = np.where(codes[1:] == codes[:-1], row[1:], NEVER)
    found = [(codes[row <= until], row[row <= until])]
    while len(row):
        row = _due(definition, row, event)
        going = (row < following) & (row <= until)
        codes, row, event, following = codes[going], row[going], event[going], following[going]
        found.append((codes, row))
    codes, times = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.lexsort((times, codes))
    return codes[order], times[order]


def _newest_row(definition: Definition, event: Ints, at: Ints) -> Ints:
    """Time of the newest row up to a time, for keys whose newest event in a closed tile is this one.

    While a feature's window is filled, each of its slides is a row: go to the last of those at once, and walk on.
    """
    row = _ceil(event, definition.hop_ms)
    for window, slide in _spans(definition):
        row = np.maximum(row, np.minimum(at, event + window - 1) // slide * slide)
    while (step := (due := _due(definition, row, event)) <= at).any():
        row = np.where(step, due, row)
    return row


def _aggregated(definition: Definition, log: _Log, codes: Ints, times: Ints) -> dict[str, Any]:
    end = log.until(codes, times)
    starts = {window: log.until(codes, times - window) for window, _ in _spans(definition)}
    values: dict[str, Any] = {}
    for each in definition.features:
        start = starts[each.window_ms]
        if each.column == ANY:
            values[each.name] = pd.array(end - start, dtype="Int64")
        else:
            values[each.name] = log.column(each.column).over(each.function, start, end)
    return values
