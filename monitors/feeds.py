"""The newest few hours against a reference: whether a feed is at fault. No state, no time of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from monitors.buckets import Floats, Ints
from monitors.incidents import Evidence, Finding
from monitors.profiles import Activity, count_outside, rows_where
from monitors.reference import Reference
from monitors.sketches import Sketches
from monitors.statistics import distance
from monitors.watchers import Result, weigh

__all__ = ["DataSettings", "Tally", "data_window", "tally"]

HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class DataSettings:
    """When a feed is at fault. Shares are of the rows of a data window.

    Attributes
    ----------
    rows_min, rows_few : int
        Fewest rows to judge by. At night 13 come in three hours; the last window of an evening has about 50. From
        `rows_few` on, two columns beyond `sure` are enough.
    likely, sure : float
        Two columns of a feed beyond `likely`, or one beyond `sure`, convict it. One alone is not enough: before dawn a
        single straggler of last night is all that an airport's 3-hour mean knows, up to 58% of a window's rows. Shares
        are of rows, not of values: where most are null the few left are such stragglers.
    nulls_usual_max : float
        Where null rates are usually higher they say nothing of a feed: before dawn most requests come ahead of the
        day's first departure, and whether 74% or, as on 14 December 2013, 96% do is a matter of minutes.
    volume : float
        Fewer requests than this part of the fewest ever seen at the hour are an outage.
    activity : Activity
        Features or requests that fall silent are the feed's fault only while labels still arrive. In the blizzard of
        8 February 2013 departures and arrivals ended together. What stops altogether is for the lag and throughput of
        jobs to show.
    companion : float
        Least KS or total variation at which another column of a convicted feed is named as well.
    columns_reported : int
        Columns of a window's results that did not fire: those nearest to it.
    """

    rows_min: int = 40
    rows_few: int = 10
    likely: float = 0.3
    sure: float = 0.7
    nulls_usual_max: float = 0.5
    volume: float = 0.5
    activity: Activity = field(default_factory=Activity)
    companion: float = 0.25
    columns_reported: int = 3


_STATISTICS: Final = ("null_rate", "outside_range", "unseen")


@dataclass(frozen=True)
class Tally:
    """Per tile, what a data window adds up.

    Attributes
    ----------
    tiles, rows : ndarray of int64, shape (T,)
    faults : ndarray of int64, shape (T, 3, C)
        Rows of each column that are null, outside its range, of a category unheard of.
    """

    tiles: Ints
    rows: Ints
    faults: Ints

    def between(self, start_ms: int, end_ms: int) -> "Tally":
        """Only the tiles that start in [start_ms, end_ms)."""
        first, last = np.searchsorted(self.tiles, [start_ms, end_ms])
        return Tally(self.tiles[first:last], self.rows[first:last], self.faults[first:last])


def tally(hours: Sketches, reference: Reference) -> Tally:
    """Count what is out of order in each tile, in the order of the reference's columns."""
    outside = count_outside(hours, reference.profile.range_low, reference.profile.range_high)
    return Tally(hours.tiles, hours.rows, np.stack([hours.nulls, outside, _unseen(hours, reference)], axis=1))


def data_window(
    window: Tally,
    sketches: Callable[[], Sketches],
    end_ms: int,
    still: bool,
    reference: Reference,
    settings: DataSettings,
) -> tuple[tuple[Result, ...], dict[str, Finding]]:
    """Judge the newest few hours: one finding for each feed, and one (of segment "") for the number of requests.

    Parameters
    ----------
    window : Tally
        Of the tiles of the window.
    sketches : callable
        Their sketches, asked for where a feed is at fault.
    end_ms : int
        End of the window, the end of an hour.
    still : bool
        See :meth:`monitors.reference.Activity.stands_still`.
    reference : Reference
    settings : DataSettings
    """
    hour = (end_ms // HOUR_MS - 1) % 24
    rows = int(window.rows.sum())
    volume, results = _volume(rows, float(reference.profile.rows_low[hour]), still, settings)
    findings = {"": volume}
    if rows < settings.rows_few:
        return results, findings | {source: Finding(None) for source in reference.feeds}
    value = window.faults.sum(axis=0) / rows
    usual = np.zeros_like(value)
    usual[0], usual[1] = reference.profile.null_high[hour], reference.profile.outside_high[hour]
    excess = value - usual
    excess[0][usual[0] > settings.nulls_usual_max] = 0.0
    if still:
        excess[0] = 0.0
    for source, columns in reference.feeds.items():
        suspects = (
            [
                (reference.merged.names[c], _STATISTICS[i], float(value[i, c]), float(usual[i, c]) + settings.likely)
                for i in range(len(_STATISTICS))
                for c in columns
                if excess[i, c] > settings.likely
            ]
            if excess[:, columns].max() > settings.likely
            else []
        )
        sure = {name for name, _, share, threshold in suspects if share - threshold > settings.sure - settings.likely}
        several = len({name for name, *_ in suspects}) > 1
        fired = len(sure) > 1 if rows < settings.rows_min else bool(sure) or several
        if fired:
            findings[source] = _convict(source, columns, suspects, sketches(), reference, settings)
            results += tuple(
                Result(name, source, statistic, share, threshold, None, rows, True)
                for name, statistic, share, threshold in suspects
            )
        else:
            findings[source] = Finding(False if rows >= settings.rows_min else None)
    return results + _nearest(value, usual, rows, {each.column for each in results}, reference, settings), findings


def _nearest(
    value: Floats, usual: Floats, rows: int, told: set[str], reference: Reference, settings: DataSettings
) -> tuple[Result, ...]:
    """The columns that came nearest to a fault without one."""
    results: list[Result] = []
    for at in np.argsort((usual - value).ravel(), kind="stable"):
        i, c = divmod(int(at), value.shape[1])
        name = reference.merged.names[c]
        if len(results) == settings.columns_reported or value[i, c] == 0:
            break
        if reference.columns[name].role == "monitored" and name not in told:
            threshold = min(float(usual[i, c]) + settings.likely, 1.0)
            source = reference.columns[name].source
            results.append(Result(name, source, _STATISTICS[i], float(value[i, c]), threshold, None, rows, False))
    return tuple(results)


def _volume(rows: int, usual: float, still: bool, settings: DataSettings) -> tuple[Finding, tuple[Result, ...]]:
    least = settings.volume * usual
    if usual < settings.rows_min:
        return Finding(None), ()
    few = rows < least
    fired = few and not still
    result = Result("", "", "rows", float(rows), least, None, rows, fired)
    if few and still:  # labels have ended too: traffic itself has
        return Finding(None), (result,)
    evidence = (Evidence("", "rows", float(rows), least, 1.0),)
    summary = f"Only {rows} requests where the quietest day had {usual:.0f}: the feed of requests is at fault."
    return Finding(fired, "critical", "data", summary, evidence) if fired else Finding(False), (result,)


def _unseen(window: Sketches, reference: Reference) -> Ints:
    """Rows of categories that their own column of the reference does not have, shape (T, C)."""
    merged, width = reference.merged, len(window.names)
    column, codes = window.cells % width, window.codes
    text = np.array([kind == "categorical" for kind in window.kinds])[column]
    position = {name: i for i, name in enumerate(merged.vocabulary)}
    code = np.array([position.get(name, -1) for name in window.vocabulary] or [-1])
    size = len(merged.vocabulary) + 1
    known = np.isin(
        column * size + code[np.where(text, codes, 0)], merged.cells % len(merged.names) * size + merged.codes
    )
    return rows_where(window, text & ~known)


def _convict(
    source: str,
    columns: Ints,
    suspects: Sequence[tuple[str, str, float, float]],
    window: Sketches,
    reference: Reference,
    settings: DataSettings,
) -> Finding:
    """One feed is at fault: what says so, and what else of it looks odd."""
    evidence = [*suspects, *_companions(columns, {name for name, *_ in suspects}, window, reference, settings)]
    return Finding(True, "critical", "data", _sentence(source, suspects, window, reference), weigh(evidence))


def _companions(
    columns: Ints, named: set[str], window: Sketches, reference: Reference, settings: DataSettings
) -> list[tuple[str, str, float, float]]:
    """Other columns of a convicted feed that are far from the reference, though each of their values is possible."""
    found = []
    for name in sorted({window.names[c] for c in columns} - named):
        statistic = "tv" if reference.columns[name].kind == "categorical" else "ks"
        value = distance(statistic, reference.usual[name], window.column(name))
        if value > settings.companion:
            found.append((name, statistic, value, settings.companion))
    return found


def _sentence(
    source: str, suspects: Sequence[tuple[str, str, float, float]], window: Sketches, reference: Reference
) -> str:
    names = ", ".join(dict.fromkeys(name for name, *_ in suspects))
    kinds = {statistic for _, statistic, *_ in suspects}
    feed = source or "a feed"
    if kinds == {"null_rate"}:
        return f"{feed} has fallen silent while labels still arrive: no values in {names}."
    if kinds == {"unseen"}:
        return f"{feed} sends categories never seen before in {names}."
    scale = [_scale(name, window, reference) for name, statistic, *_ in suspects if statistic == "outside_range"]
    factor = float(np.median([each for each in scale if each > 0] or [0.0]))
    unit = f"; those are about {factor:.0f} times as large as usual, as of another unit" if factor > 5 else ""
    return f"{feed} sends values beyond any plausible range in {names}{unit}."


def _scale(name: str, window: Sketches, reference: Reference) -> float:
    """How many times as large as usual the values beyond the range are: the ratio of median magnitudes."""
    c, column, profile = window.names.index(name), window.column(name), reference.profile
    beyond = (column.values < profile.range_low[c]) | (column.values > profile.range_high[c])
    usual = _median_magnitude(reference.usual[name].values, reference.usual[name].counts)
    return _median_magnitude(column.values[beyond], column.counts[beyond]) / usual if usual > 0 else 0.0


def _median_magnitude(values: Floats, counts: Ints) -> float:
    order = np.argsort(np.abs(values), kind="stable")
    cumulative = np.cumsum(counts[order])
    return float(np.abs(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])) if len(order) else 0.0
