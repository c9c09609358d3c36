"""Training on somebody else's platform: what is the same on all of them.

A platform either takes the incident's id as the run's own name, and refuses it the second time; or it makes a run of
every request, and finds runs by a label. With both: look, ask, look again. What a platform of the second kind was made
to begin twice is one again after the look: the first stays, the others are cancelled.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from jobs.retraining.backends.base import (
    BackendError,
    ConflictError,
    RefusedError,
    RunState,
    Submission,
    UnreachableError,
    checked_id,
    payload_hash,
)

__all__ = [
    "MissingError",
    "Platform",
    "RemoteBackend",
    "RemoteRun",
    "Request",
    "Settings",
    "TakenError",
    "hash_of",
    "read_template",
    "slug",
]

LOG_LINES = 500


class TakenError(BackendError):
    """The platform has a run of that name already."""


class MissingError(RefusedError):
    """The platform has no such thing."""


class Settings(BaseModel):
    """What a person says of a platform; a field that it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Request:
    """A run to begin.

    Attributes
    ----------
    incident_id : str
    payload : mapping
        What :mod:`jobs.training` is to do.
    """

    incident_id: str
    payload: Mapping[str, Any]

    @property
    def payload_hash(self) -> str:
        """Of the payload, 64 hex digits."""
        return payload_hash(self.payload)

    @property
    def payload_text(self) -> str:
        """The payload in JSON, as short as it can be."""
        return json.dumps(self.payload, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class RemoteRun:
    """A run as its platform shows it.

    Attributes
    ----------
    name : str
        The platform's, by which it can be asked for.
    incident_id, payload_hash : str
    state : str
    began : str
        When, as text that sorts; decides which of several is the run.
    detail : str
        For people, where something went wrong.
    attempts : int
    """

    name: str
    incident_id: str
    payload_hash: str
    state: RunState
    began: str = ""
    detail: str = ""
    attempts: int = 1


class Platform(Protocol):
    """What is asked of a training platform. Its errors are those of :mod:`jobs.retraining.backends.base`."""

    name: str
    hidden_s: float
    """See :attr:`jobs.retraining.backends.base.Submits.hidden_s`."""

    def begin(self, request: Request) -> None:
        """Ask for a run.

        Raises
        ------
        TakenError
            Where it has one of that name.
        """

    def runs(self, incident_id: str) -> Sequence[RemoteRun]:
        """All runs of an incident that it shows."""

    def run(self, name: str) -> RemoteRun | None:
        """The run of a name."""

    def end(self, name: str) -> None:
        """Have a run cancelled; one that has ended stays as it is."""

    def log(self, name: str) -> str:
        """The end of what it printed."""


class RemoteBackend:
    """A platform as a backend.

    Parameters
    ----------
    platform : Platform
    result_of : callable
        From an incident's id to what its run has left, if it has left anything: see
        :mod:`jobs.retraining.backends.handover`.
    given : mapping of str to str
        Where a run finds things, by fields of the payload, if that is elsewhere from over there.
    """

    def __init__(
        self,
        platform: Platform,
        result_of: Callable[[str], Mapping[str, Any] | None],
        given: Mapping[str, str] | None = None,
    ) -> None:
        self._platform, self._result_of, self._given = platform, result_of, dict(given or {})
        self.name, self.hidden_s = platform.name, platform.hidden_s

    def submit(self, incident_id: str, payload: Mapping[str, Any]) -> Submission:
        """See :meth:`Backend.submit`."""
        request = Request(checked_id(incident_id), {**payload, **self._given})
        found = self.find(incident_id)
        if found is None:
            with suppress(TakenError):  # somebody else was quicker, or we were and never heard the answer
                self._platform.begin(request)
            found = self.find(incident_id)
        if found is None:
            raise UnreachableError(f"{self.name} has taken the run of incident {incident_id}, and does not show it yet")
        if found.payload_hash != request.payload_hash:
            raise ConflictError(
                f"incident {incident_id}: expected a run with payload {request.payload_hash[:12]}, found "
                f"{found.submission_id} of {self.name} with {found.payload_hash[:12]}"
            )
        return found

    def find(self, incident_id: str) -> Submission | None:
        """See :meth:`Backend.find`; of several runs the first is left, and the others are cancelled."""
        runs = sorted(self._platform.runs(checked_id(incident_id)), key=lambda each: (each.began, each.name))
        for each in runs[1:]:
            if each.state == "running":
                self._platform.end(each.name)
        return self._submission(runs[0]) if runs else None

    def status(self, submission_id: str) -> Submission:
        """See :meth:`Backend.status`."""
        found = self._platform.run(submission_id)
        if found is None:
            raise BackendError(f"expected a run {submission_id} of {self.name}, got none")
        return self._submission(found)

    def cancel(self, submission_id: str) -> Submission:
        """See :meth:`Backend.cancel`."""
        if self.status(submission_id).state == "running":
            self._platform.end(submission_id)
        return self.status(submission_id)

    def logs(self, submission_id: str) -> str:
        """See :meth:`Backend.logs`."""
        return self._platform.log(submission_id)

    def close(self) -> None:
        """Nothing is ended: what runs there runs on."""

    def _submission(self, run: RemoteRun) -> Submission:
        known = Submission(run.incident_id, run.name, run.payload_hash, run.state, run.attempts, detail=run.detail)
        if run.state != "succeeded":
            return known
        result = self._result_of(run.incident_id)
        if result is None:
            missing = f"{run.name} of {self.name} has ended well, and has left no result in MLflow; see its log"
            return replace(known, state="failed", detail=missing)
        return replace(known, result=result)


def hash_of(payload_text: str | None) -> str:
    """Of a payload in JSON as a platform gives it back; of an empty one where it gives none."""
    return payload_hash(json.loads(payload_text or "{}"))


def read_template(path: Path, wanted: str) -> dict[str, Any]:
    """An object in JSON, which becomes a request.

    Parameters
    ----------
    path : Path
    wanted : str
        What it is, for the error.

    Raises
    ------
    BackendError
    """
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as exc:
        raise BackendError(f"{path}: expected {wanted} in JSON, got {exc}") from exc


def slug(incident_id: str, room: int) -> str:
    """The incident in lower-case letters, digits and ``-``: readable, and another for every other incident.

    Parameters
    ----------
    incident_id : str
    room : int
        Characters there are, 20 or more.
    """
    digest = hashlib.sha256(incident_id.encode()).hexdigest()[:12]
    readable = re.sub("[^a-z0-9]+", "-", incident_id.lower()).strip("-")[: room - 13]
    return f"{readable}-{digest}".strip("-")
