"""The backend that a person has named in a file.

::

    backend: airflow          # one of BACKENDS; each has settings of its own, see its module
    url: http://airflow:8080
    dag: retrain
    given:                    # where a run finds things, if that is elsewhere from over there
      clickhouse: http://clickhouse:8123
      kafka: kafka:9092
      mlflow_uri: http://mlflow:5000
      models_dir: /models     # a volume that trainer and scoring share, at the same path
      repo: /app/features

Without a file training runs as processes of the retrainer's machine: see :mod:`jobs.retraining.backends.local`.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from jobs.retraining.backends.base import PLACES, BackendError
from jobs.retraining.backends.remote import RemoteBackend

__all__ = ["BACKENDS", "EXTRAS", "load_backend"]

BACKENDS = {
    "airflow": "airflow:Airflow:AirflowSettings",
    "databricks": "databricks:Databricks:DatabricksSettings",
    "kubeflow": "kubeflow:Kubeflow:KubeflowSettings",
    "kubernetes": "kubernetes_jobs:KubernetesJobs:KubernetesSettings",
    "sagemaker-pipeline": "aws:SageMakerPipeline:PipelineSettings",
    "sagemaker-training": "aws:SageMakerTraining:TrainingSettings",
    "step-functions": "aws:StepFunctions:StepFunctionsSettings",
    "vertex-custom-job": "vertex:VertexCustomJobs:CustomJobSettings",
    "vertex-pipeline-job": "vertex:VertexPipelineJobs:PipelineJobSettings",
}
EXTRAS = {"aws": "aws", "databricks": "databricks", "kubernetes_jobs": "kubernetes", "vertex": "vertex"}
"""By module: the extra that brings its client."""


def load_backend(path: str | Path, result_of: Callable[[str], Mapping[str, Any] | None]) -> RemoteBackend:
    """The backend in a YAML file; relative paths in it are from where it is.

    Parameters
    ----------
    path : path
    result_of : callable
        See :class:`jobs.retraining.backends.remote.RemoteBackend`.

    Raises
    ------
    BackendError
        Where the file cannot be read, a field is unknown or missing, a value is not what it has to be, or the client
        is not installed.
    """
    path = Path(path)
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as exc:
        raise BackendError(f"{path}: expected a backend in YAML, got {exc}") from exc
    name = found.pop("backend", None) if isinstance(found, dict) else None
    if name not in BACKENDS:
        raise BackendError(f"{path}: backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    there = found.pop("given", {})
    if not isinstance(there, dict) or not set(there) <= PLACES:
        raise BackendError(f"{path}: given: expected some of {', '.join(sorted(PLACES))} with values, got {there!r}")
    module_name, platform, settings = BACKENDS[name].split(":")
    module = import_module(f"jobs.retraining.backends.{module_name}")
    for key in ("manifest", "template"):
        if isinstance(found.get(key), str):
            found[key] = path.parent / found[key]
    try:
        given = getattr(module, settings)(**found)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BackendError(f"{path}: {where}: {first['msg']}, got {first['input']!r}") from None
    try:
        return RemoteBackend(getattr(module, platform)(given), result_of, there)
    except ModuleNotFoundError as exc:
        extra = EXTRAS.get(module_name)
        raise BackendError(f"{name} needs {exc.name}: install headwater[{extra}]") from exc
