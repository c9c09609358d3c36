"""Bytes put together by hand against those that protobuf and Feast make."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Field
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Bytes, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from features.compiler.topics import UnsupportedViewError, avro_type
from features.online.wire import KeyEncoder, time_bytes, value_encoder
from schemas.batch import arrow_type

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES_MS = st.integers(-62_135_596_800_000, 253_402_300_799_999)
SCALARS: dict[FeastType, st.SearchStrategy[Any]] = {
    Float64: st.floats(),
    Float32: st.floats(width=32),
    Int64: st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300),
    Int32: st.integers(-(2**31), 2**31 - 1),
    String: st.text() | st.sampled_from(["x" * 127, "x" * 128, "é" * 9000]),
    Bool: st.booleans(),
    Bytes: st.binary(),
    UnixTimestamp: TIMES_MS,
}


def message(dtype: FeastType, found: Any) -> bytes:
    """What Feast stores."""
    if found is None:
        return Value().SerializeToString()
    name = f"{dtype.to_value_type().name.lower()}_val"
    if isinstance(dtype, Array):
        items = [each // 1000 for each in found] if dtype.base_type == UnixTimestamp else found
        return Value(**{name: type(getattr(Value(), name))(val=items)}).SerializeToString()
    return Value(**{name: found // 1000 if dtype == UnixTimestamp else found}).SerializeToString()


@pytest.mark.parametrize("dtype", [*SCALARS, *map(Array, SCALARS)], ids=str)
@settings(deadline=None)
@given(data=st.data())
def test_values_are_as_protobuf_has_them(dtype: Any, data: st.DataObject) -> None:
    each = st.lists(SCALARS[dtype.base_type], max_size=5) if isinstance(dtype, Array) else SCALARS[dtype]
    found = data.draw(st.lists(st.none() | each, max_size=12))
    column = pa.array(found, arrow_type(avro_type(dtype))[0])
    expected = [message(dtype, value) for value in found]
    assert list(map(bytes, value_encoder(dtype)(column))) == expected
    assert list(map(bytes, value_encoder(dtype)(column.slice(len(found) // 2)))) == expected[len(found) // 2 :]


@settings(deadline=None)
@given(st.lists(TIMES_MS | st.sampled_from([0, 1, -1, 1000, -1000, 999])))
def test_times_are_as_protobuf_has_them(times_ms: list[int]) -> None:
    expected = []
    for time_ms in times_ms:
        stamp = Timestamp()
        stamp.FromDatetime(EPOCH + timedelta(milliseconds=time_ms))
        expected.append(stamp.SerializeToString())
    assert time_bytes(np.array(times_ms, dtype=np.int64)) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(*(SCALARS[each] for each in (Int64, String, Int32, Bytes, UnixTimestamp))), max_size=5))
def test_keys_are_as_feast_has_them(rows: list[tuple[Any, ...]]) -> None:
    names = ["zone", "carrier", "b", "raw", "at"]
    kinds = [Int64, String, Int32, Bytes, UnixTimestamp]
    schema = pa.schema([(name, arrow_type(avro_type(kind))[0]) for name, kind in zip(names, kinds, strict=True)])
    batch = pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=schema)
    expected = [
        _redis_key(
            "project",
            EntityKey(
                join_keys=names,
                entity_values=[Value.FromString(message(kind, each)) for kind, each in zip(kinds, row, strict=True)],
            ),
        )
        for row in rows
    ]
    fields = [Field(name=name, dtype=kind) for name, kind in zip(names, kinds, strict=True)]
    assert KeyEncoder(fields, "project").encode(batch) == expected


def test_a_nan_keeps_its_bits() -> None:
    [found] = map(bytes, value_encoder(Float64)(pa.array([math.nan])))
    assert math.isnan(Value.FromString(found).double_val)


def test_a_join_key_that_feast_cannot_store_is_named() -> None:
    with pytest.raises(UnsupportedViewError, match="join key 'x': expected one of Int64"):
        KeyEncoder([Field(name="x", dtype=Float64)], "project")
