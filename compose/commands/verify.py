"""``headwater verify``."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from compose.commands.target import running_platform
from compose.local.home import Home
from compose.local.platform import Running

if TYPE_CHECKING:
    from jobs.parity import Verification
    from jobs.served import Served

__all__ = ["command"]

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--repo", type=click.Path(path_type=Path, file_okay=False, exists=True),
              help="Check the rows of a Feast repo's views, not what predictions were made from.")  # fmt: skip
@click.option("--view", "names", multiple=True, help="Only this view of the repo; may be repeated.")
@click.option("--mode", type=click.Choice(["as-of", "latest"]), default="as-of", show_default=True,
              help="How scoring read its features.")  # fmt: skip
@click.option("--from", "start", type=_DAY, help="First day of requests, or of rows, UTC.")
@click.option("--to", "end", type=_DAY, help="Day before which they end, UTC.")
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of mismatches that is let pass.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def command(
    repo: Path | None,
    names: tuple[str, ...],
    mode: str,
    start: datetime | None,
    end: datetime | None,
    threshold: float,
    as_json: bool,
) -> None:
    """Compute every feature value again, independently, and compare.

    Reads what the platform that runs has archived, and computes with pandas what should have come of it.

    \b
    verify              the values that each prediction was made from: in `as-of` mode those of the
                        request's own time, in `latest` mode those of the row each came from
    verify --repo DIR   every row of the repo's views, as the stream wrote them; of a view that was
                        changed, those since

    Exits with status 1 where more than the threshold does not agree.
    """
    console = Console(stderr=as_json)
    home, running = running_platform()
    with console.status("Reading") as status:

        def tell(text: str) -> None:
            status.update(text[:1].upper() + text[1:])

        span = (_ms(start), _ms(end))
        found = _compared(home, running, repo, names, mode, span, tell)
    if as_json:
        click.echo(json.dumps(found.as_dict(), default=str))
    else:
        _show(console, found)
    sys.exit(1 if found.parity.exceeds(threshold) else 0)


def _compared(
    home: Home,
    running: Running,
    repo: Path | None,
    names: tuple[str, ...],
    mode: str,
    span: tuple[int | None, int | None],
    tell: Callable[[str], None],
) -> "Verification | Served":
    from compose.plan import recorded
    from compose.services import REPO
    from features.compiler.repo import load_repo
    from jobs.parity import verify
    from jobs.reading import client_of
    from jobs.served import verify_rows

    client, kafka = client_of(running.endpoints.clickhouse), running.endpoints.kafka
    try:
        definitions = load_repo(repo or REPO)
        if repo is None:
            return verify(client, kafka, definitions, mode, *span, progress=tell)
        views = [definitions.view(name) for name in names] or list(definitions.views.values())
        before = recorded(home, f"features-{definitions.project}")
        return verify_rows(client, kafka, views, *span, tell, before.begun if before else None)
    except ValueError as exc:  # of the repo, a view, or the history
        raise click.ClickException(f"Cannot compare: {exc}.") from exc


def _show(console: Console, found: "Verification | Served") -> None:
    parity = found.parity
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("feature", "compared", "mismatches", "largest relative error", "let pass"):
        table.add_column(heading, justify="left" if heading == "feature" else "right")
    for name, each in parity.by_feature.items():
        error, tolerance = f"{each.worst_relative_error:.1e}", f"{each.tolerance:.0e}" if each.tolerance else "none"
        style = "red" if each.mismatches else ""
        table.add_row(name, f"{each.compared:,}", f"{each.mismatches:,}", error, tolerance, style=style)
    console.print(table)
    for example in parity.examples:
        console.print(", ".join(f"{key} {value}" for key, value in example.items()))
    for view, age in getattr(found, "age_seconds", {}).items():
        console.print(f"{view}: rows were {age['median']:,.0f} s old, one in a hundred {age['p99']:,.0f} s or more")
    console.print(
        f"{parity.compared:,} values compared, {parity.mismatches:,} mismatches: {parity.missing:,} rows are missing, "
        f"{parity.unexpected:,} are too many."
    )


def _ms(day: datetime | None) -> int | None:
    return None if day is None else int(day.replace(tzinfo=UTC).timestamp() * 1000)
