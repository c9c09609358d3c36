"""Two files of rows compared, column by column and in segments."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from monitors.figures import Figure, Figures, compare, compare_embeddings
from monitors.files import (
    FileError,
    SketchedFile,
    columns_of,
    rows_of,
    sample,
    segments_of,
    sketch_embeddings,
    sketch_file,
)
from monitors.sketches import Sketches

if TYPE_CHECKING:
    from monitors.domain import Domain

__all__ = ["Comparison", "Progress", "classify", "compare_files", "draw", "main_figure"]

CLOSELY: Final = 5
"""Columns of which a report gives Evidently's summary as well."""


@dataclass(frozen=True)
class Comparison:
    """Two files compared.

    Attributes
    ----------
    rows : (int, int)
        Of reference and current.
    columns : mapping of str to figures
    segments : mapping of str to mapping of str to figures
        By segment, ``column=value``; those that have rows on both sides.
    segment_rows : mapping of str to int
        Of current.
    left_out : mapping of str to str
        Columns that were not compared, and why.
    categorical, embeddings : tuple of str
    domain : Domain, optional
        How well whole rows tell the files apart, where that was asked for.
    """

    rows: tuple[int, int]
    columns: Mapping[str, Figures]
    segments: Mapping[str, Mapping[str, Figures]] = field(default_factory=dict)
    segment_rows: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    categorical: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    domain: "Domain | None" = None

    def ranked(self) -> list[tuple[str, Figures]]:
        """Columns, those that differ most first: by the share of rows that would have to move, at least."""
        return sorted(self.columns.items(), key=lambda item: -_rank(item[1]))

    @property
    def plain(self) -> list[str]:
        """Columns of single values."""
        return [name for name in self.columns if name not in self.embeddings]

    def most_in_segments(self) -> Iterator[tuple[str, int, str, Figure]]:
        """For each segment the column that differs most there: segment, rows, column, its KS or TV."""
        for segment, columns in self.segments.items():
            name, figures = max(columns.items(), key=lambda item: _rank(item[1]))
            yield segment, self.segment_rows[segment], name, main_figure(figures)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: that is the writer's to replace."""
        found: dict[str, Any] = {
            "rows": {"reference": self.rows[0], "current": self.rows[1]},
            "columns": {name: _plain(each) for name, each in self.columns.items()},
            "left_out": dict(self.left_out),
        }
        if self.domain is not None:
            auc = {"value": self.domain.auc, "bound": self.domain.bound, "p_value": self.domain.p_value}
            found["domain_classifier"] = {"auc": auc, "columns": dict(self.domain.columns)}
        if self.segments:
            found["segments"] = {
                segment: {"rows": self.segment_rows[segment], "columns": {n: _plain(f) for n, f in columns.items()}}
                for segment, columns in self.segments.items()
            }
        return found


def main_figure(figures: Figures) -> Figure:
    """What a column is ranked by: KS, the total variation of texts, the squared MMD of embeddings."""
    return next(figures[name] for name in ("ks", "tv", "mmd") if name in figures)


def _rank(figures: Figures) -> float:
    value = main_figure(figures).value
    return -1.0 if isnan(value) else value


def _plain(figures: Figures) -> dict[str, dict[str, float]]:
    return {name: {"value": f.value, "bound": f.bound, "p_value": f.p_value} for name, f in figures.items()}


class Progress(Protocol):
    """Is told how far files have been read."""

    def begin(self, path: Path, rows: int) -> None:
        """A file of so many rows follows."""

    def read(self, rows: int) -> None:
        """So many more of it have been read."""


def compare_files(
    reference: Path, current: Path, segment_column: str | None, seed: int, progress: Progress
) -> Comparison:
    """Compare two parquet files.

    Parameters
    ----------
    reference, current : Path
    segment_column : str, optional
    seed : int
    progress : Progress

    Raises
    ------
    monitors.files.FileError
    """
    columns = columns_of(reference, current)
    segments = segments_of(reference, segment_column) if segment_column else None
    files: list[SketchedFile] = []
    for path in (reference, current):
        progress.begin(path, rows_of(path))
        files.append(sketch_file(path, columns.kinds, segments, progress.read))
    first, second = files
    both = [name for name in first.by_segment if name in second.by_segment]
    return Comparison(
        rows=(first.rows, second.rows),
        columns=_compared(first.whole, second.whole, seed) | _embedded(reference, current, columns.embeddings, seed),
        segments={
            f"{segment_column}={name}": _compared(first.by_segment[name], second.by_segment[name], seed)
            for name in both
        },
        segment_rows={f"{segment_column}={name}": int(second.by_segment[name].rows.sum()) for name in both},
        left_out=columns.left_out,
        categorical=tuple(name for name, kind in columns.kinds.items() if kind == "categorical"),
        embeddings=columns.embeddings,
    )


def _compared(reference: Sketches, current: Sketches, seed: int) -> dict[str, Figures]:
    return {name: compare(reference.column(name), current.column(name), seed) for name in reference.names}


def _embedded(reference: Path, current: Path, names: tuple[str, ...], seed: int) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for name in names:
        first = sketch_embeddings(reference, name)
        found[name] = compare_embeddings(first, sketch_embeddings(current, name, first.kernel), seed)
    return found


def classify(reference: Path, current: Path, found: Comparison, seed: int) -> "Domain":
    """Tell rows of both files apart by a classifier, from a sample of either.

    Raises
    ------
    monitors.files.FileError
        Where a file has too few rows.
    """
    from monitors.domain import tell_apart  # scikit-learn, for whom it is asked for

    first, second = (sample(path, found.plain, seed=seed) for path in (reference, current))
    try:
        return tell_apart(first, second, found.categorical, seed)
    except ValueError as exc:
        raise FileError(f"{current.name} beside {reference.name}: {exc}") from exc


def draw(reference: Path, current: Path, found: Comparison, out: Path) -> Path:
    """Evidently's report of a sample of both files, the columns that differ most first.

    Raises
    ------
    monitors.reports.ReportError
    """
    from monitors.reports import draw_report

    order = [name for name, _ in found.ranked() if name not in found.embeddings]
    sides = [sample(path, order) for path in (reference, current)]
    title = f"{current.name} beside {reference.name}"
    return draw_report(sides[0], sides[1], out, found.categorical, title, closely=order[:CLOSELY])
