"""One service of the platform: its process, and the states it goes through."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from compose.local import watchdog
from compose.local.services import Service

__all__ = ["Runner", "State", "bound_log", "log_tail"]

State = Literal["waiting", "preparing", "starting", "ready", "backoff", "exited", "failed", "stopping", "stopped"]

HEALTH_INTERVAL_S = 5.0
CHECK_INTERVAL_S = 0.1
HOOK_INTERVAL_S = 1.0
LOG_BYTES_MAX = 32 << 20
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """In the child, before exec: the kernel kills it when the supervising thread ends, however that comes about."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def bound_log(file: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Move what a log holds to ``<name>.log.1`` once it is too large; whoever appends to it goes on doing so."""
    with contextlib.suppress(OSError):  # a full disk, above all
        if file.stat().st_size > bytes_max:
            shutil.copyfile(file, file.with_suffix(".log.1"))
            os.truncate(file, 0)


def log_tail(file: Path, lines: int = 15) -> str:
    """The last lines of a log, or a note that there is none."""
    try:
        text = file.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        text = []
    return "\n".join(text) or "(the log is empty)"


@dataclass
class Runner:
    """Starts, watches and restarts one service. All methods but the properties are for the supervising thread.

    Attributes
    ----------
    service : Service
    log_file : Path
    environ : mapping
        Complete environment of the process.
    token : str
        Marks every process of this platform, see :mod:`compose.local.watchdog`.
    pool : Executor
        Runs what may block: preparation, checks, hooks.
    state : State
    healthy : bool
        The newest check of a ready service passed.
    restarts : int
        Starts after a failure.
    reason : str
        Why it last failed.
    """

    service: Service
    log_file: Path
    environ: Mapping[str, str] = field(repr=False)
    token: str
    pool: Executor
    state: State = "waiting"
    healthy: bool = False
    restarts: int = 0
    reason: str = ""
    started: float = 0.0
    was_ready: bool = False
    _process: "subprocess.Popen[bytes] | None" = None
    _task: "Future[Any] | None" = None
    _task_name: str = ""
    _next: float = 0.0
    _since: float = 0.0
    _failures: int = 0
    _unready: str = ""
    _hooks: list[Callable[[], object]] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        """Id of the process, while there is one."""
        return self._process.pid if self._process else None

    @property
    def up(self) -> bool:
        """Whether dependants may start: ready, or done by its own policy."""
        return self.state in ("ready", "exited")

    @property
    def why(self) -> str:
        """Why it is not ready, or what ended it last."""
        return self._unready or self.reason or "no word yet"

    def step(self, now: float, dependencies_up: bool) -> None:
        """Look after the service: one transition at most, never blocking."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self._died(now, status)
        elif self.state == "waiting" and dependencies_up:
            self.state = "preparing"
            self._run("prepare", self.service.command)
        elif self.state == "backoff" and now >= self._next:
            self.state, self.restarts = "waiting", self.restarts + 1
        elif self.state == "preparing":
            self._prepared(now)
        elif self.state == "starting":
            self._starting(now)
        elif self.state == "ready":
            self._watch(now)

    def signal(self, number: int) -> None:
        """Signal the process of the service, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop_step(self, now: float) -> bool:
        """Ask the process to stop, kill it when it takes too long; True once nothing of it is left."""
        if self.state == "stopped":
            return True
        if self.state != "stopping":
            self.state, self._next = "stopping", now + self.service.stop_timeout_s
            self.signal(signal.SIGTERM)
        if self._process is not None and self._process.poll() is None:
            if now < self._next:
                return False
            self.signal(signal.SIGKILL)
            self._process.wait()
        watchdog.end_all(self.token, self.service.name)
        self._process, self.state, self.healthy = None, "stopped", False
        return True

    def _run(self, name: str, function: Callable[[], Any]) -> None:
        self._task, self._task_name = self.pool.submit(function), name

    def _prepared(self, now: float) -> None:
        """Start the process once the argument vector is there."""
        if self._task is None or not self._task.done():
            return
        task, self._task = self._task, None
        if error := task.exception():
            self._failed(now, f"could not be prepared: {error}")
            return
        try:
            self._spawn(task.result())
        except OSError as exc:
            self._failed(now, f"could not be started: {exc}")
            return
        self.state, self._since, self._next = "starting", now, now
        hooks = (self.service.on_ready, self.service.on_restart if self.was_ready else None)
        self._hooks = [each for each in hooks if each is not None]

    def _spawn(self, argv: list[str]) -> None:
        with self.log_file.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the supervisor alone, who stops things in order.
            self._process = subprocess.Popen(
                argv,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        try:
            self.started = psutil.Process(self._process.pid).create_time()
        except psutil.NoSuchProcess:
            self.started = time.time()

    def _starting(self, now: float) -> None:
        """Check until the service answers, then run its hooks until they succeed."""
        done = self._finished()
        if done and self._task_name == "hook":
            self._hooks.pop(0)
        if done and self._task_name == "check":
            self.healthy = True
        if self.healthy or self.service.ready is None:
            if not self._hooks and self._task is None:
                self.state, self.healthy, self.was_ready, self._unready = "ready", True, True, ""
                self._since, self._next = now, now + HEALTH_INTERVAL_S
            elif self._task is None and now >= self._next:
                self._next = now + HOOK_INTERVAL_S
                self._run("hook", self._hooks[0])
        elif self._task is None and now >= self._next:
            self._next = now + CHECK_INTERVAL_S
            self._run("check", self._answers)
        if self.state == "starting" and not self.healthy and now - self._since > self.service.ready_timeout_s:
            self._unready = f"was not ready within {self.service.ready_timeout_s:.0f} s; {self._unready}"
            self.signal(signal.SIGKILL)

    def _watch(self, now: float) -> None:
        """Check the health of a ready service, and forget its failures once it is steady."""
        if now - self._since > self.service.backoff.steady_s:
            self._failures = 0
        if self._task is not None and self._task.done():
            self.healthy = self._finished()
        elif self._task is None and now >= self._next:
            self._next = now + HEALTH_INTERVAL_S
            self._run("check", self._answers)

    def _answers(self) -> None:
        """Check the service; on the way, keep its log from filling the disk."""
        bound_log(self.log_file)
        if self.service.ready is not None and not self.service.ready():
            raise RuntimeError("it does not answer as it should")

    def _finished(self) -> bool:
        """Collect the running check or hook; True if it is done and succeeded."""
        if self._task is None or not self._task.done():
            return False
        task, self._task = self._task, None
        if error := task.exception():
            self._unready = f"{self._task_name} said: {error}"
            return False
        return True

    def _died(self, now: float, status: int) -> None:
        """Put away a process that ended, and whatever it had started."""
        self._process, self._task, self.healthy = None, None, False
        watchdog.end_all(self.token, self.service.name)
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        if status == 0 and self.service.restart != "always":
            self.state, self.reason = "exited", how
        elif self.service.restart == "never":
            self.state, self.reason = "failed", how
        else:
            self._failed(now, f"{how} ({self._unready})" if self._unready else how)

    def _failed(self, now: float, reason: str) -> None:
        self.reason, self._failures = reason, self._failures + 1
        if not self.was_ready and self._failures >= self.service.backoff.attempts_at_start:
            self.state = "failed"
            return
        self.state, self._next = "backoff", now + self.service.backoff.wait_s(self._failures)

    def facts(self) -> dict[str, Any]:
        """What platform.json says of the service."""
        return {
            "state": self.state if self.healthy or self.state != "ready" else "unhealthy",
            "pid": self.pid,
            "started": self.started if self.pid else None,
            "restarts": self.restarts,
            "endpoint": self.service.endpoint,
            "log": os.fspath(self.log_file),
            "reason": self.reason,
        }
