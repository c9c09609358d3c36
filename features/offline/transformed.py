"""What a view's function in pandas makes of the archived records.

A page of records at a time goes to the function, and what it makes of them to a table of its own, from which the view's
SQL goes on. So no more than a page is in memory at once.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from features.compiler.clickhouse import CompiledHistory
from features.compiler.flink import ROWTIME
from features.compiler.topics import EVENT_TIME
from features.frames import Outcome, frame_of
from schemas.tables import DATABASE, OFFSET, PARTITION

__all__ = ["PAGE_ROWS", "Made", "make", "transformed"]

PAGE_ROWS = 200_000
_PLACES = {ROWTIME: pa.timestamp("ms", "UTC"), PARTITION: pa.int32(), OFFSET: pa.int64()}
_CLICKHOUSE = {
    pa.bool_(): "Bool",
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.float32(): "Float32",
    pa.float64(): "Float64",
    pa.string(): "String",
    pa.binary(): "String",
    pa.date32(): "Date32",
}


@dataclass(frozen=True)
class Made:
    """What a function made.

    Attributes
    ----------
    table : str
        Where it is, as SQL names it.
    failed : int
        Records that the function failed on; they are left out, as the stream leaves them out.
    """

    table: str
    failed: int


def make(client: Client, compiled: CompiledHistory) -> Made:
    """Run a view's function over its archived records, into a table that the caller has to drop.

    Raises
    ------
    clickhouse_connect.driver.exceptions.DatabaseError
        Where ClickHouse does not do what it is asked for; no table is left.
    """
    function = compiled.function
    assert function is not None  # nothing is to be made otherwise
    table = f"`{DATABASE}`.`transformed_draft_{uuid.uuid4().hex}`"
    columns = [f"`{name}` {_column_type(kind)}" for name, kind in function.outputs.items()]
    columns += [f"`{ROWTIME}` DateTime64(3, 'UTC')", f"`{PARTITION}` Int32", f"`{OFFSET}` Int64"]
    failed = 0
    try:
        client.command(f"CREATE TABLE {table} ({', '.join(columns)}) ENGINE = MergeTree ORDER BY `{ROWTIME}`")
        for page in _pages(client, compiled):
            outcome = function.apply(frame_of(function.columns, page))
            failed += len(outcome.errors)
            if outcome.kept.any():
                client.insert_arrow(table, pa.table(outcome.columns | _places(page, outcome)))
    except BaseException:
        client.command(f"DROP TABLE IF EXISTS {table} SYNC")
        raise
    return Made(table, failed)


def transformed(client: Client, compiled: CompiledHistory) -> pd.DataFrame:
    """What a view's function makes of its archived records in one call, in topic order: what the witness takes.

    Returns
    -------
    DataFrame
        The columns it made, decimals as floats, ``event_time`` as int64 epoch milliseconds and the coordinates.
    """
    function = compiled.function
    assert function is not None  # nothing is to be made otherwise
    text = f"{compiled.records} ORDER BY `{PARTITION}`, `{OFFSET}`"
    records = client.query_arrow(text, settings=dict(compiled.settings), use_strings=False)
    outcome = function.apply(frame_of(function.columns, records))
    found = {
        name: each.cast(pa.float64()) if pa.types.is_decimal(each.type) else each
        for name, each in (outcome.columns | _places(records, outcome)).items()
    }
    frame = pa.table(found).to_pandas(types_mapper=_NULLABLE.get, date_as_object=True)
    frame[EVENT_TIME] = found[ROWTIME].cast(pa.int64()).to_numpy() + 1
    return frame.astype({PARTITION: "int64", OFFSET: "int64"})


_NULLABLE = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


def _pages(client: Client, compiled: CompiledHistory) -> Iterator[pa.Table]:
    """The records by partition, some offsets at a time: ClickHouse hands over a result in Arrow as a whole."""
    settings = dict(compiled.settings)
    bounds = client.query(
        f"SELECT `{PARTITION}`, min(`{OFFSET}`), max(`{OFFSET}`) FROM ({compiled.records}) "
        f"GROUP BY `{PARTITION}` ORDER BY `{PARTITION}`",
        settings=settings,
    ).result_rows
    for partition, first, last in bounds:
        for start in range(first, last + 1, PAGE_ROWS):
            text = (
                f"SELECT * FROM ({compiled.records}) WHERE `{PARTITION}` = {partition} "
                f"AND `{OFFSET}` >= {start} AND `{OFFSET}` < {start + PAGE_ROWS} ORDER BY `{OFFSET}`"
            )
            page = client.query_arrow(text, settings=settings, use_strings=False)
            if page.num_rows:
                yield page


def _places(records: pa.Table, outcome: Outcome) -> dict[str, pa.ChunkedArray]:
    """Time and coordinates of the records that were kept."""
    rows = pa.array(np.flatnonzero(outcome.kept))
    return {name: records.column(name).cast(kind).take(rows) for name, kind in _PLACES.items()}


def _column_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"Array({_column_type(kind.value_type)})"
    if pa.types.is_decimal(kind):
        return f"Nullable(Decimal({kind.precision}, {kind.scale}))"
    if pa.types.is_timestamp(kind):
        return "Nullable(DateTime64(3, 'UTC'))"
    return f"Nullable({_CLICKHOUSE[kind]})"
