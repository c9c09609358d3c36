"""The benches of drift, in small: they run what they say they run, and print it."""

import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from compose.bench import drift, estimates, files
from compose.bench.apart import uv_program
from compose.local.home import PlatformError

WEEK_MS = estimates.WEEK_MS


def printed(tables, width=120):
    console = Console(width=width, record=True)
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
    with pytest.raises(PlatformError, match=r"missing\.parquet"):
        files.timed(files.by_us([tmp_path / "missing.parquet", tmp_path / "missing.parquet"]))


def test_memory_is_that_of_the_process_and_not_of_the_one_that_starts_it():
    held = np.ones(50_000_000)  # 400 MB
    assert 1e6 < files.timed([sys.executable, "-c", "pass"])["bytes"] < 1e8
    assert files.timed([sys.executable, "-c", "b'x' * 200_000_000"])["bytes"] > 2e8
    assert held[-1] == 1


def test_evidently_is_given_as_many_columns_as_memory_holds():
    gigabyte = 10**9
    peaks = {4: 2 * gigabyte, 12: 4 * gigabyte}  # a quarter each, and one whatever they are
    assert files.fitting(peaks, 100, 17 * gigabyte) == 64
    assert files.fitting(peaks, 100, 18 * gigabyte - 1) == 64  # whole turns of the kinds of columns
    assert files.fitting(peaks, 40, 17 * gigabyte) == 40
    assert files.fitting(peaks, 100, 3 * gigabyte) == 12  # they have been seen to fit
    assert files.fitting({4: gigabyte}, 8, gigabyte) == 8


def test_larger_files_are_compared_by_the_column_where_evidently_cannot_have_all(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_FIRST", (2, 4))
    monkeypatch.setattr(files, "fitting", lambda peaks, columns, bytes_max: 4)
    monkeypatch.setattr(files, "by_evidently", files.by_us)  # the other test has Evidently itself
    found = files.measure(tmp_path, 3000, 6, 1, lambda _: None)
    assert list(found["beside"]) == [2, 4]
    whole, beside = found["whole"]["seconds"].middle / 6, found["beside"][4]["Evidently"]["seconds"].middle / 4
    assert found["times_as_fast"].middle == pytest.approx(beside / whole)
    shown = " ".join(printed(files.tables(found), 80).split())
    assert "Two files of 3,000 rows" in shown
    assert "Evidently was given 4 columns: more do not fit" in shown
    assert "\u2026" not in shown


def test_files_that_memory_cannot_hold_are_made_narrower(tmp_path, monkeypatch):
    """Who comes in place of Evidently here is killed by more than 20 columns."""

    def greedy(paths):
        many = pq.ParquetFile(paths[0]).metadata.num_columns > 20
        return [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"] if many else files.by_us(paths)

    told = []
    monkeypatch.setattr(files, "by_evidently", greedy)
    found = files.measure(tmp_path, 2000, 40, 1, told.append)
    assert found["evidently_columns"] == 16
    assert set(found["beside"]) == {4, 12, 16}
    assert [each for each in told if "do not fit" in each] == [f"{n} columns do not fit into memory" for n in (40, 24)]
    monkeypatch.setattr(files, "by_evidently", lambda _: [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    with pytest.raises(files.KilledError, match="ended with 137"):
        files.measure(tmp_path, 2000, 4, 1, told.append)


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
