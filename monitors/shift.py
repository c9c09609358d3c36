"""The monitor `shift`: a week of a model's inputs against other days of the same traffic, whichever version answered.

`features` asks whether traffic is still what a version was trained on; these ask whether it is what it was lately:

=================  ==================================================  ============================================
reference          a window of 7 days is compared with                 what it may differ by is drawn from
=================  ==================================================  ============================================
``trailing:28d``   the 28 days before it                               those 28 days
``earlier:7d``     the same 7 days so long ago                         pairs of weeks of the 42 days before it
``FROM..TO``       the days of a span, once it is over                 that span
=================  ==================================================  ============================================

Thresholds are drawn as those of `features` are (:mod:`monitors.thresholds`), anew every week where a reference moves:
from what it was on the last day whose number is a multiple of 7, so that who starts from a checkpoint draws the same.
What lasts becomes usual: against days that move an incident closes one to five weeks after a change, as soon as days of
the new kind are among those that thresholds are drawn from, or are the reference itself. Against a span it stays.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, Literal

import numpy as np

from monitors.buckets import Kind, pack_keys
from monitors.drawing import Calibration
from monitors.durations import DurationError, parse_duration
from monitors.incidents import Finding
from monitors.reference import ColumnSpec, Null, Reference
from monitors.sketches import Sketches, merge
from monitors.thresholds import DAY_MS, distance_nulls, pair_nulls
from monitors.watchers import Result, distances, enough_days, gravest, judge

__all__ = ["FORMS", "SHIFT", "Against", "AgainstError", "Shift", "dates_of", "parse_against"]

SHIFT: Final = "shift"
FORMS: Final = ("trailing:DURATION", "earlier:DURATION", "FROM..TO")
WINDOW_DAYS: Final = Calibration.window_days
DRAWN_DAYS: Final = 2 * WINDOW_DAYS
"""Fewest days with traffic that thresholds are drawn from."""
PAIRS_DAYS: Final = 6 * WINDOW_DAYS
"""Days that pairs of windows are drawn from, of which a week may be missing."""
REDRAWN_DAYS: Final = 7
REACH_DAYS_MAX: Final = 400
"""Longest that a reference is or lies back, since all of it is in every checkpoint."""
_SEED: Final = 0
_DRAWN: Final = Calibration(weekdays=True)
"""Short references know weekdays from few weeks. Where days are like the ones before, ``trailing:14d`` raised 0.46
in 30 days at a budget of 0.25 without allowing for it and 0.10 with it, ``trailing:28d`` 0.17 and 0.11: of 24 streams
that never change, nine months each."""

_Columns = tuple[tuple[str, ...], tuple[Kind, ...]]
_Nulls = Mapping[str, tuple[Null, ...]]


class AgainstError(ValueError):
    """A text that names no reference for the stream. The message says what was expected and what came."""


@dataclass(frozen=True)
class Against:
    """What windows are compared with. Build with :func:`parse_against`.

    Attributes
    ----------
    kind : {"trailing", "earlier", "fixed"}
    days : int
        Length of a trailing or fixed reference; how long ago an earlier one is.
    first : int
        Day number, from 1970, of the first day of a fixed one.
    """

    kind: Literal["trailing", "earlier", "fixed"]
    days: int
    first: int = 0

    @property
    def text(self) -> str:
        """As on the command line; the segment of its incidents."""
        if self.kind != "fixed":
            return f"{self.kind}:{self.days}d"
        return f"{_date(self.first)}..{_date(self.first + self.days)}"

    @property
    def words(self) -> str:
        """What traffic is said to differ from."""
        if self.kind == "trailing":
            return f"the {self.days} days before it"
        if self.kind == "earlier":
            return f"that of the same days {self.days} days earlier"
        return f"that of {_date(self.first)} to {_date(self.first + self.days - 1)}"

    def span(self, end: int) -> tuple[int, int]:
        """Day numbers, [first, last), of the reference of the window that ends where day `end` begins."""
        if self.kind == "trailing":
            return end - WINDOW_DAYS - self.days, end - WINDOW_DAYS
        if self.kind == "earlier":
            return end - WINDOW_DAYS - self.days, end - self.days
        return self.first, self.first + self.days

    def drawn_from(self, end: int) -> tuple[int, int]:
        """Day numbers, [first, last), that thresholds of that window are drawn from."""
        if self.kind == "fixed":
            return self.span(end)
        drawn = end - end % REDRAWN_DAYS
        length = self.days if self.kind == "trailing" else PAIRS_DAYS
        return drawn - WINDOW_DAYS - length, drawn - WINDOW_DAYS

    def needs(self, day: int, end: int) -> bool:
        """Whether the window that ends where day `end` begins, or a later one, needs a day."""
        first, last = self.span(end)
        if self.kind == "fixed":
            return first <= day < last or day >= end - WINDOW_DAYS
        # Of all windows to come the next draws from the earliest days.
        return day >= min(first, self.drawn_from(end)[0])


def dates_of(text: str) -> tuple[int, int] | None:
    """UTC epoch milliseconds of the two times of ``FROM..TO``, taken for UTC unless they say; None for another text."""
    match = re.fullmatch(r"(\S+)\.\.(\S+)", text)
    if match is None:
        return None
    try:
        times = [datetime.fromisoformat(each) for each in match.groups()]
    except ValueError:
        return None
    start, end = (round(each.replace(tzinfo=each.tzinfo or UTC).timestamp() * 1000) for each in times)
    return start, end


def parse_against(texts: Sequence[str]) -> tuple[Against, ...]:
    """References of texts, each one of :data:`FORMS`.

    Raises
    ------
    AgainstError
        Where a text is none, is not of whole days, too long or too short to draw thresholds from, or comes twice.
    """
    found = tuple(_parsed(text) for text in texts)
    if twice := sorted({each.text for each in found if found.count(each) > 1}):
        raise AgainstError(f"expected each reference once, got more of {', '.join(twice)}")
    return found


def _parsed(text: str) -> Against:
    kind, _, duration = text.partition(":")
    if kind == "trailing":
        return Against("trailing", _days(text, duration, DRAWN_DAYS))
    if kind == "earlier":
        return Against("earlier", _days(text, duration, WINDOW_DAYS))
    if (dates := dates_of(text)) is None:
        raise AgainstError(f"expected {', '.join(FORMS[:-1])} or {FORMS[-1]}, such as trailing:28d, earlier:7d or "
                           f"2013-01-01..2013-02-01, got {text!r}")  # fmt: skip
    length = dates[1] - dates[0]
    if dates[0] % DAY_MS or length % DAY_MS or not DRAWN_DAYS * DAY_MS <= length <= REACH_DAYS_MAX * DAY_MS:
        raise AgainstError(
            f"{text}: expected whole days, UTC, {DRAWN_DAYS} to {REACH_DAYS_MAX} of them, the first before the last"
        )
    return Against("fixed", length // DAY_MS, dates[0] // DAY_MS)


def _days(text: str, duration: str, least: int) -> int:
    try:
        days, rest = divmod(parse_duration(text.partition(":")[0], duration), DAY_MS)
    except DurationError as exc:
        raise AgainstError(str(exc)) from exc
    if rest or not least <= days <= REACH_DAYS_MAX:
        raise AgainstError(f"{text}: expected whole days, {least} d to {REACH_DAYS_MAX} d, got {duration}")
    return days


def _date(day: int) -> str:
    return f"{datetime.fromtimestamp(day * DAY_MS / 1000, UTC):%Y-%m-%d}"


@dataclass(frozen=True)
class _Day:
    """A day of traffic; its bytes are made once, since most days of a checkpoint are over."""

    table: Sketches

    @cached_property
    def packed(self) -> bytes:
        return self.table.to_bytes()


class Shift:
    """Days of a model's inputs, and what windows of them are like beside the references.

    Columns are held apart by their names and kinds: a version with others starts anew.

    Parameters
    ----------
    against : sequence of Against
        Without any, nothing is held and nothing is judged.
    rows_min : int
        Fewest rows of a window, and of its reference.
    """

    def __init__(self, against: Sequence[Against], rows_min: int) -> None:
        self._against, self._rows_min = tuple(against), rows_min
        self._held: dict[_Columns, dict[int, _Day]] = {}
        self._drawn: dict[str, tuple[tuple[tuple[int, int], Mapping[str, ColumnSpec]], _Nulls]] = {}

    def add(self, days: Sketches) -> None:
        """Hear what was asked, in tiles of a day."""
        inputs = _without_scores(days) if self._against else None
        if inputs is None or not inputs.names:
            return
        held = self._held.setdefault((inputs.names, inputs.kinds), {})
        for i, day in enumerate((inputs.tiles // DAY_MS).tolist()):
            more = inputs.take([i])
            held[day] = _Day(merge([held[day].table, more]) if day in held else more)

    def judge(
        self, end_ms: int, reference: Reference | None, usual: float, spend: Callable[[float, str], float]
    ) -> tuple[tuple[Result, ...], dict[str, Finding]]:
        """Judge the week that ends here against every reference.

        Parameters
        ----------
        end_ms : int
            Of a day.
        reference : Reference, optional
            Of the version in charge: it says which columns may raise an alarm. Without one nothing is judged.
        usual : float
            Level of a look that is not judged.
        spend : callable of (float, str) to float
            Level of a look by its p-value, as of :data:`monitors.watchers.Spend`, and by the text of its reference.

        Returns
        -------
        results, findings : tuple of Result, dict of str to Finding
            Segments and keys are the texts of the references.
        """
        results: tuple[Result, ...] = ()
        findings: dict[str, Finding] = {}
        if reference is None:
            return results, findings
        for each in self._against:
            found, findings[each.text] = self._look(each, end_ms // DAY_MS, reference, usual, spend)
            results += found
        return results, findings

    def _look(
        self, each: Against, end: int, reference: Reference, usual: float, spend: Callable[[float, str], float]
    ) -> tuple[tuple[Result, ...], Finding]:
        columns = {name: spec for name, spec in sorted(reference.columns.items()) if spec.kind != "score"}
        held = self._held.get((tuple(columns), tuple(spec.kind for spec in columns.values())), {})
        first, last = each.span(end)
        window, before = _between(held, end - WINDOW_DAYS, end), _between(held, first, last)
        over = last <= end - WINDOW_DAYS and (each.kind != "trailing" or min(held, default=end) <= first)
        nulls = self._nulls(each, held, end, columns) if over else {}
        if window is None or before is None or not nulls:
            return (), Finding(None)
        enough = enough_days(window, WINDOW_DAYS, self._rows_min) and int(before.rows.sum()) >= self._rows_min
        if each.kind == "earlier":
            enough = enough and enough_days(before, WINDOW_DAYS, self._rows_min)
        whole = before.collapse()
        tests = distances(window, reference, {name: whole.column(name) for name in whole.names}, nulls, each.text)
        results, _ = judge(tests, (), enough, usual, lambda p_value: spend(p_value, each.text))
        return results, _finding(each, results, enough)

    def _nulls(
        self, each: Against, held: Mapping[int, _Day], end: int, columns: Mapping[str, ColumnSpec]
    ) -> Mapping[str, tuple[Null, ...]]:
        """Thresholds, drawn once for as long as they are from the same days; nothing where those are too few."""
        key = (each.drawn_from(end), columns)
        if each.text in self._drawn and self._drawn[each.text][0] == key:
            return self._drawn[each.text][1]
        days = _between(held, *key[0])
        least, draw = (PAIRS_DAYS - 7, pair_nulls) if each.kind == "earlier" else (DRAWN_DAYS, distance_nulls)
        if days is None or len(days.tiles) < least:
            return {}
        nulls = draw(columns, days, np.random.default_rng([_SEED, key[0][0]]), _DRAWN)
        self._drawn[each.text] = (key, nulls)
        return nulls

    def forget(self, now_ms: int) -> None:
        """Drop what no window needs that ends later."""
        end = now_ms // DAY_MS + 1
        for columns, held in list(self._held.items()):
            kept = {day: each for day, each in held.items() if any(one.needs(day, end) for one in self._against)}
            if kept:
                self._held[columns] = kept
            else:
                del self._held[columns]

    def state(self) -> list[bytes]:
        """Every day held, for :meth:`restore`."""
        return [
            self._held[columns][day].packed for columns in sorted(self._held) for day in sorted(self._held[columns])
        ]

    def restore(self, state: Sequence[bytes]) -> None:
        """Take up what :meth:`state` gave, whatever the references were."""
        for packed in state:
            self.add(Sketches.from_bytes(packed))


def _between(held: Mapping[int, _Day], first: int, last: int) -> Sketches | None:
    found = [held[day].table for day in range(first, last) if day in held]
    return merge(found) if found else None


def _finding(each: Against, results: Sequence[Result], enough: bool) -> Finding:
    fired = [one for one in results if one.fired]
    if not fired:
        return Finding(False if enough else None)
    evidence, names = gravest(fired)
    return Finding(True, "warning", "world", f"Traffic differs from {each.words}, most of all in {names}.", evidence)


def _without_scores(table: Sketches) -> Sketches:
    """Only the columns that are no scores: those of another version mean something else."""
    kept = np.array([c for c, kind in enumerate(table.kinds) if kind != "score"], dtype=np.int64)
    if len(kept) == len(table.names):
        return table
    place = np.full(len(table.names), -1)
    place[kept] = np.arange(len(kept))
    tile, column = np.divmod(table.cells, len(table.names))
    mine = place[column] >= 0
    return replace(
        table,
        names=tuple(table.names[c] for c in kept),
        kinds=tuple(table.kinds[c] for c in kept),
        keys=pack_keys(tile[mine] * len(kept) + place[column[mine]], table.codes[mine]),
        counts=table.counts[mine],
        **{name: getattr(table, name)[:, kept] for name in ("nulls", "other", "low", "high", "sums", "squares")},
    )
