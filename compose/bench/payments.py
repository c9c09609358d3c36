"""Payments: the events of ``headwater bench features``, a Feast repo of one view on them, and their topics."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from feast import StreamFeatureView

from compose.local.home import PlatformError
from features.compiler.repo import load_repo
from features.compiler.topics import feature_topic
from schemas.batch import from_frame
from schemas.codec import derived_id
from schemas.topics import DLQ_SUFFIX, LATE_SUFFIX

__all__ = [
    "SCHEMA",
    "SCHEMA_ID",
    "ZIPF",
    "Spans",
    "accounts",
    "active_tiles",
    "event_topics",
    "make_repo",
    "make_topics",
    "payments",
    "remove_topics",
    "rows_topic",
    "send",
    "thickened",
    "write",
]

SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "account", "type": "long"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": "double"},
    ],
}
SCHEMA_ID = derived_id(SCHEMA)
ZIPF = 1.3
START_MS = 1_700_006_400_000  # midnight
TIMEOUT_S = 60.0
BATCH = 50_000
_REPO = '''\
"""Written by headwater bench features."""

from datetime import timedelta

from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import AvroFormat
from feast.types import Float64, Int64
from feast.value_type import ValueType

TYPES = {{"sum": Float64, "count": Int64, "mean": Float64}}
WINDOWS = {windows}  # seconds
FEATURES = {{f"{{function}}_{{window}}s": (function, window) for function in TYPES for window in WINDOWS}}

account = Entity(name="account", join_keys=["account"], value_type=ValueType.INT64)
payments = KafkaSource(
    name="payments_{name}",
    kafka_bootstrap_servers="",
    topic="{topic}",
    timestamp_field="event_time",
    message_format=AvroFormat("""{schema}"""),
    watermark_delay_threshold=timedelta(0),
    batch_source=FileSource(name="history", path="none.parquet", timestamp_field="event_time"),
    tags={{"schema_id": "{schema_id}"}},
)
{name} = StreamFeatureView(
    name="{name}",
    entities=[account],
    source=payments,
    timestamp_field="event_time",
    schema=[
        Field(name="account", dtype=Int64),
        *(Field(name=name, dtype=TYPES[function]) for name, (function, _) in FEATURES.items()),
    ],
    aggregations=[
        Aggregation(
            column="amount",
            function=function,
            name=name,
            time_window=timedelta(seconds=window),
            slide_interval=timedelta(seconds={slide}),
        )
        for name, (function, window) in FEATURES.items()
    ],
)
'''


@dataclass(frozen=True)
class Spans:
    """Windows of a view, each with sum, count and mean.

    Attributes
    ----------
    windows_s : tuple of int
        Lengths in seconds, shortest first.
    slide_s : int
        Of all of them, in seconds.
    """

    windows_s: tuple[int, ...] = (300, 1800, 3600, 21_600, 86_400)
    slide_s: int = 300

    @property
    def features(self) -> int:
        """How many there are in a row."""
        return 3 * len(self.windows_s)


def accounts(rng: np.random.Generator, count: int, space: int, exponent: float = 0.0) -> pd.Series:
    """Accounts of so many payments, out of `space` ones: Zipf-distributed, or uniformly with the exponent 0."""
    weights = 1 / np.arange(1, space + 1) ** exponent
    return pd.Series(rng.choice(space, count, p=weights / weights.sum()))


def payments(account: pd.Series, days: float, seed: int = 0) -> pd.DataFrame:
    """A payment of each account given, in the order of their times, which are spread evenly."""
    rng = np.random.default_rng(seed)
    times = START_MS + np.sort(rng.integers(1, int(days * 86_400_000), len(account)))
    amounts = np.round(rng.lognormal(3, 1, len(account)), 2)
    return pd.DataFrame({"account": account.to_numpy(), "event_time": times, "amount": amounts})


def thickened(frame: pd.DataFrame, times: int, spans: Spans) -> pd.DataFrame:
    """So many times as many payments, each in the tile of one there is, at another time; the last one is the same."""
    slide_ms, rng = spans.slide_s * 1000, np.random.default_rng(3)
    found = frame.loc[frame.index.repeat(times)]
    starts = (found.event_time - 1) // slide_ms * slide_ms
    moments = np.minimum(starts + rng.integers(1, slide_ms + 1, len(found)), frame.event_time.max())
    return found.assign(event_time=moments).sort_values("event_time", kind="stable").reset_index(drop=True)


def active_tiles(frame: pd.DataFrame, spans: Spans) -> int:
    """Base tiles with a payment that some window still reaches when the last payment has come."""
    slide_ms = spans.slide_s * 1000
    tiles = pd.DataFrame({"account": frame.account, "tile": (frame.event_time - 1) // slide_ms})
    now = (int(frame.event_time.max()) - 1) // slide_ms
    return len(tiles[tiles.tile >= now - spans.windows_s[-1] // spans.slide_s].drop_duplicates())


def make_repo(folder: Path, name: str, topic: str, spans: Spans) -> StreamFeatureView:
    """Write a Feast repo with the view `name` on a topic, and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text("project: bench\nprovider: local\nregistry: registry.db\n")
    values = {"name": name, "topic": topic, "schema": json.dumps(SCHEMA), "schema_id": SCHEMA_ID}
    text = _REPO.format(**values, windows=list(spans.windows_s), slide=spans.slide_s)
    (folder / "definitions.py").write_text(text)
    return load_repo(folder).views[name]


def make_topics(kafka: str, names: Sequence[str]) -> None:
    """Create topics of one partition."""
    with AdminClient({"bootstrap.servers": kafka, "log_level": 0}) as admin:
        for each in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
            each.result(TIMEOUT_S)


def event_topics(topic: str) -> list[str]:
    """A topic of events, and those for what cannot be used of it."""
    return [topic, f"{topic}{DLQ_SUFFIX}", f"{topic}{LATE_SUFFIX}"]


def remove_topics(kafka: str, names: Sequence[str]) -> None:
    """Remove topics, to have the room back."""
    with AdminClient({"bootstrap.servers": kafka, "log_level": 0}) as admin:
        for each in admin.delete_topics(list(names)).values():
            each.result(TIMEOUT_S)


def rows_topic(view: StreamFeatureView) -> str:
    """Where the rows of a view go."""
    return feature_topic(view).name


def send(kafka: str, topic: str, frame: pd.DataFrame) -> None:
    """Write payments in their order, keyed by account as text.

    Raises
    ------
    PlatformError
        Where Kafka did not take all of them.
    """
    producer = Producer({"bootstrap.servers": kafka, "log_level": 0, "linger.ms": 20, "batch.size": 1 << 20})
    for at in range(0, len(frame), BATCH):
        part = frame[at : at + BATCH]
        write(producer, topic, part)
        producer.flush(TIMEOUT_S)
    if left := producer.flush(TIMEOUT_S):
        raise PlatformError(f"Kafka did not take {left:,} of {len(frame):,} payments within {TIMEOUT_S:.0f} s.")


def write(producer: Producer, topic: str, part: pd.DataFrame) -> None:
    """Hand a few payments to a producer."""
    values = from_frame(part, SCHEMA, SCHEMA_ID)
    keys, times = part.account.astype(str).tolist(), part.event_time.tolist()
    for key, value, time in zip(keys, values, times, strict=True):
        producer.produce(topic, value=value, key=key, partition=0, timestamp=time)
