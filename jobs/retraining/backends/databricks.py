"""Databricks: a run of a job, told apart by the token that Databricks takes a request's repetition by.

Its job has the parameters ``headwater_incident`` and ``headwater_payload``. Credentials come as its SDK finds them.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.retraining.backends.base import RefusedError, RunState, UnreachableError
from jobs.retraining.backends.remote import RemoteRun, Request, Settings, hash_of

__all__ = ["Databricks", "DatabricksSettings"]

INCIDENT, PAYLOAD = "headwater_incident", "headwater_payload"
PARAMETER_BYTES = 10_000


class DatabricksSettings(Settings):
    """Of ``backend: databricks``.

    Attributes
    ----------
    job_id : int
    host : str, optional
        Of the workspace; default: as the SDK finds it.
    """

    job_id: int
    host: str | None = None


class Databricks:
    """A job of a workspace.

    Parameters
    ----------
    settings : DatabricksSettings
    client : databricks.sdk.WorkspaceClient, optional
    """

    name = "databricks"
    hidden_s = 0.0

    def __init__(self, settings: DatabricksSettings, client: Any = None) -> None:
        from databricks.sdk import WorkspaceClient

        self._job_id = settings.job_id
        with _translated():
            self._jobs = (client or WorkspaceClient(host=settings.host)).jobs

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        given = {INCIDENT: request.incident_id, PAYLOAD: request.payload_text}
        if (size := len(json.dumps(given))) > PARAMETER_BYTES:
            raise RefusedError(f"databricks takes {PARAMETER_BYTES} bytes of job parameters, the payload makes {size}")
        token = hashlib.sha256(request.incident_id.encode()).hexdigest()  # 64 characters, as many as it takes
        with _translated():
            self._jobs.run_now(self._job_id, idempotency_token=token, job_parameters=given)

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        with _translated():
            runs = [_run(each) for each in self._jobs.list_runs(job_id=self._job_id)]
        return [each for each in runs if each.incident_id == incident_id]

    def run(self, name: str) -> RemoteRun | None:
        """See :meth:`Platform.run`."""
        from databricks.sdk.errors import NotFound, ResourceDoesNotExist

        try:
            with _translated():
                return _run(self._jobs.get_run(int(name)))
        except RefusedError as exc:
            if isinstance(exc.__cause__, NotFound | ResourceDoesNotExist):
                return None
            raise

    def end(self, name: str) -> None:
        """See :meth:`Platform.end`."""
        with _translated():
            self._jobs.cancel_run(int(name))

    def log(self, name: str) -> str:
        """See :meth:`Platform.log`: of every task."""
        parts = []
        with _translated():
            for task in self._jobs.get_run(int(name)).tasks or []:
                if task.run_id is None:
                    continue
                told = self._jobs.get_run_output(int(task.run_id))
                parts.append(f"{task.task_key}:\n{told.logs or ''}{told.error or ''}")
        return "\n".join(parts)


def _run(found: Any) -> RemoteRun:
    given = {each.name: each.value for each in found.job_parameters or []}
    state, detail = found.state, ""
    ended = state.result_state.value if state and state.result_state else ""
    now: RunState = "running"
    if ended:
        now = {"SUCCESS": "succeeded", "CANCELED": "cancelled"}.get(ended, "failed")  # type: ignore[assignment]
    elif state and state.life_cycle_state and state.life_cycle_state.value in ("SKIPPED", "INTERNAL_ERROR"):
        now = "failed"
    if now == "failed":
        detail = state.state_message or ended
    known = hash_of(given.get(PAYLOAD))
    began = f"{found.start_time or 0:020}"
    return RemoteRun(str(found.run_id), given.get(INCIDENT) or "", known, now, began, detail)


@contextmanager
def _translated() -> Iterator[None]:
    from databricks.sdk.errors import DeadlineExceeded, InternalError, TemporarilyUnavailable
    from databricks.sdk.errors import TooManyRequests as Busy
    from databricks.sdk.errors.base import DatabricksError
    from requests import RequestException

    try:
        yield
    except (InternalError, TemporarilyUnavailable, DeadlineExceeded, Busy) as exc:
        raise UnreachableError(f"databricks: {exc}") from exc
    except DatabricksError as exc:
        raise RefusedError(f"databricks: {exc}") from exc
    except (RequestException, TimeoutError, OSError) as exc:
        raise UnreachableError(f"databricks does not answer: {exc}") from exc
    except ValueError as exc:  # of its credentials
        raise RefusedError(f"databricks: {exc}") from exc
