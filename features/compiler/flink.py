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

import pyarrow as pa
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
from features.compiler.vectorised import record_function
from features.frames import FrameColumn, RecordFunction

__all__ = [
    "CHANGED_TILES",
    "CHANGES",
    "ROWTIME",
    "TILES",
    "CompiledView",
    "arrivals_table",
    "compile_view",
    "events_table",
    "generation_of",
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
_EVENT_TIME = f"CAST({ROWTIME} + INTERVAL '0.001' SECOND AS TIMESTAMP_LTZ(3))"
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
    function : RecordFunction or None
        The view's transformation in pandas, which the SQL calls by :attr:`function_name`.
    """

    name: str
    source: str
    views: tuple[tuple[str, str], ...]
    select: str
    function: RecordFunction | None = None

    @property
    def function_name(self) -> str:
        """What SQL calls the view's function."""
        return _function_name(self.name)

    @property
    def failed(self) -> str:
        """The records that the function failed on, where they lay, and why.

        All of it comes out of the function's row, and time is used as the view uses it: only where the calls and what
        goes along with them are the same does the planner see that they are one, and call the function once.
        """
        return (
            "SELECT `made`.`record_bytes` AS `record_bytes`, `made`.`kafka_partition` AS `kafka_partition`, "
            "`made`.`kafka_offset` AS `kafka_offset`, TO_TIMESTAMP_LTZ(`made`.`kafka_ms`, 3) AS `kafka_time`, "
            f"`made`.`error` AS `error`, {_EVENT_TIME} AS `event_time`\n"
            f"FROM {_transformed_name(self.name)} WHERE `made`.`error` IS NOT NULL"
        )


def events_table(source: str) -> str:
    """Name of the SQL table of a Kafka source's good records and heartbeats."""
    return f"{source}_events"


def arrivals_table(source: str) -> str:
    """Name of the SQL table of everything that arrives of a Kafka source, and what it is."""
    return f"{source}_arrivals"


def generation_of(name: str, generation: int) -> str:
    """What a source or a view is called in a job that reads its topics anew from that generation on.

    State is found by name: what begins anew needs another, and is then not taken for what was there before. The first
    generation, 0, has none of its own.
    """
    return f"{name}__g{generation}" if generation else name


def compile_view(view: StreamFeatureView, generation: int = 0) -> CompiledView:
    """The Flink SQL of a view.

    Parameters
    ----------
    view : StreamFeatureView
    generation : int
        Of the source that it reads and of its state, see :func:`generation_of`.

    Raises
    ------
    UnsupportedViewError
        Naming the view, the field and the reason, for what cannot be compiled.
    """
    source, meaning = stream_source(view), definition(view)
    check_columns(view, meaning)
    read, uid, events = (
        generation_of(source.name, generation),
        generation_of(view.name, generation),
        f"{view.name}_input",
    )
    views = [(events, _input(view, meaning, events_table(read)))]
    if function := record_function(view):
        views = [
            (_transformed_name(view.name), _called(function, arrivals_table(read))),
            (events, _kept(function, meaning)),
        ]
    select = _windowed(view, meaning, events, uid) if meaning.features else f"SELECT {_row(view)}\nFROM {events}"
    return CompiledView(view.name, source.name, tuple(views), select, function)


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


def _called(function: RecordFunction, arrivals: str) -> str:
    """Each arrival with what the function made of it, in a row: ``kept``, ``c0``, ``c1`` ..., and where it failed."""
    origin = ", ".join(map(_q, ("headwater_arrival", "record_bytes", "kafka_partition", "kafka_offset", "kafka_time")))
    arguments = ", ".join(argument for column in function.columns for argument in _arguments(column))
    call = f"{_function_name(function.view)}({origin}, {arguments})"
    return f"SELECT {ROWTIME}, {call} AS `made`\nFROM {arrivals}"


def _arguments(column: FrameColumn) -> list[str]:
    """A column as its function gets it: where pandas knows no null, a value in its place, and whether it was null."""
    path = sql_path(column.path)
    if not column.flagged:
        return [path]
    value = f"COALESCE({path}, {'FALSE' if pa.types.is_boolean(column.type) else 0})"
    return [value, f"{path} IS NULL"] if column.nullable else [value]


def _kept(function: RecordFunction, meaning: Definition) -> str:
    """What a view reads of what its function made. Of heartbeats that is nothing; they still move time on."""
    columns = []
    for at, (name, kind) in enumerate(function.outputs.items()):
        value = f"`made`.`c{at}`"
        columns.append(f"{f'TO_TIMESTAMP_LTZ({value}, 3)' if pa.types.is_timestamp(kind) else value} AS {_q(name)}")
    made = f"SELECT {', '.join([*columns, ROWTIME])} FROM {_transformed_name(meaning.name)} WHERE `made`.`kept`"
    names = [*_key_columns(meaning), *(_q(name) for name in function.outputs if name not in meaning.keys)]
    return f"SELECT {', '.join(names)}, {ROWTIME}\nFROM ({made})"


def _function_name(view: str) -> str:
    return f"{view}_function"


def _transformed_name(view: str) -> str:
    return f"{view}_transformed"


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
        f"{_EVENT_TIME} AS `event_time`",
        f"CURRENT_WATERMARK({ROWTIME}) AS `watermark`",
        *(_cast(view, field) for field in value_fields(view)),
    ]
    return ", ".join(columns)


def _windowed(view: StreamFeatureView, meaning: Definition, events: str, uid: str) -> str:
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
        f"  uid => '{uid}'\n)"
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
