"""The flights in two regions: a whole platform each, one training platform, and traffic that keeps in step.

West has an eighth of the flights: enough to be scored, too few for its monitors to judge a week by (a thousand
requests). So what drifts is seen in east alone.
"""

import os
import subprocess
import sys
import threading
import time
import zlib
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import NamedTuple

from databricks_stub import DatabricksStub
from http_stub import Stub

from compose.demo.broker import Horizon
from compose.demo.flights import load_events
from compose.demo.replay import Pacing, Replay
from compose.demo.run import AS_OF_CHECKPOINT_MS, JOBS
from compose.local import watchdog
from compose.local.jobs import JobBook
from compose.local.platform import Platform, Running
from compose.regions import local_regions, region_environ, region_home, witness_service
from jobs.kafka import TopicLog
from jobs.reading import client_of
from jobs.retraining.regions import load_regions

EAST, WEST = "east", "west"
MODEL = "delay"
STEP_MS = 6 * 3_600_000
TAIL_MS = 3 * 86_400_000
UP_S = 240.0
# Alarms often enough for two incidents by July.
OFTEN = ("--false-retrains", "0.95")
TIMING = "timing: {beat_s: 2, lease_s: 20}\n"  # two platforms on one machine keep each other waiting


class TrainingPlatform(DatabricksStub):
    """Trains: a run is a process of our entry point. While it is `held`, one that is over is shown as running."""

    def __init__(self):
        super().__init__()
        self.held, self.begun = False, []
        self._server = Stub(self)
        self.url = self._server.url

    def begin(self, run, given):
        environ = {**os.environ, "HEADWATER_PAYLOAD": given["headwater_payload"], "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, "-m", "jobs.training"], env=environ)
        self.begun.append(Begun(given["headwater_incident"], process, run))

    def look(self):
        for each in self.begun:
            code = each.process.poll()
            if code is not None and not self.held:
                result = "FAILED" if code else "SUCCESS"
                each.run["state"] = {"life_cycle_state": "TERMINATED", "result_state": result}

    def of(self, incident_id):
        """Runs of an incident."""
        return [each for each in self.begun if each.incident_id == incident_id]

    def close(self):
        self._server.close()
        for each in self.begun:
            each.process.kill()
            each.process.wait()


class Begun(NamedTuple):
    """A run, its process, and what the platform shows of it."""

    incident_id: str
    process: subprocess.Popen
    run: dict


class InStep:
    """As far as a region's control loop allows, and no further ahead of the other region's traffic than a step."""

    def __init__(self, kafka):
        self._own, self.others = Horizon(kafka, MODEL), []

    @property
    def horizon_ms(self):
        reached = [each.position_ms for each in self.others if not each.stopped]
        return min([self._own.horizon_ms, *(at_ms + STEP_MS for at_ms in reached)])

    def read(self, timeout_seconds=0.0):
        before = self._own.horizon_ms
        if self._own.read(timeout_seconds) == before and timeout_seconds:
            time.sleep(timeout_seconds / 10)
        return self.horizon_ms


def flights_of(frames, chosen):
    """The events of flights of which a number from 0 to 7 is chosen; weather is everybody's."""
    found = {}
    for name, frame in frames.items():
        if name != "flights.weather":
            numbers = frame["flight_id"].map(lambda each: zlib.crc32(each.encode()) % 8)
            frame = frame[numbers.isin(chosen)].reset_index(drop=True)
        found[name] = frame
    return found


class TwoRegions:
    """Both regions up, with the three jobs in each; traffic begins with :meth:`replay`."""

    def __init__(self, home):
        self.home, self._stack = home, ExitStack()
        self.file = local_regions(home, 2)
        self.file.write_text(self.file.read_text() + TIMING)
        self.regions = load_regions(self.file)
        self.training = TrainingPlatform()
        self.replays, self._threads, self.failures = {}, [], []
        backend = home.path("backend.yaml")
        backend.write_text(f"backend: databricks\njob_id: 1\nhost: {self.training.url}\n")
        self._witness = Platform(home.__class__(home.path("witness")), services=lambda _: [self._hill()])
        self._ups = {}
        for name in self.regions.names:
            log = home.path(f"{name}.log").open("w")
            self._ups[name] = subprocess.Popen(
                [sys.executable, "-m", "compose.cli", "up", "--backend", str(backend)],
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    **region_environ(home, self.regions, self.file, name),
                    "DATABRICKS_TOKEN": "none",
                    "NO_PROXY": "127.0.0.1",
                },
            )

    def __enter__(self):
        try:
            self._stack.callback(self._close)
            self._witness.start()
            for name in self.regions.names:
                self._until_up(name)
            for name in self.regions.names:
                at = self.running(name).endpoints
                book = JobBook(region_home(self.home, name), at.kafka, at.flink)
                book.submit(JOBS, ["--mode", "as-of", "--checkpoint-ms", str(AS_OF_CHECKPOINT_MS), *OFTEN])
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _hill(self):
        return witness_service(self.home, self.file)

    def _until_up(self, name):
        deadline = time.monotonic() + UP_S
        while (found := self.running(name)) is None or found.state != "up":
            said = self.home.path(f"{name}.log").read_text()
            assert self._ups[name].poll() is None, said
            assert time.monotonic() < deadline, f"{name} is not up after {UP_S} s:\n{said}"
            time.sleep(0.5)

    def running(self, name):
        return Running.find(region_home(self.home, name))

    def replay(self, until):
        """Traffic of both regions, up to a day."""
        end_ms = round(datetime.fromisoformat(until).replace(tzinfo=UTC).timestamp() * 1000)
        frames = load_events(end_ms=end_ms)
        horizons = {}
        for name, chosen in ((EAST, range(1, 8)), (WEST, (0,))):
            kafka = self.kafka(name)
            horizons[name] = InStep(kafka)
            some = flights_of(frames, chosen)
            self.replays[name] = Replay(kafka, some, Pacing(tail_ms=TAIL_MS), horizons[name], lambda _: None)
        horizons[EAST].others.append(self.replays[WEST])
        horizons[WEST].others.append(self.replays[EAST])
        for each in self.replays.values():
            thread = threading.Thread(target=self._run, args=(each,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, replay):
        try:
            replay.run()
        except Exception as exc:
            if not replay.stopped:
                self.failures.append(exc)

    def kafka(self, name):
        return self.regions.region(name).kafka

    def read(self, name, topic):
        """What a region has said itself."""
        log = TopicLog(self.kafka(name), [topic])
        found = [record for _, record in log.to_end()]
        log.close()
        return found

    def heard(self, name, topic):
        """What a region knows, of its own and from the other."""
        log = TopicLog(self.kafka(name), self.regions.topics_at(name, (topic,)))
        found = [record for _, record in log.to_end()]
        log.close()
        return found

    def versions(self, name):
        """Which versions have answered in a region: the first and last request time of each, ms."""
        sql = (
            "SELECT model_version, min(toUnixTimestamp64Milli(event_time)), max(toUnixTimestamp64Milli(event_time)) "
            f"FROM headwater.predictions_{MODEL} GROUP BY model_version"
        )
        client = client_of(self.running(name).endpoints.clickhouse)
        return {str(version): (int(first), int(last)) for version, first, last in client.query(sql).result_rows}

    def owner(self, name):
        told = [each for each in self.heard(name, "ownership") if each["role"] == "owner" and each["model"] == MODEL]
        newest = max(told, key=lambda each: each["epoch"], default=None)
        return (newest["member"], newest["epoch"]) if newest else None

    def kill(self, name):
        """Every process of a region at once, and its traffic with it."""
        self.replays[name].stop()
        token = self.running(name).token
        self._ups[name].kill()
        watchdog.end_all(token)
        self._ups[name].wait()

    def _close(self):
        for each in self.replays.values():
            each.stop()
        for each in self._ups.values():
            each.terminate()
        for name, each in self._ups.items():
            with suppress(subprocess.TimeoutExpired):
                each.wait(90)
            if (found := self.running(name)) is not None:
                watchdog.end_all(found.token)
            each.kill()
            each.wait()
        self._witness.stop()
        self.training.close()
