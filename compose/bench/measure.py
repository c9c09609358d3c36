"""One repetition of the benchmark: an empty platform, traffic, and each stage by itself; then all of them at once.

A stage's job is bounded: it reads what its topics hold and ends, so its time is Flink's own, from the first task that
runs to the last that ends; scoring is timed until its last answer is committed. Stages in Python are timed from
outside. Everything runs on this machine at once, Kafka included, as in the demo.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Message, TopicPartition

from compose.demo.ledger import EVENTS
from compose.demo.quiet import Pulse
from compose.demo.run import JOBS, Demo, Options
from compose.local.home import Home, PlatformError
from compose.local.jobs import FlinkRest, JobBook
from compose.local.platform import Platform, local_services
from compose.local.services import Service, python_module
from compose.services import REPO, derived_topics, headwater_platform
from features.compiler.repo import Repo, load_repo
from features.compiler.service import model_inputs
from jobs.archiving import Archiver
from jobs.kafka import Publish, Writer
from jobs.reading import TopicReader, client_of, reader
from jobs.segmenting import planned
from monitors.buckets import Kind
from monitors.losses import TILE_MS
from monitors.segments import sketch_segments
from monitors.sketches import sketch_batch
from monitors.thresholds import DAY_MS
from schemas.topics import topic

__all__ = ["MEANING", "repetition"]

LIMIT_KAFKA, LIMIT_FLINK, SCORING = "kafka read", "flink read", "scoring as-of"
# Name of a figure: what it counts, and the limit it is held against.
MEANING = {
    LIMIT_KAFKA: ("events consumed by a bare client", ""),
    LIMIT_FLINK: ("events read and decoded by bare Flink SQL", LIMIT_KAFKA),
    "features": ("events into feature rows", LIMIT_FLINK),
    SCORING: ("requests answered", LIMIT_FLINK),
    "sketches": ("requests sketched whole and by segment, in the batches that were answered", SCORING),
    "drift": ("predictions and labels judged", LIMIT_FLINK),
    "archiver": ("records into ClickHouse", LIMIT_KAFKA),
    "pusher": ("feature rows into the online store", LIMIT_KAFKA),
    "whole chain": ("events, from traffic to archived answers and judged windows", LIMIT_FLINK),
}
WAIT_S = 900.0
FAR_MS = 4_102_444_800_000  # 2100: whatever is asked, the model in charge is known

Tell = Callable[[str], object]


def repetition(home: Home, flights: int, tell: Tell) -> tuple[dict[str, float], int]:
    """Rates of every stage by name, and how many events they are about."""
    rates, events = _stages(Home(home.path("stages")), flights, tell)
    tell("whole chain")
    rates["whole chain"] = events / _whole_chain(Home(home.path("chain")), flights)
    return rates, events


def _stages(home: Home, flights: int, tell: Tell) -> tuple[dict[str, float], int]:
    home.prepare()
    topics = derived_topics(home)
    with Platform(home, services=local_services, topics=topics.read).running() as platform:
        at = platform.endpoints
        tell("traffic")
        _send_traffic(platform, flights)
        _put_prior_in_charge(at.kafka)
        tell(LIMIT_KAFKA)
        events, seconds = _consumed(at.kafka, EVENTS)
        rates = {LIMIT_KAFKA: events / seconds}
        asked = _count(at.kafka, EVENTS[:1])
        judged = 2 * asked  # as many labels as requests, but for those that never come
        counted = {LIMIT_FLINK: events, "features": events - asked, SCORING: asked, "drift": judged}
        for (name, count), job in zip(counted.items(), ("baseline", *JOBS), strict=True):
            tell(name)
            rates[name] = count / (_answering(platform, asked) if job == "scoring" else _bounded(platform, job))
        tell("archiver")
        names = [*EVENTS, *(each.name for each in topics.read())]
        rates["archiver"] = _archived(at.kafka, at.clickhouse, [*map(topic, EVENTS), *topics.read()], names)
        tell("sketches")
        rates["sketches"] = _sketched(at.clickhouse, load_repo(REPO))
        tell("pusher")
        rates["pusher"] = _pushed(
            at.kafka, home.path("online", "online.db"), [n for n in names if n[:9] == "features."]
        )
    return rates, events


def _send_traffic(platform: Platform, flights: int) -> None:
    argv = ("--kafka", platform.endpoints.kafka, "--no-hold", "--flights", flights)
    service = Service("replay", argv=python_module("compose.demo.replay", *argv), restart="failure")
    platform.supervisor.add(service)
    _until(lambda: platform.supervisor.facts()["replay"]["state"] == "exited", "the replay to end")


def _put_prior_in_charge(kafka: str) -> None:
    record = {"model": "delay", "version": "prior", "uri": "", "event_time": 0, "watermark": FAR_MS}
    Writer(kafka, "headwater-bench").publish(
        [Publish("models.control", {**record, "action": "hold", "incident_id": None})]
    )


def _consumed(kafka: str, names: tuple[str, ...]) -> tuple[int, float]:
    """Records with a value, and how long a plain client takes to read them."""
    count = 0

    def take(messages: list[Message]) -> None:
        nonlocal count
        count += sum(each.value() is not None for each in messages)

    source = TopicReader(kafka, names)
    began = time.perf_counter()
    source.read(take)
    seconds = time.perf_counter() - began
    source.close()
    return count, seconds


def _count(kafka: str, names: tuple[str, ...]) -> int:
    return _consumed(kafka, names)[0]


def _bounded(platform: Platform, job: str) -> float:
    """Seconds from a job's first running task to the end of its last."""
    at = platform.endpoints
    (record,) = JobBook(platform.home, at.kafka, at.flink).submit([job], ["--bounded"])
    rest = FlinkRest(at.flink)
    path = f"/jobs/{record.ids[-1]}"
    states = ("FINISHED", "FAILED", "CANCELED", "RESTARTING")  # nothing is killed here: a restart is a failure
    told = _until(lambda: found if (found := rest.get(path))["state"] in states else None, f"the job {job} to end")
    if told["state"] != "FINISHED":
        raise PlatformError(f"The job {job} ended as {told['state']}; see {platform.home.log_file('taskmanager')}.")
    stamps = told["timestamps"]
    return max(int(stamps["FINISHED"]) - int(stamps["RUNNING"]), 1) / 1000


def _answering(platform: Platform, asked: int) -> float:
    """Seconds from the scoring job's start until every request has an answer that readers may see.

    Not bounded: Flink cannot keep bounded topics close together in event time, and joins that hold whole topics are
    not what runs anywhere.
    """
    at = platform.endpoints
    book, rest = JobBook(platform.home, at.kafka, at.flink), FlinkRest(at.flink)
    (record,) = book.submit(["scoring"])
    path = f"/jobs/{record.ids[-1]}"
    began_ms = int(_until(lambda: rest.get(path)["timestamps"]["RUNNING"], "the job scoring to run"))
    answered = 0

    def take(messages: list[Message]) -> None:
        nonlocal answered
        answered += sum(each.key() is not None for each in messages)  # progress rows have none

    source = TopicReader(at.kafka, ("predictions.delay",))

    def done() -> bool:
        source.read(take)
        return answered >= asked

    try:
        _until(done, f"{asked:,} answers")
        return time.time() - began_ms / 1000
    finally:
        source.close()
        book.cancel("scoring")


def _archived(kafka: str, clickhouse: str, topics: list[Any], names: list[str]) -> float:
    client = client_of(clickhouse)
    began = time.perf_counter()
    archiver = Archiver(kafka, client, topics)
    expected = _ends(kafka, names)
    while not archiver.has_read(expected):
        archiver.step()
    archiver.flush()
    seconds = time.perf_counter() - began
    archiver.close()
    client.close()
    return archiver.counts["rows"] / seconds


def _sketched(clickhouse: str, repo: Repo) -> float:
    """What the sketches of all answers take by themselves, in the batches that Flink made of them.

    The prior answers here, whose traffic is not cut: it is cut here as that of a trained model is.
    """
    inputs = model_inputs(repo, "delay")
    kinds: dict[str, Kind] = {n: "categorical" if n in inputs.categorical else "numeric" for n in inputs.columns}
    kinds["probability"] = "score"
    client = client_of(clickhouse)
    listed = ", ".join(f"`{name}`" for name in kinds)
    answers = client.query_df(
        f"SELECT toUnixTimestamp64Milli(event_time) AS time_ms, sketch IS NOT NULL AS ends, {listed} "
        "FROM headwater.predictions_delay ORDER BY _partition, _offset"
    )
    client.close()
    cut, columns = planned(inputs).restricted(answers, 1), {name: answers[name].to_numpy() for name in kinds}
    times, ends = answers["time_ms"].to_numpy(np.int64), np.flatnonzero(answers["ends"]) + 1
    began = time.perf_counter()
    for start, end in pairwise([0, *ends.tolist()]):
        batch = {name: values[start:end] for name, values in columns.items()}
        sketch_batch(batch, kinds, times[start:end], TILE_MS).to_bytes()
        codes = cut.codes(answers.iloc[start:end])
        sketch_segments(cut, codes, batch, kinds, times[start:end], DAY_MS).to_bytes()
    return len(answers) / (time.perf_counter() - began)


def _pushed(kafka: str, path: Path, names: list[str]) -> float:
    from features.online.pusher import Pusher
    from features.online.rows import RowStore

    began = time.perf_counter()
    pusher = Pusher(kafka, RowStore(path), names)
    expected = _ends(kafka, names)
    while not pusher.has_read(expected):
        pusher.step()
    seconds = time.perf_counter() - began
    pusher.close()
    return (pusher.counts["read"] - pusher.counts["skipped"]) / seconds


def _ends(kafka: str, names: list[str]) -> dict[tuple[str, int], int]:
    consumer = reader(kafka)
    try:
        listed = consumer.list_topics(timeout=10).topics
        places = [TopicPartition(name, part) for name in names for part in listed[name].partitions]
        return {(at.topic, at.partition): int(consumer.get_watermark_offsets(at, timeout=10)[1]) for at in places}
    finally:
        consumer.close()


def _whole_chain(home: Home, flights: int) -> float:
    """Seconds from the first event sent to the last answer archived and the last window judged."""
    with headwater_platform(home, controlled=False).running() as platform:
        at = platform.endpoints
        _put_prior_in_charge(at.kafka)
        JobBook(platform.home, at.kafka, at.flink).submit(JOBS)
        demo = Demo(platform, Options(flights=flights))
        rest = FlinkRest(at.flink)
        _until(lambda: all(_runs(each) for each in rest.jobs()), "the jobs to run")
        demo.replay(hold=False)
        _until(lambda: sum(demo.sent.values()) > 0, "traffic")
        began = time.perf_counter()
        pulse = Pulse(at.kafka, at.clickhouse)
        _until(lambda: demo.position().state == "done", "the replay to end")
        end_ms = demo.position().end_ms
        _until(lambda: not (pulse.outstanding(demo.sent, end_ms) or pulse.lag()), "the chain to come to rest")
        return time.perf_counter() - began


def _runs(job: dict[str, Any]) -> bool:
    return bool(job["tasks"]["running"] == job["tasks"]["total"])


def _until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise PlatformError(f"Waited {WAIT_S:.0f} s for {what}; `headwater logs` tells more.")
        time.sleep(0.1)
    return found
