"""How far a replay is: what the demo shows while it runs."""

from dataclasses import dataclass

__all__ = ["Position"]


@dataclass(frozen=True)
class Position:
    """How far a replay is.

    Attributes
    ----------
    state : str
        ``waiting``, ``running``, ``held`` (for a training run), ``draining``, ``done``.
    event_time_ms, end_ms : int
        Of the traffic sent, and of the last of it.
    sent, events : int
    incidents, promotions : int
    """

    state: str
    event_time_ms: int
    end_ms: int
    sent: int
    events: int
    incidents: int
    promotions: int
