"""What a service of the local platform is, and the checks that tell when one is ready."""

import os
import socket
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from compose.local.home import PlatformError

__all__ = ["Backoff", "Service", "free_ports", "http_ready", "in_start_order", "python_module", "tcp_ready"]

# Below the range the kernel hands to outgoing connections, one of which could otherwise take a port between the moment
# it is found free and the moment its service binds it.
PORTS = range(20_000, 32_000)
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a service that died is started again.

    Attributes
    ----------
    first_s, limit_s : float
        The wait doubles from the first to the limit.
    steady_s : float
        After so long without dying the next wait is the first again.
    attempts_at_start : int
        A service that was never ready is given up after so many failures; one that was is never given up.
    """

    first_s: float = 0.2
    limit_s: float = 10.0
    steady_s: float = 30.0
    attempts_at_start: int = 3

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self.first_s * 2.0 ** max(0, failures - 1), self.limit_s)


@dataclass(frozen=True)
class Service:
    """A process the platform keeps running.

    Attributes
    ----------
    name : str
    argv : sequence of str, or a function that prepares the service and returns one
        Called in a thread before every start.
    env : mapping
        Added to the platform's environment.
    depends_on : tuple of str
        Services that must be ready before this one is started, and are stopped after it.
    ready : function, optional
        Whether the service answers; an exception means no. Also run every few seconds from then on, as its health.
        Without one a service is ready as soon as it runs.
    ready_timeout_s : float
        A service that does not answer by then is killed, which counts as a failure. Hooks may take longer.
    on_ready : function, optional
        Run each time the service answers, before its dependants start; repeated until it does not raise. Idempotent.
    on_restart : function, optional
        Run after the service died and is ready again; repeated until it does not raise.
    restart : {"always", "failure", "never"}
        "failure" lets an exit with status 0 stand.
    backoff : Backoff
    stop_timeout_s : float
        Time between SIGTERM and SIGKILL.
    endpoint : str
        Shown to people; where the service listens.
    """

    name: str
    argv: Sequence[str] | Callable[[], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    ready: Callable[[], bool] | None = None
    ready_timeout_s: float = 90.0
    on_ready: Callable[[], object] | None = None
    on_restart: Callable[[], object] | None = None
    restart: Literal["always", "failure", "never"] = "always"
    backoff: Backoff = Backoff()
    stop_timeout_s: float = 10.0
    endpoint: str = ""

    def command(self) -> list[str]:
        """The argument vector, prepared if need be."""
        return list(self.argv() if callable(self.argv) else self.argv)


def in_start_order(services: Sequence[Service]) -> list[Service]:
    """Services with every one behind those it depends on, otherwise as given.

    Raises
    ------
    PlatformError
        When a dependency is missing or goes round in a circle.
    """
    ordered: list[Service] = []
    left = list(services)
    while left:
        done = {each.name for each in ordered}
        able = [each for each in left if done.issuperset(each.depends_on)]
        if not able:
            wants = "; ".join(f"{each.name} needs {', '.join({*each.depends_on} - done)}" for each in left)
            raise PlatformError(f"Services that can never start: {wants}. Declare what is missing or break the circle.")
        ordered += able
        left = [each for each in left if each not in able]
    return ordered


def python_module(name: str, *arguments: object) -> list[str]:
    """The argument vector that runs one of our modules with this interpreter."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def http_ready(url: str, timeout_s: float = 2.0) -> Callable[[], bool]:
    """A check that passes when a GET answers with status 200; proxies are for others, not for this machine."""

    def check() -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout_s) as response:
            return bool(response.status == 200)

    return check


def tcp_ready(port: int, host: str = HOST, timeout_s: float = 1.0) -> Callable[[], bool]:
    """A check that passes when something accepts connections on a port."""

    def check() -> bool:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True

    return check


def free_ports(
    names: Sequence[str], remembered: Mapping[str, int] | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, int]:
    """A free port for each name.

    Parameters
    ----------
    names : sequence of str
        A user fixes a port with ``HEADWATER_<NAME>_PORT``.
    remembered : mapping, optional
        Ports of an earlier run, taken again where they are still free, so that clients need not be told anew.
    environ : mapping

    Raises
    ------
    PlatformError
        When a port that was asked for is no port or is taken.
    """
    ports: dict[str, int] = {}
    start = os.getpid()  # platforms that start at the same moment begin their search in different places
    for name in names:
        variable = f"HEADWATER_{name.upper()}_PORT"
        if given := environ.get(variable):
            ports[name] = _asked_for(variable, given)
            continue
        usable = ((remembered or {}).get(name), *(PORTS[(start + step) % len(PORTS)] for step in range(len(PORTS))))
        taken = set(ports.values())
        ports[name] = next(port for port in usable if port and port not in taken and _is_free(port))
        start = ports[name] - PORTS[0] + 1
    return ports


def _asked_for(variable: str, given: str) -> int:
    if not given.isdigit() or not 0 < int(given) < 65_536:
        raise PlatformError(f"{variable} is {given!r}; expected a port number from 1 to 65535.")
    if not _is_free(int(given)):
        raise PlatformError(
            f"Port {given}, which {variable} asks for, is taken by another program. "
            f"Stop that program, or choose another port, or unset {variable} to have a free one found."
        )
    return int(given)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of an earlier run that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
