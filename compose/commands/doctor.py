"""``headwater doctor``."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import click
import psutil

from compose.local.formats import format_jar
from compose.local.home import Home, PlatformError, cache_dir
from compose.local.jars import jars, locked, missing
from compose.local.java import java_home, java_version
from compose.local.platform import PORT_NAMES, Running
from compose.local.services import free_ports

__all__ = ["Finding", "command", "findings"]

MEMORY_BYTES_MIN = 4 << 30


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : str
    verdict : {"ok", "warning", "failure"}
    text : str
        What is there and, unless it is as it should be, what to do.
    """

    check: str
    verdict: Literal["ok", "warning", "failure"]
    text: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def command(as_json: bool) -> None:
    """Check what the platform needs on this machine.

    Fetches Java archives that are missing and compiles what is not compiled yet, so that after a `doctor` without
    failures `headwater up` needs no network. Exits with status 1 if anything failed.
    """
    found = list(findings(Home.find()))
    failed = any(each.verdict == "failure" for each in found)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(each) for each in found]}, indent=2))
    else:
        for each in found:
            sign, colour = {"ok": ("ok", "green"), "warning": ("!", "yellow")}.get(each.verdict, ("FAIL", "red"))
            click.echo(f"{click.style(f'{sign:>4}', fg=colour)}  {each.check}: {each.text}")
    sys.exit(1 if failed else 0)


def findings(home: Home) -> Iterator[Finding]:
    """Run every check, each on its own: one that fails hides no other."""
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{sys.version.split()[0]} at {sys.executable}",
        "java": _java,
        "flink": lambda: f"PyFlink {version('apache-flink')}",
        "archives": _archives,
        "format": lambda: str(format_jar()),
        "state": lambda: f"{home.prepare().root}, {shutil.disk_usage(home.root).free >> 30} GiB free",
        "ports": lambda: _ports(home),
    }
    for name, check in checks.items():
        try:
            yield Finding(name, "ok", check())
        except (PlatformError, PackageNotFoundError, OSError) as exc:
            yield Finding(name, "failure", str(exc))
    yield _memory(home)
    yield _processors()


def _java() -> str:
    chosen, own = java_home(), os.environ.get("JAVA_HOME")
    text = f"Java {java_version(chosen)} at {chosen}"
    if own and chosen != type(chosen)(own):
        text += f" (JAVA_HOME is {own}, which holds no Java 17 to 21, and is not used)"
    return text


def _archives() -> str:
    lacking = [each for use in ("kafka", "flink", "build") for each in missing(use)]
    for use in ("kafka", "flink", "build"):
        jars(use)
    total = sum(len(locked(use)) for use in ("kafka", "flink", "build"))
    return f"{total} verified in {cache_dir() / 'jars'}" + (f", {len(lacking)} just fetched" if lacking else "")


def _ports(home: Home) -> str:
    if (running := Running.find(home)) is not None:
        return f"in use by the platform that runs, process {running.pid}"
    fixed = [
        f"{name} {os.environ[key]}" for name in PORT_NAMES if (key := f"HEADWATER_{name.upper()}_PORT") in os.environ
    ]
    free_ports(PORT_NAMES)
    return f"asked for and free: {', '.join(fixed)}" if fixed else "free ones are found at each start"


def _memory(home: Home) -> Finding:
    free = psutil.virtual_memory().available
    if free >= MEMORY_BYTES_MIN or Running.find(home) is not None:
        return Finding("memory", "ok", f"{free / 2**30:.1f} GiB available")
    advice = f"{free / 2**30:.1f} GiB available, the platform with its jobs takes up to {MEMORY_BYTES_MIN >> 30} GiB"
    return Finding("memory", "warning", f"{advice}; close something large")


def _processors() -> Finding:
    count = len(os.sched_getaffinity(0))
    if count >= 2:
        return Finding("processors", "ok", str(count))
    return Finding("processors", "warning", "1; all works, slowly: two are what it is made for")
