"""The ClickHouse table a topic is archived in: its name and columns follow from the topic's schema alone."""

from collections.abc import Mapping
from typing import Any

from schemas.codec import field_kinds
from schemas.topics import Topic

__all__ = [
    "DATABASE",
    "DELETED",
    "KEY",
    "OFFSET",
    "PARTITION",
    "TIMESTAMP",
    "UPSERT",
    "column_type",
    "columns",
    "create_table",
    "order_by",
    "table_name",
]

DATABASE = "headwater"
PARTITION, OFFSET = "_partition", "_offset"
# Of a topic of changes: the record's key, its timestamp, and whether its value was null.
KEY, TIMESTAMP, DELETED = "_key", "_timestamp", "_deleted"
UPSERT = "upsert"  # the changelog whose null values are changes
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
_LOGICAL = {
    "timestamp-millis": "DateTime64(3, 'UTC')",
    "timestamp-micros": "DateTime64(6, 'UTC')",
    "local-timestamp-millis": "DateTime64(3, 'UTC')",
    "local-timestamp-micros": "DateTime64(6, 'UTC')",
    "date": "Date32",
}


def table_name(topic: str) -> str:
    """``flights.requests`` is archived in ``flights_requests``."""
    return topic.replace(".", "_")


def column_type(avro: Any, in_null: bool = False) -> str:
    """The ClickHouse type of an Avro type without references to named ones, see :func:`schemas.codec.expanded`.

    Arrays, maps and records cannot be null in ClickHouse: of null, arrays and maps become empty, records hold nulls.

    Parameters
    ----------
    avro : Any
    in_null : bool
        A field of a record that may be null.

    Raises
    ------
    TypeError
        For a type that has no column, naming it.
    """
    if isinstance(avro, list):
        rest = [each for each in avro if each != "null"]
        if len(rest) != 1:
            raise TypeError(f"expected a union of null and one type, got {avro}")
        return column_type(rest[0], in_null=True)
    kind = avro if isinstance(avro, str) else avro["type"]
    if kind == "array":
        return f"Array({column_type(avro['items'])})"
    if kind == "map":
        return f"Map(String, {column_type(avro['values'])})"
    if kind == "record":
        listed = ", ".join(f"`{each['name']}` {column_type(each['type'], in_null)}" for each in avro["fields"])
        return f"Tuple({listed})"
    plain = _scalar(avro, kind)
    return f"Nullable({plain})" if in_null else plain


def _scalar(avro: Any, kind: str) -> str:
    logical = "" if isinstance(avro, str) else avro.get("logicalType", "")
    if logical == "decimal":
        return f"Decimal({avro['precision']}, {avro.get('scale', 0)})"
    if logical in _LOGICAL:
        return _LOGICAL[logical]
    if kind in ("enum", "fixed"):
        return "String"
    if kind in _PRIMITIVES:
        return _PRIMITIVES[kind]
    raise TypeError(f"expected an Avro type, got {avro}")


def columns(schema: Mapping[str, Any], changelog: str = "") -> dict[str, str]:
    """Names and types of a table's columns, the record's coordinates in Kafka last.

    A field of a type that has no column, a union of several types or a record within itself, is left out. Where null
    values are changes, every column can be null.
    """
    kinds = field_kinds(schema, lambda avro: column_type(avro, in_null=changelog == UPSERT))[0]
    of_changes = {KEY: "Nullable(String)", TIMESTAMP: "DateTime64(3, 'UTC')", DELETED: "Bool"} if changelog else {}
    return kinds | of_changes | {PARTITION: "Int32", OFFSET: "Int64"}


def order_by(schema: Mapping[str, Any], changelog: str = "") -> list[str]:
    """Event time, where the record has it, then the coordinates; of changes their time."""
    if changelog:
        return [TIMESTAMP, PARTITION, OFFSET]
    times = [name for name, kind in columns(schema).items() if kind.startswith("DateTime64")]
    first = next((name for name in _TIMES if name in times), times[0] if times else None)
    return [*([first] if first else []), PARTITION, OFFSET]


def create_table(topic: Topic, database: str = DATABASE) -> str:
    """The statement that creates a topic's table where it is missing.

    Blocks inserted before are recognised by their content and skipped, so that a client that sends a block again,
    because it never saw the answer, does not write it twice.
    """
    listed = ", ".join(f"`{name}` {kind}" for name, kind in columns(topic.schema, topic.changelog).items())
    ordered = ", ".join(f"`{name}`" for name in order_by(topic.schema, topic.changelog))
    return (
        f"CREATE TABLE IF NOT EXISTS `{database}`.`{table_name(topic.name)}` ({listed}) "
        f"ENGINE = MergeTree ORDER BY ({ordered}) SETTINGS non_replicated_deduplication_window = 100"
    )
