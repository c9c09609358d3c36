"""The ledger against a real broker: planted losses, copies, dead letters and late records are all found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from own_services import clear, own_clickhouse, own_kafka

from compose.control import ControlLog, fold
from compose.demo.ledger import Ledger, LedgerError, count
from schemas.codec import Codec
from schemas.topics import TOPICS

START = datetime(2013, 2, 1, tzinfo=UTC)
PREDICTIONS = "predictions.delay"
ORIGIN = "features.origin"
TAIL = "features.tail"
ASIDE = ("flights.requests.dlq", "flights.requests.late", "flights.departures.dlq")
NAMES = (*TOPICS, PREDICTIONS, ORIGIN, TAIL, *ASIDE)


@dataclass
class World:
    """A broker and an archive with a few records in each place."""

    kafka: str
    archive: Client
    producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        self.producer = Producer({"bootstrap.servers": self.kafka, "log_level": 0})

    def put(self, name: str, key: str | None, value: bytes | None = b"x", minute: int = 0, **headers: str) -> None:
        stamp = round((START + timedelta(minutes=minute)).timestamp() * 1000)
        named = [(f"headwater.{each}", text) for each, text in headers.items()]
        self.producer.produce(name, value, key, timestamp=stamp, headers=named, partition=0)

    def tell(self, topic: str, **record: Any) -> None:
        self.producer.produce(
            topic, Codec(TOPICS[topic].schema, TOPICS[topic].schema_id).encode(record), record["model"]
        )

    def table(self, name: str, rows: Sequence[Sequence[Any]], columns: str) -> None:
        self.archive.command(f"DROP TABLE IF EXISTS headwater.{name}")
        self.archive.command(
            f"CREATE TABLE headwater.{name} ({columns}, _partition Int32, _offset Int64) "
            "ENGINE = MergeTree ORDER BY (_partition, _offset)"
        )
        if rows:
            self.archive.insert(f"headwater.{name}", rows)

    def count(self, **options: Any) -> Ledger:
        assert self.producer.flush(10) == 0
        return count(self.kafka, self.archive, **options)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with own_kafka(tmp_path_factory.mktemp("ledger")) as address:
        yield address


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with own_clickhouse(tmp_path_factory.mktemp("ledger")) as (_, client):
        yield client


@pytest.fixture
def world(kafka: str, archive: Client) -> World:
    """Ten flights that went through every hop, with hourly heartbeats between them."""
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    clear(kafka)
    for made in admin.create_topics([NewTopic(name, 1, 1) for name in NAMES]).values():
        made.result(10)
    world = World(kafka, archive)
    ids = [f"UA{number}" for number in range(10)]
    for minute, name in enumerate(ids):
        for topic in ("flights.requests", "flights.departures", "flights.arrivals"):
            world.put(topic, name, minute=minute)
            world.put(topic, None, None, minute=minute)
        world.put(PREDICTIONS, name, minute=minute)
        world.put(PREDICTIONS, None, minute=minute)
        world.put(ORIGIN, "EWR", minute=15 * minute)
        world.put(TAIL, "N1", minute=minute)
    world.put("flights.weather", "EWR")
    for table in ("flights_requests", "flights_departures", "flights_arrivals"):
        world.table(table, [[name, 0, 2 * at] for at, name in enumerate(ids)], "flight_id String")
    world.table("predictions_delay", [[name, 0, 2 * at] for at, name in enumerate(ids)], "request_id String")
    world.table("flights_weather", [["EWR", 0, 0]], "origin String")
    rows = [["N1", START + timedelta(minutes=at), float(at), 0, at] for at in range(10)]
    tail = "tailnum String, event_time DateTime64(3, 'UTC'), arr_delay_last Float64"
    world.table("features_tail", rows, tail)
    world.table("features_origin", [["EWR", 0, at] for at in range(10)], "origin String")
    return world


def hop(ledger: Ledger, name: str) -> Any:
    return next(each for each in ledger.hops if each.name == name)


def test_a_clean_run_adds_up(world: World) -> None:
    ledger = world.count()
    assert (ledger.unaccounted, ledger.duplicates) == (0, 0)
    assert ledger.events == {
        "flights.requests": 10,
        "flights.departures": 10,
        "flights.arrivals": 10,
        "flights.weather": 1,
    }
    assert (ledger.requests, ledger.predictions, ledger.labels) == (10, 10, 10)
    assert ledger.feature_rows == {"origin": 10, "tail": 10}
    assert (ledger.dead_letters, ledger.late) == (0, 0)
    whole = ledger.as_dict()
    assert (whole["events"], whole["feature_rows"], whole["unaccounted"], whole["duplicates"]) == (31, 20, 0, 0)


def test_a_request_without_a_prediction_is_unaccounted(world: World) -> None:
    world.put("flights.requests", "UA99")
    world.archive.insert("headwater.flights_requests", [["UA99", 0, 20]])
    ledger = world.count()
    assert ledger.unaccounted == 1
    assert hop(ledger, "flights.requests → predictions.delay").missing == 1


@pytest.mark.parametrize("aside", ["dlq", "late"])
def test_a_request_put_aside_is_accounted_for_once(world: World, aside: str) -> None:
    world.put("flights.requests", "UA99")
    world.archive.insert("headwater.flights_requests", [["UA99", 0, 20]])
    for job in ("scoring", "features"):  # two jobs met the same record
        world.put(f"flights.requests.{aside}", None, topic="flights.requests", partition="0", offset="20", job=job)
    ledger = world.count()
    assert ledger.unaccounted == 0
    assert (ledger.dead_letters, ledger.late) == ((1, 0) if aside == "dlq" else (0, 1))


def test_a_dead_letter_of_another_record_excuses_nothing(world: World) -> None:
    world.put("flights.requests", "UA99")
    world.put("flights.requests.dlq", None, topic="flights.requests", partition="0", offset="18")
    assert hop(world.count(), "flights.requests → predictions.delay").missing == 1


def test_a_prediction_nobody_asked_for_is_unaccounted(world: World) -> None:
    world.put(PREDICTIONS, "UA99")
    assert hop(world.count(), "flights.requests → predictions.delay").surplus == 1


def test_a_prediction_given_twice_is_a_duplicate(world: World) -> None:
    world.put(PREDICTIONS, "UA3")
    ledger = world.count(archived=["flights.requests"])
    assert (ledger.unaccounted, ledger.duplicates) == (0, 1)


def test_an_event_sent_twice_is_a_duplicate(world: World) -> None:
    world.put("flights.departures", "UA3", minute=3)
    ledger = world.count(archived=())
    assert (ledger.unaccounted, ledger.duplicates) == (0, 1)


def test_an_event_never_sent_is_unaccounted(world: World) -> None:
    assert world.count(sent={"flights.departures": 12}).unaccounted == 2


def test_a_row_missing_from_the_archive_is_unaccounted(world: World) -> None:
    world.archive.command("ALTER TABLE headwater.flights_arrivals DELETE WHERE _offset = 4 SETTINGS mutations_sync = 2")
    ledger = world.count()
    assert ledger.unaccounted == 1
    assert hop(ledger, "flights.arrivals → archive").missing == 1


def test_a_missing_table_is_all_its_rows(world: World) -> None:
    world.archive.command("DROP TABLE headwater.flights_arrivals")
    assert world.count().unaccounted == 10


def test_a_loss_and_a_copy_in_the_archive_do_not_cancel_out(world: World) -> None:
    world.archive.command("ALTER TABLE headwater.flights_arrivals DELETE WHERE _offset = 4 SETTINGS mutations_sync = 2")
    world.archive.insert("headwater.flights_arrivals", [["UA4", 0, 8]])
    ledger = world.count()
    assert (ledger.unaccounted, ledger.duplicates) == (1, 1)


def test_an_undecodable_event_is_dead_everywhere_and_no_loss(world: World) -> None:
    world.put("flights.departures", "bad", b"\xff")
    world.put("flights.departures.dlq", None, b"\xff", topic="flights.departures", partition="0", offset="20")
    ledger = world.count()
    assert (ledger.unaccounted, ledger.duplicates, ledger.dead_letters) == (0, 0, 1)
    assert hop(ledger, "flights.departures → archive").dead == 1


def test_two_window_rows_of_one_entity_and_time_are_duplicates(world: World) -> None:
    world.put(ORIGIN, "EWR", minute=15)
    world.archive.insert("headwater.features_origin", [["EWR", 0, 10]])
    assert world.count().duplicates == 1


@pytest.mark.parametrize(("value", "duplicates"), [(64.0, 0), (3.0, 1)])
def test_two_latest_rows_of_one_time_may_be_two_events(world: World, value: float, duplicates: int) -> None:
    world.put(TAIL, "N1", minute=3)
    world.archive.insert("headwater.features_tail", [["N1", START + timedelta(minutes=3), value, 0, 10]])
    assert world.count().duplicates == duplicates


def control(world: World, submission_ids: Sequence[str], decided: bool = True) -> None:
    window = {"window_start": START, "window_end": START + timedelta(days=1)}
    common = {"incident_id": "i1", "model": "delay"}
    evidence = [{"column": "origin__dep_delay_mean_1h", "statistic": "psi", "value": 0.9, "threshold": 0.3, "share": 1}]
    for status in ("opened", "updated", "resolved"):
        world.tell(
            "drift.alerts", **common, **window, status=status, severity="warning", cause="world", model_version="1",
            monitor="performance", segment="", summary="log loss rose", evidence=evidence, policy="1",
        )  # fmt: skip
    event = common | {
        "monitor": "performance", "reason": "alert", "event_time": START,
        "effective_from": START + timedelta(days=4), "policy": "1",
    }  # fmt: skip
    world.tell("retraining.events", **event)
    steps = [(each, status) for each in submission_ids for status in ("intent", "accepted", "succeeded")]
    for number, (each, status) in enumerate(steps, 1):
        world.tell(
            "submissions", **common, backend="local", submission_id=None if status == "intent" else each, epoch=1,
            number=number, status=status, payload_hash="h", event=event, event_time=START, recorded_at=START,
        )  # fmt: skip
    for _ in range(2 if decided else 0):  # a consumer that was killed says it again
        world.tell(
            "models.decisions", **common, decision="promoted", champion_version="1", challenger_version="2",
            champion_log_loss=0.5, challenger_log_loss=0.4, champion_auc=0.7, challenger_auc=0.8, margin=0.002,
            held_out_rows=100, reason="better", event_time=START,
        )  # fmt: skip


def test_the_control_loop_is_counted_by_incident(world: World) -> None:
    control(world, ["run-1", "run-1"])
    ledger = world.count()
    assert (ledger.unaccounted, ledger.duplicates) == (0, 0)
    assert (ledger.alerts, ledger.incidents, ledger.submissions) == (2, 1, 1)
    assert (ledger.promotions, ledger.refusals, ledger.scheduled) == (1, 0, 0)
    log = ControlLog(world.kafka)
    log.refresh()
    log.refresh()  # reads on, not again
    log.close()
    (incident,) = fold(log.records)
    assert incident.promoted_version == "2"
    assert incident.resolved
    assert incident.evidence[0].column == "origin__dep_delay_mean_1h"


def test_the_same_incident_submitted_twice_is_a_duplicate(world: World) -> None:
    control(world, ["run-1", "run-2"])
    assert world.count().duplicates == 1


def test_a_submission_nobody_decided_is_unaccounted(world: World) -> None:
    control(world, ["run-1"], decided=False)
    assert world.count().unaccounted == 1


def test_no_requests_is_told(kafka: str, archive: Client) -> None:
    clear(kafka)
    with pytest.raises(LedgerError, match=r"expected a topic flights\.requests"):
        count(kafka, archive)


def test_a_million_records_are_counted_exactly(world: World) -> None:
    rows = 1_000_000
    assert world.producer.flush(10) == 0  # else what it still holds goes with it
    world.producer = Producer({"bootstrap.servers": world.kafka, "linger.ms": 50, "queue.buffering.max.messages": 0})
    for number in range(rows):
        world.producer.produce(ORIGIN, b"x" * 40, b"EWR", partition=0, timestamp=1 + number)
        if number % 100_000 == 0:
            world.producer.flush()
    world.producer.flush()
    ledger = world.count(archived=())
    assert ledger.feature_rows["origin"] == rows + 10
    assert ledger.duplicates == 0
