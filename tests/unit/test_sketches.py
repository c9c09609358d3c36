import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.buckets import bucket_codes, bucket_values, limb_sums, limbs_to_float
from monitors.sketch_codec import pack_ints, unpack_ints
from monitors.sketches import CATEGORIES_MAX, RELATIVE_ERROR, SketchError, Sketches, merge, sketch_batch

HOUR_MS = 3_600_000
KINDS = {"delay": "numeric", "score": "score", "carrier": "categorical"}

rows = st.lists(
    st.tuples(
        st.integers(0, 5 * HOUR_MS),
        st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -0.0, 1e300, -5.0, 5e-324])),
        st.floats(0, 1) | st.just(float("nan")),
        st.none() | st.text(max_size=3),
    ),
    max_size=40,
)


def sketch(some: list[tuple[int, float, float, str | None]]) -> Sketches:
    time, delay, score, carrier = (list(each) for each in zip(*some, strict=True)) if some else ([], [], [], [])
    columns = {
        "delay": np.array(delay, dtype=np.float64),
        "score": np.array(score, dtype=np.float64),
        "carrier": np.array(carrier, dtype=object),
    }
    return sketch_batch(columns, KINDS, np.array(time, dtype=np.int64), HOUR_MS)


@settings(deadline=None)
@given(rows, st.lists(st.integers(0, 3), min_size=40, max_size=40), st.randoms(use_true_random=False))
def test_any_split_and_order_gives_the_same_bytes(some, part_of, random):
    whole = sketch(some).to_bytes()
    parts = [sketch([row for row, part in zip(some, part_of, strict=False) if part == p]) for p in range(4)]
    random.shuffle(parts)
    assert merge(parts).to_bytes() == whole
    left = merge([merge([merge(parts[:2]), parts[2]]), parts[3]])
    right = merge([parts[0], merge([parts[1], merge(parts[2:])])])
    assert left.to_bytes() == right.to_bytes() == whole
    shuffled = list(some)
    random.shuffle(shuffled)
    assert sketch(shuffled).to_bytes() == whole


@settings(deadline=None)
@given(rows)
def test_bytes_round_trip(some):
    payload = sketch(some).to_bytes()
    assert Sketches.from_bytes(payload).to_bytes() == payload


@settings(deadline=None)
@given(rows.filter(len))
def test_counts_extremes_and_sums_are_exact(some):
    found = sketch(some).column("delay")
    values = np.array([row[1] for row in some])
    present = values[~np.isnan(values)]
    assert found.nulls == np.isnan(values).sum()
    assert found.count == len(present)
    assert found.low == (present.min() if len(present) else np.inf)
    assert found.high == (present.max() if len(present) else -np.inf)
    small = np.where(np.abs(values) < 2**40, values, np.nan)
    total = limbs_to_float(limb_sums(np.nan_to_num(small), np.array([0])))[0]
    exact = sum(Fraction(round(Fraction(v) * 2**20), 2**20) for v in small[~np.isnan(small)])
    assert total == pytest.approx(float(exact), rel=1e-15, abs=0)


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_the_middle_of_a_bucket_is_within_the_stated_error(value):
    code = bucket_codes(np.array([value]), "numeric")
    middle = bucket_values(code, "numeric")[0]
    assert abs(middle - value) <= RELATIVE_ERROR * abs(value)


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_codes_ascend_with_values(values):
    ordered = np.sort(np.array(values))
    assert np.all(np.diff(bucket_codes(ordered, "numeric")) >= 0)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_packed_integers_round_trip(values):
    assert unpack_ints(pack_ints(np.array(values, dtype=np.int64))).tolist() == values


def test_more_categories_than_fit_still_merge_the_same_in_any_order():
    texts = np.array([f"c{i}" for i in range(3 * CATEGORIES_MAX)], dtype=object)
    parts = [
        sketch_batch({"tail": np.repeat(chunk, 2)}, {"tail": "categorical"}, np.zeros(2 * len(chunk), int), HOUR_MS)
        for chunk in (texts[:5000], texts[3000:9000], texts[8000:])
    ]
    merged = {merge(order).to_bytes() for order in itertools.permutations(parts)}
    assert len(merged) == 1
    column = merge(parts).column("tail")
    assert len(column.values) == CATEGORIES_MAX
    assert column.count == 2 * (5000 + 6000 + 3 * CATEGORIES_MAX - 8000)


def test_tiles_can_be_cut_and_made_longer():
    some = [(hour * HOUR_MS + 1, float(hour), 0.5, f"c{hour}") for hour in range(50)]
    found = sketch(some)
    day = found.coarsen(24 * HOUR_MS)
    assert day.tiles.tolist() == [0, 24 * HOUR_MS, 48 * HOUR_MS]
    assert day.rows.tolist() == [24, 24, 2]
    cut = found.between(3 * HOUR_MS, 5 * HOUR_MS)
    assert cut.to_bytes() == sketch(some[3:5]).to_bytes()
    assert cut.column("carrier").values.tolist() == ["c3", "c4"]
    assert found.collapse().column("delay").counts.tolist() == found.column("delay").counts.tolist()
    np.testing.assert_allclose(day.means[:, day.names.index("delay")], [11.5, 35.5, 48.5])


def test_what_does_not_fit_is_refused():
    one = sketch([(0, 1.0, 0.1, "a")])
    other = sketch_batch({"delay": np.array([1.0])}, {"delay": "numeric"}, np.array([0]), HOUR_MS)
    with pytest.raises(SketchError, match="carrier"):
        merge([one, other])
    with pytest.raises(SketchError, match="'delay': expected 2 values, got 1"):
        sketch_batch({"delay": np.array([1.0])}, {"delay": "numeric"}, np.array([0, 1]), HOUR_MS)
    with pytest.raises(SketchError, match="version 1"):
        Sketches.from_bytes(b"\x04rubbish")
    with pytest.raises(SketchError, match="do not decode"):
        Sketches.from_bytes(one.to_bytes()[:-3])
    with pytest.raises(SketchError, match="'arrival'"):
        one.column("arrival")


HOSTILE = [
    0.0,
    -0.0,
    5e-324,
    -5e-324,
    2.2e-308,
    -1e-310,
    np.inf,
    -np.inf,
    np.nan,
    -np.nan,
    1.0,
    -1.0,
    1e-9,
    1e300,
    -1e17,
]
"""Doubles that share their top bits with others; a NaN below looks like an infinity there."""


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e7, 1e12, 1e18, 1e200])
def test_many_rows_at_once_are_as_a_few_at_a_time(scale):
    rng = np.random.default_rng(1)
    bare_nan = np.array([0x7FF0000000000001, 0xFFF0000000000001], dtype=np.uint64).view(np.float64)
    plain = scale * rng.standard_normal(20_000)
    hostile = np.concatenate([plain, np.tile([*HOSTILE, *bare_nan], 9)])
    rng.shuffle(hostile)
    count = len(hostile)
    columns = {
        "plain": np.resize(plain, count),
        "hostile": hostile,
        "whole": rng.integers(-5, 5, count).astype(float),
        "nothing": np.full(count, np.nan),
        "score": rng.random(count),
        "carrier": rng.choice(np.array(["UA", "B6", None], dtype=object), count),
    }
    kinds = dict.fromkeys(columns, "numeric") | {"score": "score", "carrier": "categorical"}
    times = np.zeros(count, np.int64)
    parts = [
        sketch_batch({name: each[i : i + 1000] for name, each in columns.items()}, kinds, times[i : i + 1000], HOUR_MS)
        for i in range(0, count, 1000)
    ]
    assert sketch_batch(columns, kinds, times, HOUR_MS).to_bytes() == merge(parts).to_bytes()


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e12, 1e18, 1e22, 1e30])
def test_sums_do_not_depend_on_what_is_said_of_their_size(scale):
    values = scale * np.random.default_rng(2).standard_normal(30_000)
    first = np.array([0, 10, 20_000])
    told, untold = limb_sums(values, first, float(np.abs(values).max())), limb_sums(values, first)
    assert told.tolist() == untold.tolist()
    if scale <= 1e18:
        exact = sum(Fraction(round(Fraction(each) * 2**20), 2**20) for each in values[:10].tolist())
        assert limbs_to_float(told)[0] == float(exact)
