"""Every aggregation over orders, and what a stream made of them against the witness: for tests of the tiles."""

import pandas as pd
from feast import StreamFeatureView
from feast.types import Bool, Float64, Int64, String

from features.comparison import Parity, compare_rows, magnitudes
from features.compiler.definition import definition
from features.witness import rows

# Column, function and type of the feature; for rows that are appended and rows that change alike.
OF_EITHER = [
    ("amount", "count", Int64),
    ("", "count", Int64),
    ("items", "sum", Int64),
    ("amount", "sum", Float64),
    ("price", "sum", Float64),
    ("amount", "mean", Float64),
    ("items", "mean", Float64),
    ("price", "mean", Float64),
    ("amount", "min", Float64),
    ("address.country", "max", String),
    ("gift", "max", Bool),
    ("items", "stddev", Float64),
    ("amount", "var", Float64),
    ("address.country", "first", String),
    ("items", "last", Int64),
    ("address.country", "count_distinct", Int64),
    ("amount", "count_distinct", Int64),
    ("amount", "p50", Float64),
    ("address.zone", "p99", Float64),
]


def agreed(view: StreamFeatureView, got: pd.DataFrame, events: pd.DataFrame) -> Parity:
    """Compare every row that was streamed with what these events should give."""
    meaning = definition(view)
    scale = rows(meaning, magnitudes(meaning, events))
    parity = compare_rows(meaning, rows(meaning, events), got, scale)
    assert (parity.mismatches, parity.missing, parity.unexpected) == (0, 0, 0), parity.examples
    return parity
