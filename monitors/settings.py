"""What the monitors of a model go by."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from monitors.feeds import DataSettings
from monitors.incidents import Patience
from monitors.sequential import SequentialSpec, parse_specs
from monitors.shift import SHIFT, Against, parse_against
from monitors.thresholds import DAY_MS

__all__ = ["MonitorSettings"]


@dataclass(frozen=True)
class MonitorSettings:
    """What the monitors of a model go by. Its `version` is on every alert.

    Attributes
    ----------
    data : DataSettings
    rows_min : int
        Fewest rows, or labels, of a window of days.
    segment_rows_min : int
        Of a segment's. Its thresholds are drawn from windows as small as its own.
    false_retrains_a_month : float
        The budget of a model: alarms of all monitors but `data` to expect in 30 days while nothing changes.
    sequential : tuple of SequentialSpec
        Detectors of river, each on one series.
    against : tuple of Against
        What else than its training traffic is compared with; each has incidents of its own.
    patience : mapping of monitor to Patience
        Data incidents open at once, since a faulty feed harms every prediction, and close after six quiet hours.
    """

    data: DataSettings = field(default_factory=DataSettings)
    rows_min: int = 1000
    segment_rows_min: int = 200
    false_retrains_a_month: float = 0.375
    sequential: tuple[SequentialSpec, ...] = (SequentialSpec("log_loss", "adwin"),)
    against: tuple[Against, ...] = ()
    patience: Mapping[str, Patience] = field(
        default_factory=lambda: {
            "data": Patience(resolve_after=6, epoch_ms=7 * DAY_MS),
            "features": Patience(resolve_after=3, renew=True),
            "performance": Patience(resolve_after=3, renew=True),
            "sequential": Patience(resolve_after=14),
            SHIFT: Patience(resolve_after=3, renew=True),
        }
    )

    @staticmethod
    def of_texts(false_retrains_a_month: float, sequential: Sequence[str], against: Sequence[str]) -> "MonitorSettings":
        """As a command line has them; without a detector the default.

        Raises
        ------
        monitors.sequential.SpecError, monitors.shift.AgainstError
        """
        return MonitorSettings(
            false_retrains_a_month=false_retrains_a_month,
            sequential=parse_specs(sequential) or MonitorSettings.sequential,
            against=parse_against(against),
        )

    @property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]
