"""Platforms that cannot be run here, against stubs of what their documentation says: of names, listings, refusals.

A stub is a stub: it shows that requests and answers are read as documented, not that the platform keeps its word.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.stub import Stubber
from databricks.sdk import WorkspaceClient
from databricks_stub import DatabricksStub
from http_stub import Answer, Route, Stub
from racing import EVENT, INCIDENT, Ready, race

from jobs.retraining.backends.aws import PipelineSettings, SageMakerPipeline, SageMakerTraining, TrainingSettings
from jobs.retraining.backends.base import BackendError, ConflictError, RefusedError, UnreachableError, payload_hash
from jobs.retraining.backends.chosen import BACKENDS, load_backend
from jobs.retraining.backends.databricks import Databricks, DatabricksSettings
from jobs.retraining.backends.handover import PAYLOAD, Results, given_payload, leave_result
from jobs.retraining.backends.kubeflow import Kubeflow, KubeflowSettings
from jobs.retraining.backends.remote import RemoteBackend, Request, slug
from jobs.retraining.backends.vertex import (
    CustomJobSettings,
    PipelineJobSettings,
    VertexCustomJobs,
    VertexPipelineJobs,
)

MADE = Ready().payload(EVENT)


@pytest.fixture
def serve() -> Iterator[Callable[[Route], Stub]]:
    made: list[Stub] = []

    def start(route: Route) -> Stub:
        made.append(Stub(route))
        return made[-1]

    yield start
    for each in made:
        each.close()


class KubeflowStub:
    """Makes a run of every request, and lists runs by name."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        rest = path.removeprefix("/apis/v2beta1/runs")
        if method == "POST" and not rest:
            if body["pipeline_version_reference"]["pipeline_id"] != "p":
                return 404, {"error": "pipeline not found"}
            name = f"r{len(self.runs)}"
            at = f"2013-07-01T00:00:{len(self.runs):02}Z"
            self.runs[name] = {**body, "run_id": name, "state": "RUNNING", "created_at": at}
            return 200, self.runs[name]
        if not rest:
            (wanted,) = json.loads(query["filter"])["predicates"]
            assert (wanted["key"], wanted["operation"]) == ("display_name", "EQUALS")
            found = [each for each in self.runs.values() if each["display_name"] == wanted["string_value"]]
            return 200, {"runs": found}
        name, _, verb = rest[1:].partition(":")
        if name not in self.runs:
            return 404, {"error": "run not found"}
        if verb:
            self.runs[name]["state"] = "CANCELED"
        return 200, self.runs[name]


def kubeflow(stub: Stub, pipeline: str = "p") -> RemoteBackend:
    settings = KubeflowSettings(url=stub.url, pipeline_id=pipeline, pipeline_version_id="v")
    return RemoteBackend(Kubeflow(settings), lambda _: {"version": "7"})


def test_kubeflow_what_was_begun_twice_is_one_run(serve: Any) -> None:
    """Names are not unique there: who races may begin several, and one stays."""
    kept = KubeflowStub()
    there = kubeflow(serve(kept))
    run = there.submit(INCIDENT, MADE)
    Kubeflow(KubeflowSettings(url=serve(kept).url, pipeline_id="p", pipeline_version_id="v")).begin(
        Request(INCIDENT, MADE)
    )
    found = there.find(INCIDENT)
    assert found is not None
    assert (found.submission_id, found.payload_hash) == (run.submission_id, payload_hash(MADE))
    assert [each["state"] for each in kept.runs.values()] == ["RUNNING", "CANCELED"]


def test_kubeflow_a_run_and_its_end(serve: Any) -> None:
    kept = KubeflowStub()
    there = kubeflow(serve(kept))
    assert there.find(INCIDENT) is None
    run = there.submit(INCIDENT, MADE)
    with pytest.raises(ConflictError):
        there.submit(INCIDENT, {**MADE, "cutoff_ms": 1})
    kept.runs[run.submission_id]["state"] = "SUCCEEDED"
    assert there.status(run.submission_id).result == {"version": "7"}
    kept.runs[run.submission_id] |= {"state": "FAILED", "error": {"message": "no space left"}}
    assert there.status(run.submission_id).detail == "no space left"
    with pytest.raises(BackendError, match="expected a run nothing"):
        there.status("nothing")
    with pytest.raises(RefusedError, match="kubeflow has no pipeline q"):
        kubeflow(serve(kept), "q").submit("i2", MADE)


class VertexStub:
    """Custom jobs get a number; a pipeline job's name is the client's, and refused where it is there."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        assert path.startswith("/v1/projects/p/locations/l/")
        parent, (kind, _, rest) = path[4:].rpartition("/l/")[0] + "/l", path.rpartition("/l/")[2].partition("/")
        if method == "POST" and not rest:
            own = query.get("pipelineJobId", str(len(self.jobs)))
            name = f"{parent}/{kind}/{own}"
            if name in self.jobs:
                return 409, {"error": {"status": "ALREADY_EXISTS"}}
            at = f"2013-07-01T00:00:{len(self.jobs):02}Z"
            state = "PIPELINE_STATE_RUNNING" if kind == "pipelineJobs" else "JOB_STATE_PENDING"
            self.jobs[name] = {**body, "name": name, "state": state, "createTime": at}
            return 200, self.jobs[name]
        if not rest:
            key, _, value = query["filter"].removeprefix("labels.").partition("=")
            found = [each for each in self.jobs.values() if f'"{each["labels"][key]}"' == value]
            return 200, {kind: found}
        name, _, verb = f"{parent}/{kind}/{rest}".partition(":")
        if name not in self.jobs:
            return 404, {"error": {"status": "NOT_FOUND"}}
        if verb:
            self.jobs[name]["state"] = "JOB_STATE_CANCELLING"
        return 200, self.jobs[name]


@pytest.fixture
def template(tmp_path: Path) -> Path:
    spec = {"workerPoolSpecs": [{"containerSpec": {"imageUri": "trainer", "env": [{"name": "A", "value": "b"}]}}]}
    (tmp_path / "job.json").write_text(json.dumps({"jobSpec": spec, "labels": {"team": "flights"}}))
    return tmp_path / "job.json"


def test_vertex_custom_jobs_are_found_by_label(serve: Any, template: Path) -> None:
    kept = VertexStub()
    settings = CustomJobSettings(project="p", location="l", template=template, endpoint=serve(kept).url)
    jobs = VertexCustomJobs(settings, requests.Session())
    there = RemoteBackend(jobs, lambda _: {"version": "7"})
    assert jobs.hidden_s > 0, "who asks again has to wait until a run must be listed"
    run = there.submit(INCIDENT, MADE)
    jobs.begin(Request(INCIDENT, MADE))
    found = there.find(INCIDENT)
    assert found is not None
    assert (found.submission_id, found.incident_id) == (run.submission_id, INCIDENT)
    first, second = kept.jobs.values()
    assert (first["state"], second["state"]) == ("JOB_STATE_PENDING", "JOB_STATE_CANCELLING")
    env = {e["name"]: e["value"] for e in first["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]}
    assert (given_payload(None, env), env["A"], first["labels"]["team"]) == (MADE, "b", "flights")
    with pytest.raises(ConflictError):
        there.submit(INCIDENT, {**MADE, "cutoff_ms": 1})


def test_vertex_pipeline_jobs_have_the_name_of_the_incident(serve: Any, template: Path) -> None:
    kept = VertexStub()
    settings = PipelineJobSettings(project="p", location="l", template=template, endpoint=serve(kept).url)
    saw = race(lambda: RemoteBackend(VertexPipelineJobs(settings, requests.Session()), lambda _: None))
    (job,) = kept.jobs.values()
    assert set(saw) == {job["name"]}
    there = RemoteBackend(VertexPipelineJobs(settings, requests.Session()), lambda _: None)
    assert there.cancel(job["name"]).state == "cancelled"
    job["state"] = "PIPELINE_STATE_SUCCEEDED"
    assert "has left no result in MLflow" in there.status(job["name"]).detail


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, UnreachableError),
        (429, UnreachableError),
        (503, UnreachableError),
        (403, RefusedError),
        (400, RefusedError),
    ],
)
def test_what_an_answer_means(serve: Any, template: Path, status: int, error: type[BackendError]) -> None:
    stub = serve(lambda *_: (status, {"error": "why"}))
    settings = CustomJobSettings(project="p", location="l", template=template, endpoint=stub.url)
    with pytest.raises(error, match="why"):
        RemoteBackend(VertexCustomJobs(settings, requests.Session()), lambda _: None).submit(INCIDENT, MADE)


def databricks(stub: Stub) -> RemoteBackend:
    client = WorkspaceClient(host=stub.url, token="t")
    return RemoteBackend(Databricks(DatabricksSettings(job_id=1), client), lambda _: {"version": "7"})


def test_databricks_racing_consumers_hold_one_run(serve: Any) -> None:
    kept = DatabricksStub()
    stub = serve(kept)
    saw = race(lambda: databricks(stub))
    assert set(saw) == {"100"}
    assert len(kept.runs) == 1


def test_databricks_a_run_and_its_end(serve: Any) -> None:
    kept = DatabricksStub()
    there = databricks(serve(kept))
    run = there.submit(INCIDENT, MADE)
    assert (run.state, run.payload_hash) == ("running", payload_hash(MADE))
    with pytest.raises(ConflictError):
        there.submit(INCIDENT, {**MADE, "cutoff_ms": 1})
    assert there.cancel(run.submission_id).state == "cancelled"
    (only,) = kept.runs.values()
    only["state"] = {"life_cycle_state": "INTERNAL_ERROR", "state_message": "no nodes"}
    assert (there.status(run.submission_id).state, there.status(run.submission_id).detail) == ("failed", "no nodes")
    with pytest.raises(BackendError, match="expected a run 5"):
        there.status("5")
    kept.deleted, kept.runs = set(kept.runs), {}
    with pytest.raises(RefusedError, match="was deleted"):
        there.submit(INCIDENT, MADE)
    with pytest.raises(RefusedError, match="10000 bytes of job parameters"):
        there.submit("i2", {**MADE, "reason": "x" * 10_000})


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")


def job(status: str, request: Request, **more: Any) -> dict[str, Any]:
    given = {"headwater-incident": request.incident_id, "headwater-payload-hash": request.payload_hash}
    resource = {"ResourceConfig": {"VolumeSizeInGB": 1}, "StoppingCondition": {}}
    described = {"TrainingJobName": slug(INCIDENT, 63), "TrainingJobArn": "arn:aws:sagemaker:x:1:training-job/x"}
    described |= {
        "ModelArtifacts": {"S3ModelArtifacts": "s3://m"},
        "AlgorithmSpecification": {"TrainingInputMode": "File"},
    }
    made = {**described, **resource, "HyperParameters": given, "SecondaryStatus": "Training"}
    return {**made, "TrainingJobStatus": status, "CreationTime": datetime(2013, 7, 1, tzinfo=UTC), **more}


TEMPLATE = {
    "RoleArn": "arn:aws:iam::123456789012:role/trainer",
    "AlgorithmSpecification": {"TrainingImage": "trainer:1", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://models"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    "HyperParameters": {"a": "b"},
}


@pytest.mark.usefixtures("aws")
def test_sagemaker_refuses_a_name_that_is_taken_and_the_job_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(TEMPLATE))
    there = SageMakerTraining(TrainingSettings(region="eu-central-1", template=tmp_path / "t.json"))
    backend = RemoteBackend(there, lambda _: None)
    request, asked = Request(INCIDENT, {**MADE, "reason": "x" * 6000}), {"TrainingJobName": slug(INCIDENT, 63)}
    sent: dict[str, Any] = {}
    there._client.meta.events.register(
        "before-parameter-build.sagemaker.CreateTrainingJob", lambda params, **_: sent.update(params)
    )
    with Stubber(there._client) as stub:
        # Nothing is there; when ours comes, somebody was quicker; theirs is the run.
        stub.add_client_error("describe_training_job", "ValidationException", "Requested resource not found.")
        stub.add_client_error("create_training_job", "ResourceInUse", "Training job names must be unique")
        stub.add_response("describe_training_job", job("InProgress", request), asked)
        assert backend.submit(INCIDENT, request.payload).state == "running"
        stub.add_response("describe_training_job", job("Failed", request, FailureReason="no space"), asked)
        assert backend.status(asked["TrainingJobName"]).detail == "no space"
        stub.add_response("describe_training_job", job("InProgress", request), asked)
        with pytest.raises(ConflictError):
            backend.submit(INCIDENT, MADE)
        stub.add_client_error("describe_training_job", "ThrottlingException", "Rate exceeded")
        with pytest.raises(UnreachableError, match="Rate exceeded"):
            backend.find(INCIDENT)
        stub.add_client_error("describe_training_job", "AccessDeniedException", "not yours")
        with pytest.raises(RefusedError, match="not yours"):
            backend.find(INCIDENT)
    assert (sent["HyperParameters"]["a"], sent["RoleArn"]) == ("b", TEMPLATE["RoleArn"])
    assert max(map(len, sent["HyperParameters"].values())) <= 2500
    (tmp_path / "hyperparameters.json").write_text(json.dumps(sent["HyperParameters"]))
    assert given_payload(None, {}, tmp_path / "hyperparameters.json") == request.payload


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_run_without_a_payload_says_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(BackendError, match=r"expected (a|the) payload"):
        given_payload(None, {PAYLOAD: text}, tmp_path / "none.json")


def test_names_of_incidents_are_readable_and_never_the_same() -> None:
    for room in (20, 40, 63):
        names = [slug(each, room) for each in ("Delay_1", "delay-1", "delay 1", "d" * 64, "d" * 63, INCIDENT)]
        assert len(set(names)) == len(names)
        assert all(len(each) <= room for each in names)
    assert slug("Delay_1", 40).startswith("delay-1-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backend: [", "expected a backend in YAML"),
        ("- airflow", "backend: expected one of airflow, databricks, .*, got None"),
        ("backend: jenkins", "got 'jenkins'"),
        ("backend: airflow\nurl: http://a", "dag: Field required"),
        ("backend: airflow\nurl: http://a\ndag: d\nuser: me", "user: Extra inputs are not permitted, got 'me'"),
        ("backend: airflow\nurl: http://a\ndag: d\ngiven: {zookeeper: z}", "given: expected some of clickhouse, kafka"),
        ("backend: kubernetes\nmanifest: job.yaml", "job.yaml: expected a Job in YAML, got"),
        ("backend: sagemaker-training\nregion: r\ntemplate: t.json", "t.json: expected a CreateTrainingJob in JSON"),
    ],
)
def test_a_file_that_names_no_backend_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "backend.yaml").write_text(text)
    with pytest.raises(BackendError, match=message):
        load_backend(tmp_path / "backend.yaml", lambda _: None)


def test_where_a_run_finds_things_is_told_and_is_not_what_it_is(serve: Any, tmp_path: Path) -> None:
    kept = KubeflowStub()
    text = (
        f"backend: kubeflow\nurl: {serve(kept).url}\npipeline_id: p\npipeline_version_id: v\ngiven: {{kafka: 'k:9092'}}"
    )
    (tmp_path / "backend.yaml").write_text(text)
    there = load_backend(tmp_path / "backend.yaml", lambda _: None)
    assert there.submit(INCIDENT, {**MADE, "kafka": "127.0.0.1:1"}).payload_hash == payload_hash(MADE)
    (run,) = kept.runs.values()
    assert json.loads(run["runtime_config"]["parameters"]["payload"])["kafka"] == "k:9092"
    assert set(BACKENDS) >= {"kubeflow", "airflow"}


@pytest.mark.usefixtures("aws")
def test_sagemaker_pipelines_are_found_by_name_and_asked_for_by_token() -> None:
    there = SageMakerPipeline(PipelineSettings(region="eu-central-1", pipeline="retrain"))
    request, name, now = Request(INCIDENT, MADE), slug(INCIDENT, 63), datetime(2013, 7, 1, tzinfo=UTC)
    arn = "arn:aws:sagemaker:eu-central-1:123456789012:pipeline/retrain/execution/abcdefghijkl"
    given = {"HeadwaterIncident": INCIDENT, "HeadwaterPayload": request.payload_text}
    parameters = [{"Name": key, "Value": value} for key, value in given.items()]
    listed = [{"PipelineExecutionArn": arn, "PipelineExecutionDisplayName": name}]
    with Stubber(there._client) as stub:
        stub.add_response("list_pipeline_executions", {"PipelineExecutionSummaries": []}, {"PipelineName": "retrain"})
        asked = {"PipelineName": "retrain", "PipelineExecutionDisplayName": name, "PipelineParameters": parameters}
        stub.add_response(
            "start_pipeline_execution",
            {"PipelineExecutionArn": arn},
            {**asked, "ClientRequestToken": f"headwater-{name}".ljust(32, "-")},
        )
        stub.add_response(
            "list_pipeline_executions", {"PipelineExecutionSummaries": listed}, {"PipelineName": "retrain"}
        )
        described = {"PipelineExecutionArn": arn, "PipelineExecutionStatus": "Succeeded", "CreationTime": now}
        stub.add_response("describe_pipeline_execution", described, {"PipelineExecutionArn": arn})
        stub.add_response(
            "list_pipeline_parameters_for_execution", {"PipelineParameters": parameters}, {"PipelineExecutionArn": arn}
        )
        found = RemoteBackend(there, lambda _: {"version": "7"}).submit(INCIDENT, MADE)
        stub.assert_no_pending_responses()
    assert (found.state, found.result, found.payload_hash) == ("succeeded", {"version": "7"}, payload_hash(MADE))


def test_what_a_run_leaves_in_mlflow_is_found_by_its_incident(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    payload = {**MADE, "mlflow_uri": uri, "epoch": 3}
    results = Results(uri)
    assert results(INCIDENT) is None
    leave_result(payload, {"status": "succeeded", "version": "7"})
    leave_result({**payload, "incident_id": "i2"}, {"status": "succeeded", "version": "8"})
    leave_result(payload, {"status": "succeeded", "version": "7"})
    assert results(INCIDENT) == {"status": "succeeded", "version": "7"}
    assert results("i3") is None
