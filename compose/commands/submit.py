"""``headwater submit``."""

from collections.abc import Sequence
from pathlib import Path

import click

from compose.commands.monitoring import against_option, sequential_option
from compose.commands.target import LOCAL, job_book, running_platform
from compose.local.home import PlatformError

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
@click.option(
    "--checkpoint-ms",
    type=click.IntRange(100),
    help="Between two checkpoints, default 1000: what is written can be read after one. Fewer cost less.",
)
@click.option(
    "--false-retrains",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="A_MONTH",
    help="Alarms to expect in 30 days while nothing changes (drift), default 0.375; see `headwater drift budget`.",
)
@sequential_option
@against_option
@click.option("--fresh", is_flag=True, help="Every view from the beginning of its topic; writes all rows again.")
def command(
    jobs: tuple[str, ...],
    target: str,
    kafka: str | None,
    repo: Path | None,
    views: tuple[str, ...],
    service: str | None,
    mode: str,
    checkpoint_ms: int | None,
    false_retrains: float | None,
    sequential: tuple[str, ...],
    against: tuple[str, ...],
    fresh: bool,
) -> None:
    """Run JOBS on a Flink cluster: features, scoring, drift.

    \b
    features   every stream feature view of the Feast repo, as one job; with --repo, its
               topics are created where they are missing, and on the local platform its
               online store is kept fresh and its history archived
    scoring    a prediction for every request, by whichever model is promoted
    drift      windows and alerts from what scoring saw and what became of it

    A repo that has changed is submitted again in the same way: its job is stopped, unchanged views go on with their
    state, new and changed ones start from the beginning of their topics. `headwater features plan` tells beforehand.

    On the local platform another job that runs already is not sent again, one that was cancelled goes on from its last
    checkpoint, and one that dies with the cluster is submitted anew, as it was then, whatever has become of the repo's
    files. A cluster elsewhere gets the archives with each.

    What --sequential takes is a series and a detector, such as score:adwin:

    \b
    log_loss, surprise, error_rate   of labels that arrive; a rise is an alert
    bias, positive_rate, score       a change either way is one
    adwin            the mean, over as long as nothing has changed
    page_hinkley     the mean, by what adds up beyond 0.05: soon
    ddm, eddm        whether more hours than before are worse than usual
    hddm_a, hddm_w   the mean, by bounds that ask for much: slow
    kswin            the distribution of a week beside the two before it

    Each --against has the monitor `shift` compare every week with other days of the same traffic, at thresholds drawn
    from those days and out of the same budget; UTC days that the job has heard:

    \b
    trailing:28d             the 28 days before the week, 14 at least
    earlier:7d               the same 7 days so long ago, 7 days at least
    2013-01-01..2013-02-01   the days of a span, once it is over, 14 at least; the last does not count
    """
    if repo and _is_flights(repo):
        repo = None  # what runs without --repo
    options = ["--mode", mode, *(["--checkpoint-ms", str(checkpoint_ms)] if checkpoint_ms else [])]
    options += ["--service", service] if service else []
    options += ["--false-retrains", str(false_retrains)] if false_retrains else []
    for each in sequential:
        options += ["--sequential", each]
    for each in against:
        options += ["--against", each]
    for view in views:
        options += ["--view", view]
    if target != LOCAL and not kafka:
        raise click.UsageError("Which brokers is the job to read? Give --kafka HOST:PORT with --target URL.")
    from compose.submission import send, send_repo

    book = job_book(target, kafka or "")
    if repo is None or "features" not in jobs:
        sent = send(book, jobs, options, repo and repo.resolve(), fresh)
    else:
        from compose.planning import brief, planned

        found, facts = planned(book, repo, views)
        click.echo(brief(found))
        if found.refused:
            raise PlatformError(f"{'; '.join(found.refused)}.")
        names = [_prepared(repo, views, target, kafka or "") if each == "features" else each for each in jobs]
        sent = send_repo(book, names, options, repo.resolve(), found, facts, fresh)
        if found.job not in [each.name for each in sent]:
            click.echo(f"{found.job} runs on as it is.")
    for record in sent:
        click.echo(f"{record.name} runs as {record.ids[-1]}. `headwater jobs list` shows it.")


def _is_flights(repo: Path) -> bool:
    from compose.services import REPO

    return repo.resolve() == REPO


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
