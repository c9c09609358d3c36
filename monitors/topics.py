"""How records come, from counts alone: a partition that stopped, records that are late or undecodable, other schemas.

What is usual is taken from the slices of time before: as many as there are, each as long as the span that is judged. A
chance decides and no fixed share, and a slice that differs from the others is taken into account: what three of the
slices before were like is usual. No state, no time of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from scipy.special import bdtrc, gammaln, pdtr

from monitors.buckets import Floats, Ints
from monitors.incidents import Evidence, Finding, Severity

__all__ = ["MONITOR", "Aside", "SchemaSeen", "TopicCounts", "TopicSettings", "judge"]

MONITOR: Final = "topics"


@dataclass(frozen=True)
class TopicSettings:
    """When a topic is at fault.

    Attributes
    ----------
    chance : float
        Highest chance of as few, or as many, records while nothing is wrong.
    stopped : float
        A partition stopped where it has no more than this part of what is expected of it.
    expected_min : float
        Fewest records expected of a partition to judge it by, now and in a slice that tells what is usual.
    slices_min : int
        Fewest slices that tell what is usual.
    odd : float
        Share of slices that may have been odd already, as in the first spans of a fault; what more were like is usual.
    late_floor, dead_floor : float
        Shares of the records that may always come late, or be undecodable.
    odds : float
        So many times the usual odds of being late, or undecodable, are let pass: such records come in bursts.
    dead_many : float
        Share of dead letters from which on they are critical.
    letters_min : int
        Fewest late records, or dead letters, to be told.
    bare_max : float
        Share of sampled records without a schema's id up to which the others' are taken for ids.
    """

    chance: float = 1e-6
    stopped: float = 0.05
    expected_min: float = 20.0
    slices_min: int = 3
    odd: float = 0.1
    late_floor: float = 0.01
    dead_floor: float = 0.001
    odds: float = 3.0
    dead_many: float = 0.05
    letters_min: int = 5
    bare_max: float = 0.1


@dataclass(frozen=True)
class Aside:
    """Records of a topic that were set aside in another: late, or undecodable.

    Attributes
    ----------
    counts : ndarray of int64, shape (S + 1, P)
        By slice and partition, the span itself in the last row.
    offsets : mapping of int to (int, int)
        First and last offset of them in the span, by partition.
    reason : str
        The most frequent of the span.
    """

    counts: Ints
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict, hash=False)
    reason: str = ""


@dataclass(frozen=True)
class SchemaSeen:
    """How many of the sampled records of a partition name a schema.

    Attributes
    ----------
    partition : int
    schema_id : int or None
        None for records that name none.
    before, now : int
        Sampled records before the span, and in it.
    first_offset : int
        Of those in the span; -1 where there is none.
    """

    partition: int
    schema_id: int | None
    before: int
    now: int
    first_offset: int = -1


@dataclass(frozen=True)
class TopicCounts:
    """What was counted of a topic.

    Attributes
    ----------
    topic : str
    records : ndarray of int64, shape (S + 1, P)
        Records by slice and partition, heartbeats left out; the span itself in the last row.
    late, dead : Aside
    schemas : tuple of SchemaSeen
    """

    topic: str
    records: Ints
    late: Aside
    dead: Aside
    schemas: tuple[SchemaSeen, ...] = ()

    def before(self, incident_ms: int, start_ms: int, last_ms: int) -> "TopicCounts":
        """Without the slices that an open incident reaches into, as long as any are left.

        What the incident has is no measure of what is usual; what has lasted as long as all slices is usual by now.

        Parameters
        ----------
        incident_ms : int
            Start of the incident.
        start_ms, last_ms : int
            Start and length of the span; UTC epoch milliseconds.
        """
        slices, within = len(self.records) - 1, -(-(start_ms - incident_ms) // last_ms)
        if not 0 < within < slices:
            return self
        kept = [*range(slices - within), slices]
        late, dead = (replace(each, counts=each.counts[kept]) for each in (self.late, self.dead))
        return replace(self, records=self.records[kept], late=late, dead=dead)


@dataclass(frozen=True)
class _Said:
    sentence: str
    evidence: Evidence
    severity: Severity


def judge(counts: TopicCounts, settings: TopicSettings = TopicSettings()) -> Finding:
    """One finding of a topic, with an evidence for each partition that stopped, kind of letter and new schema.

    It tells nothing (`fired` is None) where no records came, or too few to tell whether a silent partition stopped.
    A new schema alone is of the severity `info`: nothing is lost by it as long as its records are read.

    Parameters
    ----------
    counts : TopicCounts
    settings : TopicSettings
    """
    expected = _expected(counts.records, settings)
    now = counts.records[-1]
    said = [
        *_stopped(now, expected, settings),
        *_set_aside(counts, counts.late, "late", "came late", settings.late_floor, settings),
        *_set_aside(counts, counts.dead, "dlq", "cannot be used", settings.dead_floor, settings),
        *_new_schemas(counts.schemas, settings),
    ]
    if not said:
        silent = (now == 0) & (expected > 0) & (expected < settings.expected_min)
        return Finding(None if not now.sum() or silent.any() else False)
    severity = max((each.severity for each in said), key=("info", "warning", "critical").index)
    weight = sum(each.evidence.share for each in said)
    evidence = (replace(each.evidence, share=each.evidence.share / weight) for each in said)
    summary = f"{counts.topic}: {'; '.join(each.sentence for each in said)}."
    return Finding(True, severity, "data", summary, tuple(sorted(evidence, key=lambda each: -each.share)))


def _expected(records: Ints, settings: TopicSettings) -> Floats:
    """Records expected of each partition by what the others have now, shape (P,); 0 where there is nothing to go by.

    By its usual ratio to the others, where that was lowest, but for the odd slices. No more than the others have on
    average: a partition that a hot key had made larger than they are has not stopped when that key has.
    """
    before, now = records[:-1], records[-1]
    partitions = records.shape[1]
    if partitions < 2 or not before.size:
        return np.zeros(partitions)
    others_before = before.sum(axis=1, keepdims=True) - before
    others = now.sum() - now
    overall = before.sum(axis=0) / np.maximum(others_before.sum(axis=0), 1)
    telling = others_before * np.maximum(overall, 1e-12) >= settings.expected_min
    ratio = np.where(telling, before / np.maximum(others_before, 1), np.inf)
    lowest = np.sort(ratio, axis=0)
    slices = telling.sum(axis=0)
    at = np.floor(settings.odd * np.maximum(slices - 1, 0)).astype(int)
    usual = np.where(slices >= settings.slices_min, lowest[at, np.arange(partitions)], 0.0)
    expected: Floats = np.minimum(others * usual, others / (partitions - 1))
    return expected


def _stopped(now: Ints, expected: Floats, settings: TopicSettings) -> list[_Said]:
    few = (now <= settings.stopped * expected) & (expected >= settings.expected_min)
    few &= pdtr(now, np.maximum(expected, 1e-12)) < settings.chance
    found = []
    for p in np.flatnonzero(few):
        sentence = (
            f"partition {p} has stopped, with {now[p]:,} records where {expected[p]:,.0f} were to be expected by what "
            f"the other partitions have"
        )
        evidence = Evidence(f"partition {p}", "records", float(now[p]), float(expected[p]), float(expected[p] - now[p]))
        found.append(_Said(sentence, evidence, "critical"))
    return found


def _set_aside(
    counts: TopicCounts, aside: Aside, suffix: str, what: str, floor: float, settings: TopicSettings
) -> list[_Said]:
    letters, records = int(aside.counts[-1].sum()), int(counts.records[-1].sum())
    if letters < settings.letters_min:
        return []
    records = max(records, letters)
    usual = _usual_share(aside.counts[:-1].sum(axis=1), counts.records[:-1].sum(axis=1), settings)
    least = max(floor, settings.odds * usual / (1 + (settings.odds - 1) * usual))
    share = letters / records
    if share <= least or float(bdtrc(letters - 1, records, least)) >= settings.chance:
        return []
    places = ", ".join(f"{p} from {first} to {last}" for p, (first, last) in sorted(aside.offsets.items()))
    sentence = (
        f"{letters:,} of {records:,} records ({_percent(share)}, {_percent(least)} are let pass) {what}, of partition "
        f"and offsets {places}, mostly: {aside.reason} (all are in {counts.topic}.{suffix})"
    )
    grave = suffix == "dlq" and share >= settings.dead_many
    evidence = Evidence(f"{counts.topic}.{suffix}", "share", share, least, float(letters))
    return [_Said(sentence, evidence, "critical" if grave else "warning")]


def _usual_share(letters: Ints, records: Ints, settings: TopicSettings) -> float:
    """The highest share of the slices before, but for the odd ones."""
    there = records >= settings.expected_min
    shares = np.sort(letters[there] / np.maximum(records[there], letters[there]))
    return float(shares[-1 - int(settings.odd * (len(shares) - 1))]) if len(shares) else 0.0


def _new_schemas(seen: Sequence[SchemaSeen], settings: TopicSettings) -> list[_Said]:
    headed = [each for each in seen if each.schema_id is not None]
    bare = sum(each.before + each.now for each in seen if each.schema_id is None)
    before, now = sum(each.before for each in headed), sum(each.now for each in headed)
    if not before or not now or bare > settings.bare_max * (bare + before + now):
        return []
    old = sorted({int(each.schema_id or 0) for each in headed if each.before})
    found = []
    for name in sorted({int(each.schema_id or 0) for each in headed if each.now} - set(old)):
        of = [each for each in headed if each.schema_id == name]
        times = sum(each.now for each in of)
        if _all_in_one(times, now, before) >= settings.chance:
            continue
        places = ", ".join(f"{each.partition} from offset {each.first_offset}" for each in of)
        sentence = (
            f"records have schema {name} now, where they had {', '.join(map(str, old))} before: "
            f"{_percent(times / now)} of those sampled, in partition {places}"
        )
        found.append(_Said(sentence, Evidence(f"schema {name}", "share", times / now, 0.0, float(times)), "info"))
    return found


def _all_in_one(times: int, now: int, before: int) -> float:
    """The chance that all of a schema's records are in the sample of now, where it is as frequent in both."""

    def ways(n: int) -> float:
        return float(gammaln(n + 1) - gammaln(n - times + 1))

    return float(np.exp(ways(now) - ways(now + before)))


def _percent(share: float) -> str:
    return f"{share:.2g}" if share < 1e-4 else f"{100 * share:.3g}%"
