"""What JSON can say of numbers."""

import math
from typing import Any

__all__ = ["finite"]


def finite(content: Any) -> Any:
    """The same with None for what JSON has no number for: a browser refuses a document with NaN in it."""
    if isinstance(content, dict):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
