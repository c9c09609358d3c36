"""A Feast repo that changes under traffic: what did not change keeps its state, and nothing is there twice."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from confluent_kafka import Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from guests import cli

from compose.local.home import Home, PlatformError
from compose.local.jobs import FlinkRest, JobBook
from compose.local.platform import Platform, local_services
from compose.plan import Recorded, recorded
from compose.projects import services
from features.compiler.repo import load_repo
from features.compiler.sources import avro_schema, schema_id
from features.compiler.topics import feature_codec
from features.online.rows import RowStore
from jobs.reading import TopicReader, client_of
from jobs.served import Served, places_aside, verify_rows
from schemas.codec import Codec
from schemas.topics import LATE_SUFFIX

STORE = "project: lane\nregistry: data/registry.db\nprovider: local\nonline_store:\n"
STORE += (
    "  type: features.online.embedded.EmbeddedOnlineStore\n  path: online.db\nentity_key_serialization_version: 3\n"
)
HEAD = '''
from datetime import timedelta

from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import AvroFormat
from feast.types import Float64, Int64, String

passes = KafkaSource(
    name="passes", kafka_bootstrap_servers="elsewhere:9092", topic="lane.passes", timestamp_field="at",
    message_format=AvroFormat("""{"type": "record", "name": "Pass", "fields": [
      {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
      {"name": "gate", "type": "string"}, {"name": "toll", "type": "double"}]}"""),
    watermark_delay_threshold=timedelta(minutes=1),
    batch_source=FileSource(name="passes_history", path="passes.parquet", timestamp_field="at"))
gate = Entity(name="gate", join_keys=["gate"])


def over(name, minutes, function="sum", slide=1):
    feature = f"{name}_toll"
    kind = Int64 if function == "count" else Float64
    window = Aggregation(column="toll", function=function, name=feature,
                         time_window=timedelta(minutes=minutes), slide_interval=timedelta(minutes=slide))
    return StreamFeatureView(name=name, entities=[gate], source=passes, timestamp_field="at", aggregations=[window],
                             schema=[Field(name="gate", dtype=String), Field(name=feature, dtype=kind)])

'''
FIRST = 'steady = over("steady", 600)\nmoody = over("moody", 5)\ngone = over("gone", 5)\n'
SECOND = 'steady = over("steady", 600)\nmoody = over("moody", 10, slide=2)\nfresh = over("fresh", 5, "count")\n'
THIRD = 'steady = over("steady", 600)\nmoody = over("moody", 10, slide=2)\nfresh = over("fresh", 15, "count")\n'
BROKEN = """
def odd(source):
    return f"SELECT *, nonsense FROM {source}"

broken = over("broken", 5)
broken.mode, broken.udf, broken.udf_string = "flink", odd, "odd"
"""
START_MS, MINUTE_MS = 1_700_000_040_000, 60_000
JOB = "features-lane"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = Home(tmp_path_factory.mktemp("changed")).prepare()

    def restored(started: Platform) -> None:
        JobBook(home, started.endpoints.kafka, started.endpoints.flink).restore()

    with Platform(
        home, services=local_services, more=lambda: services(home), on_jobmanager_restart=restored
    ).running() as started:
        yield started


class Lane:
    """A repo, its topic and its traffic."""

    def __init__(self, platform: Platform, repo: Path) -> None:
        self.platform, self.repo, self.kafka = platform, repo, platform.endpoints.kafka
        self.define(FIRST)
        (repo / "feature_store.yaml").write_text(STORE)
        source = load_repo(repo).kafka_source("passes")
        self._codec = Codec(avro_schema(source), schema_id(source))
        self._producer = Producer({"bootstrap.servers": self.kafka, "log_level": 0})
        self.admin = AdminClient({"bootstrap.servers": self.kafka, "log_level": 0})
        self._random, self._at = np.random.default_rng(5), START_MS

    def define(self, views: str) -> None:
        (self.repo / "definitions.py").write_text(HEAD + views)

    def headwater(self, *arguments: str, status: int = 0) -> str:
        done = cli(self.platform, *arguments, timeout_s=240)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def traffic(self, minutes: int, odd: bool = False) -> None:
        """Passes at three gates in two partitions, an undecodable record among them, if asked."""
        self._at += 20 * MINUTE_MS  # beyond where event time has come to by itself since
        end = self._at + minutes * MINUTE_MS
        for at in np.sort(self._random.integers(self._at, end, minutes * 8)):
            gate = int(self._random.integers(3))
            self._pass(int(at), gate)
        if odd:
            self._producer.produce("lane.passes", value=b"\0\0\0\0\1nonsense", timestamp=end, partition=0)
        for partition in (0, 1):
            self._producer.produce("lane.passes", value=None, timestamp=end, partition=partition)
        assert self._producer.flush(30) == 0
        self._at = end

    def late(self, behind_min: int) -> None:
        """A pass long before what has been seen, once the job has seen it."""
        self._pass(self._at - behind_min * MINUTE_MS, 0)
        assert self._producer.flush(30) == 0

    def _pass(self, at: int, gate: int) -> None:
        toll = float(self._random.integers(1, 100))
        value = self._codec.encode({"at": datetime.fromtimestamp(at / 1000, UTC), "gate": f"g{gate}", "toll": toll})
        self._producer.produce("lane.passes", value=value[5:], timestamp=at, partition=gate % 2)

    def recorded(self) -> Recorded:
        found = recorded(self.platform.home, JOB)
        assert found is not None
        return found

    def verified(self) -> Served:
        """Every row of every view equals the witness, once the archive has them."""
        at, views, begun = self.platform.endpoints, load_repo(self.repo).views.values(), self.recorded().begun
        found = verify_rows(client_of(at.clickhouse), at.kafka, views, begun=begun)
        deadline = time.monotonic() + 60
        while (found.parity.mismatches or self._behind()) and time.monotonic() < deadline:
            time.sleep(1)
            found = verify_rows(client_of(at.clickhouse), at.kafka, views, begun=begun)
        assert found.parity.mismatches == 0, found.parity
        return found

    def _behind(self) -> bool:
        """Whether rows of the newest minute that must be there are not in the archive yet."""
        sql = "SELECT toUnixTimestamp64Milli(max(event_time)) FROM headwater.features_{}"
        client = client_of(self.platform.endpoints.clickhouse)
        names = load_repo(self.repo).views
        try:
            newest = [int(client.query(sql.format(name)).result_rows[0][0] or 0) for name in names]
        except DatabaseError:  # the archiver has not made the table yet
            return True
        return min(newest) < self._at - 4 * MINUTE_MS

    def rows(self, view: str) -> list[dict[str, Any]]:
        """Committed rows of a view, in the order of its topic."""
        codec = feature_codec(load_repo(self.repo).view(view))
        return [codec.decode(each.value() or b"") for each in self.committed(f"features.{view}") if each.key()]

    def committed(self, topic: str) -> list[Message]:
        found: list[Message] = []
        reader = TopicReader(self.kafka, [topic])
        reader.read(found.extend)
        reader.close()
        return found

    def letters(self, kind: str) -> list[dict[str, bytes]]:
        """The headers of what the job has set aside; the archiver cannot decode everything either."""
        found = [dict(cast(Any, each.headers())) for each in self.committed(f"lane.passes.{kind}")]
        return [each for each in found if each["headwater.job"] == JOB.encode()]

    def served(self, view: str) -> dict[str, tuple[int, bytes]]:
        """What the online store has of each entity of a view, and when it is of."""
        store = RowStore(self.repo / "online.db")
        keys = [each.key() or b"" for each in self.committed(f"features.{view}") if each.key()]
        try:
            return {decode_gate(key): found for key, found in store.read(view, sorted(set(keys))).items()}
        finally:
            store.close()

    def newest(self, view: str) -> dict[str, tuple[int, bytes]]:
        """The newest row of each entity of a view, of its present definition."""
        begins, found = self.recorded().begun[view].offsets, {}
        for each in self.committed(f"features.{view}"):
            if each.key() and (each.offset() or 0) >= begins.get(str(each.partition()), 0):
                found[decode_gate(each.key() or b"")] = (each.timestamp()[1], each.value() or b"")
        return found

    def until(self, holds: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < deadline, what
            time.sleep(0.5)

    def read_up(self) -> None:
        """Wait until the job has committed everything before the end of the topic."""
        self.until(lambda: not self._behind(), "rows of the newest minutes")

    def job(self) -> str:
        """The id of the one job that runs."""
        rest = FlinkRest(self.platform.endpoints.flink)
        self.until(lambda: any(each["state"] == "RUNNING" for each in rest.jobs()), "a job that runs")
        (job_id,) = [each["jid"] for each in rest.jobs() if each["state"] == "RUNNING"]
        return str(job_id)


def decode_gate(key: bytes) -> str:
    return key[-2:].decode()


def twice(rows: list[dict[str, Any]]) -> list[Any]:
    return [place for place, count in Counter((each["gate"], each["event_time"]) for each in rows).items() if count > 1]


@pytest.mark.filterwarnings("ignore")
def test_views_that_did_not_change_keep_their_state(platform: Platform, tmp_path: Path) -> None:
    lane = Lane(platform, tmp_path)
    lane.admin.create_topics([NewTopic("lane.passes", 2, 1)])["lane.passes"].result()
    submit = ("submit", "features", "--repo", str(lane.repo))
    lane.headwater(*submit)
    lane.traffic(120, odd=True)
    lane.read_up()
    lane.late(100)
    lane.traffic(10)
    lane.read_up()
    lane.verified()
    assert "runs on as it is" in lane.headwater(*submit)
    first = lane.job()
    assert len(lane.letters("dlq")) == len(lane.letters("late")) == 1

    lane.define(SECOND)
    said = lane.headwater("features", "plan", "--repo", str(lane.repo), status=2)
    assert "1 with their state, 2 begin" in said
    before = {name: len(lane.rows(name)) for name in ("steady", "moody")}
    assert min(before.values()) > 100
    assert "1 new (fresh), 1 changed (moody), 1 removed (gone), 1 unchanged" in lane.headwater(*submit)
    assert lane.job() != first
    lane.traffic(30)
    lane.read_up()
    found = lane.verified()
    # Of the two readings, one sets aside what nobody can decode, and each what came too late for it.
    assert found.late <= 3
    assert len(lane.letters("dlq")) == 1
    generations = Counter(each["headwater.generation"] for each in lane.letters("late"))
    assert generations[b"0"] == 1
    assert generations[b"1"] <= 1
    assert places_aside(lane.kafka, "lane.passes", LATE_SUFFIX, 0)
    begun = lane.recorded().begun
    assert {name: each.generation for name, each in begun.items()} == {"steady": 0, "moody": 1, "fresh": 1}
    assert sum(begun["moody"].offsets.values()) > before["moody"]
    for view in ("steady", "moody", "fresh"):
        lane.until(lambda view=view: lane.served(view) == lane.newest(view), f"{view} in the online store")
        assert len(lane.newest(view)) == 3
    assert twice(lane.rows("steady")) == []
    assert twice(lane.rows("moody")) != []  # of both definitions, and verified are those of the new one

    # The early records are gone from Kafka: a window of ten hours that still counts them was kept.
    ends = [TopicPartition("lane.passes", partition, -1) for partition in (0, 1)]
    for future in lane.admin.delete_records(ends).values():
        future.result()
    lane.define(THIRD)
    plan = json.loads(lane.headwater("features", "plan", "--repo", str(lane.repo), "--json", status=2))
    assert {each["name"]: each["state"] for each in plan["views"]} == {
        "steady": "kept",
        "moody": "kept",
        "fresh": "begins",
    }
    lane.headwater(*submit)
    lane.traffic(30)
    lane.read_up()
    at, views = platform.endpoints, load_repo(lane.repo).views
    kept = [views["steady"], views["moody"]]
    begun = lane.recorded().begun
    assert {name: each.generation for name, each in begun.items()} == {"steady": 0, "moody": 1, "fresh": 2}
    parity = verify_rows(client_of(at.clickhouse), at.kafka, kept, begun=begun).parity
    assert parity.mismatches == 0, parity
    assert twice(lane.rows("steady")) == []
    # What began knows nothing of what is gone.
    assert verify_rows(client_of(at.clickhouse), at.kafka, [views["fresh"]], begun=begun).parity.missing > 0
    refused(lane, submit)
    restored(lane)


def refused(lane: Lane, submit: tuple[str, ...]) -> None:
    """What Flink does not take leaves the job as it was, and running."""
    lane.define(THIRD + BROKEN)
    said = lane.headwater(*submit, status=1)
    assert "Column 'nonsense' not found" in said
    assert f"{JOB} goes on as it was" in said
    lane.job()
    assert set(lane.recorded().views) == {"steady", "moody", "fresh"}
    lane.traffic(10)


def restored(lane: Lane) -> None:
    """A job that the platform sends again is the one that was submitted, whatever the files say by now."""
    lane.define("steady = nonsense\n")
    lost = lane.job()
    os.kill(lane.platform.supervisor.facts()["jobmanager"]["pid"], signal.SIGKILL)
    rest = FlinkRest(lane.platform.endpoints.flink)

    def back() -> bool:
        try:
            return any(each["state"] == "RUNNING" and each["jid"] != lost for each in rest.jobs())
        except PlatformError:  # it is only just starting
            return False

    lane.until(back, "the job to be sent again")
    lane.define(THIRD)
    assert "runs on as it is" in lane.headwater("submit", "features", "--repo", str(lane.repo))
    lane.traffic(10)
    lane.read_up()
    assert twice(lane.rows("steady")) == []
