"""Every topic as data: its schema, fixed id, key, partitions and retention.

Ids are fixed here, in git, and are the same in every region: a registry per region would hand out different ones and
mirrored bytes would stop being readable. Topics that a Feast repo gives rise to (``features.<view>``,
``predictions.<model>``) have derived ids, see :func:`schemas.codec.derived_id`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "DAY_MS",
    "DLQ_SUFFIX",
    "LATE_SUFFIX",
    "TOPICS",
    "WITH_PROGRESS",
    "Encoding",
    "Topic",
    "load_schema",
    "topic",
    "topics_from_json",
    "topics_to_json",
]

DAY_MS = 86_400_000
DLQ_SUFFIX = ".dlq"
LATE_SUFFIX = ".late"
# Topics of ours in which a record without a key is no row but the progress of time.
WITH_PROGRESS = ("features.", "predictions.")
Encoding = Literal["avro", "json"]
AVRO_DIR = Path(__file__).parent / "avro"


@dataclass(frozen=True)
class Topic:
    """A Kafka topic.

    Attributes
    ----------
    name : str
    schema_id : int
        Id in the Confluent wire format; fixed for all time and every region.
    key : str
        Field whose UTF-8 text is the record key; of a ``features.<view>`` topic empty: there the key is the entity,
        Avro in the wire format.
    partitions : int
    retention_ms : int
        -1 keeps everything.
    compacted : bool
        Keep the newest record of each key instead of a time span.
    segment_bytes : int
        Of the log's files, of which only those that are full are compacted; 0: the broker's size.
    encoding : {"avro", "json"}
        Of the values; the schema says what they hold either way.
    definition : dict, optional
        The Avro schema where it is generated from a Feast repo; otherwise ``schemas/avro/<name>.avsc`` holds it.
    time : str
        Of somebody else's events: the field of their event time, which goes on by the wall clock where none come.
    changelog : str
        How its records are changes of rows, see :mod:`features.compiler.changes`; empty where each is a row of its own.
    """

    name: str
    schema_id: int
    key: str
    partitions: int = 1
    retention_ms: int = -1
    compacted: bool = False
    segment_bytes: int = 0
    encoding: Encoding = "avro"
    definition: dict[str, Any] | None = field(default=None, hash=False)
    time: str = ""
    changelog: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        """The Avro schema of the values."""
        return self.definition or load_schema(self.name)


_ALL = (
    Topic("flights.requests", 1, key="flight_id"),
    Topic("flights.departures", 2, key="flight_id"),
    Topic("flights.arrivals", 3, key="flight_id"),
    Topic("flights.weather", 4, key="origin"),
    Topic("drift.windows", 6, key="model"),
    Topic("drift.alerts", 7, key="incident_id"),
    Topic("retraining.events", 8, key="incident_id"),
    Topic("submissions", 12, key="incident_id"),
    Topic("models.decisions", 10, key="incident_id"),
    Topic("models.control", 11, key="model"),
    # A record a second of each member and model, of which one counts.
    Topic("ownership", 13, key="seat", compacted=True, segment_bytes=1 << 20),
    Topic("ownership.orders", 14, key="seat"),
)

TOPICS: dict[str, Topic] = {each.name: each for each in _ALL}


def topic(name: str) -> Topic:
    """The topic of that name.

    Raises
    ------
    KeyError
        Naming the topics there are.
    """
    try:
        return TOPICS[name]
    except KeyError:
        raise KeyError(f"no topic {name!r} in schemas/topics.py; there are {', '.join(sorted(TOPICS))}") from None


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The Avro schema in ``schemas/avro/<name>.avsc``."""
    found: dict[str, Any] = json.loads((AVRO_DIR / f"{name}.avsc").read_text())
    return found


def topics_to_json(topics: Iterable[Topic]) -> str:
    """Topics with their schemas: for the processes that have no use for Feast, which those come from."""
    return json.dumps(
        [
            {
                "name": each.name,
                "schema_id": each.schema_id,
                "key": each.key,
                "encoding": each.encoding,
                "definition": each.schema,
                "time": each.time,
                "changelog": each.changelog,
            }
            for each in topics
        ]
    )


def topics_from_json(text: str) -> list[Topic]:
    """What :func:`topics_to_json` was given."""
    return [
        Topic(
            each["name"],
            each["schema_id"],
            key=each.get("key", ""),
            encoding=each.get("encoding", "avro"),
            definition=each["definition"],
            time=each.get("time", ""),
            changelog=each.get("changelog", ""),
        )
        for each in json.loads(text)
    ]
