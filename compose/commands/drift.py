"""``headwater drift``."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from compose.commands.target import running_platform
from compose.finite import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compose.budgets import Spending
    from monitors.comparison import Comparison
    from monitors.domain import Domain

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
CERTAIN = 0.01
COLUMNS_TOLD = 3
_BAR = 12


@click.group()
def command() -> None:
    """Compare what a model sees with what it was trained on, and see what alarms may cost.

    `compare` is for people with two files: nothing else has to run.
    """


@command.command()
@click.argument("reference", type=_FILE)
@click.argument("current", type=_FILE)
@click.option("--segments", metavar="COLUMN", help="Compare each of the 20 most frequent values of a column as well.")
@click.option("--classify", is_flag=True, help="Also train a classifier to tell the files apart by whole rows.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write Evidently's report, HTML.")
@click.option("--seed", default=0, show_default=True, help="Of the resampling that chances come from.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def compare(
    reference: Path,
    current: Path,
    segments: str | None,
    classify: bool,
    report: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compare the columns of two parquet files.

    Both are read once, into sketches: memory does not grow with them. Each figure comes with how far that of the rows
    themselves can be from it at most, and with the chance of as much where nothing differs.

    \b
    headwater drift compare january.parquet february.parquet
    headwater drift compare ref.parquet cur.parquet --segments carrier --json

    Columns that each look as before may go together differently: --classify finds that, of samples of 20,000 rows.
    """
    from monitors import comparison
    from monitors.files import FileError
    from monitors.reports import ReportError

    console = Console(stderr=as_json)
    try:
        with _progress(console) as progress:
            found = comparison.compare_files(reference, current, segments, seed, _Teller(progress))
        if classify:
            with console.status("Training a classifier to tell rows apart"):
                found = replace(found, domain=comparison.classify(reference, current, found, seed))
        if report is not None:
            with console.status("Drawing the report"):
                comparison.draw(reference, current, found, report)
    except (FileError, ReportError) as exc:
        raise click.ClickException(str(exc)) from exc
    if as_json:
        click.echo(json.dumps(finite(found.as_dict())))
        return
    for each in tables(found):
        console.print(each)
    if found.domain is not None:
        console.print(_apart(found.domain), markup=False, soft_wrap=True)
    for name, why in found.left_out.items():
        console.print(f"Left out: {name}, {why}.", markup=False, soft_wrap=True)
    if report is not None:
        console.print(f"Report: {report}", markup=False, soft_wrap=True)


@command.command()
@click.argument("reference")
@click.argument("current")
@click.option("--model", default="delay", show_default=True, help="Whose traffic.")
@click.option("--seed", default=0, show_default=True, help="Of the windows that chances come from.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def spans(reference: str, current: str, model: str, seed: int, as_json: bool) -> None:
    """Compare two spans of a model's traffic, from the sketches that are archived.

    CURRENT is FROM..TO (such as 2013-08-12..2013-08-19) or last:DURATION; REFERENCE is one of

    \b
    training             what the model that answers was trained on
    FROM..TO             a fixed window, UTC, to the hour
    trailing:DURATION    so long before CURRENT
    earlier:DURATION     the same hours so long ago

    \b
    headwater drift spans trailing:35d last:7d
    headwater drift spans earlier:7d 2013-08-12T18:00..2013-08-12T21:00

    The chance is that of as much where nothing differs, by windows drawn from the days of the reference: for spans of
    whole days, of references at least twice as long. The reference of a training knows it for weeks.
    """
    from compose.past import open_archive
    from compose.spans import compare_spans, current_span, reference_span

    home, running = running_platform()
    console = Console(stderr=as_json)
    with open_archive(home, running.endpoints.clickhouse, model) as (stored, load), console.status("Reading"):
        now = current_span(current, stored)
        before = reference_span(reference, now)
        found = compare_spans(stored, load, before, now, seed)
    if as_json:
        click.echo(json.dumps(finite(found.as_dict())))
        return
    console.print(f"{now} beside {before or 'what the model was trained on'}.")
    for each in tables(found):
        console.print(each)


@command.command()
@click.option("--kafka", envvar="HEADWATER_KAFKA", help="host:port; default: the local platform's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a model, a line each, for programs.")
def budget(kafka: str | None, as_json: bool) -> None:
    """Show what each model's monitors have spent of their false alarms in the last 30 days of event time.

    Every look at a window of features, of labels or of `--against` spends the chance at which it would raise an alarm
    though nothing has changed; a model whose incident is open spends nothing. `headwater submit drift --false-retrains
    A_MONTH` sets what there is to spend.
    """
    from compose.budgets import read_budgets

    found = read_budgets(kafka or running_platform()[1].endpoints.kafka)
    if as_json:
        for each in found:
            click.echo(json.dumps(each.record()))
        return
    if not found:
        click.echo("No model has been judged by a reference yet: its first week of traffic has to be over.")
        return
    Console().print(spendings(found))


def spendings(found: "Sequence[Spending]") -> Table:
    """For people: how much of each budget is gone, drawn."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="False retrains in 30 days", title_justify="left")
    for name in ("model", "until", "allowed", "spent", "left", "", "looks", "alarms"):
        shown.add_column(name, justify="left" if name in ("model", "until", "") else "right", no_wrap=True)
    for each in found:
        gone = round(_BAR * min(each.spent / each.allowed, 1.0))
        figures = (each.allowed, each.spent, each.left)
        shown.add_row(
            f"{each.model} {each.version}",
            f"{each.until:%Y-%m-%d}",
            *(f"{figure:.3f}" for figure in figures),
            "\u2588" * gone + "\u2591" * (_BAR - gone),
            str(each.looks),
            str(each.alarms),
        )
    if len(found) > 1:
        sums = [sum(each) for each in zip(*((s.allowed, s.spent, s.left) for s in found), strict=True)]
        shown.add_row("all", "", *(f"{figure:.3f}" for figure in sums), "", "", "", style="bold")
    return shown


def tables(found: "Comparison") -> list[Table]:
    """For people: the columns that differ most first, and what differs most in segments."""
    from monitors.comparison import main_figure

    shown = Table(
        title=f"{found.rows[0]:,} rows of reference, {found.rows[1]:,} of current: most different first",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("column", "KS, TV or MMD", "within", "PSI", "Wasserstein", "nulls", "chance"):
        shown.add_column(name, justify="left" if name == "column" else "right", no_wrap=True)
    for name, figures in found.ranked():
        main = main_figure(figures)
        far = figures.get("wasserstein")
        nulls = figures["null_rate"].value
        shown.add_row(
            name,
            _number(main.value),
            _number(main.bound),
            _number(figures["psi"].value) if "psi" in figures else "",
            _number(far.value) if far else "",
            f"{nulls:+.1%}" if nulls else "",
            _number(main.p_value),
            style="bold" if main.p_value < CERTAIN and main.value > main.bound else None,
        )
    if not found.segments:
        return [shown]
    parts = Table(title="Segments that differ most", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("segment", "rows", "column", "KS or TV", "chance"):
        parts.add_column(name, justify="left" if name in ("segment", "column") else "right", no_wrap=True)
    for segment, rows, column, main in found.most_in_segments():
        parts.add_row(segment, f"{rows:,}", column, _number(main.value), _number(main.p_value))
    return [shown, parts]


def _apart(domain: "Domain") -> str:
    told = f"By whole rows: AUC {domain.auc:.3f} within {domain.bound:.3f}, chance {domain.p_value:.2g}"
    most = [f"{name} ({lost:.3f})" for name, lost in list(domain.columns.items())[:COLUMNS_TOLD] if lost > 0]
    return f"{told}; most by {', '.join(most)}." if most and domain.p_value < CERTAIN else f"{told}."


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.completed:,} of {task.total:,} rows"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class _Teller:
    """Shows how far a file has been read."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def begin(self, path: Path, rows: int) -> None:
        self._task = self._progress.add_task(f"Reading {path.name}", total=rows)

    def read(self, rows: int) -> None:
        self._progress.advance(self._task, rows)
