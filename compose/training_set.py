"""Training sets: for each of many entities and times, the features of a service as of then.

A feature at time t is that of its view's newest row with event time <= t, unless the view's ``ttl`` says that it is too
old by then. The rows are those of :mod:`compose.history`: what the stream would have computed, had it run.
"""

import uuid
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from feast import FeatureService, StreamFeatureView
from feast.feature_view_projection import FeatureViewProjection

from compose.history import History, HistoryError, computed
from features.compiler.clickhouse import Known
from features.compiler.repo import Repo
from features.compiler.topics import EVENT_TIME, join_key_fields
from schemas.tables import DATABASE

__all__ = ["TIMES", "entity_times", "training_set"]

TIMES = ("event_timestamp", "event_time")
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


def training_set(
    client: Client, repo: Repo, service: FeatureService, entities: pa.Table, known: Known = "now"
) -> pa.Table:
    """The entities with the features of a service.

    Parameters
    ----------
    client : Client
        Of the archive.
    repo : Repo
    service : FeatureService
    entities : Table
        Join keys of the service's views, and a time, ``event_timestamp`` or ``event_time``; naive ones are UTC.
    known : {"now", "then"}
        Whether records count that were late for the stream.

    Returns
    -------
    Table
        The entities in their order with ``<view>__<feature>`` for each feature, null where there is none, and
        ``<view>__event_time``, the time of the row it comes from.

    Raises
    ------
    HistoryError
        Where the entities lack a column, or a view's rows cannot be computed.
    RepoError, UnsupportedViewError
        Where the service has a view that is not a stream feature view of the repo, or has no meaning here.
    """
    times = entity_times(entities)
    found = entities
    for projection in service.feature_view_projections:
        view = repo.view(projection.name)
        for name, column in _as_of(client, view, projection, entities, times, known):
            found = found.append_column(name, column)
    return found


def entity_times(entities: pa.Table) -> pa.ChunkedArray:
    """When each entity is asked about, in milliseconds, UTC.

    Raises
    ------
    HistoryError
        Where there is no such column, or it lacks a value.
    """
    name = next((each for each in TIMES if each in entities.column_names), None)
    if name is None:
        raise HistoryError(f"expected a column {' or '.join(TIMES)}, got {', '.join(entities.column_names)}")
    times = entities.column(name)
    if not pa.types.is_timestamp(times.type) or times.null_count:
        raise HistoryError(f"expected timestamps without null in {name}, got {times.type}, {times.null_count} null")
    # Rows are at whole milliseconds: one at or before the time is at or before it rounded down.
    return times.cast(pa.timestamp(times.type.unit, "UTC")).cast(_MS, safe=False)


def _as_of(
    client: Client,
    view: StreamFeatureView,
    projection: FeatureViewProjection,
    entities: pa.Table,
    times: pa.ChunkedArray,
    known: Known,
) -> list[tuple[str, pa.ChunkedArray]]:
    """The columns of one view, in the order of the entities."""
    keys = [field.name for field in join_key_fields(view)]
    called = {key: projection.join_key_map.get(key, key) for key in keys}
    if missing := sorted(set(called.values()) - set(entities.column_names)):
        raise HistoryError(f"feature view {view.name!r}: expected its join keys among the entities, got no {missing}")
    name = projection.name_alias or view.name
    features = [feature.name for feature in projection.features if feature.name not in keys]
    millis = times.cast(pa.int64()).to_numpy()
    last_ms = int(millis.max(initial=0))
    ttl_ms = int(view.ttl.total_seconds() * 1000) if view.ttl else 0
    start_ms = int(millis.min(initial=last_ms)) - ttl_ms if ttl_ms else None
    with computed(client, view, start_ms, last_ms + 1, known) as history:
        asked = pa.table(
            {
                "hw_row": pa.array(np.arange(len(entities))),
                "hw_time": times,
                **{key: entities.column(called[key]).cast(_ARROW[history.columns[key]]) for key in keys},
            }
        ).drop_null()
        rows = _joined(client, history, asked, keys, features, ttl_ms)
    places = np.full(len(entities), -1)
    places[rows.column("hw_row").to_numpy()] = np.arange(len(rows))
    index = pa.array(places, mask=places < 0)
    return [(f"{name}__{each}", rows.column(each).take(index)) for each in (*features, EVENT_TIME)]


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
