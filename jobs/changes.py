"""Topics whose records are changes of rows, as Flink SQL tables: rows that are added, and rows that are taken back."""

from feast.data_source import KafkaSource

from features.compiler.changes import DEBEZIUM, TIME, changed_at, changelog
from features.compiler.flink import CHANGES, events_table, generation_of
from features.compiler.sources import archived_topic, avro_schema, row_schema, sql_path, watermark_delay_ms
from jobs.tables import USABLE, Broker, avro_columns, records_table, set_aside

__all__ = ["change_source", "set_changes_aside"]

KEY = "hw_key"
_BEGINNING = "TO_TIMESTAMP_LTZ(0, 3)"
_HEARTBEAT = f"`record_bytes` IS NULL AND `{KEY}` IS NULL"


def change_source(broker: Broker, source: KafkaSource) -> list[str]:
    """DDL of a topic of changes: ``<source>_records``, ``<source>_changes`` with what can be used, ``<source>_events``.

    The last has the columns of a row, and what :data:`features.compiler.flink.CHANGES` says of it; ``rowtime`` is that
    of the change. A record behind the watermark cannot be used: samples of its time have been taken.
    """
    of_debezium, table = changelog(source) == DEBEZIUM, generation_of(source.name, broker.generation)
    records = records_table(
        broker,
        table,
        archived_topic(source),
        _debezium_time(source) if of_debezium else "`kafka_time`",
        watermark_delay_ms(source),
        shift_ms=1,
        error=_error(_debezium_cases(source) if of_debezium else {}),
        key=KEY,
    )
    stem = "`after`." if of_debezium else ""
    row = [f"{stem}`{column}` AS `{column}`" for column in avro_columns(row_schema(source))]
    time = f"CAST({stem}{sql_path(source.timestamp_field)} AS TIMESTAMP_LTZ(3))"
    there = "`op` <> 'd'" if of_debezium else "`record_bytes` IS NOT NULL"
    columns = [
        f"`{KEY}`",
        *row,
        "`kafka_topic`",
        f"COALESCE({there} AND {time} IS NOT NULL, FALSE) AS `hw_there`",
        f"{time} AS `{TIME}`",
        "`kafka_partition` AS `hw_partition`",
        "`kafka_offset` AS `hw_offset`",
        "`rowtime`",
    ]
    changes = f"SELECT {', '.join(columns)} FROM {table}_records WHERE {USABLE}"
    if of_debezium:
        changes += f" AND (`record_bytes` IS NOT NULL OR {_HEARTBEAT})"
    events = (
        f"SELECT * FROM {CHANGES}(input => TABLE {table}_changes PARTITION BY `{KEY}`, "
        f"on_time => DESCRIPTOR(`rowtime`), uid => 'hw_changes_{table}')"
    )
    return [
        records,
        f"CREATE TEMPORARY VIEW {table}_changes AS {changes}",
        f"CREATE TEMPORARY VIEW {events_table(table)} AS {events}",
    ]


def set_changes_aside(broker: Broker, source: KafkaSource, dead: bool = True, late: bool = True) -> list[str]:
    """See :func:`jobs.tables.set_aside`. A null value is a change of an upsert topic, and not one of Debezium's."""
    is_record = "`record_bytes` IS NOT NULL" if changelog(source) == DEBEZIUM else f"NOT ({_HEARTBEAT})"
    table = generation_of(source.name, broker.generation)
    return set_aside(broker, table, source.kafka_options.topic, dead, late, is_record)


def _debezium_time(source: KafkaSource) -> str:
    """When the database changed. Kafka's own times lie behind that as far as Debezium does, so only heartbeats, which
    have no other, may move the watermark by theirs.
    """
    times = ", ".join(sql_path(path) for path in changed_at(avro_schema(source)))
    elsewhere = f"CASE WHEN {_HEARTBEAT} THEN `kafka_time` ELSE {_BEGINNING} END"
    return f"COALESCE(TO_TIMESTAMP_LTZ(COALESCE({times}), 3), {elsewhere})"


def _debezium_cases(source: KafkaSource) -> dict[str, str]:
    times = changed_at(avro_schema(source))
    nowhen = " AND ".join(f"{sql_path(path)} IS NULL" for path in times)
    unknown = "`op` IS NULL OR `op` NOT IN ('c', 'r', 'u', 'd')"
    return {
        unknown: "'expected op to be c, r, u or d, got ' || COALESCE(`op`, 'null')",
        "`op` <> 'd' AND `after` IS NULL": "'expected a row in after where op is ' || `op` || ', got null'",
        nowhen: f"'expected {' or '.join(times)}, got null'",
    }


def _error(cases: dict[str, str]) -> str:
    """SQL for why a record that decodes cannot be used: what makes it so, and what is to be said."""
    cases = {
        "`format_error` IS NOT NULL": "`format_error`",
        "`record_bytes` IS NULL": "CAST(NULL AS STRING)",
        f"`{KEY}` IS NULL": "'expected a record key, which says whose row it is, got none'",
        **cases,
    }
    return f"CASE {' '.join(f'WHEN {when} THEN {then}' for when, then in cases.items())} END"
