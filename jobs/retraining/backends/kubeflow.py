"""Kubeflow Pipelines, by its REST API (v2beta1): a run of a pipeline, found by its name.

Names of runs are not unique there. Its SDK needs a protobuf that PyFlink cannot live with, hence plain HTTP.
"""

import json
import os
from typing import Any

import requests

from jobs.retraining.backends.base import RefusedError, RunState
from jobs.retraining.backends.remote import RemoteRun, Request, Settings, hash_of
from jobs.retraining.backends.rest import Rest

__all__ = ["Kubeflow", "KubeflowSettings"]

TOKEN = "HEADWATER_KUBEFLOW_TOKEN"
STATES: dict[str, RunState] = {
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELING": "cancelled",
    "CANCELED": "cancelled",
}


class KubeflowSettings(Settings):
    """Of ``backend: kubeflow``.

    Attributes
    ----------
    url : str
        Of the API server.
    pipeline_id, pipeline_version_id : str
        With the text parameters ``incident`` and ``payload``.
    experiment_id : str, optional
    """

    url: str
    pipeline_id: str
    pipeline_version_id: str
    experiment_id: str | None = None


class Kubeflow:
    """A pipeline.

    Parameters
    ----------
    settings : KubeflowSettings
    session : requests.Session, optional
        Default: one with the bearer token in ``HEADWATER_KUBEFLOW_TOKEN``, if there is one.
    """

    name = "kubeflow"
    hidden_s = 60.0  # an answer is waited for 30 s, and a run is listed as soon as it is stored

    def __init__(self, settings: KubeflowSettings, session: "requests.Session | None" = None) -> None:
        self._settings = settings
        if session is None:
            session = requests.Session()
            if TOKEN in os.environ:
                session.headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
        self._rest = Rest(self.name, f"{settings.url.rstrip('/')}/apis/v2beta1", session)

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        settings = self._settings
        pipeline = {"pipeline_id": settings.pipeline_id, "pipeline_version_id": settings.pipeline_version_id}
        body = {
            "display_name": request.incident_id,
            "pipeline_version_reference": pipeline,
            "runtime_config": {"parameters": {"incident": request.incident_id, "payload": request.payload_text}},
            **({"experiment_id": settings.experiment_id} if settings.experiment_id else {}),
        }
        if self._rest.call("POST", "/runs", body) is None:
            raise RefusedError(f"kubeflow has no pipeline {settings.pipeline_id}, or not this version of it")

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        wanted = {"key": "display_name", "operation": "EQUALS", "string_value": incident_id}
        found, query = list[RemoteRun](), {"filter": json.dumps({"predicates": [wanted]}), "page_size": "100"}
        while True:
            told = self._rest.call("GET", "/runs", query=query) or {}
            found += [_run(each) for each in told.get("runs", []) if each["display_name"] == incident_id]
            if not told.get("next_page_token"):
                return found
            query["page_token"] = told["next_page_token"]

    def run(self, name: str) -> RemoteRun | None:
        """See :meth:`Platform.run`."""
        found = self._rest.call("GET", f"/runs/{name}")
        return _run(found) if found else None

    def end(self, name: str) -> None:
        """See :meth:`Platform.end`."""
        self._rest.call("POST", f"/runs/{name}:terminate")

    def log(self, name: str) -> str:
        """See :meth:`Platform.log`: the run's tasks; their pods' logs are the cluster's."""
        found = self._rest.call("GET", f"/runs/{name}") or {}
        tasks = (found.get("run_details") or {}).get("task_details") or []
        return "\n".join(f"{each.get('display_name')} {each.get('state')}" for each in tasks)


def _run(found: dict[str, Any]) -> RemoteRun:
    given = (found.get("runtime_config") or {}).get("parameters") or {}
    known = hash_of(given.get("payload"))
    state = STATES.get(found.get("state", ""), "running")
    detail = str((found.get("error") or {}).get("message", "")) if state == "failed" else ""
    return RemoteRun(found["run_id"], found["display_name"], known, state, found.get("created_at", ""), detail)
