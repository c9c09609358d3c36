"""What scoring says of a batch beside its answers: the rows of each version, sketched whole and by segment."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.evaluation import PackedAnswers
from jobs.inference import Inference
from jobs.segmenting import planned
from jobs.training import fit, write_model
from monitors.losses import TILE_MS
from monitors.matching import ANSWER
from monitors.segments import Segmentation, dimensions_of, only, sketch_segments
from monitors.sketches import Sketches, merge, sketch_batch
from monitors.thresholds import DAY_MS

KINDS = {"distance": "numeric", "origin": "categorical", "score": "score"}
CUT = Segmentation(dimensions_of("origin; far: distance > 500", KINDS))
SECONDS = 1_370_000_000


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    random = np.random.default_rng(1)
    n = 500
    frame = pd.DataFrame(
        {
            "request_id": [f"r{i}" for i in range(n)],
            "seconds": SECONDS + np.sort(random.integers(0, 3 * 3600, n)),
            "version": np.where(np.arange(n) % 3 == 0, "prior", "1"),
            "distance": random.uniform(0, 1000, n),
            "origin": random.choice(["EWR", "JFK", "LGA", "XXX"], n),
        }
    )
    frame.loc[[5, 6, 499], "request_id"] = None  # progress rows
    frame.loc[::50, "origin"] = None
    frame.loc[::40, "distance"] = np.nan
    return frame


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame) -> Path:
    """Version 1, whose training settled that two origins are segments of their own."""
    card = {"columns": ["distance", "origin"], "categories": {"origin": {"EWR": 0, "JFK": 1, "LGA": 2}}}
    matrix = np.random.default_rng(2).uniform(0, 1000, (400, 2)).astype(np.float32)
    model = fit(matrix, (matrix[:, 0] > 300).astype(np.int64))
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "1", model, matrix, card | {"segments": cut_of_version().plain()})
    return folder


def cut_of_version() -> Segmentation:
    return CUT.restricted(pd.DataFrame({"origin": ["EWR"] * 9 + ["JFK"] * 8 + ["LGA"], "distance": 0.0}), 5)


def answered(rows: pd.DataFrame, models: Path, segmented: bool) -> pd.DataFrame:
    function = Inference(("distance",), ("origin",), (), segmented)
    function.open(None)
    uri = np.where(rows["version"] == "prior", "", str(models / "1"))
    half = pd.Series(np.full(len(rows), 0.5))
    columns = (rows["distance"], rows["origin"])
    return function.eval(rows["request_id"], rows["seconds"], rows["seconds"], rows["version"], pd.Series(uri), half,
                         *columns)  # fmt: skip


def test_segments_are_of_the_version_and_add_up_to_its_sketch(rows: pd.DataFrame, models: Path) -> None:
    found = answered(rows, models, segmented=True)
    mine = rows[(rows["version"] == "1") & rows["request_id"].notna()]
    assert found["segments"].notna().sum() == 1  # the prior has none
    table = Sketches.from_bytes(found["segments"][mine.index[-1]])
    values: dict[str, Any] = {name: mine[name].to_numpy() for name in ("distance", "origin")}
    values["score"] = found["probability"].to_numpy()[mine.index]
    cut, time_ms = cut_of_version(), mine["seconds"].to_numpy() * 1000
    assert table.to_bytes() == sketch_segments(cut, cut.codes(mine), values, KINDS, time_ms, DAY_MS).to_bytes()
    whole = Sketches.from_bytes(found["sketch"][mine.index[-1]])
    assert whole.to_bytes() == sketch_batch(values, KINDS, time_ms, TILE_MS).to_bytes()
    origins = [only(table, number, 0, int(time_ms[-1]) + 1) for number in range(3)]
    assert merge(origins).to_bytes() == whole.coarsen(DAY_MS).to_bytes()
    assert cut.segments[:3] == ("origin=EWR", "origin=JFK", "origin=other")
    assert origins[2].rows.sum() == (~mine["origin"].isin(["EWR", "JFK"])).sum()


def test_what_no_record_can_hold_comes_in_parts_that_add_up(
    rows: pd.DataFrame, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = answered(rows, models, segmented=True)["segments"].dropna()
    monkeypatch.setattr("jobs.inference.PART_BYTES", 600)
    parts = answered(rows, models, segmented=True)["segments"].dropna()
    assert len(whole) > 600
    assert len(parts) > 1
    assert max(map(len, parts)) < len(whole)
    assert merge([Sketches.from_bytes(each) for each in parts]).to_bytes() == whole


def test_no_row_promises_what_a_sketch_behind_it_holds(rows: pd.DataFrame, models: Path) -> None:
    """Rows of a batch say how far event time was when they came; its sketches are on the last of them."""
    found = answered(rows, models, segmented=True)
    promised, sketched = found["watermark_seconds"].to_numpy(), np.flatnonzero(found["sketch"].notna())
    assert len(sketched) == 2  # of either version
    assert (promised[: sketched[-1]] == rows["seconds"].iloc[0]).all()
    assert (promised[sketched[-1] :] == rows["seconds"].iloc[sketched[-1] :]).all()
    assert promised[-1] > promised[0]


def test_nothing_is_said_of_segments_where_there_are_none(rows: pd.DataFrame, models: Path) -> None:
    assert "segments" not in answered(rows, models, segmented=False)


def test_answers_are_packed_with_their_segments(rows: pd.DataFrame, models: Path) -> None:
    function = PackedAnswers(models, ["distance", "origin"])
    function.open(None)
    probability = pd.Series(np.full(len(rows), 0.25))
    columns = (rows["distance"], rows["origin"])
    found = function.eval(rows["version"], rows["request_id"], probability, rows["seconds"], *columns)
    mine = rows[(rows["version"] == "1") & rows["request_id"].notna()]
    packed = np.frombuffer(found[mine.index[-1]], ANSWER)
    assert packed["segment"].tolist() == cut_of_version().codes(mine).tolist()
    others = rows[(rows["version"] == "prior") & rows["request_id"].notna()]
    assert not np.frombuffer(found[others.index[-1]], ANSWER)["segment"].any()


def test_a_service_names_what_there_is() -> None:
    from features.compiler.inputs import Inputs

    inputs = Inputs(
        "m", "labels", "id", "late", ("distance",), ("origin",), (), "p", (), {}, "origin; far: distance > 5"
    )
    assert [each.name for each in planned(inputs).dimensions] == ["origin", "far"]
