"""Step Functions as moto has it."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto_server import REGION, moto
from racing import EVENT, INCIDENT, Ready, race

from jobs.retraining.backends.aws import StepFunctions, StepFunctionsSettings
from jobs.retraining.backends.base import BackendError, ConflictError, RefusedError, UnreachableError, payload_hash
from jobs.retraining.backends.remote import RemoteBackend

ROLE = "arn:aws:iam::123456789012:role/training"
MACHINE = {"StartAt": "Train", "States": {"Train": {"Type": "Wait", "Seconds": 600, "End": True}}}
PAYLOAD = Ready().payload(EVENT)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto() as found:
        yield found


@pytest.fixture
def aws(endpoint: str) -> Any:
    return boto3.client("stepfunctions", region_name=REGION, endpoint_url=endpoint)


@pytest.fixture
def machine(aws: Any, request: pytest.FixtureRequest) -> str:
    name = f"train-{abs(hash(request.node.name))}"
    made = aws.create_state_machine(name=name, definition=json.dumps(MACHINE), roleArn=ROLE)
    return str(made["stateMachineArn"])


@pytest.fixture
def settings(endpoint: str, machine: str) -> StepFunctionsSettings:
    return StepFunctionsSettings(region=REGION, endpoint=endpoint, state_machine=machine)


def backend(settings: StepFunctionsSettings, result: Any = None) -> RemoteBackend:
    return RemoteBackend(StepFunctions(settings), lambda _: result)


def test_four_racing_consumers_hold_one_execution(aws: Any, machine: str, settings: StepFunctionsSettings) -> None:
    saw = race(lambda: backend(settings))
    (execution,) = aws.list_executions(stateMachineArn=machine)["executions"]
    assert execution["name"] == INCIDENT
    assert set(saw) == {execution["executionArn"]}


def test_an_execution_and_its_end(aws: Any, settings: StepFunctionsSettings) -> None:
    there = backend(settings)
    assert there.find(INCIDENT) is None
    run = there.submit(INCIDENT, PAYLOAD)
    assert (run.state, run.payload_hash) == ("running", payload_hash(PAYLOAD))
    given = json.loads(aws.describe_execution(executionArn=run.submission_id)["input"])
    assert json.loads(given["payload"]) == PAYLOAD
    assert "ExecutionStarted" in there.logs(run.submission_id)
    assert there.cancel(run.submission_id).state == "cancelled"
    assert there.submit(INCIDENT, PAYLOAD).state == "cancelled", "for good"


def test_another_payload_is_a_conflict_and_another_epoch_is_not(settings: StepFunctionsSettings) -> None:
    there = backend(settings)
    first = there.submit(INCIDENT, {**PAYLOAD, "epoch": 1})
    assert there.submit(INCIDENT, {**PAYLOAD, "epoch": 2}).submission_id == first.submission_id
    with pytest.raises(ConflictError, match="expected a run with payload"):
        there.submit(INCIDENT, {**PAYLOAD, "cutoff_ms": 1})


def test_no_such_state_machine_is_refused(settings: StepFunctionsSettings) -> None:
    gone = settings.model_copy(update={"state_machine": settings.state_machine + "x"})
    with pytest.raises(RefusedError, match="StateMachineDoesNotExist"):
        backend(gone).submit(INCIDENT, PAYLOAD)


def test_no_answer_is_not_a_refusal(settings: StepFunctionsSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    away = settings.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(UnreachableError, match="does not answer"):
        backend(away).find(INCIDENT)


def test_no_such_run(settings: StepFunctionsSettings) -> None:
    with pytest.raises(BackendError, match="expected a run"):
        backend(settings).status(f"{settings.state_machine.replace(':stateMachine:', ':execution:')}:none")
