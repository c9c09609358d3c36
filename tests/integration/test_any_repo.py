"""A Feast repo that knows nothing of Headwater, from its topic to stock `get_online_features`."""

import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from feast import FeatureStore
from guests import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    START_MS,
    Record,
    applied,
    guest_platform,
    headwater,
    inside,
    last_row_ms,
    same,
    verify,
)

from compose.local.platform import Platform, Running
from features.compiler.repo import load_repo
from features.compiler.sources import avro_schema, schema_id
from jobs.reading import client_of
from schemas.codec import Codec

REPO = Path(__file__).parents[1] / "repos" / "shop"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with guest_platform(tmp_path_factory.mktemp("any")) as started:
        yield started


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with applied(REPO, tmp_path, monkeypatch) as copy:
        yield copy


def orders(seed: int, count: int) -> list[Record]:
    """In the order of event time; some without buyer, amount or country."""
    random = np.random.default_rng(seed)
    bursts = START_MS + random.integers(0, 35 * DAY_MS, 15)
    times = np.unique(random.choice(bursts, count) + random.exponential(20 * MINUTE_MS, count).astype(int))

    def maybe(value: Any) -> Any:
        return None if random.random() < 0.1 else value

    return [
        {
            "placed": int(at),
            "buyer": {"id": maybe(f"c{random.integers(5)}"), "country": maybe(str(random.choice(["NL", "BE", "FR"])))},
            "store_id": int(random.integers(1, 3)),
            "amount": maybe(float(np.round(random.lognormal(3, 1), 2))),
            "lines": [{"sku": f"s{n}", "pieces": 1} for n in range(random.integers(0, 5))],
            "channel": str(random.choice(["WEB", "APP", "PHONE"])),
            "previous": maybe("WEB"),
            "price": Decimal(int(random.integers(10**6))).scaleb(-2),
            "parcel": None if random.random() < 0.5 else {"grams": int(random.integers(-9, 0)), "code": b"abcd"},
            "tags": {"a": maybe("b")},
            "noted": datetime.fromtimestamp(at / 1000, UTC),
            "promised": maybe(date(2024, 1, 1)),
            "opened": clock(12, 30),
            "odd": maybe(7),
        }
        for at in times
    ]


def send(platform: Platform, codec: Codec, records: list[Record], until_ms: int) -> None:
    producer = Producer({"bootstrap.servers": platform.endpoints.kafka, "log_level": 0})
    for number, each in enumerate(records):
        value = codec.encode(each | {"placed": datetime.fromtimestamp(each["placed"] / 1000, UTC)})
        # What Feast means by Avro, and what the clients of a registry write: the repo does not say which.
        value = value[5:] if number % 2 else b"\0\0\0\0" + bytes([number % 7 + 1]) + value[5:]
        partition = int((each["buyer"]["id"] or "c0")[1:]) % 2
        producer.produce("shop.orders", value=value, timestamp=each["placed"], partition=partition)
        if number == len(records) // 2:  # of today, and of no other record's business
            producer.produce("shop.orders", value=b"corrupt", partition=partition)
        producer.poll(0)
    for partition in range(2):  # the third is never used
        producer.produce("shop.orders", value=None, timestamp=until_ms, partition=partition)
    assert producer.flush(30) == 0


def amounts(records: list[Record]) -> list[float]:
    return [each["amount"] for each in records if each["amount"] is not None]


def spending_of(records: list[Record], until_ms: int) -> Record:
    spans = [(10_000, 10_000), (5 * MINUTE_MS, MINUTE_MS), (HOUR_MS, 10 * MINUTE_MS), (DAY_MS, HOUR_MS)]
    spans.append((30 * DAY_MS, DAY_MS))
    at = last_row_ms(records, 10_000, [*spans, (HOUR_MS, HOUR_MS), (DAY_MS, DAY_MS)], until_ms)
    found: Record = {}
    for window, _ in spans:
        values = amounts(inside(records, at, window))
        found[f"sum_amount_{window // 1000}s"] = math.fsum(values)
        found[f"count_amount_{window // 1000}s"] = len(values)
    hour, day = sorted(amounts(inside(records, at, HOUR_MS))), sorted(amounts(inside(records, at, DAY_MS)))
    found["typical"] = hour[math.floor(0.5 * (len(hour) - 1))] if hour else None
    found["dear"] = day[math.floor(0.95 * (len(day) - 1))] if day else None
    found["spread"] = float(np.std(day, ddof=1)) if len(day) > 1 else None
    today = inside(records, at, DAY_MS)
    found["paid"] = math.fsum(float(each["price"]) for each in today)
    found["heaviest"] = max((each["parcel"]["grams"] for each in today if each["parcel"]), default=None)
    count = found["count_amount_3600s"]
    found["mean_amount_1h"] = found["sum_amount_3600s"] / count if count else None
    return found


def abroad_of(records: list[Record], until_ms: int) -> Record:
    mine = [each for each in records if each["buyer"]["country"] not in (None, "NL")]
    at = last_row_ms(mine, 30_000, [(6 * HOUR_MS, 6 * HOUR_MS), (HOUR_MS, HOUR_MS)], until_ms)
    found = inside(mine, at, 6 * HOUR_MS)
    return {
        "countries": len({each["buyer"]["country"] for each in found}),
        "lines_max": max((len(each["lines"]) for each in found), default=None),
        "last_channel": found[-1]["channel"] if found else None,
        "orders": len(inside(mine, at, HOUR_MS)),
    }


def served(repo: Path, service: str, entities: list[Record]) -> list[Record]:
    store = FeatureStore(str(repo))
    found = store.get_online_features(store.get_feature_service(service), entities).to_dict()
    return [{name: values[at] for name, values in found.items()} for at in range(len(entities))]


@pytest.mark.filterwarnings("ignore")
def test_what_is_served_is_what_was_defined(platform: Platform, repo: Path) -> None:
    records = orders(7, 1200)
    source = load_repo(repo).kafka_source("orders")
    admin = AdminClient({"bootstrap.servers": platform.endpoints.kafka})
    admin.create_topics([NewTopic("shop.orders", 3, 1)])["shop.orders"].result()
    assert "features-shop runs as" in headwater(platform, "submit", "features", "--repo", str(repo))
    until_ms = records[-1]["placed"] + HOUR_MS
    send(platform, Codec(avro_schema(source), schema_id(source)), records, until_ms)
    until_ms -= 2 * MINUTE_MS  # the bound for late records

    entities = [{"customer_id": f"c{n}", "store": s} for n in range(5) for s in (1, 2)]
    wanted = []
    for each in entities:
        bought = [r for r in records if r["buyer"]["id"] == each["customer_id"]]
        mine = [r for r in bought if r["store_id"] == each["store"]]
        there = [r for r in records if r["store_id"] == each["store"]]
        latest = {"amount": bought[-1]["amount"], "channel": bought[-1]["channel"]}
        wanted.append(spending_of(mine, until_ms) | abroad_of(there, until_ms) | latest)

    deadline = time.monotonic() + 90
    while True:
        found = served(repo, "everything", entities)
        wrong = [
            (entity, name, row[name], value)
            for entity, row, want in zip(entities, found, wanted, strict=True)
            for name, value in want.items()
            if not same(row[name], value, name)
        ]
        if not wrong or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert wrong == []
    assert any(row["count_amount_2592000s"] > 10 for row in found)
    running = Running.find(platform.home)
    assert running is not None
    assert {"archiver-shop", "pusher-shop"} <= set(running.services)
    verified(platform, repo)
    planted(platform, repo)


def verified(platform: Platform, repo: Path) -> None:
    """Every row agrees, once the archive has them all."""
    deadline = time.monotonic() + 30
    while (found := verify(platform, repo)).mismatches and time.monotonic() < deadline:
        time.sleep(1)
    assert found.mismatches == 0, found.examples
    assert found.compared > 50_000
    assert found.by_feature["spending__typical"].tolerance == 0.01
    some = ("--view", "abroad", "--from", "2023-11-20", "--to", "2023-12-05", "--json")
    said = json.loads(headwater(platform, "verify", "--repo", str(repo), *some))
    assert said["mismatches"] == 0
    assert 0 < said["compared"] < found.compared


def planted(platform: Platform, repo: Path) -> None:
    """Each error is found by name: first in the definitions, which then are not what ran, then in what was stored."""
    definitions = repo / "definitions.py"
    whole = definitions.read_text()
    for there, instead, feature in (
        (
            'time_window=timedelta(hours=1), name="orders"',  # a window too long by one tile
            'time_window=timedelta(hours=1, seconds=30), slide_interval=timedelta(hours=1), name="orders"',
            "abroad__orders",
        ),
        (
            'column="amount", function="count", time_window=w, slide_interval=s',  # nulls counted
            'column="*", function="count", time_window=w, slide_interval=s, '
            'name=f"count_amount_{int(w.total_seconds())}s"',
            "spending__count_amount_86400s",
        ),
        ("<> 'NL'", "IS DISTINCT FROM 'NL'", "abroad__orders"),
    ):
        assert there in whole
        definitions.write_text(whole.replace(there, instead))
        found = verify(platform, repo)
        wrong = [name for name, each in found.by_feature.items() if each.mismatches]
        assert feature in wrong, (instead, wrong)
    assert "mismatches" in headwater(platform, "verify", "--repo", str(repo), "--view", "abroad", status=1, said=True)
    definitions.write_text(whole)
    client = client_of(platform.endpoints.clickhouse)
    first = "(SELECT min(event_time) FROM headwater.features_abroad)"
    for table, changed, count in (
        ("features_latest_order", "* REPLACE (event_time + INTERVAL 1 HOUR AS event_time)", "unexpected"),  # a timezone
        ("features_abroad", f"* FROM headwater.features_abroad WHERE event_time > {first}", "missing"),
        ("shop_orders", "* FROM headwater.shop_orders WHERE _offset <> 100", "mismatches"),  # a record more was counted
    ):
        client.command(f"CREATE TABLE headwater.changed AS headwater.{table}")
        source = "" if " FROM " in changed else f" FROM headwater.{table}"
        client.command(f"INSERT INTO headwater.changed SELECT {changed}{source}")
        client.command(f"EXCHANGE TABLES headwater.changed AND headwater.{table}")
        assert getattr(verify(platform, repo), count) > 0, table
        client.command(f"EXCHANGE TABLES headwater.changed AND headwater.{table}")
        client.command("DROP TABLE headwater.changed SYNC")
    assert verify(platform, repo).mismatches == 0
