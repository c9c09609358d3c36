"""What false alarms the looks of each model's monitors were worth, from ``drift.windows``."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from compose.windows import Windows

__all__ = ["BUDGET", "Spending", "newest", "read_budgets"]

BUDGET = "budget"
"""The monitor whose windows hold budgets, see :class:`monitors.budget.Budget`."""


@dataclass(frozen=True)
class Spending:
    """The last 30 days of one model, as of its newest day judged.

    Attributes
    ----------
    model, version : str
    until : datetime
        Event time.
    allowed, spent : float
        False alarms to expect in 30 days: by the budget, and of the looks that there were.
    looks, alarms : int
        Looks, and those that raised an alarm.
    """

    model: str
    version: str
    until: datetime
    allowed: float
    spent: float
    looks: int
    alarms: int

    @property
    def left(self) -> float:
        """What the budget still has; below zero where findings have earned more than it."""
        return self.allowed - self.spent

    def record(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {**asdict(self), "until": self.until.isoformat(), "left": self.left}


def newest(windows: Iterable[Mapping[str, Any]]) -> list[Spending]:
    """The newest of each model, by name, of records of ``drift.windows``."""
    last: dict[str, Mapping[str, Any]] = {}
    for each in windows:
        if each["monitor"] != BUDGET:
            continue
        if each["model"] not in last or each["window_end"] >= last[each["model"]]["window_end"]:
            last[each["model"]] = each
    return [_spending(last[model]) for model in sorted(last)]


def _spending(window: Mapping[str, Any]) -> Spending:
    told = {each["statistic"]: each for each in window["results"]}
    return Spending(
        model=window["model"],
        version=window["model_version"],
        until=window["window_end"],
        allowed=told["spent"]["threshold"],
        spent=told["spent"]["value"],
        looks=told["spent"]["count"],
        alarms=round(told["alarms"]["value"]),
    )


def read_budgets(kafka: str) -> list[Spending]:
    """The newest of each model that was judged, by name."""
    windows = Windows(kafka)
    try:
        return newest(windows.news())
    finally:
        windows.close()
