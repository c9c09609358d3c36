"""JSON to Arrow in batches: the same verdict and the same values as the codec, record by record."""

import json
import random
from typing import Any

import pyarrow as pa
import pytest
from json_values import GOOD, REFUSED, SCHEMA, WHOLE, WHOLE_GOOD, everything, mutilate

from features.compiler.json_records import record_schema
from schemas.codec import ANY_ID, DecodeError
from schemas.json_batch import JsonBatchDecoder
from schemas.json_codec import JsonCodec

CODEC = JsonCodec(SCHEMA, ANY_ID)
PADDING = 300  # records around the one that is looked at: alone it would be left to the codec


def judged(values: list[bytes]) -> tuple[list[dict[str, Any]], list[int]]:
    rows, bad = [], []
    for at, value in enumerate(values):
        try:
            rows.append(CODEC.decode(value))
        except DecodeError:
            bad.append(at)
    arrow = JsonBatchDecoder(SCHEMA, ANY_ID).arrow_schema
    return pa.RecordBatch.from_pylist(rows, schema=arrow).to_pylist(), bad


def vouched(values: list[bytes]) -> list[dict[str, Any]]:
    """By the fast path alone, which must not pass anything on."""
    found: list[dict[str, Any]] = JsonBatchDecoder(SCHEMA, ANY_ID)._fast(values).to_pylist()
    return found


@pytest.mark.parametrize(("column", "text", "value"), GOOD)
def test_a_value_is_what_it_says(column: str, text: str, value: Any) -> None:
    record = f'{{"{column}": {text}}}'.encode()
    rows, bad = JsonBatchDecoder(SCHEMA, ANY_ID).decode([record] * PADDING)
    assert not bad
    assert rows.to_pylist() == judged([record] * PADDING)[0]
    assert rows.to_pylist()[-1][column] == value


@pytest.mark.parametrize(("column", "text", "expected", "got"), REFUSED)
def test_a_value_that_is_none_is_refused_by_name(column: str, text: str, expected: str, got: str) -> None:
    record = f'{{"{column}": {text}}}'.encode()
    good = [b'{"small": 1}'] * PADDING
    rows, bad = JsonBatchDecoder(SCHEMA, ANY_ID).decode([*good, record, *good])
    assert rows.num_rows == 2 * PADDING
    ((at, error),) = bad
    assert at == PADDING
    assert str(error).startswith(f"field {column}: expected {expected}")
    assert f", got {got}" in str(error)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is, the fast path passes none
        vouched([record] * PADDING)


@pytest.mark.parametrize(("record", "field", "says"), WHOLE)
def test_a_record_that_is_none_is_refused(record: bytes, field: str, says: str) -> None:
    good = [b'{"small": 1}'] * PADDING
    rows, bad = JsonBatchDecoder(SCHEMA, ANY_ID).decode([*good, record, *good, record])
    assert rows.num_rows == 2 * PADDING
    assert [at for at, _ in bad] == [PADDING, 2 * PADDING + 1]
    assert says in str(bad[0][1])
    if field and "JSON" not in says and "UTF-8" not in says:
        assert str(bad[0][1]).startswith(f"field {field}: ")


@pytest.mark.parametrize(("record", "values"), WHOLE_GOOD)
def test_a_record_that_may_not_look_so_is_good(record: bytes, values: dict[str, Any]) -> None:
    rows, bad = JsonBatchDecoder(SCHEMA, ANY_ID).decode([record] * PADDING)
    assert not bad
    assert {name: value for name, value in rows.to_pylist()[7].items() if value is not None} == values


def test_halves_of_records_make_no_whole() -> None:
    good = b'{"small": 1}'
    for left, right in (
        (b"{", b"}"),
        (b'{"label": "', b'"}'),
        (b"{} {", b"}"),
        (b'{"items": [', b"]}"),
        (b"{}{}", b""),
    ):
        values = [good, left, right] * PADDING
        rows, bad = JsonBatchDecoder(SCHEMA, ANY_ID).decode(values)
        assert rows.num_rows == PADDING
        assert [at for at, _ in bad] == [at for at in range(len(values)) if at % 3]


@pytest.mark.parametrize("times", ["text", "seconds", "millis", "micros", "nanos", "floats"])
def test_good_records_go_the_fast_way_and_come_out_as_the_codec_has_them(times: str) -> None:
    rng = random.Random(5)
    values = [json.dumps(everything(rng, times)).encode() for _ in range(300)]
    values = [value for value in values if b"NaN" not in value and b"Inf" not in value]
    rows, bad = judged(values)
    assert not bad
    assert vouched(values) == rows


def test_integers_with_a_point_go_the_fast_way() -> None:
    row = vouched([b'{"small": 7.0, "large": 9007199254740991.0}'] * 3)[1]
    assert (row["small"], row["large"], row["precise"]) == (7, 2**53 - 1, None)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_bytes_come_the_verdict_is_the_codecs(seed: int) -> None:
    rng = random.Random(seed)
    kinds = ["text", "seconds", "millis", "floats"] if seed % 4 == 0 else ["text", "text", "millis", "micros"]
    values = [mutilate(rng, everything(rng, kinds[seed % 4])) for _ in range(400)]
    values += [mutilate(rng, everything(rng, rng.choice(kinds))) for _ in range(50)]
    values += [json.dumps(everything(rng, "text")).encode() for _ in range(400)]
    rows, bad = judged(values)
    found, refused = JsonBatchDecoder(SCHEMA, ANY_ID).decode(values)
    assert [at for at, _ in refused] == bad
    assert found.to_pylist() == rows
    assert 20 < len(bad) < 300


def test_a_topic_with_a_map_is_judged_record_by_record() -> None:
    decoder = JsonBatchDecoder(record_schema("tags map<string, bigint>"), ANY_ID)
    rows, bad = decoder.decode([b'{"tags": {"a": 1, "b": null}}', b'{"tags": {"a": 1, "a": 2}}', b'{"tags": null}'])
    assert rows.to_pylist() == [{"tags": [("a", 1), ("b", None)]}, {"tags": None}]
    assert [(at, str(error)) for at, error in bad] == [(1, "field tags.a: expected the field once, got it twice")]


def test_a_type_that_json_is_not_read_as_is_refused() -> None:
    fixed = {"type": "fixed", "name": "F", "size": 4}
    with pytest.raises(TypeError, match="types that JSON is read as"):
        JsonCodec({"type": "record", "name": "R", "fields": [{"name": "a", "type": fixed}]}, ANY_ID)


def test_a_field_that_may_not_be_null_has_to_be_there() -> None:
    schema = record_schema("at timestamp, inner struct<x: int>")
    at, inner = schema["fields"]
    at["type"] = at["type"][1]
    inner["type"][1]["fields"][0]["type"] = "int"
    good = b'{"at": 1709208000, "inner": null}'
    bad = [b'{"inner": {"x": 1}}', b'{"at": null}', b'{"at": 1709208000, "inner": {}}']
    rows, refused = JsonBatchDecoder(schema, ANY_ID).decode([*[good] * PADDING, *bad, *[good] * PADDING])
    assert rows.num_rows == 2 * PADDING
    assert [(at, str(error)) for at, error in refused] == [
        (PADDING, "field at: expected a value, got nothing"),
        (PADDING + 1, 'field at: expected a time like "2024-02-29T12:00:00Z", in the years 1 to 9999, got null'),
        (PADDING + 2, "field inner.x: expected a value, got nothing"),
    ]
