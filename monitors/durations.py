"""Durations as people write them: ``14 d``, ``6 h``, ``30 min``."""

import re
from typing import Any, Final

__all__ = ["DurationError", "parse_duration"]

_UNITS_MS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)")


class DurationError(ValueError):
    """What is no duration. The message says what was expected and what came."""


def parse_duration(name: str, found: Any) -> int:
    """Milliseconds of a text such as ``6 h``; `name` is what it is of.

    Raises
    ------
    DurationError
        Where it is none.

    Examples
    --------
    >>> parse_duration("cool_down", "14 d")
    1209600000
    """
    match = _DURATION.fullmatch(str(found).strip())
    if match is None:
        raise DurationError(f"{name}: expected a duration such as '14 d', '6 h' or '30 min', got {found!r}")
    return round(float(match[1]) * _UNITS_MS[match[2]])
