"""``headwater alerts replay`` on four months of planted drift in a real archive."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import stored_months as months
from click.testing import CliRunner, Result
from stored_months import at

from compose.cli import headwater
from compose.local.home import Home
from compose.past import open_archive, read_past
from monitors.evaluate import ModelMonitor
from monitors.incidents import Alert
from monitors.segments import SPAN_MS
from monitors.settings import MonitorSettings
from monitors.thresholds import DAY_MS, HOUR_MS

FOREVER_MS = at(1000)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[months.Kept]:
    with months.kept_platform(Home(tmp_path_factory.mktemp("kept"))) as found:
        yield found


@pytest.fixture(scope="module")
def stock(kept: months.Kept) -> dict:
    """What the policy of the flights would have done."""
    return told(kept)


def replay(kept: months.Kept, *options: str) -> Result:
    return kept.run("alerts", "replay", *options)


def told(kept: months.Kept, *options: str) -> dict:
    done = replay(kept, "--json", *options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def policy(folder: Path, retrain: str, more: str = "") -> str:
    file = folder / "policy.yaml"
    file.write_text(f"version: tried\nlead: 7 d\ncool_down: 28 d\n{more}monitors: {{retrain: [{retrain}]}}\n")
    return str(file)


def day_of(text: str) -> float:
    return (pd.Timestamp(text).value // 1_000_000 - months.START_MS) / DAY_MS


def test_alerts_are_those_of_a_monitor_that_hears_an_hour_at_a_time(kept: months.Kept) -> None:
    with open_archive(kept.home, kept.clickhouse, "delay") as (stored, references):
        past = read_past(stored, "delay", references, MonitorSettings(), FOREVER_MS)
    assert (past.sketches, past.labelled) == (kept.sketches, (kept.rows["label_at"] < FOREVER_MS).sum())
    assert {each.monitor for each in past.alerts} == {"data", "features", "performance", "sequential"}
    assert past.alerts == hour_by_hour(kept)


def hour_by_hour(kept: months.Kept) -> list[Alert]:
    monitor, found = ModelMonitor("delay", kept.references.get), []
    takes = [monitor.add_sketches, monitor.add_losses, monitor.add_segments, monitor.add_segment_losses]
    whole = {}
    for name, rows in kept.rows.groupby("version"):
        whole[name] = [months.inputs(rows), months.losses(rows)]
        if name in kept.references:
            cut = kept.references[name].segmentation
            whole[name] += [months.segments(rows, cut), months.segment_losses(rows, cut)]
    for hour in range(months.START_MS, at(months.DAYS), HOUR_MS):
        for version, tables in whole.items():
            for take, table in zip(takes, tables, strict=False):
                now = table.take(np.flatnonzero(table.tiles % SPAN_MS == hour))
                if len(now.tiles):
                    take(version, now)
        found += monitor.advance(hour + HOUR_MS)[1]
    return found


def test_the_policy_that_was_in_force_does_what_was_done(stock: dict, kept: months.Kept) -> None:
    found = stock
    assert (found["model"], found["sketches"], found["labelled"]) == ("delay", kept.sketches, len(kept.rows))
    assert {round(day_of(each["at"])): each["monitor"] for each in found["retrains"]} == {
        day: monitor for day, monitor in months.ASKED.items() if monitor != "bootstrap"
    }
    assert found["policies"]["policy"] == found["policies"]["was"]


def test_it_retrains_for_nothing_once_and_is_late_once(stock: dict) -> None:
    """Amounts rise and nothing is the worse for it; while the model cools down from that, labels cease to fit."""
    (decline,) = stock["declines"]
    assert [day_of(decline[end]) for end in ("from", "to")] == list(months.ODD)
    assert (decline["sure"], decline["ended_by"]) == (True, "2")
    assert [each["false"] for each in stock["retrains"]] == [True, False]
    mine = stock["policies"]["policy"]
    assert (mine["retrains"], mine["false"], mine["missed"]) == (2, 1, 0)
    assert mine["delay_days"] == 92 - months.ODD[0]


def test_beside_it_stand_those_who_ask_nobody(stock: dict) -> None:
    found = stock["policies"]
    assert list(found) == ["policy", "was", "always", "never", "monthly"]
    assert {name: found["never"][name] for name in ("retrains", "false", "missed", "delay_days")} == {
        "retrains": 0, "false": 0, "missed": 1, "delay_days": None,
    }  # fmt: skip
    # The first model was asked for on day 30, and answers from day 31 on.
    assert [day_of(each) for each in found["always"]["at"]] == [58, 86, 114]
    assert [day_of(each) for each in found["monthly"]["at"]] == [61, 91]
    assert [found[each]["delay_days"] for each in ("always", "monthly")] == [2, 7]
    harm = {name: each["harm_nats"] for name, each in found.items()}
    assert 0 < harm["always"] < harm["monthly"] < harm["never"]
    assert harm["never"] == stock["declines"][0]["harm_nats"]


def test_a_policy_that_hears_only_labels_is_never_wrong_and_early(kept: months.Kept, tmp_path: Path) -> None:
    found = told(kept, "--policy", policy(tmp_path, "performance, sequential"))
    mine = found["policies"]["policy"]
    assert (mine["retrains"], mine["false"], mine["missed"]) == (1, 0, 0)
    assert mine["delay_days"] <= 2
    assert mine["harm_nats"] < found["policies"]["always"]["harm_nats"]


def test_a_policy_that_never_retrains_misses_it(kept: months.Kept, tmp_path: Path) -> None:
    found = told(kept, "--policy", policy(tmp_path, ""))["policies"]
    assert found["policy"] == found["never"]
    assert found["never"]["missed"] == 1


def test_with_a_margin_that_nothing_exceeds_nothing_declines(kept: months.Kept, tmp_path: Path) -> None:
    found = told(kept, "--policy", policy(tmp_path, "performance", "margin: 9\n"))
    assert found["declines"] == []
    assert all(each["harm_nats"] == each["missed"] == 0 for each in found["policies"].values())


def test_alerts_come_of_the_budget_that_is_asked_for(kept: months.Kept, tmp_path: Path) -> None:
    labels = policy(tmp_path, "performance")
    usual, strict = (
        told(kept, "--policy", labels, "--false-retrains", each)["policies"]["policy"] for each in ("0.25", "0.000001")
    )
    assert usual["delay_days"] < strict["delay_days"]
    assert usual["harm_nats"] < strict["harm_nats"]


def test_a_policy_may_retrain_for_traffic_unlike_the_weeks_before(kept: months.Kept, tmp_path: Path) -> None:
    mine = policy(tmp_path, "shift")
    assert told(kept, "--policy", mine)["retrains"] == []  # nobody looks
    (found,) = told(kept, "--policy", mine, "--against", "trailing:28d")["retrains"]
    assert found["monitor"] == "shift"
    assert months.RISEN[0] < day_of(found["at"]) <= months.RISEN[0] + 3
    assert found["false"] is True  # amounts that rise do the model no harm


def test_a_span_counts_what_is_in_it(kept: months.Kept) -> None:
    found = told(kept, "--from", f"{pd.Timestamp(at(75), unit='ms'):%Y-%m-%d}")
    assert [each["monitor"] for each in found["retrains"]] == ["performance"]
    assert found["policies"]["policy"]["false"] == 0
    found = told(kept, "--to", f"{pd.Timestamp(at(80), unit='ms'):%Y-%m-%d}")
    assert [each["monitor"] for each in found["retrains"]] == ["features"]
    assert found["declines"] == []
    assert found["labelled"] < 80 * 24 * months.HOURLY


def test_people_are_told_in_a_pipe_as_well(kept: months.Kept) -> None:
    done = replay(kept)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    mine = next(line.split() for line in lines if line.startswith("this policy"))
    assert mine[2:6] == ["2", "1", "0", "8.0"]
    assert "this policy .........F..=R=.." in [" ".join(line.split()) for line in lines]
    assert "Declines: 1, sure: 1, ended by another version: 1" in " ".join(done.stdout.split())
    assert max(map(len, lines[:15])) <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "fraud"], "Expected one of the models delay, got 'fraud'."),
        (["--policy", "no.yaml"], "no.yaml: expected a policy in YAML"),
        (["--from", "2099-01-01"], "Expected a span within the traffic of delay"),
        (["--to", "2001-01-01"], "Expected sketches of the traffic of delay"),
        (["--to", f"{pd.Timestamp(at(20), unit='ms'):%Y-%m-%d}"], "only the prior has answered by then"),
    ],
)
def test_what_cannot_be_is_said(kept: months.Kept, options: list[str], message: str) -> None:
    done = replay(kept, *options)
    assert done.exit_code == 1
    assert message in done.output


def test_a_reference_that_is_gone_is_named(kept: months.Kept) -> None:
    file = kept.home.path("models", "delay", "1", "reference.avro")
    file.rename(file.with_name("away"))
    try:
        done = replay(kept)
    finally:
        file.with_name("away").rename(file)
    assert done.exit_code == 1
    assert f"{file}: No such file or directory." in done.output


def test_without_a_platform_there_is_nothing_to_replay(tmp_path: Path) -> None:
    done = CliRunner().invoke(headwater, ["alerts", "replay"], env={"HEADWATER_HOME": str(tmp_path)})
    assert done.exit_code == 1
    assert "No platform runs in" in done.output
