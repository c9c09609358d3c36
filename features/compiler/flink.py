"""A stream feature view as Flink SQL.

The SQL keeps to what :mod:`features.compiler.definition` says a view means. Its windows are one call of a function of
ours, ``HEADWATER_TILES`` (``jobs/java``): a record is added to the tile of its time, and a row of all features is put
together from tiles at every close of an active tile and at every slide until the windows are empty.

Flink's own HOP would aggregate each window length apart, sample all of them at the greatest common divisor of their
slides (a 30 d window beside one of 10 s: 259,200 rows for one record), and say nothing of an empty window. ``OVER
RANGE`` scans a hot key's records again for every record.

Of a source whose records are changes, ``HEADWATER_CHANGES`` makes rows with a sign: the one that was, taken back, and
the one that is. ``HEADWATER_CHANGED_TILES`` adds those up. A view's transformation is between the two, so that it
makes the same of a row when it comes and when it goes; it must depend on the row alone.

A source's ``rowtime`` is one millisecond before its event time, which makes windows [start, end) into (start, end].
"""

from dataclasses import dataclass

from feast import Field, StreamFeatureView
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    PrimitiveFeastType,
    String,
    UnixTimestamp,
)

from features.compiler.changes import TIME
from features.compiler.definition import ANY, Definition, definition
from features.compiler.sources import check_columns, sql_path, stream_source
from features.compiler.topics import UnsupportedViewError, join_key_fields, value_fields
from features.compiler.transformations import transformed

__all__ = [
    "CHANGED_TILES",
    "CHANGES",
    "ROWTIME",
    "TILES",
    "CompiledView",
    "compile_view",
    "events_table",
    "interval",
    "sql_type",
]

ROWTIME = "rowtime"
TILES = "HEADWATER_TILES"
CHANGES = "HEADWATER_CHANGES"
CHANGED_TILES = "HEADWATER_CHANGED_TILES"
# What CHANGES says of a row, and CHANGED_TILES has to know: event time; whether it is added or taken back, since when;
# where in the topic this version of it lies.
_OF_CHANGES = (TIME, "hw_sign", "hw_since", "hw_partition", "hw_offset")
_TYPES: dict[PrimitiveFeastType, str] = {
    Float64: "DOUBLE",
    Float32: "FLOAT",
    Int64: "BIGINT",
    Int32: "INT",
    String: "STRING",
    Bool: "BOOLEAN",
    Bytes: "BYTES",
    UnixTimestamp: "TIMESTAMP_LTZ(3)",
}


@dataclass(frozen=True)
class CompiledView:
    """A feature view as SQL.

    Attributes
    ----------
    name : str
    source : str
        Name of the Kafka source; the SQL reads it as the table :func:`events_table`.
    views : tuple of (str, str)
        Temporary views to create first, in order: name and SELECT.
    select : str
        The rows of ``features.<name>``: join keys, ``event_time``, ``watermark``, features, in the order of its schema.
    """

    name: str
    source: str
    views: tuple[tuple[str, str], ...]
    select: str


def events_table(source: str) -> str:
    """Name of the SQL table of a Kafka source's good records and heartbeats."""
    return f"{source}_events"


def compile_view(view: StreamFeatureView) -> CompiledView:
    """The Flink SQL of a view.

    Raises
    ------
    UnsupportedViewError
        Naming the view, the field and the reason, for what cannot be compiled.
    """
    source, meaning = stream_source(view), definition(view)
    check_columns(view, meaning)
    events = (f"{view.name}_input", _input(view, meaning, events_table(source.name)))
    select = _windowed(view, meaning, events[0]) if meaning.features else f"SELECT {_row(view)}\nFROM {events[0]}"
    return CompiledView(view.name, source.name, (events,), select)


def sql_type(dtype: FeastType) -> str:
    """The SQL type of a Feast type.

    Raises
    ------
    UnsupportedViewError
        For a type that no column of a view may have yet.
    """
    if isinstance(dtype, Array) and isinstance(dtype.base_type, PrimitiveFeastType):
        return f"ARRAY<{sql_type(dtype.base_type)}>"
    if isinstance(dtype, PrimitiveFeastType) and dtype in _TYPES:
        return _TYPES[dtype]
    raise UnsupportedViewError(f"expected one of {', '.join(str(each) for each in _TYPES)}, got {dtype}")


def _input(view: StreamFeatureView, meaning: Definition, events: str) -> str:
    """The columns that a view reads, by the names it has for them, and the row time."""
    mapping = stream_source(view).field_mapping or {}
    mapped = ", ".join(["*", *(f"{sql_path(column)} AS {_q(name)}" for column, name in sorted(mapping.items()))])
    records = f"(SELECT {mapped} FROM {events})" if mapping else events
    if (select := transformed(view, records)) is not None:
        records = f"({select})"
    names = [*meaning.latest, *sorted({each.column for each in meaning.features} - {ANY})]
    columns = [*_key_columns(meaning), *(_named(name) for name in dict.fromkeys(names) if name not in meaning.keys)]
    columns += [_q(name) for name in _OF_CHANGES] if meaning.of_changes else []
    return f"SELECT {', '.join(columns)}, {ROWTIME}\nFROM {records}"


def _key_columns(meaning: Definition) -> list[str]:
    """The join keys: all of them, or, where one is null, none. A record of no entity only moves time on."""
    if len(meaning.keys) == 1:
        return [_named(name) for name in meaning.keys]
    some_null = " OR ".join(f"{sql_path(name)} IS NULL" for name in meaning.keys)
    return [f"CASE WHEN {some_null} THEN NULL ELSE {sql_path(name)} END AS {_q(name)}" for name in meaning.keys]


def _named(name: str) -> str:
    return _q(name) if sql_path(name) == _q(name) else f"{sql_path(name)} AS {_q(name)}"


def _row(view: StreamFeatureView) -> str:
    """The columns of a row, as its topic has them. A row time is one millisecond before its event time."""
    columns = [
        *(_cast(view, field) for field in join_key_fields(view)),
        f"CAST({ROWTIME} + INTERVAL '0.001' SECOND AS TIMESTAMP_LTZ(3)) AS `event_time`",
        f"CURRENT_WATERMARK({ROWTIME}) AS `watermark`",
        *(_cast(view, field) for field in value_fields(view)),
    ]
    return ", ".join(columns)


def _windowed(view: StreamFeatureView, meaning: Definition, events: str) -> str:
    keys = ", ".join(_q(name) for name in meaning.keys)
    features = [
        f"{each.name} {each.function} {each.column or '*'} {each.window_ms} {each.slide_ms}"
        for each in meaning.features
    ]
    plan = ";\n    ".join([str(meaning.hop_ms), *features])
    return (
        f"SELECT {_row(view)}\nFROM {CHANGED_TILES if meaning.of_changes else TILES}(\n"
        f"  input => TABLE {events} PARTITION BY ({keys}),\n"
        f"  features => '{plan}',\n"
        f"  on_time => DESCRIPTOR({ROWTIME}),\n"
        f"  uid => '{view.name}'\n)"
    )


def _cast(view: StreamFeatureView, field: Field) -> str:
    try:
        return f"CAST({_q(field.name)} AS {sql_type(field.dtype)}) AS {_q(field.name)}"
    except UnsupportedViewError as exc:
        raise UnsupportedViewError(f"feature view {view.name!r}, field {field.name!r}: {exc}") from None


def _q(name: str) -> str:
    return f"`{name}`"


def interval(span_ms: int) -> str:
    """An interval literal in the largest unit that divides the span; Flink refuses 600 SECOND."""
    for unit, unit_ms, places in (("DAY", 86_400_000, 3), ("HOUR", 3_600_000, 2), ("MINUTE", 60_000, 2)):
        if span_ms % unit_ms == 0 and span_ms // unit_ms < 10**places:
            return f"INTERVAL '{span_ms // unit_ms}' {unit}({places})"
    days, rest = divmod(span_ms, 86_400_000)
    hours, rest = divmod(rest, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    seconds, millis = divmod(rest, 1000)
    return f"INTERVAL '{days} {hours:02}:{minutes:02}:{seconds:02}.{millis:03}' DAY(3) TO SECOND(3)"
