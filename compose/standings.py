"""What the regions say of who owns which model, and how far each has what the others say."""

import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from jobs.kafka import BrokerError, TopicLog, reader
from jobs.retraining.agent import OWNERSHIP
from jobs.retraining.regions import SHARED, Region, Regions, mirror_of

__all__ = ["Flow", "Seen", "Takeover", "Translated", "look"]

ANSWER_S = 5.0


@dataclass(frozen=True)
class Flow:
    """What a region has of another.

    Attributes
    ----------
    source, target : str
    behind : int
        Records of the control topics that the source has and the target does not: what would be lost with the source.
    behind_s : float
        How much older the newest word of the source's member is there.
    """

    source: str
    target: str
    behind: int
    behind_s: float


@dataclass(frozen=True)
class Translated:
    """Where a consumer group of one region would go on in another.

    Attributes
    ----------
    source, target, group, topic : str
    partition : int
    committed, translated : int
        Offset in the source's topic, and in the target's mirror of it.
    """

    source: str
    target: str
    group: str
    topic: str
    partition: int
    committed: int
    translated: int


@dataclass(frozen=True)
class Takeover:
    """A change of owner, as far as the log still tells of it.

    Attributes
    ----------
    model, owner : str
    epoch : int
    at_ms : int
    without_s : float
        From the last word of the owner before to the first of this one.
    """

    model: str
    owner: str
    epoch: int
    at_ms: int
    without_s: float


@dataclass
class Seen:
    """Everything that one look at the regions shows.

    Attributes
    ----------
    at_ms : int
        Wall clock.
    unreachable : dict of str to str
        Regions that did not answer, and why.
    standings : dict of (str, str) to mapping
        By model and member, the newest record of ``ownership`` that any region has.
    flows : list of Flow
    translated : list of Translated
    takeovers : list of Takeover
    """

    at_ms: int
    unreachable: dict[str, str] = field(default_factory=dict)
    standings: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    flows: list[Flow] = field(default_factory=list)
    translated: list[Translated] = field(default_factory=list)
    takeovers: list[Takeover] = field(default_factory=list)

    def owner(self, model: str) -> Mapping[str, Any] | None:
        """The newest owner that any region knows of."""
        owners = [each for (name, _), each in self.standings.items() if name == model and each["role"] == "owner"]
        return max(owners, key=lambda each: int(each["epoch"]), default=None)

    @property
    def models(self) -> list[str]:
        """Of which anybody has said anything."""
        return sorted({model for model, _ in self.standings})


Told = dict[tuple[str, str], list[dict[str, Any]]]
"""By whose log it was first written to, and by topic."""


def look(regions: Regions, wall: Callable[[], float] = time.time) -> Seen:
    """Ask all regions; those that do not answer within seconds are told of."""
    seen = Seen(round(wall() * 1000))
    told: dict[str, Told] = {}
    with ThreadPoolExecutor(len(regions.regions)) as pool:
        asked = {each.name: pool.submit(_told, regions, each) for each in regions.regions}
        for name, answer in asked.items():
            try:
                told[name] = answer.result()
            except BrokerError as exc:
                seen.unreachable[name] = str(exc)
    said = [each for of in told.values() for (_, topic), some in of.items() if topic == OWNERSHIP for each in some]
    for each in said:
        key = (each["model"], each["member"])
        if key not in seen.standings or seen.standings[key]["revision"] < each["revision"]:
            seen.standings[key] = each
    seen.takeovers = _takeovers(said)
    for source in regions.names:
        for target in regions.names:
            if source != target and source in told and target in told:
                seen.flows.append(_flow(source, target, told))
                seen.translated += _translated(source, regions.region(target))
    return seen


def _told(regions: Regions, region: Region) -> Told:
    _answers(region)
    found: Told = {}
    for origin in regions.names:
        names = {each if origin == region.name else mirror_of(origin, each): each for each in SHARED}
        log = TopicLog(region.kafka, names, **region.settings)
        for topic, record in log.to_end():
            found.setdefault((origin, topic), []).append(record)
        log.close()
    return found


def _answers(region: Region) -> None:
    consumer = reader(region.kafka, log_level=0, **region.settings)
    try:
        consumer.list_topics(timeout=ANSWER_S)
    except KafkaException as exc:
        raise BrokerError(f"expected Kafka at {region.kafka}, got {exc.args[0].str()}") from exc
    finally:
        consumer.close()


def _flow(source: str, target: str, told: Mapping[str, Told]) -> Flow:
    there, here = told[source], told[target]
    topics = [each for each in SHARED if each != OWNERSHIP]  # of which all records are kept
    behind = sum(len(there.get((source, each), ())) - len(here.get((source, each), ())) for each in topics)
    newest, arrived = (_newest_ms(of.get((source, OWNERSHIP), ())) for of in (there, here))
    return Flow(source, target, max(0, behind), max(0, newest - arrived) / 1000 if newest and arrived else 0.0)


def _newest_ms(records: Iterable[Mapping[str, Any]]) -> int:
    return max((int(each["event_time"]) for each in records), default=0)


def _takeovers(said: Sequence[Mapping[str, Any]]) -> list[Takeover]:
    """From the records that have not been compacted away."""
    first: dict[tuple[str, int], Mapping[str, Any]] = {}
    last: dict[tuple[str, int], int] = {}
    for each in said:
        if each["role"] in ("owner", "leaving"):
            key = (each["model"], each["epoch"])
            last[key] = max(last.get(key, 0), each["event_time"])
            if each["role"] == "owner" and each["event_time"] < first.get(key, {"event_time": 1 << 62})["event_time"]:
                first[key] = each
    found = []
    for (model, epoch), each in sorted(first.items()):
        before = [last[key] for key in last if key[0] == model and key[1] < epoch]
        if before:
            without_s = max(0, each["event_time"] - max(before)) / 1000
            found.append(Takeover(model, each["member"], epoch, each["event_time"], without_s))
    return found


def _translated(source: str, target: Region) -> list[Translated]:
    """MirrorMaker's checkpoints; formats as in Kafka's ``connect.mirror.Checkpoint``."""
    name = f"{source}.checkpoints.internal"
    consumer = reader(target.kafka, enable_partition_eof=True, log_level=0, **target.settings)
    newest: dict[tuple[str, str, int], Translated] = {}
    try:
        if name not in consumer.list_topics(timeout=ANSWER_S).topics:
            return []
        consumer.assign([TopicPartition(name, 0, 0)])
        while (message := consumer.poll(ANSWER_S)) is not None:
            error, key, value = message.error(), message.key(), message.value()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                break
            if error is None and key is not None and value is not None:
                each = _checkpoint(source, target.name, bytes(key), bytes(value))
                newest[each.group, each.topic, each.partition] = each
    except KafkaException as exc:
        raise BrokerError(f"expected {name} at {target.kafka}, got {exc}") from exc
    finally:
        consumer.close()
    return sorted(newest.values(), key=lambda each: (each.group, each.topic, each.partition))


def _checkpoint(source: str, target: str, key: bytes, value: bytes) -> Translated:
    group, rest = _text(key)
    topic, rest = _text(rest)
    (partition,) = struct.unpack_from(">i", rest)
    _, committed, translated = struct.unpack_from(">hqq", value)
    return Translated(source, target, group, topic, partition, committed, translated)


def _text(content: bytes) -> tuple[str, bytes]:
    (size,) = struct.unpack_from(">h", content)
    return content[2 : 2 + size].decode(), content[2 + size :]
