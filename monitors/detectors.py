"""Sequential detectors of river over one value an hour, with a state that is data.

river's detectors are objects whose inner state is not documented; pickled, it would tie a checkpoint to one release of
river. A detector's state is a function of what it was told, so that is what is kept: the values since it last began,
which for means of hours are few, and told again on recovery. The one that draws at random (KSWIN) draws from a seed
when it begins, once a value, so that what it is told again puts its generator where it was, too.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from river import drift

__all__ = ["DETECTORS", "SCALES", "VALUES_MAX", "DetectorStateError", "Method", "Scale", "SequentialDetector"]

VALUES_MAX: Final = 4096
"""A detector that has heard so many values without firing begins again: 170 days of hours."""

Scale = Literal["share", "loss", "signed"]
SCALES: Final[Mapping[Scale, Callable[[float], float]]] = {
    "share": lambda value: value,
    "loss": lambda value: -math.expm1(-value),
    "signed": lambda value: (1 + value) / 2,
}
"""Into [0, 1]: of what lies there; of losses in nats, one less the likelihood that they stand for; of what lies in [-1,
1]. What is beyond is told as the end that it is beyond."""


class DetectorStateError(ValueError):
    """Bytes that are no detector's state, or of a detector that does not exist or cannot have such parameters."""


@dataclass(frozen=True)
class Method:
    """One of river's detectors.

    Attributes
    ----------
    make : class of river
    hears : {"values", "shares", "bits"}
        What it has to be told: any numbers; those in [0, 1]; whether a value is above a level.
    always : mapping
        Parameters unless told otherwise.
    rises, changes : mapping
        Parameters with which it finds rises alone, and changes in either direction.
    recent : callable of parameters to int, optional
        How many values, the newest, tell which way a change went; None where it finds rises alone by itself.
    """

    make: Any
    hears: Literal["values", "shares", "bits"] = "values"
    always: Mapping[str, Any] = field(default_factory=dict)
    rises: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    recent: Callable[[Mapping[str, Any]], int] | None = None


_ONE: Final = {"two_sided_test": False}
_BOTH: Final = {"two_sided_test": True}
DETECTORS: Final[dict[str, Method]] = {
    "adwin": Method(drift.ADWIN, recent=lambda _: 1),
    "ddm": Method(drift.binary.DDM, "bits"),
    "eddm": Method(drift.binary.EDDM, "bits"),
    "hddm_a": Method(drift.binary.HDDM_A, "shares", rises=_ONE, changes=_BOTH),
    "hddm_w": Method(drift.binary.HDDM_W, "shares", rises=_ONE, changes=_BOTH),
    "kswin": Method(drift.KSWIN, always={"seed": 0, "stat_size": 30}, recent=lambda given: int(given["stat_size"])),
    "page_hinkley": Method(drift.PageHinkley, rises={"mode": "up"}, changes={"mode": "both"}),
}
"""ADWIN (Bifet and Gavalda 2007), DDM (Gama et al. 2004), EDDM (Baena-Garcia et al. 2006), HDDM with averages and with
weighted ones (Frias-Blanco et al. 2014), KSWIN (Raab et al. 2020), Page-Hinkley (Page 1954)."""


class SequentialDetector:
    """One of river's detectors on one series.

    Parameters
    ----------
    name : str
        A key of ``DETECTORS``.
    parameters : mapping, optional
        Of river's class.
    sides : int
        2 for changes in either direction, 1 for rises alone. DDM and EDDM find rises alone by nature: for both
        directions another one is told which values are below the level.
    level : float
        DDM and EDDM hear whether a value is above it.
    scale : {"share", "loss", "signed"}
        How HDDM's values get into [0, 1], see ``SCALES``.

    Examples
    --------
    >>> detector = SequentialDetector("page_hinkley", {"min_instances": 5, "threshold": 1.0})
    >>> [i for i in range(30) if detector.update(0.0 if i < 20 else 1.0)]
    [21]

    Raises
    ------
    DetectorStateError
        For an unknown name, or parameters that river refuses.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        sides: int = 2,
        level: float = 0.5,
        scale: Scale = "share",
    ) -> None:
        if name not in DETECTORS:
            raise DetectorStateError(f"expected one of {', '.join(sorted(DETECTORS))}, got {name!r}")
        if scale not in SCALES:
            raise DetectorStateError(f"expected one of the scales {', '.join(SCALES)}, got {scale!r}")
        self._method = DETECTORS[name]
        sided = self._method.rises if sides == 1 else self._method.changes
        self.name, self.sides, self.level, self.scale = name, sides, level, scale
        self.parameters = {**self._method.always, **sided, **(parameters or {})}
        if self.parameters.get("seed", 0) is None:
            raise DetectorStateError(f"{name}: expected a seed, since a recovered detector has to draw the same again")
        try:
            self.reset()
        except (TypeError, ValueError) as exc:
            raise DetectorStateError(f"{name}: expected parameters of river's, got {self.parameters}: {exc}") from exc

    def reset(self) -> None:
        """Forget everything heard."""
        self.values: list[float] = []
        self._total = 0.0
        twice = self._method.hears == "bits" and self.sides == 2
        self._detectors: list[Any] = [self._method.make(**self.parameters) for _ in range(2 if twice else 1)]

    def update(self, value: float) -> bool:
        """Hear one value; whether the series has changed, or risen where that is all that counts.

        After a change it begins again with this value.
        """
        if len(self.values) >= VALUES_MAX:
            self.reset()
        value = float(value)
        if not self._hear(value):
            return False
        told = self.sides == 2 or self._rose()
        self.reset()
        self._hear(value)
        return told

    def hear(self, values: Iterable[float]) -> bool:
        """Hear values in their order; whether :meth:`update` says so of one of them."""
        told = False
        for value in values:
            told |= self.update(value)
        return told

    def _hear(self, value: float) -> bool:
        """Tell river; whether it finds a change."""
        self.values.append(value)
        self._total += value  # in the order of the values, so that it is the same after a recovery
        # A mirrored one hears what is below: what is at the level itself is neither.
        told: tuple[float, ...] = (value,)
        if self._method.hears == "bits":
            told = (int(value > self.level), int(value < self.level))
        elif self._method.hears == "shares":
            told = (min(max(SCALES[self.scale](value), 0.0), 1.0),)
        for each, what in zip(self._detectors, told, strict=False):
            each.update(what)
        return any(each.drift_detected for each in self._detectors)

    def _rose(self) -> bool:
        if self._method.recent is None:
            return True
        since = len(self.values) - self._method.recent(self.parameters)
        before, after = self.values[:since], self.values[since:]
        return bool(before) and sum(after) / len(after) > sum(before) / len(before)

    @property
    def estimate(self) -> float:
        """Mean of the values since it last began; NaN for none."""
        return self._total / len(self.values) if self.values else float("nan")

    def like(self, other: "SequentialDetector") -> bool:
        """Whether another is the same but for its level and what it has heard."""
        mine, its = ((each.name, each.parameters, each.sides, each.scale) for each in (self, other))
        return mine == its

    def to_bytes(self) -> bytes:
        """State for a checkpoint: JSON."""
        names = ("name", "parameters", "sides", "level", "scale", "values")
        return json.dumps({name: getattr(self, name) for name in names}).encode()

    @staticmethod
    def from_bytes(payload: bytes) -> "SequentialDetector":
        """What :meth:`to_bytes` wrote, in the same state.

        Raises
        ------
        DetectorStateError
            Where the bytes are something else.
        """
        try:
            state = json.loads(payload)
            values = [float(value) for value in state.pop("values")]
            detector = SequentialDetector(**state)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise DetectorStateError(f"expected the state of a detector, got {payload[:40]!r}: {exc}") from exc
        for value in values:
            detector._hear(value)
        return detector
