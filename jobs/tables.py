"""Kafka topics as Flink SQL tables, in Headwater's format.

Three kinds of table, and what each is for:

- an event table (:func:`event_source`) yields good records and heartbeats; :func:`set_aside` takes the others; what
  they are where records are changes of rows is in :mod:`jobs.changes`;
- a feature or control table (:func:`versioned_source`) is a changelog with a key: the right side of a temporal join;
- a sink (:func:`sink`) writes exactly once, with the event time as the record's timestamp.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.compiler.flink import arrivals_table, generation_of, interval
from features.frames import HEARTBEAT, RECORD, SET_ASIDE
from schemas.codec import Codec, field_kinds
from schemas.topics import DLQ_SUFFIX, LATE_SUFFIX, Topic

__all__ = [
    "USABLE",
    "Broker",
    "avro_columns",
    "encoded_sink",
    "epoch_seconds",
    "event_source",
    "failed_aside",
    "records_table",
    "set_aside",
    "sink",
    "sql_type",
    "travelling_source",
    "versioned_source",
]

FORMAT = "headwater-avro"
_SQL = {
    "boolean": "BOOLEAN",
    "int": "INT",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "STRING",
    "bytes": "BYTES",
    "enum": "STRING",
}


@dataclass(frozen=True)
class Broker:
    """Where and how the tables of one job read and write.

    Attributes
    ----------
    servers : str
        Kafka's ``host:port,...``.
    job : str
        Prefix of consumer group and transactional ids: two jobs must never share one (flink-connector-kafka#156).
    align : str
        How far one topic may run ahead of the others in event time, as a Flink duration; empty for no bound.
    align_ms : int
        How often that is looked at: no topic goes faster than `align` in this time. Each look is a message from and to
        every source; three times as often, the JobManager took a third more processor time.
    carries : bool
        Whether what the job writes carries its watermark on to the next: then watermarks follow every record.
    step_ms : int
        Watermarks are multiples of this, whole seconds; 0 leaves them as they come.
    idle : str
        A partition without records for so long, a Flink duration, does not hold the others back; what comes to it
        later may be late. Empty: they wait for ever, which is what a replay wants.
    bounded : bool
        Read what there is and end, as a measurement does.
    generation : int
        See :func:`features.compiler.flink.generation_of`. Sources of one generation keep together in event time; those
        of another, which have months to read again, hold them not back, and commit offsets of their own.
    """

    servers: str
    job: str
    align: str = ""
    align_ms: int = 500
    carries: bool = False
    step_ms: int = 0
    idle: str = ""
    bounded: bool = False
    generation: int = 0


def avro_columns(schema: Mapping[str, Any]) -> dict[str, str]:
    """Column names and SQL types of an Avro record, in order, all nullable: the format is driven by the schema.

    A field of a type that SQL has not, a union of several types or a record within itself, is left out.
    """
    return field_kinds(schema, sql_type)[0]


def sql_type(avro: Any) -> str:
    """The SQL type of an Avro type.

    Raises
    ------
    TypeError
        For a union of more than null and one type.
    """
    if isinstance(avro, list):
        if len(inner := [each for each in avro if each != "null"]) != 1:
            raise TypeError(f"expected a union of null and one type, got {avro}")
        return sql_type(inner[0])
    if isinstance(avro, str):
        return _SQL[avro]
    logical = avro.get("logicalType")
    if logical in ("timestamp-millis", "timestamp-micros"):
        return "TIMESTAMP_LTZ(3)" if logical == "timestamp-millis" else "TIMESTAMP_LTZ(6)"
    if logical in ("local-timestamp-millis", "local-timestamp-micros"):
        return "TIMESTAMP(3)" if logical == "local-timestamp-millis" else "TIMESTAMP(6)"
    if logical == "date":
        return "DATE"
    if logical == "time-millis":
        return "TIME(3)"
    if logical == "decimal":
        return f"DECIMAL({avro['precision']}, {avro.get('scale', 0)})"
    kind = avro["type"]
    if kind == "array":
        return f"ARRAY<{sql_type(avro['items'])}>"
    if kind == "map":
        return f"MAP<STRING, {sql_type(avro['values'])}>"
    if kind == "record":
        listed = ", ".join(f"`{field['name']}` {sql_type(field['type'])}" for field in avro["fields"])
        return f"ROW<{listed}>"
    if kind == "fixed":
        return "BYTES"
    return sql_type(kind)


def event_source(
    broker: Broker,
    table: str,
    topic: Topic,
    time: str,
    delay_ms: int,
    shift_ms: int = 1,
) -> list[str]:
    """DDL of an event topic: ``<table>_records`` with everything, ``<table>_events`` with what can be used.

    ``<table>_arrivals`` has everything too, and says of each what it is: for functions in Python, which the planner
    would otherwise call before it looks whether a record is late, by a watermark that they have held back.

    A record behind the watermark cannot: some of the windows it belongs to are closed, and it would count in others.

    Parameters
    ----------
    broker : Broker
    table : str
        Stem of the tables' names.
    topic : Topic
    time : str
        Event-time column, a timestamp; what is finer than milliseconds counts as the millisecond it is in.
    delay_ms : int
        How late a record may come and still count.
    shift_ms : int
        How far ``rowtime`` lies before event time: 1 where windows read it, which makes them open on the left.
    """
    # Heartbeats and dead letters have no event time of their own: the broker's record timestamp stands in.
    rowtime = f"COALESCE(CAST(`{time}` AS TIMESTAMP_LTZ(3)), `kafka_time`)"
    records = records_table(broker, table, topic, rowtime, delay_ms, shift_ms)
    names = ", ".join(f"`{column}`" for column in avro_columns(topic.schema))
    events = (
        f"CREATE TEMPORARY VIEW {table}_events AS SELECT {names}, `kafka_topic`, `rowtime` FROM {table}_records "
        f"WHERE {USABLE}"
    )
    arrival = (
        f"CASE WHEN NOT ({USABLE}) THEN {SET_ASIDE} WHEN `record_bytes` IS NULL THEN {HEARTBEAT} ELSE {RECORD} END"
    )
    arrivals = (
        f"CREATE TEMPORARY VIEW {arrivals_table(table)} AS SELECT {names}, {arrival} AS `headwater_arrival`, "
        f"`record_bytes`, `kafka_partition`, `kafka_offset`, `kafka_time`, `rowtime` FROM {table}_records"
    )
    return [records, events, arrivals]


def records_table(
    broker: Broker,
    table: str,
    topic: Topic,
    rowtime: str,
    delay_ms: int,
    shift_ms: int,
    error: str = "",
    key: str = "",
) -> str:
    """DDL of ``<table>_records``: everything in a topic, with what is known of each record.

    Parameters
    ----------
    broker, table, topic, delay_ms, shift_ms
        See :func:`event_source`.
    rowtime : str
        SQL of a record's time.
    error : str
        SQL that says of a record that does decode, ``format_error`` being null, why it cannot be used; null if it can.
    key : str
        Column for the record's key, bytes; empty where nobody asks for it.
    """
    declared = {key: "BYTES"} | avro_columns(topic.schema) if key else avro_columns(topic.schema)
    columns = ",\n  ".join(f"`{column}` {kind}" for column, kind in declared.items())
    delay = interval(delay_ms + 1)  # records of the same millisecond are not late
    # What cannot be decoded promises nothing: its own timestamp may be of today in a topic of last year.
    promise = _stepped(broker, f"CASE WHEN `decode_error` IS NULL THEN `rowtime` - {delay} END")
    options = {**_reader(broker, topic.name), **_value(topic)}
    if key:
        options |= {"key.format": "raw", "key.fields": key, "value.fields-include": "EXCEPT_KEY"}
    problem = "`decode_error` STRING METADATA FROM 'value.error' VIRTUAL"
    if error:
        problem = f"`format_error` STRING METADATA FROM 'value.error' VIRTUAL,\n  `decode_error` AS {error}"
    return (
        f"CREATE TEMPORARY TABLE {table}_records (\n  {columns},\n"
        "  `kafka_time` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,\n"
        "  `kafka_topic` STRING METADATA FROM 'topic' VIRTUAL,\n"
        "  `kafka_partition` INT METADATA FROM 'partition' VIRTUAL,\n"
        "  `kafka_offset` BIGINT METADATA FROM 'offset' VIRTUAL,\n"
        "  `record_bytes` BYTES METADATA FROM 'value.raw' VIRTUAL,\n"
        f"  {problem},\n"
        f"  `rowtime` AS {rowtime} - {interval(shift_ms)},\n"
        f"  WATERMARK FOR `rowtime` AS {promise}\n) WITH (\n  {_with(options)}\n)"
    )


def travelling_source(broker: Broker, table: str, topic: Topic, only: Sequence[str], time: str = "event_time") -> str:
    """DDL of a topic that one of our jobs writes: its watermark travels in the records and is exact.

    Only the columns that are read are declared: the format skips the others without making values of them.
    """
    kinds = avro_columns(topic.schema)
    columns = ",\n  ".join(f"`{column}` {kinds[column]}" for column in only)
    options = {**_reader(broker, topic.name), **_value(topic)}
    times = _travelling(broker, time)
    return f"CREATE TEMPORARY TABLE {table} (\n  {columns},\n  {times}\n) WITH (\n  {_with(options)}\n)"


def versioned_source(broker: Broker, table: str, topic: Topic, keys: Sequence[str], time: str = "event_time") -> str:
    """DDL of a topic whose every record is the newest version of its key: what a temporal join reads."""
    columns = ",\n  ".join(f"`{column}` {kind}" for column, kind in avro_columns(topic.schema).items())
    options = {
        **_reader(broker, topic.name),
        **_value(topic),
        f"value.{FORMAT}.changelog": "versioned",
    }
    primary = ", ".join(f"`{key}`" for key in keys)
    return (
        f"CREATE TEMPORARY TABLE {table} (\n  {columns},\n  PRIMARY KEY ({primary}) NOT ENFORCED,\n"
        f"  {_travelling(broker, time)}\n) WITH (\n  {_with(options)}\n)"
    )


def sink(broker: Broker, table: str, topic: Topic, key: Codec | None = None, time: str = "event_time") -> str:
    """DDL of a sink: exactly once, the record's timestamp is its event time.

    The column ``kafka_time`` comes last and takes the event time. The key is the topic's key column as text, or with
    ``key`` the columns of that codec's schema in Avro; rows whose key is null are progress rows.
    """
    columns = avro_columns(topic.schema)
    declared = ",\n  ".join(f"`{column}` {kind}" for column, kind in columns.items())
    fields = [field["name"] for field in key.schema["fields"]] if key else [topic.key]
    options = {
        **_writer(broker, table, topic.name),
        **_value(topic),
        "key.fields": ";".join(fields),
        "value.fields-include": "ALL",
        "key.format": FORMAT if key else "raw",
    }
    if key:
        options |= {f"key.{FORMAT}.schema": json.dumps(key.schema), f"key.{FORMAT}.schema-id": str(key.schema_id)}
    return (
        f"CREATE TEMPORARY TABLE {table} (\n  {declared},\n"
        f"  `kafka_time` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'\n) WITH (\n  {_with(options)}\n)"
    )


def encoded_sink(broker: Broker, table: str, name: str) -> str:
    """DDL of a sink for values that Python has encoded: columns ``key``, ``value``, and the record's timestamp."""
    options = {**_writer(broker, table, name), "value.format": "raw", "key.format": "raw", "key.fields": "key"}
    options["value.fields-include"] = "EXCEPT_KEY"
    return (
        f"CREATE TEMPORARY TABLE {table} (\n  `key` STRING,\n  `value` BYTES,\n"
        f"  `kafka_time` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'\n) WITH (\n  {_with(options)}\n)"
    )


def epoch_seconds(time: str) -> str:
    """SQL for a TIMESTAMP_LTZ as seconds since the epoch, BIGINT."""
    return f"EXTRACT(EPOCH FROM {time})"


_WATERMARK = "CURRENT_WATERMARK(`rowtime`)"
USABLE = f"`decode_error` IS NULL AND ({_WATERMARK} IS NULL OR `rowtime` > {_WATERMARK})"


def set_aside(
    broker: Broker,
    table: str,
    name: str,
    dead: bool = True,
    late: bool = True,
    is_record: str = "`record_bytes` IS NOT NULL",
) -> list[str]:
    """DDL of a sink and the INSERT that fills it: the records of ``<table>_records`` that cannot be used.

    Undecodable ones go to ``<topic>.dlq``, late ones to ``<topic>.late``: original bytes, where they lay, and why.

    Parameters
    ----------
    broker : Broker
    table : str
        Stem of the tables' names.
    name : str
        The topic.
    dead, late : bool
        Which of the two. Undecodable ones are the same however often a topic is read, and are to be written once; which
        ones come too late is of each generation that reads it, whose number is in the letter.
    is_record : str
        SQL that tells records from heartbeats; those that are repeated are behind the watermark, and nothing is lost
        with them.
    """
    why = f"CONCAT('late: event time ', CAST(`rowtime` AS STRING), ', watermark ', CAST({_WATERMARK} AS STRING))"
    headers = _headers(broker, "`kafka_topic`", f"COALESCE(`decode_error`, {why})")
    undecodable = ["`decode_error` IS NOT NULL"] if dead else []
    behind = [f"{'' if dead else '`decode_error` IS NULL AND '}`rowtime` <= {_WATERMARK}"] if late else []
    return [
        _aside(broker, table, name),
        f"INSERT INTO {table}_aside SELECT `record_bytes`, "
        f"CASE WHEN `decode_error` IS NULL THEN '{name}{LATE_SUFFIX}' ELSE '{name}{DLQ_SUFFIX}' END, {headers}, "
        f"`kafka_time` FROM {table}_records WHERE {is_record} AND ({' OR '.join(undecodable + behind)})",
    ]


def failed_aside(broker: Broker, view: str, name: str, failed: str) -> list[str]:
    """DDL of a sink and the INSERT that fills it: the records that a view's function failed on, to ``<topic>.dlq``.

    They are as other dead letters, but that their own timestamp is the event time.

    Parameters
    ----------
    broker : Broker
    view : str
    name : str
        The topic.
    failed : str
        SELECT of the records: ``record_bytes``, ``kafka_partition``, ``kafka_offset``, ``kafka_time``, ``error`` and
        ``event_time``.
    """
    headers = _headers(broker, f"'{name}'", f"CONCAT('feature view {view}: ', `error`)")
    row = f"`record_bytes`, '{name}{DLQ_SUFFIX}', {headers}, `event_time`"
    return [_aside(broker, view, name), f"INSERT INTO {view}_aside SELECT {row} FROM ({failed})"]


def _aside(broker: Broker, table: str, name: str) -> str:
    topics = f"{name}{DLQ_SUFFIX};{name}{LATE_SUFFIX}"  # of one alone the connector would not let a row say which
    options = {**_writer(broker, f"{table}_aside", topics), "format": "raw"}
    return (
        f"CREATE TEMPORARY TABLE {table}_aside (\n  `value` BYTES,\n"
        "  `kafka_topic` STRING METADATA FROM 'topic',\n"
        "  `headers` MAP<STRING, BYTES> METADATA,\n"
        f"  `kafka_time` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'\n) WITH (\n  {_with(options)}\n)"
    )


def _headers(broker: Broker, topic: str, error: str) -> str:
    """SQL for a dead letter's headers."""
    headers = {
        "topic": topic,
        "partition": "`kafka_partition`",
        "offset": "`kafka_offset`",
        "timestamp": "`kafka_time`",
        "job": f"'{broker.job}'",
        "generation": f"'{broker.generation}'",
        "error": error,
    }
    pairs = ", ".join(f"'headwater.{key}', ENCODE(CAST({value} AS STRING), 'UTF-8')" for key, value in headers.items())
    return f"MAP[{pairs}]"


def _travelling(broker: Broker, time: str) -> str:
    """A row time that is never null (an undecodable record has no event time) and the watermark the records carry."""
    return (
        "`kafka_time` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,\n"
        f"  `rowtime` AS COALESCE(`{time}`, `kafka_time`),\n"
        f"  WATERMARK FOR `rowtime` AS {_stepped(broker, '`watermark`')}"
    )


def _stepped(broker: Broker, watermark: str) -> str:
    """SQL for a watermark rounded down to a multiple of the job's step: a weaker promise, and far fewer of them."""
    if not broker.step_ms:
        return watermark
    seconds = epoch_seconds(watermark)
    return f"TO_TIMESTAMP_LTZ(1000 * ({seconds} - MOD({seconds}, {broker.step_ms // 1000})), 3)"


def _value(topic: Topic) -> dict[str, str]:
    return {
        "value.format": FORMAT,
        f"value.{FORMAT}.schema": json.dumps(topic.schema),
        f"value.{FORMAT}.schema-id": str(topic.schema_id),
        f"value.{FORMAT}.encoding": topic.encoding,
    }


def _reader(broker: Broker, topic: str) -> dict[str, str]:
    options = {
        "connector": "kafka",
        "topic": topic,
        "properties.bootstrap.servers": broker.servers,
        "properties.group.id": generation_of(f"headwater-{broker.job}", broker.generation),
        "properties.isolation.level": "read_committed",
        "scan.startup.mode": "earliest-offset",
    }
    if broker.bounded:
        options["scan.bounded.mode"] = "latest-offset"
    if broker.carries:
        # A row carries the watermark of the row before it. Emitted by the clock, watermarks lay days of a replay
        # behind the rows they came with, and in a replay that paused there they stayed.
        options["scan.watermark.emit.strategy"] = "on-event"
    if broker.idle:
        options["scan.watermark.idle-timeout"] = broker.idle
    if broker.align:
        # Without this a replay reads one topic months ahead of another and joins hold the difference in state.
        # Not with somebody else's topics: their views do not meet, and one of years ago would hold up one of today.
        options |= {
            "scan.watermark.alignment.group": generation_of(
                f"{broker.job}-{topic}" if broker.idle else broker.job, broker.generation
            ),
            "scan.watermark.alignment.max-drift": broker.align,
            "scan.watermark.alignment.update-interval": f"{broker.align_ms} ms",
        }
    return options


def _writer(broker: Broker, table: str, topic: str) -> dict[str, str]:
    return {
        "connector": "kafka",
        "topic": topic,
        "properties.bootstrap.servers": broker.servers,
        "sink.delivery-guarantee": "exactly-once",
        "sink.transactional-id-prefix": f"headwater-{broker.job}-{table}",
        "properties.transaction.timeout.ms": "600000",
        # A subtask's rows stay in one partition, and with them the watermark they carry.
        "sink.partitioner": "fixed",
    }


def _with(options: Mapping[str, str]) -> str:
    return ",\n  ".join("'{}' = '{}'".format(key, value.replace("'", "''")) for key, value in options.items())
