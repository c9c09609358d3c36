"""Options ``--sequential`` and ``--against``: how monitors watch, for every command that sets some up."""

from collections.abc import Callable, Sequence
from typing import Any

import click

__all__ = ["against_option", "sequential_option"]


def _specs(given: Sequence[str]) -> None:
    from monitors.sequential import SpecError, parse_specs

    try:
        parse_specs(given)
    except SpecError as exc:
        raise click.BadParameter(f"{exc}.") from exc


def _references(given: Sequence[str]) -> None:
    from monitors.shift import AgainstError, parse_against

    try:
        parse_against(given)
    except AgainstError as exc:
        raise click.BadParameter(f"{exc}.") from exc


def _repeated(name: str, metavar: str, check: Callable[[Sequence[str]], None], text: str) -> Callable[[Any], Any]:
    """An option that says what is wrong with it before anything is done; without any, nothing need be loaded."""

    def checked(_ctx: click.Context, _param: click.Parameter, given: Sequence[str]) -> Sequence[str]:
        if given:
            check(given)
        return given

    return click.option(name, multiple=True, metavar=metavar, callback=checked, help=text)


sequential_option = _repeated(
    "--sequential",
    "SERIES:DETECTOR",
    _specs,
    "What the monitor `sequential` hears, and how (drift), default log_loss:adwin; may be repeated. "
    "`headwater submit --help` lists them.",
)
against_option = _repeated(
    "--against",
    "REFERENCE",
    _references,
    "What else than its training traffic a week is compared with (drift): trailing:28d, earlier:7d or "
    "2013-01-01..2013-02-01; may be repeated. `headwater submit --help` explains them.",
)
