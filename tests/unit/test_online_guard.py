"""100,000 pushes of random event times by eight processes at once: the newest row of each entity is what stays.

Half of the writers push Kafka records, as the pusher does; the others write through Feast's own interface.
"""

import multiprocessing
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64
from own_redis import own_redis
from test_online_store import make_view

from features.compiler.topics import entity_codec, feature_codec
from features.online.embedded import EmbeddedOnlineStore
from features.online.feast_rows import FeastRows
from features.online.redis_store import HeadwaterRedisOnlineStore, RedisRows
from features.online.store import FeatureRows

WRITERS, PUSHES, BATCH, ENTITIES = 8, 100_000, 100, 500
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPAN_MS = 10_000  # few moments: many pushes of an entity come close, some at the same time
Push = tuple[int, int, int]  # entity, event time in ms, value


def pushes(writer: int, count: int = PUSHES // WRITERS) -> list[Push]:
    rng = random.Random(writer)
    start_ms = 1_700_000_000_000
    times = (start_ms + rng.randrange(SPAN_MS) for _ in range(count))
    return [(rng.randrange(ENTITIES), at, writer * PUSHES + number) for number, at in enumerate(times)]


def make_config(folder: Path, online_store: dict[str, Any]) -> RepoConfig:
    return RepoConfig(
        project="test",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store=online_store,
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def kafka_records(view: FeatureView, share: list[Push]) -> list[tuple[bytes, int, bytes]]:
    keys, values = entity_codec(view), feature_codec(view)
    made = []
    for entity, at, value in share:
        key = {"carrier": "AA", "flight": entity}
        record = key | {"event_time": EPOCH + timedelta(milliseconds=at), "watermark": None, "x": value}
        made.append((keys.encode(key), at, values.encode(record)))
    return made


def entity_key(entity: int) -> EntityKey:
    return EntityKey(join_keys=["carrier", "flight"], entity_values=[Value(string_val="AA"), Value(int64_val=entity)])


def feast_rows(share: list[Push]) -> list[tuple[EntityKey, dict[str, Value], datetime, None]]:
    return [
        (entity_key(entity), {"x": Value(int64_val=value)}, EPOCH + timedelta(milliseconds=at), None)
        for entity, at, value in share
    ]


def store_of(kind: str) -> OnlineStore:
    return EmbeddedOnlineStore() if kind == "embedded" else HeadwaterRedisOnlineStore()


def write_share(kind: str, online_store: dict[str, Any], folder: Path, writer: int, go: Any) -> None:
    config, view, share = make_config(folder, online_store), make_view("small", {"x": Int64}, folder), pushes(writer)
    records = kafka_records(view, share) if writer % 2 else []
    rows: FeatureRows = EmbeddedOnlineStore().rows(config) if kind == "embedded" else RedisRows(config, {"small": view})
    store = store_of(kind)
    go.wait(60)
    for start in range(0, len(share), BATCH):
        if writer % 2:
            rows.write({"small": records[start : start + BATCH]})
        else:
            store.online_write_batch(config, view, feast_rows(share[start : start + BATCH]), None)


def wrong(store: OnlineStore, config: RepoConfig, view: FeatureView, done: list[Push]) -> dict[int, int]:
    """Entities that hold another row than one of their newest, and how many ms it is behind."""
    newest: dict[int, int] = {}
    values: dict[tuple[int, int], set[int]] = {}
    for entity, at, value in done:
        newest[entity] = max(at, newest.get(entity, at))
        values.setdefault((entity, at), set()).add(value)
    found = store.online_read(config, view, [entity_key(entity) for entity in newest], ["x"])
    behind = {}
    for (entity, at), (found_at, row) in zip(newest.items(), found, strict=True):
        assert found_at is not None
        found_ms = round((found_at.replace(tzinfo=UTC) - EPOCH) / timedelta(milliseconds=1))
        assert row
        if found_ms != at or row["x"].int64_val not in values[entity, at]:
            behind[entity] = at - found_ms
    return behind


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have imported Feast already."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(
        ["features.online.redis_store", "features.online.embedded", "feast.infra.online_stores"]
    )
    return found


@pytest.fixture(params=["embedded", "redis"])
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if request.param == "embedded":
        kind = "features.online.embedded.EmbeddedOnlineStore"
        yield "embedded", {"type": kind, "path": str(tmp_path / "rows.db"), "busy_seconds": 60.0}
        return
    with own_redis(tmp_path / "redis") as server:
        kind = "features.online.redis_store.HeadwaterRedisOnlineStore"
        yield "redis", {"type": kind, "connection_string": f"{server.address},socket_timeout=60"}


def test_the_newest_row_of_each_entity_stays(
    tmp_path: Path, processes: ForkServerContext, ours: tuple[str, dict[str, Any]]
) -> None:
    kind, online_store = ours
    config, view, store = (
        make_config(tmp_path, online_store),
        make_view("small", {"x": Int64}, tmp_path),
        store_of(kind),
    )
    store.update(config, [], [view], [], [], partial=False)
    go = processes.Barrier(WRITERS)
    arguments = (kind, online_store, tmp_path)
    writers = [processes.Process(target=write_share, args=(*arguments, number, go)) for number in range(WRITERS)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(120)
    assert [each.exitcode for each in writers] == [0] * WRITERS
    done = [push for writer in range(WRITERS) for push in pushes(writer)]
    assert len(done) == PUSHES
    assert len({entity for entity, _, _ in done}) == ENTITIES
    assert wrong(store, config, view, done) == {}


@pytest.mark.parametrize("kind", ["embedded", "redis", "sqlite"])
def test_a_cleared_view_takes_older_rows_and_others_keep_theirs(tmp_path: Path, kind: str) -> None:
    views = {name: make_view(name, {"x": Int64}, tmp_path) for name in ("small", "other")}
    with own_redis(tmp_path / "redis") as server:
        config = make_config(
            tmp_path,
            {
                "embedded": {
                    "type": "features.online.embedded.EmbeddedOnlineStore",
                    "path": str(tmp_path / "rows.db"),
                },
                "redis": {
                    "type": "features.online.redis_store.HeadwaterRedisOnlineStore",
                    "connection_string": server.address,
                },
                "sqlite": {"type": "sqlite", "path": str(tmp_path / "stock.db")},
            }[kind],
        )
        store = SqliteOnlineStore() if kind == "sqlite" else store_of(kind)
        rows: FeatureRows = FeastRows(config, store, views) if kind == "sqlite" else RedisRows(config, views)
        if kind == "embedded":
            rows = EmbeddedOnlineStore().rows(config)
        for view in views:
            rows.ensure(view)
        rows.write({name: kafka_records(view, [(1, 9000, 9), (2, 9000, 9)]) for name, view in views.items()})
        rows.clear("small")
        rows.write({"small": kafka_records(views["small"], [(1, 5000, 5)])})

        def values(name: str) -> list[int | None]:
            found = store.online_read(config, views[name], [entity_key(1), entity_key(2)], ["x"])
            return [row["x"].int64_val if row and row["x"].HasField("int64_val") else None for _, row in found]

        assert values("small") == [5, None]
        assert values("other") == [9, 9]


def test_stock_sqlite_is_caught_with_older_rows_by_the_same_pushes(tmp_path: Path) -> None:
    config = make_config(tmp_path, {"type": "sqlite", "path": str(tmp_path / "stock.db")})
    view, store, done = make_view("small", {"x": Int64}, tmp_path), SqliteOnlineStore(), pushes(0, 5000)
    store.update(config, [], [view], [], [], partial=False)
    for start in range(0, len(done), BATCH):
        store.online_write_batch(config, view, feast_rows(done[start : start + BATCH]), None)
    behind = wrong(store, config, view, done)
    assert len(behind) > ENTITIES / 2
    assert max(behind.values()) > 0


class _Between(RedisOnlineStore):
    """Stock Feast, with another writer between its look and its write."""

    def __init__(self, other: Any) -> None:
        self._other = other

    def _get_client(self, online_store_config: Any) -> Any:
        client, other = super()._get_client(online_store_config), self._other

        class Pipelines:
            def pipeline(self, **options: Any) -> Any:
                pipe = client.pipeline(**options)
                execute = pipe.execute

                def executed() -> Any:
                    found = execute()
                    other()
                    return found

                pipe.execute = executed
                return pipe

        return Pipelines()


def test_stock_redis_is_caught_with_an_older_row_when_two_write_at_once(tmp_path: Path) -> None:
    view = make_view("small", {"x": Int64}, tmp_path)
    with own_redis(tmp_path / "redis") as server:
        config = make_config(tmp_path, {"type": "redis", "connection_string": server.address})
        older, newer = (0, 1000, 1), (0, 2000, 2)
        others = iter([lambda: RedisOnlineStore().online_write_batch(config, view, feast_rows([newer]), None)])
        _Between(lambda: next(others, int)()).online_write_batch(config, view, feast_rows([older]), None)
        assert wrong(RedisOnlineStore(), config, view, [older, newer]) == {0: 1000}
