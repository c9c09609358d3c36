"""``--sequential`` and ``--against`` on their way from the command line to the settings of the drift job."""

import os

import pytest
from click.testing import CliRunner

from compose.cli import headwater
from jobs import submit as jobs_submit
from monitors.detectors import DETECTORS
from monitors.sequential import parse_specs
from monitors.series import SERIES
from monitors.settings import MonitorSettings
from monitors.shift import parse_against

KNOWN = ", ".join(sorted(DETECTORS))


def said(*arguments: str) -> str:
    shown = CliRunner().invoke(headwater, arguments, prog_name="headwater")
    assert shown.exit_code == 2, shown.output
    return shown.output


@pytest.mark.parametrize("command", [("submit", "drift"), ("alerts", "replay")])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["auc:adwin"], f"auc:adwin: expected as series one of {', '.join(SERIES)}, got 'auc'."),
        (["score:cusum"], f"score:cusum: expected as detector one of {KNOWN}, got 'cusum'."),
        (["adwin"], f"expected SERIES:DETECTOR, one of {', '.join(SERIES)} with one of {KNOWN}, got 'adwin'."),
        (["score:ddm", "score:ddm"], "expected each detector of a series once, got more of score:ddm."),
    ],
)
def test_a_wrong_name_is_a_usage_error_that_lists_what_there_is(command, given, message):
    options = [part for each in given for part in ("--sequential", each)]
    assert f"Error: Invalid value for '--sequential': {message}" in said(*command, *options)


@pytest.mark.parametrize("command", [("submit", "drift"), ("alerts", "replay")])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["2013-01-01"], "expected trailing:DURATION, earlier:DURATION or FROM..TO, such as trailing:28d, earlier:7d"),
        (["trailing:3d"], "trailing:3d: expected whole days, 14 d to 400 d, got 3d."),
        (["earlier:7d", "earlier:168h"], "expected each reference once, got more of earlier:7d."),
    ],
)
def test_what_is_no_reference_is_a_usage_error_that_says_what_would_be(command, given, message):
    options = [part for each in given for part in ("--against", each)]
    assert f"Error: Invalid value for '--against': {message}" in said(*command, *options)


def test_help_names_every_series_and_detector():
    shown = CliRunner().invoke(headwater, ["submit", "--help"], prog_name="headwater", terminal_width=80)
    words = set(shown.output.replace(",", " ").split())
    assert words >= {*SERIES, *DETECTORS}
    assert "log_loss:adwin" in shown.output


def options_of(monkeypatch: pytest.MonkeyPatch, *given: str) -> list[str]:
    """Options that `headwater submit drift` has the job sent with."""
    sent = []

    def send(book, jobs, options, repo, fresh):
        sent.extend(options)
        return []

    monkeypatch.setattr("compose.submission.send", send)
    target = ("--target", "http://flink:1", "--kafka", "broker:1")
    shown = CliRunner().invoke(headwater, ["submit", "drift", *target, *given], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    return sent


def plan_of(monkeypatch: pytest.MonkeyPatch, *options: str) -> jobs_submit.Plan:
    """What `python -m jobs.submit drift` makes of them."""
    plans = []
    monkeypatch.setattr(jobs_submit, "submit", lambda job, plan, repo, checkpoint: plans.append(plan))
    monkeypatch.setattr(jobs_submit, "load_repo", lambda folder: None)
    monkeypatch.setattr(os, "_exit", lambda status: None)
    addresses = ("--kafka", "broker:1", "--flink", "http://flink:1", "--home", "/nowhere")
    shown = CliRunner().invoke(jobs_submit.main, ["drift", *addresses, *options], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    return plans[0]


def test_it_reaches_the_settings_of_the_job(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    given = ("--sequential", "log_loss:kswin", "--sequential", "score:hddm_a", "--false-retrains", "0.1")
    plan = plan_of(monkeypatch, *options_of(monkeypatch, *given))
    assert plan.settings.sequential == parse_specs(["log_loss:kswin", "score:hddm_a"])
    assert plan.settings.false_retrains_a_month == 0.1
    given = ("--against", "trailing:28d", "--against", "2013-01-01..2013-02-01")
    found = plan_of(monkeypatch, *options_of(monkeypatch, *given)).settings
    assert found == MonitorSettings(against=parse_against(given[1::2]))
    assert plan_of(monkeypatch, *options_of(monkeypatch)).settings == MonitorSettings()
