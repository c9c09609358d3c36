"""The option ``--against``, which several commands have."""

from collections.abc import Sequence

import click

__all__ = ["against_option"]


def _checked(_ctx: click.Context, _param: click.Parameter, given: Sequence[str]) -> Sequence[str]:
    """Say what is wrong with it before anything is done; without any, the monitors need not be loaded."""
    if given:
        from monitors.shift import AgainstError, parse_against

        try:
            parse_against(given)
        except AgainstError as exc:
            raise click.BadParameter(f"{exc}.") from exc
    return given


against_option = click.option(
    "--against",
    multiple=True,
    metavar="REFERENCE",
    callback=_checked,
    help="What else than its training traffic a week is compared with (drift): trailing:28d, earlier:7d or "
    "2013-01-01..2013-02-01; may be repeated. `headwater submit --help` explains them.",
)
