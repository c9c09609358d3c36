"""Topics whose records are changes of the rows of a table: which they are, and what a record of theirs holds.

A source says so by the tag ``changelog``:

- ``upsert``: a record is the new row of its key, a null value deletes it. It counts from the record's timestamp on.
- ``debezium``: a record is Debezium's envelope, in Avro or in JSON without its schema, ``after`` the new row of its
  key; ``op`` ``d`` deletes it. It counts from ``source.ts_ms`` on, when the database changed, else from ``ts_ms``. A
  null value, which Debezium writes after a delete for Kafka's compaction, says nothing more.

Everything else a source says (``timestamp_field``, ``field_mapping``) and every column of a view is of the row, so the
same view reads either kind of topic.

What a row was before is what the topic last said of its key, byte for byte, and not Debezium's ``before``: that is
missing where a database does not log it (PostgreSQL without ``REPLICA IDENTITY FULL``), and takes back what was never
counted where a topic's beginning was deleted or compacted, a record was late, or one was sent twice, as Debezium does
after a crash and in each new snapshot. So a table needs a primary key, or ``message.key.columns``.
"""

from collections.abc import Mapping
from typing import Any

from feast.data_source import DataSource

from features.compiler.topics import UnsupportedViewError
from schemas.codec import field_kinds
from schemas.tables import TIMESTAMP, UPSERT

__all__ = [
    "CHANGELOGS",
    "DEBEZIUM",
    "TAG",
    "TIME",
    "UPSERT",
    "changed_at",
    "changelog",
    "clock_of",
    "row_of",
    "with_times",
]

TAG = "changelog"
DEBEZIUM = "debezium"
CHANGELOGS = (DEBEZIUM, UPSERT)
TIME = "hw_time"  # column of a row's event time; rowtime is that of its change
# Debezium's own types of time that are what Avro calls otherwise.
_TIMES = {
    "io.debezium.time.Timestamp": "timestamp-millis",
    "io.debezium.time.MicroTimestamp": "timestamp-micros",
    "io.debezium.time.Date": "date",
}


def changelog(source: DataSource) -> str:
    """How a source's records are changes: ``debezium`` or ``upsert``; empty where each is a row of its own.

    Raises
    ------
    UnsupportedViewError
        Naming the source, where its tag says anything else.
    """
    found = (source.tags or {}).get(TAG, "")
    if found and found not in CHANGELOGS:
        raise UnsupportedViewError(
            f"source {source.name!r}: expected its tag {TAG!r} to be one of {', '.join(CHANGELOGS)}, got {found!r}"
        )
    return str(found)


def clock_of(source: DataSource) -> str:
    """The column of a topic's archive that holds the time which goes on by the wall clock where no records come.

    Empty for Debezium's: where Debezium is away, its topics are quiet and the database is not, so that all of what it
    catches up with would be late. Empty too where the source's tag ``heartbeats`` is ``none``, because others who read
    the topic do not take a record without a value.
    """
    if source.tags.get("heartbeats") == "none":
        return ""
    return {DEBEZIUM: "", UPSERT: TIMESTAMP}.get(changelog(source), source.timestamp_field)


def row_of(source: DataSource, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Avro schema of a row, from that of a record.

    Raises
    ------
    UnsupportedViewError
        Naming the source, where its records are not the envelope that its tag says they are.
    """
    if changelog(source) != DEBEZIUM:
        return schema
    fields, _ = field_kinds(schema, lambda avro: avro)
    after = _of_null_and(fields.get("after"))
    if not (isinstance(after, dict) and after.get("type") == "record"):
        raise UnsupportedViewError(_expected(source, "a record or null as 'after'", fields))
    if _of_null_and(fields.get("op")) != "string":
        raise UnsupportedViewError(_expected(source, "a string as 'op'", fields))
    if not changed_at(schema):
        raise UnsupportedViewError(_expected(source, "a long as 'ts_ms', in 'source' or beside it", fields))
    return after


def changed_at(schema: Mapping[str, Any]) -> list[str]:
    """Paths in a Debezium envelope that say when the row changed, epoch milliseconds, the better first."""
    fields, _ = field_kinds(schema, lambda avro: avro)
    source = _of_null_and(fields.get("source"))
    inner = {each["name"]: each["type"] for each in source["fields"]} if isinstance(source, dict) else {}
    found = [("source.ts_ms", inner.get("ts_ms")), ("ts_ms", fields.get("ts_ms"))]
    return [path for path, avro in found if _plain(_of_null_and(avro)) == "long"]


def with_times(avro: Any) -> Any:
    """An Avro schema in which Debezium's times are Avro's."""
    if isinstance(avro, list):
        return [with_times(each) for each in avro]
    if not isinstance(avro, dict):
        return avro
    found = {
        key: with_times(each) if key in ("type", "items", "values", "fields") else each for key, each in avro.items()
    }
    logical = _TIMES.get(avro.get("connect.name", ""))
    return found | {"logicalType": logical} if logical and "logicalType" not in avro else found


def _expected(source: DataSource, what: str, fields: Mapping[str, Any]) -> str:
    return (
        f"source {source.name!r}: expected records of Debezium's envelope, with {what}, got the fields "
        f"{', '.join(fields)}; where Debezium unwraps them (ExtractNewRecordState), the tag {TAG!r} is {UPSERT!r}; in "
        "JSON they come without their schema (schemas.enable=false)"
    )


def _of_null_and(avro: Any) -> Any:
    return next((each for each in avro if each != "null"), None) if isinstance(avro, list) else avro


def _plain(avro: Any) -> Any:
    return avro["type"] if isinstance(avro, dict) else avro
