"""The embedded store's rows: the newest stays, whoever writes, and what goes wrong has a type."""

import multiprocessing
import random
import sqlite3
from pathlib import Path

import pytest

from features.online.rows import RowStore, StoreBusyError, StoreError, StoreFullError, newest, retry_while_busy


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    store = RowStore(tmp_path / "online.db", busy_seconds=0.2)
    store.ensure("v")
    return store


def test_an_older_row_never_replaces_a_newer_one(store: RowStore) -> None:
    store.write({"v": [(b"a", 10, b"ten"), (b"b", 10, b"ten")]})
    store.write({"v": [(b"a", 9, b"nine"), (b"b", 10, b"ten again"), (b"c", 1, b"one")]})
    assert store.read("v", [b"a", b"b", b"c", b"d"]) == {
        b"a": (10, b"ten"),
        b"b": (10, b"ten again"),
        b"c": (1, b"one"),
    }


def test_all_views_of_a_batch_or_none(store: RowStore) -> None:
    with pytest.raises(StoreError, match="feast apply"):
        store.write({"v": [(b"a", 1, b"x")], "missing": [(b"a", 1, b"x")]})
    assert store.count("v") == 0
    store.write({"v": [(b"a", 1, b"x")]})
    assert store.count("v") == 1


def test_many_keys_are_read_at_once(store: RowStore) -> None:
    keys = [n.to_bytes(4, "big") for n in range(5000)]
    store.write({"v": [(key, 1, key) for key in keys]})
    assert store.read("v", keys) == {key: (1, key) for key in keys}


def test_a_view_may_have_any_name(store: RowStore) -> None:
    store.ensure('we"ird; name')
    store.write({'we"ird; name': [(b"a", 1, b"x")]})
    store.drop('we"ird; name')
    with pytest.raises(StoreError, match="no such table"):
        store.read('we"ird; name', [b"a"])


def _write_shuffled(path: Path, seed: int) -> None:
    store = RowStore(path, busy_seconds=30)
    rows = [(b"e%d" % entity, at, b"%d" % at) for entity in range(20) for at in range(100)]
    random.Random(seed).shuffle(rows)
    for start in range(0, len(rows), 50):
        store.write({"v": rows[start : start + 50]})


def test_of_eight_processes_writing_in_any_order_the_newest_row_wins(store: RowStore) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_shuffled, args=(store.path, seed)) for seed in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 8
    keys = [b"e%d" % entity for entity in range(20)]
    assert store.read("v", keys) == dict.fromkeys(keys, (99, b"99"))


def test_a_held_store_says_when_to_come_back(store: RowStore) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match="held by another writer") as caught:
        store.write({"v": [(b"a", 1, b"x")]})
    assert 0 < caught.value.retry_after_seconds < 1
    assert store.read("v", [b"a"]) == {}  # readers do not wait
    waits: list[float] = []

    def give_way(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            other.execute("ROLLBACK")

    retry_while_busy(lambda: store.write({"v": [(b"a", 1, b"x")]}), 10, lambda _: None, give_way)
    assert len(waits) == 2
    assert store.count("v") == 1


def test_patience_has_an_end(store: RowStore) -> None:
    def busy() -> None:
        raise StoreBusyError("held", retry_after_seconds=0.5)

    waits: list[float] = []
    with pytest.raises(StoreBusyError):
        retry_while_busy(busy, 2.0, lambda _: None, waits.append)
    assert waits == [0.5] * 4


def test_a_full_disk_has_its_own_error_and_passes(store: RowStore) -> None:
    connection = store._connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 5}")
    rows = [(b"%d" % n, 1, bytes(1000)) for n in range(100)]
    with pytest.raises(StoreFullError, match="no room left"):
        store.write({"v": rows})
    assert store.count("v") == 0
    connection.execute(f"PRAGMA max_page_count = {pages + 500}")
    store.write({"v": rows})
    assert store.count("v") == 100


def test_a_path_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/online\.db"):
        RowStore(tmp_path / "file" / "online.db").ensure("v")


def test_newest_of_a_batch_by_view_and_entity() -> None:
    batch = [
        ("v", (b"a", 2, b"2")),
        ("v", (b"a", 1, b"1")),
        ("w", (b"a", 1, b"w")),
        ("v", (b"b", 3, b"first")),
        ("v", (b"b", 3, b"last")),
    ]
    assert newest(batch) == {"v": [(b"a", 2, b"2"), (b"b", 3, b"last")], "w": [(b"a", 1, b"w")]}
