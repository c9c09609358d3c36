"""A stream feature view over history, as ClickHouse SQL: the rows that :mod:`features.compiler.definition` says it has.

It reads the archive of the view's topic (:mod:`schemas.tables`), which holds every record once. How it gets there:

- ``input`` is the view's own transformation, called with the same table name as in Flink.
- Each active tile of each key becomes one row of aggregation states.
- Up to the key's next active tile, that row is repeated at every time of the key's quiet rows. There are no more of
  them than the windows have slides; see :mod:`features.compiler.row_times`.
- A window is a frame over these rows: the states of its active tiles are merged, those of the repeats are not. Long
  windows are made of two halves; see :class:`_Windows`.

Of a table that changes the steps after ``input`` are others, see :mod:`features.compiler.clickhouse_changes`.

The same SQL text has to mean the same to both engines. ``settings`` bring ClickHouse close to the standard: names are
those of the table and not of the SELECT's own aliases, a cast keeps null, a join fills up with null. What remains:
ClickHouse divides integers to a fraction, has no types called STRING or BYTES (VARCHAR is understood by both), and its
archive keeps a null record as one of empty fields.
The transformation has to keep the columns it does not change (``SELECT *, ...``), as for Flink. It sees records only
of the span that the rows asked for depend on, so it must look at one record at a time. One in pandas is no SQL:
``records`` are what its function gets, and ``input`` reads the table where what it made of them is put.

The archive also holds records that came behind the watermark and that the stream has set aside. ``known="now"`` counts
them in: the features as they should have been. ``known="then"`` leaves them out: the features as they were. It derives
them from the watermark of the record's partition: a record is late if its event time is less than the greatest before
it, minus the source's delay. That is exact where a partition has a reader of its own and no heartbeats; a reader of
several partitions waits for the slowest, and a heartbeat, which the archive does not hold, may run ahead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from feast import StreamFeatureView

from features.compiler import flink
from features.compiler.clickhouse_aggregates import ARGUMENTS, IN_ORDER, aggregate, merged, parts, value
from features.compiler.clickhouse_changes import NEVER, plain_of, versions_of, windowed
from features.compiler.definition import ANY, Definition, definition
from features.compiler.row_times import multiple, row_times
from features.compiler.sources import avro_schema, sql_path, stream_source, watermark_delay_ms
from features.compiler.topics import EVENT_TIME, WATERMARK, UnsupportedViewError, entity_schema, feature_schema
from features.compiler.transformations import transformed
from features.compiler.vectorised import record_function
from features.frames import RecordFunction
from schemas import tables

__all__ = ["SETTINGS", "CompiledHistory", "Known", "compile_history"]

Known = Literal["now", "then"]
SETTINGS: Mapping[str, int] = MappingProxyType(
    {
        "prefer_column_name_to_alias": 1,
        "cast_keep_nullable": 1,
        "join_use_nulls": 1,
        # A frame of states is merged row by row; small blocks bound what the results of one block take.
        "max_block_size": 8192,
    }
)
LONG_TILES = 64  # windows of more are cut in two
_UNBOUNDED = ("count_distinct", "approx_count_distinct", "array")  # states as large as what they have seen


@dataclass(frozen=True)
class CompiledHistory:
    """A view's history as SQL.

    Attributes
    ----------
    name : str
    source : str
        Name of the Kafka source.
    columns : mapping of str to str
        Names and ClickHouse types of a row: join keys, ``event_time``, features, in the order of its topic's schema.
    input : str
        The records after the view's own transformation; what fails here is the transformation's doing.
    select : str
        The rows, in no order.
    versions : str
        As ``select``, but of rows with the same keys and time only the newest; what a join as of a time may read.
    settings : mapping of str to int
        ClickHouse settings that every one of these statements needs.
    records : str
        Where the view's transformation is in pandas: its columns by their names, the row time and the coordinates.
    function : RecordFunction or None
        That transformation.
    """

    name: str
    source: str
    columns: Mapping[str, str]
    input: str
    select: str
    versions: str
    settings: Mapping[str, int]
    records: str = ""
    function: RecordFunction | None = None

    @property
    def sql(self) -> str:
        """``select`` with its settings: to be run as it is."""
        listed = ", ".join(f"{name} = {value}" for name, value in self.settings.items())
        return f"{self.select}\nSETTINGS {listed}"


def compile_history(
    view: StreamFeatureView,
    events_table: str,
    start_ms: int | None = None,
    end_ms: int | None = None,
    known: Known = "now",
    share: tuple[int, int] = (0, 1),
    made_table: str = "",
) -> CompiledHistory:
    """The ClickHouse SQL of a view's rows over history.

    Parameters
    ----------
    view : StreamFeatureView
    events_table : str
        The archive of the view's topic, as SQL names it.
    start_ms, end_ms : int, optional
        Only rows with event time in [start, end), UTC epoch milliseconds. They have the values they have without it.
    known : {"now", "then"}
        Whether records count that were late for the stream.
    share : (int, int)
        Only the keys of share i of n, which takes about an n-th of the memory.
    made_table : str
        Of a view with a transformation in pandas: where what it made is, as SQL names it; default
        ``<view>_transformed``. See :mod:`features.offline.transformed`.

    Raises
    ------
    UnsupportedViewError
        Naming the view, the field and the reason, for what has no meaning here.
    """
    meaning = definition(view)
    span = _Span(meaning, start_ms, end_ms)
    source = stream_source(view)
    name = flink.events_table(source.name)
    read = versions_of(view, events_table, known) if meaning.of_changes else _records(view, events_table, span, known)
    shared = [(name, read)]
    records, function = "", record_function(view)
    if function:
        records = _with(shared, _for_function(function, name))
        shared = [(f"{view.name}_input", f"SELECT * FROM {made_table or f'`{view.name}_transformed`'}")]
    else:
        shared.append((f"{view.name}_input", transformed(view, name) or f"SELECT * FROM {name}"))
    columns = _columns(view)
    if meaning.of_changes:
        rows = windowed(meaning, columns, _versions(meaning, share), span.records_after_ms, end_ms)
    else:
        rows = _windowed(meaning, columns, share) if meaning.features else _latest(meaning, share)
    select = _with([*shared, *rows], _final(meaning, columns, span, newest=False))
    versions = _with([*shared, *rows], _final(meaning, columns, span, newest=True))
    return CompiledHistory(
        name=view.name,
        source=source.name,
        columns=MappingProxyType(columns),
        input=_with(shared, f"SELECT * FROM `{view.name}_input`"),
        select=select,
        versions=select if meaning.features else versions,
        settings=SETTINGS,
        records=records,
        function=function,
    )


@dataclass(frozen=True)
class _Span:
    """Which rows are wanted, and which records they depend on."""

    meaning: Definition
    start_ms: int | None
    end_ms: int | None

    @property
    def records_after_ms(self) -> int | None:
        """A row at t is there and is what it is because of records after t minus this; its key's last among them."""
        if self.start_ms is None:
            return None
        features = self.meaning.features
        return self.start_ms - 1 - max((each.window_ms + each.slide_ms for each in features), default=0)

    def records(self, time: str) -> str:
        """A condition on the records' time."""
        after, before = self.records_after_ms, self.end_ms
        parts = [f"{time} > {_moment(after)}"] if after is not None else []
        return " AND ".join([*parts, *([f"{time} < {_moment(before)}"] if before is not None else [])]) or "1"

    def rows(self, time_ms: str) -> str:
        """A condition on the rows' time."""
        parts = [f"{time_ms} >= {self.start_ms}"] if self.start_ms is not None else []
        return " AND ".join([*parts, *([f"{time_ms} < {self.end_ms}"] if self.end_ms is not None else [])]) or "1"


def _records(view: StreamFeatureView, events_table: str, span: _Span, known: Known) -> str:
    """The table as Flink has it, and the records' coordinates."""
    source = stream_source(view)
    mapping = source.field_mapping or {}
    time = sql_path(source.timestamp_field)
    columns = tables.columns(avro_schema(source))
    fields = [name for name in columns if name not in (tables.PARTITION, tables.OFFSET)]
    if source.timestamp_field not in fields:
        raise UnsupportedViewError(
            f"feature view {view.name!r}: expected the time of source {source.name!r}, {source.timestamp_field!r}, to "
            f"be a field of its records, got {', '.join(fields)}"
        )
    # What is finer than milliseconds counts, in the stream, as the millisecond it is in.
    fine = "DateTime64(6" in columns[source.timestamp_field]
    moment = f"toStartOfMillisecond({time})" if fine else time
    listed = [
        *(f"`{name}`" for name in fields if name not in mapping.values()),
        *(f"{sql_path(column)} AS `{name}`" for column, name in sorted(mapping.items())),
        f"{moment} - toIntervalMillisecond(1) AS `{flink.ROWTIME}`",
        f"{_text(source.kafka_options.topic)} AS `kafka_topic`",
        f"`{tables.PARTITION}`",
        f"`{tables.OFFSET}`",
    ]
    if known == "now":
        return f"SELECT {', '.join(listed)} FROM {events_table} WHERE {span.records(time)}"
    seen = (
        f"max(toNullable({moment})) OVER (PARTITION BY `{tables.PARTITION}` ORDER BY `{tables.OFFSET}` "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS hw_seen"
    )
    in_time = f"(isNull(hw_seen) OR hw_time >= hw_seen - toIntervalMillisecond({watermark_delay_ms(source)}))"
    return (
        f"SELECT * EXCEPT (hw_seen, hw_time) FROM "
        f"(SELECT {', '.join(listed)}, {moment} AS hw_time, {seen} FROM {events_table}) "
        f"WHERE {in_time} AND {span.records('hw_time')}"
    )


def _for_function(function: RecordFunction, records: str) -> str:
    columns = [f"{sql_path(each.path)} AS `{each.name}`" for each in function.columns]
    places = [f"`{name}`" for name in (flink.ROWTIME, tables.PARTITION, tables.OFFSET)]
    return f"SELECT {', '.join([*columns, *places])} FROM {records}"


def _plain(meaning: Definition, values: Sequence[str], ordered: bool, share: tuple[int, int]) -> str:
    """The records that belong to a row, by key, values and time."""
    # The stream's time is in rowtime; nothing says that a transformation keeps the column it came from.
    others = [f"assumeNotNull(toUnixTimestamp64Milli(`{flink.ROWTIME}`)) + 1 AS hw_ms"]
    if ordered:
        others += [f"`{tables.PARTITION}` AS hw_partition", f"`{tables.OFFSET}` AS hw_offset"]
    return _selected(meaning, values, others, share)


def _versions(meaning: Definition, share: tuple[int, int]) -> str:
    """The versions of rows, likewise."""
    return _selected(meaning, sorted({each.column for each in meaning.features} - {ANY}), plain_of(meaning), share)


def _selected(meaning: Definition, values: Sequence[str], others: Sequence[str], share: tuple[int, int]) -> str:
    """What is read of the view's input, under names that nobody else uses; for aggregates, NaN is no value."""
    listed = [f"assumeNotNull({sql_path(key)}) AS hw_k{at}" for at, key in enumerate(meaning.keys)]
    value = "if({0} = {0}, {0}, NULL)" if meaning.features else "{0}"
    listed += [f"{value.format(sql_path(column))} AS hw_v{at}" for at, column in enumerate(values)]
    listed += others
    wanted = [f"isNotNull({sql_path(key)})" for key in meaning.keys]
    if share != (0, 1):
        wanted.append(f"cityHash64({', '.join(map(sql_path, meaning.keys))}) % {share[1]} = {share[0]}")
    return f"SELECT {', '.join(listed)} FROM `{meaning.name}_input` WHERE {' AND '.join(wanted)}"


def _latest(meaning: Definition, share: tuple[int, int]) -> list[tuple[str, str]]:
    return [("hw_rows", _plain(meaning, meaning.latest, ordered=True, share=share))]


def _windowed(meaning: Definition, kinds: Mapping[str, str], share: tuple[int, int]) -> list[tuple[str, str]]:
    keys, hop = _keys(meaning), meaning.hop_ms
    columns = sorted({each.column for each in meaning.features} - {ANY})
    held = sorted({(part, each.column) for each in meaning.features for part in parts(each, kinds)})
    states = ", ".join(
        aggregate(part, "State", ARGUMENTS[part].format(f"hw_v{columns.index(column)}") if column else "")
        + f" AS hw_s{at}"
        for at, (part, column) in enumerate(held)
    )
    tile = f"toInt64(intDiv({multiple('hw_ms', hop)}, {hop}))"
    after = (
        f"leadInFrame(hw_tile, 1, {NEVER}) OVER "
        f"(PARTITION BY {keys} ORDER BY hw_tile ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS hw_next"
    )
    windows = _Windows(keys, held)
    for part, column, window in sorted(
        {(part, each.column, each.window_ms // hop) for each in meaning.features for part in parts(each, kinds)}
    ):
        windows.add(part, column, window)
    stages, times = row_times(meaning)
    kept = ", ".join([keys, "hw_tile", *(f"hw_s{at}" for at in range(len(held)))])
    ordered = any(each.function in IN_ORDER for each in meaning.features)
    return [
        ("hw_records", _plain(meaning, columns, ordered, share)),
        ("hw_tiles", f"SELECT {keys}, {tile} AS hw_tile, {states} FROM hw_records GROUP BY {keys}, hw_tile"),
        ("hw_gaps0", f"SELECT *, {after} FROM hw_tiles"),
        *((f"hw_gaps{at}", f"SELECT *, {each} FROM hw_gaps{at - 1}") for at, each in enumerate(stages, 1)),
        ("hw_repeats", f"SELECT {kept}, hw_t FROM hw_gaps{len(stages)} ARRAY JOIN {times} AS hw_t"),
        ("hw_times", f"SELECT {', '.join(['*', 'hw_t = hw_tile AS hw_active', *windows.blocks])} FROM hw_repeats"),
        ("hw_frames", windows.over_times()),
        ("hw_rows", f"SELECT *, hw_t * {hop} AS hw_ms{windows.over_frames()}"),
    ]


class _Windows:
    """The states of a window's tiles, merged.

    A window of few tiles is a frame, whose states are merged anew at every row. A long one is cut in two: time is cut
    into blocks as long as the window, which therefore ends in one and began in the one before (or is one). Its value
    is made of what that block held from where the window begins, and of what its own block has held so far; each row
    has both at the cost of one more merge (van Herk, 1992; Gil and Werman, 1993). States that hold every value are
    left in frames: two of them for each row would be as large as the window.

    Parameters
    ----------
    keys : str
    held : sequence of (str, str)
        Part and column of each state of a tile.
    """

    def __init__(self, keys: str, held: Sequence[tuple[str, str]]) -> None:
        self._keys, self._held = keys, held
        self.blocks: list[str] = []
        self._first: list[str] = []
        self._second: list[str] = []
        self._frames: dict[int, None] = {}
        self._long: dict[int, None] = {}

    def add(self, part: str, column: str, window: int) -> None:
        """Merge a part of a column's tiles over a window, in tiles."""
        arguments = f"hw_s{self._held.index((part, column))}, hw_active"
        name = merged(part, column, window)
        if window <= LONG_TILES or part in _UNBOUNDED:
            self._frames[window] = None
            self._first.append(f"{aggregate(part, 'MergeIf', arguments)} OVER hw_w{window} AS {name}")
            return
        if window not in self._long:
            self._long[window] = None
            self.blocks.append(f"intDiv(hw_t - positiveModulo(hw_t, {window}), {window}) AS hw_b{window}")
        state = aggregate(part, "MergeStateIf", arguments)
        so_far, rest = merged(f"p_{part}", column, window), merged(f"q_{part}", column, window)
        self._first += [f"{state} OVER hw_p{window} AS {so_far}", f"{state} OVER hw_q{window} AS {rest}"]
        self._second.append(
            f"if((nth_value(hw_b{window}, 1) OVER hw_w{window}) = hw_b{window}, finalizeAggregation({so_far}), "
            f"finalizeAggregation({so_far} + (nth_value({rest}, 1) OVER hw_w{window}))) AS {name}"
        )

    def over_times(self) -> str:
        """What each row knows of its frames and blocks."""
        windows = [self._frame(each) for each in self._frames]
        for each in self._long:
            block = f"PARTITION BY {self._keys}, hw_b{each} ORDER BY hw_t"
            frame = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
            windows += [f"hw_p{each} AS ({block} {frame})", f"hw_q{each} AS ({block} DESC {frame})"]
        listed = ", ".join([self._keys, "hw_t", *(f"hw_b{each}" for each in self._long), *self._first])
        return f"SELECT {listed} FROM hw_times WINDOW {', '.join(windows)}"

    def over_frames(self) -> str:
        """The values of long windows, after a comma, and where from."""
        if not self._long:
            return " FROM hw_frames"
        windows = ", ".join(self._frame(each) for each in self._long)
        return f", {', '.join(self._second)} FROM hw_frames WINDOW {windows}"

    def _frame(self, window: int) -> str:
        order = f"PARTITION BY {self._keys} ORDER BY hw_t RANGE BETWEEN {window - 1} PRECEDING AND CURRENT ROW"
        return f"hw_w{window} AS ({order})"


def _final(meaning: Definition, columns: Mapping[str, str], span: _Span, newest: bool) -> str:
    """The rows as their topic has them."""
    found = {key: f"hw_k{at}" for at, key in enumerate(meaning.keys)}
    found[EVENT_TIME] = "fromUnixTimestamp64Milli(hw_ms, 'UTC')"
    if meaning.features:
        found |= {each.name: value(each, columns, meaning.hop_ms) for each in meaning.features}
    else:
        found |= {name: f"hw_v{at}" for at, name in enumerate(meaning.latest)}
    listed = ", ".join(f"CAST({found[name]}, {_text(kind)}) AS `{name}`" for name, kind in columns.items())
    select = f"SELECT {listed}\nFROM hw_rows WHERE {span.rows('hw_ms')}"
    if newest and not meaning.features:
        keys = _keys(meaning)
        select += f"\nORDER BY {keys}, hw_ms, hw_partition DESC, hw_offset DESC LIMIT 1 BY {keys}, hw_ms"
    return select


def _columns(view: StreamFeatureView) -> dict[str, str]:
    """As the archive of its topic would have them, but for the keys, which are never null, and the watermark."""
    keys = {field["name"]: tables.column_type(field["type"]) for field in entity_schema(view)["fields"]}
    try:
        others = {field["name"]: tables.column_type(field["type"]) for field in feature_schema(view)["fields"]}
    except TypeError as exc:
        raise UnsupportedViewError(f"feature view {view.name!r}: {exc}") from None
    return {name: keys.get(name, kind) for name, kind in others.items() if name != WATERMARK}


def _keys(meaning: Definition) -> str:
    return ", ".join(f"hw_k{at}" for at in range(len(meaning.keys)))


def _with(steps: Sequence[tuple[str, str]], select: str) -> str:
    return "WITH " + ",\n".join(f"`{name}` AS ({text})" for name, text in steps) + f"\n{select}"


def _moment(time_ms: int | None) -> str:
    return f"fromUnixTimestamp64Milli(toInt64({time_ms}), 'UTC')"


def _text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
