"""Feature history, computed in ClickHouse from the archive.

Rows are computed into a table of their own first: a share of the keys at a time if the whole takes more memory than a
query may have, and nothing is handed over before all of them are there.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from feast import StreamFeatureView

from features.compiler.changes import changelog
from features.compiler.clickhouse import CompiledHistory, Known, compile_history
from features.compiler.clickhouse_changes import usable, when
from features.compiler.sources import stream_source, watermark_delay_ms
from features.compiler.topics import EVENT_TIME, join_key_fields
from features.offline.transformed import Made, make
from schemas.tables import DATABASE, table_name

__all__ = ["History", "HistoryError", "archive_of", "check", "computed", "settled_ms"]

SHARES_MAX = 64
_MEMORY_LIMIT_EXCEEDED = 241


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
    failed : int
        Records that the view's function in pandas failed on, and that do not count therefore.
    """

    view: StreamFeatureView
    table: str
    columns: Mapping[str, str]
    rows: int
    shares: int
    failed: int = 0

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
    """Let ClickHouse analyse a view's SQL; of one with a transformation in pandas, what goes to its function.

    Raises
    ------
    HistoryError
        Where it does not take it; the view's own transformation is told apart from the rest.
    """
    texts = [(compiled.input, "its transformation"), (compiled.select, "what it reads")]
    for text, what in [(compiled.records, "what its function reads")] if compiled.function else texts:
        try:
            client.query(f"DESCRIBE TABLE ({text})", settings=dict(compiled.settings))
        except DatabaseError as exc:
            raise HistoryError(
                f"feature view {compiled.name!r}: {what} does not run in ClickHouse, write it so that both Flink and "
                f"ClickHouse take it: {_said(exc)}"
            ) from exc


def settled_ms(client: Client, view: StreamFeatureView, archive: str) -> int:
    """Until when a view's windows are known, exclusive, UTC epoch milliseconds: later records can still be in time."""
    source = stream_source(view)
    if changelog(source):
        newest = client.query(f"SELECT max({when(view)}) FROM {archive} WHERE {usable(view)}").result_rows[0][0]
    else:
        time = f"toUnixTimestamp64Milli(max(`{source.timestamp_field}`))"
        newest = client.query(f"SELECT {time} FROM {archive}").result_rows[0][0]
    return int(newest or 0) - (watermark_delay_ms(source) if view.aggregations else -1)


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
    before = _made(client, compiled)
    try:
        while True:
            client.command(f"CREATE TABLE {table} ({listed}) ENGINE = MergeTree ORDER BY ({keys}, `{EVENT_TIME}`)")
            try:
                for at in range(shares):
                    share = (at, shares)
                    part = compile_history(view, archive, start_ms, end_ms, known, share, before.table)
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
        yield History(view, table, compiled.columns, rows, shares, before.failed)
    finally:
        for each in filter(None, (table, before.table)):
            client.command(f"DROP TABLE IF EXISTS {each} SYNC")


def _made(client: Client, compiled: CompiledHistory) -> Made:
    """What the view's function in pandas makes of its records; nothing where it has none."""
    if compiled.function is None:
        return Made("", 0)
    try:
        return make(client, compiled)
    except DatabaseError as exc:
        raise HistoryError(
            f"feature view {compiled.name!r}, what its function in pandas makes of its records: {_said(exc)}"
        ) from exc


def _said(exc: ClickHouseError) -> str:
    """ClickHouse's message without the client's and the query's text."""
    return re.sub(r"\s+", " ", str(exc)).partition("DB::Exception: ")[2].partition(": In scope")[0] or str(exc)
