"""A plan of what the local platform runs, and how people read it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from compose.local.home import Home, PlatformError
from compose.local.jobs import ALIVE, JobBook
from compose.local.platform import Running
from compose.plan import Facts, Plan, ViewPlan, facts_of, plan, recorded
from features.compiler.repo import RepoError, load_repo
from features.compiler.topics import UnsupportedViewError

__all__ = ["as_json", "brief", "planned", "shown"]

TIMEOUT_S = 10
_SIGNS = {"new": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red"), "unchanged": (" ", None)}
_COLOURS = {"+": "green", "~": "yellow", "-": "red"}
_WINDOWS = {
    "unreadable": "in a checkpoint they have another form, and would be misread",
    "mixed": "in a checkpoint they hold records as they were before the change",
    "kept": "go on from a checkpoint",
}


def planned(home: Home, running: Running, repo: Path, only: Sequence[str] = ()) -> tuple[Plan, dict[str, Facts]]:
    """What submitting a Feast repo's views to a platform would change, and the facts to record once they are.

    Parameters
    ----------
    home : Home
    running : Running
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
    book = JobBook(home, running.endpoints.kafka, running.endpoints.flink)
    known = next((each for each in book.records() if each.name == job and each.ids), None)
    states = {each["jid"]: each["state"] for each in book.rest.jobs()}
    job_id = known.ids[-1] if known else ""
    try:
        admin = AdminClient({"bootstrap.servers": running.endpoints.kafka, "log_level": 0})
        topics = list(admin.list_topics(timeout=TIMEOUT_S).topics)
    except KafkaException as exc:
        raise PlatformError(f"Kafka does not answer at {running.endpoints.kafka}: {exc}.") from exc
    return plan(job, recorded(home, job), views, job_id, states.get(job_id) in ALIVE, topics), views


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
    if found.restored:
        yield "  The platform has sent the job again since, with the definitions as they were then."
    for each in found.views:
        yield from _view(each, found, repo)
    yield ""
    yield from _job(found, repo)
    if found.topics:
        yield from _field("topics", f"creates {', '.join(found.topics)}, each with its .dlq and .late")
    if found.left:
        yield from _field("" if found.topics else "topics", f"leaves {', '.join(found.left)}, with all rows")
    if found.since and (
        new := [f"features.{each.name}" for each in found.changed if each.kind == "new" or each.schema_ids]
    ):
        project = found.job.partition("-")[2]
        yield from _field(
            "services",
            f"archiver-{project} and pusher-{project} learn of topics and schemas when they start: `headwater down`, "
            f"`headwater up --detach` for {', '.join(new)}",
        )


def _view(each: ViewPlan, found: Plan, repo: Path) -> Iterator[str]:
    sign, colour = _SIGNS[each.kind]
    yield click.style(f"{sign} {each.name}", fg=colour) + ("" if each.kind == "unchanged" else f"  {each.kind}")
    for line in each.changes:
        yield "    " + click.style(line, fg=_COLOURS.get(line.lstrip()[:1]))
    if each.kind == "changed" and each.state in _WINDOWS and not (each.state == "kept" and found.fresh):
        yield from _field("windows", _WINDOWS[each.state], 4)
    if each.schema_ids:
        old, new = each.schema_ids
        yield from _field("schema", f"features.{each.name} would hold rows of two schemas, ids {old} and {new}", 4)
    if each.backfill:
        those = "older than its topic's first record" if found.fresh or not found.since else "that are stored already"
        how = f"`headwater backfill --repo {repo} --view {each.name} --from DAY --to DAY`"
        yield from _field("backfill", f"{'; '.join(each.backfill)}: rows {those}, by {how}", 4)


def _job(found: Plan, repo: Path) -> Iterator[str]:
    if not found.restarts:
        yield from _field("job", "goes on")
        return
    if not found.since:
        yield from _field("job", "starts")
    elif found.fresh:
        yield from _field(
            "job", "starts from nothing: it reads its topics from their first records, and writes all rows again"
        )
    else:
        yield from _field("job", "goes on from its checkpoint, with all windows")
    for reason in found.fresh:
        yield from _field("because", reason)
    stop = f"`headwater jobs cancel {found.job}`, then " if found.running else ""
    fresh = " --fresh" if found.fresh else ""
    yield from _field("run", f"{stop}`headwater submit features --repo {repo}{fresh}`")


def _field(name: str, text: str, indent: int = 0) -> Iterator[str]:
    yield " " * indent + f"{name:<10}{text}"
