"""Five windows on one topic of payments: compiled, by hand in Flink SQL, and in Quix Streams; and what they keep.

Every way takes its turn within each repetition, and is held against another of the same repetition. A Flink job is
bounded: it reads what the topic holds and ends, so its time is Flink's own, from its first running task until the last
has ended, which is after the last row is committed; the start of its tasks, about a second, is in it for all. It ends
with what a quiet day makes: rows at every slide until the windows are empty. Quix Streams is timed from its first
record to its last commit, on the first records of the same topic, and is spared that end.

Two ways by hand, see :mod:`jobs.by_hand`; the compiled job is held against the faster. Before anything is timed, all
ways are run on few payments, which warms Java up, and their values are compared: a way that disagrees is not measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compose.bench.freshness import freshness
from compose.bench.payments import (
    ZIPF,
    Spans,
    accounts,
    active_tiles,
    event_topics,
    make_topics,
    payments,
    send,
    thickened,
)
from compose.bench.quix import quix_seconds, quix_values
from compose.bench.runs import Runs, State
from compose.bench.spread import Spread
from compose.local.home import PlatformError
from compose.local.platform import Platform

__all__ = ["Sizes", "agreement", "measure", "rates", "state"]

COMPILED, ROW, ROWS = "compiled", "by hand, one row", "by hand, a row a window"
SKEWED, OVER, QUIX = "compiled, Zipf keys", "OVER RANGE, Zipf keys", "Quix Streams"
_WAYS = {COMPILED: "compiled", ROW: "row", ROWS: "rows", SKEWED: "compiled", OVER: "over"}
# Name of a ratio: what of what, and at least how much it should be.
RATIOS = {
    "compiled to the faster by hand": (COMPILED, (ROW, ROWS), 0.9),
    "compiled to Quix Streams": (COMPILED, (QUIX,), 3.0),
    "Zipf keys to uniform keys": (SKEWED, (COMPILED,), 0.7),
    "compiled to OVER RANGE, Zipf keys": (SKEWED, (OVER,), 0.0),
}
# Of the live job. No divisors of its slide of a second: rows would meet the same moment of the interval every time.
CHECKPOINTS_MS = (970, 230)
EVEN, UNEVEN, FEW = "payments", "payments_zipf", "payments_few"
_ADDED_UP = 1e-9  # each adds up in an order of its own

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    events : int
        Payments of each topic.
    repeat : int
        How often every rate is measured.
    space : int
        Accounts there are.
    days : float
        Over which the payments are spread.
    few : int
        Payments on which the ways are compared before.
    quix : int
        Payments for Quix Streams, the first of those there are.
    over_s : float
        How long ``OVER RANGE`` may take.
    live : int
        Payments a second while freshness is measured.
    live_s : float
        Long enough for the tiles' ends to meet every moment of a checkpoint interval.
    spans : Spans
    """

    events: int
    repeat: int
    space: int = 100
    days: float = 3.0
    few: int = 2000
    quix: int = 2000
    over_s: float = 30.0
    live: int = 20_000
    live_s: float = 33.0
    spans: Spans = field(default_factory=Spans)


def measure(platform: Platform, uv: str | None, sizes: Sizes, tell: Tell) -> dict[str, Any]:
    """Measure everything on a running platform of its own.

    Parameters
    ----------
    platform : Platform
    uv : str or None
        Program that runs Quix Streams in an environment of its own; without it that is left out.
    sizes : Sizes
    tell : callable of str
        Is told what is being done.

    Raises
    ------
    PlatformError
        Where a job fails, or does not find what another does.
    """
    with Runs.on(platform) as runs:
        tell("comparing what each way finds")
        agreed = agreement(runs, platform.home.path("quix"), uv, sizes)
        measured = rates(runs, platform.home.path("quix"), uv, sizes, tell)
        tell("state")
        kept = state(runs, sizes)
        ages = []
        for checkpoint_ms in CHECKPOINTS_MS:
            tell(f"freshness, a checkpoint every {checkpoint_ms} ms")
            ages.append(asdict(freshness(runs, platform.home.path("online"), sizes.live, sizes.live_s, checkpoint_ms)))
    return {**asdict(sizes), "agreement": agreed, **measured, "state": kept, "freshness": ages}


def agreement(runs: Runs, folder: Path, uv: str | None, sizes: Sizes) -> dict[str, int]:
    """Run every way on few payments and compare their values with those of the compiled job.

    Returns
    -------
    dict of str to int
        Of each way, how many values were compared: all that it has.

    Raises
    ------
    PlatformError
        Where one differs, or has a row that the compiled job has not.
    """
    make_topics(runs.kafka, event_topics(FEW))
    send(runs.kafka, FEW, payments(accounts(np.random.default_rng(1), sizes.few, 20), sizes.days))
    found: dict[str, pd.DataFrame] = {}
    started = {name: runs.start(_WAYS[name], FEW, sizes.spans) for name in (COMPILED, ROW, ROWS)}
    for name, run in started.items():
        runs.seconds(run)
        found[name] = _values(runs.rows(run))
    runs.end(*started.values())
    if uv is not None:
        quix_seconds(runs.kafka, uv, folder, FEW, sizes.few, sizes.spans, "quix_few")
        found[QUIX] = quix_values(runs.kafka, "quix_few")
    compiled = found.pop(COMPILED)
    return {name: _compared(name, compiled, each) for name, each in found.items()}


def rates(runs: Runs, folder: Path, uv: str | None, sizes: Sizes, tell: Tell) -> dict[str, Any]:
    """Payments a second of each way, the ratios of :data:`RATIOS`, and how far ``OVER RANGE`` came the last time."""
    tell("writing payments")
    make_topics(runs.kafka, [*event_topics(EVEN), *event_topics(UNEVEN)])
    for topic, exponent in ((EVEN, 0.0), (UNEVEN, ZIPF)):
        keys = accounts(np.random.default_rng(0), sizes.events, sizes.space, exponent)
        send(runs.kafka, topic, payments(keys, sizes.days))
    taken: list[dict[str, float]] = []
    rows: dict[str, int] = {}
    names = [*_WAYS, *([QUIX] if uv else [])]
    for number in range(sizes.repeat):
        taken.append({})
        at = number % len(names)
        for name in [*names[at:], *names[:at]]:
            tell(f"repetition {number + 1} of {sizes.repeat}: {name}")
            if name == QUIX and uv:
                count, rows_topic = min(sizes.quix, sizes.events), f"quix_{number}"
                seconds = quix_seconds(runs.kafka, uv, folder, EVEN, count, sizes.spans, rows_topic)
                taken[-1][name] = count / seconds
            else:
                taken[-1][name], rows[name] = _rate(runs, name, sizes)
    return {
        "rates": {name: Spread.of([each[name] for each in taken]) for name in names},
        "rows": rows,
        "over_share": rows[OVER] / len(sizes.spans.windows_s) / sizes.events,
        "ratios": _ratios(taken),
    }


def state(runs: Runs, sizes: Sizes) -> list[dict[str, Any]]:
    """What checkpoints hold of some payments; of four times as many on the same tiles; and on tiles of their own."""
    count, rng = max(sizes.events // 4, 1), np.random.default_rng(2)
    thin = payments(accounts(rng, count, sizes.space), sizes.days)
    thick = thickened(thin, 4, sizes.spans)
    wide = payments(accounts(rng, 4 * count, sizes.space), sizes.days)
    frames = {"payments_thin": thin, "payments_thick": thick, "payments_wide": wide}
    for topic, frame in frames.items():
        make_topics(runs.kafka, event_topics(topic))
        send(runs.kafka, topic, frame)
    started = [
        (way, runs.start(_WAYS[way], topic, sizes.spans, bounded=False)) for topic in frames for way in (COMPILED, ROW)
    ]
    sizes_found = runs.states([run for _, run in started])
    runs.end(*(run for _, run in started))
    return [
        {"way": way, **_kept(frames[run.topic], sizes.spans, size)}
        for (way, run), size in zip(started, sizes_found, strict=True)
    ]


def _kept(frame: pd.DataFrame, spans: Spans, size: State) -> dict[str, Any]:
    keys, tiles = frame.account.nunique(), active_tiles(frame, spans)
    return {
        "events": len(frame),
        "keys": keys,
        "active_tiles": tiles,
        **asdict(size),
        "bytes_per_key": size.state_bytes / keys,
        "bytes_per_key_and_window": size.state_bytes / keys / len(spans.windows_s),
        "bytes_per_tile": size.state_bytes / tiles,
    }


def _rate(runs: Runs, name: str, sizes: Sizes) -> tuple[float, int]:
    """Payments a second, and rows; of ``OVER RANGE``, which has one for each payment and window, what it came to."""
    run = runs.start(_WAYS[name], UNEVEN if name in (SKEWED, OVER) else EVEN, sizes.spans)
    seconds = runs.seconds(run, sizes.over_s) if name == OVER else runs.seconds(run)
    rows = runs.count(run)
    runs.end(run)
    done = rows / len(sizes.spans.windows_s) if name == OVER else sizes.events
    return done / seconds, rows


def _ratios(taken: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Within each repetition, since the machine's moods are the same for all of it; against the fastest of several."""
    told = {}
    for name, (mine, others, aim) in RATIOS.items():
        against = [each for each in others if each in taken[0]]
        if against:
            limits = [max(run[each] for each in against) for run in taken]
            some = [run[mine] / limit for run, limit in zip(taken, limits, strict=True) if limit]
            told[name] = {"ratio": Spread.of(some) if some else None, "aim": aim}
    return told


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    """One value a row: account, event_time, feature, value; those that are null left out."""
    frame = rows.drop(columns="watermark").melt(["account", "event_time"], var_name="feature")
    return frame.dropna().assign(value=lambda each: each.value.astype(float))


def _compared(name: str, compiled: pd.DataFrame, other: pd.DataFrame) -> int:
    both = other.merge(compiled, "left", ["account", "event_time", "feature"], suffixes=("", "_compiled"))
    bad = both[~np.isclose(both.value, both.value_compiled, rtol=_ADDED_UP, atol=0)]
    if len(bad) or not len(both):
        example = bad.iloc[0].to_dict() if len(bad) else "nothing at all"
        raise PlatformError(f"{name}: {len(bad):,} of {len(both):,} values are not the compiled job's: {example}")
    return len(both)
