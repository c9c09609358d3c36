"""Controller and consumer as real processes on a real Kafka and ClickHouse, killed and raced.

Windows and alerts are written by hand, as the drift job would; what trains is a small program.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import clickhouse_connect
import pytest
from confluent_kafka import ConsumerGroupState, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from compose.local.platform import Platform, local_services
from features.compiler.inputs import Inputs, write_inputs
from jobs.kafka import FencedError, Publish, TopicLog, Writer, encode
from jobs.retraining.consumer import GROUP
from jobs.retraining.payload import Archive, champion_at, last_kept_offset
from monitors.policy import DEFAULT_POLICY, load_policy
from schemas.topics import Topic

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
START_MS = 1_356_998_400_000  # 2013-01-01
MONITORS = ("data", "features", "performance", "sequential")
CONTROL = ("retraining.events", "submissions", "models.decisions", "models.control")
INCIDENTS = 50
PREDICTIONS = Topic("predictions.delay", 1 << 30, key="request_id")

TRAIN = """
import json, pathlib, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--run") + 1])
payload = json.loads((run / "payload.json").read_text())
with (run / "started").open("a") as stream:
    stream.write("x")
time.sleep(float(sys.argv[1]))
champion = payload["champion"] or {"version": "0"}
version = str(int(champion["version"]) + 1)
(run / "r").write_text(json.dumps({
    "status": "succeeded", "version": version, "uri": payload["models_dir"] + "/delay/" + version,
    "decision": "promoted", "challenger_log_loss": 0.44, "challenger_auc": 0.78, "held_out_rows": 100,
    "reason": "better",
}))
(run / "r").replace(run / "result.json")
"""


def at(day):
    return START_MS + round(day * DAY_MS)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """Kafka and ClickHouse alone, with topics nobody else writes to."""

    def services(of):
        return [each for each in local_services(of) if each.name in ("kafka", "clickhouse")]

    home = tmp_path_factory.mktemp("retraining")
    with Platform(home, services=services, topics=lambda: [PREDICTIONS]).running() as started:
        client = clickhouse_connect.get_client(host="127.0.0.1", port=started.ports["clickhouse"])
        client.command("CREATE DATABASE IF NOT EXISTS headwater")
        for table in ("predictions_delay", "flights_arrivals"):
            columns = "(_partition Int32, _offset Int64)"
            client.command(f"CREATE TABLE headwater.{table} {columns} ENGINE = MergeTree ORDER BY _offset")
        client.close()
        yield started


class Loop:
    """One model's control loop: its processes, and its topics."""

    def __init__(self, platform, tmp_path):
        self.model = f"m{uuid.uuid4().hex[:8]}"
        self.kafka, self.clickhouse, self.home = platform.endpoints.kafka, platform.endpoints.clickhouse, tmp_path
        self.producer = Producer({"bootstrap.servers": self.kafka})
        self.processes = []
        self.policy = tmp_path / "policy.yaml"
        text = DEFAULT_POLICY.read_text().replace("cool_down: 28 d", "cool_down: 14 d")
        self.policy.write_text(text.replace("lead: 7 d", "lead: 4 d"))

    def start(self, name, *arguments):
        log = (self.home / f"{name}-{len(self.processes)}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", f"jobs.retraining.{name}", "--kafka", self.kafka, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={key: value for key, value in os.environ.items() if not key.startswith("HEADWATER_")},
        )
        log.close()
        process.log = self.home / f"{name}-{len(self.processes)}.log"
        self.processes.append(process)
        return process

    def controller(self):
        return self.start("controller", "--model", self.model, "--start", "2013-01-01", "--policy", str(self.policy))

    def consumer(self, seconds=0.0):
        inputs = Inputs(self.model, "flights.arrivals", "flight_id", "true", (), (), (), "prior", (), {})
        write_inputs(self.home / "inputs.json", {self.model: inputs})
        where = ("--clickhouse", self.clickhouse, "--home", str(self.home))
        return self.start("consumer", *where, "--command", sys.executable, "-c", TRAIN, str(seconds))

    def kill(self, process):
        process.kill()
        process.wait()

    def write(self, name, key, record):
        self.producer.produce(name, encode(name, record), key, timestamp=record["window_end"])
        self.producer.flush()

    def judge(self, *days):
        """The monitors have judged these days."""
        for day, monitor in itertools.product(days, MONITORS):
            times = {"window_start": at(day - 1), "window_end": at(day), "results": []}
            self.write("drift.windows", self.model, window(self.model, monitor) | times)

    def alert(self, day, incident, version="1"):
        times = {"window_start": at(day - 1), "window_end": at(day)}
        self.write("drift.alerts", incident, alert(self.model, incident, version) | times)

    def told(self, name):
        log = TopicLog(self.kafka, [name])
        found = [record for _, record in log.to_end() if record["model"] == self.model]
        log.close()
        # A promise that stands is repeated for those who have forgotten it.
        return [each for number, each in enumerate(found) if name != "models.control" or each not in found[:number]]

    def until(self, condition, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, "\n".join(each.log.read_text()[-3000:] for each in self.processes)
            time.sleep(0.1)
        return found

    def promoted(self):
        return [
            (each["version"], each["event_time"]) for each in self.told("models.control") if each["action"] == "promote"
        ]

    def starts(self):
        found = {each.parent.name: len(each.read_text()) for each in self.home.glob("runs/*/started")}
        return {run: starts for run, starts in found.items() if starts}


def window(model, monitor):
    return {"model": model, "model_version": "1", "monitor": monitor}


def alert(model, incident, version):
    return {
        "incident_id": incident,
        "status": "opened",
        "severity": "critical",
        "cause": "world",
        "model": model,
        "model_version": version,
        "monitor": "performance",
        "segment": "",
        "summary": "The model no longer fits its labels.",
        "estimated_harm": None,
        "evidence": [],
        "report": None,
        "policy": "p",
    }


@pytest.fixture
def loop(platform, tmp_path):
    made = Loop(platform, tmp_path)
    topic_of_model(made)
    yield made
    for each in made.processes:
        with contextlib.suppress(ProcessLookupError):
            each.send_signal(signal.SIGCONT)
            each.terminate()
    for each in made.processes:
        each.wait(20)


def topic_of_model(loop):
    admin = AdminClient({"bootstrap.servers": loop.kafka})
    admin.create_topics([NewTopic(f"predictions.{loop.model}", 1, 1)])[f"predictions.{loop.model}"].result(timeout=20)


def test_alert_to_promotion_and_every_process_killed_on_the_way(loop):
    controller, consumer = loop.controller(), loop.consumer(seconds=60.0)
    first = loop.until(lambda: loop.told("models.control"))[0]
    assert (first["version"], first["event_time"], first["watermark"]) == ("prior", 0, at(31) - 1)
    # The first model; the consumer is killed while it trains, and its training with it.
    loop.judge(29, 30)
    loop.until(loop.starts)
    loop.kill(consumer)
    consumer = loop.consumer(seconds=1.0)
    loop.until(loop.promoted)
    assert set(loop.starts().values()) == {2}, "one run, started twice"
    # An alert; the controller is killed as soon as its event is out.
    loop.judge(50)
    loop.alert(51, f"a-{loop.model}")
    loop.judge(51)
    loop.until(lambda: len(loop.told("retraining.events")) == 2)
    loop.kill(controller)
    loop.until(lambda: len(loop.told("models.decisions")) == 2)
    controller = loop.controller()
    loop.until(lambda: len(loop.promoted()) == 2)
    # Nothing is said twice, however often anybody starts over.
    for process in (controller, consumer):
        loop.kill(process)
    before = {name: loop.told(name) for name in CONTROL}
    loop.controller()
    second = loop.consumer()
    loop.until(lambda: "owner" in second.log.read_text())
    time.sleep(1.0)
    assert {name: loop.told(name) for name in CONTROL} == before
    assert loop.promoted() == [("1", at(31)), ("2", at(55))]
    told = [(each["status"], each["epoch"], each["number"]) for each in before["submissions"]]
    taken_over = [("intent", 2, 1), ("succeeded", 2, 2)]
    second_run = [("intent", 2, 3), ("accepted", 2, 4), ("succeeded", 2, 5)]
    assert told == [("intent", 1, 1), ("accepted", 1, 2), *taken_over, *second_run]
    assert [each["event"] for each in before["submissions"][-3:]] == before["retraining.events"][1:] * 3
    payload = json.loads((loop.home / "runs" / f"a-{loop.model}" / "payload.json").read_text())
    assert payload["cutoff_ms"] == at(51)
    assert payload["effective_from_ms"] == at(55)
    assert payload["champion"] == {"version": "1", "uri": f"{loop.home}/models/delay/1"}
    assert payload["margin"] == load_policy().margin


def test_from_alert_to_accepted_submission(loop, capsys):
    """How long it takes where nothing has to be waited for: an alert of which every monitor has judged the window."""
    loop.controller()
    loop.consumer()
    loop.until(lambda: loop.told("models.control"))
    loop.judge(29, 30)
    loop.until(loop.promoted)
    took = []
    for number in range(1, INCIDENTS + 1):
        day, incident = 31 + 20 * number, f"{number}-{loop.model}"
        loop.judge(day - 1)
        sent = time.time() * 1000
        loop.alert(day, incident, str(number))
        loop.judge(day)
        loop.until(lambda version=number + 1: len(loop.promoted()) == version)
        steps = {each["status"]: each for each in loop.told("submissions") if each["incident_id"] == incident}
        assert list(steps) == ["intent", "accepted", "succeeded"]
        took.append(steps["accepted"]["recorded_at"] - sent)
    assert set(loop.starts().values()) == {1}
    with capsys.disabled():
        p50, p99 = (sorted(took)[round(share * (len(took) - 1))] for share in (0.5, 0.99))
        print(f"\none region, alert to accepted: p50 {p50:.0f} ms, p99 {p99:.0f} ms of {len(took)}")  # noqa: T201


def test_a_promise_waits_for_alerts_whose_transaction_is_open(loop):
    """The window is there, its alert is written and not committed: neither is overtaken."""
    loop.controller()
    loop.until(lambda: loop.told("models.control"))
    loop.judge(30)
    (event,) = loop.until(lambda: loop.told("retraining.events"))
    settle(loop, event, "1")
    loop.until(loop.promoted)
    loop.judge(50)
    loop.until(lambda: loop.told("models.control")[-1]["watermark"] == at(54) - 1)
    drift = Producer({"bootstrap.servers": loop.kafka, "transactional.id": f"drift-{loop.model}"})
    drift.init_transactions()
    drift.begin_transaction()
    times = {"window_start": at(50), "window_end": at(51)}
    drift.produce("drift.alerts", encode("drift.alerts", alert(loop.model, "late", "1") | times), "late")
    drift.flush()
    loop.judge(51, 52, 53)
    time.sleep(2.0)
    assert loop.told("models.control")[-1]["watermark"] == at(54) - 1
    drift.commit_transaction()
    loop.until(lambda: len(loop.told("retraining.events")) == 2)
    assert loop.told("retraining.events")[-1]["effective_from"] == at(55)
    loop.until(lambda: loop.told("models.control")[-1]["watermark"] == at(55) - 1)
    settle(loop, loop.told("retraining.events")[-1], "2")


def settle(loop, event, version):
    """What the consumer would write at the end of a run."""
    common = {"incident_id": event["incident_id"], "model": loop.model, "event_time": event["event_time"]}
    submission = {"backend": "local", "submission_id": "s", "epoch": 1, "status": "succeeded", "payload_hash": "h"}
    submission |= {"number": 1, "event": event}
    decision = {"decision": "promoted", "champion_version": "prior", "challenger_version": version, "margin": 0.0}
    figures = {"challenger_log_loss": 0.4, "challenger_auc": 0.7, "held_out_rows": 1, "reason": ""}
    writer = Writer(loop.kafka, f"settle-{loop.model}")
    writer.publish(
        [
            Publish("submissions", {**common, **submission, "recorded_at": 1, "detail": f"models/{version}"}),
            Publish("models.decisions", {**common, **decision, **figures}),
        ]
    )


def event(loop, number, at_ms=1000):
    return {
        "incident_id": f"{loop.model}-{number}",
        "model": loop.model,
        "monitor": "performance",
        "reason": "drift",
        "event_time": at_ms,
        "effective_from": at_ms + 1,
        "policy": "p",
    }


def group_members(kafka):
    """How many processes the group of the consumers has, and its turns are given."""
    admin = AdminClient({"bootstrap.servers": kafka})
    (described,) = admin.describe_consumer_groups([GROUP]).values()
    try:
        found = described.result(timeout=20)
    except KafkaException:  # the group's coordinator is not there yet
        return 0
    return len(found.members) if found.state == ConsumerGroupState.STABLE else 0


def test_racing_consumers_submit_once_and_a_survivor_finishes(loop):
    racers = [loop.consumer(seconds=0.3) for _ in range(3)]
    loop.until(lambda: group_members(loop.kafka) == 3 and any("owner" in each.log.read_text() for each in racers))
    writer = Writer(loop.kafka, f"events-{loop.model}")
    for number in range(4):
        writer.publish([Publish("retraining.events", event(loop, number))] * 2)
    loop.until(loop.starts)
    owner = next(each for each in racers if "intent" in each.log.read_text())
    owner.send_signal(signal.SIGSTOP)  # cut off, not dead: it will think that it still owns what it had
    loop.until(lambda: len(loop.told("models.decisions")) >= 3)
    owner.send_signal(signal.SIGCONT)
    loop.until(lambda: len(loop.told("models.decisions")) >= 4)
    time.sleep(2.0)
    # Only the one that was cut off has been superseded; who waits its turn never takes itself for the owner.
    assert [each.poll() for each in racers if each is not owner] == [None, None]
    decisions = [each["incident_id"] for each in loop.told("models.decisions")]
    assert sorted(decisions) == [f"{loop.model}-{number}" for number in range(4)]
    assert set(loop.starts()) == set(decisions)
    outcomes = [each["incident_id"] for each in loop.told("submissions") if each["status"] == "succeeded"]
    assert sorted(outcomes) == sorted(decisions)


def test_training_waits_for_the_archive(loop, platform):
    consumer = loop.consumer()
    loop.until(lambda: "owner" in consumer.log.read_text())
    loop.producer.produce(f"predictions.{loop.model}", b"row", "r1", timestamp=5)
    loop.producer.produce(f"predictions.{loop.model}", b"progress", None, timestamp=6)
    loop.producer.flush()
    Writer(loop.kafka, f"events-{loop.model}").publish([Publish("retraining.events", event(loop, 0))])
    loop.until(lambda: "missing" in consumer.log.read_text())
    time.sleep(1.0)
    assert [each["status"] for each in loop.told("submissions")] == ["intent"]
    assert not loop.starts()
    client = clickhouse_connect.get_client(host="127.0.0.1", port=platform.ports["clickhouse"])
    table = f"headwater.predictions_{loop.model}"
    client.command(f"CREATE TABLE {table} (_partition Int32, _offset Int64) ENGINE = MergeTree ORDER BY _offset")
    client.command(f"INSERT INTO {table} VALUES (0, 0)")
    client.close()
    loop.until(lambda: loop.told("models.decisions"))


def test_the_last_record_that_is_archived_is_found_behind_heartbeats_and_markers(loop):
    name = f"predictions.{loop.model}"
    assert Archive(loop.kafka, loop.clickhouse).ends((name,)) == {}
    drift = Producer({"bootstrap.servers": loop.kafka, "transactional.id": f"p-{loop.model}"})
    drift.init_transactions()
    for number in range(3):
        drift.begin_transaction()
        drift.produce(name, b"row", f"r{number}")
        drift.commit_transaction()
    for _ in range(20):
        drift.begin_transaction()
        for _ in range(50):
            drift.produce(name, b"progress", None)
        drift.commit_transaction()
    drift.begin_transaction()
    drift.produce(name, b"row", "aborted")
    drift.flush()
    drift.abort_transaction()
    assert Archive(loop.kafka, loop.clickhouse).ends((name,)) == {(name, 0): 4}
    assert last_kept_offset(loop.kafka, name, 0, 0, 5, lambda message: message.key() == b"r1") == 2


def test_a_writer_is_fenced_by_the_next_one_of_its_name(loop):
    old, name = Writer(loop.kafka, loop.model), "retraining.events"
    old.publish([Publish(name, event(loop, 0))])
    new = Writer(loop.kafka, loop.model)
    with pytest.raises(FencedError, match="another process has taken over"):
        old.publish([Publish(name, event(loop, 1))])
    new.publish([Publish(name, event(loop, 2))])
    assert [each["incident_id"][-1] for each in loop.told(name)] == ["0", "2"]


def test_the_champion_is_the_version_that_answers_at_the_time():
    def control(time_ms, version, uri):
        return {"event_time": time_ms, "version": version, "uri": uri}

    told = [control(0, "prior", ""), control(10, "1", "u1"), control(15, "1", "u1"), control(20, "2", "u2")]
    assert champion_at(9, told) is None
    assert champion_at(19, told) == {"version": "1", "uri": "u1"}
    assert champion_at(20, told) == {"version": "2", "uri": "u2"}


def test_alerts_are_read_by_the_consumer_of_the_readme(loop, tmp_path):
    """In a folder with nothing of ours but the published schema."""
    root = Path(__file__).parents[2]
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    (found,) = (each for each in blocks if "drift.alerts" in each)
    assert "from schemas" not in found
    found = found.replace("127.0.0.1:9092", loop.kafka).replace("on-call", loop.model)
    (tmp_path / "schemas/avro").mkdir(parents=True)
    shutil.copy(root / "schemas/avro/drift.alerts.avsc", tmp_path / "schemas/avro")
    loop.alert(40, f"readme-{loop.model}")
    with (tmp_path / "said").open("w") as out:
        reader = subprocess.Popen([sys.executable, "-I", "-u", "-c", found], cwd=tmp_path, stdout=out, stderr=out)
    try:
        wanted = "opened critical world The model no longer fits its labels."
        loop.until(lambda: wanted in (tmp_path / "said").read_text() or reader.poll() is not None)
    finally:
        loop.kill(reader)
    assert wanted in (tmp_path / "said").read_text()
