"""AWS: Step Functions, SageMaker training jobs and SageMaker pipelines.

Names are unique per account and region, so all of Headwater's regions must name the same AWS region here. Credentials
come as boto3 finds them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.retraining.backends.base import BackendError, RefusedError, RunState, UnreachableError
from jobs.retraining.backends.handover import pieces
from jobs.retraining.backends.remote import (
    LOG_LINES,
    MissingError,
    RemoteRun,
    Request,
    Settings,
    TakenError,
    hash_of,
    read_template,
    slug,
)

__all__ = [
    "PipelineSettings",
    "SageMakerPipeline",
    "SageMakerTraining",
    "StepFunctions",
    "StepFunctionsSettings",
    "TrainingSettings",
]

TAKEN = {"ExecutionAlreadyExists", "ResourceInUse", "ConflictException"}
MISSING = {"ExecutionDoesNotExist", "ResourceNotFound"}
BUSY = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestTimeout", "ServiceUnavailable"}
NAME_ROOM = 63
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
INCIDENT, HASH = "headwater-incident", "headwater-payload-hash"


class AwsSettings(Settings):
    """What all of them need.

    Attributes
    ----------
    region : str
        Of AWS; one for all of Headwater's.
    endpoint : str, optional
        Another than AWS's own.
    """

    region: str
    endpoint: str | None = None


class StepFunctionsSettings(AwsSettings):
    """Of ``backend: step-functions``.

    Attributes
    ----------
    state_machine : str
        ARN of a standard one. Its input is ``{"incident_id": ..., "payload": "..."}``, the latter JSON in a text, for a
        container's ``HEADWATER_PAYLOAD``.
    """

    state_machine: str


class TrainingSettings(AwsSettings):
    """Of ``backend: sagemaker-training``.

    Attributes
    ----------
    template : Path
        JSON of a ``CreateTrainingJob`` without name; payload and tags are put into it.
    """

    template: Path


class PipelineSettings(AwsSettings):
    """Of ``backend: sagemaker-pipeline``.

    Attributes
    ----------
    pipeline : str
        With the text parameters ``HeadwaterIncident`` and ``HeadwaterPayload``.
    """

    pipeline: str


def _client(service: str, settings: AwsSettings) -> Any:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.client(service, region_name=settings.region, endpoint_url=settings.endpoint)
    except (BotoCoreError, ValueError) as exc:
        raise BackendError(f"expected a client of AWS's {service} in {settings.region}, got {exc}") from exc


@contextmanager
def _translated(service: str) -> Iterator[None]:
    """AWS's errors as ours."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

    try:
        yield
    except ClientError as exc:
        code, status = exc.response["Error"]["Code"], exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = f"{service}: {exc}"
        if code in TAKEN:
            raise TakenError(said) from exc
        # SageMaker says so in words: "Could not find ...", "Requested resource not found."
        if code in MISSING or (code == "ValidationException" and "not f" in str(exc)):
            raise MissingError(said) from exc
        if code in BUSY or status >= 500:
            raise UnreachableError(said) from exc
        raise RefusedError(said) from exc
    except NoCredentialsError as exc:
        raise RefusedError(f"{service}: {exc}: set them as boto3 reads them") from exc
    except (HTTPClientError, BotoCoreError) as exc:
        raise UnreachableError(f"{service} does not answer: {exc}") from exc


def _found(service: str, call: Callable[..., Mapping[str, Any]], **arguments: Any) -> Mapping[str, Any] | None:
    """What there is of that name, if there is."""
    try:
        with _translated(service):
            return call(**arguments)
    except MissingError:
        return None


class StepFunctions:
    """Executions of a standard state machine, named after the incident. AWS keeps a name for 90 days.

    Parameters
    ----------
    settings : StepFunctionsSettings
    """

    name = "step-functions"
    hidden_s = 0.0

    def __init__(self, settings: StepFunctionsSettings) -> None:
        self._machine = settings.state_machine
        self._client = _client("stepfunctions", settings)

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        body = json.dumps({"incident_id": request.incident_id, "payload": request.payload_text})
        with _translated(self.name):
            machine = self._client.describe_state_machine(stateMachineArn=self._machine)
            if machine.get("type", "STANDARD") != "STANDARD":
                raise RefusedError(f"{self._machine}: expected a STANDARD state machine, got {machine['type']}")
            self._client.start_execution(stateMachineArn=self._machine, name=request.incident_id, input=body)

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        found = self.run(f"{self._machine.replace(':stateMachine:', ':execution:')}:{incident_id}")
        return [found] if found else []

    def run(self, name: str) -> RemoteRun | None:
        """See :meth:`Platform.run`; a run's name is its ARN."""
        found = _found(self.name, self._client.describe_execution, executionArn=name)
        if found is None:
            return None
        states: dict[str, RunState] = {
            "SUCCEEDED": "succeeded",
            "FAILED": "failed",
            "TIMED_OUT": "failed",
            "ABORTED": "cancelled",
        }
        given = json.loads(found.get("input", "{}"))
        known = hash_of(given.get("payload"))
        detail = f"{found.get('error') or found['status']}: {found.get('cause') or ''}".strip(": ")
        state = states.get(found["status"], "running")
        began = found["startDate"].isoformat()
        return RemoteRun(name, str(found["name"]), known, state, began, detail if state == "failed" else "")

    def end(self, name: str) -> None:
        """See :meth:`Platform.end`."""
        with _translated(self.name):
            self._client.stop_execution(executionArn=name, cause="cancelled by Headwater")

    def log(self, name: str) -> str:
        """See :meth:`Platform.log`: the newest events of the execution."""
        with _translated(self.name):
            found = self._client.get_execution_history(executionArn=name, reverseOrder=True, maxResults=100)
        lines = []
        for event in reversed(found["events"]):
            told: Any = next((each for key, each in event.items() if key.endswith("EventDetails")), {})
            lines.append(f"{event['timestamp']:%Y-%m-%d %H:%M:%S} {event['type']} {json.dumps(told, default=str)}")
        return "\n".join(lines)


class SageMakerTraining:
    """Training jobs, named after the incident.

    Parameters
    ----------
    settings : TrainingSettings

    Raises
    ------
    BackendError
        Where the template cannot be read.
    """

    name = "sagemaker-training"
    hidden_s = 0.0

    def __init__(self, settings: TrainingSettings) -> None:
        self._template = read_template(settings.template, "a CreateTrainingJob")
        self._client, self._logs = _client("sagemaker", settings), _client("logs", settings)

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        given = {**self._template.get("HyperParameters", {}), **pieces(request.payload_text)}
        tags = {INCIDENT: request.incident_id, HASH: request.payload_hash}
        job = {
            **self._template,
            "TrainingJobName": slug(request.incident_id, NAME_ROOM),
            "HyperParameters": {**given, **tags},
        }
        with _translated(self.name):
            self._client.create_training_job(**job)

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        found = self.run(slug(incident_id, NAME_ROOM))
        return [found] if found else []

    def run(self, name: str) -> RemoteRun | None:
        """See :meth:`Platform.run`."""
        found = _found(self.name, self._client.describe_training_job, TrainingJobName=name)
        if found is None:
            return None
        states: dict[str, RunState] = {"Completed": "succeeded", "Failed": "failed", "Stopped": "cancelled"}
        told, state = found.get("HyperParameters", {}), states.get(found["TrainingJobStatus"], "running")
        detail, began = found.get("FailureReason", ""), found["CreationTime"].isoformat()
        return RemoteRun(name, told.get(INCIDENT, ""), told.get(HASH, ""), state, began, detail)

    def end(self, name: str) -> None:
        """See :meth:`Platform.end`."""
        with _translated(self.name):
            self._client.stop_training_job(TrainingJobName=name)

    def log(self, name: str) -> str:
        """See :meth:`Platform.log`."""
        found = _found(
            "cloudwatch",
            self._logs.filter_log_events,
            logGroupName=LOG_GROUP,
            logStreamNamePrefix=f"{name}/",
            limit=LOG_LINES,
        )
        return "\n".join(each["message"] for each in (found or {}).get("events", []))


class SageMakerPipeline:
    """Executions of a SageMaker pipeline, told apart by the token that AWS takes a request's repetition by.

    Parameters
    ----------
    settings : PipelineSettings
    """

    name = "sagemaker-pipeline"
    hidden_s = 0.0

    def __init__(self, settings: PipelineSettings) -> None:
        self._pipeline = settings.pipeline
        self._client = _client("sagemaker", settings)

    def begin(self, request: Request) -> None:
        """See :meth:`Platform.begin`."""
        name = slug(request.incident_id, NAME_ROOM)
        given = {"HeadwaterIncident": request.incident_id, "HeadwaterPayload": request.payload_text}
        with _translated(self.name):
            self._client.start_pipeline_execution(
                PipelineName=self._pipeline,
                PipelineExecutionDisplayName=name,
                PipelineParameters=[{"Name": key, "Value": value} for key, value in given.items()],
                # 32 characters at least; the same for whoever asks, with whatever payload.
                ClientRequestToken=f"headwater-{name}".ljust(32, "-"),
            )

    def runs(self, incident_id: str) -> list[RemoteRun]:
        """See :meth:`Platform.runs`."""
        wanted, found, more = slug(incident_id, NAME_ROOM), list[RemoteRun](), dict[str, str]()
        while True:
            with _translated(self.name):
                told = self._client.list_pipeline_executions(PipelineName=self._pipeline, **more)
            for each in told["PipelineExecutionSummaries"]:
                if each.get("PipelineExecutionDisplayName") == wanted:
                    run = self.run(each["PipelineExecutionArn"])
                    found += [run] if run else []
            if found or not told.get("NextToken"):
                return found
            more = {"NextToken": told["NextToken"]}

    def run(self, name: str) -> RemoteRun | None:
        """See :meth:`Platform.run`; a run's name is its ARN."""
        found = _found(self.name, self._client.describe_pipeline_execution, PipelineExecutionArn=name)
        if found is None:
            return None
        with _translated(self.name):
            told = self._client.list_pipeline_parameters_for_execution(PipelineExecutionArn=name)
        given = {each["Name"]: each["Value"] for each in told["PipelineParameters"]}
        states: dict[str, RunState] = {"Succeeded": "succeeded", "Failed": "failed", "Stopped": "cancelled"}
        known = hash_of(given.get("HeadwaterPayload"))
        state, began = states.get(found["PipelineExecutionStatus"], "running"), found["CreationTime"].isoformat()
        return RemoteRun(name, given.get("HeadwaterIncident", ""), known, state, began, found.get("FailureReason", ""))

    def end(self, name: str) -> None:
        """See :meth:`Platform.end`."""
        with _translated(self.name):
            token = f"headwater-stop-{slug(name, 40)}".ljust(32, "-")
            self._client.stop_pipeline_execution(PipelineExecutionArn=name, ClientRequestToken=token)

    def log(self, name: str) -> str:
        """See :meth:`Platform.log`: its steps, and what failed in them."""
        with _translated(self.name):
            found = self._client.list_pipeline_execution_steps(PipelineExecutionArn=name)
        steps = reversed(found["PipelineExecutionSteps"])
        return "\n".join(f"{each['StepName']} {each['StepStatus']} {each.get('FailureReason', '')}" for each in steps)
