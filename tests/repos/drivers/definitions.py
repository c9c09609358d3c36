"""Drivers of a ride service, in JSON: a Feast repo that knows nothing of Headwater."""

from datetime import timedelta

from feast import Aggregation, Entity, FeatureService, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import JsonFormat
from feast.types import Float32, Float64, Int64, String
from feast.value_type import ValueType

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)

# As Feast's own examples have it: Spark's DDL.
driver_stats = KafkaSource(
    name="driver_stats_stream",
    kafka_bootstrap_servers="broker.rides.example:9092",
    topic="drivers",
    timestamp_field="event_timestamp",
    batch_source=FileSource(name="driver_stats", path="data/stats.parquet", timestamp_field="event_timestamp"),
    message_format=JsonFormat(
        schema_json="driver_id integer, event_timestamp timestamp, conv_rate double, acc_rate float, "
        "avg_daily_trips integer, created timestamp"
    ),
    watermark_delay_threshold=timedelta(minutes=5),
)

# As a schema registry has it.
trips = KafkaSource(
    name="trips_stream",
    kafka_bootstrap_servers="broker.rides.example:9092",
    topic="rides.trips",
    timestamp_field="ended",
    batch_source=FileSource(name="trips", path="data/trips.parquet", timestamp_field="ended"),
    message_format=JsonFormat(
        schema_json="""
        {
          "$schema": "https://json-schema.org/draft/2020-12/schema",
          "title": "Trip",
          "type": "object",
          "required": ["ended", "driver", "fare"],
          "properties": {
            "ended": {"type": "integer", "format": "date-time"},
            "driver": {"$ref": "#/$defs/Driver"},
            "fare": {"type": "number", "minimum": 0},
            "tip": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "payment": {"enum": ["card", "cash", "in-app"]},
            "day": {"type": "string", "format": "date"},
            "stops": {"type": "array", "items": {"type": "object", "properties": {
              "lat": {"type": "number"}, "lon": {"type": "number"}, "at": {"type": "string", "format": "date-time"}}}},
            "extras": {"type": "object", "additionalProperties": {"type": "integer"}}
          },
          "$defs": {"Driver": {"type": "object", "properties": {
            "id": {"type": "integer"}, "city": {"type": ["string", "null"]}}}}
        }
        """
    ),
    field_mapping={"driver.id": "driver_id"},
    watermark_delay_threshold=timedelta(minutes=5),
)

driver_hourly = StreamFeatureView(
    name="driver_hourly",
    entities=[driver],
    ttl=timedelta(days=3),
    source=driver_stats,
    timestamp_field="event_timestamp",
    schema=[
        Field(name="driver_id", dtype=Int64),
        Field(name="conv_rate_mean", dtype=Float64),
        Field(name="acc_rate_max", dtype=Float32),
        Field(name="trips", dtype=Int64),
        Field(name="reports", dtype=Int64),
    ],
    aggregations=[
        Aggregation(column="conv_rate", function="mean", time_window=timedelta(hours=1), name="conv_rate_mean"),
        Aggregation(column="acc_rate", function="max", time_window=timedelta(hours=1), name="acc_rate_max"),
        Aggregation(column="avg_daily_trips", function="sum", time_window=timedelta(hours=1), name="trips"),
        Aggregation(column="*", function="count", time_window=timedelta(hours=1), name="reports"),
    ],
)

driver_latest = StreamFeatureView(
    name="driver_latest",
    entities=[driver],
    source=driver_stats,
    timestamp_field="event_timestamp",
    schema=[
        Field(name="driver_id", dtype=Int64),
        Field(name="conv_rate", dtype=Float64),
        Field(name="avg_daily_trips", dtype=Int64),
    ],
)


def stopped(source: str) -> str:
    """Trips with a stop on the way."""
    return f"SELECT *, CARDINALITY(stops) AS stop_count FROM {source} WHERE CARDINALITY(stops) > 0"


driver_trips = StreamFeatureView(
    name="driver_trips",
    entities=[driver],
    source=trips,
    timestamp_field="ended",
    mode="flink",
    udf=stopped,
    udf_string="stopped",
    schema=[
        Field(name="driver_id", dtype=Int64),
        Field(name="fares", dtype=Float64),
        Field(name="stops_max", dtype=Int64),
        Field(name="last_city", dtype=String),
        Field(name="tips", dtype=Int64),
    ],
    aggregations=[
        Aggregation(column="fare", function="sum", time_window=timedelta(hours=6), name="fares"),
        Aggregation(column="stop_count", function="max", time_window=timedelta(hours=6), name="stops_max"),
        Aggregation(column="driver.city", function="last", time_window=timedelta(hours=6), name="last_city"),
        Aggregation(column="tip", function="count", time_window=timedelta(hours=6), name="tips"),
    ],
)

driver_activity = FeatureService(name="driver_activity", features=[driver_hourly, driver_latest, driver_trips])
