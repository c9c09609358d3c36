"""What was measured, and how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich import box
from rich.table import Table

__all__ = ["Figure", "Figures"]


@dataclass(frozen=True)
class Figure:
    """Rates of one stage, one for each repetition.

    Attributes
    ----------
    name : str
    what : str
        What is counted.
    rates : tuple of float
        A second.
    limit : str
        Name of the figure this one is held against; empty for a limit.
    """

    name: str
    what: str
    rates: tuple[float, ...]
    limit: str = ""

    @property
    def rate(self) -> float:
        """The median."""
        return median(self.rates)


@dataclass(frozen=True)
class Figures:
    """Everything one ``headwater bench`` measured, in order."""

    figures: tuple[Figure, ...]
    events: int
    repetitions: int

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, float]], meaning: Mapping[str, tuple[str, str]], events: int) -> "Figures":
        """From the rates of each repetition by name, and what each name counts and is held against."""
        made = [Figure(n, what, tuple(run[n] for run in runs), limit) for n, (what, limit) in meaning.items()]
        return cls(tuple(made), events, len(runs))

    def ratios(self, figure: Figure) -> tuple[float, ...]:
        """A figure against its limit, within each repetition: the machine's moods are the same for both."""
        limits = next((each.rates for each in self.figures if each.name == figure.limit), ())
        return tuple(mine / limit for mine, limit in zip(figure.rates, limits, strict=False))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {}
        for each in self.figures:
            ratios = self.ratios(each)
            told[each.name] = {
                "counted": each.what,
                "per_second": round(each.rate, 1),
                "least": round(min(each.rates), 1),
                "most": round(max(each.rates), 1),
                "against": each.limit or None,
                "ratio": round(median(ratios), 4) if ratios else None,
                "ratio_least": round(min(ratios), 4) if ratios else None,
                "ratio_most": round(max(ratios), 4) if ratios else None,
            }
        return {"events": self.events, "repetitions": self.repetitions, "figures": told}

    def table(self) -> Table:
        """For people."""
        title = f"{self.events:,} events, {self.repetitions} repetitions: median, and from least to most"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("stage", overflow="fold")
        table.add_column("counted", overflow="fold")
        table.add_column("a second", justify="right", no_wrap=True)
        table.add_column("spread", justify="right", no_wrap=True)
        table.add_column("of its limit", justify="right", overflow="fold")
        for each in self.figures:
            ratios = self.ratios(each)
            share = ""
            if ratios:
                share = f"{median(ratios):.1%} ({min(ratios):.1%} to {max(ratios):.1%}) of {each.limit}"
            spread = f"{min(each.rates):,.0f} to {max(each.rates):,.0f}"
            table.add_row(each.name, each.what, f"{each.rate:,.0f}", spread, share)
        return table
