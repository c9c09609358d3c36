"""Autocorrelation of days, and what it does to windows drawn from them."""

import numpy as np
import pytest

from monitors.memory import autocorrelation, remember

LAGS = 6


def levels(days: int, rho: float, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Shape (columns, days), of variance 1."""
    found = rng.normal(size=(columns, days))
    for day in range(1, days):
        found[:, day] = rho * found[:, day - 1] + np.sqrt(1 - rho * rho) * found[:, day]
    return found


def measured(rho: float, weekly: float, days: int = 35, columns: int = 40, dropped: tuple[int, ...] = ()) -> np.ndarray:
    rng = np.random.default_rng(3)
    found = levels(days, rho, columns, rng) + weekly * np.sin(2 * np.pi * np.arange(days) / 7)
    there = np.array([day for day in range(days) if day not in dropped])
    return autocorrelation(there + 15_000, [each[there, None] for each in found], LAGS, rng)


@pytest.mark.parametrize("weekly", [0.0, 3.0])
@pytest.mark.parametrize("dropped", [(), (3, 4, 20)])
def test_independent_days_have_none_whatever_the_weekday_does(weekly, dropped):
    assert np.abs(measured(0.0, weekly, dropped=dropped)).max() < 0.12


def test_days_that_hang_together_have_some_that_fades():
    found = measured(0.7, 0.0, days=200)
    assert found[0] == pytest.approx(0.7, abs=0.06)
    assert found[:3] == pytest.approx([0.7, 0.49, 0.343], abs=0.09)
    assert measured(0.7, 0.0)[0] > 0.4  # of a month only, corrected, and yet too low


def test_constant_days_have_none():
    assert autocorrelation(np.arange(20), [np.ones((20, 3))], LAGS, np.random.default_rng(0)).tolist() == [0.0] * LAGS


def test_what_it_does_to_windows_is_what_it_does_to_their_means():
    rho, days, rng = 0.7, 20_000, np.random.default_rng(5)
    one = levels(days, rho, 1, rng)[0]
    weeks = one[: days // 7 * 7].reshape(-1, 7).mean(axis=1).var()
    starts = rng.integers(0, days - 3, (days, 3))
    drawn = np.stack([one[starts[:, 0]], one[starts[:, 0] + 1], one[starts[:, 0] + 2]]).sum(axis=0)
    drawn = drawn + np.stack([one[starts[:, 1]], one[starts[:, 1] + 1], one[starts[:, 1] + 2]]).sum(axis=0)
    drawn = (drawn + one[starts[:, 2]]) / 7
    memory = remember(rho ** np.arange(1, 7), days, 7, 3)
    assert memory.excess == pytest.approx(weeks / drawn.var(), rel=0.1)
    assert memory.days == pytest.approx(days * (1 / 7) / weeks, rel=0.1)


def test_independent_days_need_no_correction():
    memory = remember(np.zeros(LAGS), 35, 7, 3)
    assert memory.excess == 1
    assert memory.days == 35
