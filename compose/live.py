"""What the stream is doing now: rates and lag of each job, and where the replay stands.

Rates come from Kafka's own offsets and from the groups' committed ones, so that a job is seen the same way whether
Flink runs it or a process of ours does. Flink is asked for what only it knows: state, restarts and checkpoints.
"""

import json
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clickhouse_connect.driver.client import Client
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition, admin
from confluent_kafka.admin import AdminClient

from compose.demo.keys import is_aside
from compose.demo.ledger import EVENTS, FEATURES, PREDICTIONS, REQUESTS
from schemas.tables import DATABASE, OFFSET, PARTITION, table_name

__all__ = ["Flink", "Live", "Rates"]

_SPEC: Any = admin.OffsetSpec  # type: ignore[attr-defined]  # its stub forgets to export it
GROUP_PREFIX = "headwater-"
TIMEOUT_S = 3.0
# Offsets move by the commit markers of transactions too, one a second: slower than this is standing still.
IDLE_PER_S = 3.0
WINDOW_SAMPLES = 4
_TIMES = ("event_time", "window_end")


@dataclass
class Rates:
    """Rates of counters per second, over the last few samples.

    Parameters
    ----------
    clock : callable
        Wall time in seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _samples: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)

    def update(self, counters: Mapping[str, float]) -> dict[str, float | None]:
        """Take a sample of each counter; None where there was none before, or the counter went back."""
        now = self.clock()
        found: dict[str, float | None] = {}
        for name, value in counters.items():
            samples = self._samples.setdefault(name, deque(maxlen=WINDOW_SAMPLES))
            if samples and samples[-1][1] > value:
                samples.clear()
            samples.append((now, value))
            (then, before), span = samples[0], now - samples[0][0]
            found[name] = (value - before) / span if span > 0 and then < now else None
        return found


class Flink:
    """The parts of Flink's REST interface the page reads.

    Parameters
    ----------
    url : str
        ``http://host:port``; empty where there is none.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # Proxies are for others, not for this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def jobs(self) -> list[dict[str, Any]]:
        """The newest job of each name: ``name``, ``state``, ``since_ms``, ``restarts``, ``checkpoint_ms``.

        Raises
        ------
        OSError
            Where Flink does not answer.
        """
        if not self._url:
            return []
        newest: dict[str, dict[str, Any]] = {}
        for job in sorted(self._get("/jobs/overview")["jobs"], key=lambda each: each["start-time"]):
            newest[job["name"]] = job
        return [self._job(job) for job in newest.values()]

    def _job(self, job: Mapping[str, Any]) -> dict[str, Any]:
        told: dict[str, float] = {}
        if job["state"] == "RUNNING":
            asked = self._get(f"/jobs/{job['jid']}/metrics?get=numRestarts,lastCheckpointDuration")
            told = {each["id"]: float(each["value"]) for each in asked if each.get("value") not in (None, "NaN")}
        return {
            "name": job["name"].removeprefix(GROUP_PREFIX),
            "state": job["state"].lower(),
            "since_ms": job["start-time"],
            "restarts": told.get("numRestarts"),
            "checkpoint_ms": told.get("lastCheckpointDuration"),
        }

    def _get(self, path: str) -> Any:
        with self._opener.open(self._url + path, timeout=TIMEOUT_S) as response:
            return json.load(response)


class Live:
    """Snapshots of the stream.

    Parameters
    ----------
    kafka, flink : str
    clickhouse : callable
        Gives a client, or raises.
    clock : callable
        Wall time in seconds.
    """

    def __init__(
        self,
        kafka: str,
        flink: str,
        clickhouse: Callable[[], Client],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
        self._flink, self._clickhouse = Flink(flink), clickhouse
        self._rates, self._replay_rate = Rates(clock), Rates(clock)

    def snapshot(self, horizon_ms: int | None) -> dict[str, Any]:
        """Everything once.

        Parameters
        ----------
        horizon_ms : int, optional
            Event time up to which the control loop allows traffic.

        Returns
        -------
        dict
            ``replay``, ``flow`` (rates by kind of topic), ``jobs``, ``problems`` (texts for a person).

        Raises
        ------
        KafkaException
            Where Kafka does not answer.
        """
        problems: list[str] = []
        ends = self._ends()
        archived, newest = self._archived(problems)
        position = self._position(ends)
        rates = self._rates.update({f"end {name}": sum(parts.values()) for name, parts in ends.items()})
        flow = _flow(rates)
        return {
            "replay": self._replay(position, horizon_ms, flow["events"]),
            "flow": flow,
            "totals": _flow({f"end {name}": sum(parts.values()) for name, parts in ends.items()}),
            "jobs": self._jobs(ends, archived, newest, rates, problems),
            "problems": problems,
        }

    def _ends(self) -> dict[str, dict[int, int]]:
        topics = self._admin.list_topics(timeout=TIMEOUT_S).topics
        wanted = {
            TopicPartition(name, part): _SPEC.latest()
            for name, topic in topics.items()
            if not name.startswith("__")
            for part in topic.partitions
        }
        ends: dict[str, dict[int, int]] = {}
        for at, told in self._admin.list_offsets(wanted, request_timeout=TIMEOUT_S).items() if wanted else ():
            ends.setdefault(at.topic, {})[at.partition] = max(0, told.result(TIMEOUT_S).offset)
        return ends

    def _position(self, ends: Mapping[str, Mapping[int, int]]) -> int | None:
        """Event time of the newest request, heartbeats included; None before the first.

        Only of a topic without transactions can Kafka tell this: their commit markers carry the wall clock.
        """
        parts = [part for part, end in ends.get(REQUESTS, {}).items() if end]
        wanted = {TopicPartition(REQUESTS, part): _SPEC.max_timestamp() for part in parts}
        told = self._admin.list_offsets(wanted, request_timeout=TIMEOUT_S).values() if wanted else ()
        return max((int(each.result(TIMEOUT_S).timestamp) for each in told), default=None)

    def _replay(self, position: int | None, horizon_ms: int | None, rate: float | None) -> dict[str, Any]:
        if position is None:
            return {"state": "waiting", "event_time_ms": None, "horizon_ms": horizon_ms, "speed": None}
        speed = self._replay_rate.update({"position": position / 1000})["position"]
        moving = (rate or 0) > IDLE_PER_S or (speed or 0) > 1
        held = horizon_ms is not None and position >= horizon_ms - 3_600_000
        return {
            "state": "moving" if moving else "held" if held else "still",
            "event_time_ms": position,
            "horizon_ms": horizon_ms,
            "speed": speed,
        }

    def _jobs(
        self,
        ends: Mapping[str, Mapping[int, int]],
        archived: dict[tuple[str, int], int],
        newest: Mapping[str, int],
        rates: Mapping[str, float | None],
        problems: list[str],
    ) -> list[dict[str, Any]]:
        try:
            flink = self._flink.jobs()
        except (OSError, ValueError, KeyError) as exc:
            flink = []
            problems.append(f"Flink does not answer: {exc}")
        found = {job["name"]: {"kind": "flink", **job} for job in flink}
        progress = self._committed(problems) | ({"archive": archived} if archived else {})
        for name, done in progress.items():
            lag = sum(max(0, ends.get(topic, {}).get(part, 0) - at) for (topic, part), at in done.items())
            rate = self._rates.update({f"group {name}": sum(done.values())})[f"group {name}"]
            found.setdefault(name, {"name": name, "kind": "process", "state": "running"})
            found[name] |= {"lag": lag, "in_per_s": rate}
        for name, prefix in (("features", FEATURES), ("scoring", PREDICTIONS), ("drift", "drift.windows")):
            if name in found:
                outputs = [topic for topic in ends if topic.startswith(prefix) and not is_aside(topic)]
                stamps = [newest[topic] for topic in outputs if topic in newest]
                found[name] |= {
                    "out_per_s": _sum(rates.get(f"end {topic}") for topic in outputs),
                    "event_time_ms": max(stamps, default=None),
                }
        return list(found.values())

    def _committed(self, problems: list[str]) -> dict[str, dict[tuple[str, int], int]]:
        """What each consumer group has committed: next offset by topic and partition."""
        done: dict[str, dict[tuple[str, int], int]] = {}
        listed = self._admin.list_consumer_groups(request_timeout=TIMEOUT_S).result(TIMEOUT_S)
        for group in sorted(each.group_id for each in listed.valid if each.group_id.startswith(GROUP_PREFIX)):
            asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
            try:
                parts = asked[group].result(TIMEOUT_S).topic_partitions or ()
            except KafkaException as exc:
                problems.append(f"consumer group {group}: {exc}")
                continue
            committed = {(at.topic, at.partition): at.offset for at in parts if at.offset >= 0}
            if committed:
                done[group.removeprefix(GROUP_PREFIX)] = committed
        return done

    def _archived(self, problems: list[str]) -> tuple[dict[tuple[str, int], int], dict[str, int]]:
        """What the archive holds: next offset by topic and partition, and the newest event time by topic."""
        try:
            return self._in_tables(self._clickhouse())
        except Exception as exc:  # clickhouse_connect raises its own, urllib3's and the socket's
            problems.append(f"ClickHouse does not answer: {str(exc).splitlines()[0][:200]}")
            return {}, {}

    def _in_tables(self, client: Client) -> tuple[dict[tuple[str, int], int], dict[str, int]]:
        listed = f"SELECT table, name FROM system.columns WHERE database = '{DATABASE}' AND name IN {(OFFSET, *_TIMES)}"
        columns: dict[str, set[str]] = {}
        for table, name in client.query(listed).result_rows:
            columns.setdefault(str(table), set()).add(str(name))
        asked = []
        for table, names in sorted(columns.items()):
            time_column = next((name for name in _TIMES if name in names), None)
            newest = f"toUnixTimestamp64Milli(max({time_column}))" if time_column else "toInt64(-1)"
            asked.append(
                f"SELECT '{table}', {PARTITION}, max({OFFSET}) + 1, {newest} FROM {DATABASE}.{table} GROUP BY 2"
            )
        rows = client.query(" UNION ALL ".join(asked)).result_rows if asked else ()
        names_of = {table_name(name): name for name in self._admin.list_topics(timeout=TIMEOUT_S).topics}
        offsets: dict[tuple[str, int], int] = {}
        times: dict[str, int] = {}
        for table, part, end, newest_ms in rows:
            if name_of := names_of.get(str(table)):
                offsets[name_of, int(part)] = int(end)
                times[name_of] = max(times.get(name_of, -1), int(newest_ms))
        return offsets, times


def _flow(values: Mapping[str, float | None]) -> dict[str, float | None]:
    def over(*prefixes: str) -> float | None:
        named = (name.removeprefix("end ") for name in values if name.startswith("end "))
        return _sum(values[f"end {name}"] for name in named if name.startswith(prefixes) and not is_aside(name))

    return {"events": over(*EVENTS), "features": over(FEATURES), "predictions": over(PREDICTIONS)}


def _sum(values: Iterable[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) if known else None
