"""Batches decode exactly as the codec does, record by record."""

import datetime as dt
import json
import math
import random
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.batch import BatchDecoder, arrow_type, nulls_through, to_arrow
from schemas.codec import ANY_ID, Codec, expanded
from schemas.tables import columns
from schemas.topics import TOPICS

UTC = dt.UTC
TIME = {"type": "long", "logicalType": "timestamp-millis"}
ENUM = {"type": "enum", "name": "E", "symbols": ["x", "y", "z"]}
INNER = {
    "type": "record",
    "name": "Q",
    "fields": [
        {"name": "c", "type": "string"},
        {"name": "d", "type": ["null", "long"]},
        {"name": "b", "type": "bytes"},
        {"name": "i", "type": "int"},
        {"name": "t", "type": TIME},
        {"name": "v", "type": {"type": "array", "items": "double"}},
    ],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "s", "type": "string"},
        {"name": "sn", "type": ["null", "string"]},
        {"name": "i", "type": "int"},
        {"name": "inn", "type": ["null", "int"]},
        {"name": "l", "type": "long"},
        {"name": "f", "type": "float"},
        {"name": "d", "type": ["null", "double"]},
        {"name": "b", "type": "bytes"},
        {"name": "bn", "type": ["null", "bytes"]},
        {"name": "o", "type": "boolean"},
        {"name": "e", "type": ENUM},
        {"name": "t", "type": TIME},
        {"name": "tn", "type": ["null", TIME]},
        {"name": "a", "type": {"type": "array", "items": INNER}},
        {"name": "an", "type": ["null", {"type": "array", "items": "string"}]},
    ],
}
CODEC = Codec(SCHEMA, 7)

ints = st.integers(-(2**31), 2**31 - 1)
longs = st.integers(-(2**63), 2**63 - 1)
doubles = st.floats(allow_nan=True)
text = st.text(st.characters(exclude_categories=["Cs"]))
times = st.integers(-62_135_596_800_000, 253_402_300_799_999).map(
    lambda ms: dt.datetime(1970, 1, 1, tzinfo=UTC) + dt.timedelta(milliseconds=ms)
)
inner = st.fixed_dictionaries(
    {"c": text, "d": st.none() | longs, "b": st.binary(), "i": ints, "t": times, "v": st.lists(doubles, max_size=3)}
)
records = st.fixed_dictionaries(
    {
        "s": text,
        "sn": st.none() | text,
        "i": ints,
        "inn": st.none() | ints,
        "l": longs,
        "f": st.floats(width=32),
        "d": st.none() | doubles,
        "b": st.binary(),
        "bn": st.none() | st.binary(),
        "o": st.booleans(),
        "e": st.sampled_from(["x", "y", "z"]),
        "t": times,
        "tn": st.none() | times,
        "a": st.lists(inner, max_size=3),
        "an": st.none() | st.lists(text, max_size=3),
    }
)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return left == right and type(left) is type(right)


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    batch.validate(full=True)
    return batch.to_pylist()


def judged(values: list[bytes], codec: Codec = CODEC) -> tuple[list[dict[str, Any]], list[int]]:
    """What the codec makes of the values one by one; an int that is none is bad, see schemas/batch.py."""
    good, bad = [], []
    for index, value in enumerate(values):
        try:
            record = codec.decode(value)
            pa.RecordBatch.from_pylist([record], schema=BatchDecoder(codec.schema, 1).arrow_schema)
            good.append(record)
        except (ValueError, OverflowError):
            bad.append(index)
    return good, bad


@settings(max_examples=150, deadline=None)
@given(st.lists(records, max_size=40))
def test_every_type_comes_out_as_fastavro_reads_it(sent: list[dict[str, Any]]) -> None:
    values = [CODEC.encode(each) for each in sent]
    batch, bad = to_arrow(SCHEMA, 7, values)
    assert not bad
    got = rows(batch)
    assert len(got) == len(sent)
    for left, value in zip(got, values, strict=True):
        assert same(left, CODEC.decode(value))


@settings(max_examples=150, deadline=None)
@given(st.lists(records, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_damaged_records_are_judged_as_the_codec_judges(sent: list[dict[str, Any]], rng: random.Random) -> None:
    values = [CODEC.encode(each) for each in sent]
    for index in range(len(values)):
        value = bytearray(values[index])
        match rng.randrange(6):
            case 0:
                value[rng.randrange(len(value))] = rng.randrange(256)
            case 1:
                value += rng.randbytes(rng.randint(1, 12))
            case 2:
                del value[rng.randrange(len(value)) :]
            case 3:
                at = rng.randrange(5, len(value) + 1)
                value[at:at] = rng.randbytes(rng.randint(1, 4))
        values[index] = bytes(value)
    batch, bad = to_arrow(SCHEMA, 7, values)
    good_expected, bad_expected = judged(values)
    assert [index for index, _ in bad] == bad_expected
    got = rows(batch)
    assert len(got) == len(good_expected)
    assert all(same(left, right) for left, right in zip(got, good_expected, strict=True))


@pytest.mark.parametrize("name", sorted(TOPICS))
def test_every_topic_has_arrow_columns_and_an_empty_batch(name: str) -> None:
    topic = TOPICS[name]
    batch, bad = to_arrow(topic.schema, topic.schema_id, [])
    assert not bad
    assert batch.num_rows == 0
    assert batch.schema.names == [field["name"] for field in topic.schema["fields"]]


FLAT: dict[str, Any] = {
    "type": "record",
    "name": "F",
    "fields": [{"name": "n", "type": "int"}, {"name": "s", "type": ["null", "string"]}, {"name": "t", "type": TIME}],
}


def flat(n: int) -> bytes:
    return Codec(FLAT, 3).encode({"n": n, "s": f"é{n}", "t": dt.datetime(2013, 1, 1, tzinfo=UTC)})


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (flat(1) + b"\0", "1 more bytes"),
        (flat(1)[:-1], "do not decode"),
        (b"", "got nothing"),
        (b"\0\0\0\0\x04" + flat(1)[5:], "expected schema id 3, got 4"),
        (b"\x01" + flat(1)[1:], "expected a zero byte"),
        (flat(1).replace("é".encode(), b"\xff\xff"), "UnicodeDecodeError"),
        (flat(1)[:5] + b"\x80\x80\x80\x80\x40" + flat(1)[6:], "F's types"),
        (flat(1)[:6] + b"\x04" + flat(1)[7:], "do not decode"),
        (flat(1)[:11] + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "do not decode"),
    ],
)
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_bad_record_costs_one_record(damaged: bytes, reason: str, place: int) -> None:
    values = [flat(n) for n in range(1000)]
    values[place] = damaged
    batch, bad = to_arrow(FLAT, 3, values)
    assert [index for index, _ in bad] == [place]
    assert reason in str(bad[0][1])
    assert batch.column(0).to_pylist() == [n for n in range(1000) if n != place]


def test_nothing_but_garbage() -> None:
    rng = random.Random(1)
    values = [rng.randbytes(rng.randrange(60)) for _ in range(300)]
    batch, bad = to_arrow(FLAT, 3, values)
    assert batch.num_rows == 0
    assert [index for index, _ in bad] == list(range(300))


def test_bodies_of_garbage_never_take_the_process_down() -> None:
    """Lengths and counts made of random bytes must not become allocations."""
    rng = random.Random(2)
    prefix = CODEC.encode(json.loads("{}") | _minimal())[:5]
    values = [prefix + rng.randbytes(rng.randrange(80)) for _ in range(2000)]
    _, bad = to_arrow(SCHEMA, 7, values)
    assert [index for index, _ in bad] == judged(values)[1]


def _minimal() -> dict[str, Any]:
    epoch = dt.datetime(1970, 1, 1, tzinfo=UTC)
    none = {"sn": None, "inn": None, "d": None, "bn": None, "tn": None, "an": None}
    return none | {"s": "", "i": 0, "l": 0, "f": 0.0, "b": b"", "o": False, "e": "x", "t": epoch, "a": []}


def test_a_type_without_a_column_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="union of null and one type"):
        arrow_type(["int", "string"])
    itself = {"type": "record", "name": "Tree", "fields": [{"name": "left", "type": ["null", "Tree"]}]}
    with pytest.raises(TypeError, match="contains itself, got Tree"):
        expanded(itself)
    with pytest.raises(TypeError, match="defined before it is used, got Leaf"):
        expanded(["null", "Leaf"])


def test_a_field_without_a_column_is_left_out_and_the_others_are_there() -> None:
    schema = FLAT | {"fields": [{"name": "odd", "type": ["int", "string"]}, *FLAT["fields"]]}
    record = {"odd": "x", "n": 1, "s": None, "t": dt.datetime(2013, 1, 1, tzinfo=UTC)}
    batch, bad = to_arrow(schema, 3, [Codec(schema, 3).encode(record), b"junk"])
    assert batch.to_pylist() == [{"n": 1, "s": None, "t": record["t"]}]
    assert [index for index, _ in bad] == [1]


EVERY: dict[str, Any] = {
    "type": "record",
    "name": "Every",
    "namespace": "test.kinds",
    "fields": [
        {"name": "m", "type": {"type": "map", "values": ["null", "double"]}},
        {"name": "x", "type": {"type": "fixed", "name": "Four", "size": 4}},
        {"name": "xn", "type": ["null", "Four"]},
        {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "clock", "type": ["null", {"type": "int", "logicalType": "time-millis"}]},
        {"name": "us", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {
            "name": "at",
            "type": ["null", {"type": "record", "name": "Place", "fields": [{"name": "zone", "type": "int"}]}],
        },
        {"name": "from", "type": ["Place", "null"]},
    ],
}


def test_every_type_has_a_column_here_and_in_clickhouse() -> None:
    moment = dt.datetime(2024, 2, 29, 23, 59, 59, 123_456, UTC)
    some = {
        "m": {"a": 1.5, "b": None},
        "x": b"\0\1\2\3",
        "xn": None,
        "d": Decimal("-1234567.89"),
        "day": dt.date(2024, 2, 29),
        "clock": dt.time(1, 2, 3, 4000),
        "us": moment,
        "local": moment.replace(microsecond=123_000, tzinfo=None),
        "id": "0b0c9a5e-2d4c-4b52-9a45-1e0b1e0d1c11",
        "at": None,
        "from": {"zone": 7},
    }
    codec = Codec(EVERY, 5)
    values = [codec.encode(some), b"junk", codec.encode(some | {"clock": None, "at": {"zone": 1}, "from": None})]
    batch, bad = to_arrow(EVERY, 5, values)
    assert [index for index, _ in bad] == [1]
    first, second = batch.to_pylist()
    stored = some | {
        "m": list(some["m"].items()),
        "clock": ((1 * 60 + 2) * 60 + 3) * 1000 + 4,
        "local": some["local"].replace(tzinfo=UTC),
    }
    assert first == stored
    assert second == stored | {"clock": None, "at": {"zone": 1}, "from": None}
    at = nulls_through(batch.column("at"))
    assert at.to_pylist() == [{"zone": None}, {"zone": 1}]
    assert columns(EVERY) == {
        "m": "Map(String, Nullable(Float64))",
        "x": "String",
        "xn": "Nullable(String)",
        "d": "Decimal(12, 2)",
        "day": "Date32",
        "clock": "Nullable(Int32)",
        "us": "DateTime64(6, 'UTC')",
        "local": "DateTime64(3, 'UTC')",
        "id": "String",
        "at": "Tuple(`zone` Nullable(Int32))",
        "from": "Tuple(`zone` Nullable(Int32))",
        "_partition": "Int32",
        "_offset": "Int64",
    }


def test_of_a_topic_that_says_nothing_of_its_header_any_is_taken_and_none() -> None:
    record = {"n": 1, "s": "é", "t": dt.datetime(2013, 1, 1, tzinfo=UTC)}
    body = Codec(FLAT, 3).encode(record)[5:]
    values = [b"\0\0\0\0\x09" + body, body, b"\0\0\0\0\x09" + body[:-1], b"\0\x7f\xff\xff\xff" + body, body]
    batch, bad = to_arrow(FLAT, ANY_ID, values)
    assert [index for index, _ in bad] == [2]
    assert batch.num_rows == 4
    assert all(row == batch.to_pylist()[0] for row in batch.to_pylist())
    assert [Codec(FLAT, ANY_ID).decode(each) for each in values[:2]] == [record] * 2
    # A header can look like the start of a bare record; only one of both readings ends where the record does.
    zero = Codec(FLAT, 3).encode(record | {"n": 0})[5:]
    assert zero[0] == 0
    assert Codec(FLAT, ANY_ID).decode(zero) == record | {"n": 0}
    assert to_arrow(FLAT, ANY_ID, [zero])[0].column("n").to_pylist() == [0]
