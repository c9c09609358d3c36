"""The state of a model's monitors as bytes: versioned Avro, for a checkpoint."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import fastavro

from monitors.sketches import Sketches

__all__ = ["LAYOUT", "TABLES", "CheckpointError", "State", "decode", "encode"]

LAYOUT: Final = 5
TABLES: Final = ("hours", "days", "losses", "segments", "segment_losses")
"""What is kept of each version."""
_TABLE: Final[list[dict[str, Any]]] = [
    {"name": name, "type": ["null", "bytes"], "doc": "monitors.sketch_codec"} for name in TABLES
]
_TRACK: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Track",
    "fields": [{"name": "version", "type": "string"}, {"name": "since", "type": "long"}, *_TABLE],
}
_SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "ModelMonitor",
        "namespace": "headwater.drift",
        "fields": [
            {"name": "layout", "type": "int", "doc": "Of this record; readers refuse what they do not know."},
            {"name": "model", "type": "string"},
            {"name": "settings", "type": "string"},
            {"name": "plain", "type": "string", "doc": "JSON."},
            {"name": "detectors", "type": {"type": "map", "values": "bytes"}, "doc": "By name; monitors.detectors."},
            {"name": "tracks", "type": {"type": "array", "items": _TRACK}},
            {"name": "answers", "type": {"type": "map", "values": "bytes"}, "doc": "By version; monitors.matching."},
            {"name": "labels", "type": "bytes", "doc": "Those without answers; monitors.matching."},
            {"name": "shift", "type": {"type": "array", "items": "bytes"}, "doc": "Days; monitors.sketch_codec."},
        ],
    }
)


class CheckpointError(ValueError):
    """Bytes that are no state of monitors, or of another layout."""


@dataclass(frozen=True)
class State:
    """What :class:`monitors.evaluate.ModelMonitor` is made of.

    Attributes
    ----------
    model, settings : str
        `settings` is their version.
    plain : mapping
        What JSON can hold.
    detectors : mapping of name to bytes
    tracks : mapping of model version to (since, tables)
    answers : mapping of model version to bytes
    labels : bytes
    shift : sequence of bytes
        Of each day that is held for :mod:`monitors.shift`.
    """

    model: str
    settings: str
    plain: Mapping[str, Any]
    detectors: Mapping[str, bytes]
    tracks: Mapping[str, tuple[int, Mapping[str, Sketches | None]]]
    answers: Mapping[str, bytes]
    labels: bytes
    shift: Sequence[bytes]


def encode(state: State) -> bytes:
    """Bytes of a state; equal states give equal bytes."""
    tracks = [
        {
            "version": version,
            "since": since,
            **{name: None if each is None else each.to_bytes() for name, each in tables.items()},
        }
        for version, (since, tables) in state.tracks.items()
    ]
    record = {
        "layout": LAYOUT,
        "model": state.model,
        "settings": state.settings,
        "plain": json.dumps(state.plain, sort_keys=True),
        "detectors": dict(state.detectors),
        "tracks": tracks,
        "answers": dict(state.answers),
        "labels": state.labels,
        "shift": list(state.shift),
    }
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _SCHEMA, record)
    return out.getvalue()


def decode(payload: bytes) -> State:
    """What :func:`encode` wrote.

    Raises
    ------
    CheckpointError
        Where the bytes are of another layout or do not decode.
    """
    if payload[:1] != bytes([LAYOUT << 1]):  # an Avro int: zigzag
        raise CheckpointError(
            f"expected monitor state of layout {LAYOUT}, got bytes that start {payload[:4].hex(' ')!r}"
        )
    try:
        record: Any = fastavro.schemaless_reader(io.BytesIO(payload), _SCHEMA, None)
        tracks = {
            each["version"]: (
                each["since"],
                {name: Sketches.from_bytes(each[name]) if each[name] is not None else None for name in TABLES},
            )
            for each in record["tracks"]
        }
        return State(
            record["model"],
            record["settings"],
            json.loads(record["plain"]),
            record["detectors"],
            tracks,
            record["answers"],
            record["labels"],
            record["shift"],
        )
    except Exception as exc:  # fastavro and json raise whatever the bytes led them into
        raise CheckpointError(f"expected monitor state, got {len(payload)} bytes that do not decode: {exc!r}") from exc
