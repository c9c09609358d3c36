"""A view's transformation in pandas, made ready to run: what it gets, what is used of what it gives, whether it can be.

All is decided before a job is submitted, by running the function over records made up from the schema. What cannot be
found out is what it reads: it gets every field that it can have, unless the view's tag ``columns`` lists them.

A function must treat each record by itself, since batches begin and end anywhere. So made-up records are run whole, cut
otherwise and in the other order, and values that differ are refused: shifts, ranks, running sums, duplicates, means of
the batch, random numbers, the clock. That proves nothing of records unlike these; ``headwater verify`` runs the
function over the archive at once, and finds what the stream's batches made of the same records.
"""

from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import StreamFeatureView
from feast.data_source import KafkaSource
from feast.types import Array, FeastType

from features.compiler.definition import ANY, Definition, definition
from features.compiler.samples import samples
from features.compiler.sources import avro_schema, needs_numbers, stream_source
from features.compiler.topics import UnsupportedViewError, avro_type, join_key_fields, value_fields
from features.compiler.transformations import pandas_function
from features.frames import FrameColumn, RecordFunction, said
from schemas.batch import arrow_type
from schemas.codec import field_kinds

__all__ = ["COLUMNS", "frame_columns", "record_function"]

COLUMNS = "columns"  # tag of a view
_OF_ITS_COLUMN = ("first", "last", "min", "max")
_MILLIS = pa.timestamp("ms", "UTC")


def record_function(view: StreamFeatureView) -> RecordFunction | None:
    """A view's transformation in pandas; None where it has another, or none.

    Raises
    ------
    UnsupportedViewError
        Naming the view and the reason, where it could not run, or would not give the same for the same records.
    """
    given = pandas_function(view)
    if given is None:
        return None
    meaning, columns = definition(view), _asked(view)
    where = f"feature view {view.name!r}, its transformation in pandas"
    try:
        # As the workers of a job will have it: what a repo's own modules hold travels with it.
        function = cloudpickle.loads(cloudpickle.dumps(given))
    except Exception as exc:  # of whatever the function refers to
        raise UnsupportedViewError(f"{where}: expected a function that can be sent to a job, got {said(exc)}") from exc
    probe = RecordFunction(view.name, function, columns, {})
    made_up = _taken(probe)
    made = _tried(where, probe, made_up)
    kinds = {name: _kind(where, view, meaning, name, made, columns) for name in _needed(meaning)}
    found = RecordFunction(view.name, function, columns, kinds)
    if len(made_up):
        _refuse_batches(where, found, made_up)
    return found


def frame_columns(source: KafkaSource) -> tuple[tuple[FrameColumn, ...], dict[str, str]]:
    """The columns that a function over a source's records can have, and why fields are none.

    Fields of records are columns of their own, by their path: ``buyer.country``.
    """
    kinds, refused = field_kinds(avro_schema(source), lambda avro: avro)
    called = source.field_mapping or {}
    found = []
    for name, avro in kinds.items():
        for path, kind, nullable in _leaves(name, avro, False):
            try:
                found.append(_column(called.get(path, path), path, kind, nullable))
            except TypeError as exc:
                refused[path] = str(exc)
    return tuple(found), refused


def _leaves(path: str, avro: Any, nullable: bool) -> Iterator[tuple[str, Any, bool]]:
    if isinstance(avro, list) and len(rest := [each for each in avro if each != "null"]) == 1:
        nullable = nullable or "null" in avro
        avro = rest[0]
    if isinstance(avro, dict) and avro["type"] == "record":
        for field in avro["fields"]:
            yield from _leaves(f"{path}.{field['name']}", field["type"], nullable)
    else:
        yield path, avro, nullable


def _column(name: str, path: str, avro: Any, nullable: bool) -> FrameColumn:
    logical = avro.get("logicalType", "") if isinstance(avro, dict) else ""
    if logical.startswith("time-") or logical == "duration":
        raise TypeError(f"expected a type that a frame has a column for, got {logical}")
    kind, _ = arrow_type(avro)
    if logical.startswith("local-"):
        kind = pa.timestamp(kind.unit)
    if pa.types.is_map(kind) or (pa.types.is_list(kind) and not _plain(kind.value_type)):
        raise TypeError(f"expected a plain type, or an array of one, got {kind}")
    symbols = tuple(avro.get("symbols", ())) if isinstance(avro, dict) else ()
    return FrameColumn(name, path, kind, nullable, symbols)


def _plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_temporal(kind) or pa.types.is_decimal(kind))


def _asked(view: StreamFeatureView) -> tuple[FrameColumn, ...]:
    columns, refused = frame_columns(stream_source(view))
    if not (tag := view.tags.get(COLUMNS, "")):
        return columns
    names = [each.strip() for each in tag.split(",")]
    there = {each.name: each for each in columns}
    if missing := [each for each in names if each not in there]:
        why = f": {refused[missing[0]]}" if missing[0] in refused else ""
        raise UnsupportedViewError(
            f"feature view {view.name!r}, tag {COLUMNS!r}: expected columns out of {', '.join(there)}, got "
            f"{missing[0]!r}{why}"
        )
    return tuple(there[each] for each in dict.fromkeys(names))


def _needed(meaning: Definition) -> list[str]:
    """What is used of what the function gives: keys and features, or what features are made of."""
    aggregated = sorted({each.column for each in meaning.features} - {ANY})
    return list(dict.fromkeys([*meaning.keys, *meaning.latest, *aggregated]))


def _taken(probe: RecordFunction) -> pd.DataFrame:
    """Made-up records without those that the function fails on: their values may not be what it expects."""
    made_up = samples(probe.columns)
    try:
        probe.function(made_up.copy())
    except Exception:  # the user's own code
        return made_up.drop(index=list(probe.apply(made_up).errors)).reset_index(drop=True)
    return made_up


def _tried(where: str, probe: RecordFunction, made_up: pd.DataFrame) -> pd.DataFrame:
    """What the function makes of made-up records, or of none."""
    try:
        made = probe.function(made_up.copy())
    except Exception as exc:  # the user's own code
        names = ", ".join(each.name for each in probe.columns)
        raise UnsupportedViewError(
            f"{where}: expected it to take a DataFrame with columns {names}, got {said(exc)}"
        ) from exc
    if not isinstance(made, pd.DataFrame):
        raise UnsupportedViewError(f"{where}: expected it to return a DataFrame, got a {type(made).__name__}")
    return made


def _kind(
    where: str,
    view: StreamFeatureView,
    meaning: Definition,
    name: str,
    made: pd.DataFrame,
    columns: tuple[FrameColumn, ...],
) -> pa.DataType:
    """The type of a column: as the view declares it, as the function makes it, or as it comes."""
    if name not in made:
        raise UnsupportedViewError(
            f"{where}: expected it to return column {name!r}, got {', '.join(map(str, made.columns))}"
        )
    declared = {field.name: field.dtype for field in (*join_key_fields(view), *value_fields(view))}
    if name in meaning.keys or name in meaning.latest:
        return _declared(declared[name])
    features = [each for each in meaning.features if each.column == name]
    came = next((each.type for each in columns if each.name == name), None)
    found = _inferred(made[name])
    if found is None or (came is not None and pa.types.is_decimal(found)):
        # Nothing but nulls, or digits that are only those of these values.
        of_it = (_declared(declared[each.name]) for each in features if each.function in _OF_ITS_COLUMN)
        found = came or next(of_it, None)
    if found is None:
        raise UnsupportedViewError(
            f"{where}: expected values in column {name!r} from which its type can be told, got {made[name].dtype}; "
            f"give it one, as frame[{name!r}].astype('string')"
        )
    for each in features:
        number = pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found)
        if needs_numbers(each.function) and not number:
            raise UnsupportedViewError(
                f"{where}, feature {each.name!r}: expected a column of numbers for {each.function}, got {name!r}, "
                f"which is {found}"
            )
    if pa.types.is_list(found) and any(each.function != "count" for each in features):
        raise UnsupportedViewError(f"{where}: expected a plain column {name!r} to aggregate, got {found}")
    return found


def _declared(dtype: FeastType) -> pa.DataType:
    if isinstance(dtype, Array):
        return pa.list_(_declared(dtype.base_type))
    return arrow_type(avro_type(dtype))[0]


def _inferred(values: pd.Series) -> pa.DataType | None:
    """The type of a column that the function made, as wide as SQL has it; None where nothing tells."""
    try:
        kind = pa.array(values, from_pandas=True).type
    except pa.ArrowException:
        return None
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return None
    if pa.types.is_integer(kind):
        return pa.int32() if kind.bit_width < 32 or kind == pa.int32() else pa.int64()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_timestamp(kind):
        return _MILLIS
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_decimal(kind):
        return pa.decimal128(38, kind.scale)
    known = pa.types.is_floating(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind)
    return kind if known or pa.types.is_boolean(kind) or pa.types.is_date32(kind) or pa.types.is_list(kind) else None


def _refuse_batches(where: str, function: RecordFunction, made_up: pd.DataFrame) -> None:
    """Run made-up records whole and otherwise; a function of each record by itself does not tell the difference."""
    rows = np.arange(len(made_up))
    try:
        whole = _by_row(function, made_up, rows)
    except Exception as exc:  # the user's own code, or what it gives is not as it has to be
        raise UnsupportedViewError(f"{where}: {exc}") from exc
    expected = f"{where}: expected a function of each record by itself, since records come in batches of any size"
    for cuts in ([rows[::-1]], [rows[:1], rows[1:8], rows[8:]], [rows[:20][::-1], rows[20:]]):
        again: dict[int, tuple[Any, ...]] = {}
        for part in filter(len, cuts):
            try:
                again |= _by_row(function, made_up, part)
            except Exception as exc:  # the user's own code
                raise UnsupportedViewError(f"{expected}, got an error for {len(part)} of them: {said(exc)}") from exc
        if odd := sorted(set(whole) ^ set(again)):
            raise UnsupportedViewError(
                f"{expected}, got one that keeps or drops a record by what else is in its batch: {len(odd)} of "
                f"{len(made_up)} made-up records"
            )
        for at, name in enumerate(function.outputs):
            if any(not _same(whole[row][at], again[row][at]) for row in whole):
                raise UnsupportedViewError(f"{expected}, got other values of {name!r} for the same records")


def _by_row(function: RecordFunction, frame: pd.DataFrame, part: np.ndarray[Any, Any]) -> dict[int, tuple[Any, ...]]:
    """Values by row of the frame, from a batch of some of its rows."""
    positions, columns = function.once(frame.iloc[part])
    values = zip(*(each.to_pylist() for each in columns.values()), strict=True)
    return dict(zip(part[positions].tolist(), values, strict=True))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=1e-9, atol=0, equal_nan=True))
    return bool(one == other)
