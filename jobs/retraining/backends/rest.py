"""Platforms spoken to by plain HTTP: what an answer means for a request that must not be made twice."""

from collections.abc import Mapping
from typing import Any

import requests

from jobs.retraining.backends.base import RefusedError, UnreachableError
from jobs.retraining.backends.remote import TakenError

__all__ = ["TIMEOUT_S", "Rest"]

TIMEOUT_S = 30.0
BUSY = (408, 425, 429)


class Rest:
    """A JSON API.

    Parameters
    ----------
    platform : str
        Its name, for errors.
    url : str
        What all paths come behind.
    session : requests.Session
        One that brings its credentials.
    """

    def __init__(self, platform: str, url: str, session: requests.Session) -> None:
        self._platform, self._url, self._session = platform, url.rstrip("/"), session

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> Any:
        """Make a request, and return what came: JSON, or text; None where there is no such thing (404).

        Raises
        ------
        TakenError
            Conflict (409).
        UnreachableError
            Where no answer came, or none that tells whether it was done.
        RefusedError
            Any other.
        """
        wanted = f"{method} {self._url}{path}"
        try:
            answer = self._session.request(method, f"{self._url}{path}", json=body, params=query, timeout=TIMEOUT_S)
        except requests.RequestException as exc:
            raise UnreachableError(f"{self._platform} does not answer {wanted}: {exc}") from exc
        status, text = answer.status_code, answer.text[:500]
        if status == 404:
            return None
        if status == 409:
            raise TakenError(f"{self._platform}: {wanted}: {text}")
        if status >= 500 or status in BUSY:
            raise UnreachableError(f"{self._platform} answers {wanted} with {status}: {text}")
        if status >= 400:
            raise RefusedError(f"{self._platform} refuses {wanted}, {status}: {text}")
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.json() if is_json and answer.content else answer.text
