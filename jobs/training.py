"""One training run: ``python -m jobs.training --run DIRECTORY``.

Reads ``payload.json`` of the directory, trains a challenger on the features that were logged with each prediction and
the labels known at the cutoff, holds it against the champion on the newest week, writes model, card and reference
beside each other, tells MLflow, and leaves ``result.json`` by a rename. The same rows give the same model.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: a thread a core was 12 times slower on a busy machine

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score

from features.compiler.inputs import Inputs
from jobs.serving import PRIOR_UNKNOWN, Scorer, model_matrix
from monitors.buckets import Kind
from monitors.evaluate import TILE_MS, sketch_losses
from monitors.reference import ColumnSpec, Role
from monitors.sketches import sketch_batch
from monitors.thresholds import build_reference
from schemas.topics import DAY_MS

__all__ = ["Run", "column_specs", "fit", "fit_on_history", "main", "train"]

SEED = 7
HELD_OUT_MS = 7 * DAY_MS
ROWS_MIN, HELD_OUT_MIN = 1000, 100
# Losses of a reference come from folds of whole days over so much recent traffic: enough windows to draw from.
REFERENCE_MS = 62 * DAY_MS
FOLDS = 3
SCORE = "score"
PARAMETERS = {
    "max_iter": 150,
    "learning_rate": 0.08,
    "max_leaf_nodes": 31,
    "min_samples_leaf": 100,
    "l2_regularization": 1.0,
}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """The rows of a run.

    Attributes
    ----------
    frame : DataFrame
        Inputs, ``time_ms`` of requests, ``label_ms`` of labels, ``late`` (the outcome, 0 or 1) and ``logged`` (what was
        answered).
    inputs : Inputs
    """

    frame: pd.DataFrame
    inputs: Inputs

    @property
    def label(self) -> npt.NDArray[np.int64]:
        """0 or 1, shape (n,)."""
        return self.frame["late"].to_numpy(np.int64)


def load(payload: Mapping[str, Any], inputs: Inputs) -> Run:
    """Labelled traffic as it was known at the cutoff, without quarantined spans; ordered, so that runs repeat."""
    address = urlsplit(payload["clickhouse"])
    client = clickhouse_connect.get_client(host=address.hostname or "", port=address.port or 8123)
    columns = ", ".join(f"p.`{name}` AS `{name}`" for name in (*inputs.columns, inputs.prior))
    spans = "".join(
        f" AND NOT (p.event_time >= fromUnixTimestamp64Milli({int(start)}) "
        f"AND p.event_time < fromUnixTimestamp64Milli({int(end)}))"
        for start, end in payload["quarantine"]
    )
    labels = inputs.labels.replace(".", "_")
    frame = client.query_df(
        f"SELECT p.request_id AS request_id, toUnixTimestamp64Milli(p.event_time) AS time_ms, "
        f"toUnixTimestamp64Milli(l.event_time) AS label_ms, toInt8({inputs.label}) AS late, "
        f"p.probability AS logged, {columns} "
        f"FROM headwater.predictions_{inputs.model} AS p "
        f"INNER JOIN headwater.{labels} AS l ON p.request_id = l.{inputs.request_id} "
        f"WHERE l.event_time <= fromUnixTimestamp64Milli({int(payload['cutoff_ms'])}) "
        f"AND p.event_time <= fromUnixTimestamp64Milli({int(payload['cutoff_ms'])}){spans} "
        "ORDER BY time_ms, request_id"
    )
    return Run(frame, inputs)


def fit(matrix: npt.NDArray[np.float32], label: npt.NDArray[np.int64]) -> HistGradientBoostingClassifier:
    """Gradient-boosted trees; NaN goes the way that the data say."""
    model = HistGradientBoostingClassifier(**PARAMETERS, early_stopping=False, random_state=SEED)
    return model.fit(matrix, label)


def categories(run: Run) -> dict[str, dict[str, int]]:
    """A number for each text of the categorical columns, by name."""
    named = {name: sorted(run.frame[name].dropna().unique()) for name in run.inputs.categorical}
    return {name: {str(text): number for number, text in enumerate(texts)} for name, texts in named.items()}


def column_specs(inputs: Inputs) -> dict[str, ColumnSpec]:
    """How each input column is watched, and from which feed it comes."""
    found = {}
    for name in inputs.columns:
        kind: Kind = "categorical" if name in inputs.categorical else "numeric"
        role: Role = "context" if name in inputs.context else "monitored"
        found[name] = ColumnSpec(kind, role, inputs.feeds[name])
    return {**found, SCORE: ColumnSpec("score", "monitored", "")}


def out_of_fold(matrix: npt.NDArray[np.float32], label: npt.NDArray[np.int64], days: npt.NDArray[np.int64]) -> Floats:
    """Probabilities by models that have not seen the row's day."""
    found = np.zeros(len(label))
    for fold in range(FOLDS):
        mine = days % FOLDS == fold
        found[mine] = fit(matrix[~mine], label[~mine]).predict_proba(matrix[mine])[:, 1]
    return found


def judge(label: npt.NDArray[np.int64], probability: Floats) -> dict[str, float]:
    """Log loss and AUC."""
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    return {"log_loss": float(log_loss(label, clipped)), "auc": float(roc_auc_score(label, clipped))}


def champion_scores(payload: Mapping[str, Any], held: pd.DataFrame, inputs: Inputs) -> Floats:
    """What the champion says of the held-out rows; the prior where there is none."""
    prior = held[inputs.prior].to_numpy(float)
    champion = payload["champion"]
    if champion is None:
        return np.where(np.isnan(prior), PRIOR_UNKNOWN, prior)
    version, uri = (np.full(len(held), champion[key]) for key in ("version", "uri"))
    return Scorer().score(held, version, uri, prior)


def train(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Train, compare, write; the content of ``result.json``."""
    began = time.monotonic()
    inputs = Inputs.from_dict(payload["inputs"])
    run = load(payload, inputs)
    held = run.frame["time_ms"].to_numpy() > payload["cutoff_ms"] - HELD_OUT_MS
    if held.sum() < HELD_OUT_MIN or (~held).sum() < ROWS_MIN or run.label[~held].min() == run.label[~held].max():
        reason = (
            f"expected {ROWS_MIN:,} labelled rows with both outcomes to train on and {HELD_OUT_MIN} to hold out, "
            f"got {(~held).sum():,} and {held.sum()}"
        )
        return {"status": "succeeded", "decision": "refused", "reason": reason, "held_out_rows": int(held.sum())}
    card = {"columns": list(inputs.columns), "categories": categories(run)}
    matrix = model_matrix(run.frame, card)
    challenger = judge(run.label[held], fit(matrix[~held], run.label[~held]).predict_proba(matrix[held])[:, 1])
    champion = judge(run.label[held], champion_scores(payload, run.frame[held], inputs))
    won = challenger["log_loss"] <= champion["log_loss"] - payload["margin"]
    # What was compared is the recipe. What answers is fitted with the newest week too: it is the likest to come.
    model = fit(matrix, run.label)
    told = {
        f"{who}_{name}": value
        for who, of in (("champion", champion), ("challenger", challenger))
        for name, value in of.items()
    }
    span = [int(run.frame["time_ms"].iloc[0]), int(run.frame["time_ms"].iloc[-1])]
    version = register(payload, told, run)
    directory = Path(payload["models_dir"]) / payload["model"] / version
    directory.mkdir(parents=True, exist_ok=True)
    write_onnx(model, matrix, directory / "model.onnx")
    facts = {**card, "version": version, "trained_ms": span, "rows": len(matrix), "incident_id": payload["incident_id"]}
    (directory / "model.json").write_text(json.dumps(facts))
    (directory / "reference.avro").write_bytes(reference(run, matrix, version, payload))
    verdict = (
        f"log loss {challenger['log_loss']:.4f} against {champion['log_loss']:.4f} on {held.sum():,} held-out rows"
    )
    return {
        "status": "succeeded",
        "version": version,
        "uri": str(directory),
        "decision": "promoted" if won else "refused",
        "reason": f"{verdict}; it had to win by {payload['margin']}",
        "margin": payload["margin"],
        "held_out_rows": int(held.sum()),
        "seconds": round(time.monotonic() - began, 2),
        **told,
    }


def fit_on_history(
    clickhouse: str, inputs: Inputs, until_ms: int, quarantine: Sequence[tuple[int, int]] = ()
) -> Callable[[pd.DataFrame], Floats] | None:
    """A model fitted to everything known at an event time, as its probability of a frame of logged columns.

    Parameters
    ----------
    clickhouse : str
        ``http://host:port``.
    inputs : Inputs
    until_ms : int
        UTC epoch milliseconds.
    quarantine : sequence of (int, int)
        Spans of request time left out.

    Returns
    -------
    callable or None
        None where there are fewer than 1,000 labelled requests, or all have one outcome.
    """
    run = load({"clickhouse": clickhouse, "cutoff_ms": until_ms, "quarantine": quarantine}, inputs)
    if len(run.frame) < ROWS_MIN or run.label.min() == run.label.max():
        return None
    card = {"columns": list(inputs.columns), "categories": categories(run)}
    fitted = fit(model_matrix(run.frame, card), run.label)
    return lambda frame: fitted.predict_proba(model_matrix(frame, card))[:, 1]


def reference(run: Run, matrix: npt.NDArray[np.float32], version: str, payload: Mapping[str, Any]) -> bytes:
    """What the monitors hold later traffic against."""
    recent = run.frame["time_ms"].to_numpy() > payload["cutoff_ms"] - REFERENCE_MS
    rows = run.frame[recent]
    time_ms, label = rows["time_ms"].to_numpy(np.int64), run.label[recent]
    probability = out_of_fold(matrix[recent], label, time_ms // DAY_MS)
    specs = column_specs(run.inputs)
    values = {name: rows[name].to_numpy() for name in run.inputs.columns} | {SCORE: probability}
    features = sketch_batch(values, {name: spec.kind for name, spec in specs.items()}, time_ms, TILE_MS)
    losses = sketch_losses(probability, label, rows["label_ms"].to_numpy(np.int64))
    return build_reference(payload["model"], version, specs, features, losses, SEED).to_bytes()


def write_onnx(model: HistGradientBoostingClassifier, matrix: npt.NDArray[np.float32], file: Path) -> None:
    """Write the model as ONNX, once it is known to say the same.

    Raises
    ------
    ValueError
        Where ONNX and scikit-learn differ by more than 1e-4 on any of 2,000 rows.
    """
    import onnxruntime
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    shape = [("input", FloatTensorType([None, matrix.shape[1]]))]
    converted = convert_sklearn(model, initial_types=shape, options={id(model): {"zipmap": False}}).SerializeToString()
    session = onnxruntime.InferenceSession(converted, providers=["CPUExecutionProvider"])
    rows = matrix[:: max(1, len(matrix) // 2000)]
    error = np.abs(session.run(["probabilities"], {"input": rows})[0][:, 1] - model.predict_proba(rows)[:, 1]).max()
    if error > 1e-4:
        raise ValueError(f"expected ONNX to say what scikit-learn says, got a difference of {error:.2g}")
    file.write_bytes(converted)


def register(payload: Mapping[str, Any], told: Mapping[str, float], run: Run) -> str:
    """A run and a model version in MLflow; gives the version."""
    import mlflow

    mlflow.set_tracking_uri(payload["mlflow_uri"])
    client = mlflow.MlflowClient()
    name = payload["model"]
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    digest = hashlib.sha256(pd.util.hash_pandas_object(run.frame[["request_id", "late"]]).to_numpy().tobytes())
    tags = {"incident_id": payload["incident_id"], "epoch": str(payload["epoch"]), "data": digest.hexdigest()[:16]}
    started = client.create_run(experiment_id, tags=tags)
    for key, value in {**PARAMETERS, "rows": len(run.frame), "cutoff_ms": payload["cutoff_ms"]}.items():
        client.log_param(started.info.run_id, key, value)
    for key, value in told.items():
        client.log_metric(started.info.run_id, key, value)
    client.set_terminated(started.info.run_id)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"{payload['models_dir']}/{name}"
    return str(client.create_model_version(name, source, started.info.run_id).version)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 once ``result.json`` is there, whatever the decision."""
    parser = argparse.ArgumentParser(prog="jobs.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="directory with payload.json")
    directory = parser.parse_args(argv).run
    result = train(json.loads((directory / "payload.json").read_text()))
    draft = directory / ".result.json"
    draft.write_text(json.dumps(result))
    draft.replace(directory / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
