"""``headwater schemas``."""

import json
import sys

import click

from schemas.check import problems, write_fingerprints
from schemas.topics import TOPICS

__all__ = ["command"]


@click.group()
def command() -> None:
    """Look after the Avro schemas of the topics."""


@command.command()
@click.option("--accept", is_flag=True, help="Fix what new schema ids stand for, for all time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def check(accept: bool, as_json: bool) -> None:
    """Check schemas, ids and keys.

    An id in front of a record must stand for the same schema in every region for ever, so a schema that changed under
    its id is an error. Exits with status 1 if anything is wrong.
    """
    new = write_fingerprints() if accept else []
    found = problems()
    if as_json:
        click.echo(json.dumps({"ok": not found, "topics": len(TOPICS), "problems": found, "accepted": new}, indent=2))
    else:
        for each in found:
            click.echo(each)
        if new:
            click.echo(f"Fixed schema ids {', '.join(map(str, new))}.")
        if not found:
            click.echo(f"{len(TOPICS)} topics: schemas, ids and keys are in order.")
    sys.exit(1 if found else 0)
