"""Whether a topic is at fault, from counts."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.topic_alerts import TopicLook, alerts
from jobs.topic_counts import _folded
from monitors.incidents import Finding
from monitors.policy import Policy, State, Version, decide, quarantine_spans
from monitors.topics import Aside, SchemaSeen, TopicCounts, judge

SLICES, HOUR = 24, 3_600_000
NAME = "shop.orders"
LOOKS = 1000
FALSE_ALARMS_MAX = 1


def aside(records: np.ndarray, before: float = 0.0, now: int = 0, partition: int = 0) -> Aside:
    counts = np.rint(records * before).astype(np.int64)
    counts[-1] = 0
    counts[-1, partition] = now
    return Aside(counts, {partition: (7, 7 + now)} if now else {}, "field id: expected a string, got 5")


def topic(shares: list[float], records: int = 3000, slices: int = SLICES) -> TopicCounts:
    counts = np.random.default_rng(5).poisson(records * np.array(shares), size=(slices + 1, len(shares)))
    return TopicCounts(NAME, counts, aside(counts), aside(counts))


def now(counts: TopicCounts, *records: int) -> TopicCounts:
    changed = counts.records.copy()
    changed[-1] = records
    return replace(counts, records=changed)


def test_a_partition_that_stopped_while_others_go_on_is_named() -> None:
    found = judge(now(topic([1 / 3] * 3), 1010, 3, 990))
    assert (found.fired, found.severity, found.cause) == (True, "critical", "data")
    (evidence,) = found.evidence
    assert (evidence.column, evidence.statistic, evidence.value, evidence.share) == ("partition 1", "records", 3, 1)
    assert 800 < evidence.threshold < 1100
    assert found.summary.startswith("shop.orders: partition 1 has stopped, with 3 records where ")


def test_all_that_stopped_are_named_though_one_alone_goes_on() -> None:
    found = judge(now(topic([0.25] * 4), 0, 0, 800, 0))
    assert {each.column for each in found.evidence} == {"partition 0", "partition 1", "partition 3"}


@pytest.mark.parametrize(
    ("shares", "records"),
    [
        pytest.param([0.9, 0.05, 0.05], (140, 155, 160), id="the hot key of a partition is gone"),
        pytest.param([0.05, 0.9, 0.05], (150, 40_000, 145), id="another's key is hotter than ever"),
        pytest.param([0.003, 0.5, 0.497], (0, 1500, 1500), id="a partition that never had much"),
        pytest.param([1.0, 0.0, 0.0], (3000, 0, 0), id="partitions that never had any"),
        pytest.param([1 / 3] * 3, (330, 300, 290), id="a tenth of the traffic everywhere"),
        pytest.param([1.0], (0,), id="a topic of one partition"),
    ],
)
def test_skew_is_no_fault(shares: list[float], records: tuple[int, ...]) -> None:
    assert not judge(now(topic(shares), *records)).fired


def test_partitions_that_are_silent_now_and_then_are_no_fault() -> None:
    counts = topic([1 / 3] * 3)
    counts.records[[3, 9, 15, 21], 1] = 0
    assert judge(now(counts, 1000, 0, 1000)).fired is False
    counts.records[[3, 9], 1] = 1000  # what two slices were like may be a fault that was not seen
    assert judge(now(counts, 1000, 0, 1000)).fired


@pytest.mark.parametrize(("records", "fired"), [((2, 0, 3), None), ((0, 0, 0), None), ((2, 1, 3), False)])
def test_a_quiet_night_tells_nothing_of_a_partition_that_is_silent(
    records: tuple[int, ...], fired: bool | None
) -> None:
    assert judge(now(topic([1 / 3] * 3), *records)).fired is fired


def test_too_little_before_tells_nothing() -> None:
    assert not judge(now(topic([1 / 3] * 3, slices=2), 1000, 0, 1000)).fired
    assert judge(now(topic([1 / 3] * 3, slices=3), 1000, 0, 1000)).fired


@pytest.mark.parametrize(
    ("before", "now_late", "fired"), [(0.0, 100, True), (0.0, 20, False), (0.05, 100, False), (0.05, 600, True)]
)
def test_late_records_are_told_beyond_a_floor_and_what_is_usual(before: float, now_late: int, fired: bool) -> None:
    counts = topic([1 / 3] * 3)
    found = judge(replace(counts, late=aside(counts.records, before, now_late, partition=2)))
    assert bool(found.fired) is fired
    if fired:
        assert found.severity == "warning"
        assert f"{now_late} of 3," in found.summary
        assert f"of partition and offsets 2 from 7 to {7 + now_late}, mostly: field id:" in found.summary
        assert "shop.orders.late" in found.summary


@pytest.mark.parametrize(("dead", "severity"), [(2, None), (30, "warning"), (400, "critical")])
def test_many_dead_letters_are_critical(dead: int, severity: str | None) -> None:
    counts = topic([1 / 3] * 3)
    found = judge(replace(counts, dead=aside(counts.records, now=dead)))
    assert (found.severity if found.fired else None) == severity


def test_a_nightly_burst_of_late_records_is_usual() -> None:
    counts = topic([1 / 3] * 3)
    late = aside(counts.records, now=900)
    late.counts[[1, 9, 17], 0] = 950
    assert not judge(replace(counts, late=late)).fired


def test_a_flood_that_was_not_read_to_its_start_says_nothing_of_what_was_usual() -> None:
    counts = topic([1 / 3] * 3)
    late = aside(counts.records, before=0.3, now=900)
    late.counts[:20] = -1
    assert not judge(replace(counts, late=late)).fired


def seen(*schemas: tuple[int | None, int, int]) -> tuple[SchemaSeen, ...]:
    return tuple(SchemaSeen(1, name, before, now, 4000 if now else -1) for name, before, now in schemas)


def test_a_new_schema_is_told_with_the_old_one_and_where_it_begins() -> None:
    found = judge(replace(topic([0.5, 0.5]), schemas=seen((12, 384, 100), (13, 0, 92))))
    assert (found.fired, found.severity) == (True, "info")
    assert "schema 13 now, where they had 12 before" in found.summary
    assert "in partition 1 from offset 4000" in found.summary


@pytest.mark.parametrize(
    "schemas",
    [
        pytest.param(((12, 384, 192),), id="the same"),
        pytest.param(((12, 300, 192), (11, 84, 0)), id="an old one is gone"),
        pytest.param(((12, 384, 188), (13, 0, 4)), id="a rare one that was not sampled before"),
        pytest.param(((12, 0, 192),), id="nothing before"),
        pytest.param(((None, 384, 160), (0x6A756E6B, 0, 32)), id="records without ids"),
    ],
)
def test_other_schemas_are_no_news(schemas: tuple[tuple[int | None, int, int], ...]) -> None:
    assert judge(replace(topic([0.5, 0.5]), schemas=seen(*schemas))).fired is False


def test_several_faults_are_one_finding_whose_shares_add_up() -> None:
    counts = now(topic([1 / 3] * 3), 1000, 0, 1000)
    found = judge(
        replace(
            counts,
            late=aside(counts.records, now=200),
            dead=aside(counts.records, now=30),
            schemas=seen((12, 384, 100), (13, 0, 92)),
        )
    )
    assert [each.column for each in found.evidence] == ["partition 1", f"{NAME}.late", "schema 13", f"{NAME}.dlq"]
    assert sum(each.share for each in found.evidence) == pytest.approx(1)
    assert found.severity == "critical"


def healthy(random: np.random.Generator) -> TopicCounts:
    """Of any size and skew; traffic and late records come in bursts, and follow the hour of the day."""
    partitions = int(random.integers(1, 13))
    shares = random.dirichlet(np.full(partitions, random.choice([0.3, 1.0, 30.0])))
    level = 10 ** random.uniform(0, 4.5)
    hours = (np.arange(SLICES + 1) + random.integers(24)) % 24
    daily = np.exp(-random.uniform(0, 3) * (1 + np.cos(2 * np.pi * hours / 24)))
    bursts = random.gamma(8, 1 / 8, size=(SLICES + 1, partitions))
    records = random.poisson(level * daily[:, None] * shares * bursts)
    late, dead = (
        random.binomial(records, (base * random.gamma(2, 0.5, size=(SLICES + 1, 1))).clip(0, 1))
        for base in (random.choice([0, 0.002, 0.05]), random.choice([0, 0.0002]))
    )
    rare = random.uniform(0, 0.02) if random.random() < 0.5 else 0.0
    before, after = (random.binomial(n, rare) for n in (384 * partitions, 192 * partitions))
    schemas = seen((1, 384 * partitions - before, 192 * partitions - after), (2, before, after))
    return TopicCounts(NAME, records, Aside(late), Aside(dead), schemas)


def test_looks_at_healthy_topics_hardly_ever_raise_an_alarm() -> None:
    random = np.random.default_rng(20)
    false = [found.summary for _ in range(LOOKS) if (found := judge(healthy(random))).fired]
    assert len(false) <= FALSE_ALARMS_MAX, false


def test_of_those_a_partition_that_stops_is_found_wherever_it_had_enough() -> None:
    random, stopped, found = np.random.default_rng(21), 0, 0
    for _ in range(LOOKS):
        counts = healthy(random)
        one = int(random.integers(counts.records.shape[1]))
        if counts.records.shape[1] == 1 or counts.records[:, one].min() < 100:
            continue
        counts.records[-1, one] = 0
        stopped += 1
        found += any(each.column == f"partition {one}" for each in judge(counts).evidence)
    assert stopped > 50
    assert found / stopped > 0.95


def test_an_outage_is_open_until_it_is_over_or_has_become_usual() -> None:
    def said(until: int) -> list[tuple[int, str]]:
        records = topic([1 / 3] * 3, slices=90).records.copy()
        records[40:until, 1] = 0
        told: list[dict[str, object]] = []
        found = []
        for hour in range(SLICES, 80):
            window = (hour * HOUR, (hour + 1) * HOUR)
            counts = replace(topic([1 / 3] * 3), records=records[hour - SLICES : hour + 1])
            start = int(str(told[0]["window_start"])) if told else window[0]
            look = TopicLook(counts, judge(counts.before(start, window[0], HOUR)))
            given = alerts("fraud", "3", "p", window, [look], told)
            told += [each.record() for each in given]
            found += [(hour, each.status) for each in given]
        return found

    assert said(60) == [(40, "opened"), (60, "resolved")]
    assert said(90) == [(40, "opened"), (62, "resolved")]


def test_what_was_set_aside_counts_in_its_slice_and_the_rest_of_a_flood_is_unknown() -> None:
    edges = np.array([[0, 0], [10, 10], [20, 20], [30, 20]])
    reasons = {(0, 9): "old", (0, 12): "old", (1, 10): "old", (0, 30): "later", (5, 1): "of a partition that is gone"}
    reasons |= {(0, 21): "field a: got 17", (0, 25): "late", (0, 29): "field a: got 4"}
    whole = _folded(reasons, edges, False)
    assert whole.counts.tolist() == [[1, 0], [1, 1], [3, 0]]
    assert (whole.offsets, whole.reason) == ({0: (21, 29)}, "field a: got 17")
    del reasons[0, 9]
    assert _folded(reasons, edges, True).counts.tolist() == [[-1, -1], [1, 1], [3, 0]]


def test_an_incident_is_told_once_again_when_graver_and_when_over() -> None:
    well = topic([1 / 3] * 3)
    schema = replace(well, schemas=seen((12, 384, 100), (13, 0, 92)))
    looks = [well, schema, schema, replace(schema, dead=aside(well.records, now=900)), well, well]
    told, said = [], []
    for hour, counts in enumerate(looks):
        found = [TopicLook(counts, judge(counts)), TopicLook(replace(well, topic="other"), Finding(False))]
        given = alerts("fraud", "3", "p", (hour * HOUR, (hour + 1) * HOUR), found, told)
        told += [each.record() for each in given]
        said += [(hour, each.status, each.severity) for each in given]
    assert said == [(1, "opened", "info"), (3, "updated", "critical"), (4, "resolved", "critical")]
    assert {(each["segment"], each["cause"], each["monitor"]) for each in told} == {(NAME, "data", "topics")}
    assert len({each["incident_id"] for each in told}) == 1

    policy = Policy("p")
    trained = State((Version("3", 0),))
    assert [decide(policy, trained, each).action for each in told] == ["ignore", "quarantine", "ignore"]
    assert quarantine_spans(policy, told[:1], 9 * HOUR) == ()
    assert quarantine_spans(policy, told[:2], 9 * HOUR) == ((HOUR - policy.quarantine.before_ms, 9 * HOUR),)
