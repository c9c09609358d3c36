"""The features of a view as of many entities' times.

A feature at time t is that of the view's newest row with event time <= t, unless the view's ``ttl`` says that it is too
old by then. The rows are those of :mod:`features.offline.history`: what the stream would have computed, had it run.
"""

import uuid
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from feast import StreamFeatureView

from features.compiler.clickhouse import Known
from features.compiler.topics import EVENT_TIME
from features.offline.history import History, HistoryError, computed
from schemas.tables import DATABASE

__all__ = ["TIMES", "as_of", "entity_times"]

TIMES = ("event_timestamp", "event_time")  # what the time of an entity may be called

_MS = pa.timestamp("ms", "UTC")
_ARROW = {
    "String": pa.string(),
    "Int64": pa.int64(),
    "Int32": pa.int32(),
    "Float64": pa.float64(),
    "Float32": pa.float32(),
    "Bool": pa.bool_(),
    "DateTime64(3, 'UTC')": _MS,
}


def entity_times(entities: pa.Table, name: str) -> pa.ChunkedArray:
    """When each entity is asked about, in milliseconds, UTC; naive times are UTC.

    Raises
    ------
    HistoryError
        Where the column is not of timestamps, or lacks a value.
    """
    times = entities.column(name)
    if not pa.types.is_timestamp(times.type) or times.null_count:
        raise HistoryError(f"expected timestamps without null in {name}, got {times.type}, {times.null_count} null")
    # Rows are at whole milliseconds: one at or before the time is at or before it rounded down.
    return times.cast(pa.timestamp(times.type.unit, "UTC")).cast(_MS, safe=False)


def as_of(
    client: Client,
    view: StreamFeatureView,
    entities: pa.Table,
    times: pa.ChunkedArray,
    keys: Mapping[str, str],
    features: Sequence[str],
    known: Known = "now",
) -> pa.Table:
    """The view's features for each entity at its time.

    Parameters
    ----------
    client : Client
        Of the archive.
    view : StreamFeatureView
    entities : Table
    times : ChunkedArray
        As long as the entities; see :func:`entity_times`.
    keys : mapping of str to str
        By join key of the view, the column of the entities that holds it; an entity that lacks one has no features.
    features : sequence of str
    known : {"now", "then"}
        Whether records count that were late for the stream.

    Returns
    -------
    Table
        In the order of the entities: the features and ``event_time``, that of the row they come from; all null where
        there is none.

    Raises
    ------
    HistoryError
        Where the view's rows cannot be computed.
    UnsupportedViewError
        Where the view has no meaning here.
    """
    millis = times.cast(pa.int64()).to_numpy()
    last_ms = int(millis.max(initial=0))
    ttl_ms = int(view.ttl.total_seconds() * 1000) if view.ttl else 0
    start_ms = int(millis.min(initial=last_ms)) - ttl_ms if ttl_ms else None
    with computed(client, view, start_ms, last_ms + 1, known) as history:
        asked = pa.table(
            {
                "hw_row": pa.array(np.arange(len(entities))),
                "hw_time": times,
                **{key: _as_key(view, entities, name, history.columns[key]) for key, name in keys.items()},
            }
        ).drop_null()
        rows = _joined(client, history, asked, tuple(keys), features, ttl_ms)
    places = np.full(len(entities), -1)
    places[rows.column("hw_row").to_numpy()] = np.arange(len(rows))
    return rows.drop_columns(["hw_row"]).take(pa.array(places, mask=places < 0))


def _as_key(view: StreamFeatureView, entities: pa.Table, name: str, kind: str) -> pa.ChunkedArray:
    try:
        return entities.column(name).cast(_ARROW[kind])
    except pa.ArrowException as exc:
        raise HistoryError(
            f"feature view {view.name!r}: expected values of its join key in {name!r} to be {_ARROW[kind]}, got "
            f"{entities.column(name).type}: {exc}"
        ) from exc


def _joined(
    client: Client, history: History, asked: pa.Table, keys: Sequence[str], features: Sequence[str], ttl_ms: int
) -> pa.Table:
    table = f"`{DATABASE}`.`entities_draft_{uuid.uuid4().hex}`"
    kinds = ", ".join(f"`{key}` {history.columns[key]}" for key in keys)
    young = f"h.`{EVENT_TIME}` >= e.hw_time - toIntervalMillisecond({ttl_ms})" if ttl_ms else "1"
    values = ", ".join(f"if({young}, h.`{name}`, NULL) AS `{name}`" for name in (*features, EVENT_TIME))
    on = " AND ".join([*(f"e.`{key}` = h.`{key}`" for key in keys), f"e.hw_time >= h.`{EVENT_TIME}`"])
    try:
        client.command(
            f"CREATE TABLE {table} (hw_row Int64, hw_time DateTime64(3, 'UTC'), {kinds}) "
            "ENGINE = MergeTree ORDER BY hw_row"
        )
        client.insert_arrow(table, asked)
        return client.query_arrow(
            f"SELECT e.hw_row AS hw_row, {values} FROM {table} AS e ASOF LEFT JOIN {history.table} AS h ON {on}",
            settings={"join_use_nulls": 1},
            use_strings=True,
        )
    except DatabaseError as exc:
        raise HistoryError(f"feature view {history.view.name!r}, join as of the entities' times: {exc}") from exc
    finally:
        client.command(f"DROP TABLE IF EXISTS {table} SYNC")
