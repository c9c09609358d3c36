"""Feature views: what their definitions mean, in the stream, in the store and in the past."""

import contextlib
import os
from typing import Any

__all__ = ["READ_BEFORE"]

READ_BEFORE = {"HEADWATER_DEFINITIONS": "read before"}
"""Environment of a process that reads definitions which the command line has read."""


def _as_it_is(target: Any = None, **_: Any) -> Any:
    return target if target is not None else _as_it_is


if READ_BEFORE.items() <= os.environ.items():
    # Feast has typeguard rewrite its classes so that every call is checked: 8 of the 11 s of processor time that its
    # import took on a slow core. Those checks are for who writes definitions; a dozen processes read them after that.
    with contextlib.suppress(ImportError):
        import typeguard

        typeguard.typechecked = _as_it_is
