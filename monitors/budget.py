"""The false-alarm budget of a model: how many retrains for nothing a month a person will have, spent look by look.

Every monitor that has a p-value looks at its window once a day. A look spends the chance at which it would raise an
alarm though nothing had changed, and what looks spend in a month adds up to the budget, however much they hang
together: expectations add. Who finds something earns some of it back (LORD with memory decay: Rebjock et al., "Online
false discovery rate control for anomaly detection in time series", NeurIPS 2021, as `online-fdr` has it). While an
incident is open its monitor spends nothing, since it has nothing to raise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from online_fdr.p_values import LORDMemoryDecay

__all__ = ["MONTH_DAYS", "Budget", "BudgetError", "Look"]

MONTH_DAYS: Final = 30
DAY_MS: Final = 86_400_000


class BudgetError(ValueError):
    """A budget that cannot be kept. The message says what was expected and what came."""


@dataclass(frozen=True)
class Look:
    """One look: `time_ms` the end of its window, `level` what it spent, `found` whether it raised an alarm."""

    time_ms: int
    level: float
    found: bool


class Budget:
    """What is left to spend, and on what it went.

    Parameters
    ----------
    a_month : float
        False alarms to expect in 30 days, more than 0 and less than 1.
    looks_a_day : int
        How many monitors look every day.
    window_days : int
        Looks at overlapping windows hang together: what one has found says nothing for as long about the next.

    Raises
    ------
    BudgetError
    """

    def __init__(self, a_month: float, looks_a_day: int, window_days: int) -> None:
        if not 0 < a_month < 1:
            raise BudgetError(f"false retrains a month: expected more than 0 and less than 1, got {a_month}")
        self.a_month = a_month
        self._share = 1 / (MONTH_DAYS * looks_a_day)
        self._method = LORDMemoryDecay(a_month, delta=1 - self._share, eta=1.0, l=looks_a_day * window_days)
        self._looks: list[Look] = []

    @property
    def usual(self) -> float:
        """Level of a look after a long while without findings: what keeps an open incident open."""
        return self.a_month * self._share

    def look(self, time_ms: int, p_value: float, is_open: bool = False) -> float:
        """Spend on one look.

        Parameters
        ----------
        time_ms : int
            End of its window; never earlier than that of the look before.
        p_value : float
            Of the whole look: of its most striking test, corrected for how many there are.
        is_open : bool
            Whether an incident of its monitor is open: it has no other to raise, so that the look spends nothing.

        Returns
        -------
        float
            Its level: an alarm is raised where the p-value is not above it.
        """
        if is_open:
            return self.usual
        found = self._method.test_one(min(max(p_value, 0.0), 1.0))
        level = float(self._method.last_test_level or 0.0)
        self._looks = [each for each in self._looks if each.time_ms > time_ms - MONTH_DAYS * DAY_MS]
        self._looks.append(Look(time_ms, level, found))
        return level

    def spent(self, time_ms: int) -> float:
        """False alarms that the looks of the 30 days before a time were worth."""
        return sum(each.level for each in self._month(time_ms))

    def found(self, time_ms: int) -> int:
        """Alarms that those looks raised."""
        return sum(each.found for each in self._month(time_ms))

    def looks(self, time_ms: int) -> int:
        """How many there were."""
        return len(self._month(time_ms))

    def _month(self, time_ms: int) -> list[Look]:
        return [each for each in self._looks if time_ms - MONTH_DAYS * DAY_MS < each.time_ms <= time_ms]

    def state(self) -> dict[str, Any]:
        """Plain data, for :meth:`restore`."""
        looks = [[each.time_ms, each.level, each.found] for each in self._looks]
        return {"method": self._method.snapshot(), "looks": looks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave. A budget that was changed since holds from the next look on."""
        method = LORDMemoryDecay.from_snapshot(dict(state["method"]))
        method.alpha0, method.delta, method.l = self._method.alpha0, self._method.delta, self._method.l
        self._method = method
        self._looks = [Look(*each) for each in state["looks"]]
