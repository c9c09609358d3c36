"""Airflow 3: a run of a DAG, named after the incident.

Its DAG hands ``dag_run.conf["payload"]`` as JSON to ``python -m jobs.training --payload``. Airflow answers 409 for a
name that is taken, and also where another run has the same logical date
(https://github.com/apache/airflow/issues/59342); so runs have none, and after a 409 the run is looked at.
"""

import os
from typing import Any

import requests

from jobs.retraining.backends.base import RefusedError, RunState, UnreachableError, payload_hash
from jobs.retraining.backends.remote import RemoteRun, Request, Settings
from jobs.retraining.backends.rest import TIMEOUT_S, Rest

__all__ = ["Airflow", "AirflowSettings"]

STATES: dict[str, RunState] = {"queued": "running", "running": "running", "success": "succeeded", "failed": "failed"}
USER, PASSWORD = "HEADWATER_AIRFLOW_USER", "HEADWATER_AIRFLOW_PASSWORD"
CANCELLED = "cancelled by Headwater"


class AirflowSettings(Settings):
    """Of ``backend: airflow``.

    Attributes
    ----------
    url : str
        ``http://host:port``.
    dag : str
        Id of the DAG that trains.
    """

    url: str
    dag: str


class Airflow:
    """A DAG of an Airflow.

    Parameters
    ----------
    settings : AirflowSettings
    session : requests.Session, optional
        Default: one that logs in as ``HEADWATER_AIRFLOW_USER`` with ``HEADWATER_AIRFLOW_PASSWORD``.
    """

    name = "airflow"
    hidden_s = 0.0

    def __init__(self, settings: AirflowSettings, session: "requests.Session | None" = None) -> None:
        self._dag = f"/api/v2/dags/{settings.dag}"
        self._rest = Rest(self.name, settings.url, session or LoggedIn(settings.url))

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        conf = {"incident_id": request.incident_id, "payload": dict(request.payload)}
        body = {"dag_run_id": request.incident_id, "logical_date": None, "conf": conf}
        if self._rest.call("POST", f"{self._dag}/dagRuns", body) is None:
            raise RefusedError(f"airflow has no {self._dag}: deploy the DAG, or mend `dag` in the backend's file")

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        found = self.run(incident_id)
        return [found] if found else []

    def run(self, name: str) -> RemoteRun | None:
        """See :meth:`Platform.run`; a run's name is its incident's id."""
        found = self._rest.call("GET", f"{self._dag}/dagRuns/{name}")
        if found is None:
            return None
        payload = (found.get("conf") or {}).get("payload") or {}
        is_cancelled = found["state"] == "failed" and found.get("note") == CANCELLED
        state: RunState = "cancelled" if is_cancelled else STATES.get(found["state"], "running")
        detail = f"the DAG's run is {found['state']}" if state == "failed" else ""
        return RemoteRun(name, name, payload_hash(payload), state, found.get("queued_at") or "", detail)

    def end(self, name: str) -> None:
        """See :meth:`Platform.end`."""
        self._rest.call("PATCH", f"{self._dag}/dagRuns/{name}", {"state": "failed", "note": CANCELLED})

    def log(self, name: str) -> str:
        """See :meth:`Platform.log`: of every task's newest try."""
        found = self._rest.call("GET", f"{self._dag}/dagRuns/{name}/taskInstances") or {}
        parts = []
        for task in found.get("task_instances", []):
            if task["try_number"]:
                where = f"{self._dag}/dagRuns/{name}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
                parts.append(f"{task['task_id']}:\n{_text(self._rest.call('GET', where))}")
        return "\n".join(parts)


def _text(log: Any) -> str:
    lines = log.get("content", []) if isinstance(log, dict) else [log]
    return "\n".join(_line(each) if isinstance(each, dict) else str(each) for each in lines)


def _line(entry: dict[str, Any]) -> str:
    why = [f"{each.get('exc_type')}: {each.get('exc_value')}" for each in entry.get("error_detail") or []]
    return "\n".join([str(entry.get("event", entry)), *why])


class LoggedIn(requests.Session):
    """Brings the token that Airflow gives to a user, and gets another when it is refused.

    Parameters
    ----------
    url : str
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._login = f"{url.rstrip('/')}/auth/token"

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """See :meth:`requests.Session.request`."""
        if "Authorization" not in self.headers:
            self._log_in()
        answer = super().request(method, url, **options)
        if answer.status_code == 401:  # the token is of yesterday
            self._log_in()
            answer = super().request(method, url, **options)
        return answer

    def _log_in(self) -> None:
        if PASSWORD not in os.environ:
            raise RefusedError(f"expected the user and the password for Airflow in {USER} and {PASSWORD}, got none")
        who = {"username": os.environ.get(USER, "admin"), "password": os.environ[PASSWORD]}
        answer = requests.post(self._login, json=who, timeout=TIMEOUT_S)
        if answer.status_code >= 500:
            raise UnreachableError(f"airflow answers {self._login} with {answer.status_code}")
        if not answer.ok:
            raise RefusedError(f"airflow refuses {who['username']} at {self._login}, {answer.status_code}")
        self.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
