"""``headwater watch``."""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from compose.commands.target import running_platform
from compose.local.home import PlatformError

if TYPE_CHECKING:
    from compose.watch import Look
    from jobs.topic_alerts import TopicLook

__all__ = ["command"]


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from monitors.durations import DurationError, parse_duration

        try:
            return value if isinstance(value, int) else parse_duration(param.opts[0] if param else "it", value)
        except DurationError as exc:
            self.fail(f"{exc}.", param, ctx)


@click.command()
@click.option(
    "--repo", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Feast repo; default: the flights."
)
@click.option("--service", default="delay", show_default=True, help="Feature service of the model.")
@click.option("--mode", type=click.Choice(["as-of", "latest"]), default="as-of", show_default=True,
              help="How scoring reads its features.")  # fmt: skip
@click.option("--last", "last_ms", type=_Duration(), default="1h", show_default=True,
              help="Of event time, to look at; the newest minute is left for it to settle.")  # fmt: skip
@click.option("--stale", "stale_ms", type=_Duration(), default="5min", show_default=True,
              help="How long before its request a row has to be in the online store (latest).")  # fmt: skip
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of wrong values, and of requests given stale rows, that is let pass.")  # fmt: skip
@click.option("--every", "every_ms", type=_Duration(), help="Look again and again, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a look, for programs.")
def command(
    repo: Path | None,
    service: str,
    mode: str,
    last_ms: int,
    stale_ms: int,
    threshold: float,
    every_ms: int | None,
    as_json: bool,
) -> None:
    """Raise an alert where the platform itself is at fault, or the way records come.

    Monitors hold what the platform made of the world against what it made of it before. Whether it made it rightly is
    seen here: the features that the newest requests were given are computed again from the archived events. And
    whether it was sent what it should be: for each topic that the service reads, --last is held against 24 spans as
    long before it, by offsets and a few records of each partition.

    \b
    values that are not what their definitions say    an incident of the monitor `parity`, cause `us`
    rows of the online store that are behind          one of its segment `online store`
    a partition that stopped while others go on       one of the monitor `topics`, its segment the topic, cause `data`
    more late records or dead letters than usual      the same, with their offsets and most frequent reason
    records of a schema that was not there before     the same; alone it is `info` and quarantines nothing

    Subscribers of drift.alerts are told when it begins and when it is over. Nothing retrains for it, and its span is
    kept out of training sets. Look at least every two spans: what has lasted longer unseen is taken for usual.

    Exits with status 1 where something is wrong; with --every it goes on, also while a platform is away. Before
    anything was answered it looks at topics alone.
    """
    from compose.services import REPO
    from compose.watch import look
    from features.compiler.repo import load_repo

    console = Console(stderr=as_json)
    definitions = load_repo(repo or REPO)
    while True:
        try:
            with console.status("Looking"):
                at = running_platform()[1].endpoints
                found = look(at, definitions, service, mode, last_ms, stale_ms, threshold)
        except PlatformError as exc:
            if every_ms is None:
                raise
            console.print(f"{exc} The next look is in {every_ms / 1000:,.0f} s.", markup=False, soft_wrap=True)
        else:
            if as_json:
                click.echo(json.dumps(found.as_dict(), default=str))
            else:
                _show(console, found)
            if every_ms is None:
                sys.exit(1 if found.wrong(threshold) else 0)
        time.sleep(every_ms / 1000)


def _show(console: Console, found: "Look") -> None:
    said, compared = found.nothing, found.verification
    if compared is not None:
        stale = "".join(f", {count:,} given stale rows of {view}" for view, count in compared.stale.items() if count)
        said = (
            f"{compared.requests:,} requests, {compared.parity.compared:,} values, "
            f"{compared.parity.mismatches:,} wrong{stale}"
        )
    console.print(f"{_moment(found.start_ms)} to {_moment(found.end_ms)}: {said}", markup=False, soft_wrap=True)
    for each in found.topics:
        console.print(_topic(each), markup=False, soft_wrap=True)
    for alert in found.alerts:
        console.print(f"{alert.status} {alert.incident_id}: {alert.summary}", markup=False, soft_wrap=True)


def _topic(seen: "TopicLook") -> str:
    told = seen.as_dict()
    parts = " + ".join(f"{each:,}" for each in told["records"])
    schemas = f", schema {', '.join(map(str, told['schemas']))}" if told["schemas"] else ""
    wrong = {None: "; too few to tell", True: "; WRONG", False: ""}[told["wrong"]]
    return (
        f"  {told['topic']}: {parts} records by partition, beside {told['slices']} spans before; "
        f"{told['late']:,} late, {told['dead']:,} dead letters{schemas}{wrong}"
    )


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}"
