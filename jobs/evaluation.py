"""The monitors inside Flink: sketches in, windows and alerts out, state in checkpoints.

Records come a batch of predictions at a time, so a row of Python here stands for thousands of events.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyflink.common import Row, Types
from pyflink.datastream import DataStream, KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ListStateDescriptor, ValueStateDescriptor
from pyflink.table import DataTypes, StreamTableEnvironment
from pyflink.table.udf import ScalarFunction, udf

from jobs.references import Loader
from jobs.segmenting import Cards
from monitors.evaluate import ModelMonitor
from monitors.losses import TILE_MS
from monitors.matching import pack_answers, pack_labels
from monitors.settings import MonitorSettings
from monitors.sketches import Sketches
from schemas.codec import Codec
from schemas.topics import topic

__all__ = ["FINDING", "FINDINGS", "Monitors", "evaluate", "register_packing", "rows_of_each"]

END_OF_STREAM_MS = 2**62
FINDINGS = ("drift.windows", "drift.alerts")
FINDING = Types.ROW_NAMED(
    ["topic", "key", "value", "time_ms"],
    [Types.STRING(), Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE()), Types.LONG()],
)


class Monitors(KeyedProcessFunction):
    """Keeps a :class:`ModelMonitor` a model and lets the watermark move it.

    A monitor lives in memory and is written to state when it has moved. Between two moves only what it was told is
    written, since that is small and the whole is not: a restored monitor is told again.

    Parameters
    ----------
    models : Path
        Where the reference of each version is: ``<models>/<model>/<version>/reference.avro``.
    settings : MonitorSettings
    """

    def __init__(self, models: Path, settings: MonitorSettings) -> None:
        self._models, self._settings = models, settings
        self._live: dict[str, ModelMonitor] = {}

    def open(self, runtime_context: RuntimeContext) -> None:
        """Called once a worker; what was in memory before a failure is gone and comes from state."""
        self._live = {}
        self._state = runtime_context.get_state(ValueStateDescriptor("monitor", Types.PICKLED_BYTE_ARRAY()))
        self._told = runtime_context.get_list_state(ListStateDescriptor("told", Types.PICKLED_BYTE_ARRAY()))
        self._codecs = {name: Codec(topic(name).schema, topic(name).schema_id) for name in FINDINGS}

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Tell the model's monitor; it judges when the watermark has passed the tile."""
        told = (value["kind"], value["model_version"], bytes(value["payload"]))
        monitor = self._monitor(ctx.get_current_key())
        self._told.add(told)
        tell(monitor, told)
        self._wake(ctx, max(ctx.timer_service().current_watermark(), int(value["time_ms"])))
        yield from ()

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Judge all that the watermark has settled: at replay speed that is many tiles at once."""
        model = ctx.get_current_key()
        monitor = self._monitor(model)
        windows, alerts = monitor.advance(ctx.timer_service().current_watermark())
        if windows or alerts:
            self._state.update(monitor.to_bytes())
            self._told.clear()
        # A silent feed must be noticed too: time goes on without records.
        self._wake(ctx, ctx.timer_service().current_watermark())
        for window in windows:
            record = window.record()
            yield self._finding("drift.windows", model, record)
        for alert in alerts:
            record = alert.record()
            yield self._finding("drift.alerts", record["incident_id"], record)

    def _finding(self, name: str, key: str, record: dict[str, Any]) -> Row:
        return Row(name, key, self._codecs[name].encode(record), record["window_end"])

    def _wake(self, ctx: KeyedProcessFunction.Context, time_ms: int) -> None:
        if time_ms < END_OF_STREAM_MS:  # behind the last watermark there is no later tile to wait for
            ctx.timer_service().register_event_time_timer((time_ms // TILE_MS + 1) * TILE_MS)

    def _monitor(self, model: str) -> ModelMonitor:
        if model not in self._live:
            stored = self._state.value()
            references = Loader(self._models / model)
            self._live[model] = (
                ModelMonitor.from_bytes(stored, references, self._settings)
                if stored
                else ModelMonitor(model, references, self._settings)
            )
            for told in self._told.get() or ():
                tell(self._live[model], told)
        return self._live[model]


def tell(monitor: ModelMonitor, told: tuple[str, str, bytes]) -> None:
    """Give a monitor what one record says: ``inputs``, ``segments``, ``answers`` or ``labels``; version; payload."""
    kind, version, payload = told
    if kind == "inputs":
        monitor.add_sketches(version, Sketches.from_bytes(payload))
    elif kind == "segments":
        monitor.add_segments(version, Sketches.from_bytes(payload))
    elif kind == "answers":
        monitor.add_answers(version, payload)
    else:
        monitor.add_labels(payload)


def evaluate(stream: DataStream, models: Path, settings: MonitorSettings) -> DataStream:
    """Windows and alerts of what a stream tells, encoded: rows of topic, key, value and time."""
    return stream.key_by(lambda row: row["model"], key_type=Types.STRING()).process(Monitors(models, settings), FINDING)


def rows_of_each(values: pd.Series, counted: pd.Series) -> Iterator[tuple[Any, np.ndarray[Any, Any]]]:
    """Each distinct value with its positions among the rows that count, ascending; a value without any is left out."""
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    for code, value in enumerate(distinct):
        rows = np.flatnonzero((codes == code) & counted.to_numpy(bool))
        if len(rows):
            yield value, rows


Codes = Callable[[str, npt.NDArray[np.int64]], npt.ArrayLike]
"""Segments of the rows at some positions, under a version; see :meth:`monitors.segments.Segmentation.codes`."""


def packed_answers(
    version: pd.Series,
    request_id: pd.Series,
    probability: pd.Series,
    seconds: pd.Series,
    codes: Codes = lambda *_: 0,
) -> pd.Series:
    """Answers of a batch, packed; each version's on its last request, null elsewhere.

    Progress rows, which have no id, are left out here and not by a WHERE: the planner may filter behind this function,
    and where a progress row came last a whole batch went with it.
    """
    found = np.full(len(version), None, dtype=object)
    ids, p, time_ms = request_id.to_numpy(object), probability.to_numpy(float), seconds.to_numpy(np.int64) * 1000
    for name, rows in rows_of_each(version, request_id.notna()):
        found[rows[-1]] = pack_answers(ids[rows], p[rows], time_ms[rows], codes(name, rows))
    return pd.Series(found)


class PackedAnswers(ScalarFunction):
    """:func:`packed_answers` with the segment of each, told by further columns.

    Parameters
    ----------
    models : Path
        A folder a version, with its card.
    columns : sequence of str
        Names of the further arguments.
    """

    def __init__(self, models: Path, columns: Sequence[str]) -> None:
        self._models, self._columns = models, tuple(columns)

    def open(self, function_context: Any) -> None:
        """Called once a worker."""
        self._cards = Cards(self._models)

    def eval(
        self,
        version: pd.Series,
        request_id: pd.Series,
        probability: pd.Series,
        seconds: pd.Series,
        *columns: pd.Series,
    ) -> pd.Series:
        """One value a row, most of them null."""
        frame = pd.DataFrame(dict(zip(self._columns, columns, strict=True)))
        return packed_answers(
            version, request_id, probability, seconds, lambda name, rows: self._cards(name).codes(frame.iloc[rows])
        )


def packed_labels(request_id: pd.Series, positive: pd.Series, seconds: pd.Series) -> pd.Series:
    """Labels of a batch, packed, on its last label; null elsewhere. Heartbeats are left out as in the answers."""
    found = np.full(len(request_id), None, dtype=object)
    rows = np.flatnonzero(request_id.notna())
    if len(rows):
        ids, time_ms = request_id.to_numpy(object)[rows], seconds.to_numpy(np.int64)[rows] * 1000
        found[rows[-1]] = pack_labels(ids, positive.to_numpy()[rows], time_ms)
    return pd.Series(found)


def register_packing(environment: StreamTableEnvironment, models: Path, columns: Sequence[str]) -> None:
    """Make :class:`PackedAnswers` and :func:`packed_labels` callable from SQL as ``packed_answers, packed_labels``."""
    for name, function in (("packed_answers", PackedAnswers(models, columns)), ("packed_labels", packed_labels)):
        made = udf(function, result_type=DataTypes.BYTES(), func_type="pandas")
        environment.create_temporary_function(name, made)
