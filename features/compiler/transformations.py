"""A view's own transformation: SQL over the records it reads, or a function over frames of them."""

from collections.abc import Callable
from typing import Any

from feast import StreamFeatureView
from feast.transformation.mode import TransformationMode

from features.compiler.topics import UnsupportedViewError

__all__ = ["has_transformation", "pandas_function", "transformed"]

_IN_SQL = ("flink", "sql")
_PANDAS = "pandas"


def has_transformation(view: StreamFeatureView) -> bool:
    """Whether a view makes other records of those it reads."""
    return _function(view) is not None


def pandas_function(view: StreamFeatureView) -> Callable[[Any], Any] | None:
    """The function from DataFrame to DataFrame that is a view's transformation; None where it has another, or none."""
    found = _function(view)
    return found[1] if found is not None and found[0] == _PANDAS else None


def transformed(view: StreamFeatureView, records: str) -> str | None:
    """The SELECT that a view's transformation makes of a table; None where it has none, or one in pandas.

    Parameters
    ----------
    view : StreamFeatureView
        With a ``udf`` and mode ``flink``, or a ``feature_transformation`` of mode ``SQL`` or ``FLINK``: a function from
        a table's name, or a subquery, to a SELECT.
    records : str
        What it is to read.

    Raises
    ------
    UnsupportedViewError
        For another kind of transformation, and for a function that gives no SQL.
    """
    found = _function(view)
    if found is None or found[0] == _PANDAS:
        return None
    mode, function = found
    expected = (
        f"feature view {view.name!r}: expected a transformation in SQL (mode 'flink' or 'sql': a function from a "
        "table's name to a SELECT that keeps its columns)"
    )
    if mode not in _IN_SQL:
        instead = " of a dict for each record; write it over DataFrames" if mode == "python" else ""
        raise UnsupportedViewError(f"{expected}, or one in pandas (mode 'pandas'), got mode {mode!r}{instead}")
    try:
        select = function(records)
    except Exception as exc:  # the user's own code, which may expect anything else than text
        raise UnsupportedViewError(f"{expected}, got a function that fails with a table's name: {exc!r}") from exc
    if not isinstance(select, str):
        raise UnsupportedViewError(f"{expected}, got a function that returns a {type(select).__name__}")
    return select


def _function(view: StreamFeatureView) -> tuple[str, Callable[[Any], Any]] | None:
    given = view.feature_transformation
    if given is not None and given.udf is not None:
        return _name(given.mode), given.udf
    return None if view.udf is None else (_name(view.mode), view.udf)


def _name(mode: Any) -> str:
    return str(mode.value if isinstance(mode, TransformationMode) else mode)
