"""A bank's tables: payments as Debezium replicates them, cards as a topic of upserts."""

import json
from datetime import timedelta

from feast import Aggregation, Entity, FeatureService, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import AvroFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

# As Debezium has it: the type of a row where it is used first, by its name after that; its own types of time.
PAYMENT = {
    "type": "record",
    "name": "Value",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "account", "type": "string"},
        {"name": "payee", "type": ["null", "string"], "default": None},
        {
            "name": "booked",
            "type": {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"},
        },
        {"name": "amount", "type": "double"},
        {"name": "status", "type": "string"},
    ],
    "connect.name": "bank.public.payments.Value",
}
PAYMENTS = {
    "type": "record",
    "name": "Envelope",
    "namespace": "bank.public.payments",
    "fields": [
        {"name": "before", "type": ["null", PAYMENT], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {
            "name": "source",
            "type": {
                "type": "record",
                "name": "Source",
                "namespace": "io.debezium.connector.postgresql",
                "fields": [
                    {"name": "version", "type": "string"},
                    {"name": "ts_ms", "type": "long"},
                    {"name": "snapshot", "type": ["null", "string"], "default": None},
                    {"name": "lsn", "type": ["null", "long"], "default": None},
                ],
            },
        },
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": None},
        {
            "name": "transaction",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "block",
                    "namespace": "event",
                    "fields": [{"name": "id", "type": "string"}, {"name": "total_order", "type": "long"}],
                },
            ],
            "default": None,
        },
    ],
}
CARDS = {
    "type": "record",
    "name": "Card",
    "fields": [
        {"name": "account", "type": "string"},
        {"name": "issued", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "limit", "type": "long"},
    ],
}
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def table(name: str, topic: str, schema: dict, time: str, changelog: str) -> KafkaSource:
    """A table as a stream of its changes."""
    return KafkaSource(
        name=name,
        kafka_bootstrap_servers="broker.bank.example:9092",
        topic=topic,
        timestamp_field=time,
        message_format=AvroFormat(json.dumps(schema)),
        watermark_delay_threshold=timedelta(minutes=2),
        batch_source=FileSource(name=f"{name}_history", path=f"data/{name}.parquet", timestamp_field=time),
        tags={"changelog": changelog},
    )


payments = table("payments", "bank.public.payments", PAYMENTS, "booked", "debezium")
cards = table("cards", "bank.cards", CARDS, "issued", "upsert")
account = Entity(name="account", join_keys=["account"], value_type=ValueType.STRING)
payee = Entity(name="payee", join_keys=["payee"], value_type=ValueType.STRING)

spending = StreamFeatureView(
    name="spending",
    entities=[account],
    source=payments,
    timestamp_field="booked",
    schema=[
        Field(name="account", dtype=String),
        Field(name="paid_1h", dtype=Float64),
        Field(name="paid_30d", dtype=Float64),
        Field(name="payments_30d", dtype=Int64),
        Field(name="largest_30d", dtype=Float64),
        Field(name="typical_1d", dtype=Float64),
        Field(name="spread_1d", dtype=Float64),
        Field(name="payees_30d", dtype=Int64),
        Field(name="status", dtype=String),
    ],
    aggregations=[
        Aggregation(column="amount", function="sum", time_window=HOUR, name="paid_1h"),
        Aggregation(column="amount", function="sum", time_window=30 * DAY, slide_interval=DAY, name="paid_30d"),
        Aggregation(column="*", function="count", time_window=30 * DAY, slide_interval=DAY, name="payments_30d"),
        Aggregation(column="amount", function="max", time_window=30 * DAY, slide_interval=DAY, name="largest_30d"),
        Aggregation(column="amount", function="p50", time_window=DAY, slide_interval=HOUR, name="typical_1d"),
        Aggregation(column="amount", function="stddev", time_window=DAY, slide_interval=HOUR, name="spread_1d"),
        Aggregation(
            column="payee", function="count_distinct", time_window=30 * DAY, slide_interval=DAY, name="payees_30d"
        ),
        Aggregation(column="status", function="last", time_window=30 * DAY, slide_interval=DAY, name="status"),
    ],
    enable_tiling=True,
    tiling_hop_size=timedelta(minutes=1),
)


def disputed(rows: str) -> str:
    """The payments that are disputed now, in cents."""
    return f"SELECT *, CAST(amount * 100 AS BIGINT) AS cents FROM {rows} WHERE status = 'disputed'"


disputes = StreamFeatureView(
    name="disputes",
    entities=[payee],
    source=payments,
    timestamp_field="booked",
    mode="flink",
    udf=disputed,
    udf_string="disputed",
    schema=[
        Field(name="payee", dtype=String),
        Field(name="disputes_7d", dtype=Int64),
        Field(name="cents_7d", dtype=Int64),
    ],
    aggregations=[
        Aggregation(column="*", function="count", time_window=7 * DAY, slide_interval=HOUR, name="disputes_7d"),
        Aggregation(column="cents", function="sum", time_window=7 * DAY, slide_interval=HOUR, name="cents_7d"),
    ],
    enable_tiling=True,
    tiling_hop_size=timedelta(minutes=1),
)

issued = StreamFeatureView(
    name="issued",
    entities=[account],
    source=cards,
    timestamp_field="issued",
    schema=[
        Field(name="account", dtype=String),
        Field(name="cards_90d", dtype=Int64),
        Field(name="limits_90d", dtype=Int64),
    ],
    aggregations=[
        Aggregation(column="*", function="count", time_window=90 * DAY, slide_interval=DAY, name="cards_90d"),
        Aggregation(column="limit", function="sum", time_window=90 * DAY, slide_interval=DAY, name="limits_90d"),
    ],
    enable_tiling=True,
    tiling_hop_size=timedelta(minutes=1),
)

everything = FeatureService(name="everything", features=[spending, disputes, issued])
