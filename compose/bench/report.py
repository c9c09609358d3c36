"""What ``headwater bench features`` found, for people."""

from typing import Any

from rich.table import Table

from compose.bench.spread import plain_table

__all__ = ["tables"]


def tables(found: dict[str, Any]) -> list[Table]:
    """Rates, ratios, state and freshness."""
    return [_rates(found), _ratios(found), _state(found), _freshness(found)]


def _rates(found: dict[str, Any]) -> Table:
    spans = found["spans"]
    windows = ", ".join(_span(each) for each in spans["windows_s"])
    title = (
        f"{found['events']:,} payments of {found['space']:,} accounts in {found['days']:g} days; sum, count and mean "
        f"over {windows}, every {_span(spans['slide_s'])}; {found['repeat']} repetitions: median, least to most"
    )
    table = plain_table(title, "way", "payments a second", "spread", "rows")
    for name, rate in found["rates"].items():
        rows = found["rows"].get(name)
        table.add_row(name, f"{rate.middle:,.0f}", rate.ends(",.0f"), "" if rows is None else f"{rows:,}")
    table.caption = (
        f"OVER RANGE has {found['over_share']:.0%} of its rows after {found['over_s']:g} s, or all of them before."
    )
    table.caption_justify = "left"
    return table


def _ratios(found: dict[str, Any]) -> Table:
    table = plain_table("Against each other, within each repetition", "what", "times", "spread", "at least", "")
    for name, told in found["ratios"].items():
        ratio, aim = told["ratio"], told["aim"]
        if ratio is None:
            table.add_row(name, "no end", "the other did nothing", f"{aim:g}" if aim else "", "")
            continue
        met = ("met" if ratio.middle >= aim else "missed") if aim else ""
        table.add_row(name, f"{ratio.middle:,.2f}", ratio.ends(",.2f"), f"{aim:g}" if aim else "", met)
    return table


def _state(found: dict[str, Any]) -> Table:
    title = "State at a checkpoint, bytes: some payments, four times as many on the same tiles, as many on their own"
    table = plain_table(title, "way", "payments", "tiles", "all", "a key", "and window", "a tile")
    for each in found["state"]:
        sizes = ("events", "active_tiles", "state_bytes", "bytes_per_key", "bytes_per_key_and_window")
        table.add_row(each["way"], *(f"{each[name]:,.0f}" for name in sizes), f"{each['bytes_per_tile']:,.1f}")
    return table


def _freshness(found: dict[str, Any]) -> Table:
    title = (
        f"From event to readable value in the embedded store, ms, at {found['live']:,} payments a second: p50 and p99; "
        "of it, until the tile of a second is over, and from the row's time on"
    )
    table = plain_table(title, "checkpoint", "sent a second", "p50", "p99", "tile", "row", "unseen")
    for each in found["freshness"]:
        names = ("checkpoint_ms", "per_second", "p50_ms", "p99_ms")
        parts = (f"{each[f'{name}_p50_ms']:,.0f}, {each[f'{name}_p99_ms']:,.0f}" for name in ("tile", "row"))
        table.add_row(*(f"{each[name]:,.0f}" for name in names), *parts, f"{each['unseen']:,}")
    return table


def _span(seconds: int) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
