"""``headwater bench features`` on little: each way finds the same, and everything that is told is there."""

import pandas as pd
import pytest
from rich.console import Console

from compose.bench import features as bench
from compose.bench import freshness as live
from compose.bench.payments import Spans, active_tiles, thickened
from compose.bench.report import tables
from compose.local.home import PlatformError
from compose.local.platform import Platform

SIZES = bench.Sizes(
    events=2000,
    repeat=1,
    space=10,
    days=0.5,
    few=300,
    quix=50,
    over_s=5,
    live=500,
    live_s=2,
    spans=Spans((600, 3600), 600),
)


def test_everything_is_measured_and_agrees(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WARM_S", 1.0)
    monkeypatch.setattr(bench, "CHECKPOINTS_MS", (500,))
    # Quix Streams would be downloaded first; that it agrees is checked whenever it is measured.
    found = bench.measure(platform, None, SIZES, lambda stage: None)

    ways = {bench.COMPILED, bench.ROW, bench.ROWS, bench.SKEWED, bench.OVER}
    assert set(found["agreement"]) == {bench.ROW, bench.ROWS}
    assert min(found["agreement"].values()) > 1000
    assert found["agreement"][bench.ROW] == found["agreement"][bench.ROWS]
    assert set(found["rates"]) == ways
    assert all(rate.least > 0 for rate in found["rates"].values())
    # By hand there is no row that says that a key's windows are empty; there is one for each window that is not.
    assert found["rows"][bench.ROW] <= found["rows"][bench.COMPILED] <= found["rows"][bench.ROW] + 200
    assert found["rows"][bench.ROW] < found["rows"][bench.ROWS] < 2 * found["rows"][bench.ROW]
    assert found["rows"][bench.OVER] == 2 * SIZES.events
    assert found["over_share"] == 1
    assert found["ratios"]["Zipf keys to uniform keys"]["aim"] == 0.7
    states = {(each["way"], each["events"], each["active_tiles"]): each for each in found["state"]}
    assert len(states) == 6
    thin, thick, wide = (each for each in found["state"] if each["way"] == bench.COMPILED)
    assert (thick["events"], thick["active_tiles"]) == (4 * thin["events"], thin["active_tiles"])
    assert thick["state_bytes"] < 1.2 * thin["state_bytes"]
    assert wide["active_tiles"] > thin["active_tiles"]
    (age,) = found["freshness"]
    assert age["unseen"] == 0
    assert 0 < age["p50_ms"] <= age["p99_ms"] < 20_000
    console = Console(record=True, width=200)
    for each in tables(found):
        console.print(each)
    text = console.export_text()
    assert all(name in text for name in (*ways, *found["ratios"]))
    assert {"compiled to the faster by hand", "Zipf keys to uniform keys"} <= set(found["ratios"])


def test_a_way_that_finds_something_else_is_not_measured() -> None:
    ours = pd.DataFrame({"account": [1], "event_time": [600_000], "feature": ["sum_600s"], "value": [2.0]})
    with pytest.raises(PlatformError, match="by hand, one row: 1 of 1 values are not the compiled job's"):
        bench._compared(bench.ROW, ours, ours.assign(value=2.1))
    with pytest.raises(PlatformError, match="1 of 1 values"):
        bench._compared(bench.ROW, ours, ours.assign(event_time=1_200_000))
    assert bench._compared(bench.ROW, ours, ours) == 1


def test_four_times_the_payments_lie_on_the_same_tiles() -> None:
    spans = Spans((600, 3600), 600)
    few = pd.DataFrame({"account": [1, 2, 1], "event_time": [1, 600_000, 3_600_001], "amount": [1.0, 2.0, 3.0]})
    many = thickened(few, 4, spans)
    assert len(many) == 12
    assert many.event_time.is_monotonic_increasing
    assert active_tiles(many, spans) == active_tiles(few, spans) == 3
