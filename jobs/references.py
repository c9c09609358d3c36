"""References of model versions, from the files their training left."""

from pathlib import Path

from monitors.policy import PRIOR
from monitors.reference import Reference

__all__ = ["Loader"]


class Loader:
    """The reference of a version, from the files its training left.

    Parameters
    ----------
    models : Path
        A folder a version.
    """

    def __init__(self, models: Path) -> None:
        self._models = models

    def __call__(self, version: str) -> Reference | None:
        """The reference; None for the prior, which has no training."""
        if version == PRIOR:
            return None
        return Reference.from_bytes((self._models / version / "reference.avro").read_bytes())
