"""The ``headwater`` command: a table of commands, each loaded only when it is called."""

import sys
from importlib import import_module

import click

from compose.local.home import PlatformError

__all__ = ["COMMANDS", "headwater", "main"]

# Name -> what help says. The command itself is `command` in compose/commands/<name>.py; help for all of them is
# printed without importing any.
COMMANDS = {
    "demo": "Replay a year of flights through the whole loop.",
    "up": "Start the local platform and keep it running.",
    "status": "Show what runs, where it listens and what it uses.",
    "logs": "Show or follow the logs of the services.",
    "down": "Stop the local platform.",
    "doctor": "Check what the platform needs on this machine.",
    "submit": "Run Flink jobs: features, scoring, drift.",
    "jobs": "List and cancel Flink jobs.",
    "alerts": "Print drift alerts as they come; try a policy.",
    "drift": "Compare two files of rows, column by column.",
    "incidents": "Show that each incident is submitted once.",
    "regions": "Show which region retrains which model.",
    "verify": "Compute every logged feature value again and compare.",
    "watch": "Raise an alert where the platform itself is at fault.",
    "bench": "Measure each stage and the whole chain.",
    "features": "Show what the definitions of a Feast repo become.",
    "backfill": "Compute a view's rows over history.",
    "training-set": "Add features to entities, each as of its own time.",
    "schemas": "Check the Avro schemas of the topics.",
}


class _Lazy(click.Group):
    """Loads a command when it is called, and shows errors meant for people as such."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"compose.commands.{cmd_name.replace('-', '_')}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except PlatformError as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headwater", message="%(prog)s %(version)s")
def headwater() -> None:
    """Feast definitions in, Flink jobs out; drift that retrains once.

    Everything runs on this machine, with nothing to install: Kafka, a Flink cluster and ClickHouse are started by
    `headwater up` and keep their state in one directory, HEADWATER_HOME (default: ~/.local/state/headwater).

    `headwater COMMAND --help` explains a command.
    """


def main() -> None:
    """Run the command line; the console script of the distribution."""
    try:
        headwater(prog_name="headwater")
    except BrokenPipeError:  # `headwater logs | head`
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
