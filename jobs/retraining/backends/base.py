"""What a training backend must do, so that an incident becomes one run there whoever asks, and however often.

The incident id is the idempotency key. A backend that already has the run compares the payload's hash: the same run
was asked for again, or another one under the same name.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = [
    "PLACES",
    "Backend",
    "BackendError",
    "ConflictError",
    "RefusedError",
    "RunState",
    "Submission",
    "Submits",
    "UnreachableError",
    "checked_id",
    "payload_hash",
]

RunState = Literal["running", "lost", "succeeded", "failed", "cancelled"]

PLACES = frozenset({"kafka", "clickhouse", "mlflow_uri", "models_dir", "repo"})
"""Payload fields that say where a run finds things."""
ENDPOINTS = PLACES | {"epoch"}
"""Payload fields that say where and by whom a run is carried out, not what it is."""

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


class BackendError(RuntimeError):
    """The backend did not do what was asked. The message says what was expected and what came."""


class UnreachableError(BackendError):
    """No answer came. What was asked for may have been done, or may yet be."""


class RefusedError(BackendError):
    """The backend said no, so nothing has begun; once a person has mended what it complains of, it may say yes."""


class ConflictError(BackendError):
    """The incident has a run with another payload: a rule that makes payloads was changed, or an id was reused."""


@dataclass(frozen=True)
class Submission:
    """A run as its backend knows it.

    Attributes
    ----------
    incident_id, submission_id : str
        The second is the backend's own name for the run.
    payload_hash : str
    state : str
        "lost": its process is gone without a result; submitting again starts it again.
    attempts : int
    result : mapping, optional
        What the run wrote at its end.
    detail : str
        For people, where something went wrong.
    """

    incident_id: str
    submission_id: str
    payload_hash: str
    state: RunState
    attempts: int = 1
    result: Mapping[str, Any] | None = field(default=None, hash=False)
    detail: str = ""


class Submits(Protocol):
    """What it takes to have each incident trained once."""

    name: str
    hidden_s: float
    """For so long after it was asked for, answered or not, a run may come into being without :meth:`find` showing it.
    Zero where the incident's id is the run's own name there, so that asking again can do no harm."""

    def submit(self, incident_id: str, payload: Mapping[str, Any]) -> Submission:
        """Start the incident's run, or find it started. A run that was lost goes on.

        Raises
        ------
        ConflictError
            Where the incident has a run with another payload.
        BackendError
        """

    def find(self, incident_id: str) -> Submission | None:
        """The incident's run, if there is one."""


class Backend(Submits, Protocol):
    """A place where training runs."""

    def status(self, submission_id: str) -> Submission:
        """The run of that name.

        Raises
        ------
        BackendError
            Where there is none.
        """

    def cancel(self, submission_id: str) -> Submission:
        """End the run, for good."""

    def logs(self, submission_id: str) -> str:
        """The end of what the run printed."""


def payload_hash(payload: Mapping[str, Any]) -> str:
    """SHA-256 of what is to be trained, 64 hex digits; where and by whom does not count."""
    content = {key: value for key, value in payload.items() if key not in ENDPOINTS}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def checked_id(incident_id: str) -> str:
    """The incident id, if it can name a run everywhere.

    Raises
    ------
    BackendError
        Where it is empty, too long, or has other characters than letters, digits, ``_`` and ``-``.
    """
    if not _ID.fullmatch(incident_id):
        raise BackendError(f"expected an incident id of up to 64 letters, digits, _ and -, got {incident_id!r}")
    return incident_id
