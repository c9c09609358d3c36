"""``headwater submit``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compose.commands.target import LOCAL, job_book, running_platform
from compose.local.home import PlatformError

if TYPE_CHECKING:  # Feast takes seconds to import
    from compose.local.jobs import JobRecord
    from compose.plan import Facts

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
    """Run JOBS on a Flink cluster: features, scoring, drift.

    \b
    features   every stream feature view of the Feast repo, as one job; with --repo, its
               topics are created where they are missing, and on the local platform its
               online store is kept fresh and its history archived
    scoring    a prediction for every request, by whichever model is promoted
    drift      windows and alerts from what scoring saw and what became of it

    On the local platform a job that runs already is not sent again, one that was cancelled goes on from its last
    checkpoint, and one that dies with the cluster is submitted anew. A cluster elsewhere gets the archives with each.
    `headwater features plan` tells beforehand what a changed repo means for its job.
    """
    if repo and _is_flights(repo):
        repo = None  # what runs without --repo
    options = ["--mode", mode]
    options += ["--repo", str(repo.resolve())] if repo else []
    options += ["--service", service] if service else []
    for view in views:
        options += ["--view", view]
    if target != LOCAL and not kafka:
        raise click.UsageError("Which brokers is the job to read? Give --kafka HOST:PORT with --target URL.")
    names = list(jobs)
    facts: Mapping[str, Facts] = {}
    if repo and "features" in jobs:
        facts = _compared(repo, views, fresh) if target == LOCAL else {}
        names[names.index("features")] = _prepared(repo, views, target, kafka or "")
    for record in job_book(target, kafka or "").submit(names, options, fresh):
        click.echo(f"{record.name} runs as {record.ids[-1]}. `headwater jobs list` shows it.")
        if facts and record.name.startswith("features-"):
            _remember(record, facts)


def _is_flights(repo: Path) -> bool:
    from compose.services import REPO

    return repo.resolve() == REPO


def _compared(repo: Path, views: Sequence[str], fresh: bool) -> dict[str, "Facts"]:
    """Say what the submission changes, and what there is to remember of it once the job is taken.

    Raises
    ------
    PlatformError
        Where the job would go on from a checkpoint that its views would misread.
    """
    from compose.planning import brief, planned

    home, running = running_platform()
    found, facts = planned(home, running, repo, views)
    click.echo(brief(found))
    book = job_book(LOCAL)
    record = next((each for each in book.records() if each.name == found.job), None)
    if found.fresh and not fresh and not found.running and record and book.checkpoint(record):
        raise PlatformError(
            f"{found.job} cannot go on from its checkpoint: {'; '.join(found.fresh)}. `headwater features plan --repo "
            f"{repo}` shows why; with --fresh it starts from nothing and writes all rows again."
        )
    return facts


def _remember(job: "JobRecord", facts: Mapping[str, "Facts"]) -> None:
    from compose.plan import record

    record(running_platform()[0], job.name, job.ids[-1], facts)


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
    for field, why in project.unarchived().items():
        click.echo(f"Left out, since neither Flink SQL nor ClickHouse has its type: {field}: {why}.", err=True)
    return f"features-{project.name}"
