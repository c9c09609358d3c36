"""Drift at speed: our sketches beside river's detectors, Evidently's report, and the clock.

Every pair takes turns within each repetition. What is compared does what a user would have it do: river hears one value
at a time of one column, Evidently is given two frames that pandas has read.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from river.drift import ADWIN, KSWIN

from compose.bench.files import AIM, by_evidently, by_us, timed, write_files
from compose.bench.spread import Spread, plain_table
from monitors.grid import Comparer
from monitors.sketches import Kind, Sketches, merge, sketch_batch

__all__ = ["Sizes", "measure", "tables"]

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
SEED = 7
AIMS = {"river KSWIN": 200.0, "river ADWIN": 3.0, "Evidently": AIM}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    stream_rows, stream_columns : int
        What our sketches read of the stream; of as many columns river's detectors hear fewer rows, since they take
        seconds for thousands.
    kswin_rows, adwin_rows : int
    batch_rows : int
        As Flink hands them to the scoring operator at full load.
    file_rows, file_columns : int
        Of each of two files. Evidently takes minutes and some 4 GB for 300,000 rows of 100 columns, so of ten times as
        many it is not asked here; :mod:`compose.bench.files` asks it of as many columns as memory holds.
    large_rows : int
        Of two files that are compared by us alone.
    features, segments, windows : int
        Evaluated; each window has `window_rows` of each segment.
    window_rows : int
    repeat : int
    """

    stream_rows: int = 200_000
    stream_columns: int = 50
    kswin_rows: int = 1000
    adwin_rows: int = 10_000
    batch_rows: int = 10_000
    file_rows: int = 300_000
    file_columns: int = 100
    large_rows: int = 3_000_000
    features: int = 1000
    segments: int = 20
    windows: int = 1440
    window_rows: int = 50
    repeat: int = 3


def measure(folder: Path, sizes: Sizes, tell: Callable[[str], None]) -> dict[str, Any]:
    """Everything the bench says.

    Parameters
    ----------
    folder : Path
        For two files; it has to hold 16 bytes a value of one.
    sizes : Sizes
    tell : callable
        Told what is going on.
    """
    rates: list[dict[str, float]] = []
    for number in range(sizes.repeat):
        tell(f"Repetition {number + 1} of {sizes.repeat}: one core, beside river")
        rates.append(one_core(sizes, SEED + number))
    found: dict[str, Any] = {
        "values_per_second": {name: Spread.of([each[name] for each in rates]) for name in rates[0]}
    }
    found["ratios"] = {
        name: Spread.of([each["headwater"] / each[name] for each in rates]) for name in ("river KSWIN", "river ADWIN")
    }
    tell(f"Evaluating {sizes.features * sizes.segments * sizes.windows:,} cells")
    found["grid"] = grid(sizes)
    files = write_files(folder, sizes.file_rows, sizes.file_columns, tell)
    taken = []
    for number in range(sizes.repeat):
        tell(f"Repetition {number + 1} of {sizes.repeat}: two files")
        ours = timed(by_us(files))
        tell(f"Repetition {number + 1} of {sizes.repeat}: the same files in Evidently")
        taken.append((ours, timed(by_evidently(files))))
    found["files"] = {
        name: {
            "seconds": Spread.of([each[i]["seconds"] for each in taken]),
            "bytes": max(each[i]["bytes"] for each in taken),
        }
        for i, name in enumerate(("headwater", "Evidently"))
    }
    large = write_files(folder, sizes.large_rows, sizes.file_columns, tell)
    tell(f"Two files of {sizes.large_rows:,} rows")
    alone = [timed(by_us(large)) for _ in range(sizes.repeat)]
    found["large"] = {
        "seconds": Spread.of([each["seconds"] for each in alone]),
        "bytes": max(each["bytes"] for each in alone),
    }
    found["ratios"]["Evidently"] = Spread.of([theirs["seconds"] / ours["seconds"] for ours, theirs in taken])
    return found | {"sizes": sizes.__dict__}


def one_core(sizes: Sizes, seed: int) -> dict[str, float]:
    """Values a second, by name: 50 columns watched for PSI, KS and mean by the hour, or each by a detector of river."""
    rng = np.random.default_rng(seed)
    rows = rng.lognormal(2.0, 1.0, (sizes.stream_rows, sizes.stream_columns))
    names = [f"f{i:02}" for i in range(sizes.stream_columns)]
    kinds: dict[str, Kind] = dict.fromkeys(names, "numeric")
    columns = [np.ascontiguousarray(each) for each in rows.T]
    hour = np.arange(sizes.stream_rows) * 20 // sizes.stream_rows * HOUR_MS

    def sketched(start: int, end: int) -> Sketches:
        some = {name: each[start:end] for name, each in zip(names, columns, strict=True)}
        return sketch_batch(some, kinds, hour[start:end], HOUR_MS)

    comparer = Comparer(sketched(0, sizes.stream_rows // 2).collapse())
    began = time.perf_counter()
    ends = [*range(sizes.batch_rows, sizes.stream_rows, sizes.batch_rows), sizes.stream_rows]
    table = merge([sketched(end - sizes.batch_rows, end) for end in ends])
    judged = comparer.compare(table)
    ours = rows.size / (time.perf_counter() - began)
    assert judged.psi.shape == judged.mean.shape == (20, sizes.stream_columns)
    return {
        "headwater": ours,
        "river KSWIN": _heard(columns, sizes.kswin_rows, lambda: KSWIN(seed=seed)),
        "river ADWIN": _heard(columns, sizes.adwin_rows, ADWIN),
    }


def _heard(columns: Sequence[Any], rows: int, detector: Callable[[], Any]) -> float:
    some = [each[:rows].tolist() for each in columns]
    detectors = [detector() for _ in some]
    began = time.perf_counter()
    for values, each in zip(some, detectors, strict=True):
        for value in values:
            each.update(value)
    return rows * len(some) / (time.perf_counter() - began)


def grid(sizes: Sizes) -> dict[str, Any]:
    """How long PSI, KS, mean and null rate of every feature, segment and window take; a few windows taken in turn."""
    rng = np.random.default_rng(SEED)
    names = [f"f{i:04}/s{j:02}" for i in range(sizes.features) for j in range(sizes.segments)]
    kinds: dict[str, Kind] = dict.fromkeys(names, "numeric")

    def window(rows: int, minute: int) -> Sketches:
        values = rng.lognormal(2.0, 1.0, (len(names), rows))
        return sketch_batch(dict(zip(names, values, strict=True)), kinds, np.full(rows, minute * MINUTE_MS), MINUTE_MS)

    comparer = Comparer(window(1000, 0))
    tables = [window(sizes.window_rows, minute) for minute in range(8)]
    began, cells = time.perf_counter(), 0
    for number in range(sizes.windows):
        judged = comparer.compare(tables[number % len(tables)])
        cells += judged.psi.size
    seconds = time.perf_counter() - began
    return {"cells": cells, "seconds": seconds, "buckets": int(np.mean([len(each.keys) for each in tables]))}


def tables(found: dict[str, Any]) -> list[Table]:
    """For people."""
    sizes, grid_told = found["sizes"], found["grid"]
    title = (
        f"One core, {sizes['stream_columns']} columns: PSI, KS and mean by the hour beside one detector a column; "
        "median, least to most"
    )
    rates = plain_table(title, "way", "values a second", "spread")
    for name, rate in found["values_per_second"].items():
        rates.add_row(name, f"{rate.middle:,.0f}", rate.ends(",.0f"))
    rates.caption = (
        f"{grid_told['cells']:,} cells ({sizes['features']:,} features x {sizes['segments']} segments x "
        f"{sizes['windows']:,} windows, {grid_told['buckets']:,} buckets a window) evaluated in "
        f"{grid_told['seconds']:.1f} s."
    )
    rates.caption_justify = "left"
    files = plain_table(
        f"Two files of {sizes['file_rows']:,} rows and {sizes['file_columns']} columns",
        "way",
        "seconds",
        "spread",
        "GB",
    )
    told = {**found["files"], f"headwater, {sizes['large_rows']:,} rows": found["large"]}
    for name, each in told.items():
        taken = each["seconds"]
        files.add_row(name, f"{taken.middle:.1f}", taken.ends(".1f"), f"{each['bytes'] / 1e9:.2f}")
    ratios = plain_table("Against each other, within each repetition", "against", "times", "spread", "at least", "")
    for name, ratio in found["ratios"].items():
        met = "met" if ratio.middle >= AIMS[name] else "missed"
        ratios.add_row(name, f"{ratio.middle:,.1f}", ratio.ends(",.1f"), f"{AIMS[name]:g}", met)
    return [rates, files, ratios]
