"""``headwater alerts``."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from compose.commands.monitoring import against_option, sequential_option
from compose.commands.target import running_platform

__all__ = ["command"]

_DAY = click.DateTime(["%Y-%m-%d"])
_COLOURS = {"critical": "red", "warning": "yellow", "info": "blue"}
POLL_S = 0.5
FOREVER_MS = 4_102_444_800_000
"""The year 2100: later times are none in ClickHouse."""


@click.group()
def command() -> None:
    """See what drifts: the topic drift.alerts, which any Kafka client can read as well; and what it leads to."""


@command.command()
@click.option("--follow", "-f", is_flag=True, help="Go on printing alerts as they come, until Ctrl-C.")
@click.option("--lines", "-n", type=click.IntRange(min=0), default=20, show_default=True, help="Print so many alerts.")
@click.option("--kafka", envvar="HEADWATER_KAFKA", help="host:port; default: the local platform's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")
def tail(follow: bool, lines: int, kafka: str | None, as_json: bool) -> None:
    """Print the newest alerts: when, how grave, whose fault, which monitor, and what it found."""
    from compose.control import ControlLog

    log = ControlLog(kafka or running_platform()[1].endpoints.kafka)
    try:
        for alert in _alerts(log, lines, follow):
            click.echo(_plain(alert) if as_json else _line(alert))
    except KeyboardInterrupt:
        pass
    finally:
        log.close()


def _alerts(log: Any, lines: int, follow: bool) -> Iterator[dict[str, Any]]:
    log.refresh()
    alerts = log.records["drift.alerts"]
    seen = len(alerts)
    yield from alerts[max(0, seen - lines) : seen]
    while follow:
        time.sleep(POLL_S)
        log.refresh()
        yield from alerts[seen:]
        seen = len(alerts)


def _line(alert: dict[str, Any]) -> str:
    where = "/".join(part for part in (alert["model"], alert["monitor"], alert["segment"]) if part)
    severity = click.style(f"{alert['severity']:<8}", fg=_COLOURS.get(alert["severity"]))
    at = alert["window_end"].strftime("%Y-%m-%d %H:%M")
    return f"{at}  {alert['status']:<8} {severity} {alert['cause']:<5} {where}: {alert['summary']}"


def _plain(alert: dict[str, Any]) -> str:
    return json.dumps(alert, default=lambda each: each.isoformat() if isinstance(each, datetime) else str(each))


@command.command()
@click.option("--policy", "file", type=click.Path(dir_okay=False, path_type=Path),
              help="YAML; default: the one of the flights.")  # fmt: skip
@click.option("--false-retrains", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="A_MONTH",
              help="Alarms to expect in 30 days while nothing changes, default 0.375.")  # fmt: skip
@sequential_option
@against_option
@click.option("--from", "start", type=_DAY, help="First day that counts, UTC; what was before is run again as well.")
@click.option("--to", "end", type=_DAY, help="Day before which the traffic ends, UTC.")
@click.option("--model", default="delay", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def replay(
    file: Path | None,
    false_retrains: float | None,
    sequential: tuple[str, ...],
    against: tuple[str, ...],
    start: datetime | None,
    end: datetime | None,
    model: str,
    as_json: bool,
) -> None:
    """Try a policy on the traffic that the platform has archived.

    The monitors hear all sketches and labels again, and the control loop's own rules decide on their alerts. With the
    policy, the budget, the detectors and the references that were in force, that is what was done.

    \b
    retrains  that the policy would have asked for, after the first model
    false     those at which the model was no worse than when it was new, and for a policy's
              `lead` did not become so
    missed    declines in which it would not have retrained
    delay     from a decline's beginning to the first retraining in it, median
    harm      log loss beyond what is usual, times requests, until a retrained model answers

    A decline is a run of weeks whose labels say that the model in charge did worse than its reference by more than the
    policy's `margin`, and than chance would have it. Beside the policy stand what was asked for in fact, and
    retraining as often as the policy's cool-down allows, never, and every 30 days.

    No model is trained. A retraining is taken to cure; alerts are about the models that really answered, so that a
    decline ends where one of them did cure it, whatever the policy tried would have done.
    """
    from compose.lab import try_policy
    from compose.lab_report import as_dict, render
    from compose.local.home import PlatformError
    from compose.past import open_archive, read_past
    from monitors.policy import DEFAULT_POLICY, PolicyError, load_policy
    from monitors.settings import MonitorSettings

    began = time.monotonic()
    try:
        policy = load_policy(file or DEFAULT_POLICY)
    except PolicyError as exc:
        raise PlatformError(str(exc)) from exc
    settings = MonitorSettings.of_texts(false_retrains or MonitorSettings.false_retrains_a_month, sequential, against)
    home, running = running_platform()
    with open_archive(home, running.endpoints.clickhouse, model) as (stored, references), _progress() as progress:
        task = progress.add_task("", total=1.0)

        def tell(share: float) -> None:
            progress.update(task, completed=share)

        past = read_past(stored, model, references, settings, FOREVER_MS if end is None else _ms(end), tell)
        start_ms = past.start_ms if start is None else max(past.start_ms, _ms(start))
        found = try_policy(past, references, policy, start_ms, past.end_ms)
    seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps(as_dict(past, found, start_ms, past.end_ms, seconds)))
    else:
        render(past, found, policy, start_ms, past.end_ms, seconds, Console())


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("Hearing it again"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _ms(day: datetime) -> int:
    return round(day.replace(tzinfo=UTC).timestamp() * 1000)
