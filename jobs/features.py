"""The features job: the stream feature views of a Feast repo, as one Flink job.

events ──▶ <view> as SQL ──▶ features.<view>
       └─▶ undecodable, late ─▶ <topic>.dlq, <topic>.late
"""

from collections.abc import Iterable

from feast import StreamFeatureView
from feast.data_source import KafkaSource
from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.changes import changelog
from features.compiler.flink import CHANGED_TILES, CHANGES, TILES, compile_view
from features.compiler.sources import avro_schema, schema_id, stream_source, watermark_delay_ms
from features.compiler.topics import entity_codec, feature_topic
from jobs.changes import change_source, set_changes_aside
from jobs.tables import Broker, event_source, set_aside, sink

__all__ = ["build", "declare_source"]

_FUNCTIONS = {
    TILES: "headwater.flink.tiles.TileFeatures",
    CHANGES: "headwater.flink.RowChanges",
    CHANGED_TILES: "headwater.flink.tiles.ChangedTiles",
}


def build(environment: StreamTableEnvironment, broker: Broker, views: Iterable[StreamFeatureView]) -> StatementSet:
    """The job's statements: every source once, a sink for what cannot be used, and one for each view."""
    for name, java in _FUNCTIONS.items():
        environment.execute_sql(f"CREATE TEMPORARY SYSTEM FUNCTION IF NOT EXISTS {name} AS '{java}' LANGUAGE JAVA")
    statements = environment.create_statement_set()
    sources: set[str] = set()
    for view in views:
        compiled = compile_view(view)
        if compiled.source not in sources:
            declare_source(environment, statements, broker, stream_source(view))
            sources.add(compiled.source)
        for name, select in compiled.views:
            environment.execute_sql(f"CREATE TEMPORARY VIEW {name} AS {select}")
        environment.execute_sql(sink(broker, f"features_{view.name}", feature_topic(view), key=entity_codec(view)))
        statements.add_insert_sql(f"INSERT INTO features_{view.name} SELECT *, `event_time` FROM ({compiled.select})")
    return statements


def declare_source(
    environment: StreamTableEnvironment,
    statements: StatementSet,
    broker: Broker,
    source: KafkaSource,
    shift_ms: int = 1,
) -> None:
    """Declare a Kafka source's tables and add the statement that sets aside its records that cannot be used."""
    topic, schema, delay_ms = source.kafka_options.topic, avro_schema(source), watermark_delay_ms(source)
    if changelog(source):
        declared, aside = change_source(broker, source), set_changes_aside(broker, source)
    else:
        declared = event_source(
            broker, source.name, topic, schema, schema_id(source), source.timestamp_field, delay_ms, shift_ms
        )
        aside = set_aside(broker, source.name, topic)
    for ddl in declared:
        environment.execute_sql(ddl)
    ddl, insert = aside
    environment.execute_sql(ddl)
    statements.add_insert_sql(insert)
