"""A plan of what the local platform runs, and how people read it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from compose.local.home import PlatformError
from compose.local.jobs import ALIVE, JobBook
from compose.plan import Facts, Plan, ViewPlan, facts_of, plan, recorded
from features.compiler.repo import RepoError, load_repo
from features.compiler.topics import UnsupportedViewError

__all__ = ["as_json", "brief", "planned", "shown", "stateless"]

TIMEOUT_S = 10
_SIGNS = {"new": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red"), "unchanged": (" ", None)}
_STATES = {
    "kept": "kept: it goes on where it is",
    "begins": "none: it starts from the beginning of its topic",
    "removed": "dropped",
}
_COLOURS = {"+": "green", "~": "yellow", "-": "red"}


def planned(book: JobBook, repo: Path, only: Sequence[str] = ()) -> tuple[Plan, dict[str, Facts]]:
    """What submitting a Feast repo's views to a cluster would change, and the facts to record once they are.

    Parameters
    ----------
    book : JobBook
    repo : Path
    only : sequence of str
        Names of views; default: all.

    Raises
    ------
    PlatformError
        Where the repo cannot be run, or Kafka or Flink does not answer.
    """
    try:
        definitions = load_repo(repo)
        views = facts_of([definitions.view(name) for name in only] or definitions.views.values())
    except (RepoError, UnsupportedViewError) as exc:
        raise PlatformError(f"{exc}.") from exc
    job = f"features-{definitions.project}"
    known = next((each for each in book.records() if each.name == job and each.ids), None)
    states = {each["jid"]: each["state"] for each in book.rest.jobs()}
    job_id = known.ids[-1] if known else ""
    try:
        admin = AdminClient({"bootstrap.servers": book.kafka, "log_level": 0})
        topics = list(admin.list_topics(timeout=TIMEOUT_S).topics)
    except KafkaException as exc:
        raise PlatformError(f"Kafka does not answer at {book.kafka}: {exc}.") from exc
    running = states.get(job_id) in ALIVE
    found = plan(job, recorded(book.home, job), views, running, topics)
    return found if running or (known and book.checkpoint(known)) else stateless(found), views


def stateless(found: Plan) -> Plan:
    """A plan for a job that never saved its state: there is nothing that a view could keep."""
    views = (
        replace(each, state="begins", why="its job has left no state") if each.state == "kept" else each
        for each in found.views
    )
    return replace(found, views=tuple(views))


def as_json(found: Plan) -> dict[str, Any]:
    """A plan for programs."""
    return {**asdict(found), "restarts": found.restarts, "changes": not found.nothing}


def brief(found: Plan) -> str:
    """A plan in a line."""
    parts = []
    for kind in _SIGNS:
        names = [each.name for each in found.views if each.kind == kind]
        if names:
            parts.append(f"{len(names)} {kind} ({', '.join(names)})" if kind != "unchanged" else f"{len(names)} {kind}")
    known = "" if found.since else ", of which nothing is recorded yet"
    return f"{found.job}{known}: {', '.join(parts) or 'no views'}."


def shown(found: Plan, repo: Path) -> Iterator[str]:
    """A plan as a diff, line by line, with colours."""
    against = f"against what was submitted at {found.since}" if found.since else "of which nothing is recorded yet"
    yield click.style(f"{found.job}, {against}", bold=True)
    for each in found.views:
        yield from _view(each, found, repo)
    yield ""
    for reason in found.refused:
        yield from _field("refused", reason)
    yield from _job(found, repo)
    if found.topics:
        yield from _field("topics", f"creates {', '.join(found.topics)}, each with its .dlq and .late")
    if found.left:
        yield from _field("" if found.topics else "topics", f"leaves {', '.join(found.left)}, with all rows")
    if found.since and any(each.kind != "changed" or each.schema_ids for each in found.changed):
        project = found.job.partition("-")[2]
        yield from _field(
            "services", f"archiver-{project} and pusher-{project} are started anew by the platform, for other topics"
        )


def _view(each: ViewPlan, found: Plan, repo: Path) -> Iterator[str]:
    sign, colour = _SIGNS[each.kind]
    yield click.style(f"{sign} {each.name}", fg=colour) + ("" if each.kind == "unchanged" else f"  {each.kind}")
    for line in each.changes:
        yield "    " + click.style(line, fg=_COLOURS.get(line.lstrip()[:1]))
    if found.restarts and found.since:
        yield from _field("state", _STATES[each.state], 4)
    if each.state == "begins" and each.kind != "new":
        yield from _field("because", each.why, 4)
    if each.state == "begins" and each.kind == "changed":
        yield from _field("rows", f"features.{each.name} keeps those of before, in front of the new ones", 4)
    if each.schema_ids:
        old, new = each.schema_ids
        yield from _field("schema", f"features.{each.name} would hold rows of two schemas, ids {old} and {new}", 4)
    if each.backfill:
        how = f"`headwater backfill --repo {repo} --view {each.name} --from DAY --to DAY`"
        yield from _field(
            "backfill", f"{'; '.join(each.backfill)}: rows older than its topic's first record, by {how}", 4
        )


def _job(found: Plan, repo: Path) -> Iterator[str]:
    if not found.restarts:
        yield from _field("job", "goes on")
        return
    if not found.since:
        yield from _field("job", "starts")
    elif kept := sum(each.state == "kept" for each in found.views):
        at = "stopped first" if found.running else "stopped"
        yield from _field("job", f"goes on from where it is {at}: {kept} with their state, {len(found.begins)} begin")
    else:
        yield from _field("job", "starts: no view keeps its state")
    yield from _field("run", f"`headwater submit features --repo {repo}`")


def _field(name: str, text: str, indent: int = 0) -> Iterator[str]:
    yield " " * indent + f"{name:<10}{text}"
