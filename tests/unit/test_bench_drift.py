"""The benches of drift, in small: they run what they say they run, and print it."""

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from compose.bench import drift, estimates
from compose.bench.apart import uv_program

WEEK_MS = estimates.WEEK_MS


def printed(tables):
    console = Console(width=120, record=True)
    for each in tables:
        console.print(each)
    return console.export_text()


def test_everything_is_measured(tmp_path):
    sizes = drift.Sizes(
        stream_rows=20_000,
        kswin_rows=120,
        adwin_rows=200,
        file_rows=2000,
        file_columns=8,
        large_rows=6000,
        features=20,
        segments=3,
        windows=10,
        repeat=1,
    )
    found = drift.measure(tmp_path, sizes, lambda _: None)
    assert found["ratios"]["river KSWIN"].middle > found["ratios"]["river ADWIN"].middle > 0
    assert found["grid"]["cells"] == 20 * 3 * 10
    assert found["ratios"]["Evidently"].middle > 0
    assert {name: each["bytes"] > 1e7 for name, each in found["files"].items()} == {
        "headwater": True,
        "Evidently": True,
    }
    shown = printed(drift.tables(found))
    assert "Two files of 2,000 rows and 8 columns" in shown
    assert "headwater, 6,000 rows" in shown


def test_what_fails_says_why(tmp_path):
    with pytest.raises(drift.PlatformError, match=r"missing\.parquet"):
        drift.timed(drift._compare([tmp_path / "missing.parquet", tmp_path / "missing.parquet"]))


@pytest.fixture(scope="module")
def weeks():
    """Ten weeks of a model whose traffic grows harder and easier again."""
    rng = np.random.default_rng(1)
    parts = []
    for number in range(10):
        week = estimates.MONDAY_MS + (2000 + number) * WEEK_MS
        logit = -1 + (1.2 + 0.5 * np.sin(number)) * rng.standard_normal(5000)
        score = 1 / (1 + np.exp(-logit))
        times = np.sort(rng.integers(0, WEEK_MS, 5000)) + week
        label = (rng.random(5000) < score).astype(int)
        parts.append(pd.DataFrame({"time_ms": times, "week": week, "score": score, "label": label}))
    return pd.concat(parts[:4]), pd.concat(parts[4:])


def test_weeks_are_told_without_labels_as_nannyml_tells_them(weeks, tmp_path):
    uv = uv_program()
    assert uv is not None
    reference, analysis = weeks
    exact = [estimates._realised(each)["auc"] for _, each in analysis.groupby("week")]
    ours, theirs = estimates.ours(reference, analysis)[1], estimates.theirs(uv, tmp_path, reference, analysis)[1]
    assert np.ptp(exact) > 0.05
    for name in estimates.COMPARED:
        # Both expect the same; theirs of calibrated scores, ours of 128 bins of them.
        assert np.abs(np.array(ours[name]) - theirs[name]).max() < 0.02, name
    assert np.abs(np.array(ours["auc"]) - exact).max() < 0.02
    told = {"headwater": estimates._told([(0.1, ours)], [estimates._realised(e) for _, e in analysis.groupby("week")])}
    assert told["headwater"]["auc"]["correlation"] > 0.9
    shown = printed(estimates.tables({"ways": told, "weeks": 6, "rows": 30_000, "reference_rows": 20_000}))
    assert "headwater" in shown
