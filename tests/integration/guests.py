"""Feast repos on a platform of their own, as their owners have them: what the tests of such repos share."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from compose.local.home import Home
from compose.local.platform import Platform, local_services
from compose.projects import services
from features.comparison import Parity
from features.compiler.repo import load_repo
from jobs.reading import client_of
from jobs.served import verify_rows

START_MS = 1_700_000_000_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
Record = dict[str, Any]


@contextmanager
def guest_platform(root: Path) -> Iterator[Platform]:
    """A platform that gives registered repos their services."""
    home = Home(root).prepare()
    with Platform(home, services=local_services, more=lambda: services(home)).running() as started:
        yield started


@contextmanager
def applied(repo: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of a repo, applied by Feast, whose registry wants its functions to be importable."""
    copy = folder / repo.name
    shutil.copytree(repo, copy)
    program = str(Path(sys.executable).with_name("feast"))
    done = subprocess.run([program, "-c", str(copy), "apply"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(copy)
    yield copy
    sys.modules.pop("definitions", None)  # which Feast imported


def cli(platform: Platform, *arguments: str, timeout_s: float = 180) -> "subprocess.CompletedProcess[str]":
    """``headwater`` with these arguments, on that platform."""
    return subprocess.run(
        [sys.executable, "-m", "compose.cli", *arguments],
        env={**os.environ, "HEADWATER_HOME": str(platform.home.root)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def headwater(platform: Platform, *arguments: str, status: int = 0, said: bool = False) -> str:
    """What it said, having ended as expected: its output, or its errors where it was to fail."""
    done = cli(platform, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 or said else done.stderr


def verify(platform: Platform, repo: Path) -> Parity:
    at = platform.endpoints
    return verify_rows(client_of(at.clickhouse), at.kafka, load_repo(repo).views.values()).parity


def inside(records: list[Record], at_ms: int, window_ms: int) -> list[Record]:
    return [each for each in records if at_ms - window_ms < each["placed"] <= at_ms]


def last_row_ms(records: list[Record], hop: int, spans: list[tuple[int, int]], until_ms: int) -> int:
    """Time of the newest row before the end: closes of active tiles, and slides of windows that were not empty."""
    due = {-(-each["placed"] // hop) * hop for each in records}
    newest = 0
    while due and min(due) <= until_ms:
        newest = min(due)
        due.remove(newest)
        for window, slide in spans:
            if inside(records, newest, window):
                due.add((newest // slide + 1) * slide)
    return newest


def same(got: Any, want: Any, name: str) -> bool:
    if want is None or got is None:
        return want is None and (got is None or (isinstance(got, float) and math.isnan(got)))
    relative = 0.0101 if name in ("typical", "dear") else 1e-9
    return math.isclose(got, want, rel_tol=relative) if isinstance(want, float) else bool(got == want)
