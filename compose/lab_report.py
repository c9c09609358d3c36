"""What a policy would have done, for programs and for people."""

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from compose.lab import Found
from compose.past import Past
from monitors.hindsight import Decline, Outcome
from monitors.policy import Policy
from monitors.thresholds import DAY_MS

__all__ = ["as_dict", "render", "time_line"]

WEEK_MS = 7 * DAY_MS
TITLES = {"policy": "this policy", "was": "as it was", "always": "always", "never": "never", "monthly": "monthly"}
LEGEND = "a character a week: - decline, = a sure one, R retrained, F for nothing"


def as_dict(past: Past, found: Found, start_ms: int, end_ms: int, seconds: float) -> dict[str, Any]:
    """For JSON; times are ISO 8601, UTC."""
    false = set(found.outcomes["policy"].false)
    return {
        "model": past.model,
        "from": _time(start_ms),
        "to": _time(end_ms),
        "seconds": round(seconds, 3),
        "sketches": past.sketches,
        "labelled": past.labelled,
        "policies": {name: _told(each) for name, each in found.outcomes.items()},
        "declines": [_decline(each) | {"ended_by": _ended_by(past, each)} for each in found.declines],
        "retrains": [
            {"at": _time(each["event_time"]), "false": each["event_time"] in false}
            | {name: each[name] for name in ("incident_id", "monitor", "reason")}
            for each in found.events
        ],
    }


def _told(found: Outcome) -> dict[str, Any]:
    return {
        "retrains": len(found.retrains),
        "false": len(found.false),
        "missed": len(found.missed),
        "delay_days": None if found.delay_ms is None else found.delay_ms / DAY_MS,
        "harm_nats": round(found.harm, 3),
        "at": [_time(each) for each in found.retrains],
    }


def _decline(found: Decline) -> dict[str, Any]:
    return {
        "from": _time(found.start_ms),
        "to": _time(found.end_ms),
        "sure": found.sure,
        "measure": found.measure,
        "harm_nats": round(sum(found.harm), 3),
    }


def _ended_by(past: Past, found: Decline) -> str | None:
    """The version that took over as it ended."""
    return next((each.version for each in past.versions if each.from_ms // DAY_MS == found.end_ms // DAY_MS), None)


def render(
    past: Past, found: Found, policy: Policy, start_ms: int, end_ms: int, seconds: float, console: Console
) -> None:
    """Print what came of it."""
    console.print(
        f"{past.model}, {_day(start_ms)} to {_day(end_ms)}: {past.sketches:,} sketches and {past.labelled:,} labelled "
        f"requests heard again in {seconds:.1f} s.\n",
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("policy", "retrains", "false", "missed", "delay, days", "harm, nats"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for name, each in found.outcomes.items():
        delay = "" if each.delay_ms is None else f"{each.delay_ms / DAY_MS:.1f}"
        counts = (str(len(some)) for some in (each.retrains, each.false, each.missed))
        table.add_row(TITLES[name], *counts, delay, f"{each.harm:,.0f}", style="bold" if name == "policy" else "")
    console.print(table)
    console.print()
    for name, each in found.outcomes.items():
        line = time_line(found.declines, each, start_ms, end_ms)
        console.print(f"{TITLES[name]:<12}{line}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"{'':<12}{LEGEND}\n", soft_wrap=True, style="dim", highlight=False)
    false = set(found.outcomes["policy"].false)
    for event in found.events:
        verdict = "for nothing" if event["event_time"] in false else "in or before a decline"
        told = f"{_day(event['event_time'])}  {verdict:<22}  {event['monitor']}: {event['reason']}"
        console.print(told, soft_wrap=True, markup=False, highlight=False)
    sure = sum(each.sure for each in found.declines)
    ended = sum(_ended_by(past, each) is not None for each in found.declines)
    console.print(
        f"Declines: {len(found.declines)}, sure: {sure}, ended by another version: {ended}. An estimate: no model is "
        "trained, alerts are about those that really answered, and a retraining in a decline is taken to end it after "
        f"{policy.lead_ms / DAY_MS:g} days. What declines that another version ended would have cost without it is not "
        "known.",
        soft_wrap=True,
        style="dim",
    )


def time_line(found: tuple[Decline, ...], come: Outcome, start_ms: int, end_ms: int) -> str:
    """A character a week."""
    weeks = -(-(end_ms - start_ms) // WEEK_MS)
    drawn = ["."] * weeks
    for each in sorted(found, key=lambda decline: decline.sure):
        last = min((each.end_ms - 1 - start_ms) // WEEK_MS, weeks - 1)
        for week in range((each.start_ms - start_ms) // WEEK_MS, last + 1):
            drawn[week] = "=" if each.sure else "-"
    for at in (*come.false, *(at for at in come.retrains if at not in come.false)):
        drawn[min((at - start_ms) // WEEK_MS, weeks - 1)] = "F" if at in come.false else "R"
    return "".join(drawn)


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
