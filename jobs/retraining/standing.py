"""Who votes for who owns a model, how long things last, and what a member says of itself: see :mod:`.ownership`."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Electorate", "Standing", "Timing"]

Role = Literal["follower", "candidate", "owner", "leaving"]


@dataclass(frozen=True)
class Timing:
    """Durations, seconds of a member's own clock.

    Attributes
    ----------
    beat_s : float
        Between two beats of an owner or candidate.
    lease_s : float
        How long an owner may go on after the newest beat that a majority has heard.
    skew : float
        Share by which two clocks may run apart.
    """

    beat_s: float = 1.0
    lease_s: float = 5.0
    skew: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.beat_s * 2 <= self.lease_s:
            raise ValueError(f"lease_s: expected at least two beats of {self.beat_s} s, got {self.lease_s}")

    @property
    def patience_s(self) -> float:
        """How long a voter waits for an owner that it no longer hears of."""
        return self.lease_s * (1 + self.skew)


@dataclass(frozen=True)
class Electorate:
    """Who votes.

    Attributes
    ----------
    regions : tuple of str
        The home region first, then in the order in which they take over.
    witnesses : tuple of str
    """

    regions: tuple[str, ...]
    witnesses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.regions or len(set(self.voters)) < len(self.voters):
            raise ValueError(f"expected one region or more and no name twice, got {self.voters}")

    @property
    def voters(self) -> tuple[str, ...]:
        """Regions and witnesses."""
        return self.regions + self.witnesses


@dataclass(frozen=True)
class Standing:
    """What a member says of itself about one model.

    Attributes
    ----------
    member : str
    revision : int
        Later ones replace earlier ones.
    promised : int
        Newest epoch that it has voted in, or heard an owner of.
    granted : str
        Whom it voted for in that epoch.
    heard : int
        Newest beat it has heard of them.
    held : (int, int)
        It holds the claims of that epoch's owner up to that number, and so all that were there when it became owner.
    epoch : int
        That it stands for or owns.
    role : {"follower", "candidate", "owner", "leaving"}
    beat : int
        Counts up over all epochs.
    carried : int
        Claims of the owners before that it has published anew, as its first.
    successor : str
        Who should own next, of one that is leaving.
    gone : tuple of str
        Members that a person has declared gone; they are not counted as voters.
    """

    member: str
    revision: int = 0
    promised: int = 0
    granted: str = ""
    heard: int = 0
    held: tuple[int, int] = (0, 0)
    epoch: int = 0
    role: Role = "follower"
    beat: int = 0
    carried: int = 0
    successor: str = ""
    gone: tuple[str, ...] = ()
