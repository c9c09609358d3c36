"""How well the model in charge was expected to do before labels came, beside how it did, from ``drift.windows``."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from confluent_kafka import Message

from compose.control import WINDOWS_TOPIC, milliseconds
from jobs.reading import TopicReader
from schemas.codec import Codec, DecodeError
from schemas.topics import TOPICS

__all__ = ["ESTIMATE", "Estimates", "Windows", "correlation", "read_estimates"]

ESTIMATE = "estimate"
"""The monitor whose windows hold estimates, see :func:`monitors.watchers.estimate_window`."""


class Windows:
    """What ``drift.windows`` has said since the last call.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    """

    def __init__(self, kafka: str) -> None:
        self._codec = Codec(TOPICS[WINDOWS_TOPIC].schema, TOPICS[WINDOWS_TOPIC].schema_id)
        self._reader = TopicReader(kafka, [WINDOWS_TOPIC])

    def news(self) -> Iterable[dict[str, Any]]:
        """Records that came since the last call, but for those that do not decode."""
        found: list[dict[str, Any]] = []

        def take(messages: list[Message]) -> None:
            for each in messages:
                value = each.value()
                if value is None:
                    continue
                try:
                    found.append(self._codec.decode(value))
                except DecodeError:
                    continue

        self._reader.read(take)
        return found

    def close(self) -> None:
        """Leave the broker."""
        self._reader.close()


class Estimates:
    """Windows of estimates, by their end; filled by :meth:`add`."""

    def __init__(self) -> None:
        self._windows: dict[int, dict[str, Any]] = {}

    def add(self, window: Mapping[str, Any]) -> None:
        """Take a record of ``drift.windows``; those of other monitors are left alone."""
        if window["monitor"] != ESTIMATE or not window["results"]:
            return
        start_ms, end_ms = (milliseconds(window[name]) for name in ("window_start", "window_end"))
        told: dict[str, Any] = {"start_ms": start_ms, "end_ms": end_ms, "version": window["model_version"]}
        for each in window["results"]:
            told.setdefault(each["column"], {"usual": each["threshold"]})[each["statistic"]] = each["value"]
        self._windows[end_ms] = told

    def series(self) -> list[dict[str, Any]]:
        """``start_ms``, ``end_ms``, ``version`` and by measure what was ``estimated``, ``corrected``, ``realised``."""
        return [self._windows[end_ms] for end_ms in sorted(self._windows)]

    def tracking(self, measure: str = "auc") -> dict[str, Any]:
        """How close estimates came to what labels then said.

        Returns
        -------
        dict
            ``windows``, and of ``estimated`` and of ``corrected`` the ``correlation`` (Pearson's) and
            ``mean_absolute_error`` with what was realised, and ``held``, the share of windows whose range had that in
            it; None without windows.
        """
        known = [each[measure] for each in self.series() if "realised" in each.get(measure, ())]
        realised = np.array([each["realised"] for each in known])
        found: dict[str, Any] = {"windows": len(known)}
        for how in ("estimated", "corrected"):
            value, low, high = (np.array([each[how + end] for each in known]) for end in ("", "_low", "_high"))
            found[how] = {
                "correlation": correlation(value, realised),
                "mean_absolute_error": float(np.abs(value - realised).mean()) if len(known) else None,
                "held": float(((low <= realised) & (realised <= high)).mean()) if len(known) else None,
            }
        return found


def correlation(left: Any, right: Any) -> float | None:
    """Pearson's; None of fewer than three pairs, or where one side never changes."""
    if len(left) < 3 or np.std(left) == 0 or np.std(right) == 0:
        return None
    found = float(np.corrcoef(left, right)[0, 1])
    return found if math.isfinite(found) else None


def read_estimates(kafka: str) -> Estimates:
    """Every window of estimates that there is."""
    windows, found = Windows(kafka), Estimates()
    for each in windows.news():
        found.add(each)
    windows.close()
    return found
