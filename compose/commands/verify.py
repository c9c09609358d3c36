"""``headwater verify``."""

import json
import sys
from datetime import UTC, datetime

import click
from rich.console import Console

from compose.commands.target import running_platform

__all__ = ["command"]

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--mode", type=click.Choice(["as-of", "latest"]), default="as-of", show_default=True,
              help="How scoring read its features.")  # fmt: skip
@click.option("--from", "start", type=_DAY, help="First day of requests, UTC.")
@click.option("--to", "end", type=_DAY, help="Day before which requests end, UTC.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def command(mode: str, start: datetime | None, end: datetime | None, as_json: bool) -> None:
    """Compute every logged feature value again, independently, and compare.

    Reads the archived events of the platform that runs and computes with pandas what each prediction's features should
    have been: at the request's own time in `as-of` mode; in `latest` mode at the time of the row each value came from.
    Exits with status 1 on any mismatch.
    """
    from compose.reading import client_of
    from compose.verification import verify

    console = Console(stderr=as_json)
    client = client_of(running_platform()[1].endpoints.clickhouse)
    with console.status("Reading") as status:
        try:
            found = verify(client, mode, _ms(start), _ms(end), progress=lambda text: status.update(text.capitalize()))
        except ValueError as exc:
            raise click.ClickException(f"Cannot compare: {exc}.") from exc
    parity = found.parity
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        console.print(
            f"{found.requests:,} requests, {parity.compared:,} values compared, {parity.mismatches:,} mismatches, "
            f"largest relative error {parity.worst_relative_error:.1e}."
        )
        for each in parity.examples:
            console.print(f"{each['request']} {each['column']}: expected {each['expected']}, logged {each['logged']}")
        for view, age in found.age_seconds.items():
            console.print(f"{view}: rows were {age['median']:,.0f} s old, one in a hundred {age['p99']:,.0f} s or more")
    sys.exit(1 if parity.mismatches else 0)


def _ms(day: datetime | None) -> int | None:
    return None if day is None else int(day.replace(tzinfo=UTC).timestamp() * 1000)
