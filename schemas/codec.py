"""Avro in the Confluent wire format: one zero byte, a big-endian four-byte schema id, the Avro body.

A topic that is somebody else's may say :data:`ANY_ID`: then a header of any id is taken, and bare Avro too.

Python encodes and decodes here; inside Flink the format plugin under ``jobs/java`` does, from the same schemas.
"""

import hashlib
import io
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import fastavro
from fastavro.schema import to_parsing_canonical_form

__all__ = ["ANY_ID", "Codec", "DecodeError", "bodies_of", "derived_id", "expanded", "field_kinds"]

ANY_ID = 0
T = TypeVar("T")

_HEADER = struct.Struct(">bI")
_DERIVED_BIT = 1 << 30


class DecodeError(ValueError):
    """A record that is not what its topic's schema says. The message names what was expected and what came."""


def derived_id(schema: Mapping[str, Any]) -> int:
    """Schema id for a schema that is generated, not committed: the same in every region without a registry.

    The upper 30 bits of the SHA-256 of the schema's parsing canonical form (Avro 1.11 specification), with bit 30 set
    so that it can never meet a fixed id of ``schemas/topics.py``.
    """
    canonical = to_parsing_canonical_form(json.loads(json.dumps(schema)))
    return _DERIVED_BIT | int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big") >> 2


class Codec:
    """Encode and decode the records of one schema.

    Parameters
    ----------
    schema : mapping
        An Avro record schema.
    schema_id : int
        The id written before, and required of, every body; :data:`ANY_ID` requires none.
    """

    def __init__(self, schema: Mapping[str, Any], schema_id: int) -> None:
        self.schema = schema
        self.schema_id = schema_id
        self._parsed = fastavro.parse_schema(json.loads(json.dumps(schema)))
        self._prefix = _HEADER.pack(0, schema_id)

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """Wire bytes of a record; datetimes for timestamps.

        Raises
        ------
        ValueError, TypeError
            From fastavro, when the record does not fit the schema.
        """
        out = io.BytesIO()
        out.write(self._prefix)
        fastavro.schemaless_writer(out, self._parsed, record)
        return out.getvalue()

    def decode(self, value: bytes) -> dict[str, Any]:
        """The record in wire bytes.

        Raises
        ------
        DecodeError
            Where the header, the schema id, the body or its length is not as expected.
        """
        failed: DecodeError | None = None
        for start in bodies_of(value, self.schema_id):
            try:
                return self._body(value, start)
            except DecodeError as exc:
                failed = failed or exc
        raise failed or DecodeError("expected a record, got nothing")

    def _body(self, value: bytes, start: int) -> dict[str, Any]:
        body = io.BytesIO(value)
        body.seek(start)
        try:
            record = fastavro.schemaless_reader(body, self._parsed, None)
        except Exception as exc:  # fastavro raises whatever the bytes led it into
            raise DecodeError(f"expected a {self.schema.get('name')}, got bytes that do not decode: {exc!r}") from exc
        if left := len(value) - body.tell():
            raise DecodeError(f"expected the record to end at byte {body.tell()}, got {left} more bytes")
        return record  # type: ignore[return-value]


def bodies_of(value: bytes, schema_id: int) -> tuple[int, ...]:
    """Where the Avro body of a record begins; with :data:`ANY_ID` the places where it may, the likelier first.

    Raises
    ------
    DecodeError
        Where the header or the schema id is not as expected.
    """
    headed = len(value) >= _HEADER.size and value[0] == 0
    if schema_id == ANY_ID:
        return (_HEADER.size, 0) if headed else (0,)
    if not headed:
        raise DecodeError(f"expected a zero byte and a schema id, got {value[:5].hex(' ') or 'nothing'}")
    _, found = _HEADER.unpack_from(value)
    if found != schema_id:
        raise DecodeError(f"expected schema id {schema_id}, got {found}")
    return (_HEADER.size,)


def expanded(avro: Any) -> Any:
    """An Avro type with every reference to a named type replaced by its definition: to look at, not to parse.

    Raises
    ------
    TypeError
        For a type that contains itself, and for a name that is not defined before it is used.
    """
    return _expanded(avro, {}, (), "")


def field_kinds(schema: Mapping[str, Any], kind_of: Callable[[Any], T]) -> tuple[dict[str, T], dict[str, str]]:
    """What each field of a record is elsewhere, and why some are nothing there.

    Parameters
    ----------
    schema : mapping
        An Avro record schema.
    kind_of : callable
        Of an Avro type without references to named ones; raises TypeError.

    Returns
    -------
    kinds : dict of str to T
    refused : dict of str to str
    """
    usable: list[Any] = []
    kinds: dict[str, T] = {}
    refused: dict[str, str] = {}
    for field in schema["fields"]:
        try:
            last = expanded({**schema, "fields": [*usable, field]})["fields"][-1]
            kinds[field["name"]] = kind_of(last["type"])
            usable.append(field)
        except TypeError as exc:
            refused[field["name"]] = str(exc)
    return kinds, refused


_NAMED = ("record", "enum", "fixed", "error")
_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


def _expanded(avro: Any, known: dict[str, Any], inside: tuple[str, ...], space: str) -> Any:
    if isinstance(avro, list):
        return [_expanded(each, known, inside, space) for each in avro]
    if isinstance(avro, str):
        if avro in _PRIMITIVES:
            return avro
        name = avro if avro in known or not space else f"{space}.{avro}"
        if name in inside:
            raise TypeError(f"expected no type that contains itself, got {name}")
        if name not in known:
            raise TypeError(f"expected a type that is defined before it is used, got {avro}")
        return known[name]
    kind = avro["type"]
    if isinstance(kind, dict | list):
        return _expanded(kind, known, inside, space)
    if kind == "array":
        return {**avro, "items": _expanded(avro["items"], known, inside, space)}
    if kind == "map":
        return {**avro, "values": _expanded(avro["values"], known, inside, space)}
    if kind not in _NAMED:
        return avro if kind in _PRIMITIVES else _expanded(kind, known, inside, space)
    own = avro.get("namespace", space)
    name = avro["name"] if "." in avro["name"] or not own else f"{own}.{avro['name']}"
    found = dict(avro)
    if "fields" in avro:
        # Known while its fields are looked at, so that one which leads back here is told from an unknown name.
        known[name] = found
        space = name.rpartition(".")[0]
        found["fields"] = [
            {**field, "type": _expanded(field["type"], known, (*inside, name), space)} for field in avro["fields"]
        ]
    known[name] = found
    return found
