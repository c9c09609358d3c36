"""The keyed function of the drift job on states that outlive it: killed between any two calls, it says the same."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from jobs.evaluation import Monitors
from monitors.detectors import DETECTORS
from monitors.losses import sketch_losses
from monitors.matching import pack_answers, pack_labels
from monitors.reference import ColumnSpec, Reference
from monitors.sequential import SequentialSpec
from monitors.settings import MonitorSettings
from monitors.sketches import sketch_batch
from monitors.thresholds import build_reference
from schemas.codec import Codec
from schemas.topics import topic

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FIRST_DAY, CALM, WRONG, ROWS = 20_000, 16, 8, 24 * 15
QUICK = {"kswin": {"window_size": 96, "stat_size": 24, "alpha": 0.001}, "ddm": {"warm_start": 72}}
SPECS = tuple(
    SequentialSpec(series, detector, QUICK.get(detector, {}))
    for series, detector in zip(["log_loss", "score", "error_rate", "positive_rate"] * 2, DETECTORS, strict=False)
)


class Backend:
    """What Flink keeps of each key, as bytes, and whose turn it is."""

    def __init__(self):
        self.kept: dict[tuple[str, str], Any] = {}
        self.key, self.watermark = "", 0
        self.timers: set[tuple[int, str]] = set()

    def get_state(self, descriptor):
        return Value(self, "value")

    def get_list_state(self, descriptor):
        return Values(self, "list")

    def get_current_key(self):
        return self.key

    def timer_service(self):
        return self

    def current_watermark(self):
        return self.watermark

    def register_event_time_timer(self, time_ms):
        self.timers.add((time_ms, self.key))


class Value:
    def __init__(self, backend, name):
        self._backend, self._name = backend, name

    def value(self):
        kept = self._backend.kept.get((self._backend.key, self._name))
        return None if kept is None else pickle.loads(kept)

    def update(self, value):
        self._backend.kept[self._backend.key, self._name] = pickle.dumps(value)


class Values(Value):
    def get(self):
        return self.value() or []

    def add(self, value):
        self.update([*self.get(), value])

    def clear(self):
        self.update([])


def traffic(model: str, wrong_from: int) -> list[dict[str, Any]]:
    """Records of a model that is right until a day: inputs, answers and labels of every six hours."""
    rng = np.random.default_rng(len(model))
    z = rng.standard_normal((CALM + WRONG) * ROWS)
    off = np.arange(len(z)) // ROWS >= wrong_from
    probability = np.where(off, expit(-3 + 0.5 * z), expit(0.7 * z))
    label = (rng.random(len(z)) < np.where(off, 0.95, probability)).astype(int)
    times = FIRST_DAY * DAY_MS + np.arange(len(z)) * (DAY_MS // ROWS)
    ids, records = np.array([f"{model}{i}" for i in range(len(z))], dtype=object), []
    for rows in np.split(np.arange(len(z)), len(z) // (ROWS // 4)):
        p, at = probability[rows], times[rows]
        sketch = sketch_batch({"score": p}, {"score": "score"}, at, HOUR_MS).to_bytes()
        told = {
            "inputs": sketch,
            "answers": pack_answers(ids[rows], p, at),
            "labels": pack_labels(ids[rows], label[rows], at),
        }
        common = {"model": model, "model_version": "1", "time_ms": int(at[-1])}
        records += [{**common, "kind": kind, "payload": payload} for kind, payload in told.items()]
    return records


def trained(folder: Path, model: str) -> None:
    rng = np.random.default_rng(9)
    p = expit(0.7 * rng.standard_normal(28 * ROWS))
    times = FIRST_DAY * DAY_MS + np.arange(len(p)) * (DAY_MS // ROWS)
    scores = sketch_batch({"score": p}, {"score": "score"}, times, HOUR_MS)
    losses = sketch_losses(p, rng.random(len(p)) < p, times)
    found: Reference = build_reference(model, "1", {"score": ColumnSpec("score")}, scores, losses, seed=0)
    (folder / model / "1").mkdir(parents=True)
    (folder / model / "1" / "reference.avro").write_bytes(found.to_bytes())


def findings(models: Path, kills: float, seed: int = 0) -> list[tuple[str, str, bytes]]:
    """What the function says of two models' records; before each call its process may be another."""
    records = sorted([*traffic("one", CALM), *traffic("another", CALM + 2)], key=lambda each: each["time_ms"])
    backend, dice, found = Backend(), random.Random(seed), []

    def process() -> Monitors:
        made = Monitors(models, MonitorSettings(sequential=SPECS))
        made.open(backend)
        return made

    function = process()
    for i, record in enumerate(records):
        function = process() if dice.random() < kills else function
        backend.key = record["model"]
        found += function.process_element(record, backend)
        if i + 1 < len(records) and records[i + 1]["time_ms"] == record["time_ms"]:
            continue  # the watermark waits for all that is of this time
        backend.watermark = record["time_ms"]
        for due in sorted(each for each in backend.timers if each[0] <= backend.watermark):
            function = process() if dice.random() < kills else function
            backend.timers.remove(due)
            backend.key = due[1]
            found += function.on_timer(due[0], backend)
    return [(each[0], each[1], bytes(each[2])) for each in found]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for model in ("one", "another"):
        trained(folder, model)
    return folder


def read(name: str, found: list[tuple[str, str, bytes]], model: str) -> list[dict[str, Any]]:
    """Records of the monitor of a model on a topic."""
    codec = Codec(topic(name).schema, topic(name).schema_id)
    records = [codec.decode(value) for where, _, value in found if where == name]
    return [each for each in records if (each["model"], each["monitor"]) == (model, "sequential")]


def test_detectors_are_a_models_own_and_restarts_do_not_show(models):
    expected = findings(models, 0.0)
    for model, day in (("one", CALM), ("another", CALM + 2)):
        opened = read("drift.alerts", expected, model)[0]
        assert opened["window_start"].timestamp() * 1000 == (FIRST_DAY + day) * DAY_MS
        results = [each for window in read("drift.windows", expected, model) for each in window["results"]]
        assert {each["statistic"] for each in results if each["fired"]} == set(DETECTORS)
    assert findings(models, 0.02) == expected
