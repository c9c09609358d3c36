"""The features job: the stream feature views of a Feast repo, as one Flink job.

events ──▶ <view> as SQL ──▶ features.<view>
       ├─▶ undecodable, late ─▶ <topic>.dlq, <topic>.late
       └─▶ what a view's function in pandas fails on ─▶ <topic>.dlq

Views that began together share a source, which decodes a record once for all of them. A view that is to begin at the
start of its topic, in a job that goes on from a checkpoint, reads it by a source of another generation. Every operator
with state is found again by a name that says what it belongs to: sources and what they set aside by source and
generation, windows by view and generation, and the sink of a view by the view alone, so that what it wrote last is
committed or aborted whatever has become of the view.

One job and not one for each view: a job takes a slot, of which a local cluster has six, for the eight views of the
flights and what else runs; and each would read and decode its topic again, 10 us a record (``headwater bench``). So a
change costs one more reading of a topic, from then on, for the views that it concerns, and a repo that was never
changed reads each topic once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from feast import StreamFeatureView
from feast.data_source import KafkaSource
from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.changes import changelog
from features.compiler.flink import CHANGED_TILES, CHANGES, TILES, compile_view, generation_of
from features.compiler.sources import archived_topic, stream_source, watermark_delay_ms
from features.compiler.topics import entity_codec, feature_topic
from jobs.changes import change_source, set_changes_aside
from jobs.tables import Broker, event_source, failed_aside, set_aside, sink
from jobs.vectorised import register_function

__all__ = ["Generations", "build", "declare_source"]

_FUNCTIONS = {
    TILES: "headwater.flink.tiles.TileFeatures",
    CHANGES: "headwater.flink.RowChanges",
    CHANGED_TILES: "headwater.flink.tiles.ChangedTiles",
}


@dataclass(frozen=True)
class Generations:
    """Which reading of its topic each part of a job belongs to; 0 where nothing is said.

    Attributes
    ----------
    views : mapping of str to int
        By view.
    letters : mapping of str to int
        By source: the reading whose undecodable records are set aside, by one and no other.
    """

    views: Mapping[str, int] = field(default_factory=dict)
    letters: Mapping[str, int] = field(default_factory=dict)


def build(
    environment: StreamTableEnvironment,
    broker: Broker,
    views: Iterable[StreamFeatureView],
    generations: Generations | None = None,
) -> StatementSet:
    """The job's statements: every source once a generation, a sink for what cannot be used, and one for each view."""
    given, views = generations or Generations(), list(views)
    for name, java in _FUNCTIONS.items():
        environment.execute_sql(f"CREATE TEMPORARY SYSTEM FUNCTION IF NOT EXISTS {name} AS '{java}' LANGUAGE JAVA")
    statements = environment.create_statement_set()
    for source, generation, read in _readings(views, given):
        own, letters = replace(broker, generation=generation), given.letters.get(source.name, 0)
        declare_source(environment, statements, own, source, dead=generation == letters, late=read)
    for view in views:
        generation = given.views.get(view.name, 0)
        compiled = compile_view(view, generation)
        if compiled.function:
            register_function(environment, compiled.function_name, compiled.function)
        for name, select in compiled.views:
            environment.execute_sql(f"CREATE TEMPORARY VIEW {name} AS {select}")
        if compiled.function:
            topic = stream_source(view).kafka_options.topic
            own = replace(broker, generation=generation)
            ddl, insert = failed_aside(own, view.name, topic, compiled.failed)
            environment.execute_sql(ddl)
            statements.add_insert_sql(insert)
        environment.execute_sql(sink(broker, f"features_{view.name}", feature_topic(view), key=entity_codec(view)))
        statements.add_insert_sql(f"INSERT INTO features_{view.name} SELECT *, `event_time` FROM ({compiled.select})")
    return statements


def _readings(views: Iterable[StreamFeatureView], given: Generations) -> Iterable[tuple[KafkaSource, int, bool]]:
    """Sources and the generations that read them, and whether a view does: one may be left for its letters alone."""
    sources = {source.name: source for source in map(stream_source, views)}
    read = dict.fromkeys((stream_source(view).name, given.views.get(view.name, 0)) for view in views)
    letters = [(name, given.letters.get(name, 0)) for name in sources]
    return [
        (sources[name], generation, (name, generation) in read) for name, generation in dict.fromkeys([*read, *letters])
    ]


def declare_source(
    environment: StreamTableEnvironment,
    statements: StatementSet,
    broker: Broker,
    source: KafkaSource,
    shift_ms: int = 1,
    dead: bool = True,
    late: bool = True,
) -> None:
    """Declare a Kafka source's tables and add the statement that sets aside its records that cannot be used."""
    if changelog(source):
        declared, aside = change_source(broker, source), set_changes_aside(broker, source, dead, late)
    else:
        topic, table = archived_topic(source), generation_of(source.name, broker.generation)
        declared = event_source(broker, table, topic, source.timestamp_field, watermark_delay_ms(source), shift_ms)
        aside = set_aside(broker, table, topic.name, dead, late)
    for ddl in declared:
        environment.execute_sql(ddl)
    ddl, insert = aside
    environment.execute_sql(ddl)
    statements.add_insert_sql(insert)
