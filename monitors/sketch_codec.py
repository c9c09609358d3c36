"""Sketches on the wire: one Avro record, versioned, whose number columns are packed variable-length integers.

Avro's own arrays of longs hold the same bytes, but fastavro makes a Python integer of each (70 ns to write, 95 ns to
read); packed by numpy a batch of half a million buckets takes a few milliseconds. A reader in another language unpacks
them like any Avro (or protobuf sint64) varint: zigzag, seven bits a byte, lowest first.
"""

import io
from typing import Any, Final

import fastavro
import numpy as np
import numpy.typing as npt

from monitors.buckets import Ints, pack_keys
from monitors.sketches import SketchError, Sketches

__all__ = ["SCHEMA", "VERSION", "decode", "encode", "pack_ints", "unpack_ints"]

VERSION: Final = 1
_NUMBERS: Final = ("tiles", "rows", "nulls", "other", "sums", "squares", "lengths", "codes", "counts")
_KINDS: Final = ("numeric", "categorical", "score")


_KIND: Final[dict[str, Any]] = {"type": "enum", "name": "Kind", "symbols": list(_KINDS)}


def _packed(name: str, doc: str) -> dict[str, Any]:
    return {"name": name, "type": "bytes", "doc": doc}


SCHEMA: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Sketches",
    "namespace": "headwater.drift",
    "doc": "Sketches of C columns over T tiles. Bytes are packed zigzag varints unless the field says otherwise.",
    "fields": [
        {"name": "version", "type": "int", "doc": "Of this layout; readers refuse what they do not know."},
        {"name": "tile_ms", "type": "long"},
        {"name": "names", "type": {"type": "array", "items": "string"}},
        {"name": "kinds", "type": {"type": "array", "items": _KIND}},
        {"name": "vocabulary", "type": {"type": "array", "items": "string"}},
        _packed("tiles", "T starts, each as the difference from the one before."),
        _packed("rows", "T."),
        _packed("nulls", "T x C."),
        _packed("other", "T x C."),
        _packed("low", "T x C little-endian doubles."),
        _packed("high", "T x C little-endian doubles."),
        _packed("sums", "T x C x 3 limbs of 26 bits, lowest first, in units of 2**-20."),
        _packed("squares", "As sums."),
        _packed("lengths", "T x C: buckets in each cell."),
        _packed("codes", "Bucket numbers, cell by cell, each as the difference from the one before, across cells."),
        _packed("counts", "One for each code."),
    ],
}
_PARSED = fastavro.parse_schema(SCHEMA)


def encode(sketches: Sketches) -> bytes:
    """Bytes of a sketch table; equal tables give equal bytes."""
    cells = len(sketches.tiles) * len(sketches.names)
    record = {
        "version": VERSION,
        "tile_ms": sketches.tile_ms,
        "names": sketches.names,
        "kinds": sketches.kinds,
        "vocabulary": sketches.vocabulary,
        "tiles": pack_ints(np.diff(sketches.tiles, prepend=0)),
        **{name: pack_ints(getattr(sketches, name).ravel()) for name in ("rows", "nulls", "other", "sums", "squares")},
        "low": sketches.low.astype("<f8").tobytes(),
        "high": sketches.high.astype("<f8").tobytes(),
        "lengths": pack_ints(np.bincount(sketches.cells, minlength=cells)),
        "codes": pack_ints(np.diff(sketches.codes, prepend=0)),
        "counts": pack_ints(sketches.counts),
    }
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _PARSED, record)
    return out.getvalue()


def decode(payload: bytes) -> Sketches:
    """What :func:`encode` wrote.

    Raises
    ------
    SketchError
        Where the bytes are of another version or do not decode.
    """
    if payload[:1] != bytes([VERSION << 1]):  # an Avro int: zigzag
        raise SketchError(
            f"expected sketches of version {VERSION}, got bytes that start {payload[:4].hex(' ')!r}; "
            "upgrade the reader before the writer"
        )
    try:
        record: Any = fastavro.schemaless_reader(io.BytesIO(payload), _PARSED, None)
        return _rebuild(record)
    except SketchError:
        raise
    except Exception as exc:  # fastavro and numpy raise whatever the bytes led them into
        raise SketchError(f"expected sketches, got {len(payload)} bytes that do not decode: {exc!r}") from exc


def _rebuild(record: dict[str, Any]) -> Sketches:
    numbers = {name: unpack_ints(record[name]) for name in _NUMBERS}
    shape = (len(numbers["tiles"]), len(record["names"]))
    cells = np.repeat(np.arange(len(numbers["lengths"])), numbers["lengths"])
    return Sketches(
        tile_ms=record["tile_ms"],
        names=tuple(record["names"]),
        kinds=tuple(record["kinds"]),
        tiles=np.cumsum(numbers["tiles"]),
        rows=numbers["rows"],
        nulls=numbers["nulls"].reshape(shape),
        other=numbers["other"].reshape(shape),
        low=np.frombuffer(record["low"], "<f8").reshape(shape),
        high=np.frombuffer(record["high"], "<f8").reshape(shape),
        sums=numbers["sums"].reshape((*shape, 3)),
        squares=numbers["squares"].reshape((*shape, 3)),
        keys=pack_keys(cells, np.cumsum(numbers["codes"])),
        counts=numbers["counts"],
        vocabulary=tuple(record["vocabulary"]),
    )


def pack_ints(values: Ints) -> bytes:
    """Zigzag varints of int64 values."""
    signed = np.asarray(values, dtype=np.int64)
    unsigned = ((signed << 1) ^ (signed >> 63)).view(np.uint64)
    if not len(unsigned) or unsigned.max() < 128:  # as most counts are
        return unsigned.astype(np.uint8).tobytes()
    size = np.ones(len(unsigned), dtype=np.int64)
    for bits in range(7, 64, 7):
        longer = unsigned >= np.uint64(1) << np.uint64(bits)
        if not longer.any():
            break
        size += longer
    start = np.cumsum(size) - size
    out = np.zeros(int(size.sum()), dtype=np.uint8)
    for k in range(int(size.max(initial=0))):
        has = np.flatnonzero(size > k)
        more = (size[has] > k + 1).astype(np.uint8) << 7
        out[start[has] + k] = ((unsigned[has] >> np.uint64(7 * k)) & np.uint64(127)).astype(np.uint8) | more
    return out.tobytes()


def unpack_ints(packed: bytes) -> Ints:
    """What :func:`pack_ints` wrote.

    Raises
    ------
    SketchError
        Where the bytes end within a number.
    """
    raw: npt.NDArray[np.uint8] = np.frombuffer(packed, dtype=np.uint8)
    if len(raw) == 0:
        return np.zeros(0, dtype=np.int64)
    ends = np.flatnonzero(raw < 128)
    if len(ends) == 0 or ends[-1] != len(raw) - 1:
        raise SketchError(f"expected packed integers, got {len(raw)} bytes that end within one")
    start = np.r_[0, ends[:-1] + 1]
    place = np.arange(len(raw)) - np.repeat(start, ends - start + 1)
    parts = (raw & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    unsigned = np.add.reduceat(parts, start)
    return (unsigned >> np.uint64(1)).view(np.int64) ^ -(unsigned & np.uint64(1)).view(np.int64)
