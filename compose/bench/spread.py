"""What all benches say things with: a figure of some repetitions, and a plain table."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich import box
from rich.table import Table

__all__ = ["Spread", "plain_table"]


@dataclass(frozen=True)
class Spread:
    """Median, least and most of some repetitions."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value a repetition."""
        return cls(median(values), min(values), max(values))

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"median": round(self.middle, 4), "least": round(self.least, 4), "most": round(self.most, 4)}

    def ends(self, form: str) -> str:
        """From least to most, each in a format."""
        return f"{self.least:{form}} to {self.most:{form}}"


def plain_table(title: str, *columns: str, texts: int = 1) -> Table:
    """A table without frames; the first `texts` columns hold texts, the others numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < texts else "right", no_wrap=True)
    return table
