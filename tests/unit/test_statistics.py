import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from monitors.sketches import ColumnSketch, sketch_batch
from monitors.statistics import (
    align,
    distance,
    null_rate,
    outside_share,
    psi,
    quantiles,
    unseen_share,
    wasserstein_bound,
)


def sketch(values, kind="numeric") -> ColumnSketch:
    column = np.array(values, dtype=object if kind == "categorical" else np.float64)
    return sketch_batch({"x": column}, {"x": kind}, np.zeros(len(column), int), 3_600_000).column("x")


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    draw = [
        lambda n: random.normal(random.normal(), 1 + random.random(), n),
        lambda n: random.standard_cauchy(n),
        lambda n: random.integers(-3, 4, n).astype(float),
        lambda n: np.full(n, random.integers(0, 2), dtype=float),
        lambda n: random.lognormal(0, 2, n) * random.choice([-1, 1], n),
    ][seed % 5]
    return draw(int(random.integers(1, 400))), draw(int(random.integers(1, 400)))


@pytest.mark.parametrize("seed", range(50))
def test_agrees_with_scipy_within_the_stated_bound(seed):
    reference, current = drawn(seed)
    left, right = sketch(reference), sketch(current)
    _, p, q = align(left, right)
    fullest = max((p / p.sum()).max(), (q / q.sum()).max())
    exact = stats.ks_2samp(reference, current).statistic
    assert exact - fullest - 1e-12 <= distance("ks", left, right) <= exact + 1e-12
    exact = stats.wasserstein_distance(reference, current)
    assert abs(distance("wasserstein", left, right) - exact) <= wasserstein_bound(left, right) + 1e-9
    assert distance("js", left, right) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-6)


def test_ks_of_small_whole_numbers_is_exact():
    random = np.random.default_rng(0)
    reference, current = random.poisson(6, 500), random.poisson(7, 300)
    found = distance("ks", sketch(reference), sketch(current))
    assert found == pytest.approx(stats.ks_2samp(reference, current).statistic, abs=1e-12)


def test_psi_by_hand():
    p, q = (np.array([30.5, 70.5]) / 101), (np.array([60.5, 40.5]) / 101)
    assert psi(np.array([30, 70]), np.array([60, 40])) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert np.isnan(psi(np.array([30, 70]), np.array([0, 0])))


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1), st.lists(st.sampled_from("cdef"), min_size=1))
def test_categories(reference, current):
    left, right = sketch(reference, "categorical"), sketch(current, "categorical")
    share = {c: (reference.count(c) / len(reference), current.count(c) / len(current)) for c in "abcdef"}
    assert distance("tv", left, right) == pytest.approx(sum(abs(p - q) for p, q in share.values()) / 2)
    assert unseen_share(left, right) == pytest.approx(sum(c not in reference for c in current) / len(current))
    assert np.isnan(distance("ks", left, right))


def test_rates_and_quantiles():
    found = sketch([np.nan, np.nan, *range(1, 99)])
    assert null_rate(found) == pytest.approx(0.02)
    assert outside_share(found, 10, 89.5) == pytest.approx(18 / 98)
    np.testing.assert_allclose(quantiles(found, [0.0, 0.5, 1.0]), [1, 49, 98], rtol=2**-6)
    empty = sketch([np.nan])
    assert np.isnan(distance("psi", found, empty))
    assert np.isnan(quantiles(empty, [0.5])).all()
