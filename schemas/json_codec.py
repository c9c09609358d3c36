"""JSON records described by an Avro record: what each value has to be, said once in Python.

The Flink format under ``jobs/java`` has the same rules (``JsonBody``, ``JsonScalars``, ``JsonTimes``), and the archiver
takes what this takes:

- A record is one JSON object (RFC 8259) in UTF-8, without a byte order mark, alone or behind a registry's header.
- A field that is missing is null, where that is a value of it. What the schema does not name is ignored, but has to be
  JSON. A field that the schema names, or a key of a map, that is there twice makes the record bad: nobody knows which
  was meant.
- Integers are numbers without a fraction, however written (``5.0``; with a point or an exponent below 2**53). Numbers
  beyond the range of their column are bad, as are NaN and infinities, which JSON has not. No string is a number, but a
  decimal may be written as a string; it has to fit exactly.
- Times are ISO 8601: a date, then perhaps ``T`` or a space and a time of day, then perhaps a zone; without one they are
  UTC. What is finer than microseconds is dropped. A number is a time in seconds, milliseconds, microseconds or
  nanoseconds since 1970: the unit in which it lies in the years 2000 to 2099. No number does so in two of them, and one
  that does in none is bad: none is wrong by a factor of 1000.
- Bytes are base64, with padding.
"""

import binascii
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from schemas.codec import DecodeError, bodies_of, field_kinds

__all__ = [
    "BASE64",
    "DATE",
    "DATE_CHARS",
    "DEPTH_MAX",
    "EXACT_MAX",
    "TIMESTAMP",
    "UNITS",
    "JsonCodec",
    "zone_minutes",
]

DEPTH_MAX = 400  # levels of objects and arrays; JsonBody has the same bound
EXACT_MAX = 2**53  # from here on a double does not hold every integer
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
# Its groups: to the minute, second, microseconds, zone. Behind a date alone comes nothing.
TIMESTAMP = (
    rf"({DATE}(?:[Tt ][0-9]{{2}}:[0-9]{{2}})?)(?::([0-9]{{2}})(?:\.([0-9]{{1,6}})[0-9]{{0,3}})?)?"
    r"([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
DATE_CHARS = 10
BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_NUMBER_MIN_S, _NUMBER_END_S = 946_684_800, 4_102_444_800  # 2000-01-01, 2100-01-01
# Of each unit: from, to (exclusive), units in a second.
UNITS = tuple((_NUMBER_MIN_S * each, _NUMBER_END_S * each, each) for each in (1, 10**3, 10**6, 10**9))
_SHOWN_CHARS = 100
_FLOAT_END = float(2**128 - 2**103)  # what is closer to 2**128 than to the largest float of 32 bits
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECIMAL_CHARS_MAX = 1000


class _Number(str):
    """A number's text: a float would not be all of it."""


class _Members(list[tuple[str, Any]]):
    """An object's members as they came, doubles among them."""


class _BadValueError(ValueError):
    """A value that is not what the schema says, and where, as steps from the outside."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.path = ""

    def within(self, step: str) -> "_BadValueError":
        self.path = step + ("" if self.path.startswith("[") or not self.path else ".") + self.path
        return self


Read = Callable[[Any], Any]


class JsonCodec:
    """Decode the JSON records of one topic, one by one; :class:`schemas.json_batch.JsonBatchDecoder` is for many.

    Parameters
    ----------
    schema : mapping
        An Avro record schema of primitive types, timestamps in microseconds, dates, decimals, arrays, maps, records.
    schema_id : int
        The id required before every record; with :data:`schemas.codec.ANY_ID` a header of any or none.

    Raises
    ------
    TypeError
        For a schema with another type.
    """

    def __init__(self, schema: Mapping[str, Any], schema_id: int) -> None:
        self.schema_id = schema_id
        kinds, refused = field_kinds(schema, _reader)
        if refused:
            raise TypeError(f"expected types that JSON is read as, got {refused}")
        self._fields = kinds

    def decode(self, value: bytes) -> dict[str, Any]:
        """The record in a value, as :meth:`schemas.codec.Codec.decode` would have it.

        Raises
        ------
        DecodeError
            Naming the field, what was expected and what came.
        """
        start = bodies_of(value, self.schema_id)[0]
        try:
            text = value[start:].decode()
        except UnicodeDecodeError as exc:
            raise DecodeError(f"expected text in UTF-8 at byte {start + exc.start}, got a byte that is not") from None
        if not text.strip():
            raise DecodeError("expected a JSON object, got an empty record")
        if _depth(text) > DEPTH_MAX:
            raise DecodeError(f"expected at most {DEPTH_MAX} levels of objects and arrays, got more")
        try:
            found = json.loads(
                text,
                parse_int=_Number,
                parse_float=_Number,
                parse_constant=_not_json,
                object_pairs_hook=_Members,
            )
        except ValueError as exc:
            raise DecodeError(f"expected JSON, got {exc}") from None
        try:
            return _members(found, self._fields)
        except _BadValueError as exc:
            raise DecodeError(f"field {exc.path}: {exc}" if exc.path else str(exc)) from None


def zone_minutes(zone: str) -> int | None:
    """Minutes east of UTC of the last group of :data:`TIMESTAMP`; None for none there is."""
    if zone in ("", "Z", "z"):
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or "0")
    if hours > 23 or minutes > 59:
        return None
    return (hours * 60 + minutes) * (-1 if zone[0] == "-" else 1)


def _reader(avro: Any) -> Read:
    """What makes a value of Python's of one of JSON's."""
    if isinstance(avro, list):
        rest = [each for each in avro if each != "null"]
        if len(rest) != 1:
            raise TypeError(f"expected a union of null and one type, got {avro}")
        read = _reader(rest[0])
        return read if "null" not in avro else lambda value: None if value is None else read(value)
    kind = avro if isinstance(avro, str) else avro["type"]
    logical = "" if isinstance(avro, str) else avro.get("logicalType", "")
    if kind == "record":
        fields = {each["name"]: _reader(each["type"]) for each in avro["fields"]}
        return lambda value: _members(value, fields)
    if kind == "array":
        item = _reader(avro["items"])
        return lambda value: _items(value, item)
    if kind == "map":
        item = _reader(avro["values"])
        return lambda value: _entries(value, item)
    if logical == "decimal":
        return lambda value: _decimal(value, avro["precision"], avro.get("scale", 0))
    if found := _LOGICAL.get(logical) or (not logical and _PRIMITIVES.get(kind)):
        return found
    raise TypeError(f"expected a type that JSON is read as, got {avro}")


def _members(value: Any, fields: Mapping[str, Read]) -> dict[str, Any]:
    if not isinstance(value, _Members):
        raise _BadValueError("an object", _got(value))
    found: dict[str, Any] = {}
    for name, member in value:
        if name not in fields:
            continue
        try:
            if name in found:
                raise _BadValueError("the field once", "it twice")
            found[name] = fields[name](member)
        except _BadValueError as exc:
            raise exc.within(name) from None
    for name in (name for name in fields if name not in found):
        try:
            fields[name](None)
        except _BadValueError:
            raise _BadValueError("a value", "nothing").within(name) from None
    return {name: found.get(name) for name in fields}


def _items(value: Any, item: Read) -> list[Any]:
    if isinstance(value, _Members) or not isinstance(value, list):
        raise _BadValueError("an array", _got(value))
    found = []
    for at, each in enumerate(value):
        try:
            found.append(item(each))
        except _BadValueError as exc:
            raise exc.within(f"[{at}]") from None
    return found


def _entries(value: Any, item: Read) -> dict[str, Any]:
    if not isinstance(value, _Members):
        raise _BadValueError("an object", _got(value))
    found: dict[str, Any] = {}
    for name, member in value:
        try:
            if _text(name) in found:
                raise _BadValueError("the field once", "it twice")
            found[name] = item(member)
        except _BadValueError as exc:
            raise exc.within(name) from None
    return found


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _BadValueError("a boolean", _got(value))
    return value


def _integer(value: Any, bits: int) -> int:
    found: int | None = None
    if isinstance(value, _Number):
        if _is_integer(value):
            found = int(value) if len(value) <= 20 else None
        elif abs(number := float(value)) < EXACT_MAX and number == round(number):
            found = int(number)
    if found is None or not -(1 << bits - 1) <= found < 1 << bits - 1:
        raise _BadValueError(f"an integer of {bits} bits", _got(value))
    return found


def _float(value: Any, what: str, end: float) -> float:
    found = float(value) if isinstance(value, _Number) else end
    if abs(found) >= end:
        raise _BadValueError(what, _got(value))
    return found


def _string(value: Any) -> str:
    if isinstance(value, _Number) or not isinstance(value, str):
        raise _BadValueError("a string", _got(value))
    return _text(value)


def _text(value: str) -> str:
    """The text, having seen that UTF-8 can hold it: an escape may name half of a character."""
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        half = f"half of a character, \\u{ord(value[exc.start]):04x}"
        raise _BadValueError("text in UTF-8", half) from None
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, _Number) or not isinstance(value, str) or not re.fullmatch(BASE64, value):
        raise _BadValueError("a string in base64", _got(value))
    return binascii.a2b_base64(value)


def _decimal(value: Any, precision: int, scale: int) -> Decimal:
    if isinstance(value, str) and len(value) <= _DECIMAL_CHARS_MAX and _DECIMAL.fullmatch(value):
        sign, digits, exponent = Decimal(value).as_tuple()
        text = "".join(map(str, digits))
        kept = text.rstrip("0")
        power = int(exponent) + len(text) - len(kept)
        if not kept:
            return Decimal((0, (0,), -scale))
        if -power <= scale and len(kept) + power <= precision - scale:
            return Decimal((sign, (*map(int, kept), *(0,) * (power + scale)), -scale))
    raise _BadValueError(f"a decimal of at most {precision} digits, {scale} of them behind the point", _got(value))


def _date(value: Any) -> date:
    if isinstance(value, str) and re.fullmatch(DATE, value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise _BadValueError('a date like "2024-02-29", in the years 1 to 9999', _got(value))


def _timestamp(value: Any) -> datetime:
    if isinstance(value, _Number):
        micros = _micros(int(value) if _is_integer(value) and len(value) <= 20 else float(value))
        if micros is not None:
            return _EPOCH + timedelta(microseconds=micros)
        raise _BadValueError(
            "a time in seconds, milliseconds, microseconds or nanoseconds since 1970 that lies in the years 2000 to "
            "2099",
            _got(value),
        )
    if isinstance(value, str) and (match := re.fullmatch(TIMESTAMP, value)):
        minute, second, fraction, zone = (each or "" for each in match.groups())
        minutes = zone_minutes(zone)
        try:
            if len(minute) == DATE_CHARS and not second and not zone:
                return datetime.fromisoformat(minute).replace(tzinfo=UTC)
            if len(minute) > DATE_CHARS and minutes is not None:
                found = datetime.fromisoformat(f"{minute}:{second or '00'}.{fraction:0<6}").replace(tzinfo=UTC)
                return found - timedelta(minutes=minutes)
        except (ValueError, OverflowError):
            pass
    raise _BadValueError('a time like "2024-02-29T12:00:00Z", in the years 1 to 9999', _got(value))


def _micros(number: float) -> int | None:
    for first, end, per_second in UNITS:
        if first <= number < end:
            if isinstance(number, int):
                return number * (10**6 // per_second) if per_second <= 10**6 else number // 1000
            return round(number * (10**6 // per_second) if per_second <= 10**6 else number / 1000)
    return None


def _is_integer(number: _Number) -> bool:
    return number.lstrip("-").isdecimal()


def _depth(text: str) -> int:
    """Levels of nesting, or a number that is not above the bound where it cannot be reached."""
    if text.count("{") + text.count("[") <= DEPTH_MAX:
        return 0
    depth = deepest = 0
    for each in _BRACKETS.finditer(text):
        depth += (each[0] in "{[") - (each[0] in "}]")
        deepest = max(deepest, depth)
    return deepest


def _not_json(name: str) -> Any:
    raise ValueError(f"{name}, which JSON has not")


def _got(value: Any) -> str:
    if isinstance(value, _Number):
        return f"the number {_shown(value)}"
    if isinstance(value, str):
        return f'the string "{_shown(value)}"'
    if isinstance(value, _Members):
        return "an object"
    return "an array" if isinstance(value, list) else json.dumps(value)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_PRIMITIVES: dict[str, Read] = {
    "boolean": _boolean,
    "int": lambda value: _integer(value, 32),
    "long": lambda value: _integer(value, 64),
    "float": lambda value: _float(value, "a float", _FLOAT_END),
    "double": lambda value: _float(value, "a double", float("inf")),
    "string": _string,
    "bytes": _bytes,
}
_LOGICAL: dict[str, Read] = {
    "timestamp-micros": _timestamp,
    "local-timestamp-micros": _timestamp,
    "date": _date,
}
