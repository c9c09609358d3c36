"""``headwater watch`` where there is nothing to look at."""

import itertools
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compose.cli import headwater
from compose.commands import watch


def run(home: Path, *options: str) -> Result:
    return CliRunner().invoke(headwater, ["watch", *options], env={"HEADWATER_HOME": str(home)})


def test_without_a_platform_it_says_how_to_start_one(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "`headwater up` starts one" in done.output


def test_again_and_again_it_waits_for_a_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = itertools.count()

    def sleep(seconds: float) -> None:
        assert seconds == 5
        if next(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", sleep)
    done = run(tmp_path, "--every", "5s")
    assert done.output.count("The next look is in 5 s.") == 3


def test_a_duration_that_is_none_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, "--last", "soon")
    assert done.exit_code == 2
    assert "expected a duration such as" in done.output
