"""The drift job killed at random moments: what it says is what the monitors say in a process nobody disturbs.

What is expected is computed here, by the monitors alone, told everything at once: the job is told by Flink, in batches
as they come, out of checkpoints, by whatever process has taken over.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from stored_months import (
    BATCH,
    HOURLY,
    PREDICTIONS,
    START_MS,
    inputs,
    leave_references,
    losses,
    reference,
    requests,
    segment_losses,
    segments,
)

from compose.local import watchdog
from compose.local.home import Home
from compose.local.jobs import ALIVE, JobBook
from compose.local.kafka import create_topics
from compose.local.platform import Platform, Running, local_services
from monitors.detectors import DETECTORS
from monitors.evaluate import ModelMonitor
from monitors.sequential import parse_specs
from monitors.settings import MonitorSettings
from monitors.shift import parse_against
from monitors.thresholds import DAY_MS, HOUR_MS
from schemas.codec import Codec
from schemas.topics import topic

REFERENCE_DAYS, DAYS = 35, 56
SEQUENTIAL = ("log_loss:adwin", "score:adwin", *(f"bias:{name}" for name in DETECTORS))
AGAINST = ("trailing:14d", "earlier:7d")
TIMEOUT_S = 240
FINDINGS = ("drift.windows", "drift.alerts")
VICTIMS = ("taskmanager", "python worker", "taskmanager", "python worker", "jobmanager")


@dataclass(frozen=True)
class Traffic:
    """Requests of some days, in the order of their time, with what became of them.

    Attributes
    ----------
    rows : DataFrame
        See :func:`stored_months.requests`; with ``id``.
    """

    rows: pd.DataFrame

    @staticmethod
    def of(start_day: int, days: int, seed: int, drifting: bool) -> "Traffic":
        """With `drifting`: a feed silent for a day, then amounts that rise, then labels that scores do not foresee.

        In the week before, only those of a tenth of the traffic, and a little of the rest for the better.
        """
        rng = np.random.default_rng(seed)
        size = days * 24 * HOURLY
        day = np.repeat(np.arange(days), 24 * HOURLY)
        at = START_MS + start_day * DAY_MS + np.sort(rng.integers(0, days * DAY_MS, size))
        risen, silent, odd = ((day >= 20) & drifting, (day == 9) & drifting, (day >= 40) & drifting)
        before = (day >= 30) & (day < 37) & drifting

        def unforeseen(channel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return 0.35 * odd + before * np.where(channel == "phone", 0.4, -0.045)

        rows = requests(rng, at, risen, silent, unforeseen)
        return Traffic(rows.assign(id=[f"r{start_day}-{i}" for i in range(size)]))

    @cached_property
    def batches(self) -> list[pd.DataFrame]:
        """As scoring would have put requests together."""
        return [self.rows[i : i + BATCH] for i in range(0, len(self.rows), BATCH)]

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """In the order in which labels arrive."""
        return self.rows.sort_values("label_at", kind="stable")


BEFORE = Traffic.of(0, REFERENCE_DAYS, seed=1, drifting=False)
NOW = Traffic.of(REFERENCE_DAYS, DAYS, seed=2, drifting=True)
REFERENCE = reference("1", BEFORE.rows)
CUT = REFERENCE.segmentation
END_MS = START_MS + (REFERENCE_DAYS + DAYS) * DAY_MS


def expected() -> dict[str, list[dict[str, Any]]]:
    """Records of windows and alerts, as the monitors have them."""
    settings = MonitorSettings(sequential=parse_specs(SEQUENTIAL), against=parse_against(AGAINST))
    monitor = ModelMonitor("delay", {"1": REFERENCE}.get, settings)
    monitor.add_sketches("1", inputs(NOW.rows))
    monitor.add_losses("1", losses(NOW.labelled))
    monitor.add_segments("1", segments(NOW.rows, CUT))
    monitor.add_segment_losses("1", segment_losses(NOW.labelled, CUT))
    windows, alerts = monitor.advance(END_MS)
    return {"drift.windows": [w.record() for w in windows], "drift.alerts": [a.record() for a in alerts]}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = Home(tmp_path_factory.mktemp("drift")).prepare()
    leave_references(home.path("models"), {"1": REFERENCE})

    def restored(started: Platform) -> None:
        JobBook(home, started.endpoints.kafka, started.endpoints.flink).restore()

    with Platform(home, services=local_services, on_jobmanager_restart=restored).running() as started:
        yield started


class Feed:
    """Sends traffic in the order of event time, some at a time."""

    def __init__(self, kafka: str) -> None:
        self._kafka = kafka
        create_topics(kafka, [PREDICTIONS])
        self._producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "log_level": 0})
        self._predictions = Codec(PREDICTIONS.schema, PREDICTIONS.schema_id)
        self._nothing = dict.fromkeys(field["name"] for field in PREDICTIONS.schema["fields"])
        self._arrivals = Codec(topic("flights.arrivals").schema, topic("flights.arrivals").schema_id)
        self._sent, self._labels = 0, NOW.labelled

    def send(self, share: float) -> None:
        """Go on to so much of the whole, 0 to 1."""
        until = round(share * len(NOW.batches))
        for batch in NOW.batches[self._sent : until]:
            self._answer(batch)
            end = int(batch["at"].iloc[-1])
            arrived = self._labels["label_at"].searchsorted(end)
            for row in self._labels[:arrived].itertuples():
                self._label(row)
            self._labels = self._labels[arrived:]
            self._promise(end)
        self._sent = until
        assert self._producer.flush(60) == 0

    def end(self) -> None:
        """Send the labels that are left, and say that event time has come to the end."""
        self.send(1.0)
        for row in self._labels[self._labels["label_at"] < END_MS].itertuples():
            self._label(row)
        self._promise(END_MS + HOUR_MS)
        assert self._producer.flush(60) == 0

    def _answer(self, batch: pd.DataFrame) -> None:
        sketches = {"sketch": inputs(batch).to_bytes(), "segments": segments(batch, CUT).to_bytes()}
        last = len(batch) - 1
        start = pd.Timestamp(int(batch["at"].iloc[0]) - 1, unit="ms", tz="UTC")
        for i, row in enumerate(batch.itertuples()):
            at = pd.Timestamp(row.at, unit="ms", tz="UTC")
            record = {**self._nothing, "request_id": row.id, "event_time": at, "watermark": start, "model": "delay"}
            record |= {"model_version": "1", "probability": row.probability}
            record |= {"origin": row.origin, "sched_hour": row.sched_hour}
            record |= {"sketch_rows": len(batch), **sketches} if i == last else {}
            self._put(PREDICTIONS.name, row.id, self._predictions.encode(record), row.at)

    def _label(self, row: Any) -> None:
        at = pd.Timestamp(row.label_at, unit="ms", tz="UTC")
        record = {"flight_id": row.id, "event_time": at, "carrier": "XX", "flight": 1, "tailnum": None, "origin": "AAA"}
        record |= {"dest": "BBB", "sched_dep": at, "arr_delay": 60.0 * row.late}
        self._put("flights.arrivals", row.id, self._arrivals.encode(record), row.label_at)

    def _promise(self, time_ms: int) -> None:
        """Nothing earlier comes any more: a heartbeat among labels, a progress row among predictions."""
        at = pd.Timestamp(time_ms, unit="ms", tz="UTC")
        row = {"event_time": at, "watermark": at, "model": "delay", "model_version": "1", "probability": 0.0}
        values = {"flights.arrivals": None, PREDICTIONS.name: self._predictions.encode({**self._nothing, **row})}
        for name, value in values.items():
            for partition in self._partitions[name]:
                self._producer.produce(name, value, partition=partition, timestamp=time_ms)
        self._producer.poll(0)

    def _put(self, name: str, key: str, value: bytes, time_ms: int) -> None:
        while True:
            try:
                self._producer.produce(name, value, key, timestamp=time_ms)
                return
            except BufferError:
                self._producer.poll(1)

    @cached_property
    def _partitions(self) -> dict[str, list[int]]:
        there = AdminClient({"bootstrap.servers": self._kafka}).list_topics(timeout=10).topics
        return {name: sorted(there[name].partitions) for name in (PREDICTIONS.name, "flights.arrivals")}


class Job:
    """The drift job and the processes it lives in."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._book = JobBook(platform.home, platform.endpoints.kafka, platform.endpoints.flink)
        told = [part for each in SEQUENTIAL for part in ("--sequential", each)]
        told += [part for each in AGAINST for part in ("--against", each)]
        self._book.submit(["drift"], ["--checkpoint-ms", "500", *told])
        self.runs()

    def runs(self) -> None:
        """Wait until every task of it does."""
        eventually(self._whole, "the drift job")

    def _whole(self) -> bool:
        try:
            jobs = [job["jid"] for name, job in self._book.listing() if name == "drift" and job["state"] in ALIVE]
            tasks = self._book.rest.get(f"/jobs/{jobs[0]}")["vertices"] if jobs else []
        except Exception:  # the JobManager itself may be away
            return False
        return bool(tasks) and all(task["status"] == "RUNNING" for task in tasks)

    def kill(self, victim: str) -> None:
        """Kill -9 of a process the job needs."""
        if victim != "python worker":
            running = Running.find(self._platform.home)
            assert running is not None
            psutil.Process(int(running.services[victim]["pid"])).kill()
            return
        members = map(psutil.Process, watchdog.members(self._platform.token, "taskmanager"))
        for each in members:
            if "beam_boot" in str(each.cmdline()):
                each.kill()
                return


def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {TIMEOUT_S} s"
        time.sleep(0.1)
    return found


class Reader:
    """Committed records of windows and alerts, from the beginning."""

    def __init__(self, kafka: str) -> None:
        settings = {"bootstrap.servers": kafka, "group.id": "test", "isolation.level": "read_committed"}
        self._consumer = Consumer({**settings, "enable.auto.commit": False, "log_level": 0})
        there = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign([TopicPartition(name, p, 0) for name in FINDINGS for p in there[name].partitions])
        self._codecs = {name: Codec(topic(name).schema, topic(name).schema_id) for name in FINDINGS}
        self.found: dict[str, list[dict[str, Any]]] = {name: [] for name in FINDINGS}

    def read(self) -> dict[str, list[dict[str, Any]]]:
        for each in self._consumer.consume(5_000, 0.5):
            if each.error() is None and each.value() is not None:
                self.found[each.topic()].append(self._codecs[each.topic()].decode(each.value()))
        return self.found


def as_told(name: str, record: dict[str, Any]) -> str:
    """A record as text, as it reads once it has been through its topic."""
    codec = Codec(topic(name).schema, topic(name).schema_id)
    return repr(codec.decode(codec.encode(record)))


def test_alerts_are_the_same_whenever_the_job_is_killed(platform: Platform, request: pytest.FixtureRequest) -> None:
    kills, rng = request.config.getoption("--drift-kills"), random.Random(4)
    wanted = {name: Counter(as_told(name, each) for each in records) for name, records in expected().items()}
    opened = {(each["monitor"], each["segment"]) for each in expected()["drift.alerts"] if each["status"] == "opened"}
    whole = {("data", "people"), ("features", ""), ("performance", ""), ("sequential", "")}
    assert opened == whole | {("performance", "origin=phone"), ("shift", "trailing:14d")}  # or there is little to lose

    feed, job = Feed(platform.endpoints.kafka), Job(platform)
    for n in range(kills):
        feed.send((n + rng.random()) / kills)
        time.sleep(rng.uniform(0, 2))
        job.kill(VICTIMS[n % len(VICTIMS)])
        feed.send((n + 1) / kills)
        job.runs()
    feed.end()

    reader = Reader(platform.endpoints.kafka)
    lasts = max(each["window_end"] for each in expected()["drift.windows"])

    def ended() -> bool:
        return any(round(each["window_end"].timestamp() * 1000) == lasts for each in reader.read()["drift.windows"])

    eventually(ended, "the last window")
    time.sleep(2)  # what is written twice would come by now
    for name in FINDINGS:
        found = Counter(map(repr, reader.read()[name]))
        assert found - wanted[name] == Counter(), f"{name}: told twice, or otherwise than in peace"
        assert wanted[name] - found == Counter(), f"{name}: lost"
