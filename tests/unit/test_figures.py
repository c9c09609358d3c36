"""Every figure of two sketches beside that of the rows, by scipy where it has it, and by hand where it has not."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from monitors.buckets import bucket_codes, bucket_edges
from monitors.figures import BINNED, ORDERED, compare
from monitors.sketches import CATEGORIES_MAX, sketch_batch
from monitors.statistics import align, group_by_mass, regroup


def sketch(values, kind="numeric"):
    column = np.array(values, dtype=object if kind == "categorical" else np.float64)
    return sketch_batch({"x": column}, {"x": kind}, np.zeros(len(column), int), 1).column("x")


KINDS_OF_NUMBERS = {
    "near normal": lambda random, n: random.normal(random.normal(), 1 + random.random(), n),
    "heavy tails": lambda random, n: random.standard_cauchy(n),
    "ties": lambda random, n: random.integers(-3, 4, n).astype(float),
    "constant": lambda random, n: np.full(n, float(random.integers(0, 2))),
    "both signs over decades": lambda random, n: random.lognormal(0, 4, n) * random.choice([-1, 1], n),
    "mostly null": lambda random, n: np.where(random.random(n) < 0.9, np.nan, random.gamma(2, 3, n)),
    "tiny": lambda random, n: random.normal(0, 1e-300, n),
    "one far off": lambda random, n: np.r_[random.normal(0, 1, n), 1e12],
}


def pairs():
    """200: each kind with itself and with another, of one row to two thousand."""
    names = list(KINDS_OF_NUMBERS)
    for number in range(200):
        random = np.random.default_rng(number)
        first = names[number % len(names)]
        second = first if number % 3 else names[(number // 3) % len(names)]
        sizes = (int(random.choice([1, 2, 30, 400, 2000])) for _ in range(2))
        yield tuple(KINDS_OF_NUMBERS[name](random, n) for name, n in zip((first, second), sizes, strict=True))


PAIRS = list(pairs())


def exact(reference, current):
    """Of the rows."""
    found = {
        "ks": stats.ks_2samp(reference, current).statistic,
        "wasserstein": stats.wasserstein_distance(reference, current),
        "energy": stats.energy_distance(reference, current),
    }
    if min(len(reference), len(current)) > 1:  # scipy wants two
        found["cramer_von_mises"] = stats.cramervonmises_2samp(reference, current, method="asymptotic").statistic
    return found


@pytest.mark.parametrize("block", range(10))
def test_what_needs_an_order_is_within_its_bound_of_that_of_the_rows(block):
    for rows in PAIRS[block::10]:
        found = compare(*map(sketch, rows))
        left, right = (each[~np.isnan(each)] for each in rows)
        if not len(left) or not len(right):
            assert all(np.isnan(found[name].value) for name in ORDERED)
            continue
        for name, value in exact(left, right).items():
            slack = 1e-9 * max(abs(value), 1)
            assert abs(found[name].value - value) <= found[name].bound + slack, (name, found[name], value)


@pytest.mark.parametrize("block", range(10))
def test_what_needs_bins_is_that_of_the_rows_in_the_same_bins(block):
    """The bins are groups of buckets, and a row knows its bucket."""
    for rows in PAIRS[block::10]:
        sketches = tuple(map(sketch, rows))
        _, left, _ = align(*sketches)
        codes = np.unique(np.concatenate([each.codes for each in sketches]))
        if not all(each.count for each in sketches):
            continue
        group = group_by_mass(left)
        p, q = (
            np.bincount(group[np.searchsorted(codes, bucket_codes(each[~np.isnan(each)], "numeric"))],
                        minlength=group.max() + 1) for each in rows
        )  # fmt: skip
        p, q = p[np.unique(group)], q[np.unique(group)]
        found = compare(*sketches)
        a, b = (each / each.sum() for each in (p, q))
        smooth = [(each + 0.5) / (each + 0.5).sum() for each in (p, q)]
        both = p + q > 0
        wanted = {
            "js": jensenshannon(a, b, base=2),
            "kl": stats.entropy(smooth[1], smooth[0]),
            "psi": stats.entropy(smooth[1], smooth[0]) + stats.entropy(smooth[0], smooth[1]),
            "hellinger": np.linalg.norm(np.sqrt(a) - np.sqrt(b)) / np.sqrt(2),
            "tv": np.abs(a - b).sum() / 2,
            "l_infinity": np.abs(a - b).max(),
            "chi_square": stats.chi2_contingency([p[both], q[both]], correction=False).statistic
            if both.sum() > 1
            else 0,
        }
        assert set(wanted) == set(BINNED)
        for name, value in wanted.items():
            assert found[name].value == pytest.approx(np.nan_to_num(value), abs=2e-6), name
            assert found[name].bound == 0


def test_the_grouping_is_of_all_buckets():
    assert regroup(np.array([1, 2, 3]), np.array([0, 0, 1])).tolist() == [3, 3]


def test_no_value_is_outside_the_edges_of_its_bucket():
    random = np.random.default_rng(0)
    values = np.r_[random.lognormal(0, 50, 5000) * random.choice([-1, 1], 5000), 0.0, np.inf, -np.inf, 5e-324, -5e-324]
    low, high = bucket_edges(bucket_codes(values, "numeric"), "numeric")
    assert np.all((low <= values) & (values <= high))
    scores = random.random(1000)
    low, high = bucket_edges(bucket_codes(scores, "score"), "score")
    assert np.all((low <= scores) & (scores <= high))


@pytest.mark.parametrize("seed", range(20))
def test_categories_beyond_those_kept_by_name_are_within_the_bound(seed):
    random = np.random.default_rng(seed)
    rows = [[f"c{each}" for each in random.zipf(1.2, 20_000) % (3 * CATEGORIES_MAX)] for _ in range(2)]
    found = compare(*(sketch(each, "categorical") for each in rows))
    names = sorted(set(rows[0]) | set(rows[1]))
    counted = [Counter(each) for each in rows]
    p, q = (np.array([each[name] for name in names]) / each.total() for each in counted)
    wanted = {
        "tv": np.abs(p - q).sum() / 2,
        "l_infinity": np.abs(p - q).max(),
        "hellinger": np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2),
        "js": jensenshannon(p, q, base=2),
    }
    for name, value in wanted.items():
        assert 0 < found[name].bound < 1
        assert abs(found[name].value - value) <= found[name].bound + 1e-9, name
    assert found["chi_square"].bound == np.inf
    assert not set(found) & set(ORDERED)


def test_chances_are_even_where_nothing_differs_and_small_where_something_does():
    chances = {name: [] for name in ("ks", "psi", "cramer_von_mises", "wasserstein", "energy", "chi_square")}
    for seed in range(200):
        random = np.random.default_rng(seed)
        found = compare(sketch(random.gamma(2, 3, 400)), sketch(random.gamma(2, 3, 300)), seed)
        for name, each in chances.items():
            each.append(found[name].p_value)
    for name, each in chances.items():
        # 200 chances of 5%: 10 are expected, and 20 come once in 600 times.
        assert sum(value <= 0.05 for value in each) < 20, name
        assert 0.4 < np.mean(each) < 0.6, name
    random = np.random.default_rng(0)
    found = compare(sketch(random.gamma(2, 3, 400)), sketch(random.gamma(2, 4, 400)))
    assert all(found[name].p_value < 0.01 for name in chances)


def test_nulls_are_counted_exactly():
    found = compare(sketch([np.nan, 1, 2, 3]), sketch([np.nan, np.nan, 1, 2]))["null_rate"]
    assert (found.value, found.bound) == (0.25, 0)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.25 / np.sqrt(0.375 * 0.625 / 2)))


def test_infinity_has_no_distance():
    found = compare(sketch([1.0, np.inf]), sketch([1.0, 2.0]))
    assert np.isnan(found["wasserstein"].value)
    assert found["ks"].value == 0.5
