"""The option ``--sequential``, which several commands have."""

from collections.abc import Sequence

import click

__all__ = ["sequential_option"]


def _checked(_ctx: click.Context, _param: click.Parameter, given: Sequence[str]) -> Sequence[str]:
    """Say what is wrong with it before anything is done; without any, river need not be loaded."""
    if given:
        from monitors.sequential import SpecError, parse_specs

        try:
            parse_specs(given)
        except SpecError as exc:
            raise click.BadParameter(f"{exc}.") from exc
    return given


sequential_option = click.option(
    "--sequential",
    multiple=True,
    metavar="SERIES:DETECTOR",
    callback=_checked,
    help="What the monitor `sequential` hears, and how (drift), default log_loss:adwin; may be repeated. "
    "`headwater submit --help` lists them.",
)
