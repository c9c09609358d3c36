"""Monitors on the real flights: a reference of January, then known faults and a known blizzard."""

from datetime import UTC, datetime
from functools import cache

import numpy as np
import pandas as pd
import pytest
from flight_features import as_of

from compose.demo.flights import fault, load_events
from monitors.evaluate import ModelMonitor
from monitors.incidents import Alert
from monitors.losses import TILE_MS, sketch_losses
from monitors.reference import ColumnSpec, Reference, UnusableReferenceError
from monitors.settings import MonitorSettings
from monitors.sketches import Sketches, sketch_batch
from monitors.thresholds import build_reference
from monitors.watchers import Window
from schemas.codec import Codec
from schemas.topics import topic

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SPECS = {
    "distance": ColumnSpec("numeric", source="flights.requests"),
    "carrier": ColumnSpec("categorical", source="flights.requests"),
    **{
        f"origin__{name}": ColumnSpec("numeric", source="flights.departures")
        for name in ("dep_count_1h", "dep_delay_mean_1h", "dep_late_share_1h", "dep_delay_mean_3h")
    },
    "carrier__dep_delay_mean_3h": ColumnSpec("numeric", source="flights.departures"),
    "destination__arr_delay_mean_6h": ColumnSpec("numeric", source="flights.arrivals"),
    "weather__temp": ColumnSpec("numeric", role="context", source="flights.weather"),
}
KINDS = {name: spec.kind for name, spec in SPECS.items()}


def ms(month: int, day: int, hour: int = 0) -> int:
    return int(datetime(2013, month, day, hour, tzinfo=UTC).timestamp() * 1000)


@cache
def traffic(start_ms: int, end_ms: int, kind: str = "none") -> pd.DataFrame:
    """Requests with features and labels; the model, where one is asked, always says 22%."""
    events = load_events(start_ms=start_ms, end_ms=end_ms, fault=fault(kind))
    requests = events["flights.requests"]
    arrivals = events["flights.arrivals"].set_index("flight_id")
    frame = pd.concat([requests, as_of(events, requests)], axis=1)
    return frame.assign(
        label_ms=requests["flight_id"].map(arrivals["event_time"]),
        late=requests["flight_id"].map(arrivals["arr_delay"]) > 15,
    )


def inputs(frame: pd.DataFrame) -> Sketches:
    return sketch_batch(
        {name: frame[name].to_numpy() for name in SPECS}, KINDS, frame["event_time"].to_numpy(), TILE_MS
    )


def losses(frame: pd.DataFrame) -> Sketches:
    known = frame[frame["label_ms"].notna()]
    times = known["label_ms"].to_numpy().astype(np.int64)
    return sketch_losses(np.full(len(known), 0.22), known["late"].to_numpy(), times)


@cache
def reference(start_ms: int = ms(1, 1), end_ms: int = ms(2, 1)) -> Reference:
    span = traffic(start_ms, end_ms)
    return build_reference("delay", "1", SPECS, inputs(span), losses(span), seed=1)


def monitored(monitor: ModelMonitor, frame: pd.DataFrame, hours: int = 24) -> tuple[list[Window], list[Alert]]:
    """Play a frame in batches of so many hours."""
    windows, alerts = [], []
    labels = frame["label_ms"].fillna(-1)
    for start in range(
        int(frame["event_time"].min()) // DAY_MS * DAY_MS, int(frame["event_time"].max()), hours * HOUR_MS
    ):
        end = start + hours * HOUR_MS
        if len(asked := frame[frame["event_time"].between(start, end, inclusive="left")]):
            monitor.add_sketches("1", inputs(asked))
        if len(known := frame[labels.between(start, end, inclusive="left")]):
            monitor.add_losses("1", losses(known))
        found = monitor.advance(end)
        windows += found[0]
        alerts += found[1]
    return windows, alerts


def new(settings: MonitorSettings | None = None, known: Reference | None = None) -> ModelMonitor:
    return ModelMonitor("delay", {"1": known or reference()}.get, settings)


# January; the calmest weeks; the stormiest ones, whose own values lie far out; late summer, whose mornings are early.
SPANS = [(ms(1, 1), ms(2, 1)), (ms(2, 10), ms(3, 10)), (ms(6, 1), ms(8, 1)), (ms(7, 8), ms(9, 8))]


@pytest.mark.parametrize("span", SPANS)
def test_minutes_sent_as_seconds_are_found_within_six_hours_and_named(span):
    _, alerts = monitored(new(known=reference(*span)), traffic(ms(8, 8), ms(8, 19), "units"))
    opened, resolved = (
        next(a for a in alerts if a.monitor == "data" and a.status == s) for s in ("opened", "resolved")
    )
    assert 0 < opened.window_end - ms(8, 12) <= 6 * HOUR_MS
    assert (opened.cause, opened.segment, opened.severity) == ("data", "flights.departures", "critical")
    named = {each.column for each in opened.evidence}
    assert {"origin__dep_delay_mean_1h", "origin__dep_delay_mean_3h", "origin__dep_late_share_1h"} <= named
    assert named <= {name for name, spec in SPECS.items() if spec.source == "flights.departures"}
    assert "another unit" in opened.summary
    assert sum(each.share for each in opened.evidence) == pytest.approx(1)
    assert ms(8, 17) < resolved.window_end < ms(8, 18)
    assert len([a for a in alerts if a.monitor == "data" and a.status == "opened"]) == 1


@pytest.mark.parametrize("span", SPANS)
def test_a_silent_feed_is_found_within_six_hours(span):
    _, alerts = monitored(new(known=reference(*span)), traffic(ms(8, 8), ms(8, 19), "outage"))
    opened = [alert for alert in alerts if alert.monitor == "data" and alert.status == "opened"]
    assert [(alert.segment, alert.cause) for alert in opened] == [("flights.departures", "data")]
    assert 0 < opened[0].window_end - ms(8, 12) <= 6 * HOUR_MS
    assert "fallen silent" in opened[0].summary


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("start", "end"), [(ms(2, 5), ms(2, 13)), (ms(8, 8), ms(8, 19)), (ms(7, 26), ms(7, 31)),
                                              (ms(12, 10), ms(12, 18))])  # fmt: skip
def test_a_blizzard_a_storm_a_late_morning_and_plain_weeks_are_no_fault_of_a_feed(start, end, span):
    windows, alerts = monitored(new(known=reference(*span)), traffic(start, end))
    assert [alert for alert in alerts if alert.monitor == "data"] == []
    assert sum(window.monitor == "data" for window in windows) > 24 * 4


def test_no_requests_at_all_are_an_outage_of_their_feed():
    frame = traffic(ms(8, 8), ms(8, 19))
    cut = frame[~frame["event_time"].between(ms(8, 13, 15), ms(8, 14, 20))]
    opened = [alert for alert in monitored(new(), cut)[1] if alert.monitor == "data" and alert.status == "opened"]
    assert [alert.segment for alert in opened] == [""]
    assert opened[0].window_end <= ms(8, 13, 18)


def test_traffic_that_ends_is_no_fault_and_no_drift():
    frame = traffic(ms(8, 8), ms(8, 19))
    monitor = new()
    _, alerts = monitored(monitor, frame)
    before = {alert.incident_id for alert in alerts}
    monitor.add_losses("1", losses(frame[frame["label_ms"] >= ms(8, 19)]))
    windows, alerts = monitor.advance(ms(8, 23))
    assert {window.window_end for window in windows} >= {ms(8, 23)}
    assert [alert for alert in alerts if alert.status == "opened" and alert.incident_id not in before] == []


def test_records_fit_their_schemas():
    windows, alerts = monitored(new(), traffic(ms(8, 8), ms(8, 19), "units"))
    for name, found in (("drift.windows", windows), ("drift.alerts", alerts)):
        codec = Codec(topic(name).schema, topic(name).schema_id)
        assert found
        for each in found:
            record = each.record()
            end = codec.decode(codec.encode(record))["window_end"]
            assert int(end.timestamp() * 1000) == record["window_end"]


def test_context_is_reported_and_never_fires():
    windows, _ = monitored(new(), traffic(ms(8, 8), ms(8, 19)))
    week = [window for window in windows if window.monitor == "features" and window.results]
    weather = [result for window in week for result in window.results if result.column == "weather__temp"]
    assert max(result.value for result in weather if result.statistic == "psi") > 5
    assert not any(result.fired for result in weather)


def until(time_ms: int, *found: tuple[list[Window], list[Alert]]) -> list[list[Window | Alert]]:
    return [[each for part in found for each in part[i] if each.window_end <= time_ms] for i in (0, 1)]


def test_batches_and_restarts_do_not_show():
    frame, end, middle = traffic(ms(8, 8), ms(8, 19), "units"), ms(8, 18), ms(8, 13)
    often = MonitorSettings(false_retrains_a_month=0.9)
    expected = until(end, monitored(new(often), frame, hours=24))
    assert until(end, monitored(new(often), frame, hours=5)) == expected
    before = frame["event_time"] < middle
    known = frame["label_ms"] < middle
    first = new(often)
    found = monitored(first, frame[before].assign(label_ms=frame["label_ms"].where(known)))
    second = ModelMonitor.from_bytes(first.to_bytes(), {"1": reference()}.get, often)
    assert second.to_bytes() == first.to_bytes()
    second.add_losses("1", losses(frame[before & ~known]))
    assert until(end, found, monitored(second, frame[~before])) == expected
    assert {alert.monitor for alert in expected[1]} >= {"data", "features"}
    assert {window.monitor for window in expected[0] if window.results} >= {"performance", "sequential"}


def test_a_promotion_starts_anew_and_closes_what_was_about_the_old_version():
    frame = traffic(ms(8, 8), ms(8, 19))
    asked, versions = frame[frame["event_time"] < ms(8, 16)], {"1": reference(), "2": reference_of("2")}
    monitor = ModelMonitor("delay", versions.get)
    monitor.add_sketches("1", inputs(asked))
    monitor.add_losses("1", sketch_losses(np.full(3000, 0.01), np.ones(3000), np.full(3000, ms(8, 14, 12))))
    assert "performance" in {alert.monitor for alert in monitor.advance(ms(8, 16))[1]}
    monitor.add_sketches("2", inputs(frame[frame["event_time"] >= ms(8, 16)]))
    windows, alerts = monitor.advance(ms(8, 19))
    assert {window.model_version for window in windows if window.window_end > ms(8, 16, 3)} == {"2"}
    closed = [alert for alert in alerts if alert.monitor == "performance"]
    assert [(alert.status, alert.model_version) for alert in closed] == [("resolved", "1")]
    assert all(not window.results for window in windows if window.monitor in ("features", "performance"))


def reference_of(version: str) -> Reference:
    january = traffic(ms(1, 1), ms(2, 1))
    return build_reference("delay", version, SPECS, inputs(january), losses(january), seed=1)


def test_a_version_without_reference_still_moves_the_clock_until_the_stream_ends():
    monitor = ModelMonitor("delay", lambda _: None)
    monitor.add_sketches("prior", inputs(traffic(ms(8, 8), ms(8, 19))))
    windows, alerts = monitor.advance(2**63 - 1)
    assert alerts == []
    days = sorted({window.window_end for window in windows})
    assert days == [ms(8, 9) + i * DAY_MS for i in range(len(days))]
    assert len(days) == 11
    assert {window.monitor for window in windows} == {"data", "features", "performance", "sequential"}


def test_a_reference_is_the_same_for_the_same_seed_and_survives_its_bytes():
    payload = reference().to_bytes()
    assert reference_of("1").to_bytes() == payload
    assert Reference.from_bytes(payload).to_bytes() == payload
    with pytest.raises(UnusableReferenceError, match="version 6"):
        Reference.from_bytes(b"\x10" + payload[1:])


def test_too_short_a_training_span_is_refused():
    week = traffic(ms(8, 8), ms(8, 19))
    with pytest.raises(UnusableReferenceError, match="at least 14 days"):
        build_reference("delay", "1", SPECS, inputs(week), losses(week), seed=1)


def test_surprise_of_a_calibrated_model_is_none_whatever_the_weather():
    random = np.random.default_rng(0)
    for hard in (0.1, 0.5):
        p = np.clip(random.normal(hard, 0.05, 200_000), 0.01, 0.99)
        found = sketch_losses(p, random.random(len(p)) < p, np.zeros(len(p), np.int64))
        means = dict(zip(found.names, found.means[0], strict=True))
        assert abs(means["surprise"]) < 0.005
        assert abs(means["bias"]) < 0.005
