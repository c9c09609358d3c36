"""The aggregates of :mod:`features.compiler.definition` as ClickHouse has them."""

from collections.abc import Mapping
from types import MappingProxyType

from features.compiler.definition import Feature, percentile

__all__ = ["ARGUMENTS", "IN_ORDER", "aggregate", "merged", "parts", "value"]

IN_ORDER = ("first", "last")
_ZERO_OF_NONE = ("sum", "count", "count_distinct", "approx_count_distinct")
# State and merge of a function; 14 bits keep a tile's sketch under 16 kB, with an error of 0.8 %.
_AGGREGATES = {
    "sum": ("sum", "toNullable({0})"),
    "sum_of_floats": ("sumKahan", "toNullable(toFloat64({0}))"),
    "sum_with_infinities": ("sum", "toNullable(toFloat64({0}))"),
    "count": ("count", "toNullable({0})"),
    "min": ("min", "toNullable({0})"),
    "max": ("max", "toNullable({0})"),
    "count_distinct": ("uniqExact", "toNullable({0})"),
    "approx_count_distinct": ("uniqCombined64(14)", "toNullable({0})"),
    "stddev": ("stddevSampStable", "toNullable(toFloat64({0}))"),
    "var": ("varSampStable", "toNullable(toFloat64({0}))"),
    "first": ("argMin", "toNullable({0}), (hw_ms, hw_partition, hw_offset)"),
    "last": ("argMax", "toNullable({0}), (hw_ms, hw_partition, hw_offset)"),
    "array": ("groupArray", "{0}"),
}
ARGUMENTS: Mapping[str, str] = MappingProxyType({part: arguments for part, (_, arguments) in _AGGREGATES.items()})


def parts(feature: Feature, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """What of a feature's column each tile keeps; features with the same part of a column share its states."""
    if percentile(feature.function) is not None:
        return ("array",)
    if feature.function == "mean":
        return ("sum_of_floats", "sum_with_infinities", "count")
    if feature.function == "sum" and "Float" in kinds[feature.name]:
        return ("sum_of_floats", "sum_with_infinities")
    return (feature.function,)


def aggregate(part: str, suffix: str, arguments: str) -> str:
    """A call of an aggregate function with combinators: ``uniqCombined64MergeIf(14)(...)``."""
    name, bracket, parameters = _AGGREGATES[part][0].partition("(")
    return f"{name}{suffix}{bracket}{parameters}({arguments})"


def merged(part: str, column: str, window: int) -> str:
    """The column of a part of a column's values over a window, in tiles."""
    return f"`hw_m_{part}_{column.replace('.', '$')}_{window}`"


def value(feature: Feature, kinds: Mapping[str, str], hop_ms: int) -> str:
    """A feature from the parts it is made of."""
    found, *others = (merged(part, feature.column, feature.window_ms // hop_ms) for part in parts(feature, kinds))
    if others:
        # Compensated, so that the order of records does not show; an infinity has no compensation.
        found = f"if(isFinite({found}), {found}, {others[0]})"
    if feature.function in _ZERO_OF_NONE:
        return f"ifNull({found}, 0)"
    if feature.function == "mean":
        return f"{found} / nullIf({others[1]}, 0)"
    if feature.function in ("stddev", "var"):  # of one value there is none
        return f"if(isFinite({found}), {found}, NULL)"
    quantile = percentile(feature.function)
    if quantile is None:
        return found
    # quantileExactLow takes rank floor(q * n); this is the definition's own, floor(q * (n - 1)).
    rank = f"toInt64(floor({quantile!r} * (length({found}) - 1))) + 1"
    return f"if(empty({found}), NULL, arraySort({found})[{rank}])"
