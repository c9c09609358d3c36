"""Feature history, computed in ClickHouse from the archive, and where it goes from there.

Rows are computed into a table of their own first: a share of the keys at a time if the whole takes more memory than a
query may have, and nothing is written anywhere before all of them are there.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from feast import StreamFeatureView
from feast.infra.provider import get_provider
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import load_repo_config
from feast.type_map import python_values_to_proto_values

from features.compiler.clickhouse import CompiledHistory, Known, compile_history
from features.compiler.sources import stream_source, watermark_delay_ms
from features.compiler.topics import EVENT_TIME, join_key_fields, value_fields
from schemas.tables import DATABASE, table_name

__all__ = [
    "History",
    "HistoryError",
    "archive_of",
    "check",
    "computed",
    "settled_ms",
    "write_online",
    "write_parquet",
    "write_table",
]

SHARES_MAX = 64
PAGE_ROWS = 500_000
ONLINE_ROWS = 10_000
OnlineRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
_MEMORY_LIMIT_EXCEEDED = 241
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")


class HistoryError(ValueError):
    """History that cannot be computed or written. The message names the view and what to do."""


@dataclass(frozen=True)
class History:
    """Computed rows.

    Attributes
    ----------
    view : StreamFeatureView
    table : str
        Where they are, ordered by join keys and time; one for each of these.
    columns : mapping of str to str
        Names and ClickHouse types.
    rows : int
    shares : int
        How many queries it took.
    """

    view: StreamFeatureView
    table: str
    columns: Mapping[str, str]
    rows: int
    shares: int

    @property
    def keys(self) -> str:
        """The join keys as SQL."""
        return ", ".join(f"`{field.name}`" for field in join_key_fields(self.view))


def archive_of(client: Client, view: StreamFeatureView) -> str:
    """The table a view's records are archived in.

    Raises
    ------
    HistoryError
        Where there is none.
    """
    name = stream_source(view).kafka_options.topic
    if not client.command(f"EXISTS TABLE `{DATABASE}`.`{table_name(name)}`"):
        raise HistoryError(
            f"feature view {view.name!r}: topic {name!r} is not archived here; there is no table "
            f"{DATABASE}.{table_name(name)}"
        )
    return f"`{DATABASE}`.`{table_name(name)}`"


def check(client: Client, compiled: CompiledHistory) -> None:
    """Let ClickHouse analyse a view's SQL.

    Raises
    ------
    HistoryError
        Where it does not take it; the view's own transformation is told apart from the rest.
    """
    for text, what in ((compiled.input, "its transformation"), (compiled.select, "what it reads")):
        try:
            client.query(f"DESCRIBE TABLE ({text})", settings=dict(compiled.settings))
        except DatabaseError as exc:
            raise HistoryError(
                f"feature view {compiled.name!r}: {what} does not run in ClickHouse, write it so that both Flink and "
                f"ClickHouse take it: {_said(exc)}"
            ) from exc


def settled_ms(client: Client, view: StreamFeatureView, archive: str) -> int:
    """Until when a view's windows are known, exclusive, UTC epoch milliseconds: later records can still be in time."""
    time = stream_source(view).timestamp_field
    newest = client.query(f"SELECT toUnixTimestamp64Milli(max(`{time}`)) FROM {archive}").result_rows[0][0]
    return int(newest or 0) - (watermark_delay_ms(stream_source(view)) if view.aggregations else -1)


@contextmanager
def computed(
    client: Client, view: StreamFeatureView, start_ms: int | None, end_ms: int | None, known: Known = "now"
) -> Iterator[History]:
    """A view's rows of [start, end), in a table that is dropped at the end.

    Of rows with the same keys and time, which only a view without windows can have, the newest is kept. No row is
    later than what the archive is known to be complete for; see :func:`settled_ms`.

    Raises
    ------
    HistoryError
        Where the view's SQL does not run in ClickHouse, its topic is not archived, or there is not enough memory.
    UnsupportedViewError
        Where the view has no meaning here.
    """
    archive = archive_of(client, view)
    settled = settled_ms(client, view, archive)
    end_ms = settled if end_ms is None else min(end_ms, settled)
    compiled = compile_history(view, archive, start_ms, end_ms, known)
    check(client, compiled)
    table = f"`{DATABASE}`.`history_draft_{uuid.uuid4().hex}`"
    listed = ", ".join(f"`{name}` {kind}" for name, kind in compiled.columns.items())
    keys = ", ".join(f"`{field.name}`" for field in join_key_fields(view))
    shares = 1
    try:
        while True:
            client.command(f"CREATE TABLE {table} ({listed}) ENGINE = MergeTree ORDER BY ({keys}, `{EVENT_TIME}`)")
            try:
                for at in range(shares):
                    part = compile_history(view, archive, start_ms, end_ms, known, (at, shares))
                    client.command(f"INSERT INTO {table} {part.versions}", settings=dict(part.settings))
                break
            except DatabaseError as exc:
                if getattr(exc, "code", None) != _MEMORY_LIMIT_EXCEEDED:
                    raise HistoryError(f"feature view {view.name!r}: {_said(exc)}") from exc
                if shares >= SHARES_MAX:
                    raise HistoryError(
                        f"feature view {view.name!r}: ClickHouse has not enough memory for a {SHARES_MAX}th of the "
                        "keys; ask for a shorter span"
                    ) from exc
                client.command(f"DROP TABLE {table} SYNC")
                shares *= 4
        rows = int(str(client.command(f"SELECT count() FROM {table}")))
        yield History(view, table, compiled.columns, rows, shares)
    finally:
        client.command(f"DROP TABLE IF EXISTS {table} SYNC")


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


def _said(exc: ClickHouseError) -> str:
    """ClickHouse's message without the client's and the query's text."""
    return re.sub(r"\s+", " ", str(exc)).partition("DB::Exception: ")[2].partition(": In scope")[0] or str(exc)
