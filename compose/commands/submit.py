"""``headwater submit``."""

from pathlib import Path

import click

from compose.commands.target import LOCAL, job_book

__all__ = ["command"]


@click.command()
@click.argument("jobs", nargs=-1, required=True, type=click.Choice(["features", "scoring", "drift"]))
@click.option("--target", default=LOCAL, show_default=True, help="`local`, or the REST address of a Flink cluster.")
@click.option("--kafka", help="host:port of the brokers that a cluster elsewhere reads; needed with a URL as target.")
@click.option("--repo", type=click.Path(path_type=Path, file_okay=False), help="Feast repo; default: the flights.")
@click.option("--view", "views", multiple=True, help="Only this stream feature view (features); may be repeated.")
@click.option("--service", help="Feature service of the model (scoring, drift); default: delay.")
@click.option(
    "--mode",
    type=click.Choice(["as-of", "latest"]),
    default="as-of",
    show_default=True,
    help="Features of a request (scoring): of its own event time, or the newest in the online store.",
)
@click.option("--fresh", is_flag=True, help="Start from nothing, not from the last checkpoint; writes all rows again.")
def command(
    jobs: tuple[str, ...],
    target: str,
    kafka: str | None,
    repo: Path | None,
    views: tuple[str, ...],
    service: str | None,
    mode: str,
    fresh: bool,
) -> None:
    r"""Run JOBS on a Flink cluster: features, scoring, drift.

    \b
    features   every stream feature view of the Feast repo, as one job
    scoring    a prediction for every request, by whichever model is promoted
    drift      windows and alerts from what scoring saw and what became of it

    On the local platform a job that runs already is not sent again, one that was cancelled goes on from its last
    checkpoint, and one that dies with the cluster is submitted anew. A cluster elsewhere gets the archives with each.
    """
    options = ["--mode", mode]
    options += ["--repo", str(repo.resolve())] if repo else []
    options += ["--service", service] if service else []
    for view in views:
        options += ["--view", view]
    if target != LOCAL and not kafka:
        raise click.UsageError("Which brokers is the job to read? Give --kafka HOST:PORT with --target URL.")
    for record in job_book(target, kafka or "").submit(jobs, options, fresh):
        click.echo(f"{record.name} runs as {record.ids[-1]}. `headwater jobs list` shows it.")
