"""``headwater drift spans`` on four months of planted drift in a real archive."""

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import stored_months as months
from stored_months import at

from compose.local.home import Home
from monitors.statistics import distance
from monitors.thresholds import DAY_MS, HOUR_MS

ROSE = months.RISEN[0]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[months.Kept]:
    with months.kept_platform(Home(tmp_path_factory.mktemp("kept"))) as found:
        yield found


def days(first: int, last: int) -> str:
    return "..".join(f"{pd.Timestamp(at(each), unit='ms'):%Y-%m-%d}" for each in (first, last))


def told(kept: months.Kept, *arguments: str) -> dict:
    done = kept.run("drift", "spans", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def between(kept: months.Kept, start_ms: int, end_ms: int) -> pd.DataFrame:
    times = kept.rows["at"]
    return kept.rows[(times >= start_ms) & (times < end_ms)]


@pytest.mark.parametrize(
    ("reference", "first", "last"),
    [(days(10, 38), 10, 38), ("trailing:28d", ROSE - 28, ROSE), ("earlier:7d", ROSE - 7, ROSE)],
)
def test_a_span_is_all_that_was_asked_in_it_and_nothing_else(
    kept: months.Kept, reference: str, first: int, last: int
) -> None:
    found = told(kept, reference, days(ROSE, ROSE + 7))
    before, now = between(kept, at(first), at(last)), between(kept, at(ROSE), at(ROSE + 7))
    assert found["rows"] == {"reference": len(before), "current": len(now)}
    sides = [months.inputs(each).collapse().column("amount") for each in (before, now)]
    assert found["columns"]["amount"]["ks"]["value"] == pytest.approx(distance("ks", *sides), abs=1e-12)


def test_what_rose_is_told_by_its_chance_and_what_did_not_is_not(kept: months.Kept) -> None:
    found = told(kept, "trailing:35d", days(ROSE, ROSE + 7))["columns"]
    assert found["amount"]["ks"]["p_value"] < 1e-3
    assert found["channel"]["tv"]["p_value"] > 0.01
    quiet = told(kept, "trailing:35d", days(ROSE - 7, ROSE))["columns"]
    assert min(quiet[name][each]["p_value"] for name, each in (("amount", "ks"), ("channel", "tv"))) > 0.01


def test_hours_are_compared_and_no_chance_is_made_up(kept: months.Kept) -> None:
    start = at(ROSE) + 18 * HOUR_MS
    span = "..".join(f"{pd.Timestamp(each, unit='ms'):%Y-%m-%dT%H:%M}" for each in (start, start + 3 * HOUR_MS))
    found = told(kept, "earlier:7d", span)
    assert found["rows"]["current"] == len(between(kept, start, start + 3 * HOUR_MS))
    assert found["rows"]["reference"] == len(between(kept, start - 7 * DAY_MS, start - 7 * DAY_MS + 3 * HOUR_MS))
    assert found["columns"]["amount"]["ks"]["p_value"] is None


def test_what_a_version_was_trained_on_is_a_reference_with_its_own_chances(kept: months.Kept) -> None:
    found = told(kept, "training", days(ROSE, ROSE + 7))
    reference = kept.references["1"]
    assert found["rows"]["reference"] == int(reference.merged.rows.sum())
    now = months.inputs(between(kept, at(ROSE), at(ROSE + 7))).collapse().column("amount")
    value = distance("ks", reference.merged.column("amount"), now)
    (null,) = (each for each in reference.nulls["amount"] if each.statistic == "ks")
    assert found["columns"]["amount"]["ks"]["p_value"] == pytest.approx(null.p_value(value))


def test_the_newest_days_are_the_last_that_are_over(kept: months.Kept) -> None:
    newest = int(kept.rows["at"].max()) // HOUR_MS * HOUR_MS
    found = told(kept, "trailing:14d", "last:24h")
    assert found["rows"]["current"] == len(between(kept, newest - DAY_MS, newest))


@pytest.mark.parametrize(
    ("reference", "current", "expected"),
    [
        ("trailing:28d", "yesterday", "Expected a span of last:DURATION or FROM..TO"),
        ("trailing:28d", "last:90min", "whole hours"),
        ("trailing:soon", "last:7d", "expected a duration"),
        ("sometime", "last:7d", "trailing:DURATION"),
        ("training", "2001-01-01..2001-01-08", "has none with sketches"),
        ("training", days(3, 10), "it was the prior"),
    ],
)
def test_what_is_no_span_is_said(kept: months.Kept, reference: str, current: str, expected: str) -> None:
    done = kept.run("drift", "spans", reference, current)
    assert done.exit_code == 1
    assert expected in done.output


def test_people_are_shown_what_differs_most_first(kept: months.Kept) -> None:
    done = kept.run("drift", "spans", "trailing:35d", days(ROSE, ROSE + 7))
    assert done.exit_code == 0, done.output
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert np.argmin([lines.index(name) for name in ("amount", "age", "channel")]) == 0
