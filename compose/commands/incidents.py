"""``headwater incidents``."""

import json
import sys
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from compose.commands.target import running_platform
from compose.local.home import PlatformError

__all__ = ["command"]

CONSUMERS = ("headwater", "naive", "mirror-only", "no-epoch")
_kafka = click.option("--kafka", envvar="HEADWATER_KAFKA", help="host:port; default: the local platform's.")


@click.group()
def command() -> None:
    """See that each drift incident becomes one training submission, and why."""


@command.command("list")
@_kafka
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")
def list_incidents(kafka: str | None, as_json: bool) -> None:
    """List the incidents: since when, which monitor, how grave, and what came of each."""
    from compose.control import fold

    found = fold(_records(kafka))
    if as_json:
        for each in found:
            click.echo(json.dumps(asdict(each)))
        return
    table = Table("since", "id", "model", "monitor", "severity", "cause", "what came of it", box=None)
    for each in found:
        since = _minute(datetime.fromtimestamp(each.opened_ms / 1000, UTC))
        table.add_row(
            since, each.incident_id[:12], each.model, each.monitor, each.severity, each.cause, _came(asdict(each))
        )
    Console().print(table)


@command.command()
@click.argument("incident_id", metavar="ID")
@_kafka
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")
def show(incident_id: str, kafka: str | None, as_json: bool) -> None:
    """Tell the whole story of an incident: alerts, retraining, submission, decision, promotion.

    ID may be the beginning of an id, as `list` prints it.
    """
    from compose.control import story

    records = _records(kafka)
    for each in story(records, _whole(records, incident_id)):
        click.echo(json.dumps(each, default=str) if as_json else _told(each))


@command.command()
@click.argument("incident_id", metavar="ID")
@click.option("--policy", type=click.Path(exists=True, dir_okay=False), help="YAML; default: the one of the flights.")
@_kafka
def submit(incident_id: str, policy: str | None, kafka: str | None) -> None:
    """Have an incident retrain that the policy holds back, be it for the cool-down or the budget."""
    from compose.people import asked_for
    from monitors.policy import DEFAULT_POLICY, load_policy

    records = _records(kafka)
    _ask(kafka, asked_for(records, _whole(records, incident_id), load_policy(policy or DEFAULT_POLICY)))


@command.command()
@click.argument("incident_id", metavar="ID")
@_kafka
def requeue(incident_id: str, kafka: str | None) -> None:
    """Have an incident tried again whose run failed or was cancelled: as an incident of its own, submitted once."""
    from compose.people import again

    records = _records(kafka)
    _ask(kafka, again(records, _whole(records, incident_id)))


@command.command()
@click.argument("incident_id", metavar="ID")
@click.option(
    "--backend",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="HEADWATER_BACKEND",
    help="The file that `headwater up --backend` was given; default: runs are processes of this machine.",
)
@_kafka
def cancel(incident_id: str, file: Path | None, kafka: str | None) -> None:
    """End the training run of an incident; it is recorded as cancelled, and nothing is promoted."""
    from jobs.retraining.backends.base import Backend, BackendError
    from jobs.retraining.backends.chosen import load_backend
    from jobs.retraining.backends.local import LocalBackend

    home, running = running_platform()
    whole = _whole(_records(kafka or running.endpoints.kafka), incident_id)
    try:
        backend: Backend = load_backend(file, lambda _: None) if file else LocalBackend(home.path("runs"))
        if (run := backend.find(whole)) is None or run.state not in ("running", "lost"):
            state = f"it has {run.state}" if run is not None else "there is none"
            raise PlatformError(f"Expected a run of {whole} that is under way, but {state}.")
        backend.cancel(run.submission_id)
    except BackendError as exc:
        raise PlatformError(str(exc)) from exc
    click.echo(f"The run of {whole} is cancelled; `headwater incidents requeue {whole[:12]}` has it tried again.")


def _ask(kafka: str | None, event: dict[str, Any]) -> None:
    from jobs.kafka import Publish, Writer

    writer = Writer(kafka or running_platform()[1].endpoints.kafka, f"headwater-people-{uuid.uuid4().hex}")
    writer.publish([Publish("retraining.events", event)])
    click.echo(f"Asked for {event['incident_id']}; `headwater incidents show {event['incident_id'][:12]}` follows it.")


def _whole(records: dict[str, list[dict[str, Any]]], beginning: str) -> str:
    """The one incident's id that begins so."""
    from compose.control import CONTROL_TOPICS

    ids = {each["incident_id"] for name in CONTROL_TOPICS for each in records[name] if each["incident_id"]}
    match = sorted(each for each in ids if each.startswith(beginning))
    if len(match) != 1:
        which = f"{len(match)} begin so: {', '.join(match)}" if match else "no incident's id begins so"
        raise PlatformError(f"Expected the beginning of one incident's id, got {beginning}: {which}.")
    return match[0]


def _records(kafka: str | None) -> dict[str, list[dict[str, Any]]]:
    from compose.control import read_control

    return read_control(kafka or running_platform()[1].endpoints.kafka)


def _came(incident: dict[str, Any]) -> str:
    decision = incident["decision"]
    if decision is not None:
        version = f" {decision['challenger_version']}" if decision["decision"] == "promoted" else ""
        return f"{decision['decision']}{version}"
    return str(incident["submission"] or ("resolved" if incident["resolved"] else "open"))


def _told(each: dict[str, Any]) -> str:
    topic = each["topic"]
    if topic == "drift.alerts":
        what = f"{each['status']}, {each['severity']}, {each['cause']}: {each['summary']}"
    elif topic == "retraining.events":
        what = f"{each['reason']}; a promoted model answers from {_minute(each['effective_from'])}"
    elif topic == "submissions":
        more = f": {each['detail']}" if each["detail"] else ""
        what = f"{each['status']} at {each['backend']} in epoch {each['epoch']}{more}"
    elif topic == "models.decisions":
        what = f"{each['decision']}: {each['reason']}"
    else:
        what = f"{each['action']} version {each['version']}"
    return f"{_minute(each['at'])}  {topic:<18} {what}"


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M")


@command.command()
@click.option("--runs", type=click.IntRange(min=1), default=10_000, show_default=True, help="Histories to run.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first; others follow.")
@click.option(
    "--consumer",
    type=click.Choice(CONSUMERS),
    default=CONSUMERS[0],
    show_default=True,
    help="Who takes the events: ours, or what others do.",
)
@click.option("--trace", is_flag=True, help="Run one history and print what happens in it.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as one JSON object, last.")
def simulate(runs: int, seed: int, consumer: str, trace: bool, as_json: bool) -> None:
    """Put regions through histories of failure, and count the training runs of each incident.

    A history is made from its seed: regions and witnesses, incidents that some or all of them see, a training platform
    that knows an incident's id or does not, and what goes wrong. Records are lost, late, doubled and out of order,
    mirrors are rewound, links are cut and heal, processes are killed between any two steps, stopped, or doubled,
    regions die and come back, owners change. The time is virtual; the code that decides is the one that runs for real.

    \b
    headwater    ours: owners by vote and lease, claims that a majority holds
    naive        one consumer that commits its offset after it has submitted
    mirror-only  one in each region, and MirrorMaker's translated offsets
    no-epoch     our claims, and nobody who owns

    Exits with status 1 where ours loses or doubles a submission; `--seed N --trace` shows such a history again.
    """
    from jobs.retraining.simulation import runs as simulation

    console = Console(stderr=as_json)
    if trace:
        outcome = simulation.trace(consumer, seed, lambda line: console.print(line, highlight=False, markup=False))
        summary = simulation.Summary()
        summary.add(outcome)
    else:
        columns = (TextColumn("Histories"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=runs)
            summary = simulation.simulate(consumer, seed, runs, lambda done: progress.advance(task, done))
    for line in _lines(summary, consumer):
        console.print(line, highlight=False, markup=False)
    if as_json:
        click.echo(json.dumps(_as_dict(summary, consumer, seed)))
    sys.exit(0 if summary.is_right or consumer != simulation.OURS else 1)


def _lines(summary: Any, consumer: str) -> list[str]:
    found = [
        f"{consumer}: {summary.histories:,} histories, {summary.incidents:,} incidents: {summary.lost:,} lost, "
        f"{summary.duplicates:,} submitted twice or more."
    ]
    found += [f"{each}: in {count:,} histories." for each, count in summary.violations.items()]
    if summary.seeds:
        again = f"headwater incidents simulate --consumer {consumer} --seed {summary.seeds[0]} --trace"
        found.append(f"Seeds of such histories: {', '.join(map(str, summary.seeds))}. See one: {again}")
    through = ", ".join(f"{name} {count:,}" for name, count in sorted(summary.seen.items()))
    return [*found, f"They went through: {through}."]


def _as_dict(summary: Any, consumer: str, seed: int) -> dict[str, Any]:
    return {
        "consumer": consumer,
        "seed": seed,
        "histories": summary.histories,
        "incidents": summary.incidents,
        "lost": summary.lost,
        "duplicates": summary.duplicates,
        "violations": dict(summary.violations),
        "seeds": summary.seeds,
        "coverage": dict(sorted(summary.seen.items())),
    }
