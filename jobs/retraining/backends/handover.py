"""What a run on another machine is given, and what it leaves: its payload comes with its start, its result with MLflow.

The payload is JSON of a few kilobytes. It comes as ``--payload``, or in the environment; SageMaker, which bounds both,
hands it over in pieces as hyperparameters.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.retraining.backends.base import BackendError, UnreachableError

__all__ = ["PAYLOAD", "Results", "given_payload", "leave_result", "pieces", "run_of"]

PAYLOAD = "HEADWATER_PAYLOAD"
PIECE = "headwater-payload-part-"
PIECE_SIZE = 2400  # SageMaker's bound is 2,500 characters
HYPERPARAMETERS = Path("/opt/ml/input/config/hyperparameters.json")
RESULT_TAG, INCIDENT_TAG = "headwater.result", "incident_id"


def pieces(payload: str) -> dict[str, str]:
    """The payload as hyperparameters."""
    parts = [payload[at : at + PIECE_SIZE] for at in range(0, len(payload), PIECE_SIZE)]
    return {f"{PIECE}{number:02}": part for number, part in enumerate(parts)}


def given_payload(
    said: str | None = None, environ: Mapping[str, str] = os.environ, hyperparameters: Path = HYPERPARAMETERS
) -> dict[str, Any]:
    """The payload that this run was started with.

    Parameters
    ----------
    said : str, optional
        JSON from the command line.
    environ : mapping
    hyperparameters : Path
        Where SageMaker keeps them.

    Raises
    ------
    BackendError
        Where there is none, or it is not an object in JSON.
    """
    text = said or environ.get(PAYLOAD, "")
    if not text and hyperparameters.exists():
        there = json.loads(hyperparameters.read_text())
        text = "".join(part for name, part in sorted(there.items()) if name.startswith(PIECE))
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise BackendError(f"expected a payload in JSON as --payload or in {PAYLOAD}, got {text[:80]!r}") from exc
    if not isinstance(found, dict):
        raise BackendError(f"expected the payload to be an object, got {text[:80]!r}")
    return found


def run_of(client: Any, model: str, incident_id: str, tags: Mapping[str, str]) -> str:
    """The id of the incident's run in MLflow, in the model's experiment; it is begun where there is none.

    Parameters
    ----------
    client : MlflowClient
    model, incident_id : str
    tags : mapping of str to str
        More than the incident's, for a run that begins.
    """
    experiment = client.get_experiment_by_name(model)
    where = experiment.experiment_id if experiment else client.create_experiment(model)
    begun = client.search_runs([where], f"tags.{INCIDENT_TAG} = '{incident_id}'")
    return str((begun[0] if begun else client.create_run(where, tags={INCIDENT_TAG: incident_id, **tags})).info.run_id)


def leave_result(payload: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Leave the result where :class:`Results` finds it."""
    client = _client(payload["mlflow_uri"])
    run_id = run_of(client, payload["model"], payload["incident_id"], {"epoch": str(payload["epoch"])})
    client.set_tag(run_id, RESULT_TAG, json.dumps(result))


class Results:
    """What runs have left in MLflow.

    Parameters
    ----------
    mlflow_uri : str
    """

    def __init__(self, mlflow_uri: str) -> None:
        self._uri = mlflow_uri
        self._mlflow: Any = None

    def __call__(self, incident_id: str) -> dict[str, Any] | None:
        """The result of an incident's run.

        Raises
        ------
        UnreachableError
            Where MLflow does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            if self._mlflow is None:
                self._mlflow = _client(self._uri)
            experiments = [each.experiment_id for each in self._mlflow.search_experiments()]
            runs = self._mlflow.search_runs(experiments, f"tags.{INCIDENT_TAG} = '{incident_id}'")
        except MlflowException as exc:
            raise UnreachableError(f"expected MLflow at {self._uri} to have the results of runs, got {exc}") from exc
        left = [each.data.tags[RESULT_TAG] for each in runs if RESULT_TAG in each.data.tags]
        return json.loads(left[0]) if left else None


def _client(uri: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
