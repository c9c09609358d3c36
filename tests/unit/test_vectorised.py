"""Transformations in pandas before anything runs: what they get and give, what is refused, and whose fault is found."""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat
from feast.types import Array, Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from features.compiler.flink import compile_view
from features.compiler.samples import samples
from features.compiler.topics import UnsupportedViewError
from features.compiler.vectorised import frame_columns, record_function
from features.frames import HEARTBEAT, RECORD, SET_ASIDE, FrameColumn, RecordFunction, frame_of
from jobs.vectorised import Transformation

pytestmark = pytest.mark.filterwarnings("ignore")
HOUR = timedelta(hours=1)
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
SCHEMA = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "at", "type": MILLIS},
        {"name": "who", "type": ["null", "string"]},
        {"name": "amount", "type": ["null", "double"]},
        {"name": "n", "type": ["null", "long"]},
        {"name": "count", "type": "int"},
        {"name": "gift", "type": ["null", "boolean"]},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "tags", "type": ["null", {"type": "array", "items": "string"}]},
        {"name": "noted", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
        {
            "name": "shop",
            "type": ["null", {"type": "record", "name": "S", "fields": [{"name": "country", "type": "string"}]}],
        },
        {"name": "more", "type": {"type": "map", "values": "string"}},
        {"name": "opened", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "odd", "type": ["null", "string", "long"]},
    ],
}


def view(
    function: Callable[[pd.DataFrame], Any], column: str = "x", how: str = "count", dtype: Any = Int64, **options: Any
) -> StreamFeatureView:
    source = KafkaSource(
        name="source",
        timestamp_field="at",
        topic="events",
        kafka_bootstrap_servers="",
        message_format=AvroFormat(json.dumps(SCHEMA)),
        batch_source=FileSource(name="file", path="none.parquet", timestamp_field="at"),
        field_mapping=options.pop("field_mapping", {}),
    )
    made = Aggregation(column=column, function=how, time_window=HOUR, name="f")
    return StreamFeatureView(
        name="view",
        entities=[Entity(name="who", join_keys=["who"], value_type=ValueType.STRING)],
        source=source,
        timestamp_field="at",
        mode=options.pop("mode", "pandas"),
        udf=function,
        udf_string="function",
        aggregations=options.pop("aggregations", [made]),
        schema=options.pop("schema", [Field(name="who", dtype=String), Field(name="f", dtype=dtype)]),
        **options,
    )


def compiled(function: Callable[[pd.DataFrame], Any], *more: Any, **options: Any) -> RecordFunction:
    found = record_function(view(function, *more, **options))
    assert found is not None
    return found


def with_x(make: Callable[[pd.DataFrame], Any]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(x=make(frame))


# What a function gets.


def test_fields_are_columns_and_what_cannot_be_is_named() -> None:
    columns, refused = frame_columns(view(lambda frame: frame).stream_source)
    assert {each.name: (str(each.type), each.nullable) for each in columns} == {
        "at": ("timestamp[ms, tz=UTC]", False),
        "who": ("string", True),
        "amount": ("double", True),
        "n": ("int64", True),
        "count": ("int32", False),
        "gift": ("bool", True),
        "day": ("date32[day]", True),
        "price": ("decimal128(9, 2)", False),
        "tags": ("list<item: string not null>", True),
        "noted": ("timestamp[us]", False),
        "shop.country": ("string", True),
    }
    assert set(refused) == {"more", "opened", "odd"}


def test_a_column_has_the_type_of_its_schema_whatever_the_batch_holds() -> None:
    columns, _ = frame_columns(view(lambda frame: frame).stream_source)
    values: dict[str, Any] = {
        "at": 1_700_000_000_123,
        "who": "a",
        "amount": 1.5,
        "n": 2**53 + 1,
        "count": 3,
        "gift": True,
        "day": date(2024, 1, 1),
        "price": Decimal("1.20"),
        "tags": ["x"],
        "noted": 1_700_000_000_123_456,
        "shop.country": "NL",
    }
    kinds = None
    for null in (False, True):
        row = {each.name: None if null and each.nullable else values[each.name] for each in columns}
        frame = frame_of(columns, pa.table({each.name: pa.array([row[each.name]], each.type) for each in columns}))
        assert kinds is None or kinds.equals(frame.dtypes)
        kinds = frame.dtypes
        if not null:
            assert frame["n"][0] == 2**53 + 1
            assert frame["at"][0] == datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)
            assert frame["noted"][0] == datetime(2023, 11, 14, 22, 13, 20, 123_456)
        else:
            assert frame["n"].isna().all()
            assert frame["who"][0] is None
            assert len(frame["tags"][0]) == 0  # as the archive has it
    assert [str(kinds[name]) for name in ("n", "count", "gift", "amount")] == ["Int64", "int32", "boolean", "float64"]


def test_the_tag_says_what_it_gets() -> None:
    def function(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(x=frame["where"])

    found = compiled(function, tags={"columns": "who, where"}, field_mapping={"shop.country": "where"})
    assert [(each.name, each.path) for each in found.columns] == [("who", "who"), ("where", "shop.country")]
    with pytest.raises(UnsupportedViewError, match=r"'view', tag 'columns': expected columns out of at, .*got 'more'"):
        compiled(function, tags={"columns": "who, more"})


# What is used of what it gives.


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda f: f["amount"] * 2, "double"),
        (lambda f: f["amount"].astype("float32"), "float"),
        (lambda f: f["n"] + 1, "int64"),
        (lambda f: f["count"].astype("int16"), "int32"),
        (lambda f: f["amount"] > 1, "bool"),
        (lambda f: f["who"].str.upper(), "string"),
        (lambda f: f["who"].astype("category"), "string"),
        (lambda f: f["who"].astype("string"), "string"),
        (lambda f: f["at"].dt.floor("D"), "timestamp[ms, tz=UTC]"),
        (lambda f: f["day"], "date32[day]"),
        (lambda f: f["price"] * 2, "decimal128(38, 2)"),
        (lambda f: np.where(f["amount"] > 0, "up", None), "string"),
        (lambda f: 1, "int64"),
    ],
)
def test_the_type_of_a_column_is_told_from_what_the_function_makes(make: Any, kind: str) -> None:
    assert str(compiled(with_x(make)).outputs["x"]) == kind


def test_where_nothing_tells_its_type_the_declared_one_does_or_it_is_refused() -> None:
    def nothing(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(x=None)

    assert str(compiled(nothing, "x", "last", String).outputs["x"]) == "string"
    with pytest.raises(UnsupportedViewError, match=r"'view'.*values in column 'x' from which its type can be told"):
        compiled(nothing)
    # A field that is as it came.
    assert str(compiled(lambda frame: frame, "price", "sum", Float64).outputs["price"]) == "decimal128(9, 2)"


def test_keys_and_newest_values_have_the_declared_types() -> None:
    schema = [Field(name="who", dtype=String), Field(name="x", dtype=Int64), Field(name="tags", dtype=Array(String))]
    found = compiled(with_x(lambda f: f["count"].astype("int16")), aggregations=[], schema=schema)
    assert {name: str(kind) for name, kind in found.outputs.items()} == {
        "who": "string",
        "tags": "list<item: string>",
        "x": "int64",
    }


# What is refused.


def lost_index(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["count"] > 100].assign(x=1).reset_index(drop=True)


def twice(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame]).assign(x=1)


def clean_index(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(x=1).set_index("at")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda frame: frame["amount"], "to return a DataFrame, got a Series"),
        (lambda frame: frame, r"to return column 'x', got at, who, amount"),
        (lambda frame: frame["nowhere"], "to take a DataFrame with columns at, who.*KeyError: 'nowhere'"),
        (lost_index, "to keep the index"),
        (twice, "each at most once; got 96 rows with 48 labels"),
        (clean_index, "to keep the index.*an index of datetime64"),
        (with_x(lambda f: f["amount"].mean()), "each record by itself.*other values of 'x'"),
        (with_x(lambda f: f["amount"].shift()), "each record by itself"),
        (with_x(lambda f: f["count"].cumsum()), "each record by itself"),
        (with_x(lambda f: np.arange(len(f))), "each record by itself"),
        (with_x(lambda f: np.random.default_rng().random(len(f))), "each record by itself"),
        (with_x(lambda f: f["amount"].fillna(f["amount"].median())), "each record by itself"),
        (lambda f: f.assign(x=1).drop_duplicates("who"), "keeps or drops a record by what else is in its batch"),
        (lambda f: f.assign(x=1).head(5), "keeps or drops a record by what else is in its batch"),
        (with_x(lambda f: f["count"] + 0 * f["count"].iloc[3]), "an error for 1 of them"),
        (lambda f: f.assign(x=1, who=3), "'who' to be of string"),
    ],
)
def test_what_cannot_run_or_is_not_of_each_record_by_itself_is_refused(function: Any, said: str) -> None:
    with pytest.raises(UnsupportedViewError, match=said) as refused:
        compile_view(view(function))
    assert "'view'" in str(refused.value)


def test_what_cannot_be_added_up_is_refused() -> None:
    with pytest.raises(UnsupportedViewError, match="'f': expected a column of numbers for sum, got 'x', which is"):
        compiled(with_x(lambda f: f["who"]), "x", "sum")
    with pytest.raises(UnsupportedViewError, match="a plain column 'tags' to aggregate, got list"):
        compiled(lambda frame: frame, "tags", "last", String)


def test_functions_of_other_modes_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedViewError, match="mode 'python' of a dict for each record; write it over DataFrames"):
        compile_view(view(lambda row: row, mode="python"))


def test_what_cannot_be_sent_to_a_job_is_refused() -> None:
    held = (each for each in ())
    with pytest.raises(UnsupportedViewError, match=r"'view'.*that can be sent to a job, got TypeError.*generator"):
        compiled(lambda frame: frame.assign(x=len(list(held))))


def test_a_function_that_does_not_take_made_up_values_is_still_typed_and_tried() -> None:
    found = compiled(with_x(lambda f: f["who"].str[2:].astype("int64")))  # takes none of them
    assert str(found.outputs["x"]) == "int64"
    found = compiled(with_x(lambda f: f["who"].str[:4].astype("int64")))  # takes 17 and 2024-01-31
    assert str(found.outputs["x"]) == "int64"
    with pytest.raises(UnsupportedViewError, match="each record by itself"):
        compiled(with_x(lambda f: f["who"].str[:4].astype("int64").cumsum()))


# How it is run.


def function_of(function: Callable[[pd.DataFrame], Any]) -> RecordFunction:
    columns = (FrameColumn("v", "v", pa.int64(), nullable=False),)
    return RecordFunction("view", function, columns, {"x": pa.int64()})


def positive(frame: pd.DataFrame) -> pd.DataFrame:
    """Keeps what is above zero, backwards; fails on multiples of seven; spoils what it was given."""
    if (frame["v"] % 7 == 0).any():
        raise ValueError(f"seven among {len(frame)}")
    frame["x"] = frame.pop("v") * 2
    return frame[frame["x"] > 0].iloc[::-1]


@given(st.lists(st.integers(-50, 50), max_size=60))
@settings(max_examples=200, deadline=None)
def test_each_record_has_its_own_value_is_dropped_or_fails_alone(values: list[int]) -> None:
    frame = pd.DataFrame({"v": np.array(values, dtype=np.int64)})
    found = function_of(positive).apply(frame)
    assert list(frame) == ["v"]
    assert found.kept.tolist() == [each > 0 and each % 7 != 0 for each in values]
    assert found.columns["x"].to_pylist() == [2 * each for each in values if each > 0 and each % 7 != 0]
    assert found.errors == {at: "ValueError: seven among 1" for at, each in enumerate(values) if each % 7 == 0}


def test_few_bad_records_cost_few_calls() -> None:
    calls = []

    def function(frame: pd.DataFrame) -> pd.DataFrame:
        calls.append(len(frame))
        return positive(frame)

    values = np.ones(20_000, dtype=np.int64)
    values[[3, 12_345]] = 7
    found = function_of(function).apply(pd.DataFrame({"v": values}))
    assert list(found.errors) == [3, 12_345]
    assert found.kept.sum() == 19_998
    assert len(calls) < 70


def test_a_value_that_does_not_fit_its_column_fails_alone() -> None:
    def function(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(x=frame["v"] / 2)

    found = function_of(function).apply(pd.DataFrame({"v": [2, 3, 4]}))
    assert found.columns["x"].to_pylist() == [1, 2]
    assert re.match(r"TypeError: expected column 'x' to be of int64, got float64.*1\.5", found.errors[1])


def test_samples_hold_nulls_and_are_the_same_each_time() -> None:
    columns, _ = frame_columns(view(lambda frame: frame).stream_source)
    frame = samples(columns)
    assert frame.equals(samples(columns))
    assert [each.name for each in columns if each.nullable and each.name != "tags"] == [
        name for name in frame if frame[name].isna().any()
    ]


# In a worker.


def test_a_batch_in_a_worker_gives_a_row_for_each_that_came() -> None:
    columns = (
        FrameColumn("n", "n", pa.int64(), nullable=True),
        FrameColumn("when", "when", pa.timestamp("ms", "UTC"), nullable=True),
        FrameColumn("tags", "tags", pa.list_(pa.string()), nullable=True),
    )
    outputs = {"n": pa.int64(), "when": pa.timestamp("ms", "UTC"), "label": pa.string(), "half": pa.float64()}

    def function(frame: pd.DataFrame) -> pd.DataFrame:
        assert frame["when"].notna().all()
        made = frame.assign(label=frame["tags"].map(len).astype(str), half=frame["n"].astype("float64") / 2)
        return made[~(frame["n"].fillna(0) < 0)]

    worker = Transformation(RecordFunction("view", function, columns, outputs))
    arrival = pd.Series([RECORD, HEARTBEAT, SET_ASIDE, RECORD, RECORD, RECORD], dtype="int32")
    when = pd.Series([5, None, None, 6, None, 7], dtype="datetime64[ms, UTC]")
    made = worker.eval(
        arrival,
        pd.Series([b"a", None, b"x", b"b", b"c", b"d"]),
        pd.Series([0, 1, 2, 3, 4, 5], dtype="int32"),
        pd.Series([10, 11, 12, 13, 14, 15]),
        pd.Series([100, 101, 102, 103, 104, 105], dtype="datetime64[ms, UTC]"),
        pd.Series([2**53 + 1, 0, 0, -1, 4, 0]),
        pd.Series([False, True, True, False, False, True]),
        when,
        pd.Series([["x", "y"], None, None, [], [], None]),
    )
    assert made["kept"].tolist() == [True, True, False, False, False, True]
    assert made["error"].isna().tolist() == [True, True, True, True, False, True]
    origin = made[["record_bytes", "kafka_partition", "kafka_offset", "kafka_ms"]]
    assert origin.iloc[4].tolist() == [b"c", 4, 14, 104]
    assert origin.drop(index=4).isna().all(axis=None)
    kept = made.loc[[0, 5], ["c0", "c1", "c2", "c3"]]
    assert kept["c0"].tolist() == [2**53 + 1, None]
    assert kept["c1"].tolist() == [5, 7]
    assert kept["c2"].tolist() == ["2", "0"]
    assert np.isnan(kept["c3"][5])
    # As PyFlink makes Arrow of it.
    for name, kind in (("c0", pa.int64()), ("c1", pa.int64()), ("c2", pa.string()), ("kafka_offset", pa.int64())):
        pa.Array.from_pandas(made[name], mask=made[name].isna(), type=kind)
    assert made.loc[1, ["c0", "c1", "c2", "c3"]].isna().all()  # a heartbeat is of no entity


@pytest.mark.parametrize("kind", [pa.int32(), pa.bool_(), pa.float64(), pa.string(), pa.timestamp("ms", "UTC")])
def test_a_heartbeat_is_of_no_entity_whatever_the_others_are(kind: pa.DataType) -> None:
    columns = (FrameColumn("n", "n", pa.int32(), nullable=False),)

    def function(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"x": pa.array([1] * len(frame)).cast(kind).to_pandas()}).set_index(frame.index)

    worker = Transformation(RecordFunction("view", function, columns, {"x": kind}))
    arrival = pd.Series([HEARTBEAT, RECORD], dtype="int32")
    none, some = pd.Series([None, b"a"]), pd.Series([0, 0])
    made = worker.eval(arrival, none, some, some, pd.Series([1, 1], dtype="datetime64[ms, UTC]"), some)
    assert made["kept"].all()
    assert made["c0"].isna().tolist() == [True, False]
