"""``headwater status``."""

import json
import sys
from dataclasses import asdict

import click

from compose.local.home import Home
from compose.local.platform import Running, memory_bytes

__all__ = ["command"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def command(as_json: bool) -> None:
    """Show what runs, where it listens and what it uses.

    Exits with status 0 when a platform runs in HEADWATER_HOME and 1 when none does. Memory is resident memory, with
    that of the processes a service has started.
    """
    home = Home.find()
    running = Running.find(home)
    if as_json:
        facts = {"running": running is not None, "home": str(home.root)}
        if running is not None:
            facts |= asdict(running) | {"memory_bytes": memory_bytes(running)}
        click.echo(json.dumps(facts, indent=2))
    elif running is None:
        click.echo(f"No platform runs in {home.root}. `headwater up` starts one.")
    else:
        from rich.console import Console

        from compose.commands.tables import services_table

        console = Console()
        console.print(services_table(running))
        for name, facts in running.services.items():
            if facts["state"] not in ("ready", "exited") and facts["reason"]:
                console.print(f"{name} {facts['reason']}. `headwater logs {name}` shows more.", soft_wrap=True)
    sys.exit(0 if running is not None else 1)
