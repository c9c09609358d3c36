"""The ClickHouse table a topic is archived in: its name and columns follow from the topic's schema alone."""

from collections.abc import Mapping
from typing import Any

from schemas.topics import Topic

__all__ = ["DATABASE", "OFFSET", "PARTITION", "column_type", "columns", "create_table", "order_by", "table_name"]

DATABASE = "headwater"
PARTITION, OFFSET = "_partition", "_offset"
_TIMES = ("event_time", "window_end")
_PRIMITIVES = {
    "string": "String",
    "bytes": "String",
    "int": "Int32",
    "long": "Int64",
    "float": "Float32",
    "double": "Float64",
    "boolean": "Bool",
}


def table_name(topic: str) -> str:
    """``flights.requests`` is archived in ``flights_requests``."""
    return topic.replace(".", "_")


def column_type(avro: Any) -> str:
    """The ClickHouse type of an Avro type.

    Arrays and records cannot be null in ClickHouse: a null one becomes empty.

    Raises
    ------
    TypeError
        For a type that has no column, naming it.
    """
    if isinstance(avro, list):
        rest = [each for each in avro if each != "null"]
        if len(rest) == 1:
            inner = column_type(rest[0])
            return inner if inner.startswith(("Array(", "Tuple(")) else f"Nullable({inner})"
    elif isinstance(avro, str) and avro in _PRIMITIVES:
        return _PRIMITIVES[avro]
    elif isinstance(avro, Mapping):
        kind = avro["type"]
        if avro.get("logicalType") == "timestamp-millis":
            return "DateTime64(3, 'UTC')"
        if kind == "enum":
            return "String"
        if kind == "array":
            return f"Array({column_type(avro['items'])})"
        if kind == "record":
            return "Tuple(" + ", ".join(f"`{f['name']}` {column_type(f['type'])}" for f in avro["fields"]) + ")"
        if kind in _PRIMITIVES and "logicalType" not in avro:
            return _PRIMITIVES[kind]
    raise TypeError(f"expected a primitive, timestamp-millis, enum, array, record or nullable one, got {avro}")


def columns(schema: Mapping[str, Any]) -> dict[str, str]:
    """Names and types of a table's columns, the record's coordinates in Kafka last."""
    return {f["name"]: column_type(f["type"]) for f in schema["fields"]} | {PARTITION: "Int32", OFFSET: "Int64"}


def order_by(schema: Mapping[str, Any]) -> list[str]:
    """Event time, where the record has it, then the coordinates."""
    times = [f["name"] for f in schema["fields"] if column_type(f["type"]).startswith("DateTime64")]
    first = next((name for name in _TIMES if name in times), times[0] if times else None)
    return [*([first] if first else []), PARTITION, OFFSET]


def create_table(topic: Topic, database: str = DATABASE) -> str:
    """The statement that creates a topic's table where it is missing.

    Blocks inserted before are recognised by their content and skipped, so that a client that sends a block again,
    because it never saw the answer, does not write it twice.
    """
    listed = ", ".join(f"`{name}` {kind}" for name, kind in columns(topic.schema).items())
    ordered = ", ".join(f"`{name}`" for name in order_by(topic.schema))
    return (
        f"CREATE TABLE IF NOT EXISTS `{database}`.`{table_name(topic.name)}` ({listed}) "
        f"ENGINE = MergeTree ORDER BY ({ordered}) SETTINGS non_replicated_deduplication_window = 100"
    )
