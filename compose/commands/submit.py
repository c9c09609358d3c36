"""``headwater submit``."""

from collections.abc import Sequence
from pathlib import Path

import click

from compose.commands.target import LOCAL, job_book, running_platform

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
    features   every stream feature view of the Feast repo, as one job; with --repo, its
               topics are created where they are missing, and on the local platform its
               online store is kept fresh and its history archived
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
    names = list(jobs)
    if repo and "features" in jobs:
        names[names.index("features")] = _prepared(repo, views, target, kafka or "")
    for record in job_book(target, kafka or "").submit(names, options, fresh):
        click.echo(f"{record.name} runs as {record.ids[-1]}. `headwater jobs list` shows it.")


def _prepared(repo: Path, views: Sequence[str], target: str, kafka: str) -> str:
    """Make what the features job of a repo needs: its topics and, on the local platform, an archiver and a pusher.

    Returns
    -------
    str
        Name of the job.
    """
    from compose.local.kafka import create_topics
    from compose.projects import project_of

    project = project_of(repo, views)
    if target != LOCAL:
        create_topics(kafka, project.topics)
        return f"features-{project.name}"
    home, running = running_platform()
    create_topics(running.endpoints.kafka, project.topics)
    project.register(home)
    for topic, why in project.unarchived().items():
        click.echo(f"Not archived, so `verify` and `backfill` cannot read it: {topic}: {why}.", err=True)
    return f"features-{project.name}"
