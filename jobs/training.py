"""One training run: ``python -m jobs.training``.

Takes its payload, trains a challenger on the features that were logged with each prediction and the labels known at the
cutoff, holds it against the champion on the newest week, writes model, card and reference beside each other, tells
MLflow, and leaves its result. The same rows give the same model. With ``--run DIRECTORY`` the payload is
``payload.json`` there, and the result ``result.json``, by a rename; on another machine it is as
:mod:`jobs.retraining.backends.handover` says.

A model is no better than what it is fed: the newest week's logged features are computed again from the archived events,
and where they are not what their definitions say, no challenger wins.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: a thread a core was 12 times slower on a busy machine

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score

from features.compiler.inputs import Inputs
from jobs.reading import client_of
from jobs.retraining.backends.handover import given_payload, leave_result, run_of
from jobs.segmenting import planned
from jobs.serving import PRIOR_UNKNOWN, Scorer, model_matrix
from monitors.buckets import Kind
from monitors.losses import TILE_MS, sketch_losses, sketch_segment_losses
from monitors.reference import ColumnSpec, Role
from monitors.segments import Segmentation, sketch_segments
from monitors.settings import MonitorSettings
from monitors.sketches import sketch_batch
from monitors.thresholds import SegmentedSpan, build_reference
from schemas.topics import DAY_MS

if TYPE_CHECKING:
    from features.comparison import Parity

__all__ = ["Run", "column_specs", "fit", "fit_on_history", "main", "train"]

SEED = 7
HELD_OUT_MS = 7 * DAY_MS
ROWS_MIN, HELD_OUT_MIN = 1000, 100
# Losses of a reference come from folds of whole days over so much recent traffic: enough windows to draw from.
REFERENCE_MS = 62 * DAY_MS
FOLDS = 3
SCORE = "score"
# Over five spans of a month behind a tenth to 85 % of the year, AUC 0.7565 and log loss 0.4559 in 18 s; with 150 rounds
# at 0.08 and 31 leaves 0.7561 and 0.4562 in 40 s. An incident waits for it.
PARAMETERS = {
    "max_iter": 80,
    "learning_rate": 0.12,
    "max_leaf_nodes": 20,
    "min_samples_leaf": 100,
    "l2_regularization": 1.0,
}
Floats = npt.NDArray[np.float64]


class NothingKnownError(RuntimeError):
    """There is nothing to train on."""


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
    client = client_of(payload["clickhouse"])
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


Begin = Callable[..., Future[Any]]
"""Has a function called with arguments, whose answer comes later."""


@contextmanager
def side_by_side() -> Iterator[Begin]:
    """Have functions called in other processes, in the order in which they are given.

    A process each of one thread: what several threads of one fit gain on two cores, they lose many times over as soon
    as anything else runs there.
    """
    pool = ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=get_context("fork"))
    try:
        yield pool.submit
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what a loser has begun is not waited for


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
    """Train, compare, write; the content of ``result.json``.

    Raises
    ------
    NothingKnownError
        Where the store has no labelled traffic at all of the time before the incident.
    """
    began = time.monotonic()
    inputs = Inputs.from_dict(payload["inputs"])
    run = load(payload, inputs)
    if run.frame.empty:
        # Not refused: this region may be behind the one that saw the drift, and have the rows when it is tried again.
        raise NothingKnownError(
            f"expected labelled predictions of {payload['model']} in {payload['clickhouse']} up to "
            f"{datetime.fromtimestamp(payload['cutoff_ms'] / 1000, UTC):%Y-%m-%d %H:%M} UTC, got none"
        )
    held = run.frame["time_ms"].to_numpy() > payload["cutoff_ms"] - HELD_OUT_MS
    if held.sum() < HELD_OUT_MIN or (~held).sum() < ROWS_MIN or run.label[~held].min() == run.label[~held].max():
        reason = (
            f"expected {ROWS_MIN:,} labelled rows with both outcomes to train on and {HELD_OUT_MIN} to hold out, "
            f"got {(~held).sum():,} and {held.sum()}"
        )
        return {"status": "succeeded", "decision": "refused", "reason": reason, "held_out_rows": int(held.sum())}
    card = {"columns": list(inputs.columns), "categories": categories(run)}
    matrix, label = model_matrix(run.frame, card), run.label
    time_ms = run.frame["time_ms"].to_numpy()
    recent = time_ms > payload["cutoff_ms"] - REFERENCE_MS
    with side_by_side() as begin:
        # 1. All is begun at once, also what only a winner needs: most win, and an incident waits.
        rival, checked = begin(fit, matrix[~held], label[~held]), begin(proof, payload)
        # What is compared is the recipe. What answers is fitted with the newest week too: it is the likest to come.
        fitted = begin(fit, matrix, label)
        unaware = OutOfFold(begin, matrix[recent], label[recent], time_ms[recent])
        # 2. Meanwhile what needs no new model.
        champion = judge(label[held], champion_scores(payload, run.frame[held], inputs))
        ledger = Registry(payload, run)
        # 3. Who is better?
        challenger = judge(label[held], rival.result().predict_proba(matrix[held])[:, 1])
        parity = checked.result()
        proven = parity.mismatches <= payload["parity"] * parity.compared
        won = proven and challenger["log_loss"] <= champion["log_loss"] - payload["margin"]
        both = (("champion", champion), ("challenger", challenger))
        told = {f"{who}_{name}": value for who, of in both for name, value in of.items()}
        told |= {"parity_compared": parity.compared, "parity_mismatches": parity.mismatches}
        ledger.log(told)
        # A model that lost is not kept: its figures and its data are, in the run.
        version, uri = ledger.run_name, ""
        if won:
            version = ledger.register()
            directory = Path(payload["models_dir"]) / payload["model"] / version
            facts = {**card, "version": version, "rows": len(matrix), "incident_id": payload["incident_id"]}
            cut = segmentation(run.frame[recent], inputs)
            write_model(
                directory, fitted.result(), matrix, facts | {"trained_ms": span_of(run), "segments": cut.plain()}
            )
            known = reference(run, recent, unaware.probability(), version, payload, cut)
            (directory / "reference.avro").write_bytes(known)
            uri = str(directory)
    verdict = (
        f"log loss {challenger['log_loss']:.4f} against {champion['log_loss']:.4f} on {held.sum():,} held-out rows; "
        f"it had to win by {payload['margin']}"
    )
    return {
        "status": "succeeded",
        "version": version,
        "uri": uri,
        "decision": "promoted" if won else "refused",
        "reason": verdict if proven else f"{disproof(parity)}; {verdict}",
        "margin": payload["margin"],
        "held_out_rows": int(held.sum()),
        "seconds": round(time.monotonic() - began, 2),
        **told,
    }


def proof(payload: Mapping[str, Any]) -> "Parity":
    """The held-out rows' logged features against their definitions, each as of the row it was logged to come from."""
    from features.compiler.repo import load_repo  # Feast takes seconds to import: only where this is called
    from jobs.parity import verify

    end_ms = payload["cutoff_ms"] + 1
    start_ms = end_ms - HELD_OUT_MS
    repo, client = load_repo(Path(payload["repo"])), client_of(payload["clickhouse"])
    return verify(client, payload["kafka"], repo, "latest", start_ms, end_ms, payload["model"]).parity


def disproof(parity: "Parity") -> str:
    """What does not agree, in words."""
    wrong = {name: each.mismatches for name, each in parity.by_feature.items() if each.mismatches}
    worst = sorted(wrong, key=lambda name: -wrong[name])[:3]
    return (
        f"{parity.mismatches:,} of {parity.compared:,} logged feature values are not what their definitions say, most "
        f"of {', '.join(worst)}: `headwater verify --mode latest` shows them"
    )


def span_of(run: Run) -> list[int]:
    """First and last request time, UTC epoch milliseconds."""
    return [int(run.frame["time_ms"].iloc[0]), int(run.frame["time_ms"].iloc[-1])]


class OutOfFold:
    """Probabilities by models that have not seen the row's day; fitting begins at once.

    Parameters
    ----------
    begin : callable
        See :func:`side_by_side`.
    matrix : array, shape (n, columns)
    label, time_ms : array, shape (n,)
    """

    def __init__(
        self,
        begin: Begin,
        matrix: npt.NDArray[np.float32],
        label: npt.NDArray[np.int64],
        time_ms: npt.NDArray[np.int64],
    ) -> None:
        self._matrix = matrix
        self._folds = [time_ms // DAY_MS % FOLDS == fold for fold in range(FOLDS)]
        self._models = [begin(fit, matrix[~mine], label[~mine]) for mine in self._folds]

    def probability(self) -> Floats:
        """Once the models are fitted, shape (n,)."""
        found = np.zeros(len(self._matrix))
        for mine, model in zip(self._folds, self._models, strict=True):
            found[mine] = model.result().predict_proba(self._matrix[mine])[:, 1]
        return found


def fit_on_history(clickhouse: str, inputs: Inputs, until_ms: int) -> Callable[[pd.DataFrame], Floats] | None:
    """A model fitted to everything known at an event time, as its probability of a frame of logged columns.

    Parameters
    ----------
    clickhouse : str
        ``http://host:port``.
    inputs : Inputs
    until_ms : int
        UTC epoch milliseconds.

    Returns
    -------
    callable or None
        None where there are fewer than 1,000 labelled requests, or all have one outcome.
    """
    run = load({"clickhouse": clickhouse, "cutoff_ms": until_ms, "quarantine": ()}, inputs)
    if len(run.frame) < ROWS_MIN or run.label.min() == run.label.max():
        return None
    card = {"columns": list(inputs.columns), "categories": categories(run)}
    fitted = fit(model_matrix(run.frame, card), run.label)
    return lambda frame: fitted.predict_proba(model_matrix(frame, card))[:, 1]


def segmentation(rows: pd.DataFrame, inputs: Inputs) -> Segmentation:
    """How the version's traffic will be cut: by what is frequent enough to be judged every week."""
    weeks = max((rows["time_ms"].iloc[-1] - rows["time_ms"].iloc[0]) / (7 * DAY_MS), 1.0)
    return planned(inputs).restricted(rows, MonitorSettings.segment_rows_min * weeks)


def reference(
    run: Run,
    recent: npt.NDArray[np.bool_],
    probability: Floats,
    version: str,
    payload: Mapping[str, Any],
    cut: Segmentation,
) -> bytes:
    """What the monitors hold later traffic against: the recent rows, and what models unaware of them say of them."""
    rows, label = run.frame[recent], run.label[recent]
    time_ms = rows["time_ms"].to_numpy(np.int64)
    specs = column_specs(run.inputs)
    values = {name: rows[name].to_numpy() for name in run.inputs.columns} | {SCORE: probability}
    kinds = {name: spec.kind for name, spec in specs.items()}
    label_ms = rows["label_ms"].to_numpy(np.int64)
    features = sketch_batch(values, kinds, time_ms, TILE_MS)
    losses = sketch_losses(probability, label, label_ms)
    span = None
    if cut:
        codes = cut.codes(rows)
        span = SegmentedSpan(
            cut,
            sketch_segments(cut, codes, values, kinds, time_ms, TILE_MS),
            sketch_segment_losses(cut, codes, probability, label, label_ms),
        )
    return build_reference(payload["model"], version, specs, features, losses, SEED, segmented=span).to_bytes()


def write_model(
    directory: Path, model: HistGradientBoostingClassifier, matrix: npt.NDArray[np.float32], facts: Mapping[str, Any]
) -> None:
    """Write the model as ONNX, once it is known to say the same, and its card.

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
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(converted)
    (directory / "model.json").write_text(json.dumps(facts))


class Registry:
    """MLflow's record of one training run: one run and at most one model version an incident, however often begun.

    Parameters
    ----------
    payload : mapping
    run : Run
    """

    def __init__(self, payload: Mapping[str, Any], run: Run) -> None:
        import mlflow

        mlflow.set_tracking_uri(payload["mlflow_uri"])
        self._client, self._payload = mlflow.MlflowClient(), payload
        digest = hashlib.sha256(pd.util.hash_pandas_object(run.frame[["request_id", "late"]]).to_numpy().tobytes())
        tags = {"epoch": str(payload["epoch"]), "data": digest.hexdigest()[:16]}
        self._run_id = run_of(self._client, payload["model"], payload["incident_id"], tags)
        self._parameters = {**PARAMETERS, "rows": len(run.frame), "cutoff_ms": payload["cutoff_ms"]}

    @property
    def run_name(self) -> str:
        """The run, briefly."""
        return f"run-{self._run_id[:8]}"

    def log(self, figures: Mapping[str, float]) -> None:
        """Parameters and figures of the run, which ends with them."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, 0) for key, value in figures.items()]
        params = [Param(key, str(value)) for key, value in self._parameters.items()]
        self._client.log_batch(self._run_id, metrics, params)
        self._client.set_terminated(self._run_id)

    def register(self) -> str:
        """The model version of this run."""
        name = self._payload["model"]
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        for each in self._client.search_model_versions(f"run_id = '{self._run_id}'"):
            return str(each.version)
        source = f"{self._payload['models_dir']}/{name}"
        return str(self._client.create_model_version(name, source, self._run_id).version)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 once the result is there, whatever the decision."""
    parser = argparse.ArgumentParser(prog="jobs.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="directory with payload.json; result.json is left there")
    parser.add_argument("--payload", help="JSON; the result is left in MLflow. Default: what the environment says")
    args = parser.parse_args(argv)
    if args.run is None:
        payload = given_payload(args.payload)
        leave_result(payload, train(payload))
        return 0
    draft = args.run / ".result.json"
    draft.write_text(json.dumps(train(json.loads((args.run / "payload.json").read_text()))))
    draft.replace(args.run / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
