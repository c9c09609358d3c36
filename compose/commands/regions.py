"""``headwater regions``."""

import json
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from compose.local.home import Home, PlatformError

if TYPE_CHECKING:
    from compose.standings import Seen
    from jobs.retraining.regions import Regions

__all__ = ["command"]

_file = click.option(
    "--regions",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="HEADWATER_REGIONS",
    help="regions.yaml; default: that of `headwater up --regions`.",
)
TAKEOVERS_SHOWN = 5
LOOK_S = 0.5


@click.group()
def command() -> None:
    """See which region retrains which model, and hand a model over."""


@command.command()
@_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(file: Path | None, as_json: bool) -> None:
    """Show owner and epoch of each model, how far each region has what the others say, and past takeovers.

    \b
    behind     records of the control topics that a region has not got yet of another; they would be lost with it (RPO)
    age        how much older the newest word of the other's member is
    without    how long nobody owned a model when its owner changed (RTO)

    Exits with status 1 where a region does not answer, or a model has no owner.
    """
    from compose.standings import look

    regions = _regions(file)
    seen = look(regions)
    if as_json:
        click.echo(json.dumps(_as_dict(seen)))
    else:
        _show(seen, regions)
    raise SystemExit(0 if not seen.unreachable and all(seen.owner(each) for each in seen.models) else 1)


@command.command("hand-over")
@click.argument("model")
@click.option("--to", "successor", help="Region that is to own the model; default: whoever comes first.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds until the other region has to own it; 0: only tell the owner.",
)
@_file
def hand_over(model: str, successor: str | None, wait_s: float, file: Path | None) -> None:
    """Have the owner of MODEL stop, and another region own it: a planned failover, or the way back.

    Nothing is lost or submitted twice by it; runs that are under way go on. Exits with status 1 where the other region
    does not own the model in time.
    """
    regions = _regions(file)
    if successor is not None and successor not in regions.names:
        raise PlatformError(f"Expected one of the regions {', '.join(regions.names)}, got {successor!r}.")
    _, owner = _known(regions, model)
    if owner is None:
        raise PlatformError(f"Nobody owns {model}, so nobody can hand it over; `headwater regions status` says why.")
    wanted = {successor} if successor else {*regions.names} - {owner["member"]}
    began, told = time.monotonic(), None
    while owner is None or owner["member"] not in wanted:
        # What is said holds for one epoch. Who owns in another by now, or again since nobody came first, is told anew.
        if owner is not None and owner["epoch"] != told:
            told = owner["epoch"]
            _order(regions, owner["member"], model, told, "hand_over", [successor] if successor else [])
            click.echo(f"{owner['member']} is told to hand over {model} (epoch {told}).")
        if time.monotonic() - began >= wait_s:
            if not wait_s:
                return
            raise PlatformError(
                f"{successor or 'No other region'} does not own {model} after {wait_s:g} s; "
                "`headwater regions status` shows who votes for whom."
            )
        time.sleep(LOOK_S)
        _, owner = _known(regions, model)
    click.echo(f"{owner['member']} owns {model} in epoch {owner['epoch']}.")


@command.command()
@click.argument("model")
@click.argument("members", nargs=-1, required=True)
@click.option("--from", "told", required=True, help="Region that is to go on without them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_file
def gone(model: str, members: tuple[str, ...], told: str, yes: bool, file: Path | None) -> None:
    """Say that nothing of MEMBERS runs any more, so that the rest may retrain MODEL without them.

    Only needed where no majority is left, as with one of two regions and no witness. It has to be true: a region that
    is cut off and still runs would submit what the other submits as well.
    """
    regions = _regions(file)
    if told not in regions.names:
        raise PlatformError(f"Expected one of the regions {', '.join(regions.names)}, got {told!r}.")
    known = {*regions.names, *regions.witnesses}
    if unknown := sorted({*members} - known):
        raise PlatformError(f"Expected regions or witnesses of {', '.join(sorted(known))}, got {', '.join(unknown)}.")
    if not yes:
        click.confirm(f"Is it certain that nothing of {', '.join(members)} runs any more?", abort=True)
    seen, _ = _known(regions, model)
    if told in seen.unreachable:
        raise PlatformError(f"{told} does not answer: {seen.unreachable[told]}")
    epoch = max(max(each["promised"], each["epoch"]) for (name, _), each in seen.standings.items() if name == model)
    _order(regions, told, model, epoch, "declare_gone", list(members))
    click.echo(f"{told} is told to go on without {', '.join(members)}; `headwater regions status` shows how it does.")


def _known(regions: "Regions", model: str) -> "tuple[Seen, Any]":
    from compose.standings import look

    seen = look(regions)
    if model not in seen.models:
        known = ", ".join(seen.models) or "none"
        raise PlatformError(f"No region says anything of model {model!r}; known are {known}.")
    return seen, seen.owner(model)


def _order(regions: "Regions", member: str, model: str, epoch: int, order: str, members: list[str]) -> None:
    from jobs.kafka import Publish, Writer
    from jobs.retraining.agent import ORDERS

    region = regions.region(member)
    record = {
        "seat": f"{model}/{member}",
        "model": model,
        "member": member,
        "epoch": epoch,
        "order": order,
        "members": members,
        "event_time": round(time.time() * 1000),
    }
    Writer(region.kafka, f"headwater-orders-{uuid.uuid4().hex}", **region.settings).publish([Publish(ORDERS, record)])


def _regions(file: Path | None) -> "Regions":
    from jobs.retraining.regions import RegionsError, load_regions

    found = file or Home.find().path("regions.yaml")
    if not found.exists():
        raise PlatformError(
            f"No regions: {found} is not there. `headwater up --regions 2` makes it, or give --regions."
        )
    try:
        return load_regions(found)
    except RegionsError as exc:
        raise PlatformError(str(exc)) from exc


def _as_dict(seen: "Seen") -> dict[str, Any]:
    owners = {each: seen.owner(each) for each in seen.models}
    return {
        "unreachable": seen.unreachable,
        "models": {
            model: {
                "owner": found["member"] if found else None,
                "epoch": found["epoch"] if found else None,
                "members": {
                    member: {key: each[key] for key in ("role", "promised", "granted", "event_time")}
                    for (name, member), each in sorted(seen.standings.items())
                    if name == model
                },
            }
            for model, found in owners.items()
        },
        "flows": [asdict(each) for each in seen.flows],
        "translated": [asdict(each) for each in seen.translated],
        "takeovers": [asdict(each) for each in seen.takeovers],
    }


def _show(seen: "Seen", regions: "Regions") -> None:
    console = Console()
    for name, why in seen.unreachable.items():
        console.print(f"{name} does not answer: {why}", highlight=False)
    members = Table("model", "member", "role", "epoch", "follows", "last word", box=None)
    for (model, member), each in sorted(seen.standings.items()):
        role = "witness" if member in regions.witnesses else each["role"]
        ago = f"{max(0.0, time.time() - each['event_time'] / 1000):.1f} s ago"
        members.add_row(model, member, role, str(each["promised"]), each["granted"] or "-", ago)
    console.print(members)
    flows = Table("from", "to", "behind", "age", box=None)
    for flow in seen.flows:
        flows.add_row(flow.source, flow.target, f"{flow.behind:,} records", f"{flow.behind_s:.1f} s")
    console.print(flows)
    if seen.translated:
        offsets = Table("group", "topic", "committed at", "goes on at", box=None)
        for offset in seen.translated:
            place = f"{offset.topic}-{offset.partition}"
            there, here = f"{offset.source} {offset.committed:,}", f"{offset.target} {offset.translated:,}"
            offsets.add_row(offset.group, place, there, here)
        console.print(offsets)
    if seen.takeovers:
        changes = Table("owner since", "model", "owner", "epoch", "without", box=None)
        for change in seen.takeovers[-TAKEOVERS_SHOWN:]:
            at = datetime.fromtimestamp(change.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
            changes.add_row(at, change.model, change.owner, str(change.epoch), f"{change.without_s:.1f} s")
        console.print(changes)
    for model in seen.models:
        if (owner := seen.owner(model)) is None:
            console.print(f"{model}: nobody owns it. Alerts flow and models answer; retraining waits.", highlight=False)
        else:
            console.print(f"{model}: {owner['member']} owns it in epoch {owner['epoch']}.", highlight=False)
