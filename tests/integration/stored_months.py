"""Four months of a model's traffic with planted faults, and an archive that holds them as the archiver would."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import psutil
import pyarrow as pa
from click.testing import CliRunner, Result
from clickhouse_connect.driver.client import Client
from own_services import own_clickhouse

from compose.cli import headwater
from compose.local.home import Home
from compose.local.platform import Endpoints, Running
from compose.services import REPO
from features.compiler.inputs import Inputs, write_inputs
from features.compiler.repo import load_repo
from features.compiler.service import model_inputs, plain_inputs, prediction_topic
from jobs.archiving import prepare_tables
from jobs.segmenting import planned
from monitors.losses import TILE_MS, sketch_losses
from monitors.reference import ColumnSpec, Reference
from monitors.segments import Segmentation, sketch_segments
from monitors.sketches import Sketches, sketch_batch
from monitors.thresholds import DAY_MS, HOUR_MS, SegmentedSpan, build_reference
from schemas.tables import DATABASE
from schemas.topics import topic

START_MS = 16_000 * DAY_MS
DAYS, TRAINED_DAY, HOURLY, BATCH = 118, 31, 24, 150
SILENT = 40
"""A day on which a feed has no values."""
RISEN = (62, 70)
"""Days on which amounts are three times as high, which does the model no harm."""
ODD = (84, 99)
"""Days on which scores do not foresee labels, until another version answers."""
ASKED = {TRAINED_DAY - 1: "bootstrap", 64: "features", 92: "performance"}
"""Days on which a retraining was asked for. That of the features was refused, the others are versions 1 and 2."""
SPECS = {
    "amount": ColumnSpec("numeric", source="payments"),
    "channel": ColumnSpec("categorical", source="payments"),
    "age": ColumnSpec("numeric", source="people"),
    "probability": ColumnSpec("score"),
}
KINDS = {name: spec.kind for name, spec in SPECS.items()}
DEFINED = model_inputs(load_repo(REPO), "delay")
INPUTS: Inputs = plain_inputs(DEFINED)
PREDICTIONS = prediction_topic(DEFINED)


def at(day: float) -> int:
    """UTC epoch milliseconds of a day of the traffic."""
    return START_MS + round(day * DAY_MS)


Flags = npt.NDArray[np.bool_] | bool


def requests(
    rng: np.random.Generator,
    time_ms: npt.NDArray[np.int64],
    risen: Flags,
    silent: Flags,
    unforeseen: Callable[[npt.NDArray[Any]], Any],
) -> pd.DataFrame:
    """Requests at these times, ``at`` in epoch milliseconds: `SPECS`, what segments are made of, and what became of it.

    ``label_at`` and ``late`` (0 or 1) are the label's. Amounts are three times as high where `risen`, ages missing
    where `silent`; by `unforeseen`, of the channels, labels are likelier to be positive than the score says.
    """
    size = len(time_ms)
    score = rng.beta(2, 5, size)
    return pd.DataFrame(
        {
            "at": time_ms,
            "amount": rng.lognormal(3, 1, size) * np.where(risen, 3, 1),
            "channel": (channel := rng.choice(["web", "shop", "phone"], size, p=[0.6, 0.3, 0.1])),
            "origin": channel,
            "sched_hour": time_ms // HOUR_MS % 24 * 1.0,
            "age": np.where(silent, np.nan, rng.normal(45, 12, size)),
            "probability": score,
            "label_at": time_ms + rng.integers(HOUR_MS, 8 * HOUR_MS, size),
            "late": (rng.random(size) < np.minimum(score + unforeseen(channel), 1)).astype(int),
        }
    )


def traffic() -> pd.DataFrame:
    """Requests in the order of their time, with ``id`` and ``version``; see :func:`requests`."""
    rng = np.random.default_rng(5)
    size = DAYS * 24 * HOURLY
    time_ms = START_MS + np.sort(rng.integers(0, DAYS * DAY_MS, size))
    day = (time_ms - START_MS) // DAY_MS
    risen, odd = ((span[0] <= day) & (day < span[1]) for span in (RISEN, ODD))
    return requests(rng, time_ms, risen, day == SILENT, lambda _: 0.3 * odd).assign(
        id=[f"r{i}" for i in range(size)],
        version=np.select([day < TRAINED_DAY, day < ODD[1]], ["prior", "1"], "2"),
    )


def inputs(rows: pd.DataFrame) -> Sketches:
    return sketch_batch({name: rows[name].to_numpy() for name in SPECS}, KINDS, rows["at"].to_numpy(), TILE_MS)


def losses(rows: pd.DataFrame) -> Sketches:
    return sketch_losses(rows["probability"].to_numpy(), rows["late"].to_numpy(), rows["label_at"].to_numpy())


def segments(rows: pd.DataFrame, cut: Segmentation) -> Sketches:
    values = {name: rows[name].to_numpy() for name in SPECS}
    return sketch_segments(cut, cut.codes(rows), values, KINDS, rows["at"].to_numpy(), TILE_MS)


def segment_losses(rows: pd.DataFrame, cut: Segmentation) -> Sketches:
    place, time_ms = cut.spread(cut.codes(rows), rows["label_at"].to_numpy())
    return sketch_losses(rows["probability"].to_numpy()[place], rows["late"].to_numpy()[place], time_ms)


def reference(version: str, before: pd.DataFrame) -> Reference:
    """Of a version, from such traffic."""
    cut = planned(INPUTS).restricted(before, 1)
    span = SegmentedSpan(cut, segments(before, cut), segment_losses(before, cut))
    return build_reference("delay", version, SPECS, inputs(before), losses(before), seed=3, segmented=span)


def references(rows: pd.DataFrame) -> dict[str, Reference]:
    """Of both versions, from what the prior was asked."""
    return {version: reference(version, rows[rows["version"] == "prior"]) for version in "12"}


@dataclass(frozen=True)
class Archive:
    """Fills the tables of an empty archive."""

    client: Client

    def fill(self, rows: pd.DataFrame, cuts: Mapping[str, Segmentation]) -> int:
        """What the archiver would have written of the traffic and of the control loop; how many sketches there are."""
        names = ("flights.arrivals", "models.control", "retraining.events")
        prepare_tables(self.client, [PREDICTIONS, *map(topic, names)])
        batches = [part for _, one in rows.groupby("version") for part in _batches(one)]
        for i in range(0, len(batches), 100):
            self._put("predictions_delay", pd.concat(_answers(each, cuts) for each in batches[i : i + 100]))
        arrivals = {"flight_id": rows["id"], "event_time": _times(rows["label_at"]), "carrier": "XX", "flight": 1}
        arrivals |= {"origin": "AAA", "dest": "BBB", "sched_dep": _times(rows["at"]), "arr_delay": 60.0 * rows["late"]}
        self._put("flights_arrivals", pd.DataFrame(arrivals).sort_values("event_time"))
        changes = [("prior", 0, "hold"), ("1", at(TRAINED_DAY), "promote"), ("2", at(ODD[1]), "promote")]
        control = pd.DataFrame(changes, columns=["version", "event_time", "action"]).assign(model="delay", uri="")
        self._put("models_control", control.assign(event_time=_times(control["event_time"])))
        asked = pd.DataFrame({"event_time": map(at, ASKED), "monitor": ASKED.values()})
        asked = asked.assign(model="delay", incident_id=[f"{i:032}" for i in range(len(asked))], reason="", policy="p")
        asked["event_time"] = asked["effective_from"] = _times(asked["event_time"])
        self._put("retraining_events", asked)
        return len(batches)

    def _put(self, table: str, rows: pd.DataFrame) -> None:
        rows = rows.assign(_partition=0, _offset=range(len(rows)))
        self.client.insert_arrow(table, pa.Table.from_pandas(rows, preserve_index=False), database=DATABASE)


def _batches(rows: pd.DataFrame) -> list[pd.DataFrame]:
    return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]


def _answers(batch: pd.DataFrame, cuts: Mapping[str, Segmentation]) -> pd.DataFrame:
    """A batch as scoring writes it: its sketches are on the last row."""
    last = [None] * (len(batch) - 1)
    cut = cuts.get(batch["version"].iloc[0])
    found = {"request_id": batch["id"], "event_time": _times(batch["at"]), "model": "delay"}
    found |= {"model_version": batch["version"], "probability": batch["probability"]}
    found |= {"origin": batch["origin"], "sched_hour": batch["sched_hour"]}
    found |= {"segments": [*last, segments(batch, cut).to_bytes() if cut else None]}
    return pd.DataFrame(found | {"sketch_rows": [*last, len(batch)], "sketch": [*last, inputs(batch).to_bytes()]})


def _times(milliseconds: pd.Series) -> pd.Series:
    return pd.to_datetime(milliseconds, unit="ms", utc=True)


def leave_references(models: Path, found: dict[str, Reference]) -> None:
    """Where training leaves them."""
    for version, each in found.items():
        folder = models / "delay" / version
        folder.mkdir(parents=True)
        (folder / "reference.avro").write_bytes(each.to_bytes())
        (folder / "model.json").write_text(json.dumps({"segments": each.segmentation.plain()}))


@dataclass
class Kept:
    """A platform that was left running: what of it the command reads."""

    home: Home
    clickhouse: str
    rows: pd.DataFrame
    references: dict[str, Reference]
    sketches: int

    def run(self, *arguments: str) -> Result:
        """What `headwater` says."""
        return CliRunner().invoke(headwater, [*arguments], env={"HEADWATER_HOME": str(self.home.root)})


@contextmanager
def kept_platform(home: Home) -> Iterator[Kept]:
    """The four months, with their references and an archive of their own."""
    rows = traffic()
    known = references(rows)
    leave_references(home.path("models"), known)
    cuts = {version: each.segmentation for version, each in known.items()}
    write_inputs(home.path("inputs.json"), {"delay": INPUTS})
    with own_clickhouse(home.path("archive")) as (url, client):
        endpoints = Endpoints("", "", url, "")
        began = psutil.Process().create_time()
        home.platform_file.write_text(json.dumps(asdict(Running("", "up", os.getpid(), began, endpoints, {}))))
        yield Kept(home, url, rows, known, Archive(client).fill(rows, cuts))
