"""Stock `get_historical_features` on archived events, against the witness, and what the store refuses."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from feast import FeatureStore
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from own_services import own_clickhouse
from test_any_repo import DAY_MS, HOUR_MS, MINUTE_MS, REPO, START_MS, Record, orders

from compose.training_set import training_set
from features.compiler.definition import definition
from features.compiler.repo import load_repo
from features.compiler.sources import avro_schema, schema_id
from features.offline.history import HistoryError
from features.witness import newest
from jobs.archiving import prepare_tables
from schemas.batch import nulls_through, to_arrow
from schemas.codec import Codec
from schemas.tables import DATABASE, OFFSET, PARTITION, table_name
from schemas.topics import Topic

TTL_MS = 2 * HOUR_MS
MORE = """
windows = FeatureService(name="windows", features=[spending, abroad, latest_order])
friends = FeatureService(
    name="friends",
    features=[
        abroad,
        latest_order[["amount"]].with_name("friend").with_join_key_map({"customer_id": "friend_id"}),
    ],
)
from feast import FeatureView
batch = FeatureView(
    name="batch",
    entities=[customer],
    source=orders.batch_source,
    schema=[Field(name="customer_id", dtype=String), Field(name="limit", dtype=Float64)],
)
"""
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Client, list[Record]]]:
    """The shop's orders as the archiver keeps them."""
    records = orders(11, 600)
    source = load_repo(REPO).kafka_source("orders")
    topic = Topic(source.kafka_options.topic, schema_id(source), key="", definition=avro_schema(source))
    codec = Codec(topic.schema, topic.schema_id)
    values = [codec.encode(each | {"placed": moment(each["placed"])}) for each in records]
    batch, bad = to_arrow(topic.schema, topic.schema_id, values)
    assert bad == []
    table = pa.Table.from_arrays([nulls_through(each) for each in batch.columns], names=batch.schema.names)
    table = table.append_column(PARTITION, pa.array(np.zeros(len(records), np.int32)))
    table = table.append_column(OFFSET, pa.array(np.arange(len(records))))
    with own_clickhouse(tmp_path_factory.mktemp("archive")) as (url, client):
        prepare_tables(client, [topic])
        client.insert_arrow(table_name(topic.name), table, database=DATABASE)
        yield url, client, records


@pytest.fixture(scope="module")
def store(
    archive: tuple[str, Client, list[Record]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FeatureStore]:
    """The repo as its owner has it, applied by Feast, whose registry wants its functions to be importable."""
    copy = tmp_path_factory.mktemp("repo") / "shop"
    shutil.copytree(REPO, copy, ignore=shutil.ignore_patterns("data"))
    definitions = (copy / "definitions.py").read_text()
    assert "ttl=timedelta(days=40)" in definitions
    (copy / "definitions.py").write_text(definitions.replace("ttl=timedelta(days=40)", "ttl=timedelta(hours=2)") + MORE)
    with (copy / "feature_store.yaml").open("a") as file:
        kind = "features.offline.clickhouse.HeadwaterOfflineStore"
        file.write(f"offline_store:\n  type: {kind}\n  url: {archive[0]}\n")
    program = str(Path(sys.executable).with_name("feast"))
    done = subprocess.run([program, "-c", str(copy), "apply"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(copy)
        yield FeatureStore(str(copy))
    sys.modules.pop("definitions", None)


def moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def entities(records: list[Record], count: int) -> pd.DataFrame:
    """At any time, on events and beside them, within the archive; some of nobody, some of somebody unheard of."""
    random = np.random.default_rng(3)
    placed = np.array([each["placed"] for each in records])
    near = random.choice(placed, count) + random.choice([0, -1, 1, 10_000, 60_000, HOUR_MS, TTL_MS], count)
    anywhere = random.integers(START_MS - DAY_MS, placed[-1], count)
    times = np.where(random.random(count) < 0.7, near, anywhere).clip(max=placed[-1] - 3 * MINUTE_MS)
    return pd.DataFrame(
        {
            "label": np.arange(count),
            "customer_id": random.choice(np.array([*(f"c{n}" for n in range(5)), "nobody", None], object), count),
            "event_timestamp": pd.to_datetime(times * 1_000_000 + 999_999, utc=True),
            "store": random.integers(1, 4, count),
        },
        index=random.permutation(count),
    )


def expected(store: FeatureStore, records: list[Record], asked: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What each view's newest row says, by the witness."""
    frame = pd.DataFrame(
        {
            "event_time": [each["placed"] for each in records],
            "customer_id": [each["buyer"]["id"] for each in records],
            "store": [each["store_id"] for each in records],
            "amount": [each["amount"] for each in records],
            "channel": [each["channel"] for each in records],
            "buyer.country": [each["buyer"]["country"] for each in records],
            "line_count": [len(each["lines"]) for each in records],
            "price": [float(each["price"]) for each in records],
            "parcel.grams": [each["parcel"] and each["parcel"]["grams"] for each in records],
        }
    )
    foreign = frame[frame["buyer.country"].notna() & (frame["buyer.country"] != "NL")]
    at = asked["event_timestamp"].astype("int64").to_numpy() // 1_000_000
    found = {}
    for name, events in (("spending", frame), ("abroad", foreign), ("latest_order", frame)):
        meaning = definition(store.get_stream_feature_view(name))
        found[name] = newest(meaning, events, asked[[*meaning.keys]], at)
    old = found["spending"]["event_time"].to_numpy(dtype=float, na_value=np.nan) < at - TTL_MS
    assert 10 < old.sum() < len(asked) / 2
    found["spending"] = found["spending"][~old].reindex(asked.index)
    return found


def assert_same(got: pd.Series, want: pd.Series) -> None:
    mine, theirs = got.astype(object).to_list(), want.astype(object).to_list()
    assert len(mine) == len(theirs)
    for at, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        if pd.isna(other):
            assert pd.isna(one), (got.name, at, one)
        else:
            assert one == (pytest.approx(other, rel=1e-9) if isinstance(other, float) else other), (got.name, at)


def test_stock_feast_answers_as_the_witness_does(
    store: FeatureStore, archive: tuple[str, Client, list[Record]]
) -> None:
    records = archive[2]
    asked = entities(records, 500)
    want = expected(store, records, asked)
    job = store.get_historical_features(asked, store.get_feature_service("everything"), full_feature_names=True)
    found = job.to_df()
    assert found["label"].to_list() == asked["label"].to_list()  # in the order they came in
    for view, values in want.items():
        for name in values.columns.drop("event_time"):
            assert_same(found[f"{view}__{name}"], values[name])
    there = found["spending__sum_amount_3600s"].notna()
    assert 50 < there.sum() < 450
    with np.errstate(invalid="ignore"):
        mean = found["spending__sum_amount_3600s"] / found["spending__count_amount_3600s"]
    assert_same(found["derived__mean_amount_1h"], mean)
    assert mean.notna().sum() > 50
    assert job.metadata.max_event_timestamp.date() == asked["event_timestamp"].max().date()


def test_it_answers_as_training_set_does(store: FeatureStore, archive: tuple[str, Client, list[Record]]) -> None:
    asked = entities(archive[2], 200)
    repo = load_repo(Path(store.repo_path))
    table = pa.Table.from_pandas(asked, preserve_index=False)
    want = training_set(archive[1], repo, repo.service("windows"), table).to_pandas()
    found = store.get_historical_features(asked, store.get_feature_service("windows"), True).to_df()
    names = [name for name in want if not name.endswith("__event_time")]
    assert sorted(names) == sorted(found)
    pd.testing.assert_frame_equal(found[names], want[names])


def test_plain_names_and_one_view_for_two_entities(
    store: FeatureStore, archive: tuple[str, Client, list[Record]]
) -> None:
    asked = entities(archive[2], 100).rename(columns={"event_timestamp": "at"})
    asked["at"] = asked["at"].dt.tz_localize(None)  # naive times are UTC
    asked["friend_id"] = asked["customer_id"].iloc[::-1].to_numpy()
    found = store.get_historical_features(asked, store.get_feature_service("friends"), True).to_df()
    backwards = asked.assign(at=asked["at"].iloc[::-1].to_numpy(), customer_id=asked["friend_id"])
    own = store.get_historical_features(asked, ["latest_order:amount", "abroad:orders"]).to_df()
    assert list(own) == [*asked, "amount", "orders"]
    assert_same(found["abroad__orders"], own["orders"])
    other = store.get_historical_features(backwards.assign(at=asked["at"]), ["latest_order:amount"]).to_df()
    assert_same(found["friend__amount"], other["amount"])
    assert found["friend__amount"].notna().sum() > 20


def test_known_then_leaves_late_records_out(
    store: FeatureStore, archive: tuple[str, Client, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, client, records = archive
    last, table = records[-1], f"{DATABASE}.{table_name('shop.orders')}"
    late_ms = last["placed"] - DAY_MS
    newest_one = f"(SELECT * FROM {table} ORDER BY {OFFSET} DESC LIMIT 1)"
    client.command(
        f"INSERT INTO {table} SELECT * REPLACE (fromUnixTimestamp64Milli({late_ms}, 'UTC') AS placed, 7 AS store_id, "
        f"{len(records)} AS {OFFSET}, ('late', 'FR') AS buyer) FROM {newest_one}"
    )
    try:
        asked = pd.DataFrame({"store": [7], "event_timestamp": [pd.Timestamp(late_ms + MINUTE_MS, unit="ms")]})
        assert store.get_historical_features(asked, ["abroad:orders"]).to_df()["orders"].to_list() == [1]
        monkeypatch.setattr(store.config.offline_store, "known", "then")
        assert store.get_historical_features(asked, ["abroad:orders"]).to_df()["orders"].isna().all()
    finally:
        client.command(f"DELETE FROM {table} WHERE store_id = 7")
    assert store.config.offline_store.url == url


def test_what_it_cannot_do_is_said(store: FeatureStore, archive: tuple[str, Client, list[Record]]) -> None:
    asked = entities(archive[2], 5)
    amount = ["latest_order:amount"]
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (NotImplementedError, "expected a DataFrame, got SQL", {"entity_df": "SELECT 1", "features": amount}),
        (NotImplementedError, "got none and end_date, start_date", {"features": amount, "start_date": moment(0)}),
        (
            HistoryError,
            "expected its join keys in entity_df, got no customer_id",
            {"entity_df": asked[["event_timestamp"]], "features": amount},
        ),
        (HistoryError, "amount would be there twice", {"entity_df": asked.assign(amount=1.0), "features": amount}),
        (HistoryError, "without null", {"entity_df": asked.assign(event_timestamp=pd.NaT), "features": amount}),
        (HistoryError, "'batch': expected a StreamFeatureView", {"entity_df": asked, "features": ["batch:limit"]}),
        (
            HistoryError,
            "each column to be of one type",
            {"entity_df": asked.assign(x=[1, "a", 2, 3, 4]), "features": amount},
        ),
    ]
    for kind, words, arguments in cases:
        with pytest.raises(kind, match=words):
            store.get_historical_features(**arguments)
    keys = asked.assign(store="first")
    with pytest.raises(HistoryError, match="join key in 'store' to be int64, got string"):
        store.get_historical_features(keys, ["abroad:orders"]).to_df()
    job = store.get_historical_features(asked, amount)
    with pytest.raises(NotImplementedError, match="write to_arrow"):
        job.persist(SavedDatasetFileStorage("none.parquet"))
    with pytest.raises(NotImplementedError, match=r"orders_history: .*`headwater backfill`"):
        store.materialize(moment(0), moment(START_MS), ["latest_order"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.config.offline_store, "url", "http://me:secret@127.0.0.1:1")
        with pytest.raises(HistoryError, match=r"no ClickHouse answers at 127\.0\.0\.1:1") as said:
            store.get_historical_features(asked, amount).to_df()
        assert "secret" not in str(said.value)
