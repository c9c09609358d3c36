"""Rows read in batches are those that Feast reads one by one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from features.compiler.repo import load_repo
from features.online.embedded import view_codec
from features.online.lookup import ViewLookup, stored_view
from features.online.rows import RowStore

START = datetime(2013, 3, 1, 12, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
REPO = load_repo(Path(__file__).parents[2] / "features")


def put(store: RowStore, view: str, keys: dict, values: dict, minutes: int) -> None:
    codec = view_codec(REPO.view(view))
    key = EntityKey(
        join_keys=list(keys),
        entity_values=[Value(int64_val=v) if isinstance(v, int) else Value(string_val=v) for v in keys.values()],
    )
    made = {n: Value() if v is None else Value(double_val=v) for n, v in values.items()}
    store.ensure(view)
    store.write({view: [codec.row(key, made, START + timedelta(minutes=minutes))]})


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    found = RowStore(tmp_path / "online.db")
    put(found, "flight", {"carrier": "AA", "flight": 11}, {"arr_delay_last": 12.0}, 0)
    put(found, "flight", {"carrier": "AA", "flight": 11}, {"arr_delay_last": -3.0}, 5)
    put(found, "flight", {"carrier": "UA", "flight": 11}, {"arr_delay_last": None}, 7)
    put(found, "tail", {"tailnum": "N1"}, {"arr_delay_last": 40.0}, 1)
    return found


def test_every_row_gets_its_entitys_newest_values(store: RowStore) -> None:
    lookup = ViewLookup(store, stored_view(REPO.view("flight")))
    asked = pd.DataFrame({"carrier": ["UA", "AA", "AA", "B6", "AA"], "flight": [11, 11, 12, 11, 11]})
    found = lookup.read(asked)
    assert found["flight__arr_delay_last"].tolist() == [None, -3.0, None, None, -3.0]
    minutes = [None if t is None else (t - START_MS) / 60_000 for t in found["flight__event_time"]]
    assert minutes == [7, 5, None, None, 5]


def test_a_null_key_has_no_row(store: RowStore) -> None:
    found = ViewLookup(store, stored_view(REPO.view("tail"))).read(pd.DataFrame({"tailnum": [None, "N1", None]}))
    assert found["tail__arr_delay_last"].tolist() == [None, 40.0, None]


def test_nothing_known_at_all(store: RowStore) -> None:
    lookup = ViewLookup(store, stored_view(REPO.view("tail")))
    for keys in ([], [None], ["N9"]):
        found = lookup.read(pd.DataFrame({"tailnum": np.array(keys, dtype=object)}))
        assert found["tail__event_time"].tolist() == [None] * len(keys)


def test_a_row_of_another_shape_counts_as_missing(store: RowStore) -> None:
    codec = view_codec(REPO.view("tail"))
    entity = codec.entity(EntityKey(join_keys=["tailnum"], entity_values=[Value(string_val="N2")]))
    store.write({"tail": [(entity, START_MS, b"\0\0\0\0\7junk")]})
    found = ViewLookup(store, stored_view(REPO.view("tail"))).read(pd.DataFrame({"tailnum": ["N2", "N1"]}))
    assert found["tail__arr_delay_last"].tolist() == [None, 40.0]
