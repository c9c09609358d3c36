"""A Feast repo of JSON topics, as Feast's own examples have it: from the topics to stock `get_online_features`."""

import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from feast import FeatureStore
from guests import (
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

from compose.local.platform import Platform
from jobs.reading import TopicReader, client_of

REPO = Path(__file__).parents[1] / "repos" / "drivers"
DRIVERS = range(1001, 1006)
CITIES = ("Utrecht", "Gent", None)
# Between good records of `drivers`; and what is said of each.
CORRUPT = [
    (b"", "expected a JSON object, got an empty record"),
    (b'{"driver_id": 1001, "event_timestamp": "2023-11', "field event_timestamp: expected JSON"),
    (b'{"driver_id": 1001}', "field event_timestamp: expected a value, got nothing"),
    (b'{"driver_id": "1001"}', 'field driver_id: expected an integer of 32 bits, got the string "1001"'),
    (b'{"driver_id": 4294968297}', "field driver_id: expected an integer of 32 bits, got the number 4294968297"),
    (b'{"driver_id": 1001, "conv_rate": NaN}', "field conv_rate: expected JSON"),
    (b'{"driver_id": 1001, "event_timestamp": 170000000000}', "field event_timestamp: expected a time in seconds"),
    (b'{"driver_id": 1001, "event_timestamp": "14/11/2023"}', "field event_timestamp: expected a time like"),
    (b'{"driver_id": 1001, "acc_rate": 1e39}', "field acc_rate: expected a float, got the number 1e39"),
    (b'{"driver_id": 1001, "driver_id": 1002}', "field driver_id: expected the field once, got it twice"),
    (b'{"driver_id": 1001, "note": "caf\xe9"}', "field note: expected text in UTF-8 at byte 32"),
    (b"[]", "expected an object, got an array"),
]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with guest_platform(tmp_path_factory.mktemp("drivers")) as started:
        yield started


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with applied(REPO, tmp_path, monkeypatch) as copy:
        yield copy


def times(random: np.random.Generator, count: int) -> list[int]:
    """Epoch milliseconds, in order."""
    return [int(at) for at in np.unique(START_MS + random.integers(0, 20 * HOUR_MS, count))]


def stats(random: np.random.Generator) -> list[Record]:
    return [
        {
            "placed": at,
            "driver_id": int(random.choice(DRIVERS)),
            "conv_rate": None if random.random() < 0.1 else float(random.random()),
            "acc_rate": float(np.float32(random.random())),
            "avg_daily_trips": int(random.integers(1000)),
        }
        for at in times(random, 700)
    ]


def trips(random: np.random.Generator) -> list[Record]:
    return [
        {
            "placed": at,
            "driver": {"id": int(random.choice(DRIVERS)), "city": CITIES[random.integers(3)], "plate": "unknown"},
            "fare": float(np.round(random.lognormal(3, 1), 2)),
            "tip": None if random.random() < 0.5 else 1,
            "payment": "in-app",
            "day": datetime.fromtimestamp(at / 1000, UTC).date().isoformat(),
            "stops": [{"lat": 52.1, "lon": 5.1, "at": "2023-11-14T12:00:00Z"} for _ in range(random.integers(0, 4))],
            "extras": {"child_seat": 1},
        }
        for at in times(random, 500)
    ]


def stat_as_text(number: int, stat: Record) -> bytes:
    """As producers of all kinds write it: Feast's demo, pandas, JavaScript, one with a registry."""
    at = datetime.fromtimestamp(stat["placed"] / 1000, UTC)
    record = {name: value for name, value in stat.items() if name != "placed" and value is not None}
    forms: list[Any] = [
        # What is finer than milliseconds counts as the millisecond it is in.
        at.replace(microsecond=at.microsecond + 750).strftime("%Y-%m-%d %H:%M:%S.%f"),
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        stat["placed"],
        stat["placed"] / 1000,
        at.isoformat(),
    ]
    record |= {"event_timestamp": forms[number % 5], "created": "2023-11-14 00:00:00", "version": 3}
    if number % 3 == 0:
        record["driver_id"] = float(record["driver_id"])
    header = b"\0\0\0\0\x2a" if number % 5 == 4 else b""
    return header + json.dumps(record, indent=2 if number % 2 else None).encode()


def send(platform: Platform, driven: list[Record], ridden: list[Record], until_ms: int) -> dict[tuple[int, int], bytes]:
    """Send everything; where in `drivers` the corrupt records lie."""
    producer = Producer({"bootstrap.servers": platform.endpoints.kafka, "log_level": 0})
    places: dict[tuple[int, int], bytes] = {}

    def remember(_: Any, message: Message) -> None:
        places[message.partition() or 0, message.offset() or 0] = message.value() or b""

    for number, each in enumerate(driven):
        partition = each["driver_id"] % 2
        producer.produce("drivers", stat_as_text(number, each), timestamp=each["placed"], partition=partition)
        if number % 50 == 7:
            bad = CORRUPT[number // 50 % len(CORRUPT)][0]
            producer.produce("drivers", bad, timestamp=each["placed"], partition=partition, on_delivery=remember)
    for each in ridden:
        record = {("ended" if name == "placed" else name): value for name, value in each.items()}
        value, partition = json.dumps(record).encode(), each["driver"]["id"] % 2
        producer.produce("rides.trips", value, timestamp=each["placed"], partition=partition)
    for topic in ("drivers", "rides.trips"):
        for partition in range(2):
            producer.produce(topic, value=None, timestamp=until_ms, partition=partition)
    assert producer.flush(30) == 0
    return places


def wanted(driven: list[Record], ridden: list[Record], until_ms: int) -> list[Record]:
    """What each driver's features are at the end, from the definitions' words."""
    found = []
    for driver in DRIVERS:
        mine = [each for each in driven if each["driver_id"] == driver]
        hour = inside(mine, last_row_ms(mine, HOUR_MS, [(HOUR_MS, HOUR_MS)], until_ms), HOUR_MS)
        rates = [each["conv_rate"] for each in hour if each["conv_rate"] is not None]
        stopped = [each for each in ridden if each["driver"]["id"] == driver and each["stops"]]
        span = 6 * HOUR_MS
        six = inside(stopped, last_row_ms(stopped, span, [(span, span)], until_ms), span)
        cities = [each["driver"]["city"] for each in six if each["driver"]["city"]]
        found.append(
            {
                "conv_rate_mean": math.fsum(rates) / len(rates) if rates else None,
                "acc_rate_max": max((each["acc_rate"] for each in hour), default=None),
                "trips": sum(each["avg_daily_trips"] for each in hour),
                "reports": len(hour),
                "conv_rate": mine[-1]["conv_rate"],
                "avg_daily_trips": mine[-1]["avg_daily_trips"],
                "fares": math.fsum(each["fare"] for each in six),
                "stops_max": max((len(each["stops"]) for each in six), default=None),
                "last_city": cities[-1] if cities else None,
                "tips": sum(each["tip"] is not None for each in six),
            }
        )
    return found


def online(repo: Path) -> list[Record]:
    store = FeatureStore(str(repo))
    entities = [{"driver_id": driver} for driver in DRIVERS]
    found = store.get_online_features(store.get_feature_service("driver_activity"), entities).to_dict()
    return [{name: values[at] for name, values in found.items()} for at in range(len(entities))]


@pytest.mark.filterwarnings("ignore")
def test_a_json_repo_from_its_topics_to_what_is_served(platform: Platform, repo: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    driven, ridden = stats(random), trips(random)
    admin = AdminClient({"bootstrap.servers": platform.endpoints.kafka})
    for made in admin.create_topics([NewTopic(name, 2, 1) for name in ("drivers", "rides.trips")]).values():
        made.result()
    said = headwater(platform, "features", "compile", "--repo", str(repo))
    assert "driver_hourly" in said
    assert "+ driver_trips" in headwater(platform, "features", "plan", "--repo", str(repo), status=2, said=True)
    assert "features-drivers runs as" in headwater(platform, "submit", "features", "--repo", str(repo))
    until_ms = max(driven[-1]["placed"], ridden[-1]["placed"]) + 12 * HOUR_MS
    places = send(platform, driven, ridden, until_ms)
    until_ms -= 5 * MINUTE_MS  # the bound for late records

    expected = wanted(driven, ridden, until_ms)
    deadline = time.monotonic() + 120
    while True:
        got = online(repo)
        wrong = [
            (row["driver_id"], name, row[name], value)
            for row, want in zip(got, expected, strict=True)
            for name, value in want.items()
            if not same(row[name], value, name)
        ]
        if not wrong or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert wrong == []

    dead_letters(platform, places)
    verified(platform, repo, len(driven), len(ridden))
    assert headwater(platform, "features", "plan", "--repo", str(repo)).count("changed") == 0
    rows = tmp_path / "rows.parquet"
    span = ("--from", "2023-11-14", "--to", "2023-11-16", "--parquet", str(rows))
    headwater(platform, "backfill", "--repo", str(repo), "--view", "driver_latest", *span)
    assert len(pd.read_parquet(rows)) == len(driven)


def dead_letters(platform: Platform, places: dict[tuple[int, int], bytes]) -> None:
    """The job and the archiver agree which records are bad; each set aside the original bytes, and says why."""
    assert set(places.values()) == {value for value, _ in CORRUPT}
    found: dict[str, dict[tuple[int, int], tuple[bytes, str]]] = {}

    def take(messages: list[Message]) -> None:
        for each in messages:
            headers = {key: value.decode() for key, value in each.headers() or []}
            assert headers["headwater.topic"] == "drivers"
            place = int(headers["headwater.partition"]), int(headers["headwater.offset"])
            of_job = found.setdefault(headers["headwater.job"], {})
            of_job[place] = (each.value() or b"", headers["headwater.error"])

    deadline = time.monotonic() + 60
    while sum(map(len, found.values())) < 2 * len(places) and time.monotonic() < deadline:
        reader = TopicReader(platform.endpoints.kafka, ["drivers.dlq"])
        reader.read(take)
        reader.close()
    assert set(found) == {"features-drivers", "archive"}
    says = dict(CORRUPT)
    for of_job in found.values():
        assert {place: value for place, (value, _) in of_job.items()} == places
    for value, error in found["features-drivers"].values():
        assert error.startswith(says[value]), (value, error)


def verified(platform: Platform, repo: Path, driven: int, ridden: int) -> None:
    client = client_of(platform.endpoints.clickhouse)
    counts = [int(str(client.command(f"SELECT count() FROM headwater.{name}"))) for name in ("drivers", "rides_trips")]
    assert counts == [driven, ridden]
    deadline = time.monotonic() + 30
    while True:
        found = verify(platform, repo)
        if not found.mismatches or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert found.mismatches == 0, found.examples
    assert found.compared > 1000
    said = json.loads(headwater(platform, "verify", "--repo", str(repo), "--json"))
    assert said["mismatches"] == 0
