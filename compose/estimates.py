"""How well the model in charge was expected to do before labels came, beside how it did, from ``drift.windows``."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from compose.control import milliseconds
from compose.windows import Windows

__all__ = ["ESTIMATE", "Estimates", "correlation", "read_estimates"]

ESTIMATE = "estimate"
"""The monitor whose windows hold estimates, see :func:`monitors.watchers.estimate_window`."""


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
