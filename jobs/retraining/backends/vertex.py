"""Vertex AI by its REST API: custom jobs, found by a label, and pipeline jobs, named after the incident.

Credentials come as google-auth finds them.
"""

import json
from pathlib import Path
from typing import Any

import requests

from jobs.retraining.backends.base import BackendError, RefusedError, RunState
from jobs.retraining.backends.handover import PAYLOAD
from jobs.retraining.backends.remote import RemoteRun, Request, Settings, hash_of, read_template, slug
from jobs.retraining.backends.rest import Rest

__all__ = ["CustomJobSettings", "PipelineJobSettings", "VertexCustomJobs", "VertexPipelineJobs"]

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
NAME_ROOM = 63
INCIDENT = "HEADWATER_INCIDENT"
LABEL = "headwater-incident"
STATES: dict[str, RunState] = {
    "SUCCEEDED": "succeeded",
    "PARTIALLY_SUCCEEDED": "failed",
    "FAILED": "failed",
    "EXPIRED": "failed",
    "CANCELLING": "cancelled",
    "CANCELLED": "cancelled",
}


class VertexSettings(Settings):
    """What both need.

    Attributes
    ----------
    project, location : str
        Of Google Cloud; one for all of Headwater's regions.
    template : Path
        JSON of the job; payload, name and labels are put into it.
    endpoint : str, optional
        Another than Google's own.
    """

    project: str
    location: str
    template: Path
    endpoint: str | None = None


class CustomJobSettings(VertexSettings):
    """Of ``backend: vertex-custom-job``: the template is a ``CustomJob``."""


class PipelineJobSettings(VertexSettings):
    """Of ``backend: vertex-pipeline-job``: a ``PipelineJob`` with the text parameters ``incident`` and ``payload``."""


class _Vertex:
    """Jobs of one kind in a project and location.

    Parameters
    ----------
    settings : VertexSettings
    session : requests.Session, optional
        Default: google-auth's.

    Raises
    ------
    BackendError
        Where there are no credentials, or no template.
    """

    name: str
    _kind: str

    def __init__(self, settings: VertexSettings, session: requests.Session | None = None) -> None:
        self._template = read_template(settings.template, "a job")
        host = settings.endpoint or f"https://{settings.location}-aiplatform.googleapis.com"
        self._parent = f"projects/{settings.project}/locations/{settings.location}"
        self._rest = Rest(self.name, f"{host}/v1", session or _signed_in())

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        found, query = list[RemoteRun](), {"filter": f'labels.{LABEL}="{slug(incident_id, NAME_ROOM)}"'}
        while True:
            told = self._rest.call("GET", f"/{self._parent}/{self._kind}", query=query) or {}
            found += [self._run(each) for each in told.get(self._kind, [])]
            if not told.get("nextPageToken"):
                return found
            query["pageToken"] = told["nextPageToken"]

    def run(self, name: str) -> RemoteRun | None:
        """See :meth:`Platform.run`; a run's name is the resource's."""
        found = self._rest.call("GET", f"/{name}")
        return self._run(found) if found else None

    def end(self, name: str) -> None:
        """See :meth:`Platform.end`."""
        self._rest.call("POST", f"/{name}:cancel")

    def log(self, name: str) -> str:
        """See :meth:`Platform.log`: what the job says of itself; its output is in Cloud Logging."""
        found = self._rest.call("GET", f"/{name}") or {}
        told = {key: found.get(key) for key in ("state", "error", "startTime", "endTime")}
        return f"{json.dumps(told)}\nIts output: Cloud Logging, resource.labels.job_id={name.rpartition('/')[2]}"

    def _create(self, job: dict[str, Any], **query: str) -> None:
        if self._rest.call("POST", f"/{self._parent}/{self._kind}", job, query) is None:
            raise RefusedError(f"{self.name} has no {self._parent}")

    def _labels(self, request: Request) -> dict[str, str]:
        return {**self._template.get("labels", {}), LABEL: slug(request.incident_id, NAME_ROOM)}

    def _run(self, found: dict[str, Any]) -> RemoteRun:
        incident, payload = self._given(found)
        state = STATES.get(found["state"].removeprefix("JOB_STATE_").removeprefix("PIPELINE_STATE_"), "running")
        detail = str((found.get("error") or {}).get("message", ""))
        return RemoteRun(found["name"], incident, hash_of(payload), state, found.get("createTime", ""), detail)

    def _given(self, found: dict[str, Any]) -> tuple[str, str]:
        """The incident and the payload of a job."""
        raise NotImplementedError


class VertexCustomJobs(_Vertex):
    """Custom jobs."""

    name = "vertex-custom-job"
    hidden_s = 120.0  # an answer is waited for 30 s; how soon a job is listed, Google does not say
    _kind = "customJobs"

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        job = json.loads(json.dumps(self._template))
        job |= {"displayName": slug(request.incident_id, NAME_ROOM), "labels": self._labels(request)}
        container = job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
        given = {PAYLOAD: request.payload_text, INCIDENT: request.incident_id}
        container["env"] = container.get("env", []) + [{"name": key, "value": value} for key, value in given.items()]
        self._create(job)

    def _given(self, found: dict[str, Any]) -> tuple[str, str]:
        env = found["jobSpec"]["workerPoolSpecs"][0]["containerSpec"].get("env", [])
        given = {each["name"]: each["value"] for each in env}
        return given.get(INCIDENT, ""), given.get(PAYLOAD, "{}")


class VertexPipelineJobs(_Vertex):
    """Pipeline jobs."""

    name = "vertex-pipeline-job"
    hidden_s = 0.0
    _kind = "pipelineJobs"

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        job = json.loads(json.dumps(self._template))
        given = {"incident": request.incident_id, "payload": request.payload_text}
        runtime = job.setdefault("runtimeConfig", {})
        runtime["parameterValues"] = {**runtime.get("parameterValues", {}), **given}
        job["labels"] = self._labels(request)
        self._create(job, pipelineJobId=slug(request.incident_id, NAME_ROOM))

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        found = self.run(f"{self._parent}/{self._kind}/{slug(incident_id, NAME_ROOM)}")
        return [found] if found else []

    def _given(self, found: dict[str, Any]) -> tuple[str, str]:
        given = found.get("runtimeConfig", {}).get("parameterValues", {})
        return given.get("incident", ""), given.get("payload", "{}")


def _signed_in() -> requests.Session:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError
    from google.auth.transport.requests import AuthorizedSession

    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except DefaultCredentialsError as exc:
        raise BackendError(f"expected Google's application default credentials, got none: {exc}") from exc
    session: requests.Session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    return session
