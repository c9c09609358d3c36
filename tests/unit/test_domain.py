"""Whole rows that differ where no column does, and nothing found where nothing is."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monitors.domain import tell_apart


def rows(rng, count, correlation=0.0, carriers="ABC"):
    both = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], count)
    return pd.DataFrame(
        {
            "delay": both[:, 0],
            "wind": both[:, 1],
            "noise": np.where(rng.random(count) < 0.1, np.nan, rng.standard_normal(count)),
            "carrier": rng.choice(list(carriers), count),
        }
    )


def test_columns_that_go_together_differently_are_found_though_each_is_as_before():
    rng = np.random.default_rng(0)
    reference, current = rows(rng, 4000), rows(rng, 4000, correlation=0.9)
    for name in ("delay", "wind"):
        assert stats.ks_2samp(reference[name], current[name]).pvalue > 0.01
    found = tell_apart(reference, current, ["carrier"])
    assert found.p_value < 1e-6
    assert found.auc > 0.75
    assert set(list(found.columns)[:2]) == {"delay", "wind"}
    assert found.columns["noise"] == pytest.approx(0, abs=0.01)


def test_a_new_category_is_named():
    rng = np.random.default_rng(1)
    found = tell_apart(rows(rng, 2000), rows(rng, 2000, carriers="ABCD"), ["carrier"])
    assert found.p_value < 1e-6
    assert next(iter(found.columns)) == "carrier"


def test_where_nothing_differs_chances_are_even():
    chances = []
    for number in range(40):
        rng = np.random.default_rng(100 + number)
        chances.append(tell_apart(rows(rng, 300), rows(rng, 200), ["carrier"], seed=number).p_value)
    assert stats.kstest(chances, "uniform").pvalue > 0.001
    assert sum(each < 0.05 for each in chances) <= 7  # of 40: more than that once in 1,000


def test_the_bound_holds_the_auc_of_many_rows():
    rng = np.random.default_rng(2)
    many = tell_apart(rows(rng, 20_000), rows(rng, 20_000, correlation=0.9), ["carrier"])
    few = tell_apart(rows(rng, 2000), rows(rng, 2000, correlation=0.9), ["carrier"])
    assert few.bound > many.bound
    assert few.auc - few.bound < many.auc + many.bound


def test_few_rows_are_refused():
    rng = np.random.default_rng(3)
    with pytest.raises(ValueError, match="expected 50 rows of either sample, got 100 and 20"):
        tell_apart(rows(rng, 100), rows(rng, 20))
