"""Jobs of ``headwater bench features``: sent, timed, read back, and asked for the size of their state."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import pandas as pd
from confluent_kafka import Consumer, Message, TopicPartition
from feast import StreamFeatureView

from compose.bench.payments import Spans, make_repo, make_topics, remove_topics, rows_topic
from compose.local.flink import client_environ
from compose.local.home import PlatformError
from compose.local.jobs import ENDED, FlinkRest
from compose.local.platform import Platform
from features.compiler.topics import feature_codec
from jobs.reading import TopicReader
from schemas.batch import to_arrow

__all__ = ["Run", "Runs", "State", "until"]

WAIT_S = 900.0


@dataclass(frozen=True)
class Run:
    """A job under way, and the view whose topic it fills."""

    job: str
    topic: str
    view: StreamFeatureView


@dataclass(frozen=True)
class State:
    """What a checkpoint holds once everything has been read.

    Attributes
    ----------
    state_bytes, written_bytes : int
        Of the state, and of what this checkpoint had to write.
    """

    state_bytes: int
    written_bytes: int


class Runs:
    """Sends jobs to a platform, all from one process: see :mod:`jobs.by_hand`.

    Parameters
    ----------
    platform : Platform
        Running.
    orders : Popen
        The process.
    """

    def __init__(self, platform: Platform, orders: "subprocess.Popen[str]") -> None:
        self.kafka, self._home = platform.endpoints.kafka, platform.home
        self._rest = FlinkRest(platform.endpoints.flink)
        self._orders, self._numbers = orders, count()

    @classmethod
    @contextmanager
    def on(cls, platform: Platform) -> Iterator["Runs"]:
        """With the process that sends."""
        at = platform.endpoints
        command = [sys.executable, "-m", "jobs.by_hand", "--kafka", at.kafka, "--flink", at.flink]
        environ = {**os.environ, **client_environ(platform.home), "PYTHONWARNINGS": "ignore"}
        pipe = subprocess.PIPE
        with platform.home.log_file("submit").open("ab") as log:
            orders = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environ)
        try:
            yield cls(platform, orders)
        finally:
            orders.kill()
            orders.wait()

    def start(self, way: str, topic: str, spans: Spans, bounded: bool = True, checkpoint_ms: int = 1000) -> Run:
        """Send a job that reads a topic of payments.

        Raises
        ------
        PlatformError
            Where it is not taken.
        """
        name = f"{way}_{next(self._numbers)}_{os.getpid()}"
        repo = self._home.path("repos", name)
        view = make_repo(repo, name, topic, spans)
        make_topics(self.kafka, [rows_topic(view)])
        order = {"way": way, "repo": str(repo), "bounded": bounded, "checkpoint_ms": checkpoint_ms}
        if self._orders.stdin is None or self._orders.stdout is None:
            raise PlatformError("The process that sends jobs has no pipes.")
        self._orders.stdin.write(json.dumps(order) + "\n")
        self._orders.stdin.flush()
        # Flink's client logs to standard output when something is amiss.
        lines = (line for line in self._orders.stdout if line.startswith('{"'))
        answer = json.loads(next(lines, '{"error": "it ended"}'))
        if "id" not in answer:
            raise PlatformError(
                f"The job {name} was not taken: {answer['error']}; see {self._home.log_file('submit')}."
            )
        return Run(answer["id"], topic, view)

    def seconds(self, run: Run, limit_s: float = WAIT_S) -> float:
        """From a bounded job's first running task to the end of its last; those until now where the limit is over.

        Raises
        ------
        PlatformError
            Where the job fails.
        """
        deadline = time.monotonic() + limit_s
        while (status := self._status(run)) != "FINISHED" and time.monotonic() < deadline:
            if status in ("FAILED", "CANCELED", "RESTARTING"):
                log = self._home.log_file("taskmanager")
                raise PlatformError(f"The job {run.view.name} ended as {status}; see {log}.")
            time.sleep(0.1)
        told = self._rest.get(f"/jobs/{run.job}")
        began_ms, ended_ms = (int(told["timestamps"][each]) for each in ("RUNNING", "FINISHED"))
        return max((ended_ms or int(told["now"])) - began_ms, 1) / 1000

    def running(self, run: Run) -> None:
        """Wait until every task runs."""

        def runs() -> bool:
            tasks = [each["status"] for each in self._rest.get(f"/jobs/{run.job}")["vertices"]]
            return bool(tasks) and set(tasks) == {"RUNNING"}

        until(runs, f"the job {run.view.name} to run")

    def states(self, runs: Sequence[Run]) -> list[State]:
        """Of each, from the first checkpoint that was begun when everything in its topic had been read."""
        for run in runs:
            group = {"bootstrap.servers": self.kafka, "group.id": f"headwater-{run.view.name}", "log_level": 0}
            consumer, place = Consumer(group), TopicPartition(run.topic, 0)
            end = consumer.get_watermark_offsets(place, timeout=10)[1]
            # The connector commits where it was at a checkpoint when that is complete.
            until(partial(_has_read, consumer, place, end), f"{run.view.name} to read its topic")
            consumer.close()
        since_ms = time.time() * 1000
        return [until(partial(self._state, run, since_ms), f"a checkpoint of {run.view.name}") for run in runs]

    def _state(self, run: Run, since_ms: float) -> State | None:
        found = self._rest.get(f"/jobs/{run.job}/checkpoints")["latest"]["completed"]
        if not found or int(found["trigger_timestamp"]) < since_ms:
            return None
        return State(int(found["state_size"]), int(found["checkpointed_size"]))

    def end(self, *runs: Run) -> None:
        """Stop jobs that still run, and remove their rows."""
        for run in runs:
            if not self._ended(run):
                self._rest.cancel(run.job)
        for run in runs:
            until(partial(self._ended, run), f"{run.view.name} to stop")
        remove_topics(self.kafka, [rows_topic(run.view) for run in runs])

    def _ended(self, run: Run) -> bool:
        return self._status(run) in ENDED

    def _status(self, run: Run) -> str:
        """Other answers of Flink's are up to three seconds old."""
        return str(self._rest.get(f"/jobs/{run.job}/status")["status"])

    def count(self, run: Run) -> int:
        """Rows that are committed."""
        return sum(map(len, self._messages(run)))

    def rows(self, run: Run) -> pd.DataFrame:
        """Rows that are committed, event time in epoch milliseconds."""
        codec = feature_codec(run.view)
        values = [bytes(each.value() or b"") for messages in self._messages(run) for each in messages]
        batch, bad = to_arrow(codec.schema, codec.schema_id, values)
        if bad:
            raise PlatformError(f"{run.view.name}: {len(bad)} rows cannot be read, the first: {bad[0][1]}")
        frame: pd.DataFrame = batch.to_pandas()
        return frame.assign(event_time=frame.event_time.astype("datetime64[ms, UTC]").astype("int64"))

    def _messages(self, run: Run) -> list[list[Message]]:
        found: list[list[Message]] = []
        source = TopicReader(self.kafka, [rows_topic(run.view)])
        source.read(lambda messages: found.append([each for each in messages if each.key() is not None]))
        source.close()
        return found


def _has_read(consumer: Consumer, place: TopicPartition, end: int) -> bool:
    return bool(consumer.committed([place], timeout=10)[0].offset >= end)


def until(condition: Callable[[], Any], what: str, limit_s: float = WAIT_S) -> Any:
    """Wait for something to be true, and return it.

    Raises
    ------
    PlatformError
        Where it does not come about.
    """
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise PlatformError(f"Waited {limit_s:.0f} s for {what}; `headwater logs` tells more.")
        time.sleep(0.1)
    return found
