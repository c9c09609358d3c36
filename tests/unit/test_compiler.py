"""Views as Flink SQL: what is said of them, and what is refused, before anything runs."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat, JsonFormat, ProtoFormat
from feast.transformation.base import Transformation
from feast.transformation.mode import TransformationMode
from feast.types import Float64, Int64, String

from compose.plan import Recorded, facts_of, plan
from features.compiler.definition import Feature, definition
from features.compiler.flink import compile_view
from features.compiler.sources import archived_topic, avro_schema, stream_source
from features.compiler.topics import UnsupportedViewError
from schemas.topics import topics_from_json, topics_to_json

pytestmark = pytest.mark.filterwarnings("ignore")
HOUR = timedelta(hours=1)
SCHEMA = """{"type": "record", "name": "R", "fields": [
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "who", "type": "string"}, {"name": "amount", "type": "double"}]}"""


def view(*aggregations: Aggregation, schema: list[Field] | None = None, **options: Any) -> StreamFeatureView:
    named = [Field(name=each.resolved_name(each.time_window), dtype=Float64) for each in aggregations]
    source = KafkaSource(
        name="source",
        timestamp_field="at",
        topic="events",
        kafka_bootstrap_servers="",
        message_format=options.pop("message_format", AvroFormat(SCHEMA)),
        batch_source=FileSource(name="file", path="none.parquet", timestamp_field="at"),
        field_mapping=options.pop("field_mapping", {}),
    )
    return StreamFeatureView(
        name="view",
        entities=[Entity(name="who", join_keys=["who"], value_type=ValueType.STRING)],
        source=source,
        timestamp_field="at",
        aggregations=list(aggregations),
        schema=[Field(name="who", dtype=String), *(named if schema is None else schema)],
        **options,
    )


def over(function: str, window: timedelta = HOUR, **more: Any) -> Aggregation:
    return Aggregation(column="amount", function=function, time_window=window, **more)


def test_a_view_says_its_windows_in_one_call() -> None:
    made = compile_view(view(over("sum"), over("avg", 2 * HOUR, slide_interval=HOUR, name="usual")))
    ((name, events),) = made.views
    assert (name, events) == ("view_input", "SELECT `who`, `amount`, rowtime\nFROM source_events")
    assert "PARTITION BY (`who`)" in made.select
    assert (
        "'3600000;\n    sum_amount_3600s sum amount 3600000 3600000;\n    usual mean amount 7200000 3600000'"
        in made.select
    )
    assert "uid => 'view'" in made.select


def test_names_are_those_that_feast_has() -> None:
    short = view(over("max"), schema=[Field(name="max_amount", dtype=Float64)])
    assert [each.name for each in definition(short).features] == ["max_amount"]
    tiled = view(over("std", 10 * HOUR), enable_tiling=True, tiling_hop_size=timedelta(minutes=7))
    assert definition(tiled).hop_ms == 60_000  # what fits into seven minutes and ten hours
    assert definition(tiled).features == (Feature("std_amount_36000s", "stddev", "amount", 36_000_000, 36_000_000),)
    assert definition(view(over("count"), enable_tiling=True)).hop_ms == 300_000  # Feast's default


def doubled(table: str) -> str:
    return f"SELECT *, amount * 2 AS twice FROM {table}"


@pytest.mark.parametrize("mode", [TransformationMode.SQL, TransformationMode.FLINK])
def test_transformations_in_sql(mode: TransformationMode) -> None:
    made = compile_view(
        view(
            Aggregation(column="twice", function="sum", time_window=HOUR, name="f"),
            schema=[Field(name="f", dtype=Float64)],
            feature_transformation=Transformation(mode=mode, udf=doubled, udf_string="doubled"),
            field_mapping={"amount": "paid"},
        )
    )
    inner = "SELECT *, amount * 2 AS twice FROM (SELECT *, `amount` AS `paid` FROM source_events)"
    assert made.views[0][1] == f"SELECT `who`, `twice`, rowtime\nFROM ({inner})"


def of_frames(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def of_tables(table: Any) -> Any:
    return table.filter(table.amount > 0)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: view(over("median_absolute_deviation")), "expected a function out of sum, count"),
        (lambda: view(over("sum", timedelta(0))), r"sum\(amount\).*above zero"),
        (lambda: view(over("sum", timedelta(microseconds=1500))), "whole milliseconds"),
        (lambda: view(Aggregation(column="", function="sum", time_window=HOUR, name="f")), "expected a column"),
        (lambda: view(over("sum", name="f"), over("max", name="f")), "two aggregations are called 'f'"),
        (lambda: view(over("sum", name="f"), schema=[Field(name="g", dtype=Int64)]), "f, g on one side only"),
        (lambda: view(over("sum"), udf=of_tables, udf_string="", mode="flink"), "a function that fails with a table"),
        (lambda: view(over("sum"), udf=lambda _: 1, udf_string="", mode="flink"), "a function that returns a int"),
        (lambda: view(over("sum"), udf=of_frames, udf_string="", mode="python"), "got mode 'python'"),
        (
            lambda: view(over("sum"), message_format=ProtoFormat("path")),
            "expected an AvroFormat or a JsonFormat, got ProtoFormat",
        ),
        (
            lambda: view(over("sum"), message_format=JsonFormat("at bigint, who string, amount double")),
            "expected timestamp_field 'at' to be a time of the records .in Spark's DDL a timestamp.*got long",
        ),
        (
            lambda: view(over("sum"), message_format=JsonFormat("at timestamp, who string, amount text")),
            "source 'source': field amount: expected one of boolean, .*got 'text'",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(made: Callable[[], StreamFeatureView], said: str) -> None:
    with pytest.raises(UnsupportedViewError, match=said) as refused:
        compile_view(made())
    assert "'view'" in str(refused.value) or "'source'" in str(refused.value)


def test_json_is_avro_that_may_be_null_but_for_event_time() -> None:
    source = stream_source(view(over("sum"), message_format=JsonFormat("at timestamp, who string, amount double")))
    topic = archived_topic(source)
    assert (topic.encoding, topic.time) == ("json", "at")
    assert [field["type"] for field in topic.schema["fields"]] == [
        {"type": "long", "logicalType": "timestamp-micros"},
        ["null", "string"],
        ["null", "double"],
    ]
    (again,) = topics_from_json(topics_to_json([topic]))
    assert (again.schema, again.encoding) == (topic.schema, "json")


def test_the_same_fields_written_otherwise_are_a_change_to_a_plan() -> None:
    as_json = view(over("sum"), message_format=JsonFormat("at timestamp, who string, amount double"))
    as_avro = view(over("sum"), message_format=AvroFormat(json.dumps(avro_schema(stream_source(as_json)))))
    old, new = facts_of([as_avro]), facts_of([as_json])
    found = plan("features-p", Recorded("2026-01-01T00:00:00+00:00", "id", old, {}, {}), new)
    (changed,) = found.changed
    assert [line.partition(":")[0] for line in changed.changes] == ["~ schema of events"]
    assert changed.restarts
