"""``headwater down``."""

import os
import signal
import time

import click

from compose.local import watchdog
from compose.local.home import Home, PlatformError
from compose.local.platform import Running

__all__ = ["command"]


@click.command()
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds before it is killed instead.")
def command(timeout_s: float) -> None:
    """Stop the local platform.

    Every service is asked to stop, those that use others first. State stays in HEADWATER_HOME and the next
    `headwater up` goes on from it. Where nothing runs, there is nothing to do.
    """
    home = Home.find()
    running = Running.find(home)
    if running is None:
        left = Running.read(home)
        ended = watchdog.end_all(left.token) if left else []
        click.echo(
            f"No platform runs in {home.root}." + (f" Ended {len(ended)} processes one had left." if ended else "")
        )
        return
    _signal(running, signal.SIGTERM)
    if not _gone(running, timeout_s):
        click.echo(f"It has not stopped within {timeout_s:.0f} s and is killed.")
        _signal(running, signal.SIGKILL)
        watchdog.end_all(running.token)
        if not _gone(running, 10):
            raise PlatformError(
                f"Process {running.pid} could not be ended. Is it stuck on a disk that does not answer?"
            )
    click.echo(f"Stopped the platform in {home.root}.")


def _signal(running: Running, number: int) -> None:
    """Signal the supervisor and nobody who has come by its id since."""
    try:
        handle = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return
    try:
        if running.alive:
            signal.pidfd_send_signal(handle, number)
    except PermissionError as exc:
        raise PlatformError(f"Process {running.pid} is another user's, who must stop it.") from exc
    finally:
        os.close(handle)


def _gone(running: Running, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while running.alive or watchdog.members(running.token):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
