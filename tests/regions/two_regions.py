"""Two real Kafkas, two MirrorMakers, a member in each and a witness, as processes of this machine; and what trains."""

import json
import os
import sys
import threading
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from stub_member import LISTING_S, MODEL

from compose.local.home import Home
from compose.local.kafka import kafka_service
from compose.local.platform import Platform
from compose.local.services import Service
from compose.regions import NAMES, WITNESS, Place, local_regions, region_home, witness_service
from jobs.kafka import Publish, TopicLog, Writer
from jobs.retraining.regions import load_regions

START_MS = 1_356_998_400_000  # 2013-01-01


class TrainingPlatform:
    """Makes a run of each request that comes, whatever it is for: so two requests for an incident are two runs."""

    def __init__(self, host="127.0.0.1", run_s=0.5):
        self.run_s, self.runs, self.lock, self.most_at_once = run_s, [], threading.Lock(), 0
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(platform.begin(told))

            def do_GET(self):
                self._answer(platform.find(parse_qs(urlparse(self.path).query)["incident_id"][0]))

            def _answer(self, content):
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.host, self.server = host, ThreadingHTTPServer((host, 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://{self.host}:{self.server.server_port}/runs"

    def begin(self, told):
        with self.lock:
            run = {**told, "run": f"run-{len(self.runs)}", "began": time.monotonic(), "at": time.time()}
            self.runs.append(run)
            at_once = sum(run["began"] - each["began"] < self.run_s for each in self.runs[-1000:])
            self.most_at_once = max(self.most_at_once, at_once)
        return self._shown(run)

    def find(self, incident_id):
        listed = [each for each in self.runs if each["began"] + LISTING_S <= time.monotonic()]
        return next((self._shown(each) for each in listed if each["incident_id"] == incident_id), None)

    def count(self, incident_id):
        return sum(each["incident_id"] == incident_id for each in self.runs)

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def _shown(self, run):
        return {**run, "done": time.monotonic() - run["began"] > self.run_s}


class World:
    """Both regions, running; in namespaces of a network, or side by side on this machine."""

    def __init__(self, folder: Path, timing="", network=None):
        self.home, self.network = Home(folder), network
        self.file = local_regions(self.home, 2, [network.address(each) for each in NAMES[:2]] if network else ())
        if timing:
            self.file.write_text(self.file.read_text() + timing)
        self.regions = load_regions(self.file)
        self.training = TrainingPlatform(network.address(network.HERE) if network else "127.0.0.1")
        self.platforms = {name: self._platform(name) for name in self.regions.names}
        self.witness = Platform(
            Home(self.home.path("witness")),
            services=lambda _: [self._there(WITNESS, witness_service(self.home, self.file))],
        )
        self._stack = ExitStack()

    def __enter__(self):
        everything = [*self.platforms.values(), self.witness]
        try:
            for each in everything:
                each.start()
                self._stack.callback(each.stop)
            for each in everything:
                each.wait()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()
        self.training.close()

    def _platform(self, name):
        place = Place(self.file, self.regions, name)
        member = [sys.executable, str(Path(__file__).with_name("stub_member.py")), str(self.file), name]

        host = {"host": self.network.address(name)} if self.network else {}

        def services(platform):
            ports = platform.ports
            kafka = kafka_service(
                platform.home, ports["kafka"], ports["kafka_controller"], topics=lambda: place.topics, **host
            )
            speaker = Service("member", argv=[*member, self.training.url], depends_on=("kafka",))
            return [self._there(name, each) for each in (kafka, place.mirror(platform, **host), speaker)]

        port = self.kafka(name).rpartition(":")[2]
        return Platform(
            region_home(self.home, name),
            services=services,
            environ={**os.environ, "HEADWATER_KAFKA_PORT": port, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def _there(self, member, service):
        """The service, in the member's namespace."""
        if self.network is None:
            return service
        return replace(service, argv=lambda: [*self.network.inside(member), *service.command()])

    def kafka(self, name):
        return self.regions.region(name).kafka

    def event(self, *regions, at_s=0):
        """The same incident's event, as the regions that see the drift publish it; its id."""
        key = uuid.uuid4().hex
        for name in regions:
            with self.writer(name) as write:
                write(at_s, key)
        return key

    @contextmanager
    def writer(self, region):
        """Writes events of new incidents, and returns their ids."""
        to = Writer(self.kafka(region), f"test-{uuid.uuid4().hex}")

        def write(at_s=0, key=None):
            key = key or uuid.uuid4().hex
            to.publish([Publish("retraining.events", self.record(at_s, key))])
            return key

        yield write

    def read(self, name, *topics):
        """What a region holds of its own topics and its mirrors, under our names."""
        log = TopicLog(self.kafka(name), self.regions.topics_at(name, topics))
        found = [record for _, record in log.to_end()]
        log.close()
        return found

    def record(self, at_s, key):
        """Of ``retraining.events``."""
        at_ms = START_MS + at_s * 1000
        record = {"incident_id": key, "model": MODEL, "monitor": "performance", "reason": "drift", "policy": "1"}
        return record | {"event_time": at_ms, "effective_from": at_ms}

    def statuses(self, name, incident_id):
        return self.by_incident(name, [incident_id])[incident_id]

    def by_incident(self, name, incident_ids):
        """What has been said of each there."""
        found = {each: set() for each in incident_ids}
        for each in self.read(name, "submissions"):
            found.setdefault(each["incident_id"], set()).add(each["status"])
        return found

    def owner(self, name):
        """Of the newest epoch that the region knows of."""
        told = [each for each in self.read(name, "ownership") if each["role"] == "owner"]
        newest = max(told, key=lambda each: each["epoch"], default=None)
        return (newest["member"], newest["epoch"]) if newest else None

    def pid(self, region, service):
        platform = self.witness if region == WITNESS else self.platforms[region]
        return platform.supervisor.facts()[service]["pid"]

    def signal(self, number, region, *services):
        """To processes that are there."""
        for each in services:
            if (pid := self.pid(region, each)) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def log(self, region, service):
        return self.platforms[region].home.log_file(service).read_text()


def until(holds, timeout_s=60.0, why=""):
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while True:
        if found := holds():
            return found
        assert time.monotonic() < deadline, why or "it did not come about in time"
        time.sleep(0.2)
