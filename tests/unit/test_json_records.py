"""What a JsonFormat's schema_json says, as an Avro record that every part of the platform takes."""

import json
from typing import Any

import fastavro
import pytest

from features.compiler.json_records import record_schema
from jobs.tables import avro_columns
from schemas.tables import columns

MICROS = {"type": "long", "logicalType": "timestamp-micros"}
DATE = {"type": "int", "logicalType": "date"}


def kinds(schema: dict[str, Any]) -> dict[str, Any]:
    """Types by field, having seen that each is nullable and that the whole is a schema to others."""
    fastavro.parse_schema(json.loads(json.dumps(schema)))
    assert all(field["type"][0] == "null" and field["default"] is None for field in schema["fields"])
    return {field["name"]: field["type"][1] for field in schema["fields"]}


def test_what_feast_documents() -> None:
    text = "driver_id integer, event_timestamp timestamp, conv_rate double, acc_rate double, created timestamp"
    assert kinds(record_schema(text)) == {
        "driver_id": "int",
        "event_timestamp": MICROS,
        "conv_rate": "double",
        "acc_rate": "double",
        "created": MICROS,
    }


@pytest.mark.parametrize(
    ("ddl", "avro", "sql", "column"),
    [
        ("boolean", "boolean", "BOOLEAN", "Nullable(Bool)"),
        ("tinyint", "int", "INT", "Nullable(Int32)"),
        ("SHORT", "int", "INT", "Nullable(Int32)"),
        ("Integer", "int", "INT", "Nullable(Int32)"),
        ("bigint", "long", "BIGINT", "Nullable(Int64)"),
        ("long", "long", "BIGINT", "Nullable(Int64)"),
        ("real", "float", "FLOAT", "Nullable(Float32)"),
        ("double", "double", "DOUBLE", "Nullable(Float64)"),
        ("varchar(20)", "string", "STRING", "Nullable(String)"),
        ("binary", "bytes", "BYTES", "Nullable(String)"),
        ("date", DATE, "DATE", "Nullable(Date32)"),
        ("timestamp", MICROS, "TIMESTAMP_LTZ(6)", "Nullable(DateTime64(6, 'UTC'))"),
        ("timestamp_ntz", {**MICROS, "logicalType": "local-timestamp-micros"}, "TIMESTAMP(6)",
         "Nullable(DateTime64(6, 'UTC'))"),
        ("decimal", {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 0}, "DECIMAL(10, 0)",
         "Nullable(Decimal(10, 0))"),
        ("numeric(12)", {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 0}, "DECIMAL(12, 0)",
         "Nullable(Decimal(12, 0))"),
        ("dec(12, 2)", {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}, "DECIMAL(12, 2)",
         "Nullable(Decimal(12, 2))"),
        ("array<array<int>>", {"type": "array", "items": ["null", {"type": "array", "items": ["null", "int"]}]},
         "ARRAY<ARRAY<INT>>", "Array(Array(Nullable(Int32)))"),
        ("map<string, date>", {"type": "map", "values": ["null", DATE]}, "MAP<STRING, DATE>",
         "Map(String, Nullable(Date32))"),
    ],
)  # fmt: skip
def test_every_type_of_the_ddl_has_a_column_everywhere(ddl: str, avro: Any, sql: str, column: str) -> None:
    schema = record_schema(f"a {ddl}")
    assert kinds(schema) == {"a": avro}
    assert avro_columns(schema) == {"a": sql}
    assert columns(schema)["a"] == column


def test_ddl_as_people_write_it() -> None:
    text = """
        `order` STRUCT<id: STRING NOT NULL COMMENT 'the shop''s', lines ARRAY<STRUCT<sku: STRING, `pieces` INT>>>,
        buyer struct<id:string, home:struct<city:string>> not null,
        _at TIMESTAMP NOT NULL COMMENT "when, (UTC)"
    """.replace("shop''s", "shop\\'s")
    schema = record_schema(text)
    assert avro_columns(schema) == {
        "order": "ROW<`id` STRING, `lines` ARRAY<ROW<`sku` STRING, `pieces` INT>>>",
        "buyer": "ROW<`id` STRING, `home` ROW<`city` STRING>>",
        "_at": "TIMESTAMP_LTZ(6)",
    }
    kinds(schema)
    assert record_schema("struct<a: int, b: struct<a: int>>") == record_schema("a int, b struct<a int>")
    assert list(kinds(record_schema("struct int, array string"))) == ["struct", "array"]


def test_records_of_the_same_name_are_told_apart() -> None:
    kinds(record_schema("a_b struct<c: struct<x: int>>, a struct<b_c: struct<x: int>, a: struct<a: array<int>>>"))


def test_a_struct_type_as_json_is_the_same_as_its_ddl() -> None:
    struct = {
        "type": "struct",
        "fields": [
            {"name": "id", "type": "long", "nullable": False, "metadata": {}},
            {"name": "price", "type": "decimal(12,2)", "nullable": True, "metadata": {}},
            {"name": "tags", "type": {"type": "map", "keyType": "string", "valueType": "string"}},
            {"name": "lines", "type": {"type": "array", "containsNull": True, "elementType": {
                "type": "struct", "fields": [{"name": "sku", "type": "string"}]}}},
        ],
    }  # fmt: skip
    ddl = "id long, price decimal(12,2), tags map<string, string>, lines array<struct<sku: string>>"
    assert record_schema(json.dumps(struct)) == record_schema(ddl)


def test_a_json_schema() -> None:
    schema = record_schema(json.dumps({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["at"],
        "properties": {
            "at": {"type": "string", "format": "date-time"},
            "seen": {"type": ["integer", "null"], "format": "date-time"},
            "day": {"type": "string", "format": "date"},
            "id": {"type": "integer"},
            "small": {"type": "integer", "format": "int32"},
            "amount": {"type": ["number", "null"], "minimum": 0},
            "rate": {"type": "number", "format": "float"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "mail": {"type": "string", "format": "email"},
            "channel": {"enum": ["web", "in-store", None]},
            "kind": {"const": 1},
            "raw": {"type": "string", "contentEncoding": "base64"},
            "open": {"type": "boolean"},
            "buyer": {"$ref": "#/$defs/Buyer"},
            "other": {"allOf": [{"$ref": "#/$defs/Buyer"}]},
            "lines": {"type": "array", "items": {"type": "object", "properties": {"sku": {"type": "string"}}}},
            "tags": {"type": "object", "additionalProperties": {"type": ["integer", "number"]}},
        },
        "$defs": {"Buyer": {"type": "object", "properties": {"id": {"type": "string"}}, "additionalProperties": True}},
    }))  # fmt: skip
    kinds(schema)
    assert avro_columns(schema) == {
        "at": "TIMESTAMP_LTZ(6)",
        "seen": "TIMESTAMP_LTZ(6)",
        "day": "DATE",
        "id": "BIGINT",
        "small": "INT",
        "amount": "DOUBLE",
        "rate": "FLOAT",
        "note": "STRING",
        "mail": "STRING",
        "channel": "STRING",
        "kind": "BIGINT",
        "raw": "BYTES",
        "open": "BOOLEAN",
        "buyer": "ROW<`id` STRING>",
        "other": "ROW<`id` STRING>",
        "lines": "ARRAY<ROW<`sku` STRING>>",
        "tags": "MAP<STRING, DOUBLE>",
    }


def of(**properties: Any) -> str:
    return json.dumps({"type": "object", "properties": properties})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected fields, got none"),
        ("a", "field a: expected a type, got the end of schema_json"),
        ("a text", "field a: expected one of boolean, tinyint, .*got 'text'"),
        ("a interval", "field a: expected one of"),
        ("a int b int", "expected ',', got|expected a comma"),
        ("a int, a long", "expected each name once, got 'a' twice"),
        ("`a-b` int", "expected names of letters, digits and _.*got 'a-b'; leave it out"),
        ("a struct<b: struct<`1`: int>>", "field a.b: expected names of letters"),
        ("a struct<>", "field a: expected fields, got none"),
        ("a map<int, string>", "field a: expected a map from string, as JSON has no other, got one from int"),
        ("a array<int", "field a: expected '>', got the end"),
        ("a decimal(39, 2)", r"field a: expected a decimal of 1 to 38 digits.*got decimal\(39, 2\)"),
        ("a decimal(5, 6)", r"got decimal\(5, 6\)"),
        ("a int; b int", "expected Spark's DDL.*got '; b int'"),
        ("{a int}", "expected schema_json to be JSON"),
        ('{"type": "record", "name": "R", "fields": []}', "got an Avro record; for Avro records there is AvroFormat"),
        ('{"type": "string"}', "expected schema_json to be a JSON Schema of an object"),
        (of(a={}), "field a: expected one type, or one and null, got {}"),
        (of(a=True), "field a: expected a schema with a type, got true"),
        (of(a={"type": ["string", "integer"]}), "field a: expected one type, or one and null"),
        (of(a={"enum": ["x", 1]}), "field a: expected one type"),
        (of(a={"anyOf": [{"type": "string"}, {"type": "integer"}]}), "field a: expected anyOf of one schema and null"),
        (of(a={"type": "array"}), "field a: expected items"),
        (of(a={"type": "object"}), "field a: expected an object with properties, or additional"),
        (of(a={"$ref": "other.json"}), r"field a: expected a \$ref to a part of this schema, got 'other.json'"),
        (of(a={"$ref": "#"}), "field a.a: expected no type that contains itself, got #"),
        (of(**{"a.b": {"type": "string"}}), "expected names of letters, digits and _"),
        ('{"type": "struct", "fields": [{"name": "a", "type": {"type": "udt"}}]}', "field a: expected a type of Spark"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        record_schema(text)
