"""``headwater backfill``."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from compose.commands.target import running_platform

__all__ = ["command"]

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--repo", type=click.Path(path_type=Path, file_okay=False), help="Feast repo; default: the flights.")
@click.option("--view", "name", required=True, help="The stream feature view.")
@click.option("--from", "start", type=_DAY, required=True, help="First day of rows, UTC.")
@click.option("--to", "end", type=_DAY, required=True, help="Day before which rows end, UTC.")
@click.option("--parquet", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows to this file.")
@click.option("--table", help="Put the rows into this ClickHouse table, in place of what it has of these days.")
@click.option("--online", is_flag=True, help="Write each entity's newest row to the repo's online store.")
@click.option("--known", type=click.Choice(["now", "then"]), default="now", show_default=True,
              help="Whether records count that were late for the stream.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def command(
    repo: Path | None,
    name: str,
    start: datetime,
    end: datetime,
    parquet: Path | None,
    table: str | None,
    online: bool,
    known: str,
    as_json: bool,
) -> None:
    """Compute a view's rows over history.

    In the ClickHouse of the platform that runs, from the archive of the view's topic, with the meaning the definitions
    have in the stream; a record from before the first day counts where a window reaches back to it. Rows end where the
    archive does. An online store of Headwater's keeps a row that is newer than the one it is given.
    """
    if not (parquet or table or online):
        raise click.UsageError("Where are the rows to go? Give --parquet FILE, --table NAME or --online.")
    if end <= start:
        raise click.UsageError("Expected --to to be later than --from.")
    from compose.history import write_online, write_parquet, write_table
    from compose.services import REPO
    from features.compiler.repo import RepoError, load_repo
    from features.compiler.topics import UnsupportedViewError
    from features.offline.history import HistoryError, computed
    from features.online.rows import StoreError
    from jobs.reading import client_of

    home, running = running_platform()
    os.environ["HEADWATER_HOME"] = str(home.root)  # the flights' feature_store.yaml asks for it
    repo = (repo or REPO).resolve()
    span = _ms(start), _ms(end)
    console = Console(stderr=True)
    try:
        view = load_repo(repo).view(name)
        client = client_of(running.endpoints.clickhouse)
        with (
            console.status(f"Computing {name}") as status,
            computed(client, view, *span, "then" if known == "then" else "now") as history,
        ):
            status.update("Writing")
            if parquet:
                write_parquet(client, history, parquet)
            if table:
                write_table(client, history, table, *span)
            entities = write_online(client, history, repo) if online else None
    except (HistoryError, RepoError, UnsupportedViewError, StoreError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    facts = {
        "view": name,
        "rows": history.rows,
        "failed": history.failed,
        "parquet": parquet and str(parquet),
        "table": table,
    }
    if as_json:
        click.echo(json.dumps({**facts, "parquet": parquet and str(parquet), "entities": entities}))
        return
    click.echo(f"{name}: {history.rows:,} rows.")
    if history.failed:
        click.echo(f"Without {history.failed:,} records that the view's function in pandas fails on.")
    if online:
        click.echo(f"Online: the newest rows of {entities:,} entities.")


def _ms(day: datetime) -> int:
    return int(day.replace(tzinfo=UTC).timestamp() * 1000)
