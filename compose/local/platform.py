"""The local platform: its services, where they listen, and one process that keeps them running."""

import fcntl
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from compose.local import watchdog
from compose.local.flink import FlinkPorts, flink_services
from compose.local.formats import format_jar
from compose.local.home import Home, PlatformError, write_text
from compose.local.jars import jars
from compose.local.kafka import kafka_service
from compose.local.services import HOST, Service, free_ports, http_ready, python_module
from compose.local.supervisor import Supervisor
from features import READ_BEFORE
from schemas.topics import Topic

__all__ = ["AlreadyRunningError", "Endpoints", "Platform", "Running", "local_services", "memory_bytes"]

START_TIMEOUT_S = 180.0
PORT_NAMES = ("kafka", "kafka_controller", "flink", "flink_rpc", "clickhouse", "page", "mirror")
_log = logging.getLogger("compose.local")


class AlreadyRunningError(PlatformError):
    """Another process runs a platform in this state directory."""


@dataclass(frozen=True)
class Endpoints:
    """Where the parts of a platform listen.

    Attributes
    ----------
    kafka : str
        ``host:port``.
    flink, clickhouse, page : str
        URLs.
    """

    kafka: str
    flink: str
    clickhouse: str
    page: str

    def environ(self, home: Home) -> dict[str, str]:
        """The variables by which a platform's processes find each other."""
        return {
            "HEADWATER_HOME": str(home.root),
            "HEADWATER_KAFKA": self.kafka,
            "HEADWATER_FLINK": self.flink,
            "HEADWATER_CLICKHOUSE": self.clickhouse,
        }


def local_services(platform: "Platform") -> list[Service]:
    """Everything ``headwater up`` runs. A new service is one more entry here, and a name in ``PORT_NAMES`` if it
    listens; it finds the others in its environment.
    """
    home, ports, at = platform.home, platform.ports, platform.endpoints
    flink_ports = FlinkPorts(rest=ports["flink"], rpc=ports["flink_rpc"])
    clickhouse = ("--directory", home.path("clickhouse"), "--port", ports["clickhouse"])
    return [
        kafka_service(home, ports["kafka"], ports["kafka_controller"], topics=platform.topics),
        *flink_services(home, flink_ports, on_restart=platform.jobmanager_restarted),
        Service(
            name="clickhouse",
            argv=python_module("compose.local.clickhouse", *clickhouse),
            ready=http_ready(f"{at.clickhouse}/ping"),
            endpoint=at.clickhouse,
        ),
    ]


@dataclass(frozen=True)
class Running:
    """A platform that runs, as its ``platform.json`` describes it.

    Attributes
    ----------
    token : str
        In the environment of each of its processes.
    state : str
        ``starting``, ``up`` (everything is ready), ``recovering`` or ``stopping``.
    pid, started : int, float
        The supervising process and when it began, in seconds since the epoch: an id alone may be another's by now.
    endpoints : Endpoints
    services : dict
        Facts of each service: state, pid, restarts, endpoint, log, reason.
    """

    token: str
    state: str
    pid: int
    started: float
    endpoints: Endpoints
    services: dict[str, dict[str, Any]] = field(hash=False)

    @classmethod
    def find(cls, home: Home) -> "Running | None":
        """The platform that runs in a state directory; None when there is none, or only what a dead one wrote."""
        found = cls.read(home)
        return found if found is not None and found.alive else None

    @classmethod
    def read(cls, home: Home) -> "Running | None":
        """What ``platform.json`` says, be it true or stale; None when it is missing or not readable as such."""
        try:
            content = json.loads(home.platform_file.read_text())
            return cls(**{**content, "endpoints": Endpoints(**content["endpoints"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def alive(self) -> bool:
        """Whether the supervising process still exists."""
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) < 1)
        except psutil.Error:
            return False


class Platform:
    """A local platform and the process that supervises it: this one.

    Parameters
    ----------
    home : Home, path or str, optional
        State directory; default: as :meth:`Home.find` says.
    services : function
        From the platform to the services to run.
    topics : function, optional
        Topics to create beside those of ``schemas/topics.py``, asked for each time Kafka comes up.
    on_jobmanager_restart : function, optional
        Called with the platform when a JobManager that died is back, to submit jobs again; repeated until it does not
        raise.
    more : function
        Services that may be asked for while it runs.
    environ : mapping
        Base of the services' environment.

    Examples
    --------
    >>> with Platform("/tmp/headwater").running() as platform:  # doctest: +SKIP
    ...     platform.endpoints.kafka
    '127.0.0.1:23456'
    """

    def __init__(
        self,
        home: Home | Path | str | None = None,
        *,
        services: Callable[["Platform"], Sequence[Service]] = local_services,
        topics: Callable[[], Iterable[Topic]] = tuple,
        on_jobmanager_restart: Callable[["Platform"], object] | None = None,
        more: Callable[[], Iterable[Service]] = tuple,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.home = home if isinstance(home, Home) else Home.find(home, environ)
        self.topics = topics
        self.token = secrets.token_hex(8)
        self.ports: dict[str, int] = {}
        self._services = services
        self._on_jobmanager_restart = on_jobmanager_restart
        self._more = more
        self._environ = environ
        self._lock: IO[str] | None = None
        self._supervisor: Supervisor | None = None
        self._log_handler: logging.Handler | None = None
        self._state = "starting"
        self._writing = threading.Lock()

    @property
    def endpoints(self) -> Endpoints:
        """Where the services listen; known once the platform is started."""
        ports = self.ports
        urls = {name: f"http://{HOST}:{ports[name]}" for name in ("flink", "clickhouse", "page")}
        return Endpoints(kafka=f"{HOST}:{ports['kafka']}", **urls)

    @property
    def supervisor(self) -> Supervisor:
        """What runs the services, to add one or ask for facts.

        Raises
        ------
        PlatformError
            Before the platform is started.
        """
        if self._supervisor is None:
            raise PlatformError("The platform is not started: use it inside `with platform.running():`.")
        return self._supervisor

    @property
    def environ(self) -> dict[str, str]:
        """Environment of every service."""
        # A dozen processes that import the same thousands of files: whoever is first may keep what it compiled.
        inherited = {name: value for name, value in self._environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {
            # Each thread of a small process would otherwise reserve, and in time fill, an arena of its own.
            "MALLOC_ARENA_MAX": "2",
            **READ_BEFORE,
            "PYTHONUNBUFFERED": "1",
            **inherited,
            **self.endpoints.environ(self.home),
        }

    def prepare(self) -> None:
        """Check the state directory and fetch or build what is not there yet.

        Raises
        ------
        PlatformError
            With what to do about it.
        """
        self.home.prepare()
        for use in ("kafka", "flink", "build"):
            jars(use)
        format_jar()

    def start(self) -> None:
        """Take the state directory and begin to start the services; returns before they are ready.

        Raises
        ------
        AlreadyRunningError
        PlatformError
        """
        self.home.prepare()
        self._lock = self._take()
        try:
            self._end_leftovers()
            self._find_ports()
            self._log_to_file()
            self._write({})  # a second `up` finds this one, however long downloads take
            self.prepare()
            self._supervisor = Supervisor(
                self.home,
                self._services(self),
                environ=self.environ,
                token=self.token,
                on_change=self._write,
                more=self._more,
            )
            self._write(self._supervisor.facts())
            self._supervisor.start()
        except BaseException:
            self.stop()
            raise

    def wait(self, timeout_s: float = START_TIMEOUT_S, on_tick: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Return when everything is ready.

        Raises
        ------
        PlatformError
            Naming the service that is not, with the end of its log.
        """
        self.supervisor.wait(timeout_s, on_tick)
        self._state = "up"
        self._write(self.supervisor.facts())

    def stop(self) -> None:
        """Stop everything, in order; an interrupt while it does so kills what is left."""
        self._state = "stopping"
        if self._supervisor is not None:
            try:
                self._supervisor.stop()
            except KeyboardInterrupt:
                self._supervisor.stop(at_once=True)
            self._supervisor = None
        if self._log_handler is not None:
            _log.removeHandler(self._log_handler)
            self._log_handler.close()
            self._log_handler = None
        if self._lock is not None:
            self.home.platform_file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    @contextmanager
    def running(
        self, timeout_s: float = START_TIMEOUT_S, on_tick: Callable[[dict[str, Any]], None] | None = None
    ) -> Iterator["Platform"]:
        """Start, wait until everything is ready, and stop at the end whatever happens."""
        self.start()
        try:
            self.wait(timeout_s, on_tick)
            yield self
        finally:
            self.stop()

    def jobmanager_restarted(self) -> None:
        """Tell whoever submitted the jobs that the cluster has forgotten them."""
        if self._on_jobmanager_restart is not None:
            self._on_jobmanager_restart(self)

    def _take(self) -> IO[str]:
        """Hold the state directory. The kernel lets go of it when this process ends, however it ends."""
        lock = self.home.lock_file.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            lock.close()
            raise AlreadyRunningError(
                f"A platform is running in {self.home.root} already. `headwater status` shows it, `headwater down` "
                "stops it; set HEADWATER_HOME to run another beside it."
            ) from exc
        return lock

    def _end_leftovers(self) -> None:
        """End what an earlier platform of this directory left; only its watchdog's death can have let it."""
        if (stale := Running.read(self.home)) is not None:
            ended = watchdog.end_all(stale.token)
            _log.warning(
                "the platform of process %s ended badly; ended what it left: %s", stale.pid, ended or "nothing"
            )
        self.home.platform_file.unlink(missing_ok=True)

    def _find_ports(self) -> None:
        file = self.home.path("ports.json")
        remembered: dict[str, int] = {}
        with suppress(OSError, ValueError):
            remembered = json.loads(file.read_text())
        self.ports = free_ports(PORT_NAMES, remembered, self._environ)
        write_text(file, json.dumps(self.ports, indent=2) + "\n")

    def _log_to_file(self) -> None:
        handler = logging.FileHandler(self.home.log_file("supervisor"))
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)
        self._log_handler = handler

    def _write(self, facts: dict[str, Any]) -> None:
        """Called by the supervising thread and by whoever starts the platform: the last to write knows the state."""
        with self._writing:
            state = self._state
            if state == "up" and any(each["state"] not in ("ready", "exited") for each in facts.values()):
                state = "recovering"
            started = psutil.Process().create_time()
            running = Running(self.token, state, os.getpid(), started, self.endpoints, facts)
            write_text(self.home.platform_file, json.dumps(asdict(running), indent=2) + "\n")


def memory_bytes(running: Running) -> dict[str, int]:
    """Resident bytes of each service with all its descendants, and of the supervisor."""
    groups = {name: watchdog.members(running.token, name) for name in running.services}
    groups["supervisor"] = [running.pid]
    return {name: sum(map(_resident, pids)) for name, pids in groups.items()}


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
