"""The baseline job: every event topic of a Feast repo read and decoded by Flink, and nothing done with it.

events ──▶ (nothing)

What ``headwater bench`` holds the other jobs against: Flink on this machine does not go faster than this.
"""

from feast.data_source import KafkaSource
from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.repo import Repo
from features.compiler.sources import avro_schema
from jobs.features import declare_source
from jobs.tables import Broker, avro_columns

__all__ = ["build"]


def build(environment: StreamTableEnvironment, broker: Broker, repo: Repo) -> StatementSet:
    """The job's statements: each source into a table that forgets."""
    statements = environment.create_statement_set()
    for source in repo.sources.values():
        if not isinstance(source, KafkaSource):
            continue
        declare_source(environment, statements, broker, source)
        columns = avro_columns(avro_schema(source))
        declared = ", ".join(f"`{name}` {kind}" for name, kind in columns.items())
        environment.execute_sql(
            f"CREATE TEMPORARY TABLE {source.name}_nothing ({declared}) WITH ('connector' = 'blackhole')"
        )
        names = ", ".join(f"`{name}`" for name in columns)
        statements.add_insert_sql(f"INSERT INTO {source.name}_nothing SELECT {names} FROM {source.name}_events")
    return statements
