"""Feast's values, times and entity keys as their stored bytes, a column at a time.

Feast's stores keep a value as a serialized ``feast.types.Value``. To make that message of every value costs more than
everything else a write does, so its bytes are put together here, in numpy where they are of one length. The format is
https://protobuf.dev/programming-guides/encoding; tests hold every type against protobuf itself.
"""

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import Field
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import Value, ValueType
from feast.types import Array, Bool, Bytes, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp

from features.compiler.topics import UnsupportedViewError

__all__ = ["Cells", "KeyEncoder", "time_bytes", "value_encoder"]

ENTITY_KEY_VERSION = 3
# Bytes a value: as a list, or where all are of one length w an array of dtype ``V<w>``.
Cells = list[bytes] | npt.NDArray[np.void]
Encoder = Callable[[pa.Array], Cells]
_VARINT, _I64, _LENGTH, _I32 = 0, 1, 2, 5  # wire types
_WIRE: dict[FeastType, int] = {Float64: _I64, Float32: _I32, String: _LENGTH, Bytes: _LENGTH}  # the others are varints
_ITEM = b"\x0a"  # field 1, length-delimited: `val` of the list messages
_KEY_LENGTH: dict[FeastType, int] = {Int64: 8, UnixTimestamp: 8, Int32: 4, String: 0, Bytes: 0}  # 0: its own


def value_encoder(dtype: FeastType) -> Encoder:
    """From a decoded column to serialized ``Value`` messages; a null one has no bytes.

    Parameters
    ----------
    dtype : FeastType
        A type that :func:`features.compiler.topics.avro_type` knows.
    """
    field = Value.DESCRIPTOR.fields_by_name[f"{dtype.to_value_type().name.lower()}_val"]
    if isinstance(dtype, Array):
        encode = _lists(_varint(field.number << 3 | _LENGTH), dtype.base_type)
    else:
        encode = _scalars(_varint(field.number << 3 | _WIRE.get(dtype, _VARINT)), dtype)

    def with_nulls(column: pa.Array) -> Cells:
        if not column.null_count:
            return encode(column)
        found = iter(_listed(encode(column.drop_null())))
        return [next(found) if valid else b"" for valid in column.is_valid().to_pylist()]

    return with_nulls


def time_bytes(time_ms: npt.NDArray[np.int64]) -> list[bytes]:
    """Serialized ``google.protobuf.Timestamp`` of UTC epoch milliseconds."""
    seconds, millis = np.divmod(time_ms, 1000)
    found = zip(_varints(b"\x08", seconds), _varints(b"\x10", millis * 1_000_000), strict=True)
    if seconds.all() and millis.all():
        return [s + n for s, n in found]
    # A field that is zero is left out.
    parts = zip(found, seconds.tolist(), millis.tolist(), strict=True)
    return [(s if some_s else b"") + (n if some_n else b"") for (s, n), some_s, some_n in parts]


class KeyEncoder:
    """From decoded join keys to Redis keys: Feast's serialized entity key (version 3), then the project.

    Parameters
    ----------
    fields : sequence of Field
        Join keys.
    project : str

    Raises
    ------
    UnsupportedViewError
        For a join key of a type that Feast has no bytes for.
    """

    def __init__(self, fields: Sequence[Field], project: str) -> None:
        ordered = sorted(fields, key=lambda field: field.name)
        self.names = [field.name for field in ordered]
        self._prefix = serialize_entity_key_prefix(self.names, ENTITY_KEY_VERSION)
        self._project = project.encode()
        self._parts = [_key_part(field) for field in ordered]

    def encode(self, batch: pa.RecordBatch) -> list[bytes]:
        """Redis keys of the entities, none of whose join keys is null."""
        prefix, project = self._prefix, self._project
        columns = [_listed(part(batch.column(name))) for part, name in zip(self._parts, self.names, strict=True)]
        if len(columns) == 1:
            return [prefix + value + project for value in columns[0]]
        return [prefix + b"".join(values) + project for values in zip(*columns, strict=True)]


def _key_part(field: Field) -> Encoder:
    length = _KEY_LENGTH.get(field.dtype)
    if length is None:
        known = ", ".join(str(each) for each in _KEY_LENGTH)
        raise UnsupportedViewError(f"join key {field.name!r}: expected one of {known} (Feast), got {field.dtype}")
    kind = struct.pack("<I", ValueType.Enum.Value(field.dtype.to_value_type().name))
    if length:
        head = kind + struct.pack("<I", length)
        return lambda column: _fixed(head, _numbers(column).astype(f"<i{length}"))
    pack = struct.Struct("<I").pack
    return lambda column: [kind + pack(len(each)) + each for each in column.cast(pa.binary()).to_pylist()]


def _scalars(prefix: bytes, dtype: Any) -> Encoder:
    """Each value behind the prefix; a column without nulls."""
    if dtype in (Float64, Float32):
        little = "<f8" if dtype == Float64 else "<f4"
        return lambda column: _fixed(prefix, column.to_numpy().astype(little, copy=False))
    if dtype == Bool:
        no, yes = prefix + b"\0", prefix + b"\1"
        return lambda column: [yes if each else no for each in column.to_pylist()]
    if dtype in (String, Bytes):
        return lambda column: _lengths(prefix, column.cast(pa.binary()).to_pylist())
    return lambda column: _varints(prefix, _numbers(column))


def _lists(prefix: bytes, dtype: Any) -> Encoder:
    """Each list behind the prefix: numbers packed, strings and bytes one by one."""
    packed = dtype not in (String, Bytes)
    items_of = _scalars(b"" if packed else _ITEM, dtype)

    def encode(column: pa.Array) -> list[bytes]:
        ends = column.offsets.to_pylist()
        items = _listed(items_of(column.values.slice(ends[0], ends[-1] - ends[0]))) if ends[-1] > ends[0] else []
        bodies = [b"".join(items[a - ends[0] : b - ends[0]]) for a, b in pairwise(ends)]
        if packed:
            bodies = [_ITEM + _varint(len(body)) + body if body else body for body in bodies]
        return _lengths(prefix, bodies)

    return encode


def _numbers(column: pa.Array) -> npt.NDArray[np.int64]:
    """Integers as they are, times as Feast has them: whole seconds, rounded down."""
    if pa.types.is_timestamp(column.type):
        return column.view(pa.int64()).to_numpy() // 1000
    return column.to_numpy().astype(np.int64, copy=False)


def _listed(cells: Cells) -> list[bytes]:
    return cells if isinstance(cells, list) else cells.tolist()


def _fixed(prefix: bytes, numbers: npt.NDArray[Any]) -> Cells:
    size, start = numbers.dtype.itemsize, len(prefix)
    cells = np.empty((len(numbers), start + size), np.uint8)
    cells[:, :start] = np.frombuffer(prefix, np.uint8)
    cells[:, start:] = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, size)
    return cells.view(f"V{start + size}").ravel()


def _varints(prefix: bytes, numbers: npt.NDArray[np.int64]) -> list[bytes]:
    """Seven bits a byte, the lowest first; negative ones in two's complement, ten bytes."""
    start = len(prefix)
    width = start + 10
    cells = np.empty((len(numbers), width), np.uint8)
    cells[:, :start] = np.frombuffer(prefix, np.uint8)
    left = np.ascontiguousarray(numbers).view(np.uint64)
    sizes = np.full(len(numbers), start, np.int64)
    for at in range(start, width):
        rest = left >> np.uint64(7)
        goes_on = rest != 0
        cells[:, at] = (left & np.uint64(127)).astype(np.uint8) | (goes_on.astype(np.uint8) << 7)
        sizes += (left != 0) | (at == start)
        if not goes_on.any():
            break
        left = rest
    blob = cells.tobytes()
    return [blob[at : at + size] for at, size in zip(range(0, len(blob), width), sizes.tolist(), strict=True)]


def _lengths(prefix: bytes, bodies: Sequence[bytes]) -> list[bytes]:
    heads = [prefix + bytes([size]) for size in range(128)]
    return [(heads[len(body)] if len(body) < 128 else prefix + _varint(len(body))) + body for body in bodies]


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
