"""Segments: they add up to the whole, they are told where the whole hides them, and nobody is told twice."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from monitors.evaluate import ModelMonitor
from monitors.incidents import Alert
from monitors.losses import TILE_MS, sketch_losses
from monitors.matching import pack_answers, pack_labels
from monitors.reference import ColumnSpec, Reference
from monitors.segments import OTHER, SPAN_MS, Segmentation, SegmentError, dimensions_of, only, sketch_segments
from monitors.sketches import merge, sketch_batch
from monitors.thresholds import DAY_MS, SegmentedSpan, build_reference
from monitors.watchers import Window

KINDS = {"delay": "numeric", "origin": "categorical"}
SPECS = {name: ColumnSpec(kind) for name, kind in KINDS.items()}
SHARES = {"EWR": 0.5, "JFK": 0.3, "LGA": 0.14, "SWF": 0.06}
CUT = Segmentation(dimensions_of("origin; evening: hour >= 18", KINDS | {"hour": "numeric"}))
ROWS_A_DAY = 800
REFERENCE_DAYS = 42


def traffic(days: int, seed: int, first_day: int = 20_000) -> pd.DataFrame:
    """Requests whose delay has a level of each day, answered by a model that is calibrated."""
    random = np.random.default_rng([9, seed])
    n = days * ROWS_A_DAY
    day = np.repeat(np.arange(days), ROWS_A_DAY)
    within = np.tile(np.arange(ROWS_A_DAY) * (DAY_MS // ROWS_A_DAY), days)
    probability = expit(-1 + random.standard_normal(n))
    return pd.DataFrame(
        {
            "request_id": [f"{seed}-{i}" for i in range(n)],
            "time_ms": (first_day + day) * DAY_MS + within,
            "hour": within // TILE_MS * 1.0,
            "origin": random.choice(list(SHARES), n, p=list(SHARES.values())),
            "delay": random.normal(10, 4, n) + random.normal(0, 0.4, days)[day],
            "probability": probability,
            "late": random.random(n) < probability,
        }
    )


def inputs(rows: pd.DataFrame):
    return sketch_batch({name: rows[name].to_numpy() for name in KINDS}, KINDS, rows["time_ms"].to_numpy(), TILE_MS)


def by_segment(cut: Segmentation, rows: pd.DataFrame):
    values = {name: rows[name].to_numpy() for name in KINDS}
    return sketch_segments(cut, cut.codes(rows), values, KINDS, rows["time_ms"].to_numpy(), TILE_MS)


@cache
def reference() -> Reference:
    rows = traffic(REFERENCE_DAYS, 0)
    cut = CUT.restricted(rows, 200 * REFERENCE_DAYS / 7)
    at, times = cut.spread(cut.codes(rows), rows["time_ms"].to_numpy())
    probability, late = rows["probability"].to_numpy(), rows["late"].to_numpy()
    losses = sketch_losses(probability, late, rows["time_ms"].to_numpy())
    span = SegmentedSpan(cut, by_segment(cut, rows), sketch_losses(probability[at], late[at], times))
    return build_reference("delay", "1", SPECS, inputs(rows), losses, seed=1, segmented=span)


def told(rows: pd.DataFrame, restart: bool = False, hours: int = 24) -> tuple[list[Window], list[Alert]]:
    """What the monitors say of rows that come in batches of so many hours, labels with their requests."""
    monitor = ModelMonitor("delay", {"1": reference()}.get)
    cut, windows, alerts = reference().segmentation, [], []
    for _, batch in rows.groupby(rows["time_ms"] // (hours * TILE_MS)):
        ids, times = batch["request_id"].to_numpy(object), batch["time_ms"].to_numpy()
        monitor.add_sketches("1", inputs(batch))
        monitor.add_segments("1", by_segment(cut, batch))
        monitor.add_labels(pack_labels(ids, batch["late"].to_numpy(np.int64), times))
        monitor.add_answers("1", pack_answers(ids, batch["probability"].to_numpy(), times, cut.codes(batch)))
        if restart:
            monitor = ModelMonitor.from_bytes(monitor.to_bytes(), {"1": reference()}.get)
        found = monitor.advance((int(times[-1]) // TILE_MS + 1) * TILE_MS)
        windows += found[0]
        alerts += found[1]
    return windows, alerts


@cache
def watched() -> pd.DataFrame:
    return traffic(28, 1, first_day=20_000 + REFERENCE_DAYS)


def drifted(where: str, by: float) -> pd.DataFrame:
    """Half of the days unchanged, then a segment whose delays are others."""
    rows = watched().copy()
    later = rows["time_ms"] >= rows["time_ms"].iloc[0] + 10 * DAY_MS
    mine = later & (rows["origin"] == where)
    rows.loc[mine, "delay"] += by
    return rows


def opened(alerts: list[Alert], monitor: str) -> list[Alert]:
    return [each for each in alerts if each.status == "opened" and each.monitor == monitor]


def test_values_are_bounded_and_the_rest_is_other():
    dimension = reference().segmentation.dimensions[0]
    assert dimension.segments == ("origin=EWR", "origin=JFK", "origin=LGA", "origin=SWF", f"origin={OTHER}")
    frame = pd.DataFrame({"origin": ["JFK", None, "new", "EWR"], "hour": [17, 18, np.nan, 23]})
    assert dimension.of(frame).tolist() == [1, 4, 4, 0]
    assert reference().segmentation.dimensions[1].of(frame).tolist() == [0, 1, 0, 1]
    many = pd.DataFrame({"origin": [f"v{i % 50:02}" for i in range(5000)], "hour": 0.0})
    assert len(CUT.restricted(many, 1).dimensions[0].values) == 20
    assert CUT.restricted(many, 200).dimensions[0].values == ()


def test_a_row_is_in_one_segment_of_every_dimension():
    cut = reference().segmentation
    rows = watched()
    origin, evening = cut.numbers(cut.codes(rows))
    names = np.array(cut.segments)
    assert (names[origin] == "origin=" + rows["origin"]).all()
    assert (names[evening] == np.where(rows["hour"] >= 18, "evening=yes", "evening=no")).all()
    assert Segmentation.of_plain(json.loads(json.dumps(cut.plain()))) == cut


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 400), st.integers(1, 5), st.randoms())
def test_segments_of_batches_in_any_order_add_up_to_the_whole(count, batches, random):
    rows = watched().sample(count, random_state=random.randrange(2**31)).reset_index(drop=True)
    parts = [rows[rows.index % batches == i] for i in range(batches)]
    cut = reference().segmentation
    random.shuffle(parts)
    table = merge([by_segment(cut, each) for each in parts if len(each)])
    assert table.to_bytes() == by_segment(cut, rows).to_bytes()
    for first, last in ((0, 5), (5, 7)):
        each = [only(table, number, 0, SPAN_MS) for number in range(first, last)]
        whole = merge([part for part in each if len(part.tiles)])
        assert whole.to_bytes() == inputs(rows).to_bytes()


def test_a_reference_keeps_its_segments():
    again = Reference.from_bytes(reference().to_bytes())
    assert again.to_bytes() == reference().to_bytes()
    assert list(again.segments) == [name for name in CUT_SEGMENTS if name != f"origin={OTHER}"]
    assert again.segments["origin=JFK"].merged.rows[0] == (traffic(REFERENCE_DAYS, 0)["origin"] == "JFK").sum()


CUT_SEGMENTS = ("origin=EWR", "origin=JFK", "origin=LGA", "origin=SWF", "origin=other", "evening=no", "evening=yes")


def test_traffic_that_does_not_change_raises_nothing():
    windows, alerts = told(watched())
    assert alerts == []
    judged = [each for each in windows if each.monitor == "features" and each.results]
    assert {each.segment for each in judged[-1].results} == {"", *CUT_SEGMENTS} - {f"origin={OTHER}"}


def test_what_a_small_segment_does_is_told_though_the_whole_hides_it():
    windows, alerts = told(drifted("SWF", 3.5))
    (alert,) = opened(alerts, "features")
    assert (alert.segment, alert.cause, alert.evidence[0].column) == ("origin=SWF", "world", "delay")
    assert "Traffic of origin=SWF differs" in alert.summary
    assert "All traffic together does not show it" in alert.summary
    fired = {each.segment for window in windows for each in window.results if each.fired}
    assert fired == {"origin=SWF"}


def test_what_the_whole_shows_is_told_once_and_names_its_segments():
    rows = watched().copy()
    rows.loc[rows["time_ms"] >= rows["time_ms"].iloc[0] + 10 * DAY_MS, "delay"] += 5
    _, alerts = told(rows)
    (alert,) = opened(alerts, "features")
    assert alert.segment == ""
    assert "Segments that differ most: " in alert.summary


def test_a_segment_waits_for_the_incident_of_the_whole_to_end():
    """All traffic is off for a week, one segment for longer: a quiet day of the whole is not yet its end."""
    rows = drifted("SWF", 3.5)
    day = (rows["time_ms"] - rows["time_ms"].iloc[0]) // DAY_MS
    rows.loc[(day >= 10) & (day < 17) & (rows["origin"] != "SWF"), "delay"] += 5
    _, alerts = told(rows)
    mine = [each for each in alerts if each.monitor == "features"]
    assert [(each.segment, each.status) for each in mine] == [
        ("", "opened"),
        ("", "resolved"),
        ("origin=SWF", "opened"),
    ]
    assert mine[2].window_end > mine[1].window_end


def test_a_model_that_fails_one_segment_and_flatters_another_is_found():
    """Simpson's case: over all traffic its bias is none."""
    rows = watched().copy()
    random = np.random.default_rng(4)
    later = rows["time_ms"] >= rows["time_ms"].iloc[0] + 10 * DAY_MS
    for origin, by in (("EWR", 0.9), ("JFK", -1.4)):
        mine = later & (rows["origin"] == origin)
        logit = np.log(rows.loc[mine, "probability"] / (1 - rows.loc[mine, "probability"]))
        rows.loc[mine, "late"] = random.random(mine.sum()) < expit(logit + by)
    _, alerts = told(rows)
    assert {each.segment for each in opened(alerts, "performance")} >= {"origin=EWR", "origin=JFK"}
    assert "which all traffic together does not show" in opened(alerts, "performance")[0].summary


def test_batches_and_restarts_do_not_show():
    rows = drifted("SWF", 3.5)
    whole = told(rows)
    assert told(rows, restart=True, hours=16) == whole


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port", "expected columns of"),
        ("delay", "expected a column of texts"),
        ("far: distance > 3", "expected columns of"),
        ("far: delay >", "expected a condition such as"),
        ("far: delay + 1", "expected a condition"),
        ("far:", "behind the colon"),
        ("origin; origin: delay > 1", "expected to be named once"),
    ],
)
def test_what_is_no_segment_is_told(text, says):
    with pytest.raises(SegmentError, match=says):
        dimensions_of(text, KINDS)
