"""Sequential detectors of river over window means, with a state that is data.

river's detectors are objects whose inner state is not documented; pickled, it would tie a checkpoint to one release of
river. A detector's state is a function of what it was told, so that is what is kept: the values since it last began,
which for means of windows are few, and told again on recovery.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from river import base, drift

__all__ = ["DETECTORS", "VALUES_MAX", "DetectorStateError", "SequentialDetector"]

VALUES_MAX: Final = 4096
"""A detector that has heard so many values without firing begins again: eleven years of days."""

DETECTORS: Final[dict[str, type[base.DriftDetector]]] = {"adwin": drift.ADWIN, "page_hinkley": drift.PageHinkley}


class DetectorStateError(ValueError):
    """Bytes that are no detector's state, or of an unknown detector."""


class SequentialDetector:
    """One of river's detectors on one series.

    Parameters
    ----------
    name : str
        A key of ``DETECTORS``: ``adwin`` (Bifet and Gavalda 2007) or ``page_hinkley`` (Page 1954).
    parameters : mapping, optional
        Of river's class.

    Examples
    --------
    >>> detector = SequentialDetector("page_hinkley", {"min_instances": 5, "threshold": 1.0})
    >>> [i for i in range(30) if detector.update(0.0 if i < 20 else 1.0)]
    [21]

    Raises
    ------
    DetectorStateError
        For an unknown name.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        if name not in DETECTORS:
            raise DetectorStateError(f"expected one of {', '.join(sorted(DETECTORS))}, got {name!r}")
        self.name = name
        self.parameters = dict(parameters or {})
        self.reset()

    def reset(self) -> None:
        """Forget everything heard."""
        self.values: list[float] = []
        self._detector: Any = DETECTORS[self.name](**self.parameters)

    def update(self, value: float) -> bool:
        """Hear one value; whether the series has changed. After a change it begins again with this value."""
        if len(self.values) >= VALUES_MAX:
            self.reset()
        value = float(value)
        self.values.append(value)
        self._detector.update(value)
        if self._detector.drift_detected:
            self.reset()
            self.values.append(value)
            self._detector.update(value)
            return True
        return False

    def rises(self, values: Iterable[float]) -> bool:
        """Hear values in their order; whether the series has changed at one of them that is above the mean so far."""
        rose = False
        for value in values:
            mean = self.estimate
            rose |= self.update(value) and value > mean
        return rose

    @property
    def estimate(self) -> float:
        """Mean of the values since it last began; NaN for none."""
        return sum(self.values) / len(self.values) if self.values else float("nan")

    def to_bytes(self) -> bytes:
        """State for a checkpoint: JSON."""
        return json.dumps({"name": self.name, "parameters": self.parameters, "values": self.values}).encode()

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
            detector = SequentialDetector(state["name"], state["parameters"])
            values = [float(value) for value in state["values"]]
        except (ValueError, KeyError, TypeError) as exc:
            raise DetectorStateError(f"expected the state of a detector, got {payload[:40]!r}: {exc}") from exc
        for value in values:
            detector.values.append(value)
            detector._detector.update(value)
        return detector
