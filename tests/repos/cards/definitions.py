"""Payments by card: a Feast repo whose records are filtered and completed by functions in pandas."""

from datetime import timedelta

import numpy as np
import pandas as pd
import rates
from feast import Aggregation, Entity, FeatureService, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import AvroFormat
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

payments = KafkaSource(
    name="payments",
    kafka_bootstrap_servers="broker.cards.example:9092",
    topic="cards.payments",
    timestamp_field="paid",
    message_format=AvroFormat(
        """
        {"type": "record", "name": "Payment", "namespace": "cards", "fields": [
          {"name": "paid", "type": {"type": "long", "logicalType": "timestamp-millis"}},
          {"name": "card", "type": ["null", "string"]},
          {"name": "amount", "type": ["null", "double"]},
          {"name": "currency", "type": {"type": "enum", "name": "Currency", "symbols": ["EUR", "USD", "GBP"]}},
          {"name": "points", "type": ["null", "long"]},
          {"name": "online", "type": ["null", "boolean"]},
          {"name": "shop", "type": {"type": "record", "name": "Shop", "fields": [
            {"name": "country", "type": ["null", "string"]},
            {"name": "terminal", "type": "int"}]}},
          {"name": "fee", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
          {"name": "labels", "type": {"type": "array", "items": "string"}},
          {"name": "code", "type": "string"},
          {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
            {"name": "sku", "type": "string"}]}}}
        ]}
        """
    ),
    watermark_delay_threshold=timedelta(minutes=2),
    batch_source=FileSource(name="payments_history", path="data/payments.parquet", timestamp_field="paid"),
    field_mapping={"shop.country": "country"},
)

card = Entity(name="card", join_keys=["card"], value_type=ValueType.STRING)
terminal = Entity(name="terminal", join_keys=["terminal"], value_type=ValueType.INT64)
place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)


def abroad(frame: pd.DataFrame) -> pd.DataFrame:
    """Payments of some value abroad, in euros, and when in the day they were."""
    frame["euros"] = rates.euros(frame["amount"], frame["currency"])
    kept = frame[(frame["country"] != "NL") & frame["country"].notna() & (frame["euros"] >= 5)]
    hour = kept["paid"].dt.hour
    return kept.assign(
        night=np.where((hour < 6).to_numpy(), 1, 0),
        label_count=kept["labels"].map(len).astype("int64"),
        points=kept["points"] * 2,
    )


spending_abroad = StreamFeatureView(
    name="spending_abroad",
    entities=[card],
    source=payments,
    timestamp_field="paid",
    mode="pandas",
    udf=abroad,
    udf_string="abroad",
    schema=[
        Field(name="card", dtype=String),
        Field(name="euros_1h", dtype=Float64),
        Field(name="payments_1h", dtype=Int64),
        Field(name="nights", dtype=Int64),
        Field(name="labels_max", dtype=Int64),
        Field(name="points", dtype=Int64),
        Field(name="fees", dtype=Float64),
        Field(name="last_country", dtype=String),
        Field(name="online_last", dtype=Int64),
        Field(name="terminals", dtype=Int64),
    ],
    aggregations=[
        Aggregation(column="euros", function="sum", time_window=timedelta(hours=1), name="euros_1h"),
        Aggregation(column="*", function="count", time_window=timedelta(hours=1), name="payments_1h"),
        Aggregation(column="night", function="sum", time_window=timedelta(days=1), name="nights"),
        Aggregation(column="label_count", function="max", time_window=timedelta(days=1), name="labels_max"),
        Aggregation(column="points", function="sum", time_window=timedelta(days=1), name="points"),
        Aggregation(column="fee", function="sum", time_window=timedelta(days=1), name="fees"),
        Aggregation(column="country", function="last", time_window=timedelta(hours=6), name="last_country"),
        Aggregation(column="online", function="count", time_window=timedelta(hours=6), name="online_last"),
        Aggregation(column="shop.terminal", function="count_distinct", time_window=timedelta(days=1), name="terminals"),
    ],
)


def placed(frame: pd.DataFrame) -> pd.DataFrame:
    """The shop's place and number, out of a code like ``AMS-17``; one of another form is an error."""
    parts = frame["code"].str.split("-", expand=True).reindex(columns=[0, 1])
    return frame.assign(place=parts[0], number=parts[1].astype("int64"))


latest_payment = StreamFeatureView(
    name="latest_payment",
    entities=[place],
    source=payments,
    timestamp_field="paid",
    feature_transformation=PandasTransformation(udf=placed, udf_string="placed"),
    tags={"columns": "code, amount, online, points"},
    schema=[
        Field(name="place", dtype=String),
        Field(name="number", dtype=Int64),
        Field(name="amount", dtype=Float64),
        Field(name="points", dtype=Int64),
    ],
)


def at_terminals(frame: pd.DataFrame) -> pd.DataFrame:
    """The number of the terminal is a field of a record: a join key has to be a column."""
    return frame.assign(terminal=frame["shop.terminal"])


terminals = StreamFeatureView(
    name="terminals",
    entities=[terminal],
    source=payments,
    timestamp_field="paid",
    mode="pandas",
    udf=at_terminals,
    udf_string="at_terminals",
    tags={"columns": "shop.terminal"},
    schema=[Field(name="terminal", dtype=Int64), Field(name="payments", dtype=Int64)],
    aggregations=[Aggregation(column="*", function="count", time_window=timedelta(hours=1), name="payments")],
)

everything = FeatureService(name="everything", features=[spending_abroad, latest_payment, terminals])
