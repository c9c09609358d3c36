"""Keeps the services of a platform running, and leaves nothing behind when it ends, however it ends."""

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from compose.local import watchdog
from compose.local.home import Home, PlatformError
from compose.local.runner import Runner, log_tail
from compose.local.services import Service, in_start_order

__all__ = ["Supervisor"]

TICK_S = 0.05
ASK_S = 1.0
_log = logging.getLogger(__name__)


class Supervisor:
    """Runs services: starts them in the order of their dependencies, restarts what dies, stops them in reverse.

    Parameters
    ----------
    home : Home
        Logs go below it.
    services : sequence of Service
    environ : mapping
        Complete environment of every service, to which its own variables are added.
    token : str
        Unique to this run; every process carries it in its environment.
    on_change : function, optional
        Called with :meth:`facts` in the supervising thread whenever they differ.
    more : function
        Services that may be asked for while it runs; looked at every second, and run from then on. One that is asked
        for in another way than before is stopped and started in the new way.
    """

    def __init__(
        self,
        home: Home,
        services: Sequence[Service],
        *,
        environ: Mapping[str, str],
        token: str,
        on_change: Callable[[dict[str, Any]], None] | None = None,
        more: Callable[[], Iterable[Service]] = tuple,
    ) -> None:
        self._home = home
        self._environ = environ
        self._token = token
        self._on_change = on_change
        self._more = more
        self._asked_at = 0.0
        self._replacing: dict[str, Service] = {}
        self._runners: dict[str, Runner] = {}
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="service")
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._kill = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._told: dict[str, Any] = {}
        for each in in_start_order(services):
            self._enlist(each)

    def start(self) -> None:
        """Begin to start the services, in a thread of its own; returns at once."""
        self._thread.start()

    def add(self, service: Service) -> None:
        """Run one more service; those it depends on must be there.

        Raises
        ------
        PlatformError
            When one of that name is there already, or a dependency is not.
        """
        with self._lock:
            if service.name in self._runners and self._runners[service.name].state not in ("exited", "failed"):
                raise PlatformError(f"The platform already has a service {service.name!r}; give this one another name.")
            if lacking := set(service.depends_on) - set(self._runners):
                raise PlatformError(f"Service {service.name!r} depends on {', '.join(lacking)}, which are not there.")
            self._enlist(service)

    def facts(self) -> dict[str, Any]:
        """State, process id, restarts, endpoint and log of each service."""
        with self._lock:
            return {name: runner.facts() for name, runner in self._runners.items()}

    def wait(self, timeout_s: float, on_tick: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Return when every service is ready.

        Raises
        ------
        PlatformError
            When one cannot be started, with the end of its log, or when it takes too long.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                runners = list(self._runners.values())
            if failed := [each for each in runners if each.state == "failed"]:
                raise PlatformError(_obituary(failed[0]))
            if all(each.up for each in runners):
                return
            if not self._thread.is_alive():
                raise PlatformError(f"The supervisor stopped; see {self._home.log_file('supervisor')}.")
            if time.monotonic() > deadline:
                late = "; ".join(f"{each.service.name} is {each.state}: {each.why}" for each in runners if not each.up)
                raise PlatformError(f"The platform is not up after {timeout_s:.0f} s: {late}. See `headwater logs`.")
            if on_tick is not None:
                on_tick(self.facts())
            time.sleep(TICK_S)

    def stop(self, *, at_once: bool = False) -> None:
        """Stop every service, dependants first, and wait until all are gone.

        Parameters
        ----------
        at_once : bool
            Kill them instead of asking.
        """
        if at_once:
            self._kill.set()
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the supervising thread runs."""
        return self._thread.is_alive()

    def _enlist(self, service: Service) -> None:
        environ = {
            **self._environ,
            **service.env,
            watchdog.TOKEN_VARIABLE: self._token,
            watchdog.SERVICE_VARIABLE: service.name,
        }
        log_file = self._home.log_file(service.name)
        self._runners[service.name] = Runner(service, log_file, environ, self._token, self._pool)

    def _loop(self) -> None:
        # Children must be started here and nowhere else: they die with the thread that started them.
        try:
            while not self._stopping.is_set():
                self._watch_watchdog()
                self._look_for_more()
                self._replace()
                with self._lock:
                    up = {name for name, runner in self._runners.items() if runner.up}
                    for name, runner in self._runners.items():
                        if name not in self._replacing:
                            self._step(runner, up)
                self._tell()
                time.sleep(TICK_S)
        except BaseException:
            _log.exception("the supervisor failed")
            self._kill.set()
            raise
        finally:
            self._stop_all()

    def _look_for_more(self) -> None:
        if time.monotonic() - self._asked_at < ASK_S:
            return
        self._asked_at = time.monotonic()
        for each in self._more():
            if each.name not in self._runners:
                self.add(each)
            elif each != self._runners[each.name].service:
                self._replacing[each.name] = each

    def _replace(self) -> None:
        """Stop what is asked for in another way now; what has stopped is started anew."""
        for name, service in list(self._replacing.items()):
            if self._runners[name].stop_step(time.monotonic()):
                del self._replacing[name]
                with self._lock:
                    self._enlist(service)

    def _step(self, runner: Runner, up: set[str]) -> None:
        before = runner.state
        runner.step(time.monotonic(), up.issuperset(runner.service.depends_on))
        if runner.state == before:
            return
        if runner.state in ("backoff", "failed"):
            _log.warning("%s %s", runner.service.name, runner.reason)
        elif runner.state == "ready":
            _log.info("%s is ready, process %s", runner.service.name, runner.pid)

    def _stop_all(self) -> None:
        """In waves: whatever nothing that still runs depends on."""
        left = dict(self._runners)
        while left and not self._kill.is_set():
            needed = {name for runner in left.values() for name in runner.service.depends_on}
            for name in [each for each in left if each not in needed]:
                if left[name].stop_step(time.monotonic()):
                    del left[name]
            self._tell()
            time.sleep(TICK_S)
        watchdog.end_all(self._token)
        for runner in left.values():
            runner.stop_step(time.monotonic())
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._tell()

    def _watch_watchdog(self) -> None:
        if self._watchdog is None or self._watchdog.poll() is not None:
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__, self._token],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _tell(self) -> None:
        facts = self.facts()
        if facts != self._told and self._on_change is not None:
            with contextlib.suppress(OSError):  # a full disk must not end what may still free it
                self._on_change(facts)
                self._told = facts


def _obituary(runner: Runner) -> str:
    return (
        f"Service {runner.service.name} cannot be started: it {runner.reason}. The end of its log, {runner.log_file}:\n"
        f"{log_tail(runner.log_file)}"
    )
