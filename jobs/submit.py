"""``python -m jobs.submit JOB``: build one of the Flink jobs and send it to a cluster; prints ``{"job", "id"}``.

A process of its own: PyFlink starts a Java gateway that lives as long as its process. ``headwater submit`` calls it
with the addresses of the platform; by hand, give them as options or ``HEADWATER_*`` variables.
"""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import click
from pyflink.table import StatementSet

from features.compiler.repo import Repo, RepoError, load_repo
from features.compiler.service import model_inputs
from features.compiler.topics import UnsupportedViewError
from jobs.cluster import Cluster, send, stream_environment
from jobs.tables import Broker

__all__ = ["main"]

# Event time that one topic may be ahead of another: enough to keep batches full at replay speed, little enough that
# joins hold days and not months.
ALIGNMENT = "5 d"
REPO = Path(__file__).parents[1] / "features"


@click.command()
@click.argument("job", type=click.Choice(["features", "scoring", "drift"]))
@click.option("--kafka", envvar="HEADWATER_KAFKA", required=True, help="Kafka's host:port.")
@click.option("--flink", envvar="HEADWATER_FLINK", required=True, help="REST address of the Flink cluster.")
@click.option("--home", envvar="HEADWATER_HOME", type=Path, required=True, help="Where models and stores are.")
@click.option("--repo", type=Path, default=REPO, help="Feast repo.")
@click.option("--view", "views", multiple=True, help="Only these stream feature views (features).")
@click.option("--service", default="delay", help="Feature service of the model (scoring, drift).")
@click.option("--mode", type=click.Choice(["as-of", "latest"]), default="as-of", help="Where scoring reads features.")
@click.option("--jar", "jars", multiple=True, type=Path, help="Archives that go with the job.")
@click.option("--from-checkpoint", default="", help="Checkpoint or savepoint to start from.")
def main(
    job: str,
    kafka: str,
    flink: str,
    home: Path,
    repo: Path,
    views: Sequence[str],
    service: str,
    mode: str,
    jars: Sequence[Path],
    from_checkpoint: str,
) -> None:
    """Send JOB to the cluster."""
    cluster = Cluster(flink, tuple(str(jar.resolve()) for jar in jars), savepoint=from_checkpoint)
    broker = Broker(kafka, job, align="" if job == "drift" else ALIGNMENT)
    try:
        definitions = load_repo(repo)
        statements = _build(job, cluster, broker, definitions, views, service, mode, home)
    except (RepoError, UnsupportedViewError) as exc:
        raise click.ClickException(str(exc)) from exc
    print(json.dumps({"job": job, "id": send(statements)}), flush=True)  # noqa: T201
    # The Java gateway keeps threads; nothing is left to do.
    sys.stdout.flush()
    os._exit(0)


def _build(
    job: str,
    cluster: Cluster,
    broker: Broker,
    repo: Repo,
    views: Sequence[str],
    service: str,
    mode: str,
    home: Path,
) -> StatementSet:
    """The job's statements. Each module is imported when it is the one: the model runtime takes seconds to load."""
    environment = stream_environment(cluster, f"headwater-{job}")
    if job == "features":
        from jobs import features

        chosen = [repo.view(name) for name in views] or list(repo.views.values())
        return features.build(environment, broker, chosen)
    inputs = model_inputs(repo, service)
    if job == "scoring":
        from jobs import scoring

        return scoring.build(environment, broker, repo, inputs)
    from jobs import drift

    return drift.build(environment, broker, repo, inputs, home)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
