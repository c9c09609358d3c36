"""The monitors inside Flink: sketches in, windows and alerts out, state in checkpoints.

Records come a batch of predictions at a time, so a row of Python here stands for thousands of events.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyflink.common import Row, Types
from pyflink.datastream import DataStream, KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ListStateDescriptor, ValueStateDescriptor
from pyflink.table import DataTypes, StreamTableEnvironment
from pyflink.table.udf import udf

from monitors.evaluate import TILE_MS, ModelMonitor, sketch_losses
from monitors.reference import Reference
from monitors.sketches import Sketches
from schemas.codec import Codec
from schemas.topics import topic

__all__ = ["FINDING", "FINDINGS", "Monitors", "evaluate", "last_of_each", "register_loss_sketch"]

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
    """

    def __init__(self, models: Path) -> None:
        self._models = models
        self._live: dict[str, ModelMonitor] = {}

    def open(self, runtime_context: RuntimeContext) -> None:
        """Called once a worker; what was in memory before a failure is gone and comes from state."""
        self._live = {}
        self._state = runtime_context.get_state(ValueStateDescriptor("monitor", Types.PICKLED_BYTE_ARRAY()))
        self._told = runtime_context.get_list_state(ListStateDescriptor("told", Types.PICKLED_BYTE_ARRAY()))
        self._codecs = {name: Codec(topic(name).schema, topic(name).schema_id) for name in FINDINGS}

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Tell the model's monitor; it judges when the watermark has passed the tile."""
        told = (value["kind"], value["model_version"], bytes(value["sketch"]))
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
        ctx.timer_service().register_event_time_timer((time_ms // TILE_MS + 1) * TILE_MS)

    def _monitor(self, model: str) -> ModelMonitor:
        if model not in self._live:
            stored = self._state.value()
            references = Loader(self._models / model)
            self._live[model] = (
                ModelMonitor.from_bytes(stored, references) if stored else ModelMonitor(model, references)
            )
            for told in self._told.get() or ():
                tell(self._live[model], told)
        return self._live[model]


class Loader:
    """The reference of a version, from the files its training left.

    Parameters
    ----------
    models : Path
        A folder a version.
    """

    def __init__(self, models: Path) -> None:
        self._models = models

    def __call__(self, version: str) -> Reference | None:
        """The reference; None for the prior, which has no training."""
        if version == "prior":
            return None
        return Reference.from_bytes((self._models / version / "reference.avro").read_bytes())


def tell(monitor: ModelMonitor, told: tuple[str, str, bytes]) -> None:
    """Give a monitor what one record says: kind (``inputs`` or ``losses``), version, sketches."""
    kind, version, payload = told
    add = monitor.add_sketches if kind == "inputs" else monitor.add_losses
    add(version, Sketches.from_bytes(payload))


def evaluate(stream: DataStream, models: Path) -> DataStream:
    """Windows and alerts of the sketches in a stream, encoded: rows of topic, key, value and time."""
    return stream.key_by(lambda row: row["model"], key_type=Types.STRING()).process(Monitors(models), FINDING)


def last_of_each(values: pd.Series) -> Iterator[tuple[Any, np.ndarray[Any, Any]]]:
    """Each distinct value with the positions it is at, ascending."""
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    for code, value in enumerate(distinct):
        yield value, np.flatnonzero(codes == code)


def loss_sketches(version: pd.Series, probability: pd.Series, positive: pd.Series, seconds: pd.Series) -> pd.Series:
    """Sketches of the losses of a batch; each version's on its last row, null elsewhere."""
    sketches = np.full(len(version), None, dtype=object)
    p, label, time_ms = probability.to_numpy(float), positive.to_numpy(), seconds.to_numpy(np.int64) * 1000
    for _, rows in last_of_each(version):
        sketches[rows[-1]] = sketch_losses(p[rows], label[rows], time_ms[rows]).to_bytes()
    return pd.Series(sketches)


def register_loss_sketch(environment: StreamTableEnvironment, name: str) -> None:
    """Make :func:`loss_sketches` callable from SQL."""
    environment.create_temporary_function(name, udf(loss_sketches, result_type=DataTypes.BYTES(), func_type="pandas"))
