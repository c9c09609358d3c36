"""The Flink jobs of a platform: sent, remembered, and sent again from a checkpoint when the cluster forgot them.

A session cluster without high availability loses its jobs with its JobManager. Their state does not go with it:
checkpoints are kept on disk, so a job that is missing is submitted anew from the newest one, under which its Kafka
transactions are committed or aborted as if it had never stopped.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compose.local.flink import client_environ, latest_checkpoint, saved_state
from compose.local.formats import format_jar
from compose.local.home import Home, PlatformError, write_text
from compose.local.jars import jars
from compose.local.platform import Running
from compose.local.runner import log_tail
from compose.local.watchdog import TOKEN_VARIABLE

__all__ = ["FlinkRest", "JobBook", "JobRecord", "remote_home"]

SUBMIT_TIMEOUT_S = 180
CANCEL_TIMEOUT_S = 60
SAVEPOINT_TIMEOUT_S = 60
ENDED = ("CANCELED", "FINISHED", "FAILED")
ALIVE = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "RECONCILING", "FAILING")


@dataclass(frozen=True)
class JobRecord:
    """A job as it was asked for.

    Attributes
    ----------
    name : str
        features, scoring or drift; features-PROJECT for a Feast repo of its own.
    options : tuple of str
        Options of ``jobs.submit``.
    ids : tuple of str
        Ids it has had on the cluster, newest last.
    cancelled : bool
        By a person: it is not to be sent again by itself.
    checkpoint : str
        Of a cluster elsewhere: where its state was when it was cancelled or stopped.
    """

    name: str
    options: tuple[str, ...]
    ids: tuple[str, ...] = ()
    cancelled: bool = False
    checkpoint: str = ""


class FlinkRest:
    """The few calls of Flink's REST interface that are needed here.

    Parameters
    ----------
    url : str
        ``http://host:port``.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, method: str = "GET", body: object = None) -> Any:
        """The JSON answer of a path.

        Parameters
        ----------
        path, method : str
        body : object, optional
            To be sent as JSON.

        Raises
        ------
        PlatformError
            Where the cluster does not answer.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return json.loads(response.read() or b"null")
        except (urllib.error.URLError, TimeoutError, ConnectionError) as exc:
            raise PlatformError(f"Flink does not answer at {self.url}: {exc}. `headwater status` tells why.") from exc

    def jobs(self) -> list[dict[str, Any]]:
        """Every job the cluster knows: id, name, state, start-time, duration."""
        return list(self.get("/jobs/overview")["jobs"])

    def cancel(self, job_id: str) -> None:
        """Stop a job; its last checkpoint stays."""
        self.get(f"/jobs/{job_id}?mode=cancel", method="PATCH")

    def stop(self, job_id: str, folder: str | None = None) -> str:
        """Have a job commit all it has written, save its state and end.

        Parameters
        ----------
        job_id : str
        folder : str, optional
            URI of where to save it; default: the cluster's own place.

        Returns
        -------
        str
            URI of its state.

        Raises
        ------
        PlatformError
            Where it cannot, in Flink's words.
        """
        body = {"drain": False, **({"targetDirectory": folder} if folder else {})}
        request = self.get(f"/jobs/{job_id}/stop", "POST", body)["request-id"]
        deadline = time.monotonic() + SAVEPOINT_TIMEOUT_S
        while (found := self.get(f"/jobs/{job_id}/savepoints/{request}"))["status"]["id"] != "COMPLETED":
            if time.monotonic() > deadline:
                raise PlatformError(f"The job {job_id} has not saved its state in {SAVEPOINT_TIMEOUT_S} s.")
            time.sleep(0.1)
        operation = found["operation"]
        if "location" not in operation:
            why = str(operation.get("failure-cause", {}).get("stack-trace", operation)).strip().splitlines()
            raise PlatformError(f"The job {job_id} cannot save its state: {why[0]}")
        return str(operation["location"])


def remote_home(home: Home, url: str) -> Home:
    """Where the jobs of a cluster elsewhere are remembered, with what a client of it needs."""
    found = Home(home.path("targets", re.sub(r"[^0-9A-Za-z.]+", "-", url).strip("-")))
    for name in ("jobs", "logs", "flink/conf", "flink/log"):
        found.path(name).mkdir(parents=True, exist_ok=True)
    write_text(found.path("flink", "conf", "config.yaml"), "rest.address: localhost\n")
    return found


class JobBook:
    """Jobs of one cluster, remembered under a state directory.

    Parameters
    ----------
    home : Home
        Of the platform, or see :func:`remote_home`.
    kafka, flink : str
        Addresses.
    remote : bool
        The cluster is elsewhere: it gets our archives with each job, and its checkpoints are not on this machine.

    Attributes
    ----------
    home, kafka
        As given.
    """

    def __init__(self, home: Home, kafka: str, flink: str, remote: bool = False) -> None:
        self.home = home
        self.kafka = kafka
        self._flink = flink
        self._remote = remote
        self.rest = FlinkRest(flink)

    def records(self) -> list[JobRecord]:
        """Jobs that were ever submitted, by name."""
        found = []
        for file in sorted(self.home.path("jobs").glob("*.json")):
            content: dict[str, Any] = json.loads(file.read_text())
            lists = {name: tuple(content[name]) for name in ("options", "ids")}
            found.append(JobRecord(**{**content, **lists}))
        return found

    def listing(self) -> list[tuple[str, dict[str, Any]]]:
        """Every job the cluster knows, newest first: the name it has here, or else there, and what Flink says of it."""
        ours = {each: record.name for record in self.records() for each in record.ids}
        jobs = sorted(self.rest.jobs(), key=lambda each: -int(each["start-time"]))
        return [(ours.get(job["jid"], job["name"]), job) for job in jobs]

    def submit(self, names: Sequence[str], options: Sequence[str] = (), fresh: bool = False) -> list[JobRecord]:
        """Send jobs, all from one process, unless one of them runs already.

        Parameters
        ----------
        names, options : sequence of str
        fresh : bool
            Start a job that has run before from nothing instead of from its last checkpoint. What it wrote before, it
            writes again.

        Raises
        ------
        PlatformError
            Where the cluster or the definitions refuse, in their words.
        """
        known = {record.name: record for record in self.records()}
        for name in names:
            if name in known and self._alive(known[name]):
                raise PlatformError(
                    f"The job {name!r} runs already as {known[name].ids[-1]}. "
                    f"`headwater jobs cancel {name}` stops it; then submit it again."
                )
        none = JobRecord("", ())
        before = {name: none if fresh else known.get(name, none) for name in names}
        return self._send(
            [JobRecord(name, tuple(options), was.ids, checkpoint=was.checkpoint) for name, was in before.items()]
        )

    def restore(self) -> list[JobRecord]:
        """Send every remembered job that the cluster does not run, as it was asked for, from its newest checkpoint."""
        lost: dict[tuple[str, ...], list[JobRecord]] = {}
        for record in self.records():
            if not record.cancelled and not self._alive(record):
                lost.setdefault(record.options, []).append(record)
        return [sent for records in lost.values() for sent in self._send(records)]

    def cancel(self, name: str) -> None:
        """Stop a job; it is not restored by itself, and goes on from its last checkpoint when it is submitted again.

        Raises
        ------
        PlatformError
            Where there is no such job.
        """
        known = {record.name: record for record in self.records()}
        if name not in known:
            names = ", ".join(known) or "none"
            raise PlatformError(f"No job {name!r} was submitted from here to {self._flink}; there are {names}.")
        record = replace(known[name], cancelled=True)
        write_text(self._file(name), json.dumps(asdict(self._ended(record) if self._alive(record) else record)))

    def stop(self, record: JobRecord) -> None:
        """Have a job that runs commit what it has written, save its state and end, to be submitted otherwise.

        A job that cannot, because it is failing, is cancelled, and goes on from its last checkpoint.
        """
        folder = None if self._remote else saved_state(self.home, record.ids[-1])
        try:
            found = self.rest.stop(record.ids[-1], folder.as_uri() if folder else None)
            record = replace(record, checkpoint=found if self._remote else "")
            self._until_ended(record.ids[-1])
        except PlatformError:
            record = self._ended(record) if self._alive(record) else record
        for older in () if self._remote else record.ids[:-1]:
            shutil.rmtree(saved_state(self.home, older), ignore_errors=True)
        write_text(self._file(record.name), json.dumps(asdict(record)))

    def _ended(self, record: JobRecord) -> JobRecord:
        """The record of a job that runs, once it is cancelled."""
        self.rest.cancel(record.ids[-1])
        self._until_ended(record.ids[-1])
        if not self._remote:
            return record
        checkpoints = self.rest.get(f"/jobs/{record.ids[-1]}/checkpoints")
        newest = (checkpoints["latest"] or {}).get("completed") or {}
        return replace(record, checkpoint=newest.get("external_path") or "")

    def _until_ended(self, job_id: str) -> None:
        """Wait until a job is gone: until then checkpoints still come, and older ones are deleted."""
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        while self.rest.get(f"/jobs/{job_id}")["state"] not in ENDED:
            if time.monotonic() > deadline:
                raise PlatformError(f"The job {job_id} is still ending after {CANCEL_TIMEOUT_S} s; try again.")
            time.sleep(0.1)

    def checkpoint(self, record: JobRecord) -> str:
        """The newest complete checkpoint of a job under any id it has had, as a URI; empty where there is none."""
        if self._remote:
            return record.checkpoint
        found = (latest_checkpoint(self.home, job_id) for job_id in reversed(record.ids))
        return next((each.as_uri() for each in found if each), "")

    def _alive(self, record: JobRecord) -> bool:
        states = {job["jid"]: job["state"] for job in self.rest.jobs()}
        return bool(record.ids) and states.get(record.ids[-1]) in ALIVE

    def _send(self, records: Sequence[JobRecord]) -> list[JobRecord]:
        command = [sys.executable, "-m", "jobs.submit", *(each.name for each in records), *records[0].options]
        for record in records:
            if checkpoint := self.checkpoint(record):
                command += ["--from-checkpoint", f"{record.name}={checkpoint}"]
        for jar in (*jars("flink"), format_jar()) if self._remote else ():
            command += ["--jar", str(jar)]
        log = self.home.log_file("submit")
        with log.open("ab") as errors:
            done = subprocess.run(
                command,
                env=self._environ(),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=SUBMIT_TIMEOUT_S,
                check=False,
            )
        # Flink's client logs to standard output when something is amiss; our lines are objects.
        ours = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"job"')]
        taken = {each["job"]: each["id"] for each in ours}
        sent = [replace(each, ids=(*each.ids, taken[each.name])) for each in records if each.name in taken]
        for record in sent:
            write_text(self._file(record.name), json.dumps(asdict(record)))
        if done.returncode != 0 or len(sent) < len(records):
            refused = ", ".join(each.name for each in records if each.name not in taken)
            said = done.stdout.strip().rpartition("\n")[2]
            raise PlatformError(f"The jobs {refused} were not taken. {said} From {log}:\n{log_tail(log)}")
        return sent

    def _environ(self) -> dict[str, str]:
        running = Running.find(self.home)
        return {
            **os.environ,
            # A submission under way ends with the platform it is for.
            **({TOKEN_VARIABLE: running.token} if running else {}),
            **client_environ(self.home),
            "HEADWATER_HOME": str(self.home.root),
            "HEADWATER_KAFKA": self.kafka,
            "HEADWATER_FLINK": self._flink,
            "PYTHONWARNINGS": "ignore",
        }

    def _file(self, name: str) -> Path:
        return self.home.path("jobs", f"{name}.json")
