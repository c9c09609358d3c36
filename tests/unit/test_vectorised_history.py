"""What a function in pandas makes of the archive: by pages, in one go, and beside plain loops."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from clickhouse_connect.driver.client import Client
from feast.types import Bool, Float64, Int64, String
from test_history import (
    SECOND,
    SHOP,
    START_MS,
    TABLE,
    USER,
    Record,
    archive,
    computed_by_loops,
    over,
    record,
    some_records,
    view_of,
)

from features.compiler.clickhouse import compile_history
from features.compiler.definition import definition
from features.offline import transformed as offline
from features.offline.history import HistoryError, computed
from features.offline.transformed import transformed
from schemas.tables import OFFSET, PARTITION

pytestmark = pytest.mark.filterwarnings("ignore")


def changed(frame: pd.DataFrame) -> pd.DataFrame:
    """A filter, a new column, a column in place of the field it was, a field of a record, and an error now and then."""
    if (frame["s"] == "bad").any():
        raise ValueError("bad")
    kept = frame[(frame["shop"] == 1) & ~(frame["price"] < -5)]
    return kept.assign(dear=np.where(kept["price"] > 1, "dear", None), n=kept["n"] * 2, big=kept["n"] > 3)


def by_loop(records: list[Record]) -> list[Record]:
    return [
        {
            **each,
            "price": each["x"],
            "dear": "dear" if each["x"] is not None and each["x"] > 1 else None,
            "n": each["n"] * 2,
            "big": each["n"] > 3,
            "more.z": each["more"]["z"],
        }
        for each in records
        if each["shop"] == 1 and not (each["x"] is not None and each["x"] < -5) and each["s"] != "bad"
    ]


def view_in_pandas(function: Callable[[pd.DataFrame], Any] = changed) -> Any:
    aggregations = [
        over("price", "sum", 6, 3, "f"),
        over("dear", "count", 6, 3, "g"),
        over("more.z", "last", 6, 3, "h"),
        over("n", "max", 4, 2, "i"),
        over("big", "count_distinct", 4, 2, "j"),
        over("*", "count", 4, 2, "k"),
    ]
    dtypes = {"f": Float64, "g": Int64, "h": Int64, "i": Int64, "j": Int64, "k": Int64}
    return view_of(aggregations, dtypes, (USER, SHOP), function, mapping={"x": "price"}, mode="pandas")


@pytest.mark.parametrize("page_rows", [7, 10**6])
def test_history_is_what_a_loop_makes_of_it_in_pages_of_any_size(
    client: Client, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    monkeypatch.setattr(offline, "PAGE_ROWS", page_rows)
    records = [
        {**each, "_partition": number % 3, "s": "bad" if number in (5, 6, 70) else each["s"]}
        for number, each in enumerate(some_records(random.Random(3), 120, SECOND))
    ]
    archive(client, records)
    view = view_in_pandas()
    with computed(client, view, None, START_MS + 10**9) as found:
        assert found.failed == 3
        rows = client.query_df(f"SELECT *, toUnixTimestamp64Milli(event_time) AS ms FROM {found.table}")
    # Windows are known until the newest record, whatever the function makes of it.
    end = max(each["event_time"] for each in records)
    expected = [row for row in computed_by_loops(by_loop(records), definition(view)) if row["event_time"] < end]
    assert len(expected) > 50
    keys = [(row["user"], row["shop"], row["event_time"]) for row in expected]
    got = {(row["user"], row["shop"], row["ms"]): row for row in rows.to_dict("records")}
    assert sorted(got) == sorted(keys)
    for row in expected:
        found_row = got[row["user"], row["shop"], row["event_time"]]
        for name in "fghijk":
            value = None if pd.isna(found_row[name]) else found_row[name]
            assert value == (pytest.approx(row[name]) if name == "f" else row[name]), (row, name)


def test_the_witness_gets_the_same_in_one_go(client: Client) -> None:
    records = some_records(random.Random(4), 60, SECOND)
    archive(client, records)
    found = transformed(client, compile_history(view_in_pandas(), TABLE))
    expected = sorted(by_loop(records), key=lambda each: (each["_partition"], each["_offset"]))
    assert found[[PARTITION, OFFSET, "event_time"]].to_numpy().tolist() == [
        [each["_partition"], each["_offset"], each["event_time"]] for each in expected
    ]
    for name in ("price", "dear", "n", "big", "more.z"):
        got = [None if pd.isna(value) else value for value in found[name]]
        assert got == [each[name] for each in expected], name


def test_newest_rows_and_what_nothing_is_left_of(client: Client) -> None:
    archive(client, [record(0, x=1.0), record(1, x=9.0, user="b"), record(2, x=-9.0)])
    schema = {"price": Float64, "dear": String, "big": Bool}
    view = view_of([], schema, udf=changed, mapping={"x": "price"}, mode="pandas")
    with computed(client, view, None, None) as found:
        rows = client.query(f"SELECT user, price, dear, big FROM {found.table} ORDER BY user").result_rows
    assert rows == [("a", 1.0, None, False), ("b", 9.0, "dear", False)]
    none = view_of([], schema, udf=lambda f: changed(f).iloc[:0], mapping={"x": "price"}, mode="pandas")
    with computed(client, none, None, None) as found:
        assert found.rows == 0
    assert transformed(client, compile_history(none, TABLE)).empty


def test_a_field_that_the_archive_has_not_is_named(client: Client) -> None:
    archive(client, [record(0)])
    client.command(f"ALTER TABLE {TABLE} DROP COLUMN s")
    with (
        pytest.raises(HistoryError, match=r"'deal': what its function reads does not run in ClickHouse.*`?s`?"),
        computed(client, view_in_pandas(), None, None),
    ):
        pass
