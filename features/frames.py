"""A user's function over frames of records: the same call in the stream, over history and in the witness.

Whoever has records, in whatever form, makes the same frame of them: the type of a column is that of its schema and
never follows from the values of a batch. Null is ``<NA>`` in nullable integers and booleans, NaN in floats, ``NaT`` in
times and None in the rest; an array that is null is an empty one, as the archive has it.

The function gives a frame back. Rows are told apart by their index, which it has to keep: a label that is missing is a
record that was dropped. Labels do not begin with 0, so that an index which was made anew is noticed and not taken for
the first records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["HEARTBEAT", "RECORD", "SET_ASIDE", "FrameColumn", "Outcome", "RecordFunction", "frame_of", "said"]

# What arrives: behind the watermark or not decoded; moving time on and nothing else; a record.
SET_ASIDE, HEARTBEAT, RECORD = 0, 1, 2
ERROR_CHARS = 1000  # of an exception's text; it becomes a header of a dead letter


@dataclass(frozen=True)
class FrameColumn:
    """A column of the frame that a function gets.

    Attributes
    ----------
    name : str
        A field of the records, one of a record in it (``buyer.country``), or what ``field_mapping`` calls it.
    path : str
        The field.
    type : DataType
    nullable : bool
    symbols : tuple of str
        Of an enum.
    """

    name: str
    path: str
    type: pa.DataType
    nullable: bool
    symbols: tuple[str, ...] = ()

    @property
    def flagged(self) -> bool:
        """Whether pandas has no plain column that could hold its nulls: they travel beside the values."""
        return pa.types.is_integer(self.type) or pa.types.is_boolean(self.type)

    def of_arrow(self, values: pa.ChunkedArray) -> pd.Series:
        """The column from Arrow values of any type that casts to its own."""
        if values.type != self.type:
            values = values.cast(self.type)
        if self.flagged:
            known = values.fill_null(False if pa.types.is_boolean(self.type) else 0)
            return self.of_flagged(known.to_numpy(), values.is_null().to_numpy())
        return self.of_plain(values.to_pandas(date_as_object=True))

    def of_flagged(self, values: NDArray[Any], null: NDArray[np.bool_] | None = None) -> pd.Series:
        """The column from values without null, and where they stand for null."""
        values = np.asarray(values, dtype=self.type.to_pandas_dtype())
        if not self.nullable:
            return pd.Series(values)
        null = np.zeros(len(values), dtype=bool) if null is None else np.asarray(null, dtype=bool)
        array = pd.arrays.BooleanArray if pa.types.is_boolean(self.type) else pd.arrays.IntegerArray
        return pd.Series(array(values, null))

    def of_plain(self, values: pd.Series) -> pd.Series:
        """The column from what pandas makes of Arrow values."""
        if pa.types.is_timestamp(self.type):
            unit = self.type.unit
            return values.astype(pd.DatetimeTZDtype(unit, self.type.tz) if self.type.tz else np.dtype(f"M8[{unit}]"))
        if pa.types.is_floating(self.type):
            return values.astype(self.type.to_pandas_dtype())
        if pa.types.is_list(self.type):
            empty: NDArray[Any] = np.array([], dtype=object)
            return pd.Series([empty if each is None else each for each in values], dtype=object)
        return values.astype(object)


@dataclass(frozen=True)
class Outcome:
    """What a function made of a frame.

    Attributes
    ----------
    kept : ndarray of bool
        One for each row; false where it was dropped or failed.
    columns : dict of str to Array
        One value for each row that was kept, in the order of the frame.
    errors : dict of int to str
        By position, why the function failed on a row.
    """

    kept: NDArray[np.bool_]
    columns: dict[str, pa.Array]
    errors: dict[int, str]


def frame_of(columns: Sequence[FrameColumn], table: pa.Table) -> pd.DataFrame:
    """Records as a function gets them, from a table with a column for each."""
    return pd.DataFrame({each.name: each.of_arrow(table.column(each.name)) for each in columns})


@dataclass(frozen=True)
class RecordFunction:
    """A function over frames of records, and what it takes and gives.

    Attributes
    ----------
    view : str
    function : callable
        DataFrame to DataFrame; of each record by itself.
    columns : tuple of FrameColumn
        What it gets.
    outputs : dict of str to DataType
        What is used of what it gives.
    """

    view: str
    function: Callable[[pd.DataFrame], Any]
    columns: tuple[FrameColumn, ...]
    outputs: dict[str, pa.DataType]

    def apply(self, frame: pd.DataFrame) -> Outcome:
        """Run the function over records.

        A frame on which it fails is cut in two until the records that it fails on are alone; k bad ones among n cost
        about k log n calls.

        Parameters
        ----------
        frame : DataFrame
            See :func:`frame_of`; it is left as it is, whatever the function does to what it gets.
        """
        kept = np.zeros(len(frame), dtype=bool)
        errors: dict[int, str] = {}
        parts: dict[str, list[pa.Array]] = {name: [] for name in self.outputs}
        waiting = [(0, len(frame))] if len(frame) else []
        while waiting:
            start, end = waiting.pop()
            try:
                positions, found = self.once(frame.iloc[start:end])
            except Exception as exc:  # the user's own code runs here and may raise anything
                if end - start == 1:
                    errors[start] = said(exc)
                else:
                    middle = (start + end) // 2
                    waiting += [(middle, end), (start, middle)]  # the earlier is taken first
                continue
            kept[start + positions] = True
            for name, values in found.items():
                parts[name].append(values)
        columns = {
            name: pa.concat_arrays(parts[name]) if parts[name] else pa.array([], kind)
            for name, kind in self.outputs.items()
        }
        return Outcome(kept, columns, errors)

    def once(self, frame: pd.DataFrame) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
        """Run the function a single time: the positions of the rows it kept, ascending, and their values.

        Raises
        ------
        ValueError, TypeError
            Where what it gives is no frame, has no such column or another index, or holds values of another type.
        Exception
            Whatever the function raises.
        """
        start = len(frame) + 1
        given = frame.copy()
        given.index = pd.RangeIndex(start, start + len(frame))
        made = self.function(given)
        if not isinstance(made, pd.DataFrame):
            raise TypeError(f"expected the function to return a DataFrame, got a {type(made).__name__}")
        positions = _positions(made.index, start, len(frame))
        order = np.argsort(positions, kind="stable")
        if (np.diff(order) != 1).any():
            made, positions = made.iloc[order], positions[order]
        return positions, {name: _values(made, name, kind) for name, kind in self.outputs.items()}


def said(exc: BaseException) -> str:
    """An exception in a line."""
    return f"{type(exc).__name__}: {exc}".replace("\n", " ")[:ERROR_CHARS]


def _positions(index: pd.Index, start: int, rows: int) -> NDArray[np.int64]:
    expected = (
        "expected the function to keep the index, by which records are told apart, and to return each at most once"
    )
    if len(index) and index.inferred_type != "integer":
        raise ValueError(f"{expected}; got an index of {index.inferred_type}")
    positions = np.asarray(index, dtype=np.int64) - start
    if len(index) and (positions.min() < 0 or positions.max() >= rows):
        raise ValueError(f"{expected}; got labels that were not there, of {len(index)} rows from {rows}")
    if not index.is_unique:
        raise ValueError(f"{expected}; got {len(index)} rows with {index.nunique()} labels")
    return positions


def _values(made: pd.DataFrame, name: str, kind: pa.DataType) -> pa.Array:
    if name not in made:
        raise ValueError(f"expected the function to return column {name!r}, got {', '.join(map(str, made.columns))}")
    try:
        found = pa.array(made[name], type=None if pa.types.is_timestamp(kind) else kind, from_pandas=True)
        if pa.types.is_timestamp(kind):
            found = found.cast(kind, safe=False)  # what is finer counts as the millisecond it is in
    except pa.ArrowException as exc:
        raise TypeError(f"expected column {name!r} to be of {kind}, got {made[name].dtype}: {exc}") from exc
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
