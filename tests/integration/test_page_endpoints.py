"""The page's endpoints over a real broker and a real archive."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from own_services import own_clickhouse, own_kafka

from compose.page import Endpoints, Page, PageServer
from compose.performance import Performance, Scored, auc, log_loss
from schemas.codec import Codec
from schemas.topics import TOPICS

START = datetime(2013, 1, 1, tzinfo=UTC)
DAYS, A_DAY = 20, 200
FROZEN_FROM = START + timedelta(days=7)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Client]]:
    with own_clickhouse(tmp_path_factory.mktemp("page")) as (url, client):
        fill(client)
        yield url, client


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, archive: tuple[str, Client]) -> Iterator[PageServer]:
    root = tmp_path_factory.mktemp("page")
    (root / "reports").mkdir()
    (root / "reports" / "i1.html").write_text("report")
    with own_kafka(root) as kafka:
        tell(kafka)
        page = Page(Endpoints(kafka, archive[0], "", root))
        served = PageServer(page, 0)
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()
        served.server_close()
        page.close()


def rows() -> tuple[list[datetime], Any, Any]:
    rng = np.random.default_rng(5)
    times = [START + timedelta(days=day, seconds=86_400 * at / A_DAY) for day in range(DAYS) for at in range(A_DAY)]
    probability = rng.random(len(times)).round(6)
    return times, probability, rng.random(len(times)) < probability


def fill(client: Client) -> None:
    times, probability, late = rows()
    place = "_partition Int32, _offset Int64) ENGINE = MergeTree ORDER BY (_partition, _offset)"
    client.command(
        "CREATE TABLE headwater.predictions_delay (request_id String, event_time DateTime64(3, 'UTC'), "
        f"model_version String, probability Float64, `origin__x` Nullable(Float64), sketch Nullable(String), {place}"
    )
    client.command(
        f"CREATE TABLE headwater.flights_arrivals (flight_id String, event_time DateTime64(3, 'UTC'), "
        f"arr_delay Float64, {place}"
    )
    ids = [f"f{at}" for at in range(len(times))]
    versions = ["1" if at >= FROZEN_FROM else "prior" for at in times]
    made = zip(ids, times, versions, probability.tolist(), (1 - probability).tolist(), strict=True)
    client.insert("headwater.predictions_delay", [[*each, None, 0, at] for at, each in enumerate(made)])
    labels = [(60.0 if each else 0.0) for each in late]
    landed = [[ids[at], times[at] + timedelta(hours=3), labels[at], 0, at] for at in range(len(ids)) if at % 10]
    client.insert("headwater.flights_arrivals", landed)


def tell(kafka: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    for made in admin.create_topics([NewTopic(name, 1, 1) for name in (*TOPICS, "predictions.delay")]).values():
        made.result(10)
    producer = Producer({"bootstrap.servers": kafka})

    def put(topic: str, **record: Any) -> None:
        producer.produce(topic, Codec(TOPICS[topic].schema, TOPICS[topic].schema_id).encode(record), "delay")

    end = START + timedelta(days=DAYS)
    for at in range(100):
        stamp = round((end - timedelta(minutes=100 - at)).timestamp() * 1000)
        producer.produce("flights.requests", b"x", b"k", timestamp=stamp)
    for day in range(7, DAYS):
        window = {"window_start": START + timedelta(days=day), "window_end": START + timedelta(days=day + 1)}
        result = {"segment": "", "statistic": "psi", "threshold": 0.2, "p_value": None, "count": 200}
        results = [{**result, "column": "origin__x", "value": 0.01 * day, "fired": day == 19}]
        put("drift.windows", model="delay", model_version="1", monitor="features", results=results, **window)
    put("models.control", model="delay", version="1", uri="models/1", event_time=FROZEN_FROM, watermark=FROZEN_FROM,
        action="promote", incident_id="i0")  # fmt: skip
    put("models.control", model="delay", version="1", uri="", event_time=end, watermark=end, action="hold",
        incident_id="i1")  # fmt: skip
    evidence = [{"column": "origin__x", "statistic": "psi", "value": 0.5, "threshold": 0.2, "share": 1.0}]
    put("drift.alerts", incident_id="i1", status="opened", severity="critical", cause="data", model="delay",
        model_version="1", monitor="features", segment="", window_start=end - timedelta(days=1), window_end=end,
        summary="x is off", policy="1", report=None, evidence=evidence)  # fmt: skip
    producer.flush()
    group = Consumer({"bootstrap.servers": kafka, "group.id": "headwater-scoring"})
    group.commit(offsets=[TopicPartition("flights.requests", 0, 90)], asynchronous=False)
    group.close()


def ask(page: PageServer, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{page.server_port}/api/{path}", timeout=30) as answer:
        return json.load(answer)


def test_live_tells_where_the_replay_is_and_who_lags(page: PageServer) -> None:
    told = ask(page, "live")
    assert told["replay"]["event_time_ms"] == round((START + timedelta(days=DAYS, minutes=-1)).timestamp() * 1000)
    assert told["replay"]["state"] == "held"
    assert told["model_version"] == "1"
    jobs = {each["name"]: each for each in told["jobs"]}
    assert jobs["scoring"]["lag"] == 10
    assert jobs["archive"]["lag"] == 0
    assert jobs["scoring"]["event_time_ms"] == round(rows()[0][-1].timestamp() * 1000)
    assert told["problems"] == []
    assert told["totals"]["events"] == 100


def test_incidents_link_the_reports_that_exist(page: PageServer) -> None:
    told = ask(page, "incidents")
    (incident,) = told["incidents"]
    assert (incident["cause"], incident["report_url"]) == ("data", "/reports/i1.html")
    assert [each["incident_id"] for each in told["quarantines"]] == ["i1"]


def test_drift_is_the_largest_ratio_of_each_week(page: PageServer) -> None:
    told = ask(page, "drift")
    (row,) = told["rows"]
    assert row["column"] == "origin__x"
    assert [(round(cell["ratio"], 6), cell["fired"], cell["windows"]) for cell in row["cells"]] == [
        (0.65, False, 7),
        (0.95, True, 6),
    ]


def test_performance_fills_up_while_a_browser_looks(page: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compose.page._scorer", lambda *_: lambda frame: frame["origin__x"].to_numpy(float))
    deadline = time.monotonic() + 30
    while not (told := ask(page, "performance?bucket=7"))["buckets"] or len(told["buckets"]) < 3:
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    _, probability, late = rows()
    known = np.arange(len(late)) % 10 > 0
    first = known & (np.arange(len(late)) < 7 * A_DAY)
    second = known & (np.arange(len(late)) >= 7 * A_DAY) & (np.arange(len(late)) < 14 * A_DAY)
    assert told["buckets"][0]["live"]["auc"] == pytest.approx(auc(late[first], probability[first]), abs=1e-6)
    assert told["buckets"][0]["frozen"] == {"auc": None, "logloss": None}
    assert told["buckets"][0]["versions"] == ["prior"]
    assert told["buckets"][1]["count"] == second.sum()
    worse = log_loss(late[second], 1 - probability[second])
    assert told["buckets"][1]["frozen"]["logloss"] == pytest.approx(worse, abs=1e-6)
    assert len(ask(page, "performance?bucket=1")["buckets"]) == DAYS


def test_days_are_done_again_until_their_labels_are_in(archive: tuple[str, Client]) -> None:
    _, client = archive
    performance = Performance(chunk_days=3)
    model = Scored("1", round(FROZEN_FROM.timestamp() * 1000), lambda frame: frame["origin__x"].to_numpy(float))
    steps = 0
    while performance.step(client, model):
        steps += 1
        assert steps < 50
    assert steps >= DAYS / 3
    assert len(performance.days) == DAYS
    assert performance.step(client, model) is False
    before = len(performance.days[max(performance.days)].label)
    times, _, _ = rows()
    client.insert("headwater.flights_arrivals", [["f3990", times[-1] + timedelta(hours=4), 5.0, 0, 9999]])
    assert performance.step(client, model)
    assert len(performance.days[max(performance.days)].label) == before + 1
