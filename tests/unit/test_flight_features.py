"""The second computation of the features, held against a third: one request at a time, by plain loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flight_features import HOUR_MS, MINUTE_MS, VIEWS, Latest, Windowed, as_of

from compose.demo.flights import load_events
from features.compiler.definition import definition
from features.compiler.repo import load_repo
from features.compiler.sources import stream_source
from features.witness import newest

Frames = dict[str, pd.DataFrame]
START_MS = 1_357_500_000_000
ROOT = Path(__file__).parents[2]


def slowly(view: Windowed | Latest, events: pd.DataFrame, request: dict[str, Any]) -> dict[str, Any]:
    """The definition, read out loud."""
    names = [each[0] for each in view.features]
    nothing = dict.fromkeys([*names, "event_time"], None)
    if any(request[key] is None for key in view.keys):
        return nothing
    mine = [
        event
        for event in events.to_dict("records")
        if event["event_time"] <= request["event_time"] and all(event[key] == request[key] for key in view.keys)
    ]
    if not mine:
        return nothing
    if isinstance(view, Latest):
        return {name: mine[-1][column] for name, column in view.features} | {"event_time": mine[-1]["event_time"]}
    longest = max(window for *_, window in view.features)
    boundary = request["event_time"] // view.slide_ms * view.slide_ms
    while boundary >= mine[0]["event_time"]:
        before = [e for e in mine if boundary - view.slide_ms - longest < e["event_time"] <= boundary - view.slide_ms]
        row: dict[str, Any] = {"event_time": boundary}
        for name, text, function, window in view.features:
            column, _, limit = text.partition(">")
            values = [e[column] for e in mine if boundary - window < e["event_time"] <= boundary]
            values = [float(value > float(limit)) if limit else value for value in values]
            row[name] = float(len(values)) if function == "count" else sum(values) / len(values) if values else None
        if before or any(boundary - longest < e["event_time"] <= boundary for e in mine):
            return row
        boundary -= view.slide_ms
    return nothing


def random_events(seed: int) -> tuple[Frames, pd.DataFrame]:
    """Few keys, long silences, times on and off the boundaries."""
    random = np.random.default_rng(seed)

    def some(size: int) -> pd.DataFrame:
        times = START_MS + random.integers(0, 4 * 24 * 12, size) * 5 * MINUTE_MS + random.choice([0, 0, 1, -1], size)
        times = np.where(random.random(size) < 0.7, times % (8 * HOUR_MS) + START_MS, times)
        frame = pd.DataFrame(
            {
                "event_time": times,
                "carrier": random.choice(["AA", "UA"], size),
                "flight": random.choice([1, 2, 3], size),
                "tailnum": random.choice(np.array(["N1", "N2", None], dtype=object), size),
                "origin": random.choice(["EWR", "JFK", "LGA"], size, p=[0.7, 0.25, 0.05]),
                "dest": random.choice(["BOS", "LAX"], size),
                "dep_delay": random.integers(-20, 60, size).astype(float),
                "arr_delay": random.integers(-20, 60, size).astype(float),
            }
        )
        for column in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"):
            frame[column] = np.where(random.random(size) < 0.3, np.nan, random.normal(size=size))
        return frame.sort_values("event_time", kind="stable").reset_index(drop=True)

    return {name: some(40) for name in ("flights.departures", "flights.arrivals", "flights.weather")}, some(60)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_it_is_the_definition(view: Windowed | Latest, seed: int) -> None:
    events, requests = random_events(seed)
    got = as_of(events, requests, [view])
    for at, request in enumerate(requests.to_dict("records")):
        want = slowly(view, events[view.stream], request)
        for name, value in want.items():
            found = got[f"{view.name}__{name}"].iloc[at]
            if value is None or pd.isna(value):
                assert pd.isna(found), (request, name)
            else:
                assert found == pytest.approx(value, rel=1e-12), (request, name)


def test_both_edges_of_a_window_and_its_end() -> None:
    view = Windowed("v", "s", ("k",), HOUR_MS, (("n", "x", "count", 2 * HOUR_MS), ("m", "x", "mean", 2 * HOUR_MS)))
    day = 400_000 * HOUR_MS
    events = {"s": pd.DataFrame({"event_time": [day], "k": ["a"], "x": [6.0]})}
    hours = [-0.5, 0, 0.5, 1, 1.99, 2, 3, 50]
    requests = pd.DataFrame({"event_time": [day + round(hour * HOUR_MS) for hour in hours], "k": "a"})
    got = as_of(events, requests, [view])
    np.testing.assert_array_equal(got["v__n"], [np.nan, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(got["v__m"], [np.nan, 6, 6, 6, 6, np.nan, np.nan, np.nan])
    rows = [(time - day) / HOUR_MS for time in got["v__event_time"].dropna()]
    assert rows == [0, 0, 1, 1, 2, 2, 2]


def test_at_the_time_of_the_row_that_was_read() -> None:
    events, requests = random_events(9)
    now = as_of(events, requests)
    earlier = now["origin__event_time"] - 15 * MINUTE_MS
    then = as_of(events, requests, VIEWS[:1], at={"origin": earlier})
    moved = requests.assign(event_time=earlier.fillna(0).astype("int64"))
    pd.testing.assert_frame_equal(then, as_of(events, moved, VIEWS[:1]))
    assert then["origin__event_time"].isna().sum() >= earlier.isna().sum()


def test_the_year_is_known_almost_from_the_start() -> None:
    events = load_events()
    features = as_of(events, events["flights.requests"])
    assert len(features) == 336_776
    # From the second day on nearly everything is known.
    late = features[events["flights.requests"]["event_time"] > START_MS]
    known = late.notna().mean()
    assert known["origin__dep_count_1h"] > 0.999
    assert known["tail__arr_delay_last"] > 0.95
    arrivals, at = events["flights.arrivals"], features["base_rate__event_time"].iloc[-1]
    month = arrivals[arrivals["event_time"].between(at - 31 * 24 * HOUR_MS, at, inclusive="right")]
    assert features["base_rate__late_share_31d"].iloc[-1] == pytest.approx((month["arr_delay"] > 15).mean())


def test_the_witness_reads_the_same_out_of_the_repo() -> None:
    """Definitions written by hand here, and those of the Feast repo there, on a quarter of real flights."""
    events = load_events(end_ms=START_MS + 90 * 24 * HOUR_MS)
    requests = events["flights.requests"].assign(model="delay")
    wanted = as_of(events, requests)
    repo = load_repo(ROOT / "features")
    for view in repo.views.values():
        meaning = definition(view)
        records = events[stream_source(view).kafka_options.topic].assign(model="delay")
        for delay in {"dep_delay", "arr_delay"} & set(records):
            records = records.assign(late=(records[delay] > 15).astype(float), arr_delay_last=records[delay])
        found = newest(meaning, records, requests[list(meaning.keys)], requests["event_time"].to_numpy())
        names = [*(each.name for each in meaning.features), *meaning.latest, "event_time"]
        assert len(names) > 1
        for name in names:
            want = wanted[f"{view.name}__{name}"].to_numpy(dtype=float, na_value=np.nan)
            got = found[name].to_numpy(dtype=float, na_value=np.nan)
            np.testing.assert_array_equal(got, want, err_msg=f"{view.name} {name}")
