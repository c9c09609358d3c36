"""The summary over a real archive: the same figures as scikit-learn on the same rows, and a text that tells them."""

import io
import json
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import clickhouse_connect
import numpy as np
import pandas as pd
import pytest
from clickhouse_connect.driver.client import Client
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score

from compose.control import Evidence, Incident, milliseconds
from compose.demo.ledger import Hop, Ledger
from compose.demo.report import render
from compose.demo.summary import Comparison, Summary, compare, half_year_split
from compose.local.services import HOST, free_ports, python_module

START = datetime(2013, 1, 1, tzinfo=UTC)
FROZEN_FROM = datetime(2013, 2, 1, tzinfo=UTC)
SPLIT = datetime(2013, 7, 1, tzinfo=UTC)
ROWS = 6_000


@pytest.fixture(scope="module")
def traffic() -> pd.DataFrame:
    """A year of requests, with what three models say of each; every other one gets its label."""
    rng = np.random.default_rng(11)
    truth, noise = rng.random(ROWS), rng.normal(size=(2, ROWS))
    times = [START + timedelta(hours=364 * 24 * at / ROWS) for at in range(ROWS)]
    return pd.DataFrame(
        {
            "request_id": [f"f{at}" for at in range(ROWS)],
            "event_time": times,
            "model_version": np.where(pd.Series(times) < FROZEN_FROM, "prior", "1"),
            "probability": (0.1 + 0.8 * truth).round(6),
            "origin__frozen": np.clip(truth + 0.3 * noise[0], 0.01, 0.99).round(6),
            "origin__half": np.clip(truth + 0.2 * noise[1], 0.01, 0.99).round(6),
            "late": rng.random(ROWS) < truth,
        }
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, traffic: pd.DataFrame) -> Iterator[Client]:
    port = free_ports(("clickhouse",))["clickhouse"]
    command = python_module("compose.local.clickhouse", "--directory", tmp_path_factory.mktemp("ch"), "--port", port)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                client = clickhouse_connect.get_client(host=HOST, port=port)
                break
            except Exception:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        client.command("CREATE DATABASE headwater")
        fill(client, traffic)
        yield client
    finally:
        process.kill()
        process.wait()


def fill(client: Client, traffic: pd.DataFrame) -> None:
    engine = "_partition Int32, _offset Int64) ENGINE = MergeTree ORDER BY (event_time, _offset)"
    client.command(
        "CREATE TABLE headwater.predictions_delay (request_id Nullable(String), event_time DateTime64(3, 'UTC'), "
        "model_version String, probability Float64, origin__frozen Nullable(Float64), "
        f"origin__half Nullable(Float64), sketch Nullable(String), watermark Nullable(DateTime64(3, 'UTC')), {engine}"
    )
    client.command(
        "CREATE TABLE headwater.flights_arrivals (flight_id String, event_time DateTime64(3, 'UTC'), "
        f"arr_delay Float64, {engine}"
    )
    place = {"_partition": 0, "_offset": np.arange(len(traffic))}
    logged = traffic.drop(columns="late").assign(**place)
    client.insert_df("headwater.predictions_delay", logged, column_names=list(logged))
    landed = traffic.assign(
        flight_id=traffic["request_id"],
        event_time=traffic["event_time"] + pd.Timedelta(hours=5),
        arr_delay=np.where(traffic["late"], 16.0, 15.0),
        **place,
    )[["flight_id", "event_time", "arr_delay", "_partition", "_offset"]]
    client.insert_df("headwater.flights_arrivals", landed.iloc[::2], column_names=list(landed))


@pytest.fixture(scope="module")
def comparison(archive: Client) -> Comparison:
    return compare(
        archive,
        lambda frame: frame["origin__frozen"].to_numpy(float),
        milliseconds(FROZEN_FROM),
        lambda frame: frame["origin__half"].to_numpy(float),
        milliseconds(SPLIT),
    )


def expected(traffic: pd.DataFrame, since: datetime, column: str) -> dict[str, float]:
    rows = traffic.iloc[::2]
    rows = rows[rows["event_time"] >= since]
    return {"auc": roc_auc_score(rows["late"], rows[column]), "logloss": log_loss(rows["late"], rows[column])}


def test_live_and_frozen_are_judged_on_the_same_requests(comparison: Comparison, traffic: pd.DataFrame) -> None:
    for name, column in (("live", "probability"), ("frozen", "origin__frozen")):
        for measure, value in expected(traffic, FROZEN_FROM, column).items():
            assert comparison.whole[measure][name] == pytest.approx(value, abs=1e-9)
    assert comparison.count == (traffic.iloc[::2]["event_time"] >= FROZEN_FROM).sum()


def test_the_half_year_model_is_judged_on_what_it_has_not_seen(comparison: Comparison, traffic: pd.DataFrame) -> None:
    for name, column in (("live", "probability"), ("frozen", "origin__frozen"), ("half_year", "origin__half")):
        for measure, value in expected(traffic, SPLIT, column).items():
            assert comparison.second_half[measure][name] == pytest.approx(value, abs=1e-9)
    assert comparison.whole["auc"]["half_year"] == comparison.second_half["auc"]["half_year"]
    assert comparison.second_count < comparison.count


def test_months_cover_the_year(comparison: Comparison) -> None:
    assert [month.month for month in comparison.months][:2] == ["Jan 2013", "Feb 2013"]
    assert len(comparison.months) == 12
    assert sum(month.count for month in comparison.months) == ROWS // 2
    assert comparison.months[0].frozen_auc is None
    assert all(month.frozen_auc is not None for month in comparison.months[1:])


def test_without_a_model_there_is_nothing_to_compare(archive: Client) -> None:
    found = compare(archive, None, None, None, milliseconds(SPLIT))
    assert found.start_ms is None
    assert found.whole["auc"]["frozen"] is None
    assert found.whole["auc"]["live"] is not None
    assert found.whole["auc"]["half_year"] is None


def test_the_split_is_the_first_of_july(archive: Client) -> None:
    assert half_year_split(archive) == milliseconds(SPLIT)


def incident(name: str, **more: Any) -> Incident:
    told = {
        "incident_id": name, "kind": "alert", "model": "delay", "monitor": "performance", "cause": "world",
        "severity": "warning", "segment": "", "summary": "Loss rose [sic].", "alerts": 1,
        "start_ms": milliseconds(SPLIT), "end_ms": milliseconds(SPLIT), "opened_ms": milliseconds(SPLIT),
        "resolved": True, "evidence": (Evidence("origin__dep_delay_mean_1h", "psi", 0.6, 0.2, 1.0),),
    }  # fmt: skip
    return Incident(**(told | more))


def decided(verdict: str) -> dict[str, Any]:
    return {
        "decision": verdict, "champion_version": "1", "challenger_version": "2", "champion_log_loss": 0.5,
        "challenger_log_loss": 0.45, "champion_auc": 0.7, "challenger_auc": 0.75, "held_out_rows": 1234,
    }  # fmt: skip


@pytest.fixture
def summary(comparison: Comparison) -> Summary:
    hops = (
        Hop("→ flights.requests", 60, 60),
        Hop("flights.requests → archive", 60, 60),
        Hop("→ features.origin", 30, 30),
        Hop("→ features.tail", 12, 12),
        Hop("flights.requests → predictions.delay", 60, 58, dead=2),
    )
    ledger = Ledger(
        events={"flights.requests": 60}, requests=60, predictions=58, labels=30,
        feature_rows={"origin": 30, "tail": 12}, dead_letters=2, late=0, alerts=3, incidents=3,
        submissions=2, promotions=1, refusals=1, scheduled=0, hops=hops, seconds=0.1,
    )  # fmt: skip
    incidents = (
        incident("a", decision=decided("promoted"), submission="succeeded"),
        incident("b", decision=decided("refused"), submission="succeeded"),
        incident("c", cause="data", monitor="data"),
    )
    return Summary(ledger, comparison, incidents, seconds=120.0, replay_seconds=30.0)


def test_json_has_what_is_promised(summary: Summary) -> None:
    told = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    needed = {
        "events", "requests", "predictions", "labels", "feature_rows", "dead_letters", "late", "unaccounted",
        "duplicates", "alerts", "incidents", "submissions", "promotions", "refusals", "auc", "logloss", "seconds",
        "events_per_second", "second_half",
    }  # fmt: skip
    assert needed <= set(told)
    for place in (told, told["second_half"]):
        assert set(place["auc"]) == set(place["logloss"]) == {"live", "frozen", "half_year"}
    assert (told["events"], told["incidents"], told["events_per_second"]) == (60, 3, 2.0)
    assert [each["incident_id"] for each in told["timeline"]] == ["a", "b", "c"]


def shown(summary: Summary, encoding: str = "utf-8", width: int = 80) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    render(summary, Console(file=stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_the_text_tells_it_in_a_pipe_of_80_columns(summary: Summary) -> None:
    text = shown(summary)
    assert "\x1b" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "It adds up" in flat
    assert "features.* (2 views)" in flat
    assert "promoted 2: log loss 0.4500 against 0.5000 of 1, on 1,234 held-out requests" in flat
    assert "refused 2" in flat
    assert "1 refused because the challenger was not better" in flat
    assert "origin__dep_delay_mean_1h 3.0x" in flat
    assert "Loss rose [sic]." in flat
    assert "kept out of training sets" in flat
    assert f"{summary.comparison.whole['auc']['live']:.4f}" in flat


def test_a_terminal_without_unicode_gets_plain_bars(summary: Summary) -> None:
    assert "####" in shown(summary, "ascii")


def test_what_does_not_add_up_is_said(summary: Summary) -> None:
    ledger = Ledger(
        **{**vars(summary.ledger), "hops": (Hop("flights.requests → predictions.delay", 60, 58, missing=2),)}
    )
    flat = " ".join(shown(Summary(ledger, summary.comparison, (), 1.0, 1.0)).split())
    assert "It does not add up: 2 unaccounted for, 0 twice" in flat
    assert "Incidents: none." in flat
