"""Where a view's history goes: a file, a table, the online store. It is computed by :mod:`features.offline.history`."""

import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from clickhouse_connect.driver.client import Client
from feast.infra.provider import get_provider
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import load_repo_config
from feast.type_map import python_values_to_proto_values

from features.compiler.topics import EVENT_TIME, join_key_fields, value_fields
from features.offline.history import History, HistoryError
from schemas.tables import DATABASE

__all__ = ["write_online", "write_parquet", "write_table"]

PAGE_ROWS = 500_000
ONLINE_ROWS = 10_000
OnlineRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")


def write_parquet(client: Client, history: History, file: Path) -> None:
    """Write the rows to a file, whole or not at all."""
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    order = f"ORDER BY {history.keys}, `{EVENT_TIME}`"
    try:
        writer: pq.ParquetWriter | None = None
        for page in _pages(client, f"SELECT * FROM {history.table} {order}"):
            writer = writer or pq.ParquetWriter(draft, page.schema)
            writer.write_table(page)
        if writer is not None:
            writer.close()
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def write_table(
    client: Client, history: History, name: str, start_ms: int | None = None, end_ms: int | None = None
) -> None:
    """Put the rows into a table of their own, in place of what it has of the same span.

    Raises
    ------
    HistoryError
        Where a table of that name has other columns; it is left as it is.
    """
    table = _qualified(name)
    listed = ", ".join(f"`{column}` {kind}" for column, kind in history.columns.items())
    order = f"({history.keys}, `{EVENT_TIME}`)"
    client.command(f"CREATE TABLE IF NOT EXISTS {table} ({listed}) ENGINE = MergeTree ORDER BY {order}")
    there = {row[0]: row[1] for row in client.query(f"DESCRIBE TABLE {table}").result_rows}
    if there != dict(history.columns):
        raise HistoryError(
            f"feature view {history.view.name!r}: expected table {name} to have its columns {dict(history.columns)}, "
            f"got {there}; choose another name"
        )
    bounds = [(">=", start_ms), ("<", end_ms)]
    old = " AND ".join(
        f"`{EVENT_TIME}` {sign} fromUnixTimestamp64Milli(toInt64({at}), 'UTC')" for sign, at in bounds if at is not None
    )
    client.command(f"ALTER TABLE {table} DELETE WHERE {old or '1'}", settings={"mutations_sync": 1})
    client.command(f"INSERT INTO {table} SELECT * FROM {history.table}")


def write_online(client: Client, history: History, repo: Path) -> int:
    """Write each entity's newest row to the online store of a Feast repo, through Feast, and say how many there are.

    Headwater's stores keep a row that is newer than the one they are given. Tables that are missing are created, as
    ``feast apply`` would.
    """
    config = load_repo_config(repo, repo / "feature_store.yaml")
    provider, view = get_provider(config), history.view
    provider.update_infra(config.project, [], [view], [], [], partial=True)
    keys, values = join_key_fields(view), value_fields(view)
    newest = f"ORDER BY {history.keys}, `{EVENT_TIME}` DESC LIMIT 1 BY {history.keys}"
    count = 0
    for page in _pages(client, f"SELECT * FROM {history.table} {newest}"):
        for batch in page.to_batches(ONLINE_ROWS):
            protos = {
                field.name: python_values_to_proto_values(
                    batch.column(field.name).to_pylist(), field.dtype.to_value_type()
                )
                for field in (*keys, *values)
            }
            times = batch.column(EVENT_TIME).to_pylist()
            rows: list[OnlineRow] = []
            for at, time in enumerate(times):
                entity = EntityKey(join_keys=[f.name for f in keys], entity_values=[protos[f.name][at] for f in keys])
                rows.append((entity, {f.name: protos[f.name][at] for f in values}, time, None))
            provider.online_write_batch(config, view, rows, None)
            count += len(rows)
    return count


def _pages(client: Client, select: str) -> Iterator[pa.Table]:
    """An ordered query's result in parts; one of no rows if there are none. Arrow comes whole, not as it is made."""
    at = 0
    while True:
        page = client.query_arrow(f"{select} LIMIT {PAGE_ROWS} OFFSET {at}", use_strings=True)
        if page.num_rows or not at:
            yield page
        if page.num_rows < PAGE_ROWS:
            return
        at += PAGE_ROWS


def _qualified(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise HistoryError(f"expected a table's name, or database.name, of letters, digits and _, got {name!r}")
    database, _, table = name.rpartition(".")
    return f"`{database or DATABASE}`.`{table}`"
