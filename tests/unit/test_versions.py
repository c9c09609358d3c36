"""A table that changes: the witness and ClickHouse against the definition in plain loops."""

import json
import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from clickhouse_connect.driver.client import Client
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat, JsonFormat
from feast.types import Float64, String

from features.compiler.clickhouse import Known, compile_history
from features.compiler.clickhouse_changes import changes_of
from features.compiler.definition import Definition, Feature, definition, percentile
from features.compiler.sources import archived_topic
from features.versions import standing
from features.witness import newest, rows
from schemas.tables import create_table, table_name

pytestmark = pytest.mark.filterwarnings("ignore")
Change = dict[str, Any]
Row = dict[str, Any]
BASE_MS = 1_700_000_000_000 // 60_000 * 60_000
MINUTE_MS = 60_000
TIME = {"type": "long", "logicalType": "timestamp-millis"}
VALUE = {
    "type": "record",
    "name": "Value",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "who", "type": ["null", "string"]},
        {"name": "at", "type": ["null", TIME]},
        {"name": "x", "type": ["null", "double"]},
        {"name": "n", "type": "int"},
        {"name": "s", "type": ["null", "string"]},
    ],
}
ENVELOPE = {
    "type": "record",
    "name": "Envelope",
    "fields": [
        {"name": "after", "type": ["null", VALUE]},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": "long"},
    ],
}
VALUE_IN_JSON = "id bigint, who string, at timestamp, x double, n int, s string"
KINDS = {
    "debezium": AvroFormat(json.dumps(ENVELOPE)),
    "upsert": AvroFormat(json.dumps(VALUE)),
    "debezium.json": JsonFormat(f"after struct<{VALUE_IN_JSON}>, op string, ts_ms bigint"),
    "upsert.json": JsonFormat(VALUE_IN_JSON),
}


def view_of(kind: str, aggregations: list[Aggregation], hop_ms: int | None = None, **options: Any) -> StreamFeatureView:
    dtypes = {
        each.name: String if each.column == "s" and each.function != "count_distinct" else Float64
        for each in aggregations
    }
    return StreamFeatureView(
        name="v",
        entities=[Entity(name="e", join_keys=["who"], value_type=ValueType.STRING)],
        source=KafkaSource(
            name="table",
            timestamp_field="at",
            kafka_bootstrap_servers="",
            topic=f"rows.{kind}",
            message_format=KINDS[kind],
            watermark_delay_threshold=timedelta(minutes=1),
            batch_source=FileSource(name="h", path="h.parquet", timestamp_field="at"),
            tags={"changelog": kind.partition(".")[0]},
        ),
        timestamp_field="at",
        schema=[Field(name="who", dtype=String), *(Field(name=n, dtype=each) for n, each in dtypes.items())],
        aggregations=aggregations,
        enable_tiling=hop_ms is not None,
        tiling_hop_size=timedelta(milliseconds=hop_ms) if hop_ms else None,
        **options,
    )


def some_changes(rng: random.Random, count: int, large: float = 1e16) -> list[Change]:
    """In topic order, not quite that of time: keys that come back, rows of other times, twice the same."""
    found: list[Change] = []
    now = BASE_MS
    for offset in range(count):
        now += rng.choice([0, 0, 1, 20_000, MINUTE_MS, 7 * MINUTE_MS])
        changed = now - rng.choice([0, 0, 0, 1, 30_000])
        off = rng.choice([0, 0, -1, -MINUTE_MS, -5 * MINUTE_MS, -30 * MINUTE_MS, 2 * MINUTE_MS, 1])
        row = {
            "who": rng.choice(["a", "a", "b", None]),
            "at": None if rng.random() < 0.05 else (changed + off) // rng.choice([1, MINUTE_MS]) * 1,
            "x": rng.choice([0.1, 0.2, -0.3, large, -large, 2.5, None]),
            "n": rng.randrange(-2, 3),
            "s": rng.choice(["", "A", "ä", None]),
        }
        if row["at"] is not None and row["at"] < BASE_MS // 2:
            row["at"] *= MINUTE_MS
        if found and rng.random() < 0.1:  # sent again
            row = found[-1]["row"] or row
        key = rng.randrange(max(2, count // 4))
        if row.get("id") is not None:
            key = row["id"]
        there = rng.random() > 0.3
        found.append(
            {
                "key": key,
                "changed": changed,
                "row": row | {"id": key} if there else None,
                "partition": 0,
                "offset": offset,
            }
        )
    return found


def effects(changes: list[Change]) -> list[tuple[int, Row, int, int]]:
    """What is added (1) and taken back (-1), and when it takes effect."""
    found = []
    for key in {each["key"] for each in changes}:
        row: Row | None = None
        at = 0
        for each in (each for each in changes if each["key"] == key):
            at = max(at, each["changed"]) if row else each["changed"]
            if row:
                found.append((-1, row, max(at, row["at"]), row["offset"]))
            new = each["row"]
            row = new | {"offset": each["offset"]} if new and new["at"] is not None else None
            if row:
                found.append((1, row, max(at, row["at"]), row["offset"]))
    return found


def by_loops(meaning: Definition, changes: list[Change]) -> list[Row]:
    """The definition, read aloud: one tile after another."""
    found: list[Row] = []
    made = effects(changes)
    for who in sorted({row["who"] for _, row, _, _ in made if row["who"] is not None}):
        mine = [each for each in made if each[1]["who"] == who]
        first = min(at for _, _, at, _ in mine) // meaning.hop_ms * meaning.hop_ms
        slack = max(each.window_ms + each.slide_ms for each in meaning.features) + meaning.hop_ms
        before = None
        for t in range(first, max(at for _, _, at, _ in mine) + slack, meaning.hop_ms):
            due = any(t - meaning.hop_ms < at <= t for _, _, at, _ in mine)
            for each in meaning.features:
                held = before is not None and bool(standing_rows(mine, before, each.window_ms))
                due = due or (t % each.slide_ms == 0 and held)
            if due:
                values = {each.name: value(standing_rows(mine, t, each.window_ms), each) for each in meaning.features}
                found.append({"who": who, "event_time": t} | values)
                before = t
    return found


def standing_rows(mine: list[tuple[int, Row, int, int]], t: int, window_ms: int) -> list[Row]:
    there: dict[int, Row] = {}
    for sign, row, at, offset in sorted(mine, key=lambda each: -each[0]):
        if at <= t and t - window_ms < row["at"] <= t:
            if sign > 0:
                there[offset] = row
            else:
                del there[offset]
    return sorted(there.values(), key=lambda row: (row["at"], row["offset"]))


def value(found: list[Row], feature: Feature) -> Any:
    if not feature.column:
        return len(found)
    values = [each[feature.column] for each in found if each[feature.column] is not None]
    function = feature.function
    if function in ("count", "count_distinct"):
        return len(values if function == "count" else set(values))
    if function == "sum":
        return math.fsum(values)
    if function in ("var", "stddev"):
        if len(values) < 2:
            return None
        variance = pd.Series(values).var() if max(map(abs, values)) < 1e9 else None
        return variance if variance is None or function == "var" else math.sqrt(variance)
    if not values:
        return None
    quantile = percentile(function)
    if quantile is not None:
        return sorted(values)[math.floor(quantile * (len(values) - 1))]
    known = {"mean": lambda v: math.fsum(v) / len(v), "min": min, "max": max}
    return {**known, "first": lambda v: v[0], "last": lambda v: v[-1]}[function](values)


def some_view(rng: random.Random, kind: str = "upsert", most: int = 8) -> StreamFeatureView:
    whats = [("x", f) for f in ("count", "sum", "mean", "min", "max", "count_distinct", "p50", "first", "last")]
    whats += [("n", f) for f in ("sum", "mean", "var", "stddev", "p90")]
    whats += [("s", f) for f in ("min", "last", "count_distinct")] + [("*", "count")]
    unit = rng.choice([1, 2])
    made = [
        Aggregation(
            column=column,
            function=function,
            name=f"f{number}",
            time_window=timedelta(minutes=rng.randint(1, 9) * unit),
            slide_interval=timedelta(minutes=rng.randint(1, 7) * unit),
        )
        for number, (column, function) in enumerate(rng.sample(whats, rng.randint(1, most)))
    ]
    return view_of(kind, made)


def versions_of(changes: list[Change]) -> pd.DataFrame:
    there = [each["row"] is not None and each["row"]["at"] is not None for each in changes]
    frame = pd.DataFrame(changes)[["key", "changed"]].assign(there=there)
    stood = standing(frame)
    table = pd.DataFrame([changes[at]["row"] for at in stood.index], columns=["id", "who", "at", "x", "n", "s"])
    return table.assign(event_time=table["at"].astype("int64")).join(stood.reset_index(drop=True))


def assert_same(got: list[Row], want: list[Row]) -> None:
    assert [(row["who"], row["event_time"]) for row in got] == [(row["who"], row["event_time"]) for row in want]
    for mine, theirs in zip(got, want, strict=True):
        for name, value in theirs.items():
            none = mine[name] is None or pd.isna(mine[name])
            near = pytest.approx(value, rel=1e-9, abs=1e-6) if isinstance(value, float) else value
            assert none if value is None else mine[name] == near, (name, mine, theirs)


@pytest.mark.parametrize("seed", range(60))
def test_the_witness_does_as_loops_do(seed: int) -> None:
    rng = random.Random(seed)
    meaning = definition(some_view(rng))
    changes = some_changes(rng, rng.randint(1, 60))
    if versions_of(changes).empty:
        assert by_loops(meaning, changes) == []
        return
    assert_same(rows(meaning, versions_of(changes)).to_dict("records"), by_loops(meaning, changes))


def test_a_version_stands_until_the_next_of_its_key() -> None:
    changes = [("k", 5, True), ("l", 1, True), ("k", 3, True), ("k", 4, False), ("k", 2, True), ("m", 9, False)]
    found = standing(pd.DataFrame(changes, columns=["key", "changed", "there"]))
    never = 2**63 - 1
    # The second of k takes effect with the first and no earlier; it is deleted at once, and what comes then is new.
    assert found.to_dict("index") == {
        0: {"since": 5, "until": 5},
        1: {"since": 1, "until": never},
        2: {"since": 5, "until": 5},
        4: {"since": 2, "until": never},
    }


def test_requests_cannot_be_answered_of_changes() -> None:
    meaning = definition(some_view(random.Random(0)))
    with pytest.raises(ValueError, match="view 'v': expected records that are rows, got changes"):
        newest(meaning, pd.DataFrame(), pd.DataFrame(), [])


def archive(client: Client, view: StreamFeatureView, changes: list[Change]) -> str:
    topic = archived_topic(view.stream_source)
    table = f"headwater.{table_name(topic.name)}"
    client.command(f"DROP TABLE IF EXISTS {table}")
    client.command(create_table(topic))
    listed = []
    for each in changes:
        row = dict(each["row"] or {}) and {**each["row"], "at": moment(each["row"]["at"])}
        same = {"_key": f"{each['key']}".encode(), "_partition": each["partition"], "_offset": each["offset"]}
        if topic.changelog == "upsert":
            same |= row | {"_timestamp": moment(each["changed"]), "_deleted": each["row"] is None}
        else:
            after = tuple(row.get(name) for name in ("id", "who", "at", "x", "n", "s"))
            same |= {"after": after, "op": "u" if row else "d", "ts_ms": each["changed"]}
            same |= {"_timestamp": moment(0), "_deleted": False}
        listed.append(same)
    names = sorted({name for each in listed for name in each})
    client.insert(table, [[each.get(name) for name in names] for each in listed], column_names=names)
    return table


def moment(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=time_ms)


def history(
    client: Client,
    view: StreamFeatureView,
    table: str,
    start_ms: int | None = None,
    end_ms: int | None = None,
    known: Known = "now",
) -> list[Row]:
    compiled = compile_history(view, table, start_ms, end_ms, known)
    found = list(client.query(compiled.select, settings=dict(compiled.settings)).named_results())
    for row in found:
        row["event_time"] = round(row["event_time"].replace(tzinfo=UTC).timestamp() * 1000)
    return sorted(found, key=lambda row: (row["who"], row["event_time"]))


@pytest.mark.parametrize("seed", range(16))
def test_history_does_as_loops_do(client: Client, seed: int) -> None:
    rng = random.Random(seed)
    view = some_view(rng, rng.choice([*KINDS]), most=3)
    # Compensated sums, which these are there, are not exact.
    changes = some_changes(rng, rng.randint(1, 60), large=1e6)
    table = archive(client, view, changes)
    want = by_loops(definition(view), changes)
    assert_same(history(client, view, table), want)
    middle = changes[len(changes) // 2]["changed"]
    some = [row for row in want if middle <= row["event_time"] < middle + 20 * MINUTE_MS]
    assert_same(history(client, view, table, middle, middle + 20 * MINUTE_MS), some)


def of_few(table: str) -> str:
    return f"SELECT *, n * 2 AS twice FROM {table} WHERE n > 0"


def test_a_transformation_sees_rows_and_not_changes(client: Client) -> None:
    made = [
        Aggregation(column="twice", function="sum", name="f", time_window=timedelta(hours=1)),
        Aggregation(column="*", function="count", name="c", time_window=timedelta(hours=1)),
    ]
    view = view_of("debezium", made, MINUTE_MS, mode="flink", udf=of_few, udf_string="of_few")
    row = {"id": 1, "who": "a", "at": BASE_MS, "x": None, "s": None}
    ns = [3, -1, 5, None]  # in, out, in again, deleted
    changes = [
        {"key": 1, "changed": BASE_MS + at * MINUTE_MS, "row": None if n is None else row | {"n": n}}
        | {"partition": 0, "offset": at}
        for at, n in enumerate(ns)
    ]
    found = history(client, view, archive(client, view, changes))
    values = [((each["event_time"] - BASE_MS) // MINUTE_MS, each["f"], each["c"]) for each in found]
    assert values == [(0, 6, 1), (1, 0, 0), (2, 10, 1), (3, 0, 0)]


def test_late_changes_count_now_and_did_not_then(client: Client) -> None:
    made = [Aggregation(column="n", function="sum", name="f", time_window=timedelta(minutes=30))]
    view = view_of("upsert", made, hop_ms=MINUTE_MS)
    row = {"who": "a", "at": BASE_MS, "x": None, "s": None}
    spec = [(1, 0, 5), (2, 10, 7), (1, 3, 100), (1, 11, 6)]  # key, minute, n; the third is late
    changes = [
        {"key": k, "changed": BASE_MS + m * MINUTE_MS, "row": row | {"id": k, "n": n}, "partition": 0, "offset": at}
        for at, (k, m, n) in enumerate(spec)
    ]
    table = archive(client, view, changes)
    now, then = (
        [((each["event_time"] - BASE_MS) // MINUTE_MS, each["f"]) for each in history(client, view, table, known=known)]
        for known in ("now", "then")
    )
    assert now[:4] == [(0, 5), (3, 100), (10, 107), (11, 13)]
    assert then[:3] == [(0, 5), (10, 12), (11, 13)]


@pytest.mark.parametrize("kind", ["debezium", "debezium.json"])
def test_the_changes_of_an_archive_are_those_that_the_stream_takes(client: Client, kind: str) -> None:
    made = [Aggregation(column="n", function="sum", name="f", time_window=timedelta(minutes=30))]
    view = view_of(kind, made)
    table = archive(client, view, some_changes(random.Random(1), 5))
    client.command(f"INSERT INTO {table} (_key, op, ts_ms, _offset) VALUES ('x', 't', 1, 100), (NULL, 'c', 1, 101)")
    client.command(f"INSERT INTO {table} (_key, op, ts_ms, _offset) VALUES ('x', 'c', 1, 102), ('x', 'd', 1, 103)")
    found = client.query(changes_of(view, table)).result_rows
    assert [row[4] for row in found] == [0, 1, 2, 3, 4, 103]
