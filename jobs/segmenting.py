"""How the traffic of a model is cut into segments: by its feature service, and for a version by its card."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.compiler.inputs import Inputs
from monitors.buckets import Kind
from monitors.policy import PRIOR
from monitors.segments import Segmentation, dimensions_of

if TYPE_CHECKING:
    from features.compiler.service import ModelInputs  # with Feast, which takes seconds to import

__all__ = ["Cards", "planned", "segmentation_of"]

_CARD = "model.json"


def planned(inputs: "Inputs | ModelInputs") -> Segmentation:
    """As the service has it; which values of a column are segments of their own, a model's training settles.

    Raises
    ------
    monitors.segments.SegmentError
        Where the tag names what is not there.
    """
    kinds: dict[str, Kind] = dict.fromkeys((*inputs.numeric, *inputs.features), "numeric")
    kinds |= dict.fromkeys(inputs.categorical, "categorical")
    return Segmentation(dimensions_of(inputs.segments, kinds))


def segmentation_of(card: dict[str, Any]) -> Segmentation:
    """As a version's training settled it."""
    return Segmentation.of_plain(card.get("segments", []))


class Cards:
    """The segmentation of each version, from the cards their training left.

    Parameters
    ----------
    models : Path
        A folder a version.
    """

    def __init__(self, models: Path) -> None:
        self._models = models
        self._known: dict[str, Segmentation] = {PRIOR: Segmentation()}

    def __call__(self, version: str) -> Segmentation:
        """None of a version is read twice.

        Raises
        ------
        FileNotFoundError
            Where a version has no card.
        """
        if version not in self._known:
            self._known[version] = segmentation_of(json.loads((self._models / version / _CARD).read_text()))
        return self._known[version]
