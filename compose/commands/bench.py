"""``headwater bench``."""

import json
import shutil
from collections.abc import Iterable
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table

from compose.commands.target import running_platform
from compose.local.home import Home

__all__ = ["command"]

_repeat = click.option(
    "--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="How often everything is measured."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object, last.")


@click.group(invoke_without_command=True)
@click.option(
    "--flights", type=click.IntRange(min=1000), default=100_000, show_default=True, help="Traffic to measure."
)
@_repeat
@_json
@click.pass_context
def command(context: click.Context, flights: int, repeat: int, as_json: bool) -> None:
    """Measure each stage and the whole chain, beside this machine's own limits.

    The limits are what a bare Kafka client consumes and what bare Flink SQL reads and decodes, measured in the same
    run; every stage is given as a share of one of them. Each repetition starts with an empty platform and with Java
    that has compiled nothing yet. A few minutes a repetition.
    """
    if context.invoked_subcommand is None:
        _chain(flights, repeat, as_json)


@command.command()
@click.option("--rows", type=click.IntRange(min=1000), default=100_000, show_default=True, help="Rows to write.")
@click.option("--reads", type=click.IntRange(min=100), default=500, show_default=True, help="Single reads a store.")
@_repeat
@_json
def online(rows: int, reads: int, repeat: int, as_json: bool) -> None:
    """Measure online stores: Feast's own and ours, written and read.

    Stores take turns within each repetition, start it empty, and are read back and compared with what was written.
    Redis is measured where a `redis-server` is on the path or the tests' dependencies are installed.
    """
    from compose.bench.online import Sizes, measure, redis_program, table

    console = Console(stderr=as_json)
    folder = Home.find().path("bench-online")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with console.status("Measuring") as status:
            if (redis := redis_program()) is None:
                console.print("No redis-server on this machine: Redis is left out.")
            found = measure(folder, redis, Sizes(rows, reads, repeat), status.update)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(console, table(found), found, as_json)


@command.command()
@click.option(
    "--events", type=click.IntRange(min=2000), default=300_000, show_default=True, help="Payments on each topic."
)
@_repeat
@_json
def features(events: int, repeat: int, as_json: bool) -> None:
    """Measure five windows: compiled, written by hand in Flink SQL, and in Quix Streams.

    All read the same topic, take turns within each repetition, and are compared in what they find before anything is
    timed. Then keys that are skewed, the size of the state, and how long an event takes to be a readable value. Quix
    Streams runs by `uv` in an environment of its own.
    """
    from compose.bench.apart import uv_program
    from compose.bench.features import Sizes, measure
    from compose.bench.report import tables
    from compose.local.platform import Platform, local_services

    console = Console(stderr=as_json)
    home = Home(Home.find().path("bench-features"))
    shutil.rmtree(home.root, ignore_errors=True)
    try:
        with console.status("Starting") as status, Platform(home, services=local_services).running() as platform:
            if (uv := uv_program()) is None:
                console.print("No uv on the path: Quix Streams is left out.")
            found = measure(platform, uv, Sizes(events, repeat), status.update)
    finally:
        shutil.rmtree(home.root, ignore_errors=True)
    _show(console, tables(found), found, as_json)


@command.command()
@click.option("--rows", type=click.IntRange(min=1000), default=300_000, show_default=True, help="Rows of each file.")
@click.option(
    "--large",
    type=click.IntRange(min=1000),
    default=3_000_000,
    show_default=True,
    help="Rows of each file that we compare alone.",
)
@click.option("--columns", type=click.IntRange(min=1), default=100, show_default=True, help="Columns of each file.")
@_repeat
@click.option("--only-large", is_flag=True, help="Only the larger files, and those beside Evidently too.")
@_json
def drift(rows: int, large: int, columns: int, repeat: int, only_large: bool, as_json: bool) -> None:
    """Measure drift at speed, beside river and Evidently.

    Columns of a stream on one core, beside one detector of river for each; a day of minutes of a thousand features in
    twenty segments; and two files, beside Evidently on the same, which takes minutes for each; larger ones we compare
    alone, since it would take more memory than most machines have.

    With --only-large Evidently is given as many columns of those as memory holds, and what it takes a column is told
    beside what we do: half an hour a repetition.
    """
    from compose.bench import drift, files

    console = Console(stderr=as_json)
    folder = Home.find().path("bench-drift")
    try:
        with console.status("Measuring") as status:
            if only_large:
                found = files.measure(folder, large, columns, repeat, status.update)
            else:
                sizes = drift.Sizes(file_rows=rows, large_rows=large, file_columns=columns, repeat=repeat)
                found = drift.measure(folder, sizes, status.update)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(console, (files if only_large else drift).tables(found), found, as_json)


@command.command()
@_repeat
@_json
def estimates(repeat: int, as_json: bool) -> None:
    """Measure how well the AUC is told before labels, beside NannyML.

    On the flights of a platform that runs, as `headwater demo --keep` leaves it. The first trained model scores all of
    them. Its first four weeks, with their labels, are the reference of both; of every week after, both are given the
    scores alone, and are compared with what the labels say. NannyML runs by `uv` in an environment of its own.
    """
    from compose.bench.apart import uv_program
    from compose.bench.estimates import measure, tables

    console = Console(stderr=as_json)
    _, platform = running_platform()
    folder = Home.find().path("bench-estimates")
    try:
        with console.status("Scoring") as status:
            if (uv := uv_program()) is None:
                console.print("No uv on the path: NannyML is left out.")
            found = measure(platform.endpoints, folder, uv, repeat, status.update)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(console, tables(found), found, as_json)


@command.command()
@click.option(
    "--streams", type=click.IntRange(min=3), default=300, show_default=True, help="Streams that never change."
)
@click.option(
    "--planted", type=click.IntRange(min=2), default=40, show_default=True, help="Streams with each drift, twice."
)
@_json
def alarms(streams: int, planted: int, as_json: bool) -> None:
    """Measure how often monitors cry wolf, and what they find at the same rate as others.

    Streams that never change are watched for a year, beside the budget of false alarms that is stated. Then drifts are
    planted, and ours, Evidently, NannyML, river and Alibi Detect are each allowed the same number of false alarms, with
    one threshold for all streams: of streams whose days differ alike, and of streams of three kinds of days, as a
    fleet has them. NannyML and Alibi Detect run by `uv` in environments of their own. Tens of minutes on two cores.
    """
    from compose.bench.alarms import Sizes, measure, tables
    from compose.bench.apart import uv_program

    console = Console(stderr=as_json)
    folder = Home.find().path("bench-alarms")
    try:
        with console.status("Watching") as status:
            if (uv := uv_program()) is None:
                console.print("No uv on the path: NannyML and Alibi Detect are left out.")
            found = measure(folder, uv, Sizes(streams=streams, planted=planted), status.update)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(console, tables(found), found, as_json)


def _show(console: Console, tables: Iterable[Table], found: dict[str, Any], as_json: bool) -> None:
    for each in tables:
        console.print(each)
    if as_json:
        click.echo(json.dumps(found, default=lambda each: each.as_dict()))  # a Spread


def _chain(flights: int, repeat: int, as_json: bool) -> None:
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
