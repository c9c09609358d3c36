"""The Redis store on a real server: Feast reads what we write and the other way round; what goes wrong has a type."""

import asyncio
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore, FeatureView
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float32, Int64, String
from own_redis import RedisServer, own_redis
from redis import exceptions
from test_online_store import CARRIER, FLIGHT, NOON, RECORD, TYPES, kafka_row, make_store, make_view

from features.online.feast_rows import FeastRows
from features.online.redis_script import FEATURES_PER_WRITE, translated
from features.online.redis_store import HeadwaterRedisOnlineStore, RedisRows
from features.online.rows import RowStore, StoreBusyError, StoreError, StoreFullError, retry_while_busy
from features.online.store import open_store

OURS = "features.online.redis_store.HeadwaterRedisOnlineStore"
SMALL = {"i64": Int64}
KEY = EntityKey(join_keys=["flight", "carrier"], entity_values=[Value(int64_val=1), Value(string_val="AA")])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with own_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.client().flushall()
    return shared


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    with own_redis(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


def online_store(server: RedisServer, kind: str = OURS, options: str = "", **more: Any) -> dict[str, Any]:
    return {"type": kind, "connection_string": f"{server.address},socket_timeout=0.5{options}"} | more


def feast(folder: Path, view: FeatureView, online: dict[str, Any]) -> FeatureStore:
    return make_store(folder / online["type"], online, view)


@pytest.fixture
def view(tmp_path: Path) -> FeatureView:
    return make_view("all_types", TYPES, tmp_path)


def rows_of(store: FeatureStore, *views: FeatureView) -> RedisRows:
    rows = RedisRows(store.config, {view.name: view for view in views})
    for view in views:
        rows.ensure(view.name)
    return rows


def read(store: FeatureStore, *features: str, flight: int = 1, view: str = "all_types") -> dict[str, Any]:
    names = [f"{view}:{each}" for each in features]
    answer = store.get_online_features(names, [{"carrier": "AA", "flight": flight}]).to_dict()
    return {name: answer[name][0] for name in features}


def frame(at: datetime, **values: Any) -> pd.DataFrame:
    found = pd.DataFrame([{"carrier": "AA", "flight": 1, "event_time": at} | values])
    return found.astype({name: kind for name, kind in {"f32": "float32", "i32": "int32"}.items() if name in values})


def as_kafka(store: FeatureStore, view: FeatureView) -> None:
    rows_of(store, view).write({view.name: [kafka_row(view, 1, NOON, **RECORD)]})


def as_push(store: FeatureStore, view: FeatureView) -> None:
    store.push(f"{view.name}_push", frame(NOON, **RECORD))


@pytest.mark.parametrize("write", [as_kafka, as_push])
def test_stock_feast_reads_every_type_that_is_written_here(
    tmp_path: Path, server: RedisServer, view: FeatureView, write: Callable[[FeatureStore, FeatureView], None]
) -> None:
    ours, stock = feast(tmp_path, view, online_store(server)), feast(tmp_path, view, online_store(server, "redis"))
    write(ours, view)
    assert type(stock._get_provider().online_store) is RedisOnlineStore
    assert type(ours._get_provider().online_store) is HeadwaterRedisOnlineStore
    for store in (stock, ours):
        assert read(store, *TYPES) == RECORD
        assert read(store, *TYPES, flight=2) == dict.fromkeys(TYPES)
        registered = store.get_feature_view("all_types")
        [(at, values)] = store._get_provider().online_store.online_read(store.config, registered, [KEY], list(TYPES))
        assert at == NOON
        expected = {name: f"{kind.to_value_type().name.lower()}_val" for name, kind in TYPES.items()}
        assert {name: value.WhichOneof("val") for name, value in values.items()} == expected


def test_what_is_stored_is_to_the_byte_what_stock_feast_stores(
    tmp_path: Path, server: RedisServer, view: FeatureView
) -> None:
    stored = []
    client = server.client()
    for online, write in [
        (online_store(server, "redis"), as_push),
        (online_store(server), as_push),
        (online_store(server), as_kafka),
    ]:
        client.flushall()
        write(feast(tmp_path, view, online), view)
        stored.append({key: client.hgetall(key) for key in client.scan_iter()})
    assert len(stored[0]) == 1
    assert stored[1] == stored[2] == stored[0]


def test_nulls_replace_what_was_there(tmp_path: Path, server: RedisServer, view: FeatureView) -> None:
    store = feast(tmp_path, view, online_store(server))
    rows = rows_of(store, view)
    rows.write({"all_types": [kafka_row(view, 1, NOON, **RECORD), kafka_row(view, 2, NOON, i64=5)]})
    rows.write({"all_types": [kafka_row(view, 1, NOON + timedelta(seconds=1), s="")]})
    stock = feast(tmp_path, view, online_store(server, "redis"))
    assert read(stock, *TYPES) == dict.fromkeys(TYPES) | {"s": ""}
    assert read(stock, *TYPES, flight=2) == dict.fromkeys(TYPES) | {"i64": 5}


def test_a_batch_larger_than_a_round_trip(tmp_path: Path, server: RedisServer) -> None:
    view = make_view("small", SMALL, tmp_path)
    rows = rows_of(feast(tmp_path, view, online_store(server)), view)
    rows.write({"small": [small_row(view, NOON, flight, flight) for flight in range(12_345)]})
    assert server.client().dbsize() == 12_345


def small_row(view: FeatureView, at: datetime, value: int, flight: int = 1) -> tuple[bytes, int, bytes]:
    return kafka_row(view, flight, at, i64=value)


TIMES = [datetime(1901, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)]
TIMES += [datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC), NOON]
TIMES += [NOON + timedelta(milliseconds=1), NOON + timedelta(milliseconds=999), NOON + timedelta(seconds=1)]


def test_an_older_row_never_replaces_a_newer_one_and_of_equal_ones_the_later_stays(
    tmp_path: Path, server: RedisServer
) -> None:
    view = make_view("small", SMALL, tmp_path)
    store = feast(tmp_path, view, online_store(server))
    rows = rows_of(store, view)
    for newer_at, newer in enumerate(TIMES):
        server.client().flushall()
        rows.write({"small": [small_row(view, newer, newer_at)]})
        for older_at, older in enumerate(TIMES[:newer_at]):
            rows.write({"small": [small_row(view, older, older_at)]})
            assert read(store, "i64", view="small") == {"i64": newer_at}
        rows.write({"small": [small_row(view, newer, 100), small_row(view, newer, 101)]})
        assert read(store, "i64", view="small") == {"i64": 101}
        for later_at, later in enumerate(TIMES[newer_at + 1 :], 200):
            rows.write({"small": [small_row(view, later, later_at)]})
            assert read(store, "i64", view="small") == {"i64": later_at}


def test_the_guard_tells_microseconds_apart_in_and_between_pushes(tmp_path: Path, server: RedisServer) -> None:
    store = feast(tmp_path, make_view("small", SMALL, tmp_path), online_store(server))
    micro = timedelta(microseconds=1)
    store.push("small_push", pd.concat([frame(NOON + 2 * micro, i64=2), frame(NOON + micro, i64=1)]))
    assert read(store, "i64", view="small") == {"i64": 2}
    store.push("small_push", frame(NOON + micro, i64=1))
    assert read(store, "i64", view="small") == {"i64": 2}
    asyncio.run(store.push_async("small_push", frame(NOON + 3 * micro, i64=3)))
    asyncio.run(store.push_async("small_push", frame(NOON, i64=0)))
    assert read(store, "i64", view="small") == {"i64": 3}


def test_rows_of_stock_feast_are_guarded_too_and_views_are_apart(tmp_path: Path, server: RedisServer) -> None:
    view, other = make_view("small", SMALL, tmp_path), make_view("other", SMALL, tmp_path)
    stock = feast(tmp_path, view, online_store(server, "redis"))
    stock.push("small_push", frame(NOON, i64=1))
    store = make_store(tmp_path, online_store(server), view, other)
    rows = rows_of(store, view, other)
    older = NOON - timedelta(hours=1)
    rows.write({"small": [small_row(view, older, 2)], "other": [small_row(other, older, 3)]})
    assert read(store, "i64", view="small") == {"i64": 1}
    assert read(store, "i64", view="other") == {"i64": 3}
    stock.push("small_push", frame(NOON + timedelta(hours=1), i64=4))
    assert read(store, "i64", view="small") == {"i64": 4}
    assert server.client().dbsize() == 1


def seconds_left(server: RedisServer) -> int:
    [key] = server.client().keys()
    return int(server.client().ttl(key))


def test_a_key_lives_as_long_as_its_view_that_lives_longest(tmp_path: Path, server: RedisServer) -> None:
    views = [make_view(f"v{hours}", SMALL, tmp_path) for hours in range(3)]
    for hours, view in enumerate(views):
        view.ttl = timedelta(hours=hours)
    store = make_store(tmp_path, online_store(server), *views)
    rows = rows_of(store, *views)
    for number, expected in [(1, 3600), (2, 7200), (1, 7200), (0, -1), (2, -1)]:
        rows.write({views[number].name: [small_row(views[number], NOON, 1)]})
        assert expected - 60 < seconds_left(server) <= expected
    server.client().flushall()
    rows.write({"v1": [small_row(views[1], NOON, 1)]})
    server.client().expire(server.client().keys()[0], 10)
    rows.write({"v1": [small_row(views[1], NOON - timedelta(1), 1)]})
    assert seconds_left(server) <= 10  # nothing was written
    rows.write({"v1": [small_row(views[1], NOON, 1)]})
    assert 3540 < seconds_left(server) <= 3600


def test_values_of_any_length_arrive_whole(tmp_path: Path, server: RedisServer) -> None:
    text = make_view("text", {"text": String}, tmp_path)
    store = feast(tmp_path, text, online_store(server))
    # Where the heads of the formats change, of the message as of what it is packed in.
    lengths = (
        0,
        27,
        28,
        29,
        30,
        31,
        32,
        253,
        254,
        255,
        256,
        1020,
        1024,
        65_530,
        65_531,
        65_532,
        65_535,
        65_536,
        200_000,
    )
    for number, length in enumerate(lengths, 1):
        rows_of(store, text).write({"text": [kafka_row(text, number, NOON, text="x" * length)]})
    for number, length in enumerate(lengths, 1):
        assert read(store, "text", flight=number, view="text") == {"text": "x" * length}


@pytest.mark.parametrize("kind", [OURS, "redis"])
def test_key_ttl_seconds_is_as_in_stock_feast(tmp_path: Path, server: RedisServer, kind: str) -> None:
    view = make_view("small", SMALL, tmp_path)
    view.ttl = timedelta(hours=1)
    store = feast(tmp_path, view, online_store(server, kind, key_ttl_seconds=100))
    store.push("small_push", frame(NOON, i64=1))
    assert 40 < seconds_left(server) <= 100
    rows_of(store, view).write({"small": [small_row(view, NOON, 1)]})
    assert 40 < seconds_left(server) <= 100


def test_apply_and_teardown_are_feasts_own(tmp_path: Path, server: RedisServer, view: FeatureView) -> None:
    small = make_view("small", SMALL, tmp_path)
    store = make_store(tmp_path, online_store(server), view, small)
    rows_of(store, view, small).write({v.name: [kafka_row(v, 1, NOON, i64=1)] for v in (view, small)})
    store.apply([CARRIER, FLIGHT, view], objects_to_delete=[store.get_feature_view("small")], partial=False)
    assert read(store, "i64") == {"i64": 1}
    [key] = server.client().keys()
    assert not server.client().hexists(key, "_ts:small")
    store.teardown()
    assert server.client().dbsize() == 0


def test_records_that_are_not_of_the_view_are_left_out_and_counted(
    tmp_path: Path, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    view = make_view("small", SMALL, tmp_path)
    store = feast(tmp_path, view, online_store(server))
    rows = rows_of(store, view)
    key, at, value = small_row(view, NOON, 1)
    rows.write({"small": [(b"?", at, value), (key, at, value[:-1]), (key, at, value), (key, at + 1, b"")]})
    assert read(store, "i64", view="small") == {"i64": 1}
    assert rows.refused == 3
    assert "view small: 3 records are not of its schema" in caplog.text
    rows.write({"small": [(b"?", at, value)]})
    assert rows.refused == 4
    rows.close()


# What goes wrong.


@pytest.fixture
def small(tmp_path: Path, own_server: RedisServer) -> tuple[FeatureView, FeatureStore, RedisRows]:
    view = make_view("small", SMALL, tmp_path)
    store = feast(tmp_path, view, online_store(own_server))
    return view, store, rows_of(store, view)


def test_a_killed_server_is_busy_until_it_is_back(
    own_server: RedisServer, small: tuple[FeatureView, FeatureStore, RedisRows]
) -> None:
    view, store, rows = small
    rows.write({"small": [small_row(view, NOON, 1)]})
    own_server.kill()
    with pytest.raises(StoreBusyError, match=f"Redis at {own_server.address} does not answer") as caught:
        rows.write({"small": [small_row(view, NOON, 2)]})
    assert not isinstance(caught.value, StoreFullError)
    assert 0 < caught.value.retry_after_seconds < 1
    with pytest.raises(StoreBusyError):
        store.push("small_push", frame(NOON, i64=2))
    waits: list[float] = []

    def back(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            own_server.start()  # without the script

    retry_while_busy(lambda: rows.write({"small": [small_row(view, NOON, 3)]}), 30, lambda _: None, back)
    assert read(store, "i64", view="small") == {"i64": 3}
    rows.write({"small": [small_row(view, NOON - timedelta(1), 4)]})
    assert read(store, "i64", view="small") == {"i64": 3}


def test_a_server_that_hangs_is_busy(
    own_server: RedisServer, small: tuple[FeatureView, FeatureStore, RedisRows]
) -> None:
    view, store, rows = small
    rows.write({"small": [small_row(view, NOON, 1)]})
    assert own_server.process
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreBusyError, match="does not answer"):
            rows.write({"small": [small_row(view, NOON, 2)]})
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    rows.write({"small": [small_row(view, NOON, 3)]})
    assert read(store, "i64", view="small") == {"i64": 3}


def test_a_server_without_memory_is_full_and_takes_rows_again_later(
    own_server: RedisServer, small: tuple[FeatureView, FeatureStore, RedisRows]
) -> None:
    view, store, rows = small
    batch = {"small": [small_row(view, NOON, flight, flight) for flight in range(5000)]}
    own_server.client().config_set("maxmemory", "1mb")
    with pytest.raises(StoreFullError, match=r"takes no writes: .*maxmemory") as caught:
        rows.write(batch)
    assert caught.value.retry_after_seconds > 0
    own_server.client().config_set("maxmemory", "1")
    with pytest.raises(StoreFullError):
        store.push("small_push", frame(NOON, i64=2))
    own_server.client().config_set("maxmemory", "0")
    rows.write(batch)
    assert own_server.client().dbsize() == 5000


def test_a_replica_is_full_until_it_is_promoted(
    own_server: RedisServer, small: tuple[FeatureView, FeatureStore, RedisRows]
) -> None:
    view, store, rows = small
    own_server.client().replicaof("127.0.0.1", "1")
    with pytest.raises(StoreFullError, match="read only replica"):
        rows.write({"small": [small_row(view, NOON, 1)]})
    own_server.client().replicaof("no", "one")
    rows.write({"small": [small_row(view, NOON, 1)]})
    assert read(store, "i64", view="small") == {"i64": 1}


def test_a_server_that_cannot_save_is_full(tmp_path: Path) -> None:
    view = make_view("small", SMALL, tmp_path)
    with own_redis(tmp_path / "server") as server:
        rows = rows_of(feast(tmp_path, view, online_store(server)), view)
        client = server.client()
        client.config_set("dir", str(_made(tmp_path / "gone")))
        client.config_set("save", "3600 1")
        shutil.rmtree(tmp_path / "gone")
        client.bgsave()
        while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
            time.sleep(0.01)
        with pytest.raises(StoreFullError, match="MISCONF"):
            rows.write({"small": [small_row(view, NOON, 1)]})
        rows.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_wrong_password_is_for_people_to_mend(tmp_path: Path, server: RedisServer) -> None:
    view = make_view("small", SMALL, tmp_path)
    rows = rows_of(feast(tmp_path, view, online_store(server, options=",password=secret")), view)
    with pytest.raises(StoreError, match="check username and password") as caught:
        rows.write({"small": [small_row(view, NOON, 1)]})
    assert not isinstance(caught.value, StoreBusyError)
    assert "secret" not in str(caught.value)


def test_another_kind_of_value_under_the_key_is_for_people_to_mend(tmp_path: Path, server: RedisServer) -> None:
    view = make_view("small", SMALL, tmp_path)
    rows = rows_of(feast(tmp_path, view, online_store(server)), view)
    rows.write({"small": [small_row(view, NOON, 1)]})
    [key] = server.client().keys()
    server.client().set(key, b"mine")
    with pytest.raises(StoreError, match="WRONGTYPE") as caught:
        rows.write({"small": [small_row(view, NOON, 1)]})
    assert not isinstance(caught.value, StoreBusyError)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (exceptions.ConnectionError("refused"), StoreBusyError),
        (exceptions.TimeoutError("timed out"), StoreBusyError),
        (exceptions.BusyLoadingError("loading"), StoreBusyError),
        (exceptions.ClusterDownError("CLUSTERDOWN down"), StoreBusyError),
        (exceptions.TryAgainError("TRYAGAIN again"), StoreBusyError),
        (exceptions.NoScriptError("No matching script."), StoreBusyError),  # flushed meanwhile
        (exceptions.ResponseError("BUSY Redis is busy running a script."), StoreBusyError),
        (exceptions.OutOfMemoryError("command not allowed"), StoreFullError),
        (exceptions.ReadOnlyError("You can't write"), StoreFullError),
        (exceptions.ResponseError("MISCONF Redis is configured to save"), StoreFullError),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), StoreFullError),
        (exceptions.ResponseError("Error running script: @user_script: 9: -OOM command not allowed"), StoreFullError),
        (exceptions.AuthenticationError("WRONGPASS"), StoreError),
        (exceptions.AuthorizationError("NOAUTH"), StoreError),
        (exceptions.NoPermissionError("NOPERM"), StoreError),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), StoreError),
        (exceptions.InvalidResponse("?"), StoreError),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else repr(each)[:40],
)
def test_what_redis_says_in_our_words(theirs: exceptions.RedisError, ours: type[StoreError]) -> None:
    with pytest.raises(StoreError) as caught, translated("there:1"):
        raise theirs
    assert type(caught.value) is ours
    assert caught.value.__cause__ is theirs
    assert "there:1" in str(caught.value)


def test_every_error_of_the_client_has_a_type(tmp_path: Path) -> None:
    for name in exceptions.__dict__:
        kind = getattr(exceptions, name)
        if isinstance(kind, type) and issubclass(kind, exceptions.RedisError):
            with pytest.raises(StoreError), translated("there"):
                raise kind.__new__(kind)


def test_views_and_configurations_that_cannot_be_are_named(tmp_path: Path, server: RedisServer) -> None:
    view = make_view("small", SMALL, tmp_path)
    store = feast(tmp_path, view, online_store(server))
    with pytest.raises(StoreError, match=r"no view 'other' .* there are small"):
        rows_of(store, view).write({"other": [(b"", 0, b"")]})
    clustered = feast(tmp_path, view, online_store(server, redis_type="redis_cluster"))
    with pytest.raises(StoreError, match="redis_cluster"):
        rows_of(clustered, view).write({"small": [small_row(view, NOON, 1)]})
    store.config.registry.enable_online_feature_view_versioning = True
    with pytest.raises(StoreError, match="versioning"):
        RedisRows(store.config, {})


@pytest.mark.parametrize("count", [1, *(FEATURES_PER_WRITE + each for each in (-1, 0, 1)), 5000])
def test_however_many_features_there_are_each_has_its_value(tmp_path: Path, server: RedisServer, count: int) -> None:
    view = make_view("wide", {f"f{number}": Float32 for number in range(count)}, tmp_path)
    config = feast(tmp_path, make_view("small", SMALL, tmp_path), online_store(server)).config
    store, names = HeadwaterRedisOnlineStore(), [field.name for field in view.features]
    for turn in range(2):
        values = {name: Value(float_val=count * turn + number) for number, name in enumerate(names)}
        store.online_write_batch(config, view, [(KEY, values, NOON, None)], None)
        ((_, found),) = store.online_read(config, view, [KEY], [*names])
        assert found == values
    [key] = server.client().keys()
    assert server.client().hlen(key) == count + 1


DEFINITIONS = """
from datetime import timedelta
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.data_format import AvroFormat
from feast.types import Float64, Int64

service = Entity(name="service", join_keys=["flight"], value_type=ValueType.INT64)
history = FileSource(name="history", path="none.parquet", timestamp_field="event_time")
events = KafkaSource(name="events", timestamp_field="event_time", kafka_bootstrap_servers="", topic="events",
                     message_format=AvroFormat("{}"), batch_source=history)
mean = Aggregation(column="x", function="mean", name="x_mean", time_window=timedelta(hours=1))
small = StreamFeatureView(name="small", entities=[service], source=events, aggregations=[mean], ttl=timedelta(0),
                          timestamp_field="event_time",
                          schema=[Field(name="flight", dtype=Int64), Field(name="x_mean", dtype=Float64)])
"""


def repo(folder: Path, online: str) -> Path:
    folder.mkdir()
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / "feature_store.yaml").write_text(
        f"project: test\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n{online}\n"
    )
    return folder


def test_a_repo_names_its_store(tmp_path: Path, server: RedisServer) -> None:
    connection = f"connection_string: '{server.address}'"
    rows = open_store(repo(tmp_path / "ours", f"online_store:\n  type: {OURS}\n  {connection}"))
    assert isinstance(rows, RedisRows)
    rows.ensure("small")
    assert isinstance(open_store(repo(tmp_path / "stock", f"online_store:\n  type: redis\n  {connection}")), RedisRows)
    embedded = "online_store:\n  type: features.online.embedded.EmbeddedOnlineStore\n  path: rows.db"
    found = open_store(repo(tmp_path / "embedded", embedded))
    assert isinstance(found, RowStore)
    assert found.path == tmp_path / "embedded" / "rows.db"
    assert isinstance(open_store(repo(tmp_path / "sqlite", "online_store:\n  type: sqlite")), FeastRows)
    with pytest.raises(StoreError, match="expected a Feast repo"):
        open_store(tmp_path)
    (tmp_path / "sqlite" / "feature_store.yaml").write_text("project: 1")
    with pytest.raises(StoreError, match="project"):
        open_store(tmp_path / "sqlite")
