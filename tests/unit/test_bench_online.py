"""``headwater bench online`` on little, and ``headwater bench`` beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compose.bench import measure
from compose.bench import online as bench
from compose.cli import headwater


def test_stores_are_measured_read_back_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    monkeypatch.setattr(bench, "WARM_ROWS", 100)
    arguments = ["bench", "online", "--rows", "1000", "--reads", "100", "--repeat", "2", "--json"]
    done = CliRunner().invoke(headwater, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["rows"], found["reads"], found["repetitions"]) == (1000, 100, 2)
    stock = {"Feast sqlite, store.push", "Feast Redis, store.push"}
    ours = {f"{store}, {way}" for store in ("embedded", "Redis") for way in ("store.push", "records")}
    assert set(found["writes"]) == stock | ours
    for name, told in found["writes"].items():
        assert told["rows_per_second"]["least"] > 0
        assert (told["ratio"] is None) == (name in stock)
    assert set(found["reads_ms"]) == {name for name in found["writes"] if "push" in name}
    assert all(told["p50"]["median"] <= told["p99"]["median"] for told in found["reads_ms"].values())
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_lost_rows_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    monkeypatch.setattr(bench, "redis_program", lambda: None)
    monkeypatch.setattr(bench, "_each", lambda write, batches: write(batches[0]))
    monkeypatch.setattr(bench, "FRAME_ROWS", 100)
    done = CliRunner().invoke(headwater, ["bench", "online", "--rows", "1000", "--repeat", "1"])
    assert done.exit_code == 1
    assert "Redis is left out" in done.output
    assert "what was read back is not what was written" in done.output


def test_bench_by_itself_measures_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def repetition(home: Any, flights: int, tell: Any) -> tuple[dict[str, float], int]:
        seen.append(flights)
        return dict.fromkeys(measure.MEANING, 10.0), 7

    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "repetition", repetition)
    done = CliRunner().invoke(headwater, ["bench", "--flights", "2000", "--repeat", "2", "--json"])
    assert done.exit_code == 0, done.output
    assert seen == [2000, 2000]
    assert json.loads(done.stdout.splitlines()[-1])["events"] == 7
