"""Rows of a table that changed, for the witness: which stood when, and what an aggregate over them was.

The stream takes rows back; here nothing is ever taken back. A version of a row stands from the change that made it
until the next change of its key, and an aggregate at a time is one over the versions that stood then, looked up one by
one. So both can only agree by being right.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.aggregates import Column
from features.compiler.definition import ANY, Feature

__all__ = ["NEVER", "Versions", "standing"]

NEVER = np.iinfo(np.int64).max
LONG_AGO = np.iinfo(np.int64).min // 2
EVENT_TIME = "event_time"
_TOGETHER = 4_000_000  # versions looked up at once, which bounds the memory taken

Ints = NDArray[np.int64]


def standing(changes: pd.DataFrame) -> pd.DataFrame:
    """When each version of each row stood.

    Parameters
    ----------
    changes : DataFrame
        Of one topic, in its order, of each key in one partition: ``key``; ``changed``, int64 epoch milliseconds;
        ``there``, whether the row of the key is there after it.

    Returns
    -------
    DataFrame
        ``since`` and ``until`` of the changes after which a row is there, on their index; :data:`NEVER` for one that
        still stands. A change takes effect no earlier than the one before it of a row that is there.
    """
    key, gone = changes["key"], ~changes["there"].astype(bool)
    deleted_before = gone.astype(np.int64).groupby(key).cumsum() - gone
    since = changes["changed"].groupby([key, deleted_before]).cummax()
    until = since.groupby(key).shift(-1).astype("Int64").fillna(NEVER).astype(np.int64)
    return pd.DataFrame({"since": since, "until": until})[~gone]


class Versions:
    """Versions of rows by key and event time.

    Parameters
    ----------
    codes : ndarray
        The number of each one's key; below 0 for none.
    frame : DataFrame
        ``event_time`` of the row, ``since`` and ``until``, int64 epoch milliseconds, and the columns aggregated; in
        topic order.
    """

    def __init__(self, codes: Ints, frame: pd.DataFrame) -> None:
        times = frame[EVENT_TIME].to_numpy(dtype=np.int64)
        order = np.lexsort((times, codes))
        order = order[np.searchsorted(codes[order], 0) :]
        self.events = frame.iloc[order]
        self.codes, self.times = codes[order], times[order]
        # A row is in no window before its own time.
        self._since = np.maximum(self.events["since"].to_numpy(dtype=np.int64), self.times)
        self._until = np.maximum(self.events["until"].to_numpy(dtype=np.int64), self.times)
        self._moments = np.unique(self.times)
        self._places = self._place(self.codes, self.times)

    def changes(self) -> tuple[Ints, Ints]:
        """Key number and time of each change that takes effect, in no order."""
        gone = self._until != NEVER
        return np.concatenate([self.codes, self.codes[gone]]), np.concatenate([self._since, self._until[gone]])

    def start(self, codes: Ints) -> Ints:
        """For each key, the place of its first version."""
        return np.searchsorted(self.codes, codes).astype(np.int64)

    def newest(self, codes: Ints, at: Ints, window_ms: int) -> Ints:
        """Event time of the newest row in each window; long ago where there is none."""
        found = [np.empty(0, dtype=np.int64)]
        for places, start, end in self._standing(codes, at, window_ms):
            found.append(np.append(self.times[places], LONG_AGO)[np.where(end > start, end - 1, -1)])
        return np.concatenate(found)

    def over(self, features: Sequence[Feature], codes: Ints, at: Ints, window_ms: int) -> dict[str, Any]:
        """The values of features of one window, of keys at times."""
        found: dict[str, list[pd.Series]] = {each.name: [] for each in features}
        for places, start, end in self._standing(codes, at, window_ms):
            columns = {name: Column(self.events[name].iloc[places]) for name in {f.column for f in features} - {ANY}}
            for each in features:
                if each.column == ANY:
                    values = pd.array(end - start, dtype="Int64")
                else:
                    values = columns[each.column].over(each.function, start, end)
                found[each.name].append(pd.Series(values))
        return {name: pd.concat(parts, ignore_index=True).array for name, parts in found.items()}

    def _standing(self, codes: Ints, at: Ints, window_ms: int) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Places of the versions that stand in each window; where each window's begin and end among them."""
        first, last = (
            np.searchsorted(self._places, self._place(codes, times), side="right") for times in (at - window_ms, at)
        )
        many = np.cumsum(last - first)
        cuts = np.searchsorted(many, np.arange(_TOGETHER, (many[-1] if len(many) else 0) + _TOGETHER, _TOGETHER))
        parts = [each for each in np.split(np.arange(len(at)), np.unique(cuts + 1)) if len(each)]
        for part in parts or [np.empty(0, dtype=np.int64)]:
            lengths = last[part] - first[part]
            begins = np.cumsum(lengths) - lengths
            places = np.arange(lengths.sum()) + np.repeat(first[part] - begins, lengths)
            when = np.repeat(at[part], lengths)
            stands = (self._since[places] <= when) & (when < self._until[places])
            before = np.concatenate([[0], np.cumsum(stands)]).astype(np.int64)
            yield places[stands], before[begins], before[begins + lengths]

    def _place(self, codes: Ints, times: Ints) -> Ints:
        return codes * (len(self._moments) + 1) + np.searchsorted(self._moments, times, side="right")
