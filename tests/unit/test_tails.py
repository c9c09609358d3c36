"""A few values far out: what neither KS nor groups of equal shares see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.losses import TILE_MS, sketch_losses
from monitors.reference import ColumnSpec
from monitors.sketches import sketch_batch
from monitors.statistics import TAIL, tail_share
from monitors.thresholds import DAY_MS, build_reference
from monitors.watchers import feature_window

ROWS_A_DAY, DAYS = 500, 42


def column(values):
    return sketch_batch({"x": values}, {"x": "numeric"}, np.zeros(len(values), np.int64), 1).column("x")


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.2))
def test_the_share_is_that_of_the_values_but_for_the_buckets_at_the_limits(seed, share):
    random = np.random.default_rng(seed)
    known, found = random.normal(100, 10, 4000), random.normal(100, 10, 500)
    found = np.where(random.random(500) < share, random.uniform(150, 200, 500), found)
    value = tail_share(column(known), column(found))
    low, high = np.sort(known)[[int(TAIL * 4000), int((1 - TAIL) * 4000)]]
    narrow, wide = (np.mean((found < low - by) | (found > high + by)) for by in (4.0, -4.0))
    assert narrow <= value <= wide
    assert value >= share * 0.6 - 0.03


@pytest.mark.parametrize("values", [np.zeros(50), np.array([1.0])])
def test_a_constant_has_no_tails(values):
    assert tail_share(column(values), column(values)) == 0
    assert tail_share(column(values), column(values + 7)) == 1
    assert np.isnan(tail_share(column(values), column(np.array([np.nan]))))


def days(first: int, count: int, seed: int, far: float = 0.0):
    random = np.random.default_rng(seed)
    n = count * ROWS_A_DAY
    times = first * DAY_MS + np.arange(n) * (DAY_MS // ROWS_A_DAY)
    values = random.normal(0, 1, n) + np.repeat(random.normal(0, 0.1, count), ROWS_A_DAY)
    values = np.where(random.random(n) < far, random.uniform(4, 8, n), values)
    return sketch_batch({"x": values}, {"x": "numeric"}, times, TILE_MS), times


def test_two_percent_far_out_are_found_by_it_alone():
    known, times = days(0, DAYS, 1)
    random = np.random.default_rng(2)
    losses = sketch_losses(np.full(len(times), 0.3), random.random(len(times)) < 0.3, times)
    reference = build_reference("m", "1", {"x": ColumnSpec("numeric")}, known, losses, seed=1)
    for far, expected in ((0.0, set()), (0.02, {"tail"})):
        window = days(DAYS, 7, 3, far)[0].coarsen(DAY_MS)
        results, findings = feature_window(window, reference, 1000, 0.004, lambda _: 0.004)
        assert {each.statistic for each in results if each.fired} == expected
        assert findings[""].fired is bool(expected)
