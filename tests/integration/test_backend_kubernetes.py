"""Kubernetes Jobs against fabric8's mock of the API, a server of its own, spoken to by the official client.

It keeps what it is given and refuses a name that is there; it runs nothing, so runs are ended here.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as api
from racing import EVENT, INCIDENT, Ready, race

from compose.local.formats import compile_java
from compose.local.jars import jars
from compose.local.java import java_command
from jobs.retraining.backends.base import BackendError, ConflictError, UnreachableError, payload_hash
from jobs.retraining.backends.handover import given_payload
from jobs.retraining.backends.kubernetes_jobs import KubernetesJobs, KubernetesSettings
from jobs.retraining.backends.remote import RemoteBackend

JAVA = Path(__file__).parents[1] / "java"
PAYLOAD = Ready().payload(EVENT)
MANIFEST = """
apiVersion: batch/v1
kind: Job
metadata:
  labels: {team: flights}
spec:
  backoffLimit: 3
  ttlSecondsAfterFinished: 604800
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: train
          image: trainer:1
          command: [python, -m, jobs.training]
          env: [{name: AWS_REGION, value: eu-central-1}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    classes = tmp_path_factory.mktemp("classes")
    libraries = jars("kubernetes-mock")
    compile_java(sorted(JAVA.glob("*.java")), libraries, classes)
    command = java_command("MockKubernetes", [classes, *libraries])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()
        assert process.wait(15) == 0


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    return f"n{abs(hash(request.node.name))}"


@pytest.fixture
def settings(tmp_path: Path, namespace: str) -> KubernetesSettings:
    (tmp_path / "job.yaml").write_text(MANIFEST)
    return KubernetesSettings(manifest=tmp_path / "job.yaml", namespace=namespace)


def client(server: str) -> api.ApiClient:
    return api.ApiClient(api.Configuration(host=server))


@pytest.fixture
def jobs(server: str) -> api.BatchV1Api:
    return api.BatchV1Api(client(server))


@pytest.fixture
def backend(server: str, settings: KubernetesSettings) -> RemoteBackend:
    return RemoteBackend(KubernetesJobs(settings, client(server)), lambda _: {"status": "succeeded", "version": "7"})


def end(jobs: api.BatchV1Api, namespace: str, condition: dict[str, str], **status: int) -> None:
    """What the Job's controller does when its pods have ended."""
    (job,) = jobs.list_namespaced_job(namespace).items
    body = {"status": {**status, "conditions": [{"status": "True", **condition}]}}
    jobs.patch_namespaced_job_status(job.metadata.name, namespace, body, _content_type="application/merge-patch+json")


def test_four_racing_consumers_hold_one_job(
    server: str, settings: KubernetesSettings, jobs: api.BatchV1Api, namespace: str
) -> None:
    saw = race(lambda: RemoteBackend(KubernetesJobs(settings, client(server)), lambda _: None))
    (job,) = jobs.list_namespaced_job(namespace).items
    assert job.metadata.annotations["headwater.dev/incident"] == INCIDENT
    assert set(saw) == {job.metadata.name}


def test_the_job_is_the_manifest_with_the_payload(backend: RemoteBackend, jobs: Any, namespace: str) -> None:
    assert backend.find(INCIDENT) is None
    run = backend.submit(INCIDENT, PAYLOAD)
    assert (run.state, run.payload_hash, run.incident_id) == ("running", payload_hash(PAYLOAD), INCIDENT)
    (job,) = jobs.list_namespaced_job(namespace).items
    assert job.metadata.labels["team"] == "flights"
    (container,) = job.spec.template.spec.containers
    env = {each.name: each.value for each in container.env}
    assert given_payload(None, env) == PAYLOAD
    assert (env["AWS_REGION"], job.spec.backoff_limit) == ("eu-central-1", 3)


def test_a_job_that_completes_has_its_result(backend: RemoteBackend, jobs: Any, namespace: str) -> None:
    backend.submit(INCIDENT, PAYLOAD)
    end(jobs, namespace, {"type": "Complete"}, succeeded=1)
    found = backend.find(INCIDENT)
    assert found is not None
    assert (found.state, found.result) == ("succeeded", {"status": "succeeded", "version": "7"})


def test_a_job_that_fails_says_why(backend: RemoteBackend, jobs: Any, namespace: str) -> None:
    backend.submit(INCIDENT, PAYLOAD)
    end(jobs, namespace, {"type": "Failed", "reason": "BackoffLimitExceeded"}, failed=4)
    found = backend.find(INCIDENT)
    assert found is not None
    assert (found.state, found.detail, found.attempts) == ("failed", "BackoffLimitExceeded", 5)


def test_a_cancelled_job_keeps_its_name(backend: RemoteBackend, jobs: Any, namespace: str) -> None:
    run = backend.submit(INCIDENT, PAYLOAD)
    assert backend.cancel(run.submission_id).state == "cancelled"
    (job,) = jobs.list_namespaced_job(namespace).items
    assert job.spec.suspend is True
    assert backend.submit(INCIDENT, PAYLOAD).state == "cancelled"


def test_another_payload_is_a_conflict_and_another_epoch_is_not(backend: RemoteBackend) -> None:
    backend.submit(INCIDENT, {**PAYLOAD, "epoch": 1})
    backend.submit(INCIDENT, {**PAYLOAD, "epoch": 2})
    with pytest.raises(ConflictError, match="expected a run with payload"):
        backend.submit(INCIDENT, {**PAYLOAD, "cutoff_ms": 1})


def test_no_answer_is_not_a_refusal(settings: KubernetesSettings) -> None:
    away = api.Configuration(host="http://127.0.0.1:9")
    away.retries = 0
    with pytest.raises(UnreachableError, match="does not answer"):
        RemoteBackend(KubernetesJobs(settings, api.ApiClient(away)), lambda _: None).find(INCIDENT)


@pytest.mark.parametrize(
    ("was", "is_", "message"),
    [
        ("kind: Job", "kind: Pod", "kind: expected Job, got 'Pod'"),
        ("604800", "60", "spec.ttlSecondsAfterFinished: expected 86400 or more"),
        ("containers:", "initContainers:", "spec.template.spec.containers: expected one that trains, got None"),
        ("kind: Job", "kind: [", "expected a Job in YAML"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, was: str, is_: str, message: str) -> None:
    (tmp_path / "job.yaml").write_text(MANIFEST.replace(was, is_))
    with pytest.raises(BackendError, match=message):
        KubernetesJobs(KubernetesSettings(manifest=tmp_path / "job.yaml"), api.ApiClient(api.Configuration()))
