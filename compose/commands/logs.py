"""``headwater logs``."""

import time
from collections import deque
from pathlib import Path

import click

from compose.local.home import Home, PlatformError

__all__ = ["command"]


@click.command()
@click.argument("service", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on printing what is added, until Ctrl-C.")
@click.option("--lines", "-n", default=20, show_default=True, help="Print so many lines from the end of each log.")
def command(service: str | None, follow: bool, lines: int) -> None:
    """Show or follow the logs of the services.

    Without SERVICE, those of all: each line begins with the name of its service. `headwater logs supervisor` tells
    what was restarted, and why.
    """
    home = Home.find()
    files = {each.stem: each for each in sorted(home.path("logs").glob("*.log"))}
    if not files:
        raise PlatformError(f"There are no logs in {home.path('logs')}. `headwater up` starts a platform there.")
    if service is not None:
        if service not in files:
            raise PlatformError(f"There is no log of {service!r}, only of {', '.join(files)}.")
        files = {service: files[service]}
    width = max(map(len, files)) if service is None else 0
    offsets = {name: _tail(name, file, lines, width) for name, file in files.items()}
    try:
        while follow:
            for name, file in files.items():
                offsets[name] = _more(name, file, offsets[name], width)
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass


def _say(name: str, line: bytes, width: int) -> None:
    text = line.decode(errors="replace").rstrip("\n")
    click.echo(f"{name:<{width}} | {text}" if width else text)


def _tail(name: str, file: Path, lines: int, width: int) -> int:
    """Print the last lines; returns how far the file was read."""
    with file.open("rb") as stream:
        for line in deque(stream, maxlen=lines):
            _say(name, line, width)
        return stream.tell()


def _more(name: str, file: Path, offset: int, width: int) -> int:
    """Print the whole lines behind an offset; returns the offset behind them."""
    try:
        with file.open("rb") as stream:
            # A log that grew too large has begun anew.
            stream.seek(offset if file.stat().st_size >= offset else 0)
            offset = stream.tell()
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                _say(name, line, width)
                offset += len(line)
    except FileNotFoundError:
        return 0
    return offset
