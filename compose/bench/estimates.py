"""The AUC of the flights' first model, told week by week without labels: by our sketches, and by NannyML."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from compose.bench.apart import run_apart
from compose.bench.spread import Spread, plain_table
from compose.control import first_model, read_control
from compose.estimates import correlation
from compose.local.home import PlatformError
from compose.local.platform import Endpoints
from compose.performance import input_columns, labelled
from jobs.reading import client_of
from jobs.serving import Scorer
from monitors.drawing import Calibration, draw_windows
from monitors.estimates import Estimator, Outcomes, build_estimator, histogram
from monitors.losses import TILE_MS, sketch_losses
from monitors.sketches import Sketches, sketch_batch
from schemas.topics import DAY_MS

__all__ = ["measure", "tables"]

PACKAGES = ("nannyml==0.13.1", "statsmodels>=0.14,<1")  # which it imports without naming it
REFERENCE_WEEKS = 4
WEEK_MS = 7 * DAY_MS
MONDAY_MS = 4 * DAY_MS
"""1970 began on a Thursday; weeks are from Monday on, as pandas has them."""
COMPARED = ("auc", "accuracy", "f1")


def measure(
    endpoints: Endpoints, folder: Path, uv: str | None, repeat: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Everything the bench says.

    Parameters
    ----------
    endpoints : Endpoints
        Of a platform with some months of flights.
    folder : Path
        For what NannyML reads.
    uv : str, optional
        Without it NannyML is left out.
    repeat : int
    tell : callable
        Told what is going on.

    Raises
    ------
    PlatformError
        Where no model has been trained there, or it has answered for less than eight weeks.
    """
    tell("Scoring every flight by the first model")
    rows = scored(endpoints)
    weeks = rows["week"].unique()
    if len(weeks) < 2 * REFERENCE_WEEKS:
        raise PlatformError(
            f"Expected labelled flights of {2 * REFERENCE_WEEKS} whole weeks since the first model was trained, got "
            f"{len(weeks)}: `headwater demo --keep` leaves a year of them."
        )
    reference, analysis = (rows[rows["week"].isin(some)] for some in (weeks[:REFERENCE_WEEKS], weeks[REFERENCE_WEEKS:]))
    realised = [_realised(each) for _, each in analysis.groupby("week", sort=True)]
    ways: dict[str, list[tuple[float, dict[str, list[float]]]]] = {"headwater": []}
    for number in range(repeat):
        tell(f"Repetition {number + 1} of {repeat}: sketches")
        ways["headwater"].append(ours(reference, analysis))
        if uv is not None:
            tell(f"Repetition {number + 1} of {repeat}: NannyML")
            ways.setdefault("nannyml", []).append(theirs(uv, folder, reference, analysis))
    found: dict[str, Any] = {"reference_rows": len(reference), "rows": len(analysis), "weeks": len(realised)}
    found["ways"] = {name: _told(taken, realised) for name, taken in ways.items()}
    if uv is not None:
        both = zip(ways["headwater"], ways["nannyml"], strict=True)
        found["times_faster"] = Spread.of([other[0] / mine[0] for mine, other in both])
    return found


def scored(endpoints: Endpoints) -> pd.DataFrame:
    """Whole weeks of labelled flights since the first model was trained: time_ms, week, score, label."""
    model = first_model(read_control(endpoints.kafka))
    if model is None:
        raise PlatformError("No model has been trained on the platform that runs: `headwater demo --keep` leaves one.")
    version, uri, from_ms = model
    client = client_of(endpoints.clickhouse)
    asked = "SELECT toUnixTimestamp64Milli(max(event_time)) FROM headwater.predictions_delay"
    last_ms = int(client.query(asked).result_rows[0][0])
    columns, scorer, parts = input_columns(client, "headwater.predictions_delay"), Scorer(), []
    start = -(-(from_ms - MONDAY_MS) // WEEK_MS) * WEEK_MS + MONDAY_MS
    for week in range(start, last_ms - WEEK_MS + 1, WEEK_MS):
        frame = labelled(client, week, week + WEEK_MS, columns)
        if frame.empty:
            continue
        none = np.full(len(frame), np.nan)
        score = scorer.score(frame, np.full(len(frame), version, object), np.full(len(frame), uri, object), none)
        times = frame["event_time"].to_numpy("datetime64[ms]").astype(np.int64)
        parts.append(
            pd.DataFrame({"time_ms": times, "week": week, "score": score, "label": frame["label"].to_numpy(int)})
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"week": []})


def _sketched(rows: pd.DataFrame) -> Sketches:
    return sketch_losses(rows["score"].to_numpy(float), rows["label"].to_numpy(), rows["time_ms"].to_numpy())


def ours(reference: pd.DataFrame, analysis: pd.DataFrame) -> tuple[float, dict[str, list[float]]]:
    """Seconds, and by measure a value a week, with the ends of its range under ``auc_low`` and so on."""
    began = time.monotonic()
    days = _sketched(reference).coarsen(DAY_MS)
    estimator: Estimator = build_estimator(
        days, draw_windows(days.tiles // DAY_MS, Calibration(), np.random.default_rng(0))
    )
    asked = sketch_batch(
        {"score": analysis["score"].to_numpy(float)}, {"score": "score"}, analysis["time_ms"].to_numpy(), TILE_MS
    ).coarsen(DAY_MS)
    found: dict[str, list[float]] = {}
    nothing = np.zeros(len(estimator.chances), np.int64)
    for week in analysis["week"].unique():
        scores = histogram(asked.between(week, week + WEEK_MS).collapse().column("score"))
        for each in estimator.estimate(scores, Outcomes(nothing, nothing)):
            for end, value in zip(("", "_low", "_high"), each.blind, strict=True):
                found.setdefault(each.measure + end, []).append(value)
    return time.monotonic() - began, found


def theirs(
    uv: str, folder: Path, reference: pd.DataFrame, analysis: pd.DataFrame
) -> tuple[float, dict[str, list[float]]]:
    """The same of NannyML, without ranges."""
    folder.mkdir(parents=True, exist_ok=True)
    order = {}
    for name, rows in (("reference", reference), ("analysis", analysis)):
        order[name] = str(folder / f"{name}.parquet")
        told = rows[["score", "label"]].assign(time=pd.to_datetime(rows["time_ms"], unit="ms"))
        told.to_parquet(order[name])
    said = run_apart(uv, PACKAGES, Path(__file__).with_name("nanny_script.py"), order)
    weeks = [f"{pd.Timestamp(int(each), unit='ms'):%Y-%m-%d}" for each in analysis["week"].unique()]
    if said["weeks"] != weeks:
        raise PlatformError(f"Expected NannyML to tell of the weeks {weeks}, got {said['weeks']}.")
    return said["seconds"], said["estimates"]


def _realised(week: pd.DataFrame) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    label, score = week["label"].to_numpy(), week["score"].to_numpy()
    yes = score >= 0.5
    return {"auc": roc_auc_score(label, score), "accuracy": accuracy_score(label, yes), "f1": f1_score(label, yes)}


def _told(taken: list[tuple[float, dict[str, list[float]]]], realised: list[dict[str, float]]) -> dict[str, Any]:
    estimates = taken[0][1]
    found: dict[str, Any] = {"seconds": Spread.of([seconds for seconds, _ in taken])}
    for name in COMPARED:
        exact, value = np.array([each[name] for each in realised]), np.array(estimates[name])
        found[name] = {
            "correlation": correlation(value, exact),
            "mean_absolute_error": float(np.abs(value - exact).mean()),
        }
        if f"{name}_low" in estimates:
            low, high = (np.array(estimates[name + end]) for end in ("_low", "_high"))
            found[name]["held"] = float(((low <= exact) & (exact <= high)).mean())
    return found


def tables(found: dict[str, Any]) -> list[Table]:
    """For people."""
    title = (
        f"{found['weeks']} weeks, {found['rows']:,} flights, told without labels after a reference of "
        f"{found['reference_rows']:,}: correlation with what labels say, mean absolute error, ranges that held"
    )
    shown = plain_table(title, "way", "measure", "correlation", "error", "held", texts=2)
    for way, told in found["ways"].items():
        for name in COMPARED:
            each = told[name]
            held = f"{each['held']:.0%}" if "held" in each else ""
            close = "" if each["correlation"] is None else f"{each['correlation']:.3f}"
            shown.add_row(way, name, close, f"{each['mean_absolute_error']:.4f}", held)
    times = plain_table("Seconds, median and from least to most", "way", "seconds", "spread")
    for way, told in found["ways"].items():
        taken: Spread = told["seconds"]
        times.add_row(way, f"{taken.middle:.2f}", taken.ends(".2f"))
    if (ratio := found.get("times_faster")) is not None:
        times.caption = f"NannyML takes {ratio.middle:.1f} times as long ({ratio.ends('.1f')})."
        times.caption_justify = "left"
    return [shown, times]
