"""``headwater bench``."""

import json
import shutil
from functools import partial

import click
from rich.console import Console
from rich.status import Status

from compose.local.home import Home

__all__ = ["command"]


@click.command()
@click.option(
    "--flights", type=click.IntRange(min=1000), default=100_000, show_default=True, help="Traffic to measure."
)
@click.option(
    "--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="How often everything is done."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object, last.")
def command(flights: int, repeat: int, as_json: bool) -> None:
    """Measure each stage and the whole chain, beside this machine's own limits.

    The limits are what a bare Kafka client consumes and what bare Flink SQL reads and decodes, measured in the same
    run; every stage is given as a share of one of them. Each repetition starts with an empty platform and with Java
    that has compiled nothing yet. A few minutes a repetition.
    """
    from compose.bench.figures import Figures
    from compose.bench.measure import MEANING, repetition

    console = Console(stderr=as_json)
    home = Home(Home.find().path("bench"))
    runs, events = [], 0
    try:
        with console.status("Measuring") as status:
            for number in range(repeat):
                shutil.rmtree(home.root, ignore_errors=True)
                said = f"repetition {number + 1} of {repeat}"
                rates, events = repetition(home, flights, partial(_tell, status, said))
                runs.append(rates)
                console.print(f"{said}: whole chain {rates['whole chain']:,.0f} events/s", highlight=False)
    finally:
        shutil.rmtree(home.root, ignore_errors=True)
    found = Figures.of(runs, MEANING, events)
    console.print(found.table())
    if as_json:
        click.echo(json.dumps(found.as_dict()))


def _tell(status: Status, said: str, stage: str) -> None:
    status.update(f"{said}: {stage}")
