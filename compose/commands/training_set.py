"""``headwater training-set``."""

import json
from pathlib import Path

import click
from rich.console import Console

from compose.commands.target import running_platform

__all__ = ["command"]


@click.command()
@click.option("--repo", type=click.Path(path_type=Path, file_okay=False), help="Feast repo; default: the flights.")
@click.option("--entities", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
              help="Parquet file: join keys, and event_timestamp or event_time.")  # fmt: skip
@click.option("--features", "service", required=True, help="Feature service.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True,
              help="Parquet file to write.")  # fmt: skip
@click.option("--known", type=click.Choice(["now", "then"]), default="now", show_default=True,
              help="Whether records count that were late for the stream.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def command(repo: Path | None, entities: Path, service: str, output: Path, known: str, as_json: bool) -> None:
    """Add features to entities, each as of its own time.

    In the ClickHouse of the platform that runs, from the archived events. An entity at time t gets a view's newest row
    with event time no later than t, unless that is older than the view's ttl: nothing of the future leaks in.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from compose.services import REPO
    from compose.training_set import training_set
    from features.compiler.repo import RepoError, load_repo
    from features.compiler.topics import UnsupportedViewError
    from features.offline.history import HistoryError
    from jobs.reading import client_of

    client = client_of(running_platform()[1].endpoints.clickhouse)
    console = Console(stderr=True)
    draft = output.with_name(f".{output.name}.partial")
    try:
        definitions = load_repo(repo or REPO)
        with console.status("Computing"):
            found = training_set(
                client,
                definitions,
                definitions.service(service),
                pq.read_table(entities),
                "then" if known == "then" else "now",
            )
        pq.write_table(found, draft)
        draft.replace(output)
    except (HistoryError, RepoError, UnsupportedViewError, OSError, pa.ArrowInvalid) as exc:
        raise click.ClickException(str(exc)) from exc
    if as_json:
        click.echo(json.dumps({"rows": found.num_rows, "columns": found.column_names, "output": str(output)}))
        return
    click.echo(f"{found.num_rows:,} rows of {found.num_columns} columns in {output}.")
