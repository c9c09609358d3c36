"""``headwater alerts``."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from compose.commands.target import running_platform

__all__ = ["command"]

_COLOURS = {"critical": "red", "warning": "yellow", "info": "blue"}
POLL_S = 0.5


@click.group()
def command() -> None:
    """See what drifts: the topic drift.alerts, which any Kafka client can read as well."""


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
