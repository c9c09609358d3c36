"""The flights repo: an ordinary Feast repo whose stream feature views Headwater runs as Flink jobs.

One file, since that is how people start. Everything is keyed on event time; windows are (t - W, t] and sampled at
slide boundaries. What a model may know of a flight an hour before it leaves is what these views say.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

from feast import Aggregation, Entity, FeatureService, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat
from feast.types import Float64, Int64, String

__all__ = [
    "airframe",
    "airport",
    "arrivals",
    "base_rate",
    "carrier",
    "carrier_origin",
    "delay",
    "departures",
    "destination",
    "flight",
    "operator",
    "origin",
    "question",
    "requests",
    "route",
    "service",
    "tail",
    "target",
    "weather",
    "weather_bulletins",
]

SCHEMAS = Path(os.environ.get("HEADWATER_SCHEMAS", Path(__file__).resolve().parent.parent / "schemas" / "avro"))
KAFKA = os.environ.get("HEADWATER_KAFKA", "127.0.0.1:9092")
HOUR = timedelta(hours=1)
LATE_MINUTES = 15


def topic(name: str, schema_id: int) -> KafkaSource:
    """A topic of this repo as a stream source; its history is what the archiver keeps."""
    return KafkaSource(
        name=name,
        timestamp_field="event_time",
        kafka_bootstrap_servers=KAFKA,
        topic=f"flights.{name}",
        message_format=AvroFormat(json.dumps(json.loads((SCHEMAS / f"flights.{name}.avsc").read_text()))),
        watermark_delay_threshold=timedelta(0),
        batch_source=FileSource(name=f"{name}_history", path=f"data/{name}.parquet", timestamp_field="event_time"),
        tags={"schema_id": str(schema_id)},
    )


requests = topic("requests", 1)
departures = topic("departures", 2)
arrivals = topic("arrivals", 3)
weather_bulletins = topic("weather", 4)

airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
target = Entity(name="target", join_keys=["dest"], value_type=ValueType.STRING)
operator = Entity(name="operator", join_keys=["carrier"], value_type=ValueType.STRING)
airframe = Entity(name="airframe", join_keys=["tailnum"], value_type=ValueType.STRING)
service = Entity(name="service", join_keys=["flight"], value_type=ValueType.INT64)
question = Entity(name="question", join_keys=["model"], value_type=ValueType.STRING)


def departed_late(source: str) -> str:
    """Departures with ``late``: 1 where the flight left more than 15 minutes behind schedule, else 0."""
    return f"SELECT *, CASE WHEN dep_delay > {LATE_MINUTES} THEN 1e0 ELSE 0e0 END AS late FROM {source}"


def arrived_late(source: str) -> str:
    """Arrivals with the label, ``late``, and the model that asks for it."""
    return (
        f"SELECT *, CASE WHEN arr_delay > {LATE_MINUTES} THEN 1e0 ELSE 0e0 END AS late, "
        f"CASE WHEN flight_id IS NOT NULL THEN 'delay' END AS model FROM {source}"
    )


def over(column: str, function: str, window: timedelta, slide: timedelta, name: str) -> Aggregation:
    """An aggregation over (t - window, t], sampled every slide."""
    return Aggregation(column=column, function=function, time_window=window, slide_interval=slide, name=name)


QUARTER = timedelta(minutes=15)
origin = StreamFeatureView(
    name="origin",
    entities=[airport],
    source=departures,
    timestamp_field="event_time",
    mode="flink",
    udf=departed_late,
    udf_string="departed_late",
    schema=[
        Field(name="origin", dtype=String),
        Field(name="dep_count_1h", dtype=Int64),
        Field(name="dep_delay_mean_1h", dtype=Float64),
        Field(name="dep_late_share_1h", dtype=Float64),
        Field(name="dep_count_3h", dtype=Int64),
        Field(name="dep_delay_mean_3h", dtype=Float64),
        Field(name="dep_late_share_3h", dtype=Float64),
    ],
    aggregations=[
        over("dep_delay", "count", HOUR, QUARTER, "dep_count_1h"),
        over("dep_delay", "mean", HOUR, QUARTER, "dep_delay_mean_1h"),
        over("late", "mean", HOUR, QUARTER, "dep_late_share_1h"),
        over("dep_delay", "count", 3 * HOUR, QUARTER, "dep_count_3h"),
        over("dep_delay", "mean", 3 * HOUR, QUARTER, "dep_delay_mean_3h"),
        over("late", "mean", 3 * HOUR, QUARTER, "dep_late_share_3h"),
    ],
)

carrier = StreamFeatureView(
    name="carrier",
    entities=[operator],
    source=departures,
    timestamp_field="event_time",
    schema=[Field(name="carrier", dtype=String), Field(name="dep_delay_mean_3h", dtype=Float64)],
    aggregations=[over("dep_delay", "mean", 3 * HOUR, HOUR, "dep_delay_mean_3h")],
)

carrier_origin = StreamFeatureView(
    name="carrier_origin",
    entities=[operator, airport],
    source=departures,
    timestamp_field="event_time",
    schema=[
        Field(name="carrier", dtype=String),
        Field(name="origin", dtype=String),
        Field(name="dep_delay_mean_3h", dtype=Float64),
    ],
    aggregations=[over("dep_delay", "mean", 3 * HOUR, HOUR, "dep_delay_mean_3h")],
)

destination = StreamFeatureView(
    name="destination",
    entities=[target],
    source=arrivals,
    timestamp_field="event_time",
    schema=[Field(name="dest", dtype=String), Field(name="arr_delay_mean_6h", dtype=Float64)],
    aggregations=[over("arr_delay", "mean", 6 * HOUR, HOUR, "arr_delay_mean_6h")],
)

route = StreamFeatureView(
    name="route",
    entities=[airport, target],
    source=arrivals,
    timestamp_field="event_time",
    schema=[
        Field(name="origin", dtype=String),
        Field(name="dest", dtype=String),
        Field(name="arr_delay_mean_24h", dtype=Float64),
    ],
    aggregations=[over("arr_delay", "mean", 24 * HOUR, 6 * HOUR, "arr_delay_mean_24h")],
)


def last_arrival(source: str) -> str:
    """The newest arrival delay."""
    return f"SELECT *, arr_delay AS arr_delay_last FROM {source}"


tail = StreamFeatureView(
    name="tail",
    entities=[airframe],
    source=arrivals,
    timestamp_field="event_time",
    mode="flink",
    udf=last_arrival,
    udf_string="last_arrival",
    schema=[Field(name="tailnum", dtype=String), Field(name="arr_delay_last", dtype=Float64)],
)

flight = StreamFeatureView(
    name="flight",
    entities=[operator, service],
    source=arrivals,
    timestamp_field="event_time",
    mode="flink",
    udf=last_arrival,
    udf_string="last_arrival",
    schema=[
        Field(name="carrier", dtype=String),
        Field(name="flight", dtype=Int64),
        Field(name="arr_delay_last", dtype=Float64),
    ],
)

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
weather = StreamFeatureView(
    name="weather",
    entities=[airport],
    source=weather_bulletins,
    timestamp_field="event_time",
    schema=[Field(name="origin", dtype=String), *(Field(name=each, dtype=Float64) for each in WEATHER)],
)

# The prior that answers before the first model is trained: how often flights came late so far.
base_rate = StreamFeatureView(
    name="base_rate",
    entities=[question],
    source=arrivals,
    timestamp_field="event_time",
    mode="flink",
    udf=arrived_late,
    udf_string="arrived_late",
    schema=[Field(name="model", dtype=String), Field(name="late_share_31d", dtype=Float64)],
    aggregations=[over("late", "mean", timedelta(days=31), 6 * HOUR, "late_share_31d")],
)

# What the model "delay" reads: the views below and, of the request itself, the columns that the tags name.
delay = FeatureService(
    name="delay",
    features=[origin, carrier, carrier_origin, destination, route, tail, flight, weather, base_rate],
    tags={
        "requests": "requests",
        "request_id": "flight_id",
        "columns": "sched_hour,weekday,distance,block_minutes,carrier,origin,dest",
        "prior": "base_rate.late_share_31d",
        "context": "weather",
        "segments": "origin; evening: sched_hour >= 17",
        "labels": "arrivals",
        "label": "arr_delay > 15",
    },
)
