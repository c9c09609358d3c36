"""A real Airflow, in an environment of its own: its dependencies and ours cannot be had together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from racing import EVENT, INCIDENT, Ready, race

from compose.local.services import free_ports
from jobs.retraining.backends.airflow import PASSWORD, USER, Airflow, AirflowSettings, LoggedIn
from jobs.retraining.backends.base import ConflictError, RefusedError, UnreachableError, payload_hash
from jobs.retraining.backends.remote import RemoteBackend, Request

AIRFLOW = "apache-airflow==3.3.2"
START_S = 240.0
PAYLOAD = Ready().payload(EVENT)
DAG = """
import json, time
from airflow.sdk import dag, task

@task
def train(**context):
    payload = context["dag_run"].conf["payload"]
    print("training", payload["incident_id"], flush=True)
    time.sleep(payload.get("seconds", 0))
    if payload.get("breaks"):
        raise RuntimeError("no space left")

@dag(dag_id="retrain", schedule=None, max_active_runs=8)
def retrain():
    train()

retrain()
"""


def until(condition: Any, seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("airflow")
    python = root / "venv" / "bin" / "python"
    environ = {key: each for key, each in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    for command in (["venv", "-q", "--python", sys.executable, str(root / "venv")],):
        subprocess.run(["uv", *command], check=True, env=environ)
    subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), AIRFLOW], check=True, env=environ)
    (root / "dags").mkdir()
    (root / "dags" / "retrain.py").write_text(DAG)
    ports = free_ports(["api", "log", "trigger"], {}, {})
    where = f"http://127.0.0.1:{ports['api']}"
    environ |= {
        "PATH": f"{python.parent}{os.pathsep}{environ['PATH']}",
        "AIRFLOW_HOME": str(root),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{where}/execution/",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports["api"]),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports["log"]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["trigger"]),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    }
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(python.parent / "airflow"), "standalone"],
            env=environ,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        secrets = root / "simple_auth_manager_passwords.json.generated"
        until(secrets.exists, START_S, "Airflow's password")
        ((user, password),) = json.loads(secrets.read_text()).items()
        os.environ[USER], os.environ[PASSWORD] = user, password
        until(lambda: answers(where, process), START_S, "Airflow's DAG")
        session = LoggedIn(where)
        session.request("PATCH", f"{where}/api/v2/dags/retrain", json={"is_paused": False}).raise_for_status()
        yield where
    finally:
        os.environ.pop(PASSWORD, None)
        os.environ.pop(USER, None)
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def answers(where: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, "Airflow has ended"
    try:
        return LoggedIn(where).request("GET", f"{where}/api/v2/dags/retrain").ok
    except (requests.RequestException, UnreachableError):
        return False


def backend(url: str, dag: str = "retrain") -> RemoteBackend:
    return RemoteBackend(Airflow(AirflowSettings(url=url, dag=dag)), lambda _: {"status": "succeeded"})


def ended(there: RemoteBackend, incident_id: str) -> Any:
    return until(
        lambda: (f := there.find(incident_id)) and f.state != "running" and f, 120, f"the end of {incident_id}"
    )


def test_four_racing_consumers_hold_one_run(url: str) -> None:
    saw = race(lambda: backend(url))
    assert set(saw) == {INCIDENT}
    told = LoggedIn(url).request("GET", f"{url}/api/v2/dags/retrain/dagRuns").json()
    assert [each["dag_run_id"] for each in told["dag_runs"]] == [INCIDENT]


def test_a_run_its_log_and_its_result(url: str) -> None:
    there, payload = backend(url), {**PAYLOAD, "incident_id": "a-run"}
    assert there.find("a-run") is None
    assert there.submit("a-run", payload).payload_hash == payload_hash(payload)
    found = ended(there, "a-run")
    assert (found.state, found.result) == ("succeeded", {"status": "succeeded"})
    assert "training a-run" in there.logs("a-run")


def test_a_run_that_fails_and_one_that_is_cancelled(url: str) -> None:
    there = backend(url)
    there.submit("breaks", {**PAYLOAD, "incident_id": "breaks", "breaks": True})
    there.submit("sleeps", {**PAYLOAD, "incident_id": "sleeps", "seconds": 600})
    assert there.cancel("sleeps").state == "cancelled"
    found = ended(there, "breaks")
    assert (found.state, found.detail) == ("failed", "the DAG's run is failed")
    assert "no space left" in there.logs("breaks")


def test_another_payload_is_a_conflict_and_another_epoch_is_not(url: str) -> None:
    there = backend(url)
    there.submit("again", {**PAYLOAD, "epoch": 1})
    there.submit("again", {**PAYLOAD, "epoch": 2})
    with pytest.raises(ConflictError, match="expected a run with payload"):
        there.submit("again", {**PAYLOAD, "cutoff_ms": 1})


def test_a_conflict_that_is_not_about_the_name_is_seen_through(url: str) -> None:
    """Airflow says 409 too where another run has the logical date."""
    where, when = f"{url}/api/v2/dags/retrain/dagRuns", "2013-07-01T00:00:00Z"
    session = LoggedIn(url)
    session.request("POST", where, json={"dag_run_id": "by-hand", "logical_date": when}).raise_for_status()
    clash = session.request("POST", where, json={"dag_run_id": "other", "logical_date": when})
    assert clash.status_code == 409
    assert backend(url).find("other") is None
    assert backend(url).submit("other", PAYLOAD).submission_id == "other", "ours has none"


def test_what_airflow_refuses_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="airflow has no /api/v2/dags/nothing: deploy the DAG"):
        Airflow(AirflowSettings(url=url, dag="nothing")).begin(Request("i1", PAYLOAD))
    monkeypatch.setenv(PASSWORD, "wrong")
    with pytest.raises(RefusedError, match=r"airflow refuses .* 401"):
        backend(url).find("i1")
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(RefusedError, match=PASSWORD):
        backend(url).find("i1")


def test_no_answer_is_not_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Airflow(AirflowSettings(url="http://127.0.0.1:9", dag="retrain"), requests.Session())
    with pytest.raises(UnreachableError, match="airflow does not answer GET"):
        away.runs("i1")
