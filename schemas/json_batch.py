"""Batches of JSON records to Arrow, with the judgement of :class:`schemas.json_codec.JsonCodec` on every record.

Arrow's own reader is native, and knows the types it is asked for. It is asked for what shows more than it would check:

- every record is wrapped in an object of one member, whose name is random per process: a value that is half an object,
  or two, shows as a missing member, as a line too many, or as no JSON;
- times, dates and bytes are read as text, and taken apart by regular expressions in native code; numbers that stand for
  times, and integers that are written with a point, are read as what the batch's first records have there;
- what it would let pass is looked for beforehand: text that is not UTF-8, NaN and infinities, nesting without end.

It does not know maps: a topic with one is judged record by record.
"""

import binascii
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from schemas.batch import TIME_MAX_MS, TIME_MIN_MS, NotPlainError, RecordDecoder, arrow_type
from schemas.codec import bodies_of, expanded
from schemas.json_codec import (
    BASE64,
    DATE,
    DATE_CHARS,
    DEPTH_MAX,
    EXACT_MAX,
    TIMESTAMP,
    UNITS,
    JsonCodec,
    zone_minutes,
)

__all__ = ["JsonBatchDecoder"]

_SAMPLES = 16  # records that tell how times and integers are written
_SECOND_US = 10**6
_MICROS = pa.timestamp("us")
_GROUPS = ("minute", "second", "fraction", "zone")


class JsonBatchDecoder(RecordDecoder):
    """Decoder of JSON.

    On one core 230 K records/s of five columns of which two are times in text, 370 K/s with times as numbers, 53 K/s of
    15 columns, most of them times or nested; 10 to 80 K/s where every record is judged.

    Parameters
    ----------
    schema : mapping
        Avro record schema of the types that :class:`schemas.json_codec.JsonCodec` takes.
    schema_id : int

    Raises
    ------
    TypeError
        For a schema with another type.
    """

    alone = 256  # about as many as the codec judges in the time of a few native calls

    def __init__(self, schema: Mapping[str, Any], schema_id: int) -> None:
        codec = JsonCodec(schema, schema_id)
        self._record = expanded(schema)
        super().__init__(schema, codec.decode, _has_no_map(self._record))
        self._schema_id = schema_id
        self._name = os.urandom(8).hex()

    def _fast(self, values: Sequence[bytes]) -> pa.RecordBatch:
        bodies = [value[bodies_of(value, self._schema_id)[0] :] for value in values]
        before, behind = f'{{"{self._name}":'.encode(), b"}\n"
        text = before + (behind + before).join(bodies) + behind
        text.decode()
        if b"NaN" in text or b"Inf" in text:
            raise NotPlainError("perhaps NaN or an infinity")
        _require_shallow(bodies)
        found = pyarrow.json.read_json(
            pa.BufferReader(text),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema([(self._name, _asked(self._record, _samples(bodies)))]),
                unexpected_field_behavior="ignore",
            ),
        ).column(0)
        if len(found) != len(values) or found.null_count:
            raise NotPlainError("not one object for each record")
        records = found.combine_chunks()
        columns = [
            _typed(records.field(at), field["type"], self.arrow_schema.field(at).type, 0)
            for at, field in enumerate(self._record["fields"])
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=self.arrow_schema)
        batch.validate(full=True)
        return batch


def _bare(avro: Any) -> Any:
    """A type without null."""
    return next(each for each in avro if each != "null") if isinstance(avro, list) else avro


def _kind(avro: Any) -> str:
    """The name of a type's meaning, or of the type."""
    return avro if isinstance(avro, str) else str(avro.get("logicalType") or avro["type"])


def _has_no_map(avro: Any) -> bool:
    avro = _bare(avro)
    kind = _kind(avro)
    if kind == "record":
        return all(_has_no_map(each["type"]) for each in avro["fields"])
    return _has_no_map(avro["items"]) if kind == "array" else kind != "map"


def _require_shallow(bodies: Sequence[bytes]) -> None:
    """A record with fewer brackets than the bound cannot be nested deeper than that."""
    texts = pa.array(bodies, pa.binary())
    brackets = pc.add(pc.count_substring(texts, b"{"), pc.count_substring(texts, b"["))
    if pc.max(brackets).as_py() > DEPTH_MAX:
        raise NotPlainError("perhaps nested too deep")


def _samples(bodies: Sequence[bytes]) -> list[Any]:
    found = []
    for body in bodies[:_SAMPLES]:
        try:
            found.append(json.loads(body))
        except ValueError:  # a bad record, of which the batch will tell
            continue
    return found


def _asked(avro: Any, samples: Iterable[Any]) -> pa.DataType:
    """The type that Arrow's reader is asked for, which depends on how values are written."""
    avro = _bare(avro)
    kind = _kind(avro)
    if kind == "record":
        members = [each for each in samples if isinstance(each, dict)]
        return pa.struct(
            [(f["name"], _asked(f["type"], [each.get(f["name"]) for each in members])) for f in avro["fields"]]
        )
    if kind == "array":
        return pa.list_(_asked(avro["items"], [each for some in samples if isinstance(some, list) for each in some]))
    first = next((type(each) for each in samples if each is not None), str)
    if kind in ("timestamp-micros", "local-timestamp-micros"):
        return {int: pa.int64(), float: pa.float64()}.get(first, pa.string())
    if kind in ("int", "long"):
        return pa.float64() if first is float else pa.int64()
    if kind in ("float", "double"):
        return pa.float64()
    if kind in ("boolean", "decimal"):
        return arrow_type(avro)[0]
    return pa.string()


def _typed(array: pa.Array, avro: Any, target: pa.DataType, absent: int) -> pa.Array:
    """A column as it was asked for as the type it stands for, checked; `absent` are null because their record is."""
    if array.null_count > absent and not (isinstance(avro, list) and "null" in avro):
        raise NotPlainError("null")
    avro = _bare(avro)
    kind = _kind(avro)
    if kind == "record":
        children = [
            _typed(array.field(at), field["type"], target.field(at).type, array.null_count)
            for at, field in enumerate(avro["fields"])
        ]
        return pa.Array.from_buffers(target, len(array), array.buffers()[:1], array.null_count, array.offset, children)
    if kind == "array":
        items = _typed(array.values, avro["items"], target.value_type, 0)
        return pa.Array.from_buffers(target, len(array), array.buffers()[:2], array.null_count, array.offset, [items])
    if pa.types.is_timestamp(target):
        return _times(array).cast(target)
    if pa.types.is_integer(target):
        return _integers(array).cast(target)
    if pa.types.is_floating(target):
        found = array.cast(target)
        _require(pc.is_finite(found), "number")
        return found
    if pa.types.is_date(target):
        return _dates(array)
    return _bytes(array) if pa.types.is_binary(target) else array


def _integers(array: pa.Array) -> pa.Array:
    if pa.types.is_floating(array.type):
        _require(pc.less(pc.abs(array), float(EXACT_MAX)), "integer")
    return array.cast(pa.int64())


def _dates(array: pa.Array) -> pa.Array:
    _require(pc.match_substring_regex(array, f"^{DATE}$"), "date")
    found = array.cast(pa.date32())
    _require(pc.greater_equal(found.view(pa.int32()), TIME_MIN_MS // 86_400_000), "date")
    return found


def _bytes(array: pa.Array) -> pa.Array:
    _require(pc.match_substring_regex(array, f"^{BASE64}$"), "base64")
    return pa.array([None if each is None else binascii.a2b_base64(each) for each in array.to_pylist()], pa.binary())


def _times(array: pa.Array) -> pa.Array:
    """Microseconds since 1970, UTC; by the rules in :mod:`schemas.json_codec`."""
    if not pa.types.is_string(array.type):
        return _counted(array).view(_MICROS)
    parts = pc.extract_regex(array, f"^{_named(TIMESTAMP, _GROUPS)}$")
    if parts.null_count != array.null_count:
        raise NotPlainError("time")
    minute, second, fraction, zone = parts.flatten()
    alone = pc.equal(pc.binary_length(minute), DATE_CHARS)
    _require(pc.invert(pc.and_(alone, pc.not_equal(pc.binary_join_element_wise(second, zone, ""), ""))), "time")
    # Arrow wants a capital T.
    micros = pc.replace_substring(minute, "t", "T").cast(_MICROS).view(pa.int64())
    seconds = pc.utf8_lpad(second, 2, "0").cast(pa.int64())
    _require(pc.less(seconds, 60), "time")
    micros = pc.add(micros, pc.multiply(seconds, _SECOND_US))
    micros = pc.add(micros, pc.utf8_rpad(fraction, 6, "0").cast(pa.int64()))
    micros = pc.subtract(micros, _offsets(zone))
    _require(pc.greater_equal(micros, TIME_MIN_MS * 1000), "time")
    _require(pc.less_equal(micros, TIME_MAX_MS * 1000 + 999), "time")
    return micros.view(_MICROS)


def _named(pattern: str, names: Iterable[str]) -> str:
    """A regular expression whose groups have names, without which Arrow does not give them."""
    first, *rest = pattern.replace("(?:", "\0").split("(")
    return "".join([first, *(f"(?P<{n}>{part}" for n, part in zip(names, rest, strict=True))]).replace("\0", "(?:")


def _offsets(zones: pa.Array) -> pa.Array:
    """Microseconds east of UTC; there are few zones."""
    found = zones.dictionary_encode()
    minutes = pa.array([zone_minutes(each) for each in found.dictionary.to_pylist()], pa.int64())
    if minutes.null_count:
        raise NotPlainError("zone")
    return pc.take(pc.multiply(minutes, 60 * _SECOND_US), found.indices)


def _counted(numbers: pa.Array) -> pa.Array:
    """Microseconds of numbers in whichever unit."""
    if pa.types.is_floating(numbers.type):
        _require(pc.less(pc.abs(numbers), float(EXACT_MAX)), "time")
    found = pa.nulls(len(numbers), pa.int64())
    for first, end, per_second in UNITS:
        bounds = [pa.scalar(each, pa.int64()).cast(numbers.type, safe=False) for each in (first, end)]
        inside = pc.and_(pc.greater_equal(numbers, bounds[0]), pc.less(numbers, bounds[1]))
        if pc.any(inside).as_py():
            found = pc.coalesce(found, _scaled(pc.if_else(inside, numbers, None), per_second))
    if found.null_count != numbers.null_count:
        raise NotPlainError("time")
    return found


def _scaled(numbers: pa.Array, per_second: int) -> pa.Array:
    if pa.types.is_floating(numbers.type):
        scaled = pc.multiply(numbers, _SECOND_US / per_second) if per_second <= _SECOND_US else pc.divide(numbers, 1e3)
        return pc.round(scaled, round_mode="half_to_even").cast(pa.int64())
    if per_second <= _SECOND_US:
        return pc.multiply(numbers, _SECOND_US // per_second)
    return pc.divide(numbers, per_second // _SECOND_US)


def _require(holds: pa.Array, what: str) -> None:
    """Every value that is there does."""
    if pc.all(holds).as_py() is False:
        raise NotPlainError(what)
