"""Views whose transformations are functions in pandas: the stream, the witness and the backfill agree, and bad records
leave with the reason."""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from guests import DAY_MS, HOUR_MS, START_MS, Record, guest_platform, headwater, verify

from compose.local.jobs import FlinkRest
from compose.local.platform import Platform
from features.comparison import compare_rows
from features.compiler.clickhouse import SETTINGS
from features.compiler.definition import definition
from features.compiler.repo import load_repo
from features.compiler.sources import avro_schema, schema_id
from features.offline import transformed
from features.offline.history import computed
from jobs.reading import TopicReader, client_of
from jobs.served import places_aside
from schemas.codec import Codec
from schemas.topics import LATE_SUFFIX

REPO = Path(__file__).parents[1] / "repos" / "cards"
TOPIC = "cards.payments"
EUROS = {"EUR": 1.0, "USD": 0.92, "GBP": 1.17}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with guest_platform(tmp_path_factory.mktemp("cards")) as started:
        yield started


def payments(seed: int, count: int) -> list[Record]:
    """In the order of event time; nulls, and whole numbers that no float holds."""
    random = np.random.default_rng(seed)

    def maybe(value: Any) -> Any:
        return None if random.random() < 0.1 else value

    times = np.unique(START_MS + random.integers(0, 3 * DAY_MS, count))
    return [
        {
            "paid": int(at),
            "card": maybe(f"c{random.integers(40)}"),
            "amount": maybe(float(np.round(random.lognormal(2, 1), 2))),
            "currency": str(random.choice(list(EUROS))),
            "points": maybe(2**53 + int(random.integers(100))),
            "online": maybe(bool(random.integers(2))),
            "shop": {"country": maybe(str(random.choice(["NL", "BE", "FR"]))), "terminal": int(random.integers(9))},
            "fee": Decimal(int(random.integers(10**4))).scaleb(-2),
            "labels": [f"l{n}" for n in range(random.integers(0, 4))],
            "code": f"{random.choice(['AMS', 'BRU', 'LIL'])}-{random.integers(100)}",
            "lines": [{"sku": "s"}],
        }
        for at in times
    ]


def send(platform: Platform, codec: Codec, records: list[Record]) -> dict[int, int]:
    """By place in the list, each record's offset in its partition."""
    producer = Producer({"bootstrap.servers": platform.endpoints.kafka, "log_level": 0})
    offsets: dict[int, int] = {}

    def noted(number: int) -> Any:
        return lambda _, message: offsets.update({number: message.offset()})

    for number, each in enumerate(records):
        value = codec.encode(each | {"paid": datetime.fromtimestamp(each["paid"] / 1000, UTC)})
        producer.produce(TOPIC, value, timestamp=each["paid"], partition=number % 2, on_delivery=noted(number))
        producer.poll(0)
    until_ms = records[-1]["paid"] + HOUR_MS
    for partition in range(2):
        producer.produce(TOPIC, b"\0\0\0\0\1no payment", timestamp=until_ms, partition=partition)
        producer.produce(TOPIC, None, timestamp=until_ms, partition=partition)
    assert producer.flush(30) == 0
    return offsets


def letters(platform: Platform) -> list[tuple[dict[str, str], bytes]]:
    found: list[Message] = []
    reader = TopicReader(platform.endpoints.kafka, [f"{TOPIC}.dlq"])
    reader.read(found.extend)
    reader.close()
    return [({name: value.decode() for name, value in each.headers()}, each.value()) for each in found]


def abroad_of(records: list[Record], card: str, end_ms: int) -> Record:
    """By a plain loop, some features of the definition at a time."""
    mine = []
    for each in records:
        country, amount = each["shop"]["country"], each["amount"]
        if each["card"] == card and country not in (None, "NL") and amount is not None:
            euros = amount * EUROS[each["currency"]]
            if euros >= 5 and end_ms - DAY_MS < each["paid"] <= end_ms:
                mine.append(each | {"euros": euros})
    hour = [each for each in mine if each["paid"] > end_ms - HOUR_MS]
    return {
        "euros_1h": sum(each["euros"] for each in hour),
        "payments_1h": len(hour),
        "nights": sum(datetime.fromtimestamp(each["paid"] / 1000, UTC).hour < 6 for each in mine),
        "points": sum(2 * each["points"] for each in mine if each["points"] is not None),
        "terminals": len({each["shop"]["terminal"] for each in mine}),
    }


def test_stream_witness_and_backfill_agree_and_bad_records_leave(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "cards"
    shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("__pycache__", "data"))
    admin = AdminClient({"bootstrap.servers": platform.endpoints.kafka})
    admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].result()
    said = headwater(platform, "submit", "features", "--repo", str(repo))
    called_once(platform, said.partition(" runs as ")[2].partition(".")[0])
    source = load_repo(repo).kafka_source("payments")
    codec = Codec(avro_schema(source), schema_id(source))
    records = payments(1, 5000)
    bad = (7, 2500, 2501)
    for number in bad:
        records[number]["code"] = "nowhere"
    offsets = send(platform, codec, records)
    agreed(platform, repo, len(records) - len(bad))
    send_late(platform, codec, records[0] | {"paid": records[0]["paid"] - 1, "card": "c0", "amount": 1000.0})
    agreed(platform, repo, len(records) - len(bad))
    client = client_of(platform.endpoints.clickhouse)
    refused(platform, offsets, bad)
    by_hand(client, records)
    backfilled(platform, repo, monkeypatch)
    planted(platform, repo)


def called_once(platform: Platform, job: str) -> None:
    """Each function is one operator, whose rows go to the view and to the dead letters."""
    nodes = FlinkRest(platform.endpoints.flink).get(f"/jobs/{job}/plan")["plan"]["nodes"]
    text = " ".join(each["description"] for each in nodes)
    assert text.count("PythonCalc(") == 3, text


def send_late(platform: Platform, codec: Codec, record: Record) -> None:
    producer = Producer({"bootstrap.servers": platform.endpoints.kafka, "log_level": 0})
    value = codec.encode(record | {"paid": datetime.fromtimestamp(record["paid"] / 1000, UTC)})
    producer.produce(TOPIC, value, timestamp=record["paid"], partition=0)
    assert producer.flush(30) == 0
    deadline = time.monotonic() + 30
    while places_aside(platform.endpoints.kafka, TOPIC, LATE_SUFFIX) == frozenset():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def agreed(platform: Platform, repo: Path, newest: int) -> None:
    """Every row agrees, once the archive has them all: so many of the view without windows."""
    deadline = time.monotonic() + 120
    while True:
        try:
            found = verify(platform, repo)
            if not found.mismatches and found.by_feature["latest_payment__number"].compared == newest:
                assert found.by_feature["spending_abroad__euros_1h"].compared > 1000
                return
        except ValueError as exc:  # nothing is archived yet
            assert time.monotonic() < deadline, exc  # noqa: PT017
        else:
            assert time.monotonic() < deadline, (
                found.mismatches,
                found.missing,
                found.by_feature["latest_payment__number"],
                found.by_feature,
                found.examples,
            )
        time.sleep(1)


def refused(platform: Platform, offsets: dict[int, int], bad: tuple[int, ...]) -> None:
    """Each is there once, as it was, with where it lay and what the function said."""
    found = [(headers, value) for headers, value in letters(platform) if "latest_payment" in headers["headwater.error"]]
    where = {(int(headers["headwater.partition"]), int(headers["headwater.offset"])) for headers, _ in found}
    assert len(found) == len(bad)
    assert where == {(number % 2, offsets[number]) for number in bad}
    for headers, value in found:
        assert headers["headwater.topic"] == TOPIC
        assert headers["headwater.error"].startswith("feature view latest_payment: ")
        assert b"nowhere" in value
    # What is no payment at all is there once and not once a view; the archiver sets it aside as well.
    mine = [headers for headers, _ in letters(platform) if headers["headwater.job"] == "features-cards"]
    assert len(mine) == len(bad) + 2


def by_hand(client: Client, records: list[Record]) -> None:
    """The stream's rows are what a plain loop makes of the records."""
    names = ", ".join(abroad_of(records, "c0", 0))
    rows = client.query(
        f"SELECT card, toUnixTimestamp64Milli(event_time), {names} FROM headwater.features_spending_abroad "
        "WHERE card IS NOT NULL ORDER BY card, event_time"
    ).result_rows
    assert len(rows) > 1000
    for card, time_ms, *values in rows[::20]:
        euros, *counted = abroad_of(records, card, time_ms).values()
        assert values[0] == pytest.approx(euros), (card, time_ms)
        assert values[1:] == counted, (card, time_ms)  # to the last digit, beyond what a float holds


def backfilled(platform: Platform, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pages, and the same as the stream; the archive counts what the stream found late unless it is asked not to."""
    monkeypatch.setattr(transformed, "PAGE_ROWS", 700)
    client = client_of(platform.endpoints.clickhouse)
    for view in load_repo(repo).views.values():
        meaning = definition(view)
        columns = ", ".join([*meaning.keys, *(each.name for each in meaning.features), *meaning.latest])
        listed = f"SELECT {columns}, toUnixTimestamp64Milli(event_time) AS event_time FROM"
        with computed(client, view, None, None, known="then") as history:
            assert history.failed == (3 if view.name == "latest_payment" else 0)
            expected = client.query_df(f"{listed} {history.table}")
        got = client.query_df(
            f"{listed} headwater.features_{view.name} WHERE {meaning.keys[0]} IS NOT NULL "
            f"AND toUnixTimestamp64Milli(event_time) <= {expected['event_time'].max()}",
            settings=dict(SETTINGS),
        )
        parity = compare_rows(meaning, expected, got)
        assert (parity.mismatches, parity.compared > 500) == (0, True), parity.examples
    file = repo / "rows.parquet"
    said = headwater(
        platform, "backfill", "--repo", str(repo), "--view", "latest_payment", "--from", "2023-11-01", "--to",
        "2023-12-01", "--parquet", str(file), "--json",
    )  # fmt: skip
    assert json.loads(said)["failed"] == 3


def planted(platform: Platform, repo: Path) -> None:
    """A function that is not the one that ran is found out, by the feature it changes."""
    for name, there, instead, feature in (
        ("definitions.py", ">= 5)", ">= 5.5)", "spending_abroad__euros_1h"),
        ("rates.py", '"USD": 0.92', '"USD": 0.93', "spending_abroad__euros_1h"),
        ("definitions.py", 'kept["points"] * 2', 'kept["points"] * 3', "spending_abroad__points"),
        ("definitions.py", "number=parts[1]", "number=1 + parts[1]", "latest_payment__number"),
    ):
        file = repo / name
        whole = file.read_text()
        assert there in whole
        file.write_text(whole.replace(there, instead))
        found = verify(platform, repo)
        assert feature in [each for each, checked in found.by_feature.items() if checked.mismatches], instead
        file.write_text(whole)
    assert verify(platform, repo).mismatches == 0
