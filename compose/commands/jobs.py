"""``headwater jobs``."""

import json
from datetime import UTC, datetime
from typing import Any

import click

from compose.commands.target import LOCAL, job_book

__all__ = ["command"]


@click.group()
def command() -> None:
    """See and stop Flink jobs."""


_target = click.option("--target", default=LOCAL, show_default=True, help="`local`, or a cluster's REST address.")


@command.command("list")
@_target
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, for programs.")
def list_jobs(target: str, as_json: bool) -> None:
    """List the jobs of the cluster: those submitted from here by name, and whatever else runs there."""
    jobs = [_row(*each) for each in job_book(target).listing()]
    if as_json:
        click.echo(json.dumps(jobs, indent=2))
        return
    if not jobs:
        click.echo("No jobs. `headwater submit features scoring drift` runs those of the flights.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("job", "state", "since", "id"):
        table.add_column(heading, overflow="fold")
    for each in jobs:
        colour = "green" if each["state"] == "RUNNING" else "yellow"
        table.add_row(each["name"], f"[{colour}]{each['state'].lower()}[/]", each["since"] or "", each["id"])
    Console().print(table)


def _row(name: str, job: dict[str, Any]) -> dict[str, Any]:
    began = job.get("start-time", 0)
    since = datetime.fromtimestamp(began / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if began else None
    return {"name": name, "state": job["state"], "since": since, "id": job["jid"]}


@command.command()
@_target
@click.argument("names", nargs=-1, required=True, metavar="JOB...")
def cancel(target: str, names: tuple[str, ...]) -> None:
    """Stop jobs by name. Their last checkpoints stay: submitted again, they go on from there."""
    book = job_book(target)
    for name in names:
        book.cancel(name)
        job = "features --repo DIR" if name.startswith("features-") else name
        click.echo(f"Cancelled {name}. `headwater submit {job}` goes on from its last checkpoint.")
