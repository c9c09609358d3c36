"""A table that changes over history, as ClickHouse SQL: which versions of rows stood when, and aggregates over those.

The archive has the changes of :mod:`features.compiler.changes` as they came. A version of a row stands from its change
until the next of its key; what the view's transformation makes of it stands as long. How a view's rows come about:

- Each tile in which a change of a key takes effect is a row, and so are the slides from there to the key's next, as
  long as the windows hold rows: that is told by the newest row that stands, see :mod:`features.compiler.row_times`.
- A row's value is an aggregate over the versions that stand then. Those of a window are found by an equal block of time
  as long as the longest window, of which each version is in at most two.

So it costs as much as there are versions in the longest window of each row: what a change takes back is not in the
tiles of its own time, and there are no frames that could be merged.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from feast import StreamFeatureView

from features.compiler.changes import DEBEZIUM, TIME, changed_at, changelog
from features.compiler.clickhouse_aggregates import ARGUMENTS, IN_ORDER, aggregate, merged, parts
from features.compiler.definition import ANY, Definition
from features.compiler.row_times import multiple, row_times
from features.compiler.sources import avro_schema, row_schema, sql_path, stream_source, watermark_delay_ms
from schemas import tables
from schemas.codec import field_kinds

if TYPE_CHECKING:
    from features.compiler.clickhouse import Known

__all__ = ["NEVER", "changes_of", "plain_of", "usable", "versions_of", "when", "windowed"]

NEVER = "toInt64(9223372036854775807)"
_LONG_AGO = "toInt64(-4611686018427387904)"
_IN_ORDER = f"PARTITION BY `{tables.KEY}` ORDER BY `{tables.PARTITION}`, `{tables.OFFSET}`"


def changes_of(view: StreamFeatureView, table: str) -> str:
    """The changes in the archive of a view's topic, in its order: ``key``, ``changed``, ``there`` and coordinates."""
    return (
        f"SELECT hex(`{tables.KEY}`) AS key, {when(view)} AS changed, {_there(view)} AS there, `{tables.PARTITION}`, "
        f"`{tables.OFFSET}` FROM {table} WHERE {usable(view)} ORDER BY `{tables.PARTITION}`, `{tables.OFFSET}`"
    )


def when(view: StreamFeatureView) -> str:
    """The time of a change, epoch milliseconds."""
    source = stream_source(view)
    if changelog(source) == DEBEZIUM:
        return f"coalesce({', '.join(map(sql_path, changed_at(avro_schema(source))))})"
    return f"toUnixTimestamp64Milli(`{tables.TIMESTAMP}`)"


def usable(view: StreamFeatureView) -> str:
    """Whether a record is a change; the stream's dead letters are not."""
    known = f"isNotNull(`{tables.KEY}`)"
    if changelog(stream_source(view)) != DEBEZIUM:
        return known
    known += f" AND has(['c', 'r', 'u', 'd'], `op`) AND isNotNull({when(view)})"
    # No row is one of nulls here: a field that cannot be null in a row tells the two apart, else its primary key does.
    fields, _ = field_kinds(row_schema(stream_source(view)), lambda avro: avro)
    never_null = [name for name, avro in fields.items() if isinstance(avro, str) and avro != "null"]
    kinds, _ = field_kinds(row_schema(stream_source(view)), lambda avro: tables.column_type(avro, in_null=True))
    scalars = [name for name, kind in kinds.items() if kind.startswith("Nullable(")]
    there = " OR ".join(f"isNotNull(`after`.`{name}`)" for name in never_null[:1] or scalars)
    return known + (f" AND (`op` = 'd' OR {there})" if there else "")


def versions_of(view: StreamFeatureView, table: str, known: "Known") -> str:
    """The rows that a topic's changes made, with ``hw_since`` and ``hw_until``; before the view's transformation.

    Parameters
    ----------
    view : StreamFeatureView
    table : str
        The archive of its topic, as SQL names it.
    known : {"now", "then"}
        Whether changes count that were late for the stream.
    """
    source = stream_source(view)
    mapping = source.field_mapping or {}
    row = _row(view)
    fields = [name for name in tables.columns(row_schema(source)) if name not in (tables.PARTITION, tables.OFFSET)]
    coordinates = f"`{tables.PARTITION}`, `{tables.OFFSET}`"
    listed = [
        *(f"{row}`{name}` AS `{name}`" for name in fields if name not in mapping.values()),
        *(f"{row}{sql_path(column)} AS `{name}`" for column, name in sorted(mapping.items())),
        f"'{source.kafka_options.topic}' AS `kafka_topic`",
        f"fromUnixTimestamp64Milli(toInt64({when(view)}) - 1, 'UTC') AS `rowtime`",
        f"CAST({_time(view)}, 'Nullable(DateTime64(3, \\'UTC\\'))') AS `{TIME}`",
        f"{_there(view)} AS hw_there",
        f"toInt64({when(view)}) AS hw_changed",
        f"`{tables.KEY}`",
        coordinates,
    ]
    changes = f"SELECT {', '.join(listed)} FROM {table} WHERE {usable(view)}"
    if known == "then":
        changes = _in_time(changes, watermark_delay_ms(source))
    before = "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
    lives = f"SELECT *, ifNull(sum(toInt64(NOT hw_there)) OVER ({_IN_ORDER} {before}), 0) AS hw_life FROM ({changes})"
    # A change takes effect no earlier than the one before it of a row that is there.
    one_life = _IN_ORDER.replace(" ORDER", ", hw_life ORDER", 1)
    since = f"SELECT *, max(hw_changed) OVER ({one_life}) AS hw_since FROM ({lives})"
    following = "ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING"
    until = f"leadInFrame(hw_since, 1, {NEVER}) OVER ({_IN_ORDER} {following}) AS hw_until"
    inner = f"hw_there, hw_changed, hw_life, `{tables.KEY}`"
    return f"SELECT * EXCEPT ({inner}) FROM (SELECT *, {until} FROM ({since})) WHERE hw_there"


def windowed(
    meaning: Definition, kinds: Mapping[str, str], plain: str, after_ms: int | None, end_ms: int | None
) -> list[tuple[str, str]]:
    """Steps from the versions of rows to ``hw_rows``.

    Parameters
    ----------
    meaning : Definition
    kinds : mapping of str to str
        ClickHouse types of the features.
    plain : str
        The versions: ``hw_k0``..., ``hw_v0``..., ``hw_ms`` their rows' time, ``hw_since``, ``hw_until``.
    after_ms, end_ms : int, optional
        Versions that did not stand after the one, or not before the other, are of no interest.
    """
    hop = meaning.hop_ms
    keys = ", ".join(f"hw_k{at}" for at in range(len(meaning.keys)))
    longest = max(each.window_ms for each in meaning.features)
    wanted = [f"hw_to > {after_ms}"] if after_ms is not None else []
    wanted += [f"hw_from < {end_ms}"] if end_ms is not None else []
    effect = "greatest(hw_since, hw_ms) AS hw_from, greatest(hw_until, hw_ms) AS hw_to"
    ends = f"least(hw_to, hw_ms + {longest}) - 1"
    blocks = f"range({_floor('hw_from', longest)}, {_floor(ends, longest)} + 1)"
    tile = [f"toInt64(intDiv({multiple(column, hop)}, {hop})) AS hw_tile" for column in ("hw_from", "hw_to")]
    stages, times = row_times(meaning, "hw_held")
    after = (
        f"leadInFrame(hw_tile, 1, {NEVER}) OVER "
        f"(PARTITION BY {keys} ORDER BY hw_tile ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS hw_next"
    )
    newest = f"maxIf(toNullable(hw_ms), {_stands(f'hw_tile * {hop}')})"
    held = f"toInt64(intDiv({multiple(f'ifNull({newest}, {_LONG_AGO})', hop)}, {hop})) AS hw_held"
    return [
        ("hw_versions", f"SELECT *, {effect} FROM ({plain}){_where(wanted)}"),
        (
            "hw_tiles",
            f"SELECT {keys}, {tile[0]} FROM hw_versions "
            f"UNION DISTINCT SELECT {keys}, {tile[1]} FROM hw_versions WHERE hw_to <> {NEVER}",
        ),
        ("hw_standing", f"SELECT *, arrayJoin({blocks}) AS hw_block FROM hw_versions WHERE hw_from <= {ends}"),
        (
            "hw_found",
            f"SELECT {keys}, hw_tile, {held} FROM {_beside('hw_tiles', 'hw_tile', hop, longest, keys)} "
            f"GROUP BY {keys}, hw_tile",
        ),
        ("hw_gaps0", f"SELECT *, {after} FROM hw_found"),
        *((f"hw_gaps{at}", f"SELECT *, {each} FROM hw_gaps{at - 1}") for at, each in enumerate(stages, 1)),
        ("hw_times", f"SELECT {keys}, hw_t FROM hw_gaps{len(stages)} ARRAY JOIN {times} AS hw_t"),
        (
            "hw_rows",
            f"SELECT {keys}, hw_t * {hop} AS hw_ms, {', '.join(_values(meaning, kinds))} FROM "
            f"(SELECT * EXCEPT hw_ms, hw_ms AS hw_at FROM {_beside('hw_times', 'hw_t', hop, longest, keys)}) "
            f"GROUP BY {keys}, hw_t",
        ),
    ]


def plain_of(meaning: Definition) -> list[str]:
    """What of a version beside its columns :func:`windowed` reads."""
    listed = [f"assumeNotNull(toUnixTimestamp64Milli(`{TIME}`)) AS hw_ms", "hw_since", "hw_until"]
    if any(each.function in IN_ORDER for each in meaning.features):
        listed += [f"`{tables.PARTITION}` AS hw_partition", f"`{tables.OFFSET}` AS hw_offset"]
    return listed


def _values(meaning: Definition, kinds: Mapping[str, str]) -> list[str]:
    """The parts of every feature, from the versions beside each of the key's times."""
    columns = sorted({each.column for each in meaning.features} - {ANY})
    found = {}
    for each in meaning.features:
        stands = f"{_stands(f'hw_t * {meaning.hop_ms}')} AND hw_at > hw_t * {meaning.hop_ms} - {each.window_ms}"
        for part in parts(each, kinds):
            value = ARGUMENTS[part].format(f"hw_v{columns.index(each.column)}") if each.column else ""
            value = value.replace("hw_ms", "hw_at")
            name = merged(part, each.column, each.window_ms // meaning.hop_ms)
            found[name] = f"{aggregate(part, 'If', f'{value}, {stands}' if value else stands)} AS {name}"
    return list(found.values())


def _beside(times: str, tile: str, hop: int, longest: int, keys: str) -> str:
    """Each time of a key with the versions that may stand then in its longest window."""
    block = _floor(f"{tile} * {hop}", longest)
    return f"(SELECT *, {block} AS hw_block FROM {times}) AS t LEFT JOIN hw_standing AS v USING ({keys}, hw_block)"


def _stands(at_ms: str) -> str:
    return f"ifNull(hw_from <= {at_ms} AND hw_to > {at_ms}, 0)"


def _floor(number: str, of: int) -> str:
    return f"toInt64(intDiv(({number}) - positiveModulo({number}, {of}), {of}))"


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _in_time(changes: str, delay_ms: int) -> str:
    """Without those behind the watermark of their partition."""
    seen = (
        f"max(toNullable(hw_changed)) OVER (PARTITION BY `{tables.PARTITION}` ORDER BY `{tables.OFFSET}` "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS hw_seen"
    )
    return (
        f"SELECT * EXCEPT hw_seen FROM (SELECT *, {seen} FROM ({changes})) "
        f"WHERE isNull(hw_seen) OR hw_changed >= hw_seen - {delay_ms}"
    )


def _row(view: StreamFeatureView) -> str:
    return "`after`." if changelog(stream_source(view)) == DEBEZIUM else ""


def _time(view: StreamFeatureView) -> str:
    return f"{_row(view)}{sql_path(stream_source(view).timestamp_field)}"


def _there(view: StreamFeatureView) -> str:
    there = "`op` <> 'd'" if changelog(stream_source(view)) == DEBEZIUM else f"NOT `{tables.DELETED}`"
    return f"({there} AND isNotNull({_time(view)}))"
