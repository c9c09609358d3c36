"""``headwater demo``."""

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from compose.commands.signals import stop_on_signals
from compose.demo.position import Position
from compose.local.home import Home

if TYPE_CHECKING:
    from compose.demo.run import Demo

__all__ = ["command"]

LINE_SECONDS = 10.0


@click.command()
@click.option("--flights", type=click.IntRange(min=1000), help="Only so many flights, the earliest (of 336,776).")
@click.option("--rate", type=float, help="Events per second at most; default: as fast as it goes.")
@click.option(
    "--fault",
    type=click.Choice(["none", "units", "outage"]),
    default="none",
    help="Let a feed fail in August: delays sent in seconds, or no departures at all.",
)
@click.option("--mode", type=click.Choice(["as-of", "latest"]), default="as-of", help="Where scoring reads features.")
@click.option("--verify", is_flag=True, help="Compute every logged feature value again at the end, and compare.")
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object, last.")
def command(
    flights: int | None, rate: float | None, fault: str, mode: str, verify: bool, keep: bool, as_json: bool
) -> None:
    """Replay a year of flights through the whole loop.

    Starts Kafka, Flink and ClickHouse on this machine, submits the three jobs and replays every departure from New
    York's airports in 2013: features are computed in the stream, each flight is scored an hour before it leaves,
    labels arrive hours later, drift raises incidents, and incidents retrain the model that scores.

    Ends with what became of every event, the incidents, and how the live model did beside one frozen after January.
    While it runs, the page it names shows all of this live.
    """
    # Here, since these take seconds to import and `--help` should not.
    from compose.demo.conclusion import conclude, failure
    from compose.demo.report import render
    from compose.demo.rival import Rival
    from compose.demo.run import Demo, Options, demo_home, prepared

    console = Console(stderr=as_json)
    stop_on_signals()
    home = demo_home(Home.find())
    began = time.monotonic()
    with prepared(home, keep) as platform:
        try:
            demo = Demo(platform, Options(flights, rate, fault, mode))
            _begin(demo, console, began)
            replaying = time.monotonic()
            demo.replay()
            rival = Rival(platform)
            with _progress(console) as progress:
                tell = _Teller(console, progress)

                def told(position: Position) -> None:
                    tell(position)
                    rival.watch(position.event_time_ms)

                demo.wait(told)
            seconds = time.monotonic() - replaying
            with console.status("Counting") as status:
                summary = conclude(
                    platform,
                    demo.sent,
                    rival,
                    mode=mode if verify else None,
                    seconds=time.monotonic() - began,
                    replay_seconds=seconds,
                    progress=lambda text: status.update(text[:1].upper() + text[1:]),
                )
            render(summary, console)
            if as_json:
                click.echo(json.dumps(summary.as_dict()))
            if keep:
                console.print(f"Everything is left running. Page: {platform.endpoints.page} Ctrl-C stops it.")
                sys.stdout.flush()
                while platform.supervisor.alive:
                    time.sleep(0.5)
        except KeyboardInterrupt:
            console.print("Stopping.")
            raise click.exceptions.Exit(130) from None
        finally:
            platform.stop()
    if words := failure(summary):
        raise click.ClickException(f"{words}; run again with --keep to look into it.")


def _begin(demo: "Demo", console: Console, began: float) -> None:
    """Start the platform and send the jobs."""
    platform = demo.platform
    with console.status("Starting the platform") as status:
        platform.start()
        platform.wait(on_tick=lambda facts: status.update(_starting(facts)))
        console.print(f"Platform up after {time.monotonic() - began:.0f} s. Page: {platform.endpoints.page}")
        status.update("Submitting the jobs: features, scoring, drift")
        demo.submit()
        console.print(f"Jobs running after {time.monotonic() - began:.0f} s. Flink: {platform.endpoints.flink}")


def _starting(facts: dict[str, Any]) -> str:
    waiting = ", ".join(name for name, each in facts.items() if each["state"] != "ready")
    return f"Starting {waiting}" if waiting else "Started"


def _progress(console: Console) -> Progress:
    """A bar over the year where there is a terminal; a line now and then where there is none."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[date]}"),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


class _Teller:
    """Shows positions of a replay."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("replay", total=None, date="waiting for traffic", note="")
        self._began = self._told = time.monotonic()

    def __call__(self, position: Position) -> None:
        date = datetime.fromtimestamp(position.event_time_ms / 1000, UTC).strftime("%d %b %Y")
        known = position.event_time_ms > 0
        rate = position.sent / max(time.monotonic() - self._began, 1e-9)
        note = (
            f"{position.sent:,} events, {rate:,.0f}/s, {position.incidents} incidents, "
            f"{position.promotions} promotions, {position.state}"
        )
        self._progress.update(
            self._task,
            completed=position.sent,
            total=position.events or None,
            date=date if known else "waiting for traffic",
            note=note,
        )
        if not self._console.is_terminal and time.monotonic() - self._told > LINE_SECONDS:
            self._told = time.monotonic()
            self._console.print(
                f"{self._told - self._began:5.0f} s  {date if known else '-':11}  {note}", soft_wrap=True
            )
