"""Quix Streams, run by ``uv`` in an environment of its own: the script beside this file, and what it wrote."""

import json
from pathlib import Path

import pandas as pd
from confluent_kafka import Message

from compose.bench.apart import run_apart
from compose.bench.payments import SCHEMA, Spans, make_topics
from jobs.reading import TopicReader

__all__ = ["quix_seconds", "quix_values"]

PACKAGES = ("quixstreams==3.28.1", "fastavro>=1.13,<2")


def quix_seconds(kafka: str, uv: str, folder: Path, topic: str, messages: int, spans: Spans, rows: str) -> float:
    """How long Quix Streams takes for the first payments of a topic; what it writes stays in the topic `rows`."""
    make_topics(kafka, [rows])
    order = {
        "kafka": kafka,
        "topic": topic,
        "rows": rows,
        "folder": str(folder),
        "schema": SCHEMA,
        "windows_ms": [each * 1000 for each in spans.windows_s],
        "slide_ms": spans.slide_s * 1000,
        "messages": messages,
    }
    return float(run_apart(uv, PACKAGES, Path(__file__).with_name("quix_script.py"), order)["seconds"])


def quix_values(kafka: str, rows: str) -> pd.DataFrame:
    """What was written: account, event_time, feature, value. A window's end is the event time of its row."""
    found: list[tuple[int, int, str, float]] = []

    def take(messages: list[Message]) -> None:
        for each in messages:
            window = json.loads(each.value() or b"")
            length_s = (window["end"] - window["start"]) // 1000
            place = (int(each.key() or b""), int(window["end"]))
            found.extend((*place, f"{name}_{length_s}s", float(window[name])) for name in ("sum", "count", "mean"))

    source = TopicReader(kafka, [rows])
    source.read(take)
    source.close()
    return pd.DataFrame(found, columns=["account", "event_time", "feature", "value"])
