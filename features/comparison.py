"""What a stream emitted, or what was logged, beside what :mod:`features.witness` says it should have been."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.compiler.definition import Definition, percentile

__all__ = ["SCALED", "Checked", "Parity", "compare", "compare_rows", "magnitudes", "together"]

EVENT_TIME = "event_time"

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ADDED_UP = 1e-9  # the stream adds up in another order
_SKETCHED = 0.01  # as DDSketch promises
SCALED = ("sum", "mean")  # may be judged by the size of what was added up, see compare
_TOLERANCES = {"sum": _ADDED_UP, "mean": _ADDED_UP, "var": _ADDED_UP, "stddev": _ADDED_UP}
_TOLERANCES |= {"approx_count_distinct": 0.05}


@dataclass(frozen=True)
class Checked:
    """One feature, expected against got.

    Attributes
    ----------
    compared : int
        Values, null or not.
    mismatches : int
    worst_relative_error : float
        Among numbers there on both sides; of what is expected to be 0, any other number is wrong by 1.
    tolerance : float
        Relative; 0 asks for equality.
    """

    compared: int
    mismatches: int
    worst_relative_error: float
    tolerance: float


@dataclass(frozen=True)
class Parity:
    """Expected against got.

    Attributes
    ----------
    compared : int
        Values of rows that are there on both sides.
    mismatches : int
        Values that differ, and rows that are missing or unexpected: 0 is agreement.
    worst_relative_error : float
    missing, unexpected : int
        Rows that are on one side alone.
    by_feature : dict of str to Checked
        ``event_time`` among them, where it is compared.
    examples : tuple of dict
        Of the first few of each kind: the row's key; ``feature``, ``expected`` and ``got``, or ``row``: "missing" or
        "unexpected".
    """

    compared: int
    mismatches: int
    worst_relative_error: float
    missing: int
    unexpected: int
    by_feature: dict[str, Checked] = field(default_factory=dict)
    examples: tuple[dict[str, Any], ...] = ()

    def exceeds(self, share: float) -> bool:
        """Whether more than a share of what was compared is wrong."""
        return self.mismatches > share * max(self.compared, 1)


def compare(
    definition: Definition,
    expected: pd.DataFrame,
    got: pd.DataFrame,
    scale: pd.DataFrame | None = None,
    examples: int = 3,
) -> Parity:
    """Compare answers of :func:`features.witness.newest` with what was logged: rows of the same index belong together.

    Counts, order and times must be equal. Sums, means and variances may differ by a part in 10^9, percentiles by 1 %
    of the exact one, approximate distinct counts by 5 %.

    Parameters
    ----------
    definition : Definition
    expected, got : DataFrame
        The features; ``event_time`` is compared as well where `expected` has it. Times as epoch milliseconds or as
        timestamps.
    scale : DataFrame, optional
        `expected` computed from the :func:`magnitudes` of the events. A sum or mean may then be wrong by a part in
        10^9 of that: what is left where large numbers of both signs cancel depends on the order of the additions.
    examples : int
        Of each feature's mismatches, of missing and of unexpected rows.

    Raises
    ------
    ValueError
        Where a side lacks a feature, or has a row twice.
    """
    functions = {each.name: each.function for each in definition.features} | dict.fromkeys(definition.latest, "last")
    names = [*functions, EVENT_TIME] if EVENT_TIME in expected else [*functions]
    for side in (expected, got):
        _check_columns(definition, names, side)
        if not side.index.is_unique:
            raise ValueError(f"view {definition.name!r}: expected every row once, got some twice")
    places = got.index.get_indexer(expected.index)
    both, surplus = places >= 0, ~np.isin(np.arange(len(got)), places)
    shown = [{"row": "missing"} | _where(expected, at) for at in np.flatnonzero(~both)[:examples]]
    shown += [{"row": "unexpected"} | _where(got, at) for at in np.flatnonzero(surplus)[:examples]]
    paired, logged = expected[both], got.iloc[places[both]]
    by_feature: dict[str, Checked] = {}
    for name in names:
        function = functions.get(name, "last")
        scales = scale[name].reindex(paired.index) if scale is not None and function in SCALED else None
        tolerance = _SKETCHED if percentile(function) is not None else _TOLERANCES.get(function, 0.0)
        wrong, error = _differences(paired[name], logged[name], tolerance, scales)
        by_feature[name] = Checked(len(wrong), int(wrong.sum()), float(np.max(error, initial=0.0)), tolerance)
        for at in np.flatnonzero(wrong)[:examples]:
            pair = {"expected": _scalar(paired[name].iloc[at]), "got": _scalar(logged[name].iloc[at])}
            shown.append({"feature": name} | _where(paired, at) | pair)
    missing, unexpected = int((~both).sum()), int(surplus.sum())
    return _summed(by_feature, missing, unexpected, shown)


def compare_rows(
    definition: Definition,
    expected: pd.DataFrame,
    got: pd.DataFrame,
    scale: pd.DataFrame | None = None,
    examples: int = 3,
) -> Parity:
    """Compare :func:`features.witness.rows` with what a stream emitted: rows of the same key and time belong together.

    Where several have, the first belongs to the first and so on: a row that a stream has emitted twice is unexpected.
    See :func:`compare` for the parameters; `got` has the join keys and ``event_time`` as well.
    """
    scaled = None if scale is None else _by_row(definition, scale)
    return compare(definition, _by_row(definition, expected), _by_row(definition, got), scaled, examples)


def magnitudes(definition: Definition, events: pd.DataFrame) -> pd.DataFrame:
    """Events with the absolute values of what is summed: what sums are to be judged by, see :func:`compare`."""
    summed = {each.column for each in definition.features if each.function in SCALED}
    return events.assign(**{name: events[name].abs() for name in summed})


def together(parities: Mapping[str, Parity]) -> Parity:
    """One account of several views, by name; features are called ``<view>__<feature>``."""
    by_feature = {
        f"{view}__{name}": each for view, found in parities.items() for name, each in found.by_feature.items()
    }
    shown = [{"view": view} | each for view, found in parities.items() for each in found.examples]
    missing = sum(each.missing for each in parities.values())
    return _summed(by_feature, missing, sum(each.unexpected for each in parities.values()), shown)


def _by_row(definition: Definition, frame: pd.DataFrame) -> pd.DataFrame:
    """Indexed by join keys, time and the number of the row among those of one key and time."""
    by = [*definition.keys, EVENT_TIME]
    _check_columns(definition, by, frame)
    frame = frame.assign(**{EVENT_TIME: _comparable(frame[EVENT_TIME])})
    number = frame.groupby(by, dropna=False, observed=True, sort=False).cumcount()
    index = pd.MultiIndex.from_arrays([*(frame[name] for name in by), number], names=[*by, "number"])
    return frame.drop(columns=EVENT_TIME).set_index(index)


def _check_columns(definition: Definition, names: list[str], frame: pd.DataFrame) -> None:
    if lost := sorted(set(names) - set(frame)):
        raise ValueError(f"view {definition.name!r}: expected the columns {lost}, got {sorted(map(str, frame))}")


def _where(frame: pd.DataFrame, at: int) -> dict[str, Any]:
    if isinstance(frame.index, pd.MultiIndex):
        return {str(name): _scalar(value) for name, value in zip(frame.index.names, frame.index[at], strict=True)}
    return {str(frame.index.name or "request"): _scalar(frame.index[at])}


def _scalar(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _differences(
    expected: pd.Series, got: pd.Series, tolerance: float, scale: pd.Series | None
) -> tuple[Bools, Floats]:
    """Which values are wrong, and the relative errors of the numbers among them."""
    nothing, none_got = expected.isna().to_numpy(), got.isna().to_numpy()
    wrong, error = nothing != none_got, np.zeros(len(expected))
    both = ~(nothing | none_got)
    want, have = _comparable(expected[both]), _comparable(got[both])
    different = ~np.asarray(want == have, dtype=bool)
    if "O" in (want.dtype.kind, have.dtype.kind):
        wrong[both] = different
        return wrong, error
    wanted, had = want.astype(np.float64), have.astype(np.float64)
    base = np.abs(wanted) if scale is None else np.fmax(np.abs(wanted), scale[both].to_numpy(dtype=np.float64))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        relative = np.abs(had - wanted) / np.where(base > 0, base, np.abs(had))
    error[both] = np.where(different, np.nan_to_num(relative, nan=1.0), 0.0)
    wrong[both] = different & (error[both] > tolerance) if tolerance else different
    return wrong, error


def _comparable(values: pd.Series) -> NDArray[Any]:
    """Values, none of them null: as integers where all are whole, so that none is rounded; timestamps as epoch ms."""
    values = values.infer_objects()
    if values.dtype.kind == "M":
        stamps = values.dt.tz_convert(None) if isinstance(values.dtype, pd.DatetimeTZDtype) else values
        return stamps.to_numpy(dtype="datetime64[ms]").astype(np.int64)
    if values.dtype.kind == "f":
        floats = values.to_numpy(dtype=np.float64)
        whole = (np.abs(floats) < 2.0**63) & (np.floor(floats) == floats)
        return floats.astype(np.int64) if whole.all() else floats
    if values.dtype.kind in "iub":
        return values.to_numpy(dtype=np.int64)
    listed = [tuple(each) if isinstance(each, (list, np.ndarray)) else each for each in values]
    found = np.empty(len(listed), dtype=object)
    found[:] = listed
    return found


def _summed(by_feature: dict[str, Checked], missing: int, unexpected: int, shown: list[dict[str, Any]]) -> Parity:
    found = by_feature.values()
    return Parity(
        compared=sum(each.compared for each in found),
        mismatches=sum(each.mismatches for each in found) + missing + unexpected,
        worst_relative_error=max((each.worst_relative_error for each in found), default=0.0),
        missing=missing,
        unexpected=unexpected,
        by_feature=by_feature,
        examples=tuple(shown),
    )
