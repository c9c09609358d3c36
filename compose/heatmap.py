"""Drift by column and week, from every window the drift job evaluated, whether or not it fired."""

import math
from typing import Any

from compose.budgets import BUDGET
from compose.control import milliseconds
from compose.estimates import ESTIMATE, Estimates
from compose.windows import Windows
from monitors import segments
from schemas.topics import DAY_MS

__all__ = ["Heatmap"]

WEEK_MS = 7 * DAY_MS


class Heatmap:
    """The largest ratio of a statistic to its threshold, by monitor, column and week of event time.

    Parameters
    ----------
    kafka : str
        ``host:port``.

    Attributes
    ----------
    windows : int
        Read so far.
    estimates : Estimates
        Of the windows that judge nothing and tell how well the model is likely to do.
    """

    def __init__(self, kafka: str) -> None:
        self.windows = 0
        self.estimates = Estimates()
        self._windows = Windows(kafka)
        self._cells: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        self._first_ms: int | None = None

    def refresh(self) -> None:
        """Read the windows that came since the last call."""
        for each in self._windows.news():
            self._add(each)

    def close(self) -> None:
        """Leave the broker."""
        self._windows.close()

    def as_dict(self) -> dict[str, Any]:
        """``weeks`` (starts, UTC epoch ms) and ``rows``: monitor, column, peak, and a cell a week or None.

        Weeks count from the first window. Cells: ``ratio`` (of statistic to threshold, above 1 is drift), ``value``,
        ``threshold``, ``statistic``, ``fired``, ``windows``.
        """
        indices = [week for cells in self._cells.values() for week in cells]
        if self._first_ms is None or not indices:
            return {"weeks": [], "rows": [], "windows": self.windows}
        span = range(min(indices), max(indices) + 1)
        rows = [
            {
                "monitor": monitor,
                "column": column,
                "peak": max(cell["ratio"] for cell in cells.values()),
                "fired": sum(cell["fired"] for cell in cells.values()),
                "cells": [cells.get(week) for week in span],
            }
            for (monitor, column), cells in self._cells.items()
        ]
        rows.sort(key=lambda row: (-row["peak"], row["monitor"], row["column"]))
        return {"weeks": [self._first_ms + week * WEEK_MS for week in span], "rows": rows, "windows": self.windows}

    def _add(self, window: dict[str, Any]) -> None:
        self.windows += 1
        if window["monitor"] == ESTIMATE:
            self.estimates.add(window)
            return
        if window["monitor"] == BUDGET:  # judges nothing either
            return
        if self._first_ms is None:
            self._first_ms = milliseconds(window["window_start"]) // DAY_MS * DAY_MS
        week = (milliseconds(window["window_end"]) - 1 - self._first_ms) // WEEK_MS
        for result in window["results"]:
            if not (result["threshold"] > 0 and math.isfinite(result["value"])):
                continue
            # Of a segment of traffic only the strangest are told, others every day: those that fired are enough.
            if result["segment"] and window["monitor"] in segments.MONITORS and not result["fired"]:
                continue
            column = f"{result['column']} [{result['segment']}]" if result["segment"] else result["column"]
            weeks = self._cells.setdefault((window["monitor"], column), {})
            ratio = result["value"] / result["threshold"]
            cell = weeks.get(week)
            if cell is None or ratio > cell["ratio"]:
                told = {name: result[name] for name in ("value", "threshold", "statistic")}
                fired, windows = (cell["fired"], cell["windows"]) if cell else (False, 0)
                cell = weeks[week] = {"ratio": ratio, **told, "fired": fired, "windows": windows}
            cell["fired"] = cell["fired"] or result["fired"]
            cell["windows"] += 1
