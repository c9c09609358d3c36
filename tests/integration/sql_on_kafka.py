"""Flink SQL on the platform's Kafka: what the tests of the Flink format share."""

import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

from compose.local.formats import format_jar
from compose.local.jars import jars
from compose.local.java import java_home
from compose.local.platform import Platform
from jobs.cluster import gateway
from jobs.tables import avro_columns


class Sql:
    """Topics, tables and jobs of one test: names are made unique, so tests share a platform."""

    def __init__(self, platform: Platform) -> None:
        self.address = platform.endpoints.kafka
        self.admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        flink = urlsplit(platform.endpoints.flink)
        os.environ.setdefault("JAVA_HOME", str(java_home()))
        gateway()
        configuration = Configuration()
        for key, value in {
            "execution.target": "remote",
            "rest.address": str(flink.hostname),
            "rest.port": str(flink.port),
            "pipeline.jars": ";".join(f"file://{each}" for each in (*jars("flink"), format_jar())),
            "pipeline.object-reuse": "true",
            "parallelism.default": "1",
            "table.local-time-zone": "UTC",
            "execution.checkpointing.interval": "500 ms",
            # A job that must not fail is not to be helped up again.
            "restart-strategy.type": "none",
        }.items():
            configuration.set_string(key, value)
        settings = EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
        self.tables = TableEnvironment.create(settings)

    def topic(self, partitions: int = 1) -> str:
        name = f"t{uuid.uuid4().hex[:8]}"
        for each in (name, f"{name}.dlq"):
            for done in self.admin.create_topics([NewTopic(each, partitions, 1)]).values():
                done.result()
        return name

    def send(self, topic: str, records: Iterable[tuple[bytes | None, int]], partition: int = 0) -> None:
        """Values with their timestamps."""
        producer = Producer({"bootstrap.servers": self.address, "log_level": 0})
        for value, timestamp_ms in records:
            producer.produce(topic, value=value, timestamp=timestamp_ms, partition=partition)
            producer.poll(0)
        assert producer.flush(30) == 0

    def received(self, topic: str, count: int, timeout_s: float = 60) -> list[Message]:
        """The first ``count`` committed records, or what there is of them in time; then whether there are more."""
        settings = {
            "bootstrap.servers": self.address,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
        consumer = Consumer({**settings, "isolation.level": "read_committed"})
        consumer.subscribe([topic])
        found: list[Message] = []
        deadline = time.monotonic() + timeout_s
        while len(found) < count and time.monotonic() < deadline:
            found += consumer.consume(10_000, 0.5)
        found += consumer.consume(10_000, 1.0)
        consumer.close()
        assert all(each.error() is None for each in found)
        return found

    def table(
        self,
        topic: str,
        schema: Mapping[str, Any],
        schema_id: int,
        *,
        more: str = "",
        columns: str = "",
        bounded: bool = True,
        **options: str,
    ) -> str:
        """Create a table on a topic and return its name; ``more`` follows the columns of the schema."""
        name = f"table_{uuid.uuid4().hex[:8]}"
        columns = columns or ", ".join(f"`{each}` {kind}" for each, kind in avro_columns(schema).items())
        given = {
            "connector": "kafka",
            "topic": topic,
            "properties.bootstrap.servers": self.address,
            "properties.isolation.level": "read_committed",
            "scan.startup.mode": "earliest-offset",
            "value.format": "headwater-avro",
            "value.headwater-avro.schema": json.dumps(schema),
            "value.headwater-avro.schema-id": str(schema_id),
            **({"scan.bounded.mode": "latest-offset"} if bounded else {}),
            **{key.replace("__", "-").replace("_", "."): value for key, value in options.items()},
        }
        self.tables.execute_sql(f"CREATE TEMPORARY TABLE {name} ({columns}{more}) WITH ({_with(given)})")
        return name

    def exactly_once(self, topic: str) -> dict[str, str]:
        return {
            "sink_delivery__guarantee": "exactly-once",
            "sink_transactional__id__prefix": topic,
            "properties_transaction_timeout_ms": "600000",
        }

    def dead_letters(self, topic: str) -> str:
        name = f"dlq_{uuid.uuid4().hex[:8]}"
        options = {
            "connector": "kafka",
            "topic": f"{topic}.dlq",
            "properties.bootstrap.servers": self.address,
            "properties.transaction.timeout.ms": "600000",
            "sink.delivery-guarantee": "exactly-once",
            "sink.transactional-id-prefix": f"{topic}.dlq",
            "format": "raw",
        }
        self.tables.execute_sql(
            f"CREATE TEMPORARY TABLE {name} (`value` BYTES, headers MAP<STRING, BYTES> METADATA) "
            f"WITH ({_with(options)})"
        )
        return name

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.tables.execute_sql(query).collect() as found:
            return [tuple(each) for each in found]


def _with(options: Mapping[str, str]) -> str:
    return ", ".join("'{}' = '{}'".format(key, value.replace("'", "''")) for key, value in options.items())
