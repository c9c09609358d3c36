"""Two parquet files compared by us and by Evidently: what either takes, and how much memory.

Evidently holds both files as pandas reads them, and more of every column that it has been through. Of files that are
too large for that it is given those of as many columns as memory holds. It goes through columns one after the other, so
what it takes a column says what it would take, and files of fewer columns, measured first, say whether that is so.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from compose.bench.spread import Spread, plain_table
from compose.local.home import PlatformError

__all__ = ["AIM", "KilledError", "by_evidently", "by_us", "fitting", "measure", "tables", "timed", "write_files"]

AIM: Final = 20.0
"""Times as fast as Evidently that ours has to be."""

_SEED: Final = 7
_ROWS_A_GROUP: Final = 1 << 18
_KINDS: Final = 4
"""Of columns, in turn: files are of whole turns, so that a column of one costs what a column of another does."""
_FIRST: Final = (4, 12)
"""Columns of the files that say what a column takes of memory."""
_MEMORY_SHARE: Final = 0.4
"""Of what is free that may be taken, by what fewer columns took: given 0.8 of 22 GB it took all
of it, since it holds more of a column where there are more of them, and was killed after half an hour."""
_KILLED: Final = 137


class KilledError(PlatformError):
    """A process was killed from outside: as a rule because memory ran out."""


def measure(folder: Path, rows: int, columns: int, repeat: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Compare two files by us, and as many columns of their kind as memory holds by Evidently as well.

    Parameters
    ----------
    folder : Path
        For the files, two at a time; it has to hold 16 bytes a value of one.
    rows, columns : int
        Of each file.
    repeat : int
        How often the largest files of either are compared, each in turn.
    tell : callable
        Told what is going on.

    Raises
    ------
    PlatformError
        Where either fails.
    """
    beside: dict[int, list[dict[str, Any]]] = {}
    for some in _FIRST:
        if some < columns:
            beside[some] = _beside(folder, rows, some, 1, tell)
    free = psutil.virtual_memory().available
    peaks = {some: told[0]["Evidently"]["bytes"] for some, told in beside.items()}
    widest = fitting(peaks, columns, round(_MEMORY_SHARE * free))
    while widest not in beside:
        try:
            beside[widest] = _beside(folder, rows, widest, repeat, tell)
        except KilledError:
            if not beside:
                raise
            tell(f"{widest} columns do not fit into memory")
            widest = (widest + max(beside)) // 2 // _KINDS * _KINDS
    theirs = [each["Evidently"] for each in beside[widest]]
    ours = [each["headwater"] for each in beside[widest]]
    if widest < columns:
        files = write_files(folder, rows, columns, tell)
        tell(f"{columns} columns, by us alone")
        ours = [timed(by_us(files)) for _ in range(repeat)]
    a_column = [each["seconds"] / widest for each in theirs]
    pairs = zip(a_column, [each["seconds"] / columns for each in ours], strict=False)
    return {
        "rows": rows,
        "columns": columns,
        "free_bytes": free,
        "beside": {some: _told(each) for some, each in beside.items()},
        "whole": {"seconds": Spread.of([each["seconds"] for each in ours]), "bytes": _most(ours)},
        "evidently_columns": widest,
        "times_as_fast": Spread.of([other / own for other, own in pairs]),
    }


def _beside(
    folder: Path, rows: int, columns: int, repeat: int, tell: Callable[[str], None]
) -> list[dict[str, dict[str, float]]]:
    files = write_files(folder, rows, columns, tell)
    found = []
    for number in range(repeat):
        tell(f"{columns} columns, repetition {number + 1} of {repeat}: ours")
        ours = timed(by_us(files))
        tell(f"{columns} columns, repetition {number + 1} of {repeat}: the same files in Evidently")
        found.append({"headwater": ours, "Evidently": timed(by_evidently(files))})
    return found


def _told(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: {
            "seconds": Spread.of([each[name]["seconds"] for each in pairs]),
            "bytes": _most([each[name] for each in pairs]),
        }
        for name in ("headwater", "Evidently")
    }


def _most(taken: Sequence[dict[str, Any]]) -> int:
    return max(each["bytes"] for each in taken)


def fitting(peaks: dict[int, int], columns: int, bytes_max: int) -> int:
    """How many columns Evidently can be given within `bytes_max`, by its peaks with fewer; at least as many as those.

    Parameters
    ----------
    peaks : dict of columns to bytes
        Without two of them nothing is known, and all columns are taken to fit.
    columns : int
        At most.
    bytes_max : int
    """
    if len(peaks) < len(_FIRST):
        return columns
    (few, least), (more, most) = sorted(peaks.items())
    column = max(most - least, 1) / (more - few)
    extra = int((bytes_max - most) / column) // _KINDS * _KINDS
    return min(columns, more + max(extra, 0))


def by_us(files: Sequence[Path]) -> list[str]:
    """The command that has us compare two files."""
    return [sys.executable, "-m", "compose.cli", "drift", "compare", *map(str, files), "--json"]


def by_evidently(files: Sequence[Path]) -> list[str]:
    """The command that has Evidently compare two files."""
    return [sys.executable, str(Path(__file__).with_name("evidently_script.py")), *map(str, files)]


def timed(command: Sequence[str]) -> dict[str, Any]:
    """Seconds and most bytes of memory of a process.

    Raises
    ------
    KilledError
        Where it is killed.
    PlatformError
        Where it fails otherwise.
    """
    script = str(Path(__file__).with_name("peak_script.py"))
    done = subprocess.run([sys.executable, "-I", "-S", script, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        kind = KilledError if done.returncode == _KILLED else PlatformError
        raise kind(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout))


def write_files(folder: Path, rows: int, columns: int, tell: Callable[[str], None]) -> tuple[Path, Path]:
    """A reference, and the same with some columns moved; normal, skewed, counted and with nulls in turn.

    Written a group of rows at a time: memory does not grow with `rows`.
    """
    tell(f"Writing two files of {rows:,} rows and {columns} columns")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, shift in (("reference", 0.0), ("current", 0.1)):
        rng = np.random.default_rng(_SEED)
        schema = pa.schema([(f"c{i:03}", pa.float64()) for i in range(columns)])
        path = folder / f"{name}.parquet"
        with pq.ParquetWriter(path, schema, compression="snappy") as writer:
            for start in range(0, rows, _ROWS_A_GROUP):
                count = min(_ROWS_A_GROUP, rows - start)
                made_of = [_column(rng, count, i, shift if i % 10 == 0 else 0.0) for i in range(columns)]
                writer.write_table(pa.Table.from_arrays([pa.array(each) for each in made_of], schema=schema))
        made.append(path)
    return made[0], made[1]


def _column(rng: np.random.Generator, rows: int, i: int, shift: float) -> Any:
    if i % _KINDS == 0:
        return rng.standard_normal(rows) + shift
    if i % _KINDS == 1:
        return rng.lognormal(2.0, 1.0, rows) * (1 + shift)
    if i % _KINDS == 2:
        return rng.poisson(30 * (1 + shift), rows).astype(float)
    return np.where(rng.random(rows) < 0.05, np.nan, rng.exponential(50.0, rows))


def tables(found: dict[str, Any]) -> list[Table]:
    """For people."""
    shown = plain_table(f"Two files of {found['rows']:,} rows", "way", "columns", "seconds", "spread", "a column", "GB")
    taken = [(name, some, each) for some, told in found["beside"].items() for name, each in told.items()]
    if found["evidently_columns"] < found["columns"]:
        taken.append(("headwater", found["columns"], found["whole"]))
    for name, some, each in taken:
        seconds = each["seconds"]
        cells = (
            f"{seconds.middle:.1f}",
            seconds.ends(".1f"),
            f"{seconds.middle / some:.3f}",
            f"{each['bytes'] / 1e9:.2f}",
        )
        shown.add_row(name, str(some), *cells)
    shown.caption = _caption(found)
    shown.caption_justify = "left"
    return [shown]


def _caption(found: dict[str, Any]) -> str:
    columns, widest, ratio = found["columns"], found["evidently_columns"], found["times_as_fast"]
    said = f"Of {columns} columns we are {ratio.middle:.1f} times as fast as Evidently"
    if widest < columns:
        said = (
            f"Evidently was given {widest} columns: more do not fit into {_MEMORY_SHARE:.0%} of the "
            f"{found['free_bytes'] / 1e9:.1f} GB that were free. On {columns} columns we take a column "
            f"{ratio.middle:.1f} times as fast as it does on {widest}"
        )
    met = "met" if ratio.middle >= AIM else "missed"
    return f"{said} ({ratio.ends('.1f')}); at least {AIM:g}: {met}."
