"""The facts of 2013, to which the event streams must be true."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from compose.demo.flights import STREAMS, Fault, TrafficError, fault, load_events, read_table
from schemas.topics import DAY_MS, topic

MINUTE_MS = 60_000
Frames = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def year() -> Frames:
    return load_events()


@pytest.fixture(scope="module")
def journeys(year: Frames) -> pd.DataFrame:
    """Requests with the departure and arrival of the same flight."""
    requests, departures, arrivals = (year[name].set_index("flight_id") for name in STREAMS[:3])
    return requests.join(departures[["event_time", "dep_delay"]].add_prefix("dep_")).join(
        arrivals[["event_time", "arr_delay"]].add_prefix("arr_")
    )


def test_frames_have_the_columns_of_their_schemas_in_event_time_order(year: Frames) -> None:
    assert tuple(year) == STREAMS
    for name, frame in year.items():
        fields = topic(name).schema["fields"]
        assert list(frame.columns) == [field["name"] for field in fields]
        assert frame["event_time"].is_monotonic_increasing
        nullable = {field["name"] for field in fields if isinstance(field["type"], list)}
        assert set(frame.columns[frame.isna().any()]) <= nullable


def test_every_flight_is_requested_once_and_an_hour_ahead(year: Frames) -> None:
    requests = year["flights.requests"]
    assert len(requests) == 336_776
    assert requests["flight_id"].is_unique
    assert (requests["sched_dep"] - requests["event_time"] == 60 * MINUTE_MS).all()
    assert requests["flight_id"].iloc[0] == "UA1545-EWR-20130101T1015Z"


def test_what_never_comes(year: Frames, journeys: pd.DataFrame) -> None:
    cancelled = journeys["dep_event_time"].isna()
    assert cancelled.sum() == 8_255
    assert (~cancelled & journeys["arr_event_time"].isna()).sum() == 1_175
    assert len(year["flights.departures"]) == 336_776 - 8_255
    assert len(year["flights.arrivals"]) == 336_776 - 8_255 - 1_175


def test_when_labels_come(journeys: pd.DataFrame) -> None:
    delay_minutes = (journeys["arr_event_time"] - journeys["sched_dep"]) / MINUTE_MS
    assert delay_minutes.quantile(0.5) == 170
    assert delay_minutes.quantile(0.999) == pytest.approx(663, abs=0.5)
    in_order = journeys.dropna(subset="arr_event_time").sort_values(["sched_dep", "arr_event_time"])["arr_event_time"]
    assert (in_order < in_order.cummax()).mean() == pytest.approx(0.967, abs=0.0005)


def test_a_flight_is_in_the_air_for_no_less_than_its_air_time(journeys: pd.DataFrame) -> None:
    table = read_table("flights")
    hour = pd.to_datetime(table["time_hour"], utc=True) + pd.to_timedelta(table["minute"], unit="min")
    number = table["carrier"] + table["flight"].astype(str)
    key = number + "-" + table["origin"] + "-" + hour.dt.strftime("%Y%m%dT%H%MZ")
    air = journeys["arr_event_time"] - journeys["dep_event_time"] - table.set_index(key)["air_time"] * MINUTE_MS
    assert (air.dropna() >= 0).all()


def test_most_flights_leave_before_an_honest_prediction_at_departure_time(journeys: pd.DataFrame) -> None:
    assert (journeys["dep_event_time"] < journeys["sched_dep"]).mean() == pytest.approx(0.545, abs=0.0005)
    assert (journeys["dep_event_time"] > journeys["event_time"]).sum() == 336_776 - 8_255


def test_arrivals_on_a_later_date(journeys: pd.DataFrame) -> None:
    airports = read_table("airports").dropna(subset="tzone").set_index("faa")["tzone"]
    arrived = journeys.dropna(subset="arr_event_time")
    zones = arrived["dest"].map(airports).fillna("America/Puerto_Rico")
    later = 0
    for zone, rows in arrived.groupby(zones):
        landed = pd.to_datetime(rows["arr_event_time"], unit="ms", utc=True).dt.tz_convert(zone).dt.tz_localize(None)
        left = pd.to_datetime(rows["sched_dep"], unit="ms", utc=True).dt.tz_convert("America/New_York")
        later += (landed.dt.normalize() > left.dt.tz_localize(None).dt.normalize()).sum()
    assert later == 11_885


def test_tail_numbers(year: Frames) -> None:
    tails = year["flights.requests"]["tailnum"]
    assert sum(tail is None for tail in tails) == 2_512
    assert len(set(tails.dropna()) - set(read_table("planes")["tailnum"])) == 721


def test_weather_keeps_its_gaps_and_its_outlier(year: Frames) -> None:
    weather = year["flights.weather"]
    assert weather["wind_speed"].max() == pytest.approx(1_048.36, abs=0.01)
    spans = weather.groupby("origin")["event_time"].agg(["min", "max", "size"])
    assert ((spans["max"] - spans["min"]) // 3_600_000 + 1 - spans["size"]).sum() == 75
    assert (weather["event_time"] - weather["observed_at"] == 3_600_000).all()


def test_midnight_and_the_clock_change(year: Frames) -> None:
    assert (read_table("flights")["dep_time"] == 2400).sum() == 29
    arrivals = year["flights.arrivals"].set_index("flight_id")
    # Scheduled 22:50 to 00:08 on the night the clocks go back: 78 minutes, not 18.
    night = year["flights.requests"].query("origin == 'JFK' and dest == 'BUF' and block_minutes < 100")
    back = datetime(2013, 11, 3, 22, 50, tzinfo=ZoneInfo("America/New_York"))
    row = night[night["sched_dep"] == int(back.timestamp() * 1000)].iloc[0]
    assert row["block_minutes"] == 78
    assert arrivals.loc[row["flight_id"], "event_time"] > row["sched_dep"] + 60 * MINUTE_MS
    assert year["flights.requests"]["block_minutes"].min() == 50


def test_a_slice_carries_all_events_of_its_flights(year: Frames) -> None:
    start = int(datetime(2013, 3, 1, tzinfo=UTC).timestamp() * 1000)
    part = load_events(start_ms=start, end_ms=start + DAY_MS)
    requests = year["flights.requests"]
    wanted = requests[requests["event_time"].between(start, start + DAY_MS, inclusive="left")]["flight_id"]
    assert set(part["flights.requests"]["flight_id"]) == set(wanted)
    for name in STREAMS[:3]:
        assert set(part[name]["flight_id"]) == set(year[name]["flight_id"]) & set(wanted)
    assert part["flights.weather"]["event_time"].min() >= start


def test_the_first_flights(year: Frames) -> None:
    part = load_events(flights=1_000)
    pd.testing.assert_frame_equal(part["flights.requests"], year["flights.requests"].head(1_000))


def test_no_flights_is_an_error() -> None:
    with pytest.raises(TrafficError, match="expected flights"):
        load_events(start_ms=0, end_ms=1)


def test_the_units_fault_multiplies_departure_delays_of_its_span_only(year: Frames) -> None:
    wrong = fault("units")
    assert wrong is not None
    before = year["flights.departures"]
    after = wrong.apply(before)
    hit = before["event_time"].between(wrong.start_ms, wrong.end_ms, inclusive="left").to_numpy()
    assert 4_000 < hit.sum() < 6_000
    ratio = np.where(hit, 60.0, 1.0)
    np.testing.assert_array_equal(after["dep_delay"], before["dep_delay"] * ratio)
    assert before["dep_delay"].max() == 1_301


def test_the_outage_fault_removes_departures_of_its_span_only(year: Frames) -> None:
    wrong = Fault("outage", 1_376_000_000_000, 1_376_000_000_000 + DAY_MS)
    before = year["flights.departures"]
    after = wrong.apply(before)
    assert not after["event_time"].between(wrong.start_ms, wrong.end_ms, inclusive="left").any()
    lost = before["event_time"].between(wrong.start_ms, wrong.end_ms, inclusive="left").sum()
    assert len(after) == len(before) - lost < len(before)


def test_faults_by_name() -> None:
    assert fault("none") is None
    with pytest.raises(TrafficError, match="meteor"):
        fault("meteor")
