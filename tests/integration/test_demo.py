"""The closed loop as a person runs it, in short: January and a week of February, once in peace and once among kills.

Both runs must come to the same answers, to the last digit: what is computed depends on event time alone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from confluent_kafka import TopicPartition

from compose.local import watchdog
from compose.local.home import Home
from compose.local.platform import Running
from compose.services import REPO
from features.compiler.repo import load_repo
from features.compiler.service import model_inputs, prediction_topic
from jobs.kafka import reader
from jobs.reading import client_of
from monitors.losses import TILE_MS
from monitors.sketches import Sketches
from schemas.codec import Codec

FLIGHTS = 33_000
TIMEOUT_S = 600
# In this order. A kill comes once everything is back from the one before.
KILLED = (
    "archiver",
    "pusher",
    "python worker",
    "clickhouse",
    "kafka",
    "taskmanager",
    "jobmanager",
    "controller",
    "retrainer",
    "replay",
)


class Demo:
    """``headwater demo`` as a process of its own, in a state directory of its own."""

    def __init__(self, root: Path, *options: str, flights: int = FLIGHTS) -> None:
        self.home = Home(root / "demo")
        self._out = (root / "out").open("w+")
        self._err = (root / "err").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "compose.cli", "demo", "--flights", str(flights), "--json", "--verify", *options],
            stdout=self._out,
            stderr=self._err,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "HEADWATER_HOME": str(root)},
        )
        self.token = ""

    def running(self) -> Running | None:
        found = Running.find(self.home)
        self.token = found.token if found else self.token
        return found

    def position(self) -> dict[str, Any]:
        try:
            lines = self.home.log_file("replay").read_text().splitlines()
            return json.loads(next(line for line in reversed(lines) if line.startswith('{"state"') and line[-1] == "}"))
        except (OSError, StopIteration, ValueError):
            return {"state": "waiting", "sent": {}}

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert self.process.poll() is None, f"ended while waiting for {what}:\n{self.text()}"
            assert time.monotonic() < deadline, f"{what} did not come about in {timeout_s} s:\n{self.text()}"
            time.sleep(0.1)
        return found

    def kill(self, name: str) -> None:
        """Kill -9 of one process; of several it may consist of, the one that was started."""
        if name == "python worker":
            victim = next(
                p for p in map(psutil.Process, self.members("taskmanager")) if "beam_boot" in str(p.cmdline())
            )
            victim.kill()
            return
        running = self.running()
        assert running is not None
        os.kill(int(running.services[name]["pid"]), signal.SIGKILL)

    def members(self, name: str) -> list[int]:
        return watchdog.members(self.token, name)

    def text(self) -> str:
        self._out.seek(0)
        self._err.seek(0)
        return self._err.read()[-4000:] + self._out.read()[-2000:]

    def last_line(self) -> str:
        """Of what it printed so far."""
        return (Path(self._out.name).read_text().splitlines() or [""])[-1]

    def summary(self) -> dict[str, Any]:
        """What it printed last, once it has ended well."""
        code = self.process.wait(TIMEOUT_S)
        assert code == 0, self.text()
        return dict(json.loads(self.last_line()))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.token:
            watchdog.end_all(self.token)
        self._out.close()
        self._err.close()


def checked(summary: dict[str, Any]) -> None:
    """What must hold whatever happened."""
    assert (summary["unaccounted"], summary["duplicates"]) == (0, 0), summary["hops"]
    assert summary["requests"] == summary["predictions"] == FLIGHTS
    parity = summary["verification"]
    assert parity["compared"] == FLIGHTS * 31
    assert parity["mismatches"] == 0, parity["examples"]
    assert summary["scheduled"] == 1  # the first model
    assert summary["auc"]["live"] is not None  # it answered


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary; what `headwater incidents` says; what becomes of features that go wrong."""
    demo = Demo(tmp_path_factory.mktemp("peace"), "--keep")
    try:
        demo.until(lambda: demo.last_line().startswith("{"), "the summary")
        summary = dict(json.loads(demo.last_line()))
        told = told_of_incidents(demo)
        running = demo.running()
        assert running is not None
        early = promised_too_early(running.endpoints.kafka)
        wrong = trained_on_wrong_features(demo)
        return summary | {
            "told": told,
            "early": early,
            "trained_again": wrong,
            "watched": watched_while_wrong(demo),
        }
    finally:
        demo.end()


def told_of_incidents(demo: Demo) -> dict[str, list[dict[str, Any]]]:
    """What `headwater incidents list` says, and `show` of the first."""
    running = demo.running()
    assert running is not None

    def said(*arguments: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "compose.cli", "incidents", *arguments, "--json"]
        done = subprocess.run(
            [*command, "--kafka", running.endpoints.kafka],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [dict(json.loads(line)) for line in done.stdout.splitlines()]

    listed = said("list")
    return {"listed": listed, "first": said("show", listed[0]["incident_id"][:10])}


def promised_too_early(kafka: str) -> dict[str, int]:
    """Sketches among the predictions, and those that come behind an event time that is past one of their tiles."""
    answers = prediction_topic(model_inputs(load_repo(REPO), "delay"))
    codec, consumer = Codec(answers.schema, answers.schema_id), reader(kafka, enable_partition_eof=True)
    parts = list(consumer.list_topics(answers.name, TIMEOUT_S).topics[answers.name].partitions)
    consumer.assign([TopicPartition(answers.name, part, 0) for part in parts])
    promised, found = dict.fromkeys(parts, 0), {"sketches": 0, "early": 0}
    while parts:
        message = consumer.poll(TIMEOUT_S)
        assert message is not None, f"{found} and nothing more of partitions {parts}"
        part = int(message.partition() or 0)
        if message.error() is not None:
            parts.remove(part)
            continue
        record = codec.decode(bytes(message.value() or b""))
        if record["sketch"]:
            found["sketches"] += 1
            found["early"] += int(Sketches.from_bytes(record["sketch"]).tiles[0]) + TILE_MS <= promised[part]
        promised[part] = max(promised[part], round(record["watermark"].timestamp() * 1000))
    consumer.close()
    return found


def change_ten(clickhouse: str, until: str, by: str) -> None:
    """Change a value that was logged with each of ten requests, the newest before a time."""
    wrong, answers = "origin__dep_count_1h", "headwater.predictions_delay"
    client_of(clickhouse).command(
        f"ALTER TABLE {answers} UPDATE {wrong} = {wrong} {by} WHERE request_id IN (SELECT request_id "
        f"FROM {answers} WHERE event_time <= {until} AND {wrong} > 1 ORDER BY event_time DESC, request_id LIMIT 10)",
        settings={"mutations_sync": 1},
    )


def watched(demo: Demo, *options: str) -> dict[str, Any]:
    """What `headwater watch` says, and its exit status under ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", "compose.cli", "watch", "--json", *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "HEADWATER_HOME": str(demo.home.root.parent)},
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout)) | {"code": done.returncode}


def watched_while_wrong(demo: Demo) -> list[dict[str, Any]]:
    """Looks at ourselves: as all is well; twice with ten values of the newest requests changed; and put right."""
    running = demo.running()
    assert running is not None
    found = [watched(demo, "--last", "1d")]
    settled = "(SELECT max(event_time) - INTERVAL 2 MINUTE FROM headwater.predictions_delay)"
    change_ten(running.endpoints.clickhouse, settled, "+ 1")
    found += [watched(demo, "--last", "1d"), watched(demo, "--last", "1d")]
    change_ten(running.endpoints.clickhouse, settled, "- 1")
    return [*found, watched(demo, "--last", "1d")]


def trained_on_wrong_features(demo: Demo) -> dict[str, Any]:
    """Change what was logged with ten requests of the held-out week, and have the first model trained once more."""
    (first,) = demo.home.path("runs").glob("*/payload.json")
    payload = json.loads(first.read_text())
    change_ten(payload["clickhouse"], f"fromUnixTimestamp64Milli({payload['cutoff_ms']})", "+ 1")
    again = demo.home.path("again")
    again.mkdir()
    (again / "payload.json").write_text(json.dumps(payload))
    command = [sys.executable, "-m", "jobs.training", "--run", str(again)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((again / "result.json").read_text()))


def test_everything_adds_up_and_every_feature_is_right(peace: dict[str, Any]) -> None:
    checked(peace)
    assert peace["events"] == sum(peace["events_by_topic"].values()) > 100_000
    assert peace["auc"]["live"] > 0.6


def test_who_reads_predictions_has_every_sketch_before_its_hour_is_over(peace: dict[str, Any]) -> None:
    """Else the drift job would judge hours and days without a part of what was asked in them."""
    assert peace["early"]["sketches"] > 5
    assert peace["early"]["early"] == 0


def test_the_story_of_an_incident_is_told(peace: dict[str, Any]) -> None:
    listed, first = peace["told"]["listed"], peace["told"]["first"]
    assert len(listed) == peace["incidents"] + peace["scheduled"]
    assert {each["incident_id"] for each in first} == {listed[0]["incident_id"]}
    topics = [each["topic"] for each in first]
    assert {"retraining.events", "submissions", "models.decisions", "models.control"} <= set(topics)
    statuses = [each["status"] for each in first if each["topic"] == "submissions"]
    assert statuses == ["intent", "accepted", "succeeded"]
    assert [each["number"] for each in first if each["topic"] == "submissions"] == sorted(
        each["number"] for each in first if each["topic"] == "submissions"
    )


def test_a_model_of_wrong_features_is_not_promoted(peace: dict[str, Any]) -> None:
    """The very run that gave the first model: ten values in the log are not what their definition says."""
    found = peace["trained_again"]
    assert found["decision"] == "refused"
    assert found["parity_mismatches"] == 10
    assert found["parity_compared"] > 100_000
    assert "10 of" in found["reason"]
    assert "origin__dep_count_1h" in found["reason"]
    assert found["challenger_log_loss"] < found["champion_log_loss"]  # it would have won


def test_wrong_features_are_an_incident_of_ours_until_they_are_right(peace: dict[str, Any]) -> None:
    well, opened, still, over = peace["watched"]
    assert (well["code"], well["mismatches"], well["alerts"]) == (0, 0, [])
    assert well["requests"] > 500
    topics = {each["topic"]: each for each in well["topics"]}
    assert set(topics) == {f"flights.{name}" for name in ("requests", "departures", "arrivals", "weather")}
    assert not any(each["wrong"] for each in topics.values())
    assert topics["flights.requests"]["schemas"] == [1]
    assert (opened["code"], opened["mismatches"]) == (1, 10)
    (alert,) = opened["alerts"]
    assert (alert["status"], alert["cause"], alert["monitor"], alert["severity"]) == (
        "opened",
        "us",
        "parity",
        "critical",
    )
    assert [each["column"] for each in alert["evidence"]] == ["origin__dep_count_1h"]
    assert alert["window_start"] == opened["start_ms"]
    assert (still["code"], still["alerts"]) == (1, [])
    assert [each["status"] for each in over["alerts"]] == ["resolved"]
    assert over["alerts"][0]["incident_id"] == alert["incident_id"]
    assert (over["code"], over["mismatches"]) == (0, 0)


def test_kills_change_nothing(peace: dict[str, Any], tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--rate", "1500")
    try:
        demo.until(lambda: sum(demo.position()["sent"].values()) > 10_000, "traffic")
        for name in KILLED:
            demo.until(lambda: (found := demo.running()) and found.state == "up", f"everything before {name} is killed")
            assert demo.position()["state"] != "done", f"the replay was over before {name} was killed"
            demo.kill(name)
            time.sleep(1.5)
        summary = demo.summary()
    finally:
        demo.end()
    checked(summary)
    assert summary["predictions_digest"] == peace["predictions_digest"]
    assert watchdog.members(demo.token) == []


def test_latest_mode_logs_what_it_read_from_the_store_and_is_told_when_that_is_behind(tmp_path: Path) -> None:
    """In a replay the store is ahead of requests; here its pusher stands still after its first rows."""
    demo = Demo(tmp_path, "--mode", "latest", "--keep", "--rate", "500", flights=6000)
    try:
        demo.until(lambda: sum(demo.position()["sent"].values()) > 0, "traffic")
        running = demo.running()
        assert running is not None
        client, pusher = client_of(running.endpoints.clickhouse), int(running.services["pusher"]["pid"])
        demo.until(lambda: answers(client, "origin__event_time IS NOT NULL") > 500, "answers from the store")
        os.kill(pusher, signal.SIGSTOP)
        demo.until(lambda: answers(client) == 6000, "every answer")
        os.kill(pusher, signal.SIGCONT)
        demo.until(lambda: demo.last_line().startswith("{"), "the summary")
        summary = dict(json.loads(demo.last_line()))
        span = ("--mode", "latest", "--last", "10d", "--stale")
        behind, patient = watched(demo, *span, "5min"), watched(demo, *span, "365d")
    finally:
        demo.end()
    assert (summary["unaccounted"], summary["duplicates"]) == (0, 0), summary["hops"]
    assert summary["predictions"] == 6000
    parity = summary["verification"]
    assert parity["mismatches"] == 0, parity["examples"]
    assert set(parity["age_seconds"]) >= {"origin", "carrier", "tail", "weather"}  # rows were found
    assert behind["stale"]["origin"] > 500
    (alert,) = behind["alerts"]
    assert (alert["status"], alert["cause"], alert["segment"]) == ("opened", "us", "online store")
    assert "origin" in {each["column"] for each in alert["evidence"]}
    assert (behind["code"], behind["mismatches"], set(patient["stale"].values())) == (1, 0, {0})
    assert [(each["status"], each["incident_id"]) for each in patient["alerts"]] == [("resolved", alert["incident_id"])]


def answers(client: Client, only: str = "1") -> int:
    """That are archived."""
    try:
        return int(client.query(f"SELECT count() FROM headwater.predictions_delay WHERE {only}").result_rows[0][0])
    except DatabaseError:  # no table yet
        return 0
