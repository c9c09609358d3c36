"""What a model reads, as plain data: for those who have no use for Feast, which takes seconds to import."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Inputs", "read_inputs", "write_inputs"]


@dataclass(frozen=True)
class Inputs:
    """What a model reads and is judged by. See :class:`features.compiler.service.ModelInputs`, which this is made from.

    Attributes
    ----------
    model : str
    labels : str
        Topic of the outcomes.
    request_id : str
        Column of an outcome that names its request.
    label : str
        SQL over an outcome that says whether it is positive.
    numeric, categorical, features : tuple of str
        Input columns; together, in this order, what the model reads.
    prior : str
        Column that answers before there is a model.
    context : tuple of str
        Columns that are reported and never raise an alarm by themselves.
    feeds : mapping of str to str
        By column, the topic it comes from.
    segments : str
        How traffic is cut, as :func:`monitors.segments.dimensions_of` reads it; empty for not at all.
    """

    model: str
    labels: str
    request_id: str
    label: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    features: tuple[str, ...]
    prior: str
    context: tuple[str, ...]
    feeds: Mapping[str, str]
    segments: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every input column, in order."""
        return (*self.numeric, *self.categorical, *self.features)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Inputs":
        """What :meth:`as_dict` gave."""
        values: dict[str, Any] = {n: tuple(each) if isinstance(each, list) else each for n, each in found.items()}
        return cls(**values)


def write_inputs(file: Path, models: Mapping[str, Inputs]) -> None:
    """Write the inputs of models, by name, whole or not at all."""
    draft = file.with_suffix(".partial")
    draft.write_text(json.dumps({name: each.as_dict() for name, each in models.items()}, indent=1))
    draft.replace(file)


def read_inputs(file: Path) -> dict[str, Inputs]:
    """What :func:`write_inputs` wrote.

    Raises
    ------
    OSError
        Where there is no such file.
    """
    return {name: Inputs.from_dict(each) for name, each in json.loads(file.read_text()).items()}
