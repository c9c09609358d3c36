"""A stream feature view as Flink SQL.

The SQL keeps to what the definition says: a windowed feature at time t is the aggregate over (t - W, t] of event time,
sampled at every slide boundary until the longest window is empty, and once more when it is.

How the pieces get there:

- Flink windows are [start, end); a source's ``rowtime`` is one millisecond before its event time, which makes them
  (start, end].
- A view's windows share one slide and become one HOP aggregation per window length. Flink slices those, so a record
  touches one slice however long the window is.
- HOP says nothing of an empty window. One more window, a slide longer than the longest, only counts; its row comes one
  boundary after the others' last, and is what lets a quiet key decay to zero.
- The aggregations of one boundary meet in a TUMBLE over their window time: no join, no unbounded state.
"""

from dataclasses import dataclass
from datetime import timedelta
from math import gcd

from feast import Aggregation, StreamFeatureView
from feast.transformation.mode import TransformationMode
from feast.types import FeastType, Float32, Float64, Int32, Int64, PrimitiveFeastType, String

from features.compiler.sources import stream_source
from features.compiler.topics import UnsupportedViewError, join_key_fields, value_fields

__all__ = ["ROWTIME", "CompiledView", "compile_view", "events_table", "interval", "slide_ms", "sql_type"]

ROWTIME = "rowtime"
_TYPES: dict[PrimitiveFeastType, str] = {
    Float64: "DOUBLE",
    Float32: "FLOAT",
    Int64: "BIGINT",
    Int32: "INT",
    String: "STRING",
}
_AGGREGATES = {
    "sum": "SUM({0})",
    "count": "COUNT({0})",
    "mean": "AVG(CAST({0} AS DOUBLE))",
    "avg": "AVG(CAST({0} AS DOUBLE))",
    "min": "MIN({0})",
    "max": "MAX({0})",
}
# Of an empty window these are 0, the others null.
_ZERO_WHEN_EMPTY = {"count"}


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
    source = stream_source(view)
    events = (f"{view.name}_input", _input(view, events_table(source.name)))
    if not view.aggregations:
        return CompiledView(view.name, source.name, (events,), _latest(view, events[0]))
    parts = (f"{view.name}_parts", _parts(view, events[0]))
    return CompiledView(view.name, source.name, (events, parts), _merged(view, parts[0]))


def slide_ms(view: StreamFeatureView) -> int:
    """The slide of a view's windows, in milliseconds: the greatest common divisor of all its slides and windows."""
    spans = [_ms(view, each, span) for each in view.aggregations for span in (each.slide_interval, each.time_window)]
    return gcd(*spans)


def sql_type(dtype: FeastType) -> str:
    """The SQL type of a Feast type.

    Raises
    ------
    UnsupportedViewError
        For a type that no column of a view may have yet.
    """
    if isinstance(dtype, PrimitiveFeastType) and dtype in _TYPES:
        return _TYPES[dtype]
    raise UnsupportedViewError(f"expected one of {', '.join(str(each) for each in _TYPES)}, got {dtype}")


def _input(view: StreamFeatureView, events: str) -> str:
    mode = view.mode.value if isinstance(view.mode, TransformationMode) else view.mode
    if view.udf is None:
        return f"SELECT * FROM {events}"
    if mode not in ("flink", "sql"):
        raise UnsupportedViewError(
            f"feature view {view.name!r}: expected a transformation in SQL (mode='flink': a function from a table's "
            f"name to a SELECT that keeps its columns), got mode={mode!r}"
        )
    return str(view.udf(events))


def _latest(view: StreamFeatureView, events: str) -> str:
    columns = [
        *(_cast(view, f.name, f.name, f.dtype) for f in join_key_fields(view)),
        f"CAST({ROWTIME} + INTERVAL '0.001' SECOND AS TIMESTAMP_LTZ(3)) AS `event_time`",
        f"CURRENT_WATERMARK({ROWTIME}) AS `watermark`",
        *(_cast(view, f.name, f.name, f.dtype) for f in value_fields(view)),
    ]
    return f"SELECT {', '.join(columns)}\nFROM {events}"


def _parts(view: StreamFeatureView, events: str) -> str:
    named = _named(view)
    slide = slide_ms(view)
    windows: dict[int, list[str]] = {}
    for name, each in named.items():
        windows.setdefault(_ms(view, each, each.time_window), []).append(name)
    windows[max(windows) + slide] = []  # the one that only counts
    return "\nUNION ALL\n".join(
        _part(view, events, named, slide, window, windows[window]) for window in sorted(windows)
    )


def _part(
    view: StreamFeatureView, events: str, named: dict[str, Aggregation], slide: int, window: int, mine: list[str]
) -> str:
    keys = _keys(view)
    values = []
    for name, each in named.items():
        aggregate = _aggregate(view, each)
        # NULL of the aggregate's own type, without evaluating anything.
        values.append(f"{aggregate} AS {_q(name)}" if name in mine else f"{_null_like(view, name)} AS {_q(name)}")
    return (
        f"SELECT {keys}, window_time AS part_time, COUNT(*) AS alive, {', '.join(values)}\n"
        f"FROM TABLE(HOP(TABLE {events}, DESCRIPTOR({ROWTIME}), {interval(slide)}, {interval(window)}))\n"
        f"GROUP BY {keys}, window_start, window_end, window_time"
    )


def _merged(view: StreamFeatureView, parts: str) -> str:
    keys = _keys(view)
    named = _named(view)
    columns = [
        *(_cast(view, f.name, f.name, f.dtype) for f in join_key_fields(view)),
        "CAST(window_end AS TIMESTAMP_LTZ(3)) AS `event_time`",
        "CURRENT_WATERMARK(window_time) AS `watermark`",
    ]
    for field in value_fields(view):
        zero = named[field.name].function in _ZERO_WHEN_EMPTY
        value = f"COALESCE({_q(field.name)}, 0)" if zero else _q(field.name)
        columns.append(f"CAST({value} AS {_view_type(view, field.name, field.dtype)}) AS {_q(field.name)}")
    aggregates = ", ".join(f"MAX({_q(name)}) AS {_q(name)}" for name in named)
    return (
        f"SELECT {', '.join(columns)}\nFROM (\n"
        f"  SELECT {keys}, window_end, window_time, {aggregates}\n"
        f"  FROM TABLE(TUMBLE(TABLE {parts}, DESCRIPTOR(part_time), {interval(slide_ms(view))}))\n"
        f"  GROUP BY {keys}, window_start, window_end, window_time\n)"
    )


def _named(view: StreamFeatureView) -> dict[str, Aggregation]:
    named = {each.resolved_name(each.time_window): each for each in view.aggregations}
    fields = {field.name for field in value_fields(view)}
    if odd := sorted(fields ^ set(named)):
        raise UnsupportedViewError(
            f"feature view {view.name!r}: expected every feature of its schema to be an aggregation and the other way "
            f"round, got {', '.join(odd)} on one side only"
        )
    return dict(sorted(named.items()))


def _aggregate(view: StreamFeatureView, aggregation: Aggregation) -> str:
    if aggregation.function not in _AGGREGATES:
        raise UnsupportedViewError(
            f"feature view {view.name!r}, column {aggregation.column!r}: expected one of {', '.join(_AGGREGATES)}, got "
            f"{aggregation.function!r}"
        )
    return _AGGREGATES[aggregation.function].format(_q(aggregation.column))


def _null_like(view: StreamFeatureView, name: str) -> str:
    dtype = next(field.dtype for field in value_fields(view) if field.name == name)
    return f"CAST(NULL AS {_view_type(view, name, dtype)})"


def _cast(view: StreamFeatureView, column: str, name: str, dtype: FeastType) -> str:
    return f"CAST({_q(column)} AS {_view_type(view, name, dtype)}) AS {_q(name)}"


def _view_type(view: StreamFeatureView, name: str, dtype: FeastType) -> str:
    try:
        return sql_type(dtype)
    except UnsupportedViewError as exc:
        raise UnsupportedViewError(f"feature view {view.name!r}, field {name!r}: {exc}") from None


def _ms(view: StreamFeatureView, aggregation: Aggregation, span: timedelta | None) -> int:
    if not span or span <= timedelta(0):
        raise UnsupportedViewError(
            f"feature view {view.name!r}, aggregation {aggregation.function}({aggregation.column}): expected a "
            f"time_window and a slide_interval above zero, got {span}"
        )
    return span // timedelta(milliseconds=1)


def _keys(view: StreamFeatureView) -> str:
    return ", ".join(_q(field.name) for field in join_key_fields(view))


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
