"""What estimates came to, from the records of ``drift.windows``."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from compose.estimates import Estimates, correlation

START = datetime(2013, 3, 1, tzinfo=UTC)


def window(day, results, monitor="estimate"):
    told = [
        {"column": column, "segment": "", "statistic": statistic, "value": value, "threshold": 0.77, "fired": False}
        for (column, statistic), value in results.items()
    ]
    end = START + timedelta(days=day)
    span = {"window_start": end - timedelta(days=7), "window_end": end}
    return {"monitor": monitor, "model": "delay", "model_version": "1", **span, "results": told}


def told(day, estimated, realised=None, width=0.01):
    results = {}
    for how, value in (("estimated", estimated), ("corrected", (estimated + (realised or estimated)) / 2)):
        results |= {("auc", how): value, ("auc", f"{how}_low"): value - width, ("auc", f"{how}_high"): value + width}
    if realised is not None:
        results["auc", "realised"] = realised
    return window(day, results)


def test_windows_are_told_in_their_order_once_each():
    found = Estimates()
    for each in (told(2, 0.75, 0.74), told(1, 0.76, 0.75), told(2, 0.75, 0.74), window(3, {}), told(4, 0.7)):
        found.add(each)
    found.add(window(1, {("delay", "psi"): 0.3}, monitor="features"))
    assert [each["auc"]["estimated"] for each in found.series()] == [0.76, 0.75, 0.7]
    assert {each["auc"]["usual"] for each in found.series()} == {0.77}
    assert found.series()[0]["end_ms"] - found.series()[0]["start_ms"] == 7 * 86_400_000
    assert found.tracking()["windows"] == 2  # of the third no label has come


def test_tracking_is_of_windows_whose_labels_have_come():
    found, rng = Estimates(), np.random.default_rng(0)
    realised = 0.75 + 0.02 * rng.standard_normal(60)
    estimated = realised + 0.006 * rng.standard_normal(60)
    for day, pair in enumerate(zip(estimated.tolist(), realised.tolist(), strict=True)):
        found.add(told(day, *pair))
    said = found.tracking()
    off = np.abs(estimated - realised)
    assert said["estimated"]["correlation"] == pytest.approx(np.corrcoef(estimated, realised)[0, 1])
    assert said["estimated"]["mean_absolute_error"] == pytest.approx(off.mean())
    assert said["estimated"]["held"] == pytest.approx((off <= 0.01).mean())
    assert said["corrected"]["mean_absolute_error"] == pytest.approx(off.mean() / 2)


def test_of_nothing_nothing_is_told():
    assert Estimates().tracking()["estimated"] == {"correlation": None, "mean_absolute_error": None, "held": None}
    assert correlation([1, 2, 3], [4, 4, 4]) is None
