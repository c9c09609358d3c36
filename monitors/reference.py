"""What a model version was trained on, as its monitors need it: pinned to the version, saved beside the model."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import fastavro
import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

from monitors.buckets import Ints, Kind
from monitors.estimates import Estimator, Usual
from monitors.profiles import Profile
from monitors.segments import Segmentation
from monitors.sketches import ColumnSketch, Sketches

__all__ = [
    "ColumnSpec",
    "Null",
    "Reference",
    "Role",
    "SegmentReference",
    "UnusableReferenceError",
    "scaled",
]

VERSION: Final = 6
Role = Literal["monitored", "context"]
Scale = Literal["plain", "log", "odds"]
_LEAST: Final = 1e-6


class UnusableReferenceError(ValueError):
    """A training span or bytes that make no reference. The message names what was expected and what came."""


@dataclass(frozen=True)
class ColumnSpec:
    """How a column is watched.

    Attributes
    ----------
    kind : Kind
    role : {"monitored", "context"}
        Context is compared and reported and never fires: a winter's month of weather is no yardstick for a spring.
    source : str
        The feed it comes from. Columns of one source share a data incident, since one producer is at fault for all.
    """

    kind: Kind
    role: Role = "monitored"
    source: str = ""


def scaled(values: Any, scale: Scale) -> Any:
    """Values on a scale on which the null of a statistic is bell-shaped; what is at an end of it a little within."""
    if scale == "plain":
        return values
    if scale == "log":
        return np.log(np.maximum(values, _LEAST))
    return logit(np.clip(values, _LEAST, 1 - _LEAST))


@dataclass(frozen=True)
class Null:
    """Distribution of a statistic while nothing is wrong: Student's t of it, of its logarithm, or of its log odds.

    Attributes
    ----------
    statistic : str
    center, spread : float
        On its scale.
    degrees : float
        Of freedom: the spread is known from as many independent days and one.
    floor : float
        Only values above it are worth an alarm, however rare; -inf where every one is.
    sides : int
        1 where only large values are strange, 2 where small ones are too.
    scale : {"plain", "log", "odds"}
        Logarithms of what has no upper end, log odds of what ends at 1.
    """

    statistic: str
    center: float
    spread: float
    degrees: float
    floor: float
    sides: int
    scale: Scale

    def p_value(self, value: float) -> float | None:
        """Chance of a value this far out under the null; None for no value."""
        if math.isnan(value):
            return None
        far = (float(scaled(value, self.scale)) - self.center) / self.spread
        return min(self.sides * float(stdtr(self.degrees, -abs(far) if self.sides == 2 else -far)), 1.0)

    def strange(self, value: float) -> float:
        """The same for an alarm: 1 for what is not worth one, and for NaN."""
        chance = self.p_value(value)
        return 1.0 if chance is None or value <= self.floor else chance

    def limit(self, level: float, value: float) -> float:
        """The threshold at a level, on the side of a value."""
        far = -float(stdtrit(self.degrees, level / self.sides)) * self.spread
        if self.sides == 2 and value < self.center:
            return self.center - far
        at = self.center + far
        if self.scale == "log":
            at = math.exp(min(at, 700.0))
        elif self.scale == "odds":
            at = float(expit(at))
        return max(at, self.floor)


@dataclass(frozen=True)
class SegmentReference:
    """The part of a reference that is of one segment.

    Attributes
    ----------
    merged : Sketches
        As one tile.
    nulls : mapping of column to tuple of Null
    losses : tuple of Null
        Empty where too few of its days had labels.
    """

    merged: Sketches
    nulls: Mapping[str, tuple[Null, ...]]
    losses: tuple[Null, ...]

    @cached_property
    def usual(self) -> dict[str, ColumnSketch]:
        """Each column of `merged`."""
        return {name: self.merged.column(name) for name in self.merged.names}


@dataclass(frozen=True)
class Reference:
    """Build with :func:`monitors.thresholds.build_reference`.

    Attributes
    ----------
    model, version : str
    columns : mapping of name to ColumnSpec
    merged : Sketches
        The whole training span as one tile; its `names` give the order of columns in `profile`.
    profile : Profile
    nulls : mapping of column to tuple of Null
        Of each distance, for a window of `window_days`.
    losses : tuple of Null
        Of the mean of each loss column over a window of `window_days`.
    series : mapping of str to Null
        Of what one day of each of :data:`monitors.series.SERIES` is like, the mean of its hours; of those that the span
        has enough of.
    window_days : int
    estimator : Estimator
        What the model's scores say of how well it does.
    segmentation : Segmentation
    segments : mapping of str to SegmentReference
        Of its segments, those with enough days to be judged.
    """

    model: str
    version: str
    columns: Mapping[str, ColumnSpec]
    merged: Sketches
    profile: Profile
    nulls: Mapping[str, tuple[Null, ...]]
    losses: tuple[Null, ...]
    series: Mapping[str, Null]
    window_days: int
    estimator: Estimator
    segmentation: Segmentation = field(default_factory=Segmentation)
    segments: Mapping[str, SegmentReference] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kind of each column: what :func:`monitors.sketches.sketch_batch` is to be told."""
        return {name: spec.kind for name, spec in self.columns.items()}

    @cached_property
    def usual(self) -> dict[str, ColumnSketch]:
        """Each column of `merged`."""
        return {name: self.merged.column(name) for name in self.merged.names}

    @cached_property
    def feeds(self) -> dict[str, Ints]:
        """Positions, in `merged.names`, of the monitored columns of each source."""
        positions: dict[str, list[int]] = {}
        for c, name in enumerate(self.merged.names):
            if self.columns[name].role == "monitored":
                positions.setdefault(self.columns[name].source, []).append(c)
        return {source: np.array(where) for source, where in sorted(positions.items())}

    def to_bytes(self) -> bytes:
        """Versioned Avro; equal references give equal bytes."""
        record = {
            "version": VERSION,
            "model": self.model,
            "model_version": self.version,
            "window_days": self.window_days,
            "columns": [{"name": n, **asdict(s), "nulls": _records(self.nulls.get(n, ()))}
                        for n, s in sorted(self.columns.items())],
            "losses": _records(self.losses),
            "series": _records(tuple(self.series.values())),
            "chances": self.estimator.chances.astype("<f8").tobytes(),
            "wander": list(self.estimator.wander),
            "usual_labels": self.estimator.labels,
            "usual": [asdict(each) for each in self.estimator.usual],
            "merged": self.merged.to_bytes(),
            "segmentation": json.dumps(self.segmentation.plain()),
            "segments": [{"name": name, "merged": each.merged.to_bytes(), "losses": _records(each.losses),
                          "nulls": {column: _records(nulls) for column, nulls in sorted(each.nulls.items())}}
                         for name, each in self.segments.items()],
            **{name: getattr(self.profile, name).astype("<f8").tobytes() for name in _PROFILE},
        }  # fmt: skip
        out = io.BytesIO()
        fastavro.schemaless_writer(out, _PARSED, record)
        return out.getvalue()

    @staticmethod
    def from_bytes(payload: bytes) -> "Reference":
        """What :meth:`to_bytes` wrote.

        Raises
        ------
        UnusableReferenceError
            Where the bytes are of another version or do not decode.
        """
        if payload[:1] != bytes([VERSION << 1]):
            raise UnusableReferenceError(f"expected a reference of version {VERSION}, got bytes that start "
                                 f"{payload[:4].hex(' ')!r}; train the model again with this release")  # fmt: skip
        try:
            return _rebuild(fastavro.schemaless_reader(io.BytesIO(payload), _PARSED, None))
        except Exception as exc:  # fastavro and numpy raise whatever the bytes led them into
            raise UnusableReferenceError(
                f"expected a reference, got {len(payload)} bytes that do not decode: {exc!r}"
            ) from exc


_PROFILE: Final = ("rows_low", "labels", "null_high", "outside_high", "range_low", "range_high")
_NULL: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Null",
    "fields": [
        {"name": "statistic", "type": "string"},
        *({"name": name, "type": "double"} for name in ("center", "spread", "degrees", "floor")),
        {"name": "sides", "type": "int"},
        {"name": "scale", "type": "string"},
    ],
}
_COLUMN: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Column",
    "fields": [
        *({"name": name, "type": "string"} for name in ("name", "kind", "role", "source")),
        {"name": "nulls", "type": {"type": "array", "items": _NULL}},
    ],
}
_SEGMENT: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Segment",
    "fields": [
        {"name": "name", "type": "string"},
        {"name": "merged", "type": "bytes", "doc": "monitors.sketch_codec"},
        {"name": "losses", "type": {"type": "array", "items": "Null"}},
        {"name": "nulls", "type": {"type": "map", "values": {"type": "array", "items": "Null"}}},
    ],
}
_USUAL: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Usual",
    "fields": [
        {"name": "measure", "type": "string"},
        *({"name": name, "type": "double"} for name in ("value", "blind", "corrected")),
    ],
}
SCHEMA: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Reference",
    "namespace": "headwater.drift",
    "fields": [
        {"name": "version", "type": "int", "doc": "Of this layout; readers refuse what they do not know."},
        {"name": "model", "type": "string"},
        {"name": "model_version", "type": "string"},
        {"name": "window_days", "type": "int"},
        {"name": "columns", "type": {"type": "array", "items": _COLUMN}},
        {"name": "losses", "type": {"type": "array", "items": "Null"}},
        {"name": "series", "type": {"type": "array", "items": "Null"}},
        {"name": "chances", "type": "bytes", "doc": "Little-endian doubles."},
        {"name": "wander", "type": {"type": "array", "items": "double"}},
        {"name": "usual_labels", "type": "double"},
        {"name": "usual", "type": {"type": "array", "items": _USUAL}},
        {"name": "merged", "type": "bytes", "doc": "monitors.sketch_codec"},
        {"name": "segmentation", "type": "string", "doc": "JSON."},
        {"name": "segments", "type": {"type": "array", "items": _SEGMENT}},
        *({"name": name, "type": "bytes", "doc": "Little-endian doubles."} for name in _PROFILE),
    ],
}
_PARSED = fastavro.parse_schema(SCHEMA)


def _records(nulls: tuple[Null, ...]) -> list[dict[str, Any]]:
    return [asdict(null) for null in nulls]


def _nulls(records: Sequence[Mapping[str, Any]]) -> tuple[Null, ...]:
    return tuple(Null(**each) for each in records)


def _rebuild(record: Any) -> Reference:
    arrays = {name: np.frombuffer(record[name], "<f8") for name in _PROFILE}
    for name in ("null_high", "outside_high"):
        arrays[name] = arrays[name].reshape(24, -1)
    return Reference(
        model=record["model"],
        version=record["model_version"],
        columns={c["name"]: ColumnSpec(c["kind"], c["role"], c["source"]) for c in record["columns"]},
        merged=Sketches.from_bytes(record["merged"]),
        profile=Profile(**arrays),
        nulls={c["name"]: _nulls(c["nulls"]) for c in record["columns"]},
        losses=_nulls(record["losses"]),
        series={each.statistic: each for each in _nulls(record["series"])},
        window_days=record["window_days"],
        estimator=Estimator(
            chances=np.frombuffer(record["chances"], "<f8"),
            wander=(record["wander"][0], record["wander"][1]),
            labels=record["usual_labels"],
            usual=tuple(Usual(**each) for each in record["usual"]),
        ),
        segmentation=Segmentation.of_plain(json.loads(record["segmentation"])),
        segments={
            each["name"]: SegmentReference(
                merged=Sketches.from_bytes(each["merged"]),
                nulls={column: _nulls(nulls) for column, nulls in each["nulls"].items()},
                losses=_nulls(each["losses"]),
            )
            for each in record["segments"]
        },
    )
