"""A view's transformation in pandas inside Flink: Arrow batches in, columns out, one row for each that came.

A function that drops records cannot drop rows here: a pandas function of PyFlink's returns as many as it got. So each
row says whether it was kept, and SQL leaves out the others.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyflink.table import DataTypes, StreamTableEnvironment
from pyflink.table.types import DataType
from pyflink.table.udf import ScalarFunction, udf

from features.frames import HEARTBEAT, RECORD, RecordFunction

__all__ = ["Transformation", "register_function"]

_ORIGIN = {
    "record_bytes": DataTypes.BYTES,
    "kafka_partition": DataTypes.INT,
    "kafka_offset": DataTypes.BIGINT,
    "kafka_ms": DataTypes.BIGINT,
}


class Transformation(ScalarFunction):
    """Calls a :class:`RecordFunction` with the records of a batch.

    Parameters
    ----------
    function : RecordFunction
    """

    def __init__(self, function: RecordFunction) -> None:
        self._function = function

    def eval(
        self,
        arrival: pd.Series,
        record_bytes: pd.Series,
        partition: pd.Series,
        offset: pd.Series,
        kafka_time: pd.Series,
        *arguments: pd.Series,
    ) -> pd.DataFrame:
        """A row for each of the batch.

        Parameters
        ----------
        arrival : Series of int
            :data:`features.frames.RECORD` for what the function gets.
        record_bytes, partition, offset, kafka_time : Series
            Given back for records that the function fails on, and null for the others.
        *arguments : Series
            For each column its values; where it has nulls that pandas knows no place for, then whether they are null.

        Returns
        -------
        DataFrame
            ``kept``, ``error``, the record's origin where there is an error, the function's columns. Heartbeats are
            kept, of nothing but null.
        """
        arrived = arrival.to_numpy()
        places = np.flatnonzero(arrived == RECORD)
        found = self._function.apply(self._frame(places, list(arguments)))
        theirs = np.zeros(len(arrived), dtype=bool)
        theirs[places] = found.kept
        heartbeats = arrived == HEARTBEAT
        failed = places[list(found.errors)]
        kafka_ms = kafka_time.astype("datetime64[ms, UTC]").astype("int64")
        origin = zip(_ORIGIN, (record_bytes, partition, offset, kafka_ms), strict=True)
        return pd.DataFrame(
            {
                "kept": theirs | heartbeats,
                "error": _at(failed, list(found.errors.values()), len(arrived)),
                **{name: _at(failed, values.iloc[failed].tolist(), len(arrived)) for name, values in origin},
                **{f"c{at}": _spread(values, theirs, heartbeats) for at, values in enumerate(found.columns.values())},
            }
        )

    def _frame(self, places: NDArray[np.int64], arguments: list[pd.Series]) -> pd.DataFrame:
        waiting = iter(arguments)
        columns = {}
        for each in self._function.columns:
            values = next(waiting).iloc[places].reset_index(drop=True)
            if each.flagged:
                null = next(waiting).to_numpy(dtype=bool)[places] if each.nullable else None
                columns[each.name] = each.of_flagged(values.to_numpy(), null)
            else:
                columns[each.name] = each.of_plain(values)
        return pd.DataFrame(columns)


def register_function(environment: StreamTableEnvironment, name: str, function: RecordFunction) -> None:
    """Make a view's function callable from SQL."""
    fields = [("kept", DataTypes.BOOLEAN()), ("error", DataTypes.STRING())]
    fields += [(each, kind()) for each, kind in _ORIGIN.items()]
    fields += [(f"c{at}", _sql_type(kind)) for at, kind in enumerate(function.outputs.values())]
    row = DataTypes.ROW([DataTypes.FIELD(each, kind) for each, kind in fields])
    made = udf(Transformation(function), result_type=row, func_type="pandas", name=name)
    environment.create_temporary_function(name, made)


def _at(places: NDArray[np.int64], values: list[Any], rows: int) -> NDArray[np.object_]:
    """Values at their places among so many rows, null elsewhere."""
    found = np.full(rows, None, dtype=object)
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def _spread(values: pa.Array, theirs: NDArray[np.bool_], heartbeats: NDArray[np.bool_]) -> NDArray[Any]:
    """The values of the rows that were kept, at their places among all; null for heartbeats, the rest is never read.

    Times are milliseconds since the epoch: Arrow rows of PyFlink's know none with a time zone.
    """
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64())
    found: NDArray[Any]
    if pa.types.is_floating(values.type):
        found = np.full(len(theirs), np.nan, dtype=values.type.to_pandas_dtype())
        found[theirs] = values.to_numpy(zero_copy_only=False)
        return found
    if (pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)) and not (
        values.null_count or heartbeats.any()
    ):
        found = np.zeros(len(theirs), dtype=values.type.to_pandas_dtype())
        found[theirs] = values.to_numpy(zero_copy_only=False)
        return found
    found = np.full(len(theirs), None, dtype=object)
    found[theirs] = values.to_pandas(integer_object_nulls=True, date_as_object=True).to_numpy(dtype=object)
    return found


def _sql_type(kind: pa.DataType) -> DataType:
    if pa.types.is_list(kind):
        return DataTypes.ARRAY(_sql_type(kind.value_type))
    if pa.types.is_decimal(kind):
        return DataTypes.DECIMAL(kind.precision, kind.scale)
    if pa.types.is_timestamp(kind):
        return DataTypes.BIGINT()
    return _SQL_TYPES[kind]()


_SQL_TYPES = {
    pa.bool_(): DataTypes.BOOLEAN,
    pa.int32(): DataTypes.INT,
    pa.int64(): DataTypes.BIGINT,
    pa.float32(): DataTypes.FLOAT,
    pa.float64(): DataTypes.DOUBLE,
    pa.string(): DataTypes.STRING,
    pa.binary(): DataTypes.BYTES,
    pa.date32(): DataTypes.DATE,
}
