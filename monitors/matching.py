"""Answers and labels that wait for one another: a join by request, a batch at a time.

Labels come hours after the answer they judge, and either side may be read first. As a join in Flink SQL this would hold
back the watermark by the longest wait, and with it every alarm; here each side waits in a few arrays, and what is
matched does not depend on the order in which batches came.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["ANSWER", "LABEL", "WAIT_MS", "Match", "Matcher", "pack_answers", "pack_labels"]

WAIT_MS: Final = 7 * 86_400_000
"""Labels come hours after the request, seldom a day; what is later than a week is not waited for."""

ANSWER: Final = np.dtype([("request", "<u8"), ("time_ms", "<i8"), ("probability", "<f8"), ("segment", "<i8")])
LABEL: Final = np.dtype([("request", "<u8"), ("time_ms", "<i8"), ("positive", "<i8")])

Table = npt.NDArray[Any]


def pack_answers(
    requests: npt.ArrayLike, probability: npt.ArrayLike, time_ms: npt.ArrayLike, segment: npt.ArrayLike = 0
) -> bytes:
    """A batch of answers as bytes, `ANSWER` a row; a request is known by a 64-bit hash of its id.

    `segment` is what :meth:`monitors.segments.Segmentation.codes` says of each.
    """
    return _pack(ANSWER, requests, {"time_ms": time_ms, "probability": probability, "segment": segment})


def pack_labels(requests: npt.ArrayLike, positive: npt.ArrayLike, time_ms: npt.ArrayLike) -> bytes:
    """A batch of labels (0 or 1, at the time of their arrival) as bytes, `LABEL` a row."""
    return _pack(LABEL, requests, {"time_ms": time_ms, "positive": positive})


def _pack(layout: np.dtype[Any], requests: npt.ArrayLike, values: Mapping[str, npt.ArrayLike]) -> bytes:
    ids = np.asarray(requests, dtype=object)
    table = np.empty(len(ids), layout)
    # Among the 10,000 that wait at a time two meet by chance once in 10^11.
    table["request"] = pd.util.hash_array(ids, categorize=False)
    for name, each in values.items():
        table[name] = each
    return table.tobytes()


@dataclass(frozen=True)
class Match:
    """Answers of one version and the labels that came for them; arrays of one length, times of the labels."""

    version: str
    segment: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    positive: npt.NDArray[np.int64]
    time_ms: npt.NDArray[np.int64]


class Matcher:
    """Holds what has no counterpart yet.

    Parameters
    ----------
    answers : mapping of version to bytes, optional
    labels : bytes, optional
        As :meth:`state` gave them.
    """

    def __init__(self, answers: Mapping[str, bytes] | None = None, labels: bytes = b"") -> None:
        self._answers = {version: np.frombuffer(each, ANSWER) for version, each in (answers or {}).items()}
        self._labels: Table = np.frombuffer(labels, LABEL)

    def add_answers(self, version: str, packed: bytes) -> list[Match]:
        """Take a batch of answers, see :func:`pack_answers`; gives those whose labels were there already."""
        match, left, self._labels = _match(version, np.frombuffer(packed, ANSWER), self._labels)
        self._answers[version] = np.concatenate([self._answers.get(version, np.empty(0, ANSWER)), left])
        return [match] if len(match.time_ms) else []

    def add_labels(self, packed: bytes) -> list[Match]:
        """Take a batch of labels, see :func:`pack_labels`; gives those whose answers were there already."""
        labels: Table = np.frombuffer(packed, LABEL)
        found = []
        for version in sorted(self._answers):
            match, self._answers[version], labels = _match(version, self._answers[version], labels)
            if len(match.time_ms):
                found.append(match)
        self._labels = np.concatenate([self._labels, labels])
        return found

    def forget(self, watermark_ms: int) -> None:
        """Drop labels that no answer can come for any more, and answers that have waited for `WAIT_MS`."""
        self._labels = self._labels[self._labels["time_ms"] > watermark_ms]
        kept = {version: each[each["time_ms"] > watermark_ms - WAIT_MS] for version, each in self._answers.items()}
        self._answers = {version: each for version, each in kept.items() if len(each)}

    def state(self) -> tuple[dict[str, bytes], bytes]:
        """Answers by version and labels, for the next :class:`Matcher`; equal contents give equal bytes."""
        answers = {version: np.sort(each).tobytes() for version, each in sorted(self._answers.items()) if len(each)}
        return answers, np.sort(self._labels).tobytes()


def _match(version: str, answers: Table, labels: Table) -> tuple[Match, Table, Table]:
    _, a, b = np.intersect1d(answers["request"], labels["request"], return_indices=True)
    match = Match(
        version, answers["segment"][a], answers["probability"][a], labels["positive"][b], labels["time_ms"][b]
    )
    return match, np.delete(answers, a), np.delete(labels, b)
