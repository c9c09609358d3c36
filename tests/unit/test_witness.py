"""The second computation of features, held against a third: one key and one tile at a time, by plain loops."""

import math
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import JsonFormat
from feast.types import Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from features.comparison import Parity, compare, compare_rows, magnitudes, together
from features.compiler.definition import ANY, Definition, Feature, definition
from features.witness import newest, rows

Row = dict[str, Any]
MINUTE_MS = 60_000
BASE_MS = 1_357_000_200_000  # a whole minute, and no whole hour
NUMERIC = ("sum", "mean", "var", "stddev", "p50", "p29", "p99.9")
ANY_KIND = ("count", "count_distinct", "approx_count_distinct", "min", "max", "first", "last")


def naive_value(feature: Feature, events: list[Row], at: int) -> Any:
    """The meaning of one feature, read out loud; numbers as fractions."""
    window = [e for e in events if at - feature.window_ms < e["event_time"] <= at]
    if feature.column == ANY:
        return len(window)
    values = [e[feature.column] for e in window if not pd.isna(e[feature.column])]
    name, count = feature.function, len(values)
    if name == "count":
        return count
    if name in ("count_distinct", "approx_count_distinct"):
        return len(set(values))
    if name == "sum":
        return float(sum(map(Fraction, values)))
    if count < (2 if name in ("var", "stddev") else 1):
        return None
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    if name in ("first", "last"):
        return values[0 if name == "first" else -1]
    if name.startswith("p"):
        return sorted(values)[math.floor(float(name[1:]) / 100 * (count - 1))]
    mean = sum(map(Fraction, values)) / count
    if name == "mean":
        return float(mean)
    var = float(sum((Fraction(value) - mean) ** 2 for value in values) / (count - 1))
    return math.sqrt(var) if name == "stddev" else var


def naive_key(view: Definition, mine: list[Row]) -> list[Row]:
    """Every row of one key, trying each multiple of the hop."""
    times = [event["event_time"] for event in mine]
    if not view.features:
        return [{name: e[name] for name in ("event_time", *view.latest)} for e in mine]
    found: list[Row] = []
    quiet_ms = max(f.window_ms + 2 * f.slide_ms for f in view.features)
    for at in range(times[0] // view.hop_ms * view.hop_ms, times[-1] + quiet_ms, view.hop_ms):
        row = any(at - view.hop_ms < time <= at for time in times)
        for feature in view.features if found else ():
            before = found[-1]["event_time"]
            held = any(before - feature.window_ms < time <= before for time in times)
            row = row or (at % feature.slide_ms == 0 and held)
        if row:
            found.append({"event_time": at} | {f.name: naive_value(f, mine, at) for f in view.features})
    return found


def naive_rows(view: Definition, events: pd.DataFrame) -> list[Row]:
    by_key: dict[tuple[Any, ...], list[Row]] = {}
    records = sorted(events.astype(object).to_dict("records"), key=lambda event: event["event_time"])
    for event in records:
        if not any(pd.isna(event[key]) for key in view.keys):
            by_key.setdefault(tuple(event[key] for key in view.keys), []).append(event)
    return [
        dict(zip(view.keys, key, strict=True)) | row for key in sorted(by_key) for row in naive_key(view, by_key[key])
    ]


def naive_newest(view: Definition, all_rows: list[Row], asked: Row, at: Any) -> Row:
    nothing = dict.fromkeys(["event_time", *(f.name for f in view.features), *view.latest])
    mine = [row for row in all_rows if all(row[key] == asked[key] for key in view.keys)]
    found = [row for row in mine if not pd.isna(at) and row["event_time"] <= at]
    return {name: found[-1][name] for name in nothing} if found else nothing


def same(got: Any, want: Any) -> bool:
    """To the last bit: both are rounded once."""
    return bool(pd.isna(got)) if want is None or pd.isna(want) else bool(got == want)


# What tests draw: views in Feast's own terms, and the events of a topic.

SOURCE = KafkaSource(
    name="s",
    timestamp_field="event_time",
    kafka_bootstrap_servers="",
    topic="s",
    message_format=JsonFormat(""),
    watermark_delay_threshold=timedelta(0),
    batch_source=FileSource(name="h", path="h.parquet", timestamp_field="event_time"),
)
ENTITIES = {
    "a": Entity(name="ea", join_keys=["a"], value_type=ValueType.STRING),
    "b": Entity(name="eb", join_keys=["b"], value_type=ValueType.INT64),
}
KEY_FIELDS = {"a": Field(name="a", dtype=String), "b": Field(name="b", dtype=Int64)}


def minutes(number: int) -> timedelta:
    return timedelta(minutes=number)


def span(most: int) -> st.SearchStrategy[int]:
    return st.integers(1, most)


@st.composite
def aggregations(draw: st.DrawFn) -> list[Aggregation]:
    unit = draw(st.sampled_from([1, 1, 2, 5]))
    numeric = st.tuples(st.sampled_from(NUMERIC), st.sampled_from(["x", "n"]))
    other = st.tuples(st.sampled_from(ANY_KIND), st.sampled_from(["x", "n", "s", "when"]))
    whats = draw(st.lists(st.one_of(numeric, other, st.just(("count", "*"))), min_size=1, max_size=5))
    windows = st.tuples(span(12), span(7))
    found = []
    for number, (function, column) in enumerate(whats):
        window, slide = draw(windows)
        spans = {"time_window": minutes(window * unit), "slide_interval": minutes(slide * unit)}
        found.append(Aggregation(column=column, function=function, name=f"f{number}_{function}_{column}"[:20], **spans))
    return found


@st.composite
def views(draw: st.DrawFn) -> Definition:
    keys = draw(st.sampled_from([["a"], ["b"], ["a", "b"]]))
    asked = draw(aggregations())
    shortest = min(each.time_window or minutes(0) for each in asked)
    hop = draw(st.sampled_from([None, *(hop for hop in (1, 2, 3, 5) if minutes(hop) < shortest)]))  # Feast's own rule
    view = StreamFeatureView(
        name="v",
        entities=[ENTITIES[key] for key in keys],
        source=SOURCE,
        timestamp_field="event_time",
        schema=[*(KEY_FIELDS[key] for key in keys), *(Field(name=each.name, dtype=Float64) for each in asked)],
        aggregations=asked,
        enable_tiling=hop is not None,
        tiling_hop_size=minutes(hop) if hop else None,
    )
    return definition(view)


NUMBERS = st.sampled_from([0.1, 0.2, -0.3, 1.0, 2.5, -7.0, 1e16, -1e16, 1e-9, 3e150, None])
TIMES = st.builds(
    lambda minute, off: BASE_MS + minute * MINUTE_MS + off,
    st.one_of(st.integers(0, 8), st.integers(0, 90)),
    st.sampled_from([0, 0, 1, -1, 20_000]),
)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "event_time": TIMES,
            "a": st.sampled_from(["x", "y", None]),
            "b": st.sampled_from([1, 1, -2, None]),
            "x": NUMBERS,
            "n": st.one_of(st.none(), st.integers(-3, 3)),
            "s": st.sampled_from(["", "A", "a", "ä", None]),
            "when": st.one_of(st.none(), TIMES),
        }
    ),
    max_size=25,
)


def frame(events: list[Row]) -> pd.DataFrame:
    columns = ["event_time", "a", "b", "x", "n", "s", "when"]
    found = pd.DataFrame(events, columns=columns, dtype=object)
    kinds = {"event_time": "int64", "b": "Int64", "x": "float64", "n": "Int64"}
    return found.astype(kinds).assign(when=pd.to_datetime(found["when"], unit="ms", utc=True))


def check_rows(view: Definition, events: pd.DataFrame, until: int | None) -> list[Row]:
    every = naive_rows(view, events)
    want = [row for row in every if until is None or row["event_time"] <= until]
    found = rows(view, events, until)
    assert list(found) == [*view.keys, "event_time", *(f.name for f in view.features), *view.latest]
    got = found.astype(object).to_dict("records")
    times = [(*(row[key] for key in view.keys), row["event_time"]) for row in want]
    assert [(*(row[key] for key in view.keys), row["event_time"]) for row in got] == times
    for one, other in zip(got, want, strict=True):
        for name, value in other.items():
            assert same(one[name], value), (name, one, other)
    return every


def check_newest(view: Definition, events: pd.DataFrame, every: list[Row], asked: list[Row]) -> None:
    requests = frame(asked)
    at = requests["n"].where(requests["n"].isna(), requests["event_time"])  # null for never
    requests.index = pd.Index([f"r{number}" for number in range(len(requests))])
    got = newest(view, events, requests, at)
    assert list(got.index) == list(requests.index)
    for place, request in enumerate(requests.astype(object).to_dict("records")):
        if any(pd.isna(request[key]) for key in view.keys):
            request |= dict.fromkeys(view.keys, "nobody")
        for name, value in naive_newest(view, every, request, at.iloc[place]).items():
            assert same(got[name].iloc[place], value), (name, request, got.iloc[place], value)


@pytest.mark.filterwarnings("ignore:Stream feature views are experimental")
@settings(max_examples=250, deadline=None)
@given(views(), EVENTS, EVENTS, st.one_of(st.none(), TIMES))
def test_it_is_the_definition(view: Definition, events: list[Row], asked: list[Row], until: int | None) -> None:
    log = frame(events)
    check_newest(view, log, check_rows(view, log, until), asked + events)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([("a",), ("a", "b")]), EVENTS, EVENTS, st.one_of(st.none(), TIMES))
def test_the_newest_event(keys: tuple[str, ...], events: list[Row], asked: list[Row], until: int | None) -> None:
    view, log = Definition("v", keys, (), ("n", "s", "when", "x"), 0), frame(events)
    check_newest(view, log, check_rows(view, log, until), asked)


# By hand.


def one_view(*features: tuple[str, str, str, int, int], hop: int = 1) -> Definition:
    made = tuple(Feature(name, what, of, w * MINUTE_MS, s * MINUTE_MS) for name, what, of, w, s in features)
    return Definition("v", ("k",), made, (), hop * MINUTE_MS)


def log_of(values: list[Any], at: list[float] | None = None) -> pd.DataFrame:
    times = [BASE_MS + round(each * MINUTE_MS) for each in at or [0] * len(values)]
    return pd.DataFrame({"event_time": times, "k": "a", "x": values})


def minutes_of(found: pd.DataFrame) -> list[float]:
    return ((found["event_time"] - BASE_MS) / MINUTE_MS).tolist()


def test_a_quiet_key_is_sampled_at_its_slides_until_each_window_was_found_empty_once() -> None:
    start = -(-BASE_MS // (6 * MINUTE_MS)) * 6 - BASE_MS // MINUTE_MS  # slides of 2 and 3 meet here
    view = one_view(("f", "count", ANY, 3, 2), ("g", "count", ANY, 4, 3))
    found = rows(view, log_of([1.0], [start]))
    # At 3 minutes f's window is empty, which g's slide has shown: 4 is no row.
    assert [at - start for at in minutes_of(found)] == [0, 2, 3, 6]
    assert found["f"].tolist() == [1, 1, 0, 0]
    assert found["g"].tolist() == [1, 1, 1, 0]


def test_a_tile_ends_with_its_close() -> None:
    view = one_view(("f", "count", ANY, 2, 2), hop=2)
    base = BASE_MS // MINUTE_MS % 2
    events = log_of([1.0, 1.0], [2 + base, 2 + base + 1 / MINUTE_MS])
    found = rows(view, events)
    assert [at - base for at in minutes_of(found)] == [2, 4, 6]
    assert found["f"].tolist() == [1, 1, 0]


def test_before_1970_and_at_no_time() -> None:
    view = one_view(("f", "count", "x", 4, 2), hop=2)
    events = log_of([1.0]).assign(event_time=-3 * MINUTE_MS - 1)
    assert rows(view, events)["event_time"].tolist() == [-2 * MINUTE_MS, 0, 2 * MINUTE_MS]
    known = newest(view, events, pd.DataFrame({"k": ["a"] * 4}), [-2 * MINUTE_MS - 1, -1, 3 * MINUTE_MS, None])
    assert known["f"].astype(object).where(known["f"].notna(), None).tolist() == [None, 1, 0, None]


def test_sums_and_variances_do_not_cancel() -> None:
    sums = one_view(("f", "sum", "x", 5, 5), ("m", "mean", "x", 5, 5))
    first = rows(sums, log_of([1e16, 1.0, -1e16, 0.1, 0.2, -0.3])).iloc[0]
    assert first["f"] == math.fsum([1e16, 1.0, -1e16, 0.1, 0.2, -0.3])
    assert first["m"] == pytest.approx(first["f"] / 6, rel=1e-15)
    # A huge value that has left its window leaves nothing behind.
    assert rows(sums, log_of([1e300, 0.1], [0, 30]))["f"].tolist()[-2:] == [0.1, 0.0]
    spread = one_view(("v", "var", "x", 5, 5), ("s", "stddev", "x", 5, 5))
    first = rows(spread, log_of([1e9 + 1, 1e9 + 2, 1e9 + 4])).iloc[0]
    assert first["v"] == pytest.approx(7 / 3, rel=1e-15)
    assert first["s"] == pytest.approx(math.sqrt(7 / 3), rel=1e-15)
    assert rows(spread, log_of([0.1] * 7))["v"].iloc[0] == 0.0


def test_whole_numbers_stay_whole() -> None:
    view = one_view(("f", "sum", "x", 5, 5), ("l", "last", "x", 5, 5), ("m", "max", "x", 5, 5))
    first = rows(view, log_of([2**53 + 1, 2**61])).iloc[0]
    assert (first["f"], first["l"], first["m"]) == (2**53 + 1 + 2**61, 2**61, 2**61)


def test_infinity_is_what_ieee_754_says() -> None:
    view = one_view(("f", "sum", "x", 1, 1), ("v", "var", "x", 1, 1), ("m", "max", "x", 1, 1))
    found = rows(view, log_of([math.inf, 1.0, 1.0, 2.0, 1.0, -math.inf, math.inf], [0, 0, 10, 10, 20, 20, 20]))
    assert [value for value in found["f"] if value != 0] == pytest.approx([math.inf, 3.0, math.nan], nan_ok=True)
    assert found["v"].dropna().tolist() == [0.5]
    assert found["m"].dropna().tolist() == [math.inf, 2.0, math.inf]


@pytest.mark.parametrize("events", [log_of([]), log_of([None, None]), log_of([1.0]).assign(k=None)])
def test_of_nothing(events: pd.DataFrame) -> None:
    names = ("sum", "count", "mean", "min", "last", "count_distinct", "var", "p50")
    view = one_view(*((name, name, "x", 5, 5) for name in names))
    found = rows(view, events)
    assert len(found) == (2 if len(events) == 2 else 0)
    for name in names:
        zero = name in ("sum", "count", "count_distinct")
        assert all(same(value, 0 if zero else None) for value in found[name])
    asked = pd.DataFrame({"k": ["a", None, "b"]})
    known = newest(view, events, asked, [BASE_MS + MINUTE_MS * 60] * 3)
    assert known["event_time"].notna().tolist() == [len(found) > 0, False, False]


def test_what_are_no_numbers_has_no_sum() -> None:
    with pytest.raises(TypeError, match="sum of 'x'"):
        rows(one_view(("f", "sum", "x", 5, 5)), log_of(["one"]))


# Comparing.

ALL = (
    *((name, name, "x") for name in ("sum", "mean", "var", "p50")),
    *((name, name, "n") for name in ("count", "approx_count_distinct", "max")),
    *((name, name, "s") for name in ("count_distinct", "first")),
    ("when", "last", "when"),
    ("records", "count", ANY),
)
VIEW = Definition(
    "v",
    ("a", "b"),
    tuple(Feature(name, what, of, 30 * MINUTE_MS, 10 * MINUTE_MS) for name, what, of in sorted(ALL)),
    (),
    5 * MINUTE_MS,
)


def some_events(size: int = 500) -> pd.DataFrame:
    random = np.random.default_rng(3)
    times = BASE_MS + np.sort(random.integers(0, 24 * 60, size)) * MINUTE_MS
    late = random.random(size) < 0.1
    events = {
        "event_time": np.where(late, times - 3 * MINUTE_MS, times),
        "a": random.choice(["x", "y"], size),
        "b": random.choice([1, 2], size),
        "x": np.where(random.random(size) < 0.2, np.nan, random.normal(50, 20, size)),
        "n": pd.array(random.integers(0, 90, size), dtype="Int64"),
        "s": random.choice(np.array(["p", "q", "r", None], dtype=object), size),
        "when": pd.to_datetime(times, unit="ms", utc=True),
    }
    return pd.DataFrame(events).assign(n=lambda found: found["n"].mask(random.random(size) < 0.2))


def wrong_features(found: Parity) -> set[str]:
    return {name for name, each in found.by_feature.items() if each.mismatches}


def changed(**new: Any) -> Definition:
    """The view with one feature's field different: ``function=``, ``column=`` or ``window_ms=``, of ``name=``."""
    name = new.pop("name")
    return replace(VIEW, features=tuple(replace(f, **new) if f.name == name else f for f in VIEW.features))


def test_compare_agrees_in_other_types_and_another_order() -> None:
    want = rows(VIEW, some_events())
    got = want.sample(frac=1, random_state=1).astype({"count": "float64", "max": object, "first": "string"})
    got = got.assign(event_time=pd.to_datetime(got["event_time"], unit="ms", utc=True), b=got["b"].astype("int32"))
    got["when"] = got["when"].astype("int64").where(got["when"].notna()).div(1e6).astype("Int64")
    found = compare_rows(VIEW, want, got)
    assert (found.mismatches, found.missing, found.unexpected) == (0, 0, 0), found.examples
    assert found.compared == len(want) * len(VIEW.features)


@pytest.mark.parametrize(
    ("feature", "right", "wrong"),
    [
        ("sum", 1 + 1e-12, 1 + 1e-8),
        ("var", 1 + 1e-12, 1 - 1e-8),
        ("p50", 1.009, 1.011),
        ("approx_count_distinct", 1.04, 0.94),
        ("max", 1.0, 1 + 1e-12),
    ],
)
def test_compare_has_a_tolerance_for_each_function(feature: str, right: float, wrong: float) -> None:
    want = rows(VIEW, some_events())
    want[feature] = want[feature].astype("float64")
    there = int((want[feature].fillna(0) != 0).sum())
    assert there > 100
    fine = compare_rows(VIEW, want, want.assign(**{feature: want[feature] * right}))
    assert fine.mismatches == 0
    assert fine.worst_relative_error == pytest.approx(abs(right - 1), abs=1e-15)
    found = compare_rows(VIEW, want, want.assign(**{feature: want[feature] * wrong}))
    assert wrong_features(found) == {feature}
    assert found.mismatches == found.by_feature[feature].mismatches == there
    assert found.by_feature[feature].worst_relative_error == pytest.approx(abs(wrong - 1), rel=1e-3)


@pytest.mark.parametrize("name", ["count", "p50", "when", "first"])
@pytest.mark.parametrize("tiles", [-1, 1])
def test_a_window_off_by_a_tile_is_found(name: str, tiles: int) -> None:
    events = some_events()
    got = rows(changed(name=name, window_ms=30 * MINUTE_MS + tiles * VIEW.hop_ms), events)
    found = compare_rows(VIEW, rows(VIEW, events), got)
    assert wrong_features(found) == {name}


def test_a_shift_of_the_timezone_is_found() -> None:
    events = some_events()
    want = rows(VIEW, events)
    hour = pd.Timedelta(hours=1)
    shifted = compare_rows(VIEW, want, want.assign(event_time=want["event_time"] + 60 * MINUTE_MS))
    assert shifted.missing > 0
    assert shifted.missing == shifted.unexpected
    assert {"missing", "unexpected"} <= {each.get("row") for each in shifted.examples}
    inside = compare_rows(VIEW, want, want.assign(when=want["when"] + hour))
    assert wrong_features(inside) == {"when"}
    asked = events[["a", "b"]]
    known = newest(VIEW, events, asked, events["event_time"])
    answered = compare(VIEW, known, newest(VIEW, events, asked, events["event_time"] - 60 * MINUTE_MS))
    assert answered.by_feature["event_time"].mismatches > 400


def test_a_dropped_late_event_is_found() -> None:
    events = some_events()
    late = int(np.flatnonzero(events["event_time"].diff() < 0)[0])
    found = compare_rows(VIEW, rows(VIEW, events), rows(VIEW, events.drop(index=late)))
    assert "records" in wrong_features(found)
    lost = events.loc[late]
    for each in found.examples:
        assert (each["a"], each["b"]) == (lost["a"], lost["b"])
        assert 0 <= each["event_time"] - lost["event_time"] <= 45 * MINUTE_MS
    assert {"feature", "a", "b", "event_time", "number", "expected", "got"} in [set(each) for each in found.examples]


def test_a_dropped_row_and_one_emitted_twice_are_found() -> None:
    want = rows(VIEW, some_events())
    dropped = compare_rows(VIEW, want, want.drop(index=7))
    assert (dropped.mismatches, dropped.missing, dropped.unexpected) == (1, 1, 0)
    where = {"a": want["a"][7], "b": want["b"][7], "event_time": want["event_time"][7], "number": 0}
    assert dropped.examples == ({"row": "missing"} | where,)
    twice = compare_rows(VIEW, want, pd.concat([want, want.iloc[[7]]]))
    assert (twice.mismatches, twice.missing, twice.unexpected) == (1, 0, 1)
    assert twice.examples == ({"row": "unexpected"} | where | {"number": 1},)


def test_a_null_that_counts_is_found() -> None:
    events = some_events()
    counted = compare_rows(VIEW, rows(VIEW, events), rows(changed(name="count", column=ANY), events))
    assert wrong_features(counted) == {"count"}
    filled = compare_rows(VIEW, rows(VIEW, events), rows(VIEW, events.assign(s=events["s"].fillna(""))))
    assert wrong_features(filled) == {"count_distinct", "first"}
    want = rows(VIEW, events)
    zeroed = compare_rows(VIEW, want, want.assign(mean=want["mean"].fillna(0.0)))
    assert zeroed.mismatches == int(want["mean"].isna().sum()) > 0


def test_the_wrong_one_of_two_at_one_time_is_found() -> None:
    events = some_events()
    found = compare_rows(VIEW, rows(VIEW, events), rows(VIEW, events.iloc[::-1]))
    assert wrong_features(found) == {"first", "when"}


def test_numbers_that_only_differ_beyond_float64_are_different() -> None:
    view = one_view(("f", "last", "x", 5, 5))
    want = rows(view, log_of([2**53 + 1]))
    assert compare_rows(view, want, want).mismatches == 0
    assert compare_rows(view, want, want.assign(f=want["f"] - 1)).mismatches == 1
    assert compare_rows(view, want, want.assign(f=want["f"].astype("float64"))).mismatches == 1


def test_what_cancels_is_judged_by_what_was_added_up() -> None:
    view, events = one_view(("f", "sum", "x", 5, 5)), log_of([0.1, 0.2, -0.3])
    want = rows(view, events)
    got = want.assign(f=[0.1 + 0.2 - 0.3, 0.0])
    strict = compare_rows(view, want, got)
    assert strict.mismatches == 1
    scale = rows(view, magnitudes(view, events))
    assert compare_rows(view, want, got, scale).mismatches == 0
    assert compare_rows(view, want, want.assign(f=[1e-8, 0.0]), scale).mismatches == 1
    nothing = compare_rows(view, want, want.assign(f=[want["f"][0], 1e-12]), scale)
    assert (nothing.mismatches, nothing.worst_relative_error) == (1, 1.0)


def test_answers_are_compared_by_request() -> None:
    view = Definition("v", ("k",), (), ("x",), 0)
    events = log_of(["p", "q", None], [0, 1, 2])
    index = pd.Index(["r1", "r2", "r3", "r4"], name="request_id")
    at = [BASE_MS + each * MINUTE_MS for each in (-1, 0, 1, 9)]
    want = newest(view, events, pd.DataFrame({"k": "a"}, index=index), at)
    assert compare(view, want, want.iloc[::-1]).mismatches == 0
    got = want.copy()
    got.loc["r2", "x"], got.loc["r3", "event_time"] = "q", at[1]
    found = compare(view, want, got.drop(index="r4"))
    assert (found.compared, found.mismatches, found.missing) == (6, 3, 1)
    assert {"feature": "x", "request_id": "r2", "expected": "p", "got": "q"} in found.examples
    both = together({"v": found, "w": found})
    assert (both.compared, both.mismatches, len(both.examples)) == (12, 6, 2 * len(found.examples))
    assert both.by_feature["w__x"].mismatches == 1


def test_compare_refuses_what_it_cannot_compare() -> None:
    want = rows(VIEW, some_events(20))
    with pytest.raises(ValueError, match="'sum'"):
        compare_rows(VIEW, want, want.drop(columns="sum"))
    with pytest.raises(ValueError, match="'sum'"):
        compare_rows(VIEW, want.drop(columns="sum"), want)
    with pytest.raises(ValueError, match="'a'"):
        compare_rows(VIEW, want, want.drop(columns="a"))
    with pytest.raises(ValueError, match="twice"):
        compare(VIEW, want, pd.concat([want, want]))
