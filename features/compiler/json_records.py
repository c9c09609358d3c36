"""What a Feast ``JsonFormat(schema_json=...)`` says of a topic's records, as an Avro record.

Three forms are told apart by their text:

- Spark's DDL, which is what Feast documents: ``driver_id integer, event_timestamp timestamp, conv_rate double``;
- the JSON of a Spark ``StructType``;
- a JSON Schema (2020-12 and the drafts before) of an object.

Every field is nullable, whatever they say: a field that is missing is null. Of a JSON Schema only types count; limits
(``enum``, ``minimum``, ``pattern``, ``required``) are not enforced. Fields without a name in Avro are refused; fields
that are left out are ignored in the records.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["record_schema"]

ROOT = "Record"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIMESTAMP = {"type": "long", "logicalType": "timestamp-micros"}
_SPARK: dict[str, Any] = {
    "boolean": "boolean",
    **dict.fromkeys(("tinyint", "byte", "smallint", "short", "int", "integer"), "int"),
    **dict.fromkeys(("bigint", "long"), "long"),
    **dict.fromkeys(("float", "real"), "float"),
    "double": "double",
    **dict.fromkeys(("string", "varchar", "char", "character"), "string"),
    "binary": "bytes",
    "date": {"type": "int", "logicalType": "date"},
    **dict.fromkeys(("timestamp", "timestamp_ltz"), _TIMESTAMP),
    "timestamp_ntz": {"type": "long", "logicalType": "local-timestamp-micros"},
}
_DECIMALS = ("decimal", "dec", "numeric")
_DECIMAL_DEFAULT = (10, 0)  # Spark's
_DECIMAL_MAX = 38


def record_schema(text: str) -> dict[str, Any]:
    """The Avro record that a ``schema_json`` describes.

    Parameters
    ----------
    text : str
        See the module.

    Returns
    -------
    dict
        An Avro record schema in which every field, item and value of a map is nullable.

    Raises
    ------
    ValueError
        Naming the field, what was expected and what came.
    """
    if not text.strip().startswith("{"):
        return _Ddl(text).record()
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise ValueError(f"expected schema_json to be JSON, as it begins with a brace, got {exc}") from None
    if found.get("type") == "struct":
        return _struct(found, ())
    if found.get("type") == "record":
        raise ValueError(
            "expected Spark's DDL or a JSON Schema, got an Avro record; for Avro records there is AvroFormat"
        )
    return _JsonSchema(found).record()


def _record(path: tuple[str, ...], fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A record, named by its path: two of them never have the same name."""
    listed: dict[str, Any] = {}
    for name, avro in fields:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{_where(path)}expected names of letters, digits and _ not starting with a digit, got {name!r}; leave "
                "it out: what schema_json does not name is ignored in the records"
            )
        if name in listed:
            raise ValueError(f"{_where(path)}expected each name once, got {name!r} twice")
        listed[name] = {"name": name, "type": ["null", avro], "default": None}
    if not listed:
        raise ValueError(f"{_where(path)}expected fields, got none")
    *space, name = (ROOT, *path)
    return {
        "type": "record",
        "name": name,
        **({"namespace": ".".join(space)} if space else {}),
        "fields": [*listed.values()],
    }


def _array(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": ["null", item]}


def _map(value: Any) -> dict[str, Any]:
    return {"type": "map", "values": ["null", value]}


def _where(path: tuple[str, ...]) -> str:
    return f"field {'.'.join(path)}: " if path else ""


class _Ddl:
    """Spark's DDL (``CREATE TABLE``'s column list), read left to right."""

    _TOKEN = re.compile(r"\s*(?:`((?:[^`]|``)+)`|('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(\w+)|([<>(),:]))")

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            if (match := self._TOKEN.match(text, at)) is None:
                raise ValueError(f"expected Spark's DDL, like 'driver_id integer, rate double', got {text[at:]!r}")
            kind = ("quoted", "text", "word", "mark")[(match.lastindex or 1) - 1]
            self._tokens.append((kind, match[match.lastindex or 1].replace("``", "`")))
            at = match.end()
        self._at = 0

    def record(self) -> dict[str, Any]:
        """A list of fields, or ``struct<...>``."""
        nested = len(self._tokens) > 1 and self._word() == "struct" and self._tokens[1][1] == "<"
        found: dict[str, Any] = self.type(()) if nested else _record((), self._fields((), ""))
        self._end()
        return found

    def alone(self, path: tuple[str, ...]) -> Any:
        """A type and nothing else."""
        found = self.type(path)
        self._end()
        return found

    def type(self, path: tuple[str, ...]) -> Any:
        """A type, from where the reading stands."""
        name = self._word()
        self._take(path, "a type", "word")
        if name == "array":
            return _array(*self._inside(path, 1))
        if name == "map":
            key, value = self._inside(path, 2)
            if key != "string":
                raise ValueError(f"{_where(path)}expected a map from string, as JSON has no other, got one from {key}")
            return _map(value)
        if name == "struct":
            self._mark(path, "<")
            found = _record(path, self._fields(path, ">"))
            self._mark(path, ">")
            return found
        numbers = self._numbers(path)
        if name in _DECIMALS:
            return _decimal(path, *(*numbers, *_DECIMAL_DEFAULT[len(numbers) :]))
        if name not in _SPARK:
            known = ", ".join([*_SPARK, "decimal(p, s)", "array<...>", "map<string, ...>", "struct<...>"])
            raise ValueError(f"{_where(path)}expected one of {known}, got {name!r}")
        return _SPARK[name]

    def _fields(self, path: tuple[str, ...], closed_by: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        while self._at < len(self._tokens) and self._tokens[self._at][1] != closed_by:
            if found:
                self._mark(path, ",")
            name = self._take(path, "the name of a field", "word", "quoted")
            if self._next() == ":":
                self._at += 1
            found.append((name, self.type((*path, name))))
            if self._word() == "not" and self._word(1) == "null":
                self._at += 2
            if self._word() == "comment":
                self._at += 1
                self._take((*path, name), "a comment in quotes", "text")
        return found

    def _inside(self, path: tuple[str, ...], count: int) -> list[Any]:
        self._mark(path, "<")
        found = [self.type(path)]
        while len(found) < count:
            self._mark(path, ",")
            found.append(self.type(path))
        self._mark(path, ">")
        return found

    def _numbers(self, path: tuple[str, ...]) -> list[int]:
        found: list[int] = []
        while self._next() == ("," if found else "("):
            self._at += 1
            digits = self._take(path, "a number", "word")
            if not digits.isdecimal() or len(found) == 2:
                raise ValueError(f"{_where(path)}expected one number or two in brackets, got {digits!r}")
            found.append(int(digits))
        if found:
            self._mark(path, ")")
        return found

    def _next(self) -> str:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        return text if kind == "mark" else ""

    def _word(self, ahead: int = 0) -> str:
        """The word that comes, in small letters: the DDL's own words are in any."""
        kind, text = self._tokens[self._at + ahead] if self._at + ahead < len(self._tokens) else ("", "")
        return text.lower() if kind == "word" else ""

    def _take(self, path: tuple[str, ...], what: str, *kinds: str) -> str:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind not in kinds:
            raise ValueError(f"{_where(path)}expected {what}, got {repr(text) if kind else 'the end of schema_json'}")
        self._at += 1
        return text

    def _mark(self, path: tuple[str, ...], mark: str) -> None:
        if self._take(path, repr(mark), "mark") != mark:
            self._at -= 1
            raise ValueError(f"{_where(path)}expected {mark!r}, got {self._next()!r}")

    def _end(self) -> None:
        if self._at < len(self._tokens):
            raise ValueError(f"expected a comma or the end of schema_json, got {self._tokens[self._at][1]!r}")


def _decimal(path: tuple[str, ...], precision: int, scale: int) -> dict[str, Any]:
    if not 0 <= scale <= precision or not 1 <= precision <= _DECIMAL_MAX:
        raise ValueError(
            f"{_where(path)}expected a decimal of 1 to {_DECIMAL_MAX} digits, none or all of them behind the point, "
            f"got decimal({precision}, {scale})"
        )
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def _struct(found: Any, path: tuple[str, ...]) -> Any:
    """A type in the JSON of a Spark ``StructType``."""
    if isinstance(found, str):
        return _Ddl(found).alone(path)
    kind = found.get("type") if isinstance(found, dict) else None
    if kind == "struct":
        return _record(path, ((each["name"], _struct(each["type"], (*path, each["name"]))) for each in found["fields"]))
    if kind == "array":
        return _array(_struct(found["elementType"], path))
    if kind == "map" and found["keyType"] == "string":
        return _map(_struct(found["valueType"], path))
    raise ValueError(f"{_where(path)}expected a type of Spark's, got {json.dumps(found)}")


_STRINGS = {"date-time": _TIMESTAMP, "date": {"type": "int", "logicalType": "date"}}
_INTEGERS = {"int32": "int", "date-time": _TIMESTAMP}
_NUMBERS = {"float": "float", "date-time": _TIMESTAMP}


class _JsonSchema:
    """A JSON Schema, of which only the types are read."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema

    def record(self) -> dict[str, Any]:
        found = self._type(self._schema, (), ())
        if not isinstance(found, dict) or found["type"] != "record":
            raise ValueError("expected schema_json to be a JSON Schema of an object with properties")
        return found

    def _type(self, node: Any, path: tuple[str, ...], within: tuple[str, ...]) -> Any:
        """The Avro type of a node, without null; `within` are the references that led here."""
        if not isinstance(node, dict):
            raise ValueError(f"{_where(path)}expected a schema with a type, got {json.dumps(node)}")
        if "$ref" in node:
            return self._referred(node["$ref"], path, within)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in node and "properties" not in node:
                some = [each for each in node[key] if key == "allOf" or each != {"type": "null"}]
                if len(some) != 1:
                    raise ValueError(f"{_where(path)}expected {key} of one schema and null, got {json.dumps(some)}")
                return self._type(some[0], path, within)
        kind = _kind(node, path)
        if kind == "object":
            return self._object(node, path, within)
        if kind == "array":
            if not isinstance(node.get("items"), dict):
                raise ValueError(f"{_where(path)}expected items, the schema of every item, got {json.dumps(node)}")
            return _array(self._type(node["items"], path, within))
        if kind == "string" and node.get("contentEncoding") == "base64":
            return "bytes"
        formats: Mapping[str, tuple[Mapping[str, Any], Any]] = {
            "string": (_STRINGS, "string"),
            "integer": (_INTEGERS, "long"),
            "number": (_NUMBERS, "double"),
            "boolean": ({}, "boolean"),
        }
        special, plain = formats[kind]
        return special.get(node.get("format", ""), plain)

    def _object(self, node: Mapping[str, Any], path: tuple[str, ...], within: tuple[str, ...]) -> Any:
        if node.get("properties"):
            named = node["properties"].items()
            return _record(path, ((name, self._type(each, (*path, name), within)) for name, each in named))
        if isinstance(node.get("additionalProperties"), dict):
            return _map(self._type(node["additionalProperties"], path, within))
        raise ValueError(
            f"{_where(path)}expected an object with properties, or additionalProperties, got {json.dumps(node)}"
        )

    def _referred(self, reference: str, path: tuple[str, ...], within: tuple[str, ...]) -> Any:
        if reference in within:
            raise ValueError(f"{_where(path)}expected no type that contains itself, got {reference}")
        found: Any = self._schema
        start, *steps = reference.split("/")
        for step in steps:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        if start != "#" or found is None:
            raise ValueError(f"{_where(path)}expected a $ref to a part of this schema, got {reference!r}")
        return self._type(found, path, (*within, reference))


def _kind(node: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """The one type of a node's values, null apart."""
    given = node.get("type")
    if given is None:
        values = node.get("enum") or ([node["const"]] if "const" in node else [])
        names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
        given = [names.get(type(each), "object") for each in values]
        given += ["object"] if "properties" in node else []
    kinds = {given} if isinstance(given, str) else set(given) - {"null"}
    if kinds == {"integer", "number"}:
        return "number"
    if len(kinds) != 1 or not kinds <= {"object", "array", "string", "integer", "number", "boolean"}:
        raise ValueError(f"{_where(path)}expected one type, or one and null, got {json.dumps(node)}")
    return str(kinds.pop())
