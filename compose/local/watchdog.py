"""Ends every process of a platform whose supervisor is gone, even when that was killed without a chance to tidy up.

Every process of a platform, and whatever those start, carries the platform's token in its environment. The supervisor
holds the other end of this process's standard input: when that closes, everything with the token is killed. A process
group would not do, since a child may leave it; nor would a parent-death signal, which grandchildren do not get.

Run as a script, on the standard library alone: it must start at once, stay small and never fail to import.
"""

import contextlib
import os
import signal
import sys
import time

__all__ = ["SERVICE_VARIABLE", "TOKEN_VARIABLE", "end", "end_all", "members"]

TOKEN_VARIABLE = "HEADWATER_PLATFORM"
SERVICE_VARIABLE = "HEADWATER_SERVICE"
SCAN_INTERVAL_S = 0.05
GIVE_UP_S = 30.0


def _marks(pid: int) -> set[bytes]:
    """Environment a process was started with; empty for a process that is gone, a zombie, or another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:  # noqa: PTH123 - pathlib costs as much as the rest
            return set(stream.read().split(b"\0"))
    except OSError:
        return set()


def _wanted(token: str, service: str | None) -> set[bytes]:
    marks = {f"{TOKEN_VARIABLE}={token}"} | ({f"{SERVICE_VARIABLE}={service}"} if service else set())
    return {each.encode() for each in marks}


def members(token: str, service: str | None = None) -> list[int]:
    """Ids of the living processes of a platform, or of one of its services, without the caller itself."""
    wanted = _wanted(token, service)
    found = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return [pid for pid in found if pid != os.getpid() and wanted <= _marks(pid)]


def end(pid: int, token: str, number: int = signal.SIGKILL) -> None:
    """Signal a process if it is still the one with the token: an id may by now belong to somebody else."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if _wanted(token, None) <= _marks(pid):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def end_all(token: str, service: str | None = None, timeout_s: float = GIVE_UP_S) -> list[int]:
    """Kill every process of a platform or service, until none is left; returns the ids that were found."""
    found: set[int] = set()
    deadline = time.monotonic() + timeout_s
    while (pids := members(token, service)) and time.monotonic() < deadline:
        found.update(pids)
        for pid in pids:
            end(pid, token)
        time.sleep(SCAN_INTERVAL_S)
    return sorted(found)


def main(token: str) -> None:
    """Wait for the supervisor to go away, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_all(token)


if __name__ == "__main__":
    main(sys.argv[1])
