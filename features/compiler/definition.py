"""What a stream feature view means, as plain numbers: what the stream, the backfill and the proof are each made from.

A windowed feature at time t is the aggregate over (t - W, t] of event time. Time is cut into tiles of ``hop_ms``,
aligned to the epoch. A key has a row at each t, a multiple of the hop, where

- the tile (t - hop, t] holds a record of the key, or
- t is a multiple of a feature's slide, and that feature's window held records at the key's row before.

So a key that goes quiet is sampled at every slide until its windows are empty, and once when they are. Every row has
the value of every feature at its own t. Of no value, ``count``, ``count_distinct`` and ``sum`` are 0; the others null.

Where a topic's records are changes of rows (:mod:`features.compiler.changes`), the feature at t is the aggregate over
the rows of (t - W, t] as the table stood at t, with every change of a time up to t made. A row has two times then: its
event time, which says in which windows it is, and that of the change, on which the watermark runs and for which a
change may be late. A change takes effect at the later of its own time and its row's; changes of one row do so in the
order of the topic. A key has a row at each t where

- a change of one of its rows takes effect in the tile (t - hop, t], or
- t is a multiple of a feature's slide, and that feature's window held rows at the key's row before.

So a key whose rows are all deleted has a row that says so. A row without event time is in no window. Of rows of one
time, ``first`` and ``last`` go by where in the topic (partition, offset) their versions lie. A late change is set
aside and never made: the row stays what it was until its next change.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from math import gcd

from feast import Aggregation, StreamFeatureView
from feast.data_source import DataSource

from features.compiler.changes import changelog
from features.compiler.topics import UnsupportedViewError, join_key_fields, value_fields
from features.compiler.transformations import pandas_function

__all__ = ["ANY", "FUNCTIONS", "Definition", "Feature", "definition", "percentile"]

ANY = ""  # column of an aggregation over records, not over one of their values
_TILE_DEFAULT = timedelta(minutes=5)  # Feast's default of tiling_hop_size
_ALIASES = {
    "avg": "mean",
    "std": "stddev",
    "stddev_samp": "stddev",
    "variance": "var",
    "var_samp": "var",
    "nunique": "count_distinct",
    "median": "p50",
}
FUNCTIONS = (
    "sum",
    "count",
    "mean",
    "min",
    "max",
    "count_distinct",
    "approx_count_distinct",
    "stddev",
    "var",
    "first",
    "last",
)
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


@dataclass(frozen=True)
class Feature:
    """One aggregation.

    Attributes
    ----------
    name : str
    function : str
        One of :data:`FUNCTIONS`, or a percentile: ``p50``, ``p99.9``.
    column : str
        Of the view's input; :data:`ANY` counts records.
    window_ms, slide_ms : int
    """

    name: str
    function: str
    column: str
    window_ms: int
    slide_ms: int


@dataclass(frozen=True)
class Definition:
    """A view.

    Attributes
    ----------
    name : str
    keys : tuple of str
        Join keys, sorted.
    features : tuple of Feature
        Sorted by name; none for a view of the newest record of each key.
    latest : tuple of str
        Features of a view without aggregations, sorted: columns of its input.
    hop_ms : int
        Length of a tile; 0 where there are no windows.
    of_changes : bool
        Whether records are changes of rows.
    """

    name: str
    keys: tuple[str, ...]
    features: tuple[Feature, ...]
    latest: tuple[str, ...]
    hop_ms: int
    of_changes: bool = False


def definition(view: StreamFeatureView) -> Definition:
    """What a view means.

    Raises
    ------
    UnsupportedViewError
        Naming the view, the field and the reason, for what has no meaning here.
    """
    keys = tuple(field.name for field in join_key_fields(view))
    names = [field.name for field in value_fields(view)]
    source = view.stream_source
    of_changes = source is not None and bool(changelog(source))
    if source is not None and of_changes:
        _check_changes(view, source)
    if not view.aggregations:
        return Definition(view.name, keys, (), tuple(names), 0)
    found: dict[str, Feature] = {}
    for each in view.aggregations:
        feature = _feature(view, each, names)
        if feature.name in found:
            raise UnsupportedViewError(f"feature view {view.name!r}: two aggregations are called {feature.name!r}")
        found[feature.name] = feature
    if odd := sorted(set(names) ^ set(found)):
        raise UnsupportedViewError(
            f"feature view {view.name!r}: expected every feature of its schema to be an aggregation and the other way "
            f"round, got {', '.join(odd)} on one side only"
        )
    features = tuple(found[name] for name in sorted(found))
    return Definition(view.name, keys, features, (), _hop_ms(view, features), of_changes)


def percentile(function: str) -> float | None:
    """The quantile, 0 to 1, that a function like ``p95`` stands for; None for another function."""
    match = _PERCENTILE.fullmatch(function)
    return float(match[1]) / 100 if match else None


def _feature(view: StreamFeatureView, aggregation: Aggregation, names: list[str]) -> Feature:
    where = f"feature view {view.name!r}, aggregation {aggregation.function}({aggregation.column})"
    function = aggregation.function.lower()
    function = _ALIASES.get(function, function)
    if function not in FUNCTIONS and percentile(function) is None:
        raise UnsupportedViewError(
            f"{where}: expected a function out of {', '.join(FUNCTIONS)}, p1 ... p99.9, got {aggregation.function!r}"
        )
    column = ANY if aggregation.column == "*" else aggregation.column
    if column == ANY and function != "count":
        raise UnsupportedViewError(f"{where}: expected a column, only count goes without")
    window_ms, slide_ms = _ms(where, aggregation.time_window), _ms(where, aggregation.slide_interval)
    # Feast itself calls a feature by its window in some places and not in others.
    called = aggregation.resolved_name(aggregation.time_window)
    if called not in names and aggregation.resolved_name() in names:
        called = aggregation.resolved_name()
    return Feature(called, function, column, window_ms, slide_ms)


def _check_changes(view: StreamFeatureView, source: DataSource) -> None:
    if pandas_function(view) is not None:
        # It would be called again for a row that goes, and what it fails on then has been counted.
        raise UnsupportedViewError(
            f"feature view {view.name!r}: expected a transformation in SQL (mode 'flink' or 'sql') over source "
            f"{source.name!r}, whose records are changes of rows, got one in pandas"
        )
    if not view.aggregations:
        raise UnsupportedViewError(
            f"feature view {view.name!r}: expected aggregations over source {source.name!r}, whose records are changes "
            "of rows; a view of the newest row is not supported there, `last` over a long window is"
        )
    for each in view.aggregations:
        if each.function.lower() == "approx_count_distinct":
            raise UnsupportedViewError(
                f"feature view {view.name!r}, aggregation {each.function}({each.column}): expected count_distinct over "
                f"the changes of source {source.name!r}, as a sketch cannot take a value back"
            )


def _hop_ms(view: StreamFeatureView, features: tuple[Feature, ...]) -> int:
    """The longest tile that fits into every window and slide, and into the hop that was asked for."""
    hop_ms = gcd(*(span for each in features for span in (each.window_ms, each.slide_ms)))
    if view.enable_tiling:
        hop_ms = gcd(hop_ms, (view.tiling_hop_size or _TILE_DEFAULT) // timedelta(milliseconds=1))
    return hop_ms


def _ms(where: str, span: timedelta | None) -> int:
    if not span or span < timedelta(milliseconds=1) or span % timedelta(milliseconds=1):
        raise UnsupportedViewError(
            f"{where}: expected a time_window and a slide_interval of whole milliseconds above zero, got {span}"
        )
    return span // timedelta(milliseconds=1)
