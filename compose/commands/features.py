"""``headwater features``."""

import json
from pathlib import Path

import click

__all__ = ["command"]


@click.group()
def command() -> None:
    """Look at the definitions of a Feast repo.

    What a stream feature view means is the same in the stream, where Flink computes it, and over history, where
    ClickHouse does.
    """


@command.command("compile")
@click.option("--repo", type=click.Path(path_type=Path, file_okay=False), help="Feast repo; default: the flights.")
@click.option("--view", "names", multiple=True, help="Only this stream feature view; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, for programs.")
def compile_views(repo: Path | None, names: tuple[str, ...], as_json: bool) -> None:
    """Print what each stream feature view becomes: Flink SQL for the stream, ClickHouse SQL for history."""
    from compose.services import REPO
    from features.compiler.clickhouse import compile_history
    from features.compiler.flink import compile_view
    from features.compiler.repo import RepoError, load_repo
    from features.compiler.sources import stream_source
    from features.compiler.topics import UnsupportedViewError
    from schemas.tables import DATABASE, table_name

    try:
        definitions = load_repo(repo or REPO)
        views = [definitions.view(name) for name in names or sorted(definitions.views)]
        archives = [f"{DATABASE}.{table_name(stream_source(view).kafka_options.topic)}" for view in views]
        found = [(compile_view(view), compile_history(view, name)) for view, name in zip(views, archives, strict=True)]
    except (RepoError, UnsupportedViewError) as exc:
        raise click.ClickException(str(exc)) from exc
    if as_json:
        plain = [
            {
                "view": flink.name,
                "source": flink.source,
                "flink": {"views": [list(each) for each in flink.views], "select": flink.select},
                "clickhouse": history.sql,
            }
            for flink, history in found
        ]
        click.echo(json.dumps(plain, indent=2))
        return
    for flink, history in found:
        click.echo(f"-- {flink.name}, in Flink")
        for name, select in flink.views:
            click.echo(f"CREATE TEMPORARY VIEW {name} AS\n{select};")
        click.echo(f"{flink.select};\n")
        click.echo(f"-- {history.name}, in ClickHouse\n{history.sql};\n")
