"""Inference inside Flink: batches in, probabilities and one sketch a batch and version out.

Pandas functions: Flink hands them Arrow batches, they hand back columns. Rows of Python never meet.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyflink.table import DataTypes, StreamTableEnvironment
from pyflink.table.types import DataType
from pyflink.table.udf import ScalarFunction, udf

from features.compiler.service import ModelInputs, time_of
from features.compiler.topics import value_fields
from features.online.lookup import StoredView, ViewLookup, stored_view
from features.online.rows import RowStore
from jobs.evaluation import rows_of_each
from jobs.serving import ModelLog, Scorer
from monitors.losses import TILE_MS
from monitors.segments import sketch_segments
from monitors.sketches import Kind, Sketches, sketch_batch
from monitors.thresholds import DAY_MS

__all__ = ["Inference", "LatestInference", "register_inference", "register_latest_inference"]

SCORE = "score"
PART_BYTES = 128 << 10


class _Answering(ScalarFunction):
    """What both modes share: score the rows of a batch and sketch what was seen.

    Parameters
    ----------
    numeric, categorical, features : tuple of str
        Input columns in the order of the arguments: numeric request columns, categorical ones, then features.
    segmented : bool
        Whether traffic is cut into segments, which are sketched as well.
    """

    def __init__(
        self, numeric: tuple[str, ...], categorical: tuple[str, ...], features: tuple[str, ...], segmented: bool
    ) -> None:
        self._segmented = segmented
        self.columns = (*numeric, *categorical, *features)
        self.kinds: dict[str, Kind] = {
            name: "categorical" if name in categorical else "numeric" for name in self.columns
        }
        self.kinds[SCORE] = "score"
        self._scorer: Scorer | None = None

    def open(self, function_context: Any) -> None:
        """Called once a worker; models are loaded when a batch first names them."""
        self._scorer = Scorer()

    def answer(
        self,
        asked: pd.Series,
        seconds: pd.Series,
        watermark_seconds: pd.Series,
        frame: pd.DataFrame,
        version: npt.NDArray[Any],
        uri: npt.NDArray[Any],
        prior: npt.NDArray[np.float64],
    ) -> dict[str, Any]:
        """Probabilities; and the number of rows, their sketch and that by segment, on each version's last request.

        Progress rows, where `asked` is false, are scored with the rest and counted nowhere. Of the watermark see
        :func:`_held_back`.
        """
        assert self._scorer is not None  # open() came first
        probability = self._scorer.score(frame, version, uri, prior)
        rows, last = np.zeros(len(frame), dtype=np.int32), 0
        sketches, segments = (np.full(len(frame), None, dtype=object) for _ in range(2))
        for name_of, counted in rows_of_each(pd.Series(version), asked):
            rows[counted[-1]], last = len(counted), max(last, int(counted[-1]))
            values = {name: frame[name].to_numpy()[counted] for name in self.columns}
            values[SCORE] = probability[counted]
            time_ms = seconds.to_numpy()[counted].astype(np.int64) * 1000
            sketches[counted[-1]] = sketch_batch(values, self.kinds, time_ms, TILE_MS).to_bytes()
            if self._segmented and (cut := self._scorer.segmentation(name_of, str(uri[counted[0]]))):
                codes = cut.codes(frame.iloc[counted])
                parts = _parts(sketch_segments(cut, codes, values, self.kinds, time_ms, DAY_MS))
                # Before the last, so that none comes behind the batch's own sketch. They add up in any order.
                for place, part in zip(counted[-len(parts) :], parts, strict=True):
                    segments[place] = part
        watermark = _held_back(watermark_seconds.to_numpy(np.int64), last)
        answer = {
            "watermark_seconds": watermark,
            "probability": probability,
            "sketch_rows": rows,
            "sketch": sketches,
        }
        return answer | {"segments": segments} if self._segmented else answer


def _held_back(watermark: npt.NDArray[np.int64], last: int) -> npt.NDArray[np.int64]:
    """The watermark of each row; until the batch's last sketch that of its first row.

    A batch of a replay spans days, and what its later rows promise says that the tiles of the earlier ones are
    complete: who read that ahead of their sketch would judge them without.
    """
    held = watermark.copy()
    held[:last] = watermark[:1]
    return held


def _parts(table: Sketches) -> list[bytes]:
    """As bytes that a record can hold: a batch of a replay can span weeks, and a broker takes no more than a megabyte.

    A single tile is never cut.
    """
    packed = table.to_bytes()
    count = len(table.tiles)
    if len(packed) <= PART_BYTES or count < 2:
        return [packed]
    halves = (range(count // 2), range(count // 2, count))
    return [part for half in halves for part in _parts(table.take(half))]


def _answer(inputs: ModelInputs) -> list[tuple[str, DataType]]:
    told = [("probability", DataTypes.DOUBLE()), ("sketch_rows", DataTypes.INT()), ("sketch", DataTypes.BYTES())]
    return [*told, ("segments", DataTypes.BYTES())] if inputs.segments else told


class Inference(_Answering):
    """Score requests that come with their features and their model: `as-of` mode."""

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
        """One row a request.

        The watermark has to be looked up ahead of this function, and SQL behind it would be merged with this call: a
        batch would come out with the watermark of the batch before, days old in a replay.
        """
        frame = pd.DataFrame(dict(zip(self.columns, columns, strict=True)))
        asked, known = request_id.notna(), prior.to_numpy(dtype=float)
        answer = self.answer(asked, seconds, watermark_seconds, frame, version.to_numpy(), uri.to_numpy(), known)
        return pd.DataFrame(answer)


class LatestInference(_Answering):
    """Score requests with the newest features in the online store and the newest model: `latest` mode.

    Parameters
    ----------
    numeric, categorical, features : tuple of str
    segmented : bool
    prior : str
        Feature that answers before there is a model.
    model, kafka : str
        Whose promotions to follow, and where.
    views : sequence of StoredView
    store : Path
        The embedded online store.
    """

    def __init__(
        self,
        numeric: tuple[str, ...],
        categorical: tuple[str, ...],
        features: tuple[str, ...],
        segmented: bool,
        prior: str,
        model: str,
        kafka: str,
        views: Sequence[StoredView],
        store: Path,
    ) -> None:
        super().__init__(numeric, categorical, features, segmented)
        self.requested = (*numeric, *categorical)
        self.keys = sorted({key for view in views for key in view.keys} - {"model"})
        self._features, self._prior, self._model, self._kafka = features, prior, model, kafka
        self._views, self._path = tuple(views), store

    def open(self, function_context: Any) -> None:
        """Called once a worker."""
        super().open(function_context)
        store = RowStore(self._path)
        for view in self._views:
            store.ensure(view.name)  # nobody may have pushed yet
        self._lookups = [(view.keys, ViewLookup(store, view)) for view in self._views]
        self._models = ModelLog(self._kafka, self._model)

    def close(self) -> None:
        """Called at the worker's end."""
        self._models.close()

    def eval(
        self, request_id: pd.Series, seconds: pd.Series, watermark_seconds: pd.Series, *columns: pd.Series
    ) -> pd.DataFrame:
        """One row a request: what was read for it, and the answer. Arguments: request columns, then entity keys."""
        given = dict(zip((*self.requested, *(f"key {key}" for key in self.keys)), columns, strict=True))
        keys = pd.DataFrame({key: given[f"key {key}"] for key in self.keys}).assign(model=self._model)
        asked = request_id.notna()
        read: dict[str, Any] = {}
        for names, lookup in self._lookups:
            read |= lookup.read(keys[list(names)])
        frame = pd.DataFrame(
            {name: given[name] for name in self.requested}
            | {name: pd.to_numeric(pd.Series(read[name]), errors="coerce") for name in self._features}
        )
        version, uri = self._models.at(seconds.to_numpy(np.int64) * 1000)
        answer = self.answer(asked, seconds, watermark_seconds, frame, version, uri, read[self._prior].astype(float))
        held = answer.pop("watermark_seconds")
        return pd.DataFrame({"watermark_seconds": held, "model_version": version, **read, **answer})


def register_inference(environment: StreamTableEnvironment, name: str, inputs: ModelInputs) -> None:
    """Make :class:`Inference` callable from SQL."""
    function = Inference(inputs.numeric, inputs.categorical, inputs.features, bool(inputs.segments))
    _register(environment, name, function, [("watermark_seconds", DataTypes.BIGINT()), *_answer(inputs)])


def register_latest_inference(
    environment: StreamTableEnvironment, name: str, inputs: ModelInputs, kafka: str, store: Path
) -> list[str]:
    """Make :class:`LatestInference` callable from SQL; gives the entity keys it takes, in order."""
    views = [stored_view(view) for view in inputs.views]
    function = LatestInference(
        inputs.numeric,
        inputs.categorical,
        inputs.features,
        bool(inputs.segments),
        inputs.prior,
        inputs.model,
        kafka,
        views,
        store,
    )
    read: list[tuple[str, DataType]] = []
    for view, stored in zip(inputs.views, views, strict=True):
        kinds = {field.name: field.dtype for field in value_fields(view)}
        read += [(f"{stored.name}__{each}", _SQL_TYPES[str(kinds[each])]()) for each in stored.features]
        read.append((time_of(stored.name), DataTypes.BIGINT()))
    fields = [("watermark_seconds", DataTypes.BIGINT()), ("model_version", DataTypes.STRING()), *read, *_answer(inputs)]
    _register(environment, name, function, fields)
    return function.keys


_SQL_TYPES: dict[str, Callable[[], DataType]] = {
    "Float64": DataTypes.DOUBLE,
    "Float32": DataTypes.FLOAT,
    "Int64": DataTypes.BIGINT,
    "Int32": DataTypes.INT,
    "String": DataTypes.STRING,
}


def _register(
    environment: StreamTableEnvironment, name: str, function: ScalarFunction, fields: Sequence[tuple[str, DataType]]
) -> None:
    answer = DataTypes.ROW([DataTypes.FIELD(each, kind) for each, kind in fields])
    environment.create_temporary_function(name, udf(function, result_type=answer, func_type="pandas"))
