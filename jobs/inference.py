"""Inference inside Flink: batches in, probabilities and one sketch a batch and version out.

A Pandas function: Flink hands it Arrow batches, it hands back a column. Rows of Python never meet.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from pyflink.table import DataTypes, StreamTableEnvironment
from pyflink.table.udf import ScalarFunction, udf

from features.compiler.service import ModelInputs
from jobs.evaluation import last_of_each
from jobs.serving import Scorer
from monitors.evaluate import TILE_MS
from monitors.sketches import Kind, sketch_batch

__all__ = ["Inference", "register_inference"]

SCORE = "score"


class Inference(ScalarFunction):
    """Score a batch and sketch what it saw.

    Parameters
    ----------
    numeric, categorical : tuple of str
        Input columns in the order of the arguments: numeric request columns, categorical ones, then features.
    features : tuple of str
    """

    def __init__(self, numeric: tuple[str, ...], categorical: tuple[str, ...], features: tuple[str, ...]) -> None:
        self.columns = (*numeric, *categorical, *features)
        self.kinds: dict[str, Kind] = {
            name: "categorical" if name in categorical else "numeric" for name in self.columns
        }
        self.kinds[SCORE] = "score"
        self._scorer: Scorer | None = None

    def open(self, function_context: Any) -> None:
        """Called once a worker; models are loaded when a batch first names them."""
        self._scorer = Scorer()

    def eval(
        self,
        request_id: pd.Series,
        seconds: pd.Series,
        watermark_seconds: pd.Series,
        version: pd.Series,
        uri: pd.Series,
        prior: pd.Series,
        *columns: pd.Series,
    ) -> pd.DataFrame:
        """One row a request: probability, watermark, and on the last request of each version the sketch of its rows.

        The watermark goes through unchanged. It has to be looked up ahead of this function, and SQL behind it would be
        merged with this call: a batch would come out with the watermark of the batch before, days old in a replay.
        """
        assert self._scorer is not None  # open() came first
        frame = pd.DataFrame(dict(zip(self.columns, columns, strict=True)))
        probability = self._scorer.score(frame, version.to_numpy(), uri.to_numpy(), prior.to_numpy(dtype=float))
        rows = np.zeros(len(frame), dtype=np.int32)
        sketches = np.full(len(frame), None, dtype=object)
        asked = request_id.notna().to_numpy()  # progress rows are scored with the rest, and counted nowhere
        for _, mine in last_of_each(version):
            counted = mine[asked[mine]]
            if len(counted):
                rows[counted[-1]] = len(counted)
                sketches[counted[-1]] = self._sketch(frame, probability, seconds.to_numpy(), counted)
        return pd.DataFrame(
            {
                "probability": probability,
                "watermark_seconds": watermark_seconds.to_numpy(np.int64),
                "sketch_rows": rows,
                "sketch": sketches,
            }
        )

    def _sketch(self, frame: pd.DataFrame, probability: Any, seconds: Any, rows: Any) -> bytes:
        values = {name: frame[name].to_numpy()[rows] for name in self.columns}
        values[SCORE] = probability[rows]
        return sketch_batch(values, self.kinds, seconds[rows].astype(np.int64) * 1000, TILE_MS).to_bytes()


def register_inference(environment: StreamTableEnvironment, name: str, inputs: ModelInputs) -> None:
    """Make :class:`Inference` callable from SQL."""
    answer = DataTypes.ROW(
        [
            DataTypes.FIELD("probability", DataTypes.DOUBLE()),
            DataTypes.FIELD("watermark_seconds", DataTypes.BIGINT()),
            DataTypes.FIELD("sketch_rows", DataTypes.INT()),
            DataTypes.FIELD("sketch", DataTypes.BYTES()),
        ]
    )
    function: Callable[..., Any] = udf(
        Inference(inputs.numeric, inputs.categorical, inputs.features), result_type=answer, func_type="pandas"
    )
    environment.create_temporary_function(name, function)
