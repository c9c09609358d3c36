"""Records made up from a schema: to find out what a function makes of such, before there are any."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from features.frames import FrameColumn, frame_of

__all__ = ["ROWS", "samples"]

ROWS = 48
_WORDS = ("a", "b", "NL", "2024-01-31", "17")
_NULLS = 0.15
_DAY_2024 = 19_723  # days since the epoch
_SECOND_2024 = _DAY_2024 * 86_400


def samples(columns: Sequence[FrameColumn], rows: int = ROWS) -> pd.DataFrame:
    """A frame of made-up records, the same each time.

    Some values are null where the schema lets them be; there are negative numbers, zeros, repeats, and times that are
    in no order.
    """
    random = np.random.default_rng(2024)
    found = {}
    for each in columns:
        values = [_value(random, each.type, each.symbols) for _ in range(rows)]
        if each.nullable:
            values = [None if random.random() < _NULLS else value for value in values]
        found[each.name] = pa.array(values, each.type)
    return frame_of(columns, pa.table(found))


def _value(random: np.random.Generator, kind: pa.DataType, symbols: tuple[str, ...] = ()) -> Any:
    if pa.types.is_boolean(kind):
        return bool(random.integers(2))
    if pa.types.is_integer(kind):
        # Filters ask for small numbers more often than for any other.
        return int(random.integers(-5, 1000) if random.random() < 0.5 else random.integers(4))
    if pa.types.is_floating(kind):
        return float(np.round(random.normal(10, 50), 2))
    if pa.types.is_decimal(kind):
        return Decimal(int(random.integers(10 ** min(kind.precision, 6)))).scaleb(-kind.scale)
    if pa.types.is_timestamp(kind):
        per_second = {"ms": 1000, "us": 1_000_000}[kind.unit]
        return int((_SECOND_2024 + random.integers(86_400 * 30)) * per_second)
    if pa.types.is_date32(kind):
        return int(_DAY_2024 + random.integers(366))
    if pa.types.is_list(kind):
        return [_value(random, kind.value_type) for _ in range(random.integers(4))]
    word = str(random.choice(symbols or _WORDS))
    return word.encode() if pa.types.is_binary(kind) else word
