"""As much of Databricks' jobs as a client asks for: a route of :class:`http_stub.Stub`."""

from typing import Any

from http_stub import Answer


class DatabricksStub:
    """One run a token; an error where that run was deleted."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.deleted: set[str] = set()

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        verb = path.rpartition("/")[2]
        if not path.startswith("/api/"):
            return 404, {}  # where its SDK asks how to sign in
        if verb == "run-now":
            token = body["idempotency_token"]
            assert len(token) <= 64
            if token in self.deleted:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "the run of this token was deleted"}
            if token not in self.runs:
                given = [{"name": key, "value": value} for key, value in body["job_parameters"].items()]
                new = {"run_id": 100 + len(self.runs), "job_parameters": given, "start_time": 1 + len(self.runs)}
                self.runs[token] = {**new, "state": {"life_cycle_state": "RUNNING"}}
                self.begin(self.runs[token], body["job_parameters"])
            return 200, {"run_id": self.runs[token]["run_id"]}
        self.look()
        if verb == "list":
            return 200, {"runs": list(self.runs.values()), "has_more": False}
        wanted = int(query.get("run_id") or body["run_id"])
        found = [each for each in self.runs.values() if each["run_id"] == wanted]
        if not found:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}
        if verb == "cancel":
            found[0]["state"] = {"life_cycle_state": "TERMINATED", "result_state": "CANCELED"}
        return 200, found[0]

    def begin(self, run: dict[str, Any], given: dict[str, str]) -> None:
        """A run has been made; does nothing here."""

    def look(self) -> None:
        """Runs are about to be shown; does nothing here."""
