"""The embedded store as Feast sees it: apply, write, push, read, of every type, and stock sqlite beside it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

from features.compiler.topics import entity_codec, feature_codec, feature_topic
from features.online.embedded import EmbeddedOnlineStore, view_codec, write_rows
from features.online.rows import StoreError

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
TYPES = {
    "f64": Float64,
    "f32": Float32,
    "i64": Int64,
    "i32": Int32,
    "s": String,
    "o": Bool,
    "b": Bytes,
    "t": UnixTimestamp,
    "f64s": Array(Float64),
    "f32s": Array(Float32),
    "i64s": Array(Int64),
    "i32s": Array(Int32),
    "ss": Array(String),
    "os": Array(Bool),
    "bs": Array(Bytes),
    "ts": Array(UnixTimestamp),
}
CARRIER = Entity(name="operator", join_keys=["carrier"], value_type=ValueType.STRING)
FLIGHT = Entity(name="service", join_keys=["flight"], value_type=ValueType.INT64)
KEYS = [Field(name="flight", dtype=Int64), Field(name="carrier", dtype=String)]
RECORD: dict[str, Any] = {
    "f64": 0.1,
    "f32": 1.5,
    "i64": 2**62,
    "i32": -(2**31),
    "s": "é",
    "o": True,
    "b": b"\x00\xff",
    "t": NOON,
    "f64s": [0.1, -1.0],
    "f32s": [1.5],
    "i64s": [2**62],
    "i32s": [7],
    "ss": ["a", ""],
    "os": [True, False],
    "bs": [b"\x00"],
    "ts": [NOON],
}


def make_view(name: str, types: dict[str, Any], folder: Path) -> FeatureView:
    batch = FileSource(name=f"{name}_batch", path=str(folder / "none.parquet"), timestamp_field="event_time")
    source = PushSource(name=f"{name}_push", batch_source=batch)
    fields = [*KEYS, *(Field(name=key, dtype=kind) for key, kind in types.items())]
    return FeatureView(name=name, entities=[FLIGHT, CARRIER], schema=fields, source=source, ttl=timedelta(0))


def make_store(folder: Path, online_store: dict[str, Any], *views: FeatureView) -> FeatureStore:
    folder.mkdir(exist_ok=True)
    config = RepoConfig(
        project="test",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store=online_store,
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    store.apply([CARRIER, FLIGHT, *views])
    return store


def embedded(path: str = "online.db") -> dict[str, Any]:
    return {"type": "features.online.embedded.EmbeddedOnlineStore", "path": path}


@pytest.fixture
def view(tmp_path: Path) -> FeatureView:
    return make_view("all_types", TYPES, tmp_path)


@pytest.fixture
def store(tmp_path: Path, view: FeatureView) -> Iterator[FeatureStore]:
    store = make_store(tmp_path, embedded(), view)
    yield store
    store.teardown()


def kafka_row(view: FeatureView, flight: int, at: datetime, **values: Any) -> tuple[bytes, int, bytes]:
    """What the job writes to ``features.<view>``."""
    key = {"carrier": "AA", "flight": flight}
    record = key | {"event_time": at, "watermark": at} | dict.fromkeys(TYPES) | values
    fields = {field["name"] for field in feature_topic(view).schema["fields"]}
    value = feature_codec(view).encode({name: record[name] for name in fields})
    return entity_codec(view).encode(key), int(at.timestamp() * 1000), value


def online(store: FeatureStore, *features: str, flight: int = 1, view: str = "all_types") -> dict[str, Any]:
    names = [f"{view}:{each}" for each in features]
    answer = store.get_online_features(names, [{"carrier": "AA", "flight": flight}]).to_dict()
    return {name: answer[name][0] for name in features}


def rows_of(store: FeatureStore) -> Any:
    found = store._get_provider().online_store
    assert isinstance(found, EmbeddedOnlineStore)
    return found.rows(store.config)


def test_kafka_records_are_read_by_stock_feast_as_every_type(store: FeatureStore, view: FeatureView) -> None:
    write_rows(rows_of(store), view.name, [kafka_row(view, 1, NOON, **RECORD), kafka_row(view, 2, NOON)])
    assert online(store, *TYPES) == RECORD
    assert online(store, *TYPES, flight=2) == dict.fromkeys(TYPES)
    assert online(store, *TYPES, flight=3) == dict.fromkeys(TYPES)


def test_each_value_has_its_features_own_type(store: FeatureStore, view: FeatureView) -> None:
    write_rows(rows_of(store), view.name, [kafka_row(view, 1, NOON + timedelta(milliseconds=250), **RECORD)])
    key = EntityKey(join_keys=["flight", "carrier"], entity_values=[Value(int64_val=1), Value(string_val="AA")])
    provider = store._get_provider().online_store
    registered = store.get_feature_view("all_types")  # the registry's own copy, its fields in another order
    [(at, values)] = provider.online_read(store.config, registered, [key])
    assert at == NOON + timedelta(milliseconds=250)
    expected = {name: f"{kind.to_value_type().name.lower()}_val" for name, kind in TYPES.items()}
    assert {name: value.WhichOneof("val") for name, value in values.items()} == expected
    [(_, few)] = provider.online_read(store.config, registered, [key], ["f64", "s"])
    assert set(few) == {"f64", "s"}
    assert asyncio.run(provider.online_read_async(store.config, registered, [key])) == [(at, values)]
    nobody = EntityKey(join_keys=["flight", "carrier"], entity_values=[Value(), Value(string_val="AA")])
    assert provider.online_read(store.config, registered, [nobody]) == [(None, None)]


def test_what_feast_writes_is_what_the_job_would_have_written(store: FeatureStore, view: FeatureView) -> None:
    frame = pd.DataFrame([{"carrier": "AA", "flight": 1, "event_time": NOON} | RECORD])
    frame["f32"], frame["i32"] = frame.f32.astype("float32"), frame.i32.astype("int32")
    store.write_to_online_store("all_types", frame)
    assert online(store, *TYPES) == RECORD
    key, at, value = kafka_row(view, 1, NOON, **RECORD)
    [(found_at, found)] = rows_of(store).read("all_types", [key]).values()
    assert found_at == at
    assert feature_codec(view).decode(found) == feature_codec(view).decode(value) | {"watermark": None}


def frame(value: float, at: datetime) -> pd.DataFrame:
    return pd.DataFrame({"carrier": ["AA"], "flight": [1], "event_time": [at], "x": [value]})


def push(store: FeatureStore, value: float, at: datetime) -> None:
    store.push("small_push", frame(value, at))


@pytest.mark.parametrize(
    ("online_store", "expected"),
    [(lambda folder: embedded(), 2.0), (lambda folder: {"type": "sqlite", "path": str(folder / "stock.db")}, 1.0)],
    ids=["embedded keeps the newer row", "stock sqlite lets the older one in"],
)
def test_an_older_push(tmp_path: Path, online_store: Callable[[Path], dict[str, Any]], expected: float) -> None:
    store = make_store(tmp_path, online_store(tmp_path), make_view("small", {"x": Float64}, tmp_path))
    push(store, 2.0, NOON)
    push(store, 1.0, NOON - timedelta(hours=1))
    assert online(store, "x", view="small") == {"x": expected}


def test_threads_share_a_store(store: FeatureStore, view: FeatureView) -> None:
    rows = rows_of(store)
    failures: list[BaseException] = []

    def write(start: int) -> None:
        try:
            for minute in range(start, 40, 4):
                write_rows(rows, view.name, [kafka_row(view, 1, NOON + timedelta(minutes=minute), i64=minute)])
                online(store, "i64")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert online(store, "i64") == {"i64": 39}


def test_a_row_from_before_the_view_changed_is_missing_not_misread(tmp_path: Path) -> None:
    before = make_view("small", {"x": Int64}, tmp_path)
    store = make_store(tmp_path, embedded(), before)
    write_rows(rows_of(store), "small", [kafka_row_small(before, 5)])
    assert online(store, "x", view="small") == {"x": 5}
    after = make_store(tmp_path, embedded(), make_view("small", {"x": String}, tmp_path))
    assert online(after, "x", view="small") == {"x": None}


def kafka_row_small(view: FeatureView, x: Any) -> tuple[bytes, int, bytes]:
    key = {"carrier": "AA", "flight": 1}
    value = feature_codec(view).encode(key | {"event_time": NOON, "watermark": None, "x": x})
    return entity_codec(view).encode(key), int(NOON.timestamp() * 1000), value


def test_a_null_entity_is_refused_and_a_view_before_apply_is_named(store: FeatureStore, tmp_path: Path) -> None:
    provider = store._get_provider().online_store
    small = make_view("small", {"x": Float64}, tmp_path)
    key = EntityKey(join_keys=["carrier", "flight"], entity_values=[Value(string_val="AA"), Value()])
    with pytest.raises(ValueError, match="every join key"):
        provider.online_write_batch(store.config, small, [(key, {"x": Value(double_val=1)}, NOON, None)], None)
    key.entity_values[1].int64_val = 3
    with pytest.raises(StoreError, match="feast apply"):
        provider.online_write_batch(store.config, small, [(key, {"x": Value(double_val=1)}, NOON, None)], None)
    with pytest.raises(ValueError, match="expected join keys"):
        view_codec(small).entity(EntityKey(join_keys=["carrier"], entity_values=[Value(string_val="AA")]))
    with pytest.raises(ValueError, match="does not fit"):
        view_codec(small).entity(
            EntityKey(join_keys=["carrier", "flight"], entity_values=[Value(string_val="AA"), Value(string_val="x")])
        )
