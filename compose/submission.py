"""A Feast repo's views submitted: their job is stopped, if it runs and has to be otherwise, and goes on from there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from compose.local.definitions import forget, keep
from compose.local.home import PlatformError
from compose.local.jobs import JobBook, JobRecord
from compose.plan import Facts, Plan, record, recorded
from jobs.generations import Begun, following, newest, options
from jobs.kafka import BrokerError, end_offsets

__all__ = ["send", "send_repo"]


def send(book: JobBook, names: Sequence[str], given: Sequence[str], repo: Path | None, fresh: bool) -> list[JobRecord]:
    """Send jobs, which keep the repo that they are read from as it is now; see :meth:`JobBook.submit`."""
    if repo is None:
        return book.submit(names, given, fresh)
    copy = keep(book.home, names[0], repo)
    sent = book.submit(names, [*given, "--repo", str(copy)], fresh)
    forget(book.home, names[0], {option for each in book.records() for option in each.options})
    return sent


def send_repo(
    book: JobBook,
    names: Sequence[str],
    given: Sequence[str],
    repo: Path,
    found: Plan,
    facts: Mapping[str, Facts],
    fresh: bool,
) -> list[JobRecord]:
    """Send the job of a repo's views, and others with it, and remember what it was sent with.

    A job that runs as it should is left alone. One that is to run otherwise saves its state first, with all it has
    written committed; where the cluster does not take the new one, the old one goes on from there.

    Parameters
    ----------
    book : JobBook
    names, given : sequence of str
        Jobs, and options of ``jobs.submit``.
    repo : Path
    found : Plan
    facts : mapping of str to Facts
        Of the views, to be remembered.
    fresh : bool
        Every view begins.

    Raises
    ------
    PlatformError
        Where the cluster or the definitions refuse, in their words.
    """
    before = recorded(book.home, found.job)
    if before and not fresh and not found.restarts:
        record(book.home, found.job, before.id, facts, before.begun, before.letters)
        others = [name for name in names if name != found.job]
        return send(book, others, given, repo, fresh) if others else []
    known = next((each for each in book.records() if each.name == found.job), None)
    old = None if fresh else before
    begun, letters = following(
        {name: (each["source"], each["topic"]) for name, each in facts.items()},
        facts.keys() if fresh else found.begins,
        old.begun if old else {},
        old.letters if old else {},
        1 + newest(known.options if known else ()),
    )
    if found.running and known:
        book.stop(known)
    try:
        begun = _bounded(book.kafka, begun, facts if fresh else found.begins)
        sent = send(book, names, [*given, *options(begun, letters)], repo, fresh)
    except (PlatformError, BrokerError) as exc:
        if found.running and book.restore():
            raise PlatformError(f"{exc}\n{found.job} goes on as it was.") from exc
        raise
    job_id = next(each.ids[-1] for each in sent if each.name == found.job)
    record(book.home, found.job, job_id, facts, begun, letters)
    return sent


def _bounded(kafka: str, begun: dict[str, Begun], begins: Iterable[str]) -> dict[str, Begun]:
    """With the ends of the topics of views that begin: nothing is written to them now."""
    ends = {name: end_offsets(kafka, f"features.{name}", committed=False) for name in begins}
    offsets = {name: {str(partition): high for partition, (_, high) in each.items()} for name, each in ends.items()}
    return {name: replace(each, offsets=offsets[name]) if name in offsets else each for name, each in begun.items()}
