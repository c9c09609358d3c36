"""A bank's tables, replicated: from their changes to what is served, verified and backfilled."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from feast import FeatureStore
from guests import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, applied, guest_platform, headwater, verify

from compose.local.platform import Platform
from features.compiler.repo import Repo, load_repo
from features.compiler.sources import avro_schema
from jobs.reading import TopicReader
from schemas.codec import ANY_ID, Codec

REPO = Path(__file__).parents[1] / "repos" / "bank"
TOPICS = ("bank.public.payments", "bank.cards")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with guest_platform(tmp_path_factory.mktemp("bank")) as started:
        yield started


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with applied(REPO, tmp_path, monkeypatch) as copy:
        yield copy


class Bank:
    """What happens at the bank, and the records that tell of it: topic, key, value, timestamp."""

    def __init__(self, definitions: Repo, seed: int) -> None:
        self._codecs = {
            source: Codec(avro_schema(definitions.kafka_source(source)), ANY_ID) for source in ("payments", "cards")
        }
        self._random = np.random.default_rng(seed)
        self.payments: dict[int, Row] = {}
        self.cards: dict[int, Row] = {}
        self.records: list[tuple[str, bytes | None, bytes | None, int]] = []

    def run(self, count: int) -> int:
        """A snapshot, then life; returns when it ended."""
        random, at = self._random, START_MS
        for key in range(40):
            self.payments[key] = self._payment(key, at - int(random.integers(10 * DAY_MS)))
            self._tell(key, "r", at)
        for key in range(40, 40 + count):
            at += int(random.exponential(3 * MINUTE_MS) * random.choice([0, 0.1, 1, 10]))
            what = random.random()
            known = sorted(self.payments)
            if what < 0.4:
                self.payments[key] = self._payment(key, at)
                self._tell(key, "c", at)
            elif what < 0.75:
                some = int(random.choice(known))
                fresh = self._payment(some, at)
                names = [("status",), ("amount", "status"), ("account",), ("payee",), ("booked",)]
                self.payments[some] = self.payments[some] | {n: fresh[n] for n in names[random.integers(len(names))]}
                self._tell(some, "u", at, twice=random.random() < 0.1)
            elif what < 0.9:
                some = int(random.choice(known))
                del self.payments[some]
                self._tell(some, "d", at)
            else:
                self._card(int(random.integers(20)), at)
        for some in [key for key, row in self.payments.items() if row["account"] == "a0"]:
            del self.payments[some]  # a customer leaves
            self._tell(some, "d", at)
        return at

    def _payment(self, key: int, at: int) -> Row:
        random = self._random
        return {
            "id": key,
            "account": f"a{random.integers(6)}",
            "payee": None if random.random() < 0.1 else f"p{random.integers(8)}",
            "booked": at - int(random.choice([0, 0, 1, MINUTE_MS, 3 * DAY_MS])),
            "amount": float(np.round(random.lognormal(3, 2), 2)),
            "status": str(random.choice(["open", "settled", "disputed"])),
        }

    def _tell(self, key: int, op: str, at: int, twice: bool = False) -> None:
        row = self.payments.get(key)
        after = row and row | {"booked": datetime.fromtimestamp(row["booked"] / 1000, UTC)}
        # PostgreSQL's default replica identity: nobody knows what was before.
        envelope = {"after": after, "op": op, "source": {"version": "3", "ts_ms": at}, "ts_ms": at + 300}
        value = self._codecs["payments"].encode(envelope)
        for _ in range(1 + twice):
            self.records.append((TOPICS[0], b"\0\0\0\0\1" + bytes([key % 256, key // 256]), value, at + HOUR_MS))
        if op == "d":
            self.records.append((TOPICS[0], self.records[-1][1], None, at + HOUR_MS))

    def _card(self, key: int, at: int) -> None:
        if key in self.cards and self._random.random() < 0.4:
            del self.cards[key]
            value = None
        else:
            self.cards[key] = {"account": f"a{self._random.integers(6)}", "issued": at, "limit": 100 * (key + 1)}
            issued = datetime.fromtimestamp(at / 1000, UTC)
            value = self._codecs["cards"].encode(self.cards[key] | {"issued": issued})
        self.records.append((TOPICS[1], f"card {key}".encode(), value, at))

    def unusable(self, at: int) -> None:
        """A table that was emptied, a row of no key, a change that comes far too late, one of a card likewise."""
        envelope = {"after": None, "op": "t", "source": {"version": "3", "ts_ms": at}}
        self.records.append((TOPICS[0], b"emptied", self._codecs["payments"].encode(envelope), at))
        row = self._payment(0, at) | {"booked": datetime.fromtimestamp(at / 1000, UTC)}
        for key, when in ((None, at), (b"late", at - 5 * DAY_MS)):
            envelope = {"after": row, "op": "c", "source": {"version": "3", "ts_ms": when}}
            self.records.append((TOPICS[0], key, self._codecs["payments"].encode(envelope), at))
        self.records.append((TOPICS[1], b"card 1", None, at - 5 * DAY_MS))


def send(platform: Platform, records: list[tuple[str, bytes | None, bytes | None, int]]) -> None:
    producer = Producer({"bootstrap.servers": platform.endpoints.kafka, "log_level": 0})
    for topic, key, value, at in records:
        producer.produce(topic, key=key, value=value, timestamp=at, partition=sum(key or b"") % 2)
        producer.poll(0)
    assert producer.flush(30) == 0


def heartbeats(platform: Platform, at: int) -> None:
    producer = Producer({"bootstrap.servers": platform.endpoints.kafka, "log_level": 0})
    for topic in TOPICS:
        for partition in range(2):
            producer.produce(topic, value=None, timestamp=at, partition=partition)
    assert producer.flush(30) == 0


def aside(platform: Platform, topic: str) -> list[str]:
    found: list[str] = []
    reader = TopicReader(platform.endpoints.kafka, [topic])
    reader.read(lambda batch: found.extend(dict(each.headers() or [])["headwater.error"].decode() for each in batch))
    reader.close()
    return found


@pytest.mark.filterwarnings("ignore")
def test_what_is_served_is_what_the_tables_hold(platform: Platform, repo: Path, tmp_path: Path) -> None:
    definitions = load_repo(repo)
    bank = Bank(definitions, 11)
    ended = bank.run(1500)
    admin = AdminClient({"bootstrap.servers": platform.endpoints.kafka})
    for done in admin.create_topics([NewTopic(each, 2, 1) for each in TOPICS]).values():
        done.result()
    assert "features-bank runs as" in headwater(platform, "submit", "features", "--repo", str(repo))
    half = len(bank.records) // 2
    send(platform, bank.records[:half])
    deadline = time.monotonic() + 60
    while not any(counts(repo, ["a1", "a2"]).values()) and time.monotonic() < deadline:
        time.sleep(1)
    # Rows are there once a checkpoint is; what it holds of rows, tiles and pending changes is read again.
    headwater(platform, "jobs", "cancel", "features-bank")
    assert "features-bank runs as" in headwater(platform, "submit", "features", "--repo", str(repo))
    send(platform, bank.records[half:])
    heartbeats(platform, ended + 10 * MINUTE_MS)

    # Of every account what stands in the table at the end: no row is so old that it has left the window.
    assert min(row["booked"] for row in bank.payments.values()) > ended - 30 * DAY_MS
    wanted = {f"a{n}": sum(row["account"] == f"a{n}" for row in bank.payments.values()) for n in range(6)}
    assert wanted["a0"] == 0
    assert max(wanted.values()) > 10
    deadline = time.monotonic() + 90
    while (got := counts(repo, list(wanted))) != wanted and time.monotonic() < deadline:
        time.sleep(1)
    assert got == wanted

    # Now that the watermark is there: while some partition has not been read, nothing is late.
    usable = len(bank.records)
    bank.unusable(ended)
    send(platform, bank.records[usable:])
    heartbeats(platform, ended + 11 * MINUTE_MS)
    late = [f"{topic}.late" for topic in TOPICS]
    deadline = time.monotonic() + 60
    while not all(aside(platform, each) for each in late) and time.monotonic() < deadline:
        time.sleep(1)
    deadline = time.monotonic() + 30
    while (found := verify(platform, repo)).mismatches and time.monotonic() < deadline:
        time.sleep(1)
    assert found.mismatches == 0, found.examples
    assert found.compared > 10_000
    assert {name.partition("__")[0] for name in found.by_feature} == {"spending", "disputes", "issued"}
    letters = aside(platform, f"{TOPICS[0]}.dlq")
    assert sorted(letters) == [
        "expected a record key, which says whose row it is, got none",
        "expected op to be c, r, u or d, got t",
    ]
    for each in late:
        assert [why.partition(" ")[0] for why in aside(platform, each)] == ["late:"]
    planted(platform, repo)
    backfilled(platform, repo, tmp_path)


def counts(repo: Path, accounts: list[str]) -> dict[str, Any]:
    store = FeatureStore(str(repo))
    found = store.get_online_features(["spending:payments_30d"], [{"account": each} for each in accounts]).to_dict()
    return dict(zip(found["account"], found["payments_30d"], strict=True))


def planted(platform: Platform, repo: Path) -> None:
    """Definitions that are not what ran are found out."""
    definitions = repo / "definitions.py"
    whole = definitions.read_text()
    there = "WHERE status = 'disputed'"
    assert there in whole
    definitions.write_text(whole.replace(there, "WHERE status <> 'settled'"))
    wrong = [name for name, each in verify(platform, repo).by_feature.items() if each.mismatches]
    assert "disputes__disputes_7d" in wrong
    definitions.write_text(whole)


def backfilled(platform: Platform, repo: Path, tmp_path: Path) -> None:
    """History has the rows that the stream had."""
    file = tmp_path / "spending.parquet"
    span = ("--from", "2023-11-16", "--to", "2023-11-18")
    headwater(platform, "backfill", "--repo", str(repo), "--view", "spending", *span, "--parquet", str(file))
    history = pd.read_parquet(file)
    assert len(history) > 100
    said = json.loads(headwater(platform, "features", "compile", "--repo", str(repo), "--json"))
    assert {each["view"] for each in said} == {"spending", "disputes", "issued"}
