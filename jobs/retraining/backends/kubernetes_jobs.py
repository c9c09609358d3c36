"""Kubernetes: a Job, named after the incident.

The Job is the user's own manifest; ours are its name, its labels and annotations, and a variable with the payload in
its first container. The API server refuses a name that is there, so a Job must outlive its run by long enough for the
result to be read: a manifest that deletes it sooner is refused.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from jobs.retraining.backends.base import BackendError, RefusedError, RunState, UnreachableError
from jobs.retraining.backends.handover import PAYLOAD
from jobs.retraining.backends.remote import LOG_LINES, MissingError, RemoteRun, Request, Settings, TakenError, slug

__all__ = ["KubernetesJobs", "KubernetesSettings"]

NAME_ROOM = 63
KEPT_S = 86_400
TIMEOUT_S = 30.0
MERGE = {"_content_type": "application/merge-patch+json"}
LABEL, HASH, CANCELLED = "headwater.dev/incident", "headwater.dev/payload-hash", "headwater.dev/cancelled"


class KubernetesSettings(Settings):
    """Of ``backend: kubernetes``.

    Attributes
    ----------
    manifest : Path
        A Job in YAML.
    namespace : str
    context : str, optional
        Of the kubeconfig; default: its current one, or that of the cluster this runs in.
    """

    manifest: Path
    namespace: str = "default"
    context: str | None = None


class KubernetesJobs:
    """Jobs of a namespace.

    Parameters
    ----------
    settings : KubernetesSettings
    client : kubernetes.client.ApiClient, optional
        Default: as kubeconfig or the cluster says.

    Raises
    ------
    BackendError
        Where the manifest cannot be used.
    """

    name = "kubernetes"
    hidden_s = 0.0

    def __init__(self, settings: KubernetesSettings, client: Any = None) -> None:
        from kubernetes import client as api
        from kubernetes import config

        self._manifest, self._namespace = read_manifest(settings.manifest), settings.namespace
        if client is None:
            try:
                config.load_config(context=settings.context)  # type: ignore[no-untyped-call]
            except config.ConfigException as exc:
                raise BackendError(f"expected a kubeconfig, or to run in a cluster, got {exc}") from exc
        self._jobs: Any = api.BatchV1Api(client)
        self._pods: Any = api.CoreV1Api(client)

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        with _translated():
            self._jobs.create_namespaced_job(self._namespace, self._job(request), _request_timeout=TIMEOUT_S)

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        found = self.run(slug(incident_id, NAME_ROOM))
        return [found] if found else []

    def run(self, name: str) -> RemoteRun | None:
        """See :meth:`Platform.run`."""
        try:
            with _translated():
                job = self._jobs.read_namespaced_job(name, self._namespace, _request_timeout=TIMEOUT_S)
        except MissingError:
            return None
        told, status = job.metadata.annotations or {}, job.status
        states: dict[str, RunState] = {"Complete": "succeeded", "Failed": "failed"}
        over = [each for each in (status and status.conditions) or [] if each.type in states and each.status == "True"]
        state: RunState = states[over[0].type] if over else "running"
        detail = (over[0].message or over[0].reason or "") if over and state == "failed" else ""
        if CANCELLED in told and state != "succeeded":
            state, detail = "cancelled", "cancelled"
        began, tries = str(job.metadata.creation_timestamp or ""), 1 + ((status and status.failed) or 0)
        return RemoteRun(name, told.get(LABEL, ""), told.get(HASH, ""), state, began, detail, tries)

    def end(self, name: str) -> None:
        """See :meth:`Platform.end`: its pods are ended, while the Job stays, to keep its name."""
        body = {"metadata": {"annotations": {CANCELLED: "true"}}, "spec": {"suspend": True}}
        with _translated():
            self._jobs.patch_namespaced_job(name, self._namespace, body, _request_timeout=TIMEOUT_S, **MERGE)

    def log(self, name: str) -> str:
        """See :meth:`Platform.log`: of every pod."""
        parts = []
        with _translated():
            pods = self._pods.list_namespaced_pod(self._namespace, label_selector=f"job-name={name}")
            for pod in pods.items:
                text = self._pods.read_namespaced_pod_log(pod.metadata.name, self._namespace, tail_lines=LOG_LINES)
                parts.append(f"{pod.metadata.name}:\n{text}")
        return "\n".join(parts)

    def _job(self, request: Request) -> dict[str, Any]:
        job = copy.deepcopy(self._manifest)
        about = job.setdefault("metadata", {})
        about["name"] = slug(request.incident_id, NAME_ROOM)
        told = {LABEL: request.incident_id, HASH: request.payload_hash}
        about["annotations"] = {**about.get("annotations", {}), **told}
        about["labels"] = {**about.get("labels", {}), "app.kubernetes.io/managed-by": "headwater"}
        container = job["spec"]["template"]["spec"]["containers"][0]
        given = {"name": PAYLOAD, "value": request.payload_text}
        container["env"] = [*container.get("env", []), given]
        return job


def read_manifest(path: Path) -> dict[str, Any]:
    """A Job in YAML that can carry an incident's run.

    Raises
    ------
    BackendError
        Naming the field, what was expected and what came.
    """
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as exc:
        raise BackendError(f"{path}: expected a Job in YAML, got {exc}") from exc
    kind = found.get("kind") if isinstance(found, Mapping) else found
    if kind != "Job":
        raise BackendError(f"{path}: kind: expected Job, got {kind!r}")
    spec = found.get("spec") or {}
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers")
    if not containers:
        raise BackendError(f"{path}: spec.template.spec.containers: expected one that trains, got {containers!r}")
    kept_s = spec.get("ttlSecondsAfterFinished", KEPT_S)
    if kept_s < KEPT_S:
        wanted = f"{KEPT_S} or more: once the Job is deleted, nothing keeps its incident from being trained again"
        raise BackendError(f"{path}: spec.ttlSecondsAfterFinished: expected {wanted}, got {kept_s}")
    return dict(found)


@contextmanager
def _translated() -> Iterator[None]:
    """Kubernetes's errors as ours."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as exc:
        said = f"kubernetes: {exc.status} {exc.reason}: {(exc.body or '')[:500]}"
        if exc.status == 404:
            raise MissingError(said) from exc
        if exc.status == 409:
            raise TakenError(said) from exc
        if not exc.status or exc.status >= 500 or exc.status == 429:
            raise UnreachableError(said) from exc
        raise RefusedError(said) from exc
    except HTTPError as exc:
        raise UnreachableError(f"kubernetes does not answer: {exc}") from exc
