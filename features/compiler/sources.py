"""What a Kafka source of a Feast repo says of its topic."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from feast import StreamFeatureView
from feast.data_format import AvroFormat, JsonFormat
from feast.data_source import KafkaSource

from features.compiler.changes import DEBEZIUM, changelog, clock_of, row_of, with_times
from features.compiler.definition import ANY, Definition, percentile
from features.compiler.json_records import record_schema
from features.compiler.topics import UnsupportedViewError
from features.compiler.transformations import has_transformation
from schemas.codec import ANY_ID, field_kinds
from schemas.topics import Encoding, Topic

__all__ = [
    "archived_topic",
    "avro_schema",
    "check_columns",
    "encoding",
    "needs_numbers",
    "row_schema",
    "schema_id",
    "sql_path",
    "stream_source",
    "watermark_delay_ms",
]


def stream_source(view: StreamFeatureView) -> KafkaSource:
    """The Kafka source a view reads.

    Raises
    ------
    UnsupportedViewError
        Where it reads another kind of source.
    """
    source = view.stream_source
    if not isinstance(source, KafkaSource):
        raise UnsupportedViewError(f"feature view {view.name!r}: expected a KafkaSource, got {type(source).__name__}")
    return source


def avro_schema(source: KafkaSource) -> dict[str, Any]:
    """What a source's records hold, as an Avro schema, however they are written.

    In JSON only time is never null, and where records are changes of rows not even that.

    Raises
    ------
    UnsupportedViewError
        Where its ``message_format`` is neither Avro nor JSON, or says of JSON what there is no type for.
    """
    form: Any = source.kafka_options.message_format
    found: dict[str, Any]
    if encoding(source) == "json":
        try:
            found = record_schema(form.schema_json)
        except ValueError as exc:
            raise UnsupportedViewError(f"source {source.name!r}: {exc}") from None
        return found if changelog(source) else _timed(found, source.timestamp_field)
    found = json.loads(form.schema_json)
    return with_times(found) if changelog(source) == DEBEZIUM else found


def row_schema(source: KafkaSource) -> Mapping[str, Any]:
    """The Avro schema of a source's rows: that of its records, or, where these are changes, of what they change.

    Raises
    ------
    UnsupportedViewError
        Where there is none.
    """
    return row_of(source, avro_schema(source))


def _timed(schema: dict[str, Any], time: str) -> dict[str, Any]:
    """The schema without null for event time: a record that has none belongs to no window, and is a bad one."""
    fields = [
        {"name": time, "type": field["type"][1]} if field["name"] == time else field for field in schema["fields"]
    ]
    return {**schema, "fields": fields}


def encoding(source: KafkaSource) -> Encoding:
    """How a source's records are written.

    Raises
    ------
    UnsupportedViewError
        Where its ``message_format`` is neither Avro nor JSON.
    """
    form = source.kafka_options.message_format
    if not isinstance(form, AvroFormat | JsonFormat):
        raise UnsupportedViewError(
            f"source {source.name!r}: expected an AvroFormat or a JsonFormat, got {type(form).__name__}"
        )
    return "json" if isinstance(form, JsonFormat) else "avro"


def archived_topic(source: KafkaSource) -> Topic:
    """The topic of a source, as those who read it need it."""
    return Topic(
        source.kafka_options.topic,
        schema_id(source),
        key="",
        encoding=encoding(source),
        definition=avro_schema(source),
        time=clock_of(source),
        changelog=changelog(source),
    )


def schema_id(source: KafkaSource) -> int:
    """The id before each record: the tag ``schema_id``; :data:`schemas.codec.ANY_ID` without one.

    What Feast means by Avro and JSON is the bare body, what a registry's clients write has a header with an id of the
    registry's. A repo that says nothing of it may be either.
    """
    return int(source.tags.get("schema_id") or ANY_ID)


def watermark_delay_ms(source: KafkaSource) -> int:
    """How late a record may come and still count."""
    return (source.kafka_options.watermark_delay_threshold or timedelta(0)) // timedelta(milliseconds=1)


_TIMES = ("timestamp-millis", "timestamp-micros", "local-timestamp-millis", "local-timestamp-micros")
_A_TIME = {
    "avro": f"an Avro timestamp of the records ({', '.join(_TIMES)})",
    "json": "a time of the records (in Spark's DDL a timestamp, in a JSON Schema a string or a number of format "
    "date-time; numbers since 1970 are read as such)",
}
_NUMBERS = ("int", "long", "float", "double")
_OF_NUMBERS = ("sum", "mean", "stddev", "var")


def check_columns(view: StreamFeatureView, meaning: Definition) -> None:
    """Look for what a view reads among the fields of its source's records.

    A view with a transformation may read what that makes of them; only Flink can tell.

    Raises
    ------
    UnsupportedViewError
        Naming the view, the column, what is expected and what there is.
    """
    source = stream_source(view)
    where = f"feature view {view.name!r}, source {source.name!r}"
    fields, _ = field_kinds(row_schema(source), lambda avro: avro)
    time = _field(fields, source.timestamp_field)
    if not (isinstance(time, dict) and time.get("logicalType") in _TIMES):
        raise UnsupportedViewError(
            f"{where}: expected timestamp_field {source.timestamp_field!r} to be {_A_TIME[encoding(source)]}, got "
            f"{'nothing of that name' if time is None else time}"
        )
    if has_transformation(view):
        return
    mapped = {name: _field(fields, column) for column, name in (source.field_mapping or {}).items()}
    columns = (*meaning.keys, *meaning.latest, *(each.column for each in meaning.features if each.column != ANY))
    kinds = {column: mapped.get(column) or _field(fields, column) for column in columns}
    if nowhere := [column for column, kind in kinds.items() if kind is None]:
        raise UnsupportedViewError(
            f"{where}: expected column {nowhere[0]!r} to be a field of the records, which have {', '.join(fields)}"
            f"{' and, by field_mapping, ' + ', '.join(mapped) if mapped else ''}"
        )
    for each in meaning.features:
        if needs_numbers(each.function) and not _is_number(kinds[each.column]):
            raise UnsupportedViewError(
                f"{where}, feature {each.name!r}: expected a column of numbers for {each.function}, got "
                f"{each.column!r}, which is {kinds[each.column]}"
            )


def needs_numbers(function: str) -> bool:
    """Whether an aggregation is of numbers alone."""
    return function in _OF_NUMBERS or percentile(function) is not None


def sql_path(column: str) -> str:
    """A column as SQL, or a field of a record in one: ``payload.amount``."""
    return ".".join(f"`{part}`" for part in column.split("."))


def _field(fields: Mapping[str, Any], path: str) -> Any:
    """The Avro type of a field, or of one of a record in it; without null. None where there is none."""
    name, _, rest = path.partition(".")
    found = fields.get(name)
    if isinstance(found, list):
        found = next((each for each in found if each != "null"), None)
    if not rest:
        return found
    if not isinstance(found, dict) or found["type"] != "record":
        return None
    return _field({field["name"]: field["type"] for field in found["fields"]}, rest)


def _is_number(kind: Any) -> bool:
    if isinstance(kind, dict):
        return kind.get("logicalType") == "decimal" or (kind["type"] in _NUMBERS and "logicalType" not in kind)
    return kind in _NUMBERS
