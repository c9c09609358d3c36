"""Orders of a web shop: a Feast repo that knows nothing of Headwater."""

from datetime import timedelta

import pandas as pd
from feast import Aggregation, Entity, FeatureService, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import AvroFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

orders = KafkaSource(
    name="orders",
    kafka_bootstrap_servers="broker.shop.example:9092",
    topic="shop.orders",
    timestamp_field="placed",
    message_format=AvroFormat(
        """
        {"type": "record", "name": "Order", "namespace": "shop", "fields": [
          {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-millis"}},
          {"name": "buyer", "type": {"type": "record", "name": "Buyer", "fields": [
            {"name": "id", "type": ["null", "string"]},
            {"name": "country", "type": ["null", "string"]}]}},
          {"name": "store_id", "type": "int"},
          {"name": "amount", "type": ["null", "double"]},
          {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
            {"name": "sku", "type": "string"}, {"name": "pieces", "type": "int"}]}}},
          {"name": "channel", "type": {"type": "enum", "name": "Channel", "symbols": ["WEB", "APP", "PHONE"]}},
          {"name": "previous", "type": ["null", "Channel"]},
          {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
          {"name": "parcel", "type": ["null", {"type": "record", "name": "Parcel", "fields": [
            {"name": "grams", "type": "int"},
            {"name": "code", "type": {"type": "fixed", "name": "Code", "size": 4}}]}]},
          {"name": "tags", "type": {"type": "map", "values": ["null", "string"]}},
          {"name": "noted", "type": {"type": "long", "logicalType": "timestamp-micros"}},
          {"name": "promised", "type": ["null", {"type": "int", "logicalType": "date"}]},
          {"name": "opened", "type": {"type": "int", "logicalType": "time-millis"}},
          {"name": "odd", "type": ["null", "string", "long"]}
        ]}
        """
    ),
    watermark_delay_threshold=timedelta(minutes=2),
    batch_source=FileSource(name="orders_history", path="data/orders.parquet", timestamp_field="placed"),
    field_mapping={"buyer.id": "customer_id", "store_id": "store"},
)

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
store = Entity(name="store", join_keys=["store"], value_type=ValueType.INT64)

SPENDING = [
    (timedelta(seconds=10), timedelta(seconds=10)),
    (timedelta(minutes=5), timedelta(minutes=1)),
    (timedelta(hours=1), timedelta(minutes=10)),
    (timedelta(days=1), timedelta(hours=1)),
    (timedelta(days=30), timedelta(days=1)),
]

spending = StreamFeatureView(
    name="spending",
    entities=[customer, store],
    ttl=timedelta(days=40),
    source=orders,
    timestamp_field="placed",
    schema=[
        Field(name="customer_id", dtype=String),
        Field(name="store", dtype=Int64),
        *(Field(name=f"sum_amount_{int(window.total_seconds())}s", dtype=Float64) for window, _ in SPENDING),
        *(Field(name=f"count_amount_{int(window.total_seconds())}s", dtype=Int64) for window, _ in SPENDING),
        Field(name="typical", dtype=Float64),
        Field(name="dear", dtype=Float64),
        Field(name="spread", dtype=Float64),
        Field(name="paid", dtype=Float64),
        Field(name="heaviest", dtype=Int64),
    ],
    aggregations=[
        *(Aggregation(column="amount", function="sum", time_window=w, slide_interval=s) for w, s in SPENDING),
        *(Aggregation(column="amount", function="count", time_window=w, slide_interval=s) for w, s in SPENDING),
        Aggregation(column="amount", function="p50", time_window=timedelta(hours=1), name="typical"),
        Aggregation(column="amount", function="p95", time_window=timedelta(days=1), name="dear"),
        Aggregation(column="amount", function="stddev", time_window=timedelta(days=1), name="spread"),
        Aggregation(column="price", function="sum", time_window=timedelta(days=1), name="paid"),
        Aggregation(column="parcel.grams", function="max", time_window=timedelta(days=1), name="heaviest"),
    ],
)


def foreign(source: str) -> str:
    """Orders from abroad, with the number of their lines."""
    return f"SELECT *, CARDINALITY(lines) AS line_count FROM {source} WHERE buyer.country <> 'NL'"


abroad = StreamFeatureView(
    name="abroad",
    entities=[store],
    source=orders,
    timestamp_field="placed",
    mode="flink",
    udf=foreign,
    udf_string="foreign",
    enable_tiling=True,
    tiling_hop_size=timedelta(seconds=30),
    schema=[
        Field(name="store", dtype=Int64),
        Field(name="countries", dtype=Int64),
        Field(name="lines_max", dtype=Int64),
        Field(name="last_channel", dtype=String),
        Field(name="orders", dtype=Int64),
    ],
    aggregations=[
        Aggregation(
            column="buyer.country", function="count_distinct", time_window=timedelta(hours=6), name="countries"
        ),
        Aggregation(column="line_count", function="max", time_window=timedelta(hours=6), name="lines_max"),
        Aggregation(column="channel", function="last", time_window=timedelta(hours=6), name="last_channel"),
        Aggregation(column="*", function="count", time_window=timedelta(hours=1), name="orders"),
    ],
)

latest_order = StreamFeatureView(
    name="latest_order",
    entities=[customer],
    source=orders,
    timestamp_field="placed",
    schema=[
        Field(name="customer_id", dtype=String),
        Field(name="amount", dtype=Float64),
        Field(name="channel", dtype=String),
    ],
)


@on_demand_feature_view(sources=[spending], schema=[Field(name="mean_amount_1h", dtype=Float64)], mode="pandas")
def derived(inputs: pd.DataFrame) -> pd.DataFrame:
    """Mean amount of an hour."""
    return pd.DataFrame({"mean_amount_1h": inputs["sum_amount_3600s"] / inputs["count_amount_3600s"]})


everything = FeatureService(name="everything", features=[spending, abroad, latest_order, derived])
