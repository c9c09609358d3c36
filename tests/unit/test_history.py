"""A view's history from ClickHouse against the same by plain loops, from the words of the definition."""

import json
import math
import random
import statistics
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from feast import Aggregation, Entity, FeatureStore, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat, JsonFormat
from feast.types import Float64, Int64, String

import compose.commands.backfill
import compose.commands.training_set
import features.compiler.clickhouse
from compose.cli import headwater
from compose.history import write_online
from compose.training_set import training_set
from features.compiler.clickhouse import Known, compile_history
from features.compiler.definition import Definition, Feature, definition, percentile
from features.compiler.repo import load_repo
from features.compiler.sources import archived_topic
from features.compiler.topics import UnsupportedViewError
from features.offline.history import HistoryError, check, computed
from schemas.json_batch import JsonBatchDecoder
from schemas.tables import create_table, table_name
from schemas.topics import Topic

SECOND = 1000
START_MS = 1_356_998_400_000  # a multiple of a day
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Deal",
    "fields": [
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "user", "type": ["null", "string"]},
        {"name": "shop", "type": "long"},
        {"name": "x", "type": ["null", "double"]},
        {"name": "n", "type": "long"},
        {"name": "s", "type": ["null", "string"]},
        {
            "name": "more",
            "type": {"type": "record", "name": "More", "fields": [{"name": "z", "type": ["null", "long"]}]},
        },
    ],
}
TOPIC = Topic("test.deals", 5, key="user", definition=SCHEMA)
TABLE = f"headwater.{table_name(TOPIC.name)}"
USER = Entity(name="person", join_keys=["user"], value_type=ValueType.STRING)
SHOP = Entity(name="place", join_keys=["shop"], value_type=ValueType.INT64)
DTYPES = {"user": String, "shop": Int64}
Record = dict[str, Any]
Row = dict[str, Any]


def view_of(
    aggregations: list[Aggregation],
    dtypes: dict[str, Any],
    entities: tuple[Entity, ...] = (USER,),
    udf: Callable[[str], str] | None = None,
    tile: timedelta | None = None,
    delay: timedelta = timedelta(0),
    mapping: dict[str, str] | None = None,
    mode: str = "flink",
    name: str = "deal",
) -> StreamFeatureView:
    source = KafkaSource(
        name="deals",
        timestamp_field="event_time",
        kafka_bootstrap_servers="",
        topic=TOPIC.name,
        message_format=AvroFormat(json.dumps(SCHEMA)),
        watermark_delay_threshold=delay,
        field_mapping=mapping,
        batch_source=FileSource(name="deals_history", path="none.parquet", timestamp_field="event_time"),
    )
    keys = {key for entity in entities for key in [entity.join_key]}
    fields = {key: DTYPES.get(key, String) for key in keys} | dtypes
    return StreamFeatureView(
        name=name,
        entities=list(entities),
        source=source,
        timestamp_field="event_time",
        mode=mode,
        udf=udf,
        udf_string="udf" if udf else "",
        schema=[Field(name=name, dtype=dtype) for name, dtype in fields.items()],
        aggregations=aggregations,
        enable_tiling=tile is not None,
        tiling_hop_size=tile,
    )


def over(column: str, function: str, window_s: float, slide_s: float, name: str) -> Aggregation:
    window, slide = timedelta(seconds=window_s), timedelta(seconds=slide_s)
    return Aggregation(column=column, function=function, time_window=window, slide_interval=slide, name=name)


def archive(client: Client, records: list[Record]) -> None:
    client.command(f"DROP TABLE IF EXISTS {TABLE}")
    client.command(create_table(TOPIC))
    names = [*(field["name"] for field in SCHEMA["fields"]), "_partition", "_offset"]
    rows = [[moment(each["event_time"]) if name == "event_time" else each[name] for name in names] for each in records]
    client.insert(TABLE, rows, column_names=names)


def moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=time_ms)


def record(at_ms: int, **fields: Any) -> Record:
    """A record at a time after the start, alone in its partition unless it says so."""
    record.offset += 1  # type: ignore[attr-defined]
    empty = {"user": "a", "shop": 1, "x": None, "n": 0, "s": None, "more": {"z": None}}
    place = {"_partition": 0, "_offset": record.offset}  # type: ignore[attr-defined]
    return {**empty, **place, "event_time": START_MS + at_ms, **fields}


record.offset = 0  # type: ignore[attr-defined]


def history(
    client: Client,
    view: StreamFeatureView,
    span: tuple[int | None, int | None] = (None, None),
    known: Known = "now",
    newest: bool = False,
    table: str = TABLE,
) -> list[Row]:
    compiled = compile_history(view, table, *span, known)
    text = compiled.versions if newest else compiled.select
    found = list(client.query(text, settings=dict(compiled.settings)).named_results())
    for row in found:
        row["event_time"] = round((row["event_time"].replace(tzinfo=UTC) - moment(0)) / timedelta(milliseconds=1))
    return sorted(found, key=lambda row: [str(row[name]) for name in (*definition(view).keys, "event_time")])


def computed_by_loops(records: list[Record], meaning: Definition) -> list[Row]:
    """The definition, read aloud: one tile after another."""
    found: list[Row] = []
    grouped: dict[tuple[Any, ...], list[Record]] = {}
    for each in records:
        key = tuple(each[name] for name in meaning.keys)
        if None not in key:
            grouped.setdefault(key, []).append(each)
    slack = max(each.window_ms + each.slide_ms for each in meaning.features) + meaning.hop_ms
    for key, mine in grouped.items():
        mine.sort(key=lambda each: (each["event_time"], each["_partition"], each["_offset"]))
        first, last = mine[0]["event_time"], mine[-1]["event_time"]
        before = None
        for t in range(first - first % meaning.hop_ms, last + slack, meaning.hop_ms):
            row = bool(within(mine, t, meaning.hop_ms)) or (
                before is not None
                and any(t % each.slide_ms == 0 and within(mine, before, each.window_ms) for each in meaning.features)
            )
            if row:
                values = {each.name: value(within(mine, t, each.window_ms), each) for each in meaning.features}
                found.append({**dict(zip(meaning.keys, key, strict=True)), "event_time": t, **values})
                before = t
    return sorted(found, key=lambda row: [str(row[name]) for name in (*meaning.keys, "event_time")])


def within(records: list[Record], t: int, span_ms: int) -> list[Record]:
    return [each for each in records if t - span_ms < each["event_time"] <= t]


def value(records: list[Record], feature: Feature) -> Any:
    function = feature.function
    if not feature.column:
        return len(records)
    values = [each[feature.column] for each in records]
    values = [each for each in values if each is not None and each == each]
    if function in ("count", "sum"):
        return len(values) if function == "count" else sum(values)
    if function in ("count_distinct", "approx_count_distinct"):
        return len(set(values))
    if function in ("stddev", "var"):
        if len(values) < 2 or math.inf in values:
            return None
        return statistics.stdev(values) if function == "stddev" else statistics.variance(values)
    if not values:
        return None
    quantile = percentile(function)
    if quantile is not None:
        return sorted(values)[math.floor(quantile * (len(values) - 1))]
    known = {"mean": statistics.fmean, "min": min, "max": max, "first": lambda v: v[0], "last": lambda v: v[-1]}
    return known[function](values)


def assert_same(got: list[Row], expected: list[Row]) -> None:
    assert [set(row) for row in got[:1]] == [set(row) for row in expected[:1]]
    for mine, theirs in zip(got, expected, strict=False):
        for name, value in theirs.items():
            near = pytest.approx(value, rel=1e-11, abs=1e-9) if isinstance(mine[name], float) else value
            assert mine[name] == near, (name, mine, theirs)
    assert len(got) == len(expected)


def some_records(rng: random.Random, count: int, unit_ms: int) -> list[Record]:
    """Bursts and silences, many of them on a boundary or one millisecond beside it, with ties."""
    offsets = [0, 0]
    found = []
    centre = 0
    rare = rng.choice([[0.5], [math.nan], [math.inf, 1e100, 1.0]])
    for _ in range(count):
        if rng.random() < 0.3:
            centre = rng.randrange(0, 90)
        at_ms = (centre + rng.randrange(0, 4)) * unit_ms + rng.choice([0, 0, 1, -1, 1, rng.randrange(unit_ms)])
        partition = rng.randrange(2)
        offsets[partition] += rng.randrange(1, 3)
        found.append(
            record(
                at_ms,
                user=rng.choice(["a", "b", "b", None]),
                shop=rng.choice([1, 1, 2]),
                x=rng.choice([None, rng.uniform(-5, 5), float(rng.randrange(3)), rng.choice(rare)]),
                n=rng.randrange(-2, 3),
                s=rng.choice([None, "", "é", "b", "a"]),
                more={"z": rng.choice([None, 1, 2])},
                _partition=partition,
                _offset=offsets[partition],
            )
        )
    return found


NUMBERS = ("sum", "mean", "min", "max", "stddev", "var", "p50", "p10", "p99.9", "p29")
ANYTHING = ("count", "count_distinct", "approx_count_distinct", "first", "last")


def some_view(rng: random.Random) -> StreamFeatureView:
    unit = rng.choice([1, 2])
    slides = rng.sample([1, 2, 3, 4, 5, 6, 7, 10], rng.choice([1, 1, 2, 3]))
    windows = rng.sample([1, 2, 3, 4, 5, 6, 8, 9, 12, 20], rng.choice([1, 2, 3]))
    aggregations, dtypes = [], {}
    for at in range(rng.randrange(1, 7)):
        column = rng.choice(["x", "n", "s", "*"])
        function = rng.choice(NUMBERS + ANYTHING if column in "xn" else ANYTHING) if column != "*" else "count"
        window, slide = rng.choice(windows) * unit, rng.choice(slides) * unit
        aggregations.append(over(column, function, window, slide, f"f{at}"))
        whole = "count" in function or (column == "n" and function in ("sum", "min", "max", "first", "last"))
        dtypes[f"f{at}"] = Int64 if whole else String if column == "s" else Float64
    entities = rng.choice([(USER,), (USER, SHOP), (SHOP,)])
    shortest = min(each.time_window for each in aggregations if each.time_window)
    tiles = [each for each in (0.5, 0.75, 1, 4) if timedelta(seconds=each) < shortest]
    tile = timedelta(seconds=rng.choice(tiles)) if rng.random() < 0.5 else None
    return view_of(aggregations, dtypes, entities, tile=tile)


@pytest.mark.parametrize("seed", range(40))
def test_windows_of_any_shape(client: Client, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.compiler.clickhouse, "LONG_TILES", seed % 2 * 4)
    rng = random.Random(seed)
    records = some_records(rng, rng.randrange(1, 60), SECOND)
    archive(client, records)
    for _ in range(3):
        view = some_view(rng)
        expected = computed_by_loops(records, definition(view))
        assert_same(history(client, view), expected)
        low, high = sorted(rng.sample(range(START_MS - 5000, START_MS + 120_000), 2))
        part = [row for row in expected if low <= row["event_time"] < high]
        assert_same(history(client, view, (low, high)), part)


def test_a_key_without_records_for_long_has_no_more_rows_than_its_windows_have_slides(client: Client) -> None:
    archive(client, [record(0), record(10_000 * SECOND)])
    view = view_of([over("*", "count", 60, 7, "f"), over("x", "sum", 5, 1, "g")], {"f": Int64, "g": Float64})
    found = history(client, view)
    assert_same(found, computed_by_loops([record(0), record(10_000 * SECOND)], definition(view)))
    assert len(found) < 2 * (1 + 60 // 7 + 1 + 5 + 1)


@pytest.mark.parametrize(("at_ms", "counted"), [(999, 0), (1000, 0), (1001, 1), (4000, 1), (4001, 0)])
def test_a_window_is_open_on_the_left_and_closed_on_the_right(client: Client, at_ms: int, counted: int) -> None:
    archive(client, [record(at_ms), record(4000, user="b"), record(3999)])
    rows = history(client, view_of([over("n", "count", 3, 3, "f")], {"f": Int64}, tile=timedelta(seconds=1)))
    (row,) = [row for row in rows if row["user"] == "a" and row["event_time"] == START_MS + 4000]
    assert row["f"] == 1 + counted


def test_late_records_count_now_and_did_not_then(client: Client) -> None:
    delay = 2 * SECOND
    place = {"_partition": 0}
    records = [
        record(5000, **place),
        record(3000, **place),  # as old as may be
        record(2999, **place, s="late"),
        record(6000, **place, user=None),  # moves the watermark, whatever its key
        record(3500, **place, s="late"),
        record(4000, **place),
        record(100, _partition=1),  # first of its partition
        record(0, _partition=1),
    ]
    archive(client, records)
    view = view_of(
        [over("*", "count", 3, 1, "f"), over("s", "last", 10, 5, "g")],
        {"f": Int64, "g": String},
        delay=timedelta(milliseconds=delay),
    )
    assert_same(history(client, view), computed_by_loops(records, definition(view)))
    in_time = [each for each in records if each["s"] != "late"]
    then = computed_by_loops(in_time, definition(view))
    assert_same(history(client, view, known="then"), then)
    span = (START_MS + 4000, START_MS + 7000)
    assert_same(
        history(client, view, span, known="then"), [row for row in then if span[0] <= row["event_time"] < span[1]]
    )


def test_a_view_without_aggregations_has_a_row_for_every_record_with_a_key(client: Client) -> None:
    records = [
        record(0, x=1.0, _partition=1, _offset=5),
        record(0, x=2.0, _partition=1, _offset=4),
        record(0, user=None, x=3.0),
        record(1, user="b", x=None),
        record(7, x=5.0),
    ]
    archive(client, records)

    def doubled(table: str) -> str:
        return f"SELECT *, 2 * x AS y FROM {table}"

    view = view_of([], {"y": Float64, "n": Int64}, udf=doubled)
    found = [(row["user"], row["event_time"] - START_MS, row["y"]) for row in history(client, view)]
    assert sorted(found, key=str) == [("a", 0, 2.0), ("a", 0, 4.0), ("a", 7, 10.0), ("b", 1, None)]
    found = [(row["user"], row["event_time"] - START_MS, row["y"]) for row in history(client, view, newest=True)]
    assert found == [("a", 0, 2.0), ("a", 7, 10.0), ("b", 1, None)]
    found = [(row["user"], row["event_time"] - START_MS) for row in history(client, view, (START_MS + 1, START_MS + 7))]
    assert found == [("b", 1)]


def test_transformations_mapped_columns_and_fields_of_records(client: Client) -> None:
    records = some_records(random.Random(1), 60, SECOND)
    archive(client, records)

    def dear(table: str) -> str:
        return (
            f"WITH t AS (SELECT * FROM {table}) SELECT *, price + 1 AS price2, CASE WHEN price > 1 THEN 'dear' END AS "
            "tag, CAST(price AS VARCHAR) AS label FROM t WHERE shop = 1"
        )

    view = view_of(
        [
            over("price2", "sum", 6, 3, "f"),
            over("tag", "count", 6, 3, "g"),
            over("more.z", "last", 6, 3, "h"),
            over("label", "count_distinct", 4, 2, "i"),
        ],
        {"f": Float64, "g": Int64, "h": Int64, "i": Int64},
        udf=dear,
        mapping={"x": "price"},
    )
    changed = [
        {
            **each,
            "price2": None if each["x"] is None else each["x"] + 1,
            "tag": "dear" if each["x"] is not None and each["x"] > 1 else None,
            "more.z": each["more"]["z"],
            "label": None if each["x"] is None else str(each["x"]),
        }
        for each in records
        if each["shop"] == 1
    ]
    assert_same(history(client, view), computed_by_loops(changed, definition(view)))


def test_sql_that_only_flink_takes_is_refused_with_the_views_name(client: Client) -> None:
    archive(client, [record(0)])
    view = view_of(
        [over("t", "count", 1, 1, "f")], {"f": Int64}, udf=lambda t: f"SELECT *, CAST(x AS STRING) t FROM {t}"
    )
    with pytest.raises(HistoryError, match=r"'deal': its transformation does not run .* STRING"):
        check(client, compile_history(view, TABLE))
    view = view_of([over("nowhere", "count", 1, 1, "f")], {"f": Int64})
    with pytest.raises(HistoryError, match=r"'deal': what it reads does not run .*nowhere"):
        check(client, compile_history(view, TABLE))
    view = view_of([over("x", "count", 1, 1, "f")], {"f": Int64}, udf=lambda table: table, mode="python")
    with pytest.raises(UnsupportedViewError, match=r"'deal': expected a transformation in SQL .* mode 'python'"):
        compile_history(view, TABLE)


class Narrow:
    """A client of a server that has not enough memory for more than a fourth of the keys."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def command(self, text: str, **options: Any) -> Any:
        if text.startswith("INSERT") and "% 4 = " not in text:
            error = DatabaseError("Code: 241. DB::Exception: Query memory limit exceeded")
            error.code = 241
            raise error
        return self._client.command(text, **options)


def test_what_takes_too_much_memory_is_computed_a_share_of_the_keys_at_a_time(client: Client) -> None:
    records = some_records(random.Random(2), 80, SECOND)
    archive(client, records)
    view = view_of([over("x", "sum", 6, 3, "f")], {"f": Float64}, (USER, SHOP))
    with computed(client, view, None, None) as whole, computed(Narrow(client), view, None, None) as parts:  # type: ignore[arg-type]
        assert (whole.shares, parts.shares, whole.rows) == (1, 4, parts.rows)
        text = "SELECT * FROM {} ORDER BY ALL"
        assert client.query(text.format(whole.table)).result_rows == client.query(text.format(parts.table)).result_rows
        newest = max(each["event_time"] for each in records)
        expected = [row for row in expected_rows(records, view) if row["event_time"] < newest]
        assert whole.rows == len(expected)  # no row is made of what the archive does not know yet
    assert not client.query("SELECT name FROM system.tables WHERE name LIKE 'history_draft%'").result_rows


def expected_rows(records: list[Record], view: StreamFeatureView) -> list[Row]:
    return computed_by_loops(records, definition(view))


REPO = """
import sys
sys.path.insert(0, {tests!r})
from test_history import SHOP, USER, Float64, Int64, over, view_of
person, place = USER, SHOP
deal = view_of([over("x", "sum", 6, 3, "f"), over("n", "count", 6, 3, "g")], {{"f": Float64, "g": Int64}}, (USER, SHOP))
source = deal.stream_source
"""
STORE = """
project: deals
provider: local
registry: registry.db
online_store:
  type: features.online.embedded.EmbeddedOnlineStore
  path: online.db
entity_key_serialization_version: 3
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "feature_store.yaml").write_text(STORE)
    (tmp_path / "views.py").write_text(REPO.format(tests=str(Path(__file__).parent)))
    return tmp_path


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(headwater, [str(each) for each in arguments], prog_name="headwater")
    return done.exit_code, done.stdout, done.stderr


def test_backfill_fills_a_file_a_table_and_the_online_store(
    client: Client, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 86_400 * SECOND
    records = [
        *(record(day + 1000 * at, user=user, x=float(at)) for at in range(30) for user in ("a", "b")),
        record(3 * day),
    ]
    archive(client, records)
    endpoints = SimpleNamespace(clickhouse=client.url)
    platform = SimpleNamespace(root=repo), SimpleNamespace(endpoints=endpoints)
    for command in (compose.commands.backfill, compose.commands.training_set):
        monkeypatch.setattr(command, "running_platform", lambda: platform)
    file = repo / "rows.parquet"
    where = ["--repo", repo, "--view", "deal", "--from", "2013-01-02", "--to", "2013-01-03"]
    for _ in range(2):
        code, said, error = run("backfill", *where, "--parquet", file, "--table", "deal_history", "--online", "--json")
        assert code == 0, error
    facts = json.loads(said)
    rows = pq.read_table(file).to_pylist()
    assert facts["rows"] == len(rows) == int(client.command("SELECT count() FROM headwater.deal_history"))
    assert facts["entities"] == 2
    newest = max((row for row in rows if row["user"] == "a"), key=lambda row: row["event_time"])
    assert (newest["f"], newest["g"]) == (0.0, 0)  # quiet: the row that says so

    with (repo / "views.py").open("a") as views:
        views.write("from feast import FeatureService\nonly = FeatureService(name='only', features=[deal])\n")
    entities = pa.table({"user": ["a"], "shop": [1], "event_time": [moment(START_MS + day + 9_999)]})
    pq.write_table(entities, repo / "entities.parquet")
    where_to = ["--entities", repo / "entities.parquet", "-o", repo / "set.parquet"]
    code, said, error = run("training-set", "--repo", repo, "--features", "only", *where_to)
    assert code == 0, error
    (row,) = pq.read_table(repo / "set.parquet").to_pylist()
    assert (row["deal__f"], row["deal__event_time"]) == (4.0 + 5 + 6 + 7 + 8 + 9, moment(START_MS + day + 9_000))
    code, said, error = run("training-set", "--repo", repo, "--features", "none", *where_to)
    assert (code, "there are only" in error) == (1, True)

    store = FeatureStore(str(repo))
    store.apply([USER, SHOP, load_repo(repo).view("deal")])

    def online() -> Any:
        names = ["deal:f", "deal:g"]
        return store.get_online_features(names, [{"user": "a", "shop": 1}]).to_dict(include_event_timestamps=True)

    there = online()
    assert (there["f"], there["g"]) == ([0.0], [0])
    assert there["f__ts"] == [newest["event_time"].timestamp()]
    with computed(client, store.get_stream_feature_view("deal"), START_MS + day, START_MS + day + 20 * SECOND) as older:
        assert write_online(client, older, repo) == 2
        assert online() == there
    days = ["--from", "2013-02-02", "--to", "2013-02-03"]
    code, said, error = run("backfill", *where[:4], *days, "--parquet", file, "--table", "deal_history", "--online")
    assert (code, said) == (0, "deal: 0 rows.\nOnline: the newest rows of 0 entities.\n"), error
    assert pq.read_table(file).column_names == ["shop", "user", "event_time", "f", "g"]
    assert len(rows) == int(client.command("SELECT count() FROM headwater.deal_history"))

    code, said, error = run("backfill", *where, "--table", "flights_requests; --")
    assert (code, "expected a table's name" in error) == (1, True)
    code, said, error = run("backfill", *where, "--table", "test_deals")
    assert (code, "to have its columns" in error) == (1, True)
    assert int(client.command(f"SELECT count() FROM {TABLE}")) == len(records)


def test_compile_prints_both_or_nothing(repo: Path) -> None:
    code, said, _ = run("features", "compile", "--repo", repo)
    assert code == 0
    assert said.index("-- deal, in Flink") < said.index("-- deal, in ClickHouse")
    (plain,) = json.loads(run("features", "compile", "--repo", repo, "--json")[1])
    assert plain["view"] == "deal"
    assert plain["clickhouse"] in said
    assert plain["flink"]["select"] in said
    with (repo / "views.py").open("a") as file:
        file.write("\nbad = view_of([over('x', 'mode', 1, 1, 'f')], {'f': Float64}, name='zz')\n")
    for arguments in (("--repo", repo), ("--view", "nope", "--repo", repo), ("--repo", repo / "nowhere")):
        code, said, error = run("features", "compile", *arguments)
        assert (code, said) == (1, "")
        assert "Error: " in error


SERVICE = """
from datetime import timedelta
from feast import FeatureService
deal.ttl = timedelta(seconds=9)
newest = view_of([], {{"x": Float64}}, name="newest")
both = FeatureService(name="both", features=[
    deal, newest.with_name("seller").with_join_key_map({{"user": "seller"}}),
])
"""


def test_times_finer_than_milliseconds_count_as_the_millisecond_they_are_in(client: Client) -> None:
    source = KafkaSource(
        name="fine",
        timestamp_field="at",
        kafka_bootstrap_servers="",
        topic="test.fine",
        message_format=JsonFormat("user string, at timestamp"),
        batch_source=FileSource(name="fine_history", path="none.parquet", timestamp_field="at"),
    )
    view = StreamFeatureView(
        name="fine",
        entities=[USER],
        source=source,
        timestamp_field="at",
        schema=[Field(name="user", dtype=String), Field(name="f", dtype=Int64)],
        aggregations=[over("*", "count", 0.003, 0.001, "f")],
    )
    # Behind one of the same millisecond, then behind one of the next; at the end of a window and just behind it.
    times_us = [5_000_900, 5_000_100, 4_999_999, 5_003_000, 5_003_001, 5_004_000]
    values = [json.dumps({"user": "a", "at": START_MS * 1000 + each}).encode() for each in times_us]
    topic = archived_topic(source)
    batch, bad = JsonBatchDecoder(topic.schema, topic.schema_id).decode(values)
    assert not bad
    table = pa.Table.from_batches([batch]).append_column("_partition", pa.array([0] * len(values), pa.int32()))
    client.command(create_table(topic))
    client.insert_arrow("test_fine", table.append_column("_offset", pa.array(range(len(values)))), database="headwater")
    records = [{"user": "a", "event_time": START_MS + each // 1000, "_partition": 0, "_offset": 0} for each in times_us]
    table_of = "headwater.test_fine"
    assert_same(history(client, view, table=table_of), computed_by_loops(records, definition(view)))
    del records[2]
    assert_same(history(client, view, known="then", table=table_of), computed_by_loops(records, definition(view)))


def test_a_training_set_has_what_was_known_at_each_time_and_nothing_later(client: Client, repo: Path) -> None:
    with (repo / "views.py").open("a") as file:
        file.write(SERVICE.format())
    rng = random.Random(3)
    records = [*some_records(rng, 80, SECOND), record(300 * SECOND, user="b")]
    archive(client, records)
    definitions = load_repo(repo)
    asked = [
        {
            "event_timestamp": moment(START_MS + rng.choice([1, 1000]) * rng.randrange(-2, 110)),
            "user": rng.choice(["a", "b", "nobody", None]),
            "seller": rng.choice(["a", "b"]),
            "shop": rng.choice([1, 2]),
            "kept": at,
        }
        for at in range(200)
    ]
    found = training_set(client, definitions, definitions.service("both"), pa.Table.from_pylist(asked))
    rows = computed_by_loops(records, definition(definitions.view("deal")))
    records.sort(key=lambda each: (each["event_time"], each["_partition"], each["_offset"]))
    answered = 0
    for row, each in zip(found.to_pylist(), asked, strict=True):
        assert {name: row[name] for name in each} == each
        at_ms = round((each["event_timestamp"] - moment(0)) / timedelta(milliseconds=1))
        mine = [r for r in rows if (r["user"], r["shop"]) == (each["user"], each["shop"]) and r["event_time"] <= at_ms]
        last = mine[-1] if mine and mine[-1]["event_time"] >= at_ms - 9000 else {"f": None, "g": None}
        assert (row["deal__f"], row["deal__g"]) == (pytest.approx(last["f"]), last["g"])
        assert row["deal__event_time"] == (moment(last["event_time"]) if "event_time" in last else None)
        theirs = [r for r in records if r["user"] == each["seller"] and r["event_time"] <= at_ms]
        assert row["seller__x"] == (theirs[-1]["x"] if theirs else None)
        answered += "event_time" in last
    assert 20 < answered < 180


def test_entities_that_lack_something_are_told_so(client: Client, repo: Path) -> None:
    with (repo / "views.py").open("a") as file:
        file.write(SERVICE.format())
    archive(client, [record(0)])
    definitions = load_repo(repo)
    service = definitions.service("both")
    with pytest.raises(HistoryError, match="expected a column event_timestamp or event_time, got user"):
        training_set(client, definitions, service, pa.table({"user": ["a"]}))
    with pytest.raises(HistoryError, match=r"'deal': expected its join keys .* \['shop'\]"):
        training_set(client, definitions, service, pa.table({"user": ["a"], "event_time": [moment(0)]}))
    client.command(f"DROP TABLE {TABLE}")
    entities = pa.table({"user": ["a"], "shop": [1], "seller": ["a"], "event_time": [moment(0)]})
    with pytest.raises(HistoryError, match=r"topic 'test.deals' is not archived here"):
        training_set(client, definitions, service, entities)
