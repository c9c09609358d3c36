"""Training as a process of this machine, one directory a run.

``runs/<incident_id>/`` comes into being whole, by a rename, so of several who submit one wins and the others find its
run. While a training process lives it holds the directory's lock, which the kernel lets go when it dies, however it
dies. And it dies with the process that started it: whoever asks next finds the run lost, and starts it again.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.retraining.backends.base import BackendError, ConflictError, Submission, checked_id, payload_hash
from jobs.retraining.backends.launch import Launcher, kill_session

__all__ = ["LocalBackend"]

LOG_TAIL_BYTES = 64 << 10
STOP_SECONDS = 5.0


class LocalBackend:
    """Runs training as child processes.

    Parameters
    ----------
    runs : path
        Directory of the runs.
    launcher : Launcher, optional
        Begins a process that reads ``payload.json`` of a run's directory and writes ``result.json``, by a rename.
        Without it nothing is begun here.
    attempts_max : int
        How often a run is started whose process ends without a result.
    """

    name = "local"
    hidden_s = 0.0

    def __init__(self, runs: str | Path, launcher: Launcher | None = None, attempts_max: int = 5) -> None:
        self.runs, self._launcher, self._attempts_max = Path(runs), launcher, attempts_max

    def submit(self, incident_id: str, payload: Mapping[str, Any]) -> Submission:
        """See :meth:`Backend.submit`."""
        directory = self.runs / checked_id(incident_id)
        wanted = payload_hash(payload)
        try:
            if not directory.exists():
                self._create(directory, wanted, payload)
            found = str(_read(directory / "submission.json")["payload_hash"])
            if found != wanted:
                raise ConflictError(
                    f"incident {incident_id}: expected a run with payload {wanted[:12]}, found one with {found[:12]} "
                    f"in {directory}; compare its payload.json, and move the directory away to train again"
                )
            self._start(directory, payload)
        except OSError as exc:
            raise BackendError(f"incident {incident_id}: expected to run in {directory}, got {exc}") from exc
        return self.status(incident_id)

    def find(self, incident_id: str) -> Submission | None:
        """See :meth:`Backend.find`."""
        return self.status(incident_id) if (self.runs / checked_id(incident_id)).exists() else None

    def status(self, submission_id: str) -> Submission:
        """See :meth:`Backend.status`; a run's name is its incident's id."""
        directory = self.runs / checked_id(submission_id)
        try:
            known = str(_read(directory / "submission.json")["payload_hash"])
        except (OSError, ValueError, KeyError) as exc:
            raise BackendError(f"expected a run in {directory}, got {exc!r}") from exc
        attempts = _attempts(directory)
        with _lock(directory) as free:  # first: a result that comes meanwhile is seen below
            running = not free
        result = _result(directory)
        if result is not None:
            state = "succeeded" if result.get("status") == "succeeded" else "failed"
            detail = str(result.get("reason") or "") if state == "failed" else ""
            return Submission(submission_id, submission_id, known, state, attempts, result, detail)  # type: ignore[arg-type]
        if running:
            return Submission(submission_id, submission_id, known, "running", attempts)
        if (directory / "cancelled").exists():
            return Submission(submission_id, submission_id, known, "cancelled", attempts, detail="cancelled")
        if attempts < self._attempts_max:
            return Submission(submission_id, submission_id, known, "lost", attempts)
        last = self.logs(submission_id).strip().rpartition("\n")[2]
        detail = f"{attempts} attempts ended without a result; the last line of {directory / 'log'}: {last or '(none)'}"
        return Submission(submission_id, submission_id, known, "failed", attempts, detail=detail)

    def cancel(self, submission_id: str) -> Submission:
        """See :meth:`Backend.cancel`."""
        self.status(submission_id)  # there is one
        directory = self.runs / submission_id
        (directory / "cancelled").touch()
        deadline = time.monotonic() + STOP_SECONDS
        while (found := self.status(submission_id)).state == "running" and time.monotonic() < deadline:
            kill_session(directory)
            time.sleep(0.02)
        return found

    def logs(self, submission_id: str) -> str:
        """See :meth:`Backend.logs`."""
        try:
            with (self.runs / checked_id(submission_id) / "log").open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                return stream.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """End the processes started here; their runs are lost until somebody submits them again."""
        if self._launcher is not None:
            self._launcher.close()

    def _create(self, directory: Path, wanted: str, payload: Mapping[str, Any]) -> None:
        self.runs.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".new-", dir=self.runs))
        try:
            _write(staged / "payload.json", payload)
            _write(staged / "submission.json", {"payload_hash": wanted})
            staged.rename(directory)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _start(self, directory: Path, payload: Mapping[str, Any]) -> None:
        """Start a process unless there is one, a result, or nothing left to try."""
        with _lock(directory) as free:
            attempts = _attempts(directory)
            done = _result(directory) is not None or (directory / "cancelled").exists()
            if not free or done or attempts >= self._attempts_max or self._launcher is None:
                return
            # 1. What says where things are may have changed since; what is to be done has not.
            _write(directory / "payload.json", payload)
            (directory / "result.json").unlink(missing_ok=True)  # half written, or it would be a result
            # 2. Counted before it starts: a machine that dies of it will not try for ever.
            with (directory / "attempts").open("a") as stream:
                stream.write(f"{attempts + 1}\n")
            # 3. The child keeps the lock: it shares the open file.
            with (directory / "log").open("ab") as log:
                self._launcher.start(directory, free, log.fileno())


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[int]:
    """The directory's lock as a file descriptor; 0 where somebody holds it."""
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield 0
        else:
            yield handle
    finally:
        os.close(handle)  # a child that shares it holds on


def _attempts(directory: Path) -> int:
    try:
        return len((directory / "attempts").read_text().splitlines())
    except FileNotFoundError:
        return 0


def _result(directory: Path) -> dict[str, Any] | None:
    try:
        return _read(directory / "result.json")
    except (FileNotFoundError, ValueError):
        return None


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    if not isinstance(found, dict):
        raise ValueError(f"expected an object in {path}, got {found!r}")
    return found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, whatever dies meanwhile."""
    staged = path.with_name(f".{path.name}-{os.getpid()}")
    with staged.open("w") as stream:
        json.dump(content, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(path)
