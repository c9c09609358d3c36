"""``python -m jobs.submit JOB...``: build Flink jobs and send them to a cluster; prints ``{"job", "id"}`` for each.

A process of its own: PyFlink starts a Java gateway that lives as long as its process. ``headwater submit`` calls it
with the addresses of the platform; by hand, give them as options or ``HEADWATER_*`` variables.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from features.compiler.repo import Repo, RepoError, load_repo
from features.compiler.service import model_inputs
from features.compiler.topics import UnsupportedViewError
from jobs.cluster import Cluster, send, send_by_table, stream_environment
from jobs.tables import Broker
from monitors.segments import SegmentError
from monitors.sequential import SpecError
from monitors.settings import MonitorSettings
from monitors.shift import AgainstError

__all__ = ["Plan", "main", "submit"]

# Event time that one topic may be ahead of another: enough to keep batches full at replay speed, little enough that
# joins hold days and not months.
ALIGNMENT = "5 d"
# On the local platform heartbeats come sooner, see jobs.quiet. A job that starts on a busy machine must not take a
# partition for idle that it has not come to read: what it then finds there would be late.
IDLE = "60 s"
REPO = Path(__file__).parents[1] / "features"


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@click.option("--kafka", envvar="HEADWATER_KAFKA", required=True, help="Kafka's host:port.")
@click.option("--flink", envvar="HEADWATER_FLINK", required=True, help="REST address of the Flink cluster.")
@click.option("--home", envvar="HEADWATER_HOME", type=Path, required=True, help="Where models and stores are.")
@click.option("--repo", type=Path, default=REPO, help="Feast repo.")
@click.option("--view", "views", multiple=True, help="Only these stream feature views (features).")
@click.option("--generation", "generations", multiple=True, metavar="VIEW=N", help="Reading of its topic (features).")
@click.option("--letters", multiple=True, metavar="SOURCE=N", help="Reading that sets aside what cannot be decoded.")
@click.option("--service", default="delay", help="Feature service of the model (scoring, drift).")
@click.option("--mode", type=click.Choice(["as-of", "latest"]), default="as-of", help="Where scoring reads features.")
@click.option("--false-retrains", type=float, default=MonitorSettings.false_retrains_a_month, help="A month (drift).")
@click.option("--sequential", multiple=True, metavar="SERIES:DETECTOR", help="Detectors that listen (drift).")
@click.option("--against", multiple=True, metavar="REFERENCE", help="What weeks are compared with (drift).")
@click.option("--jar", "jars", multiple=True, type=Path, help="Archives that go with the job.")
@click.option("--checkpoint-ms", type=click.IntRange(100), default=Cluster.checkpoint_ms, help="Between checkpoints.")
@click.option("--bounded", is_flag=True, help="Read what the topics hold now, and end.")
@click.option("--from-checkpoint", "starts", multiple=True, metavar="JOB=PATH", help="Checkpoint a job starts from.")
def main(
    jobs: Sequence[str],
    kafka: str,
    flink: str,
    home: Path,
    repo: Path,
    views: Sequence[str],
    generations: Sequence[str],
    letters: Sequence[str],
    service: str,
    mode: str,
    false_retrains: float,
    sequential: Sequence[str],
    against: Sequence[str],
    jars: Sequence[Path],
    checkpoint_ms: int,
    bounded: bool,
    starts: Sequence[str],
) -> None:
    """Send JOBS to the cluster: features, scoring, drift, or baseline; of a project of its own, features-PROJECT."""
    checkpoints = dict(each.split("=", 1) for each in starts)
    archives = tuple(str(jar.resolve()) for jar in jars)
    plan = Plan(
        kafka,
        flink,
        home,
        archives,
        tuple(views),
        _numbers(generations),
        _numbers(letters),
        service,
        mode,
        false_retrains,
        tuple(sequential),
        tuple(against),
        checkpoint_ms,
        bounded,
    )
    try:
        definitions = load_repo(repo)
        for job in jobs:
            found = submit(job, plan, definitions, checkpoints.get(job, ""))
            print(json.dumps({"job": job, "id": found}), flush=True)  # noqa: T201
    except (AgainstError, RepoError, SegmentError, SpecError, UnsupportedViewError) as exc:
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
    generations: Mapping[str, int]
    letters: Mapping[str, int]
    service: str
    mode: str
    false_retrains: float
    sequential: tuple[str, ...]
    against: tuple[str, ...]
    checkpoint_ms: int
    bounded: bool

    @property
    def settings(self) -> MonitorSettings:
        """Of the drift job."""
        return MonitorSettings.of_texts(self.false_retrains, self.sequential, self.against)


def submit(job: str, plan: Plan, repo: Repo, checkpoint: str) -> str:
    """Send a job. Its module is imported when it is the one: the model runtime takes seconds to load.

    Returns
    -------
    str
        The job's id on the cluster.

    Raises
    ------
    RepoError, SegmentError, UnsupportedViewError
        Where the repo cannot give what the job needs.
    SpecError, AgainstError
        For a series or detector that does not exist, or no reference.
    click.BadParameter
        For a job that does not exist.
    """
    project = job.startswith("features-")
    # All that has state in it has a name of ours: what it does not claim is of views that were changed or removed.
    cluster = Cluster(plan.flink, plan.jars, plan.checkpoint_ms, savepoint=checkpoint, drops=project)
    environment = stream_environment(cluster, f"headwater-{job}")
    ends_here = job in ("drift", "baseline")
    # The connector fails where it is to pause a bounded partition that it has read to its end.
    align = "" if ends_here or plan.bounded else ALIGNMENT
    # The partitions of somebody else's topic need not all be in use, and nobody sends heartbeats to those that are not.
    idle = IDLE if project else ""
    broker = Broker(plan.kafka, job, align=align, carries=not ends_here, idle=idle, bounded=plan.bounded)
    if job == "features" or project:
        from jobs import features

        views = [repo.view(name) for name in plan.views] or [*repo.views.values()]
        statements = features.build(environment, broker, views, features.Generations(plan.generations, plan.letters))
        return send_by_table(environment, statements, f"headwater-{job}")
    if job == "baseline":
        from jobs import baseline

        return send(baseline.build(environment, broker, repo))
    if job not in ("scoring", "drift"):
        raise click.BadParameter(f"expected features, features-PROJECT, scoring, drift or baseline, got {job!r}")
    inputs = model_inputs(repo, plan.service)
    if job == "scoring":
        from jobs import scoring

        return send(scoring.build(environment, broker, repo, inputs, plan.mode, plan.home))
    from jobs import drift

    return send(drift.build(environment, broker, repo, inputs, plan.home, plan.settings))


def _numbers(given: Sequence[str]) -> dict[str, int]:
    pairs = (each.rsplit("=", 1) for each in given)
    return {name: int(number) for name, number in pairs}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
