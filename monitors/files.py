"""Sketches of files of rows: read once, a batch at a time, so that memory does not grow with the file.

Segments are kept as tiles are: one row of the table of sketches each, so that they merge into the whole by addition.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monitors.buckets import Floats, Ints, Kind
from monitors.embeddings import EmbeddingError, EmbeddingSketch, Kernel
from monitors.segments import OTHER, SEGMENTS_MAX
from monitors.sketches import Sketches, merge, sketch_batch

__all__ = [
    "Columns",
    "FileError",
    "Segments",
    "SketchedFile",
    "columns_of",
    "rows_of",
    "sample",
    "segments_of",
    "sketch_embeddings",
    "sketch_file",
]

BATCH_ROWS: Final = 1 << 17
BATCHES_PER_MERGE: Final = 16
_SEGMENT_MS: Final = 1
_EMBEDDING: Final = "embedding"


class FileError(ValueError):
    """A file that cannot be compared. The message names it, what was expected and what came."""


@dataclass(frozen=True)
class Segments:
    """The segments of a comparison: each of these values of a column, and the rest together.

    Attributes
    ----------
    column : str
    values : tuple of str
        Of the rows of the reference, the most frequent first.
    """

    column: str
    values: tuple[str, ...]

    def of(self, column: pa.Array) -> Ints:
        """The segment of each row: a position in `values`, or behind them."""
        position = {text: number for number, text in enumerate(self.values)}
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode(null_encoding="encode")
        at = np.array([position.get(str(each), len(position)) for each in [*encoded.dictionary.to_pylist(), None]])
        # A null of a column that came encoded has no place in its dictionary: it is the one behind.
        found: Ints = at[encoded.indices.fill_null(len(at) - 1).to_numpy(zero_copy_only=False).astype(np.int64)]
        return found


@dataclass(frozen=True)
class SketchedFile:
    """A file as its sketches.

    Attributes
    ----------
    rows : int
    whole : Sketches
        One tile.
    by_segment : mapping of str to Sketches
        One tile each; of those that have rows.
    """

    rows: int
    whole: Sketches
    by_segment: Mapping[str, Sketches]


@dataclass(frozen=True)
class Columns:
    """The columns of two files.

    Attributes
    ----------
    kinds : mapping of str to Kind
        Of those that are compared value by value.
    embeddings : tuple of str
        Those of lists of numbers, a row each.
    left_out : mapping of str to str
        The others, and why.
    """

    kinds: Mapping[str, Kind]
    embeddings: tuple[str, ...]
    left_out: Mapping[str, str]


def columns_of(reference: Path, current: Path) -> Columns:
    """The columns that both files have and that can be compared; and of the others, why not.

    Numbers and truth values are numeric, texts are categorical, lists of numbers are embeddings. Times are left out:
    those of two files always differ.

    Raises
    ------
    FileError
        Where a file is no parquet, or nothing is left.
    """
    schemas = [_schema(each) for each in (reference, current)]
    kinds: dict[str, Kind] = {}
    embeddings: list[str] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys([*schemas[0].names, *schemas[1].names]):
        missing = [path for path, schema in zip((reference, current), schemas, strict=True) if name not in schema.names]
        if missing:
            left_out[name] = f"not in {missing[0].name}"
            continue
        found = [_kind(schema.field(name).type) for schema in schemas]
        if None in found:
            left_out[name] = f"of type {schemas[found.index(None)].field(name).type}"
        elif found[0] != found[1]:
            left_out[name] = f"{found[0]} in {reference.name}, {found[1]} in {current.name}"
        elif found[0] == _EMBEDDING:
            embeddings.append(name)
        else:
            kinds[name] = found[0]  # type: ignore[assignment]
    if not kinds and not embeddings:
        raise FileError(f"expected a column of numbers or texts that both files have, got {left_out or 'none at all'}")
    return Columns(kinds, tuple(embeddings), left_out)


def segments_of(reference: Path, column: str) -> Segments:
    """The segments of a column, a bounded number: the most frequent values of the reference.

    Raises
    ------
    FileError
        Where there is no such column.
    """
    counted: Counter[str] = Counter()
    if column not in _schema(reference).names:
        raise FileError(
            f"{reference}: expected a column {column!r} to make segments of, got {_schema(reference).names}"
        )
    for batch in pq.ParquetFile(reference).iter_batches(BATCH_ROWS, columns=[column]):
        for pair in batch.column(0).value_counts().to_pylist():
            counted[str(pair["values"])] += pair["counts"]
    return Segments(column, tuple(name for name, _ in counted.most_common(SEGMENTS_MAX)))


def rows_of(path: Path) -> int:
    """How many rows a file says it has."""
    return int(pq.ParquetFile(path).metadata.num_rows)


def sample(path: Path, columns: Sequence[str], rows: int = 20_000, seed: int = 0) -> pd.DataFrame:
    """Rows drawn from all of a file, without all of it in memory; in their order."""
    total = rows_of(path)
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False))
    parts, start = [], 0
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=list(columns)):
        first, last = np.searchsorted(chosen, [start, start + batch.num_rows])
        parts.append(batch.take(pa.array(chosen[first:last] - start)))
        start += batch.num_rows
    frame: pd.DataFrame = pa.Table.from_batches(parts).to_pandas()
    return frame[list(columns)]


def sketch_file(
    path: Path,
    kinds: Mapping[str, Kind],
    segments: Segments | None = None,
    tell: Callable[[int], object] = lambda _: None,
) -> SketchedFile:
    """Sketch the columns of a parquet file.

    Parameters
    ----------
    path : Path
    kinds : mapping of str to Kind
    segments : Segments, optional
    tell : callable of int
        Told how many rows more have been read.

    Raises
    ------
    FileError
        Where it has no rows.
    """
    columns = [*kinds, *([segments.column] if segments and segments.column not in kinds else [])]
    table = _merged(_batches(path, columns, kinds, segments, tell))
    if table is None:
        raise FileError(f"{path}: expected rows, got none")
    rows = int(table.rows.sum())
    if segments is None:
        return SketchedFile(rows, table, {})
    named = [*segments.values, OTHER]
    parts = {named[tile]: table.take([number]) for number, tile in enumerate(table.tiles.tolist())}
    return SketchedFile(rows, table.collapse(), parts)


def sketch_embeddings(path: Path, column: str, kernel: Kernel | None = None) -> EmbeddingSketch:
    """Sketch a column of lists of numbers.

    Parameters
    ----------
    path : Path
    column : str
    kernel : Kernel, optional
        Default: one as wide as the first rows are apart.

    Raises
    ------
    FileError
        Where rows have other dimensions, or too few have numbers.
    """
    found = None if kernel is None else EmbeddingSketch.empty(kernel)
    try:
        for batch in _ahead(pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=[column])):
            rows, nulls = _vectors(batch.column(0))
            if found is None:
                found = EmbeddingSketch.empty(Kernel.of(rows))
            found = found.add(rows, nulls)
    except EmbeddingError as exc:
        raise FileError(f"{path}: column {column!r}: {exc}") from exc
    if found is None:
        raise FileError(f"{path}: expected rows, got none")
    return found


def _vectors(column: pa.Array) -> tuple[Floats, int]:
    """Rows that are not null, shape (n, d), with NaN for a null in one, and how many are."""
    there = column.drop_null()
    lengths = (
        np.unique(pc.list_value_length(there).to_numpy(zero_copy_only=False)) if len(there) else np.zeros(1, np.int64)
    )
    if len(lengths) > 1:
        raise EmbeddingError(f"expected rows of one number of dimensions, got {', '.join(map(str, lengths))}")
    flat = there.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
    return flat.reshape(len(there), int(lengths[0])), len(column) - len(there)


def _batches(
    path: Path,
    columns: Sequence[str],
    kinds: Mapping[str, Kind],
    segments: Segments | None,
    tell: Callable[[int], object],
) -> Iterator[Sketches]:
    for batch in _ahead(pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=list(columns))):
        at = segments.of(batch.column(segments.column)) if segments else np.zeros(batch.num_rows, np.int64)
        yield sketch_batch({name: _values(batch.column(name), kinds[name]) for name in kinds}, kinds, at, _SEGMENT_MS)
        tell(batch.num_rows)


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Each batch, while the next is being decoded."""
    with ThreadPoolExecutor(1, "parquet") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _merged(parts: Iterator[Sketches]) -> Sketches | None:
    held: list[Sketches] = []
    for each in parts:
        held.append(each)
        if len(held) == BATCHES_PER_MERGE:
            held = [merge(held)]
    return merge(held) if held else None


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as exc:
        raise FileError(f"{path}: expected a parquet file, got {exc}") from exc


def _kind(of: pa.DataType) -> Kind | Literal["embedding"] | None:
    types = pa.types
    if types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of):
        return _EMBEDDING if types.is_floating(of.value_type) or types.is_integer(of.value_type) else None
    if types.is_dictionary(of):
        return _kind(of.value_type)
    if types.is_string(of) or types.is_large_string(of):
        return "categorical"
    plain = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return "numeric" if any(each(of) for each in plain) else None


def _values(column: pa.Array, kind: Kind) -> np.ndarray[Any, Any]:
    """For :func:`sketch_batch`: doubles with NaN for null, or texts with None."""
    if kind == "categorical":
        return np.asarray(column.to_pandas(), dtype=object)
    if not pa.types.is_floating(column.type):
        column = column.cast(pa.float64(), safe=False)
    return column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
