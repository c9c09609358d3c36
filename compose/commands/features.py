"""``headwater features``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compose.commands.target import LOCAL, job_book

if TYPE_CHECKING:  # Feast takes seconds to import
    from feast import StreamFeatureView

    from features.frames import RecordFunction

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
    """Print what each stream feature view becomes: Flink SQL for the stream, ClickHouse SQL for history.

    Of a view with a transformation in pandas also its function, the columns that it gets, and the fields that it cannot
    have.
    """
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
                **({"pandas": _function(definitions.view(flink.name), flink.function)} if flink.function else {}),
            }
            for flink, history in found
        ]
        click.echo(json.dumps(plain, indent=2))
        return
    for flink, history in found:
        if flink.function:
            click.echo("\n".join(_shown(flink.function_name, _function(definitions.view(flink.name), flink.function))))
        click.echo(f"-- {flink.name}, in Flink")
        for name, select in flink.views:
            click.echo(f"CREATE TEMPORARY VIEW {name} AS\n{select};")
        click.echo(f"{flink.select};\n")
        if history.function:
            click.echo(f"-- {history.name}, in ClickHouse: what the function gets\n{history.records};\n")
        click.echo(f"-- {history.name}, in ClickHouse\n{history.sql};\n")


def _function(view: "StreamFeatureView", function: "RecordFunction") -> dict[str, Any]:
    """A transformation in pandas as plain data."""
    from features.compiler.function_text import text_of
    from features.compiler.sources import stream_source
    from features.compiler.vectorised import frame_columns

    return {
        "gets": {each.name: f"{each.type}{', or null' if each.nullable else ''}" for each in function.columns},
        "gives": {name: str(kind) for name, kind in function.outputs.items()},
        "left out": frame_columns(stream_source(view))[1],
        "source": text_of(function.function),
    }


def _shown(name: str, found: dict[str, Any]) -> Iterator[str]:
    yield f"-- {name}, in Python, over frames of records"
    yield from (f"--   gets {column}: {kind}" for column, kind in found["gets"].items())
    yield from (f"--   cannot have {column}: {why}" for column, why in found["left out"].items())
    yield from (f"--   of what it gives is used {column}: {kind}" for column, kind in found["gives"].items())
    yield f"{found['source']}\n"


class _ErrorsAreOne(click.Command):
    """A command whose exit status 2 means something, so that a wrong option has to be 1."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as exc:
            raise click.ClickException(exc.format_message()) from exc


@command.command("plan", cls=_ErrorsAreOne)
@click.option("--repo", type=click.Path(path_type=Path, file_okay=False), required=True, help="Feast repo.")
@click.option("--view", "names", multiple=True, help="As if only this view were submitted; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.pass_context
def plan_views(ctx: click.Context, repo: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Print what submitting a repo's views would change on the local platform, like a diff.

    Against what its job was last submitted with: views that are new, changed or removed, which keep their state and
    which start from the beginning of their topics, what needs a backfill, which topics are created.

    \b
    exit status   0   nothing to do
                  2   there is something to do
                  1   the repo cannot be run, or no platform runs
    """
    from compose import planning

    found, _ = planning.planned(job_book(LOCAL), repo, names)
    if as_json:
        click.echo(json.dumps(planning.as_json(found), indent=2))
    else:
        for line in planning.shown(found, repo):
            click.echo(line)
    ctx.exit(0 if found.nothing else 2)
