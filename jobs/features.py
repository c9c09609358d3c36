"""The features job: the stream feature views of a Feast repo, as one Flink job.

events ──▶ <view> as SQL ──▶ features.<view>
       ├─▶ undecodable, late ─▶ <topic>.dlq, <topic>.late
       └─▶ what a view's function in pandas fails on ─▶ <topic>.dlq
"""

from collections.abc import Iterable

from feast import StreamFeatureView
from feast.data_source import KafkaSource
from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.flink import TILES, compile_view
from features.compiler.sources import avro_schema, schema_id, stream_source, watermark_delay_ms
from features.compiler.topics import entity_codec, feature_topic
from jobs.tables import Broker, event_source, failed_aside, set_aside, sink
from jobs.vectorised import register_function

__all__ = ["build", "declare_source"]

_TILES_CLASS = "headwater.flink.tiles.TileFeatures"


def build(environment: StreamTableEnvironment, broker: Broker, views: Iterable[StreamFeatureView]) -> StatementSet:
    """The job's statements: every source once, a sink for what cannot be used, and one for each view."""
    environment.execute_sql(f"CREATE TEMPORARY SYSTEM FUNCTION IF NOT EXISTS {TILES} AS '{_TILES_CLASS}' LANGUAGE JAVA")
    statements = environment.create_statement_set()
    sources: set[str] = set()
    for view in views:
        compiled = compile_view(view)
        if compiled.source not in sources:
            declare_source(environment, statements, broker, stream_source(view))
            sources.add(compiled.source)
        if compiled.function:
            register_function(environment, compiled.function_name, compiled.function)
        for name, select in compiled.views:
            environment.execute_sql(f"CREATE TEMPORARY VIEW {name} AS {select}")
        if compiled.function:
            topic = stream_source(view).kafka_options.topic
            ddl, insert = failed_aside(broker, view.name, topic, compiled.failed)
            environment.execute_sql(ddl)
            statements.add_insert_sql(insert)
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
    declared = event_source(
        broker, source.name, topic, schema, schema_id(source), source.timestamp_field, delay_ms, shift_ms
    )
    for ddl in declared:
        environment.execute_sql(ddl)
    ddl, insert = set_aside(broker, source.name, topic)
    environment.execute_sql(ddl)
    statements.add_insert_sql(insert)
