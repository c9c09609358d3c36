"""``python -m jobs.submit JOB...``: build Flink jobs and send them to a cluster; prints ``{"job", "id"}`` for each.

A process of its own: PyFlink starts a Java gateway that lives as long as its process. ``headwater submit`` calls it
with the addresses of the platform; by hand, give them as options or ``HEADWATER_*`` variables.
"""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from pyflink.table import StatementSet

from features.compiler.repo import Repo, RepoError, load_repo
from features.compiler.service import model_inputs
from features.compiler.topics import UnsupportedViewError
from jobs.cluster import Cluster, send, stream_environment
from jobs.tables import Broker

__all__ = ["Plan", "build", "main"]

# Event time that one topic may be ahead of another: enough to keep batches full at replay speed, little enough that
# joins hold days and not months.
ALIGNMENT = "5 d"
IDLE = "5 s"
REPO = Path(__file__).parents[1] / "features"


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@click.option("--kafka", envvar="HEADWATER_KAFKA", required=True, help="Kafka's host:port.")
@click.option("--flink", envvar="HEADWATER_FLINK", required=True, help="REST address of the Flink cluster.")
@click.option("--home", envvar="HEADWATER_HOME", type=Path, required=True, help="Where models and stores are.")
@click.option("--repo", type=Path, default=REPO, help="Feast repo.")
@click.option("--view", "views", multiple=True, help="Only these stream feature views (features).")
@click.option("--service", default="delay", help="Feature service of the model (scoring, drift).")
@click.option("--mode", type=click.Choice(["as-of", "latest"]), default="as-of", help="Where scoring reads features.")
@click.option("--jar", "jars", multiple=True, type=Path, help="Archives that go with the job.")
@click.option("--bounded", is_flag=True, help="Read what the topics hold now, and end.")
@click.option("--from-checkpoint", "starts", multiple=True, metavar="JOB=PATH", help="Checkpoint a job starts from.")
def main(
    jobs: Sequence[str],
    kafka: str,
    flink: str,
    home: Path,
    repo: Path,
    views: Sequence[str],
    service: str,
    mode: str,
    jars: Sequence[Path],
    bounded: bool,
    starts: Sequence[str],
) -> None:
    """Send JOBS to the cluster: features, scoring, drift, or baseline; of a project of its own, features-PROJECT."""
    checkpoints = dict(each.split("=", 1) for each in starts)
    plan = Plan(kafka, flink, home, tuple(str(jar.resolve()) for jar in jars), tuple(views), service, mode, bounded)
    try:
        definitions = load_repo(repo)
        for job in jobs:
            statements = build(job, plan, definitions, checkpoints.get(job, ""))
            print(json.dumps({"job": job, "id": send(statements)}), flush=True)  # noqa: T201
    except (RepoError, UnsupportedViewError) as exc:
        raise click.ClickException(str(exc)) from exc
    # The Java gateway keeps threads; nothing is left to do.
    os._exit(0)


@dataclass(frozen=True)
class Plan:
    """What the jobs of one submission share; see the options of :func:`main`."""

    kafka: str
    flink: str
    home: Path
    jars: tuple[str, ...]
    views: tuple[str, ...]
    service: str
    mode: str
    bounded: bool


def build(job: str, plan: Plan, repo: Repo, checkpoint: str) -> StatementSet:
    """The statements of a job. Its module is imported when it is the one: the model runtime takes seconds to load.

    Raises
    ------
    RepoError, UnsupportedViewError
        Where the repo cannot give what the job needs.
    click.BadParameter
        For a job that does not exist.
    """
    cluster = Cluster(plan.flink, plan.jars, savepoint=checkpoint)
    environment = stream_environment(cluster, f"headwater-{job}")
    ends_here = job in ("drift", "baseline")
    # The connector fails where it is to pause a bounded partition that it has read to its end.
    align = "" if ends_here or plan.bounded else ALIGNMENT
    # The partitions of somebody else's topic need not all be in use, and nobody sends heartbeats to those that are not.
    idle = IDLE if job.startswith("features-") else ""
    broker = Broker(plan.kafka, job, align=align, carries=not ends_here, idle=idle, bounded=plan.bounded)
    if job == "features" or job.startswith("features-"):
        from jobs import features

        return features.build(environment, broker, [repo.view(name) for name in plan.views] or [*repo.views.values()])
    if job == "baseline":
        from jobs import baseline

        return baseline.build(environment, broker, repo)
    if job not in ("scoring", "drift"):
        raise click.BadParameter(f"expected features, features-PROJECT, scoring, drift or baseline, got {job!r}")
    inputs = model_inputs(repo, plan.service)
    if job == "scoring":
        from jobs import scoring

        return scoring.build(environment, broker, repo, inputs, plan.mode, plan.home)
    from jobs import drift

    return drift.build(environment, broker, repo, inputs, plan.home)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
