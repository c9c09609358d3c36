"""The bench of alarms, in small: the budget is kept where it is kept, and the measure notices where it is not."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import poisson

from compose.bench import alarms, contestants, planted
from compose.bench.apart import uv_program
from monitors.budget import Budget
from monitors.evaluate import ModelMonitor
from monitors.settings import MonitorSettings
from monitors.thresholds import DAY_MS, build_reference

SIZES = alarms.Sizes(days=180)


@pytest.fixture(scope="module")
def streams() -> list[alarms.Stream]:
    """Four of each kind, the kinds in turn."""
    return [alarms.stream(kind, number, SIZES) for number in range(4) for kind in alarms.KINDS]


def within_budget(watched: list[alarms.Watched]) -> bool:
    """Whether incidents are no more than chance allows, twice over: a stream's own are not independent of each other,
    since all go by what one month has told of it."""
    told = alarms.summary(watched)["all"]
    return told["incidents"] <= 2 * poisson.ppf(0.999, told["budget_a_month"] * told["months"])


class FiftyTimes(Budget):
    """Spends fifty times what it says."""

    def look(self, time_ms: int, p_value: float, is_open: bool = False) -> float:
        return min(50 * super().look(time_ms, p_value, is_open), 1.0)


def narrow(*args, **named):
    """A reference that takes spreads for a third of what they are."""
    built = build_reference(*args, **named)

    def third(null):
        return replace(null, spread=null.spread / 3)

    return replace(
        built,
        nulls={name: tuple(map(third, each)) for name, each in built.nulls.items()},
        losses=tuple(map(third, built.losses)),
        series={name: third(each) for name, each in built.series.items()},
    )


def test_the_budget_is_kept(streams):
    watched = [alarms.watch(each) for each in streams]
    assert within_budget(watched)
    assert sum(each.count(alarms.MONITORS) for each in watched) > 0


def test_a_budget_overspent_is_noticed(streams, monkeypatch):
    monkeypatch.setattr(alarms, "Budget", FiftyTimes)
    assert not within_budget([alarms.watch(each) for each in streams[:3]])


def test_spreads_too_narrow_are_noticed_and_incidents_are_those_of_the_monitor(streams, monkeypatch):
    monkeypatch.setattr(alarms, "build_reference", narrow)
    watched = [alarms.watch(each) for each in streams[:3]]
    assert not within_budget(watched)
    one = replace(streams[1], days=60)
    told = alarms.watch(one)
    assert {monitor for monitor, *_ in told.opened} == set(alarms.MONITORS)
    assert list(told.opened) == monitored(one)


def monitored(one: alarms.Stream) -> list[tuple[str, int, bool]]:
    """What :class:`ModelMonitor` opens on the same stream, told a day at a time."""
    reference, opened = alarms.reference_of(one), []
    monitor = ModelMonitor("unchanged", {"1": reference}.get, MonitorSettings())
    for day in range(one.days):
        start = one.from_ms + day * DAY_MS
        monitor.add_sketches("1", one.features.between(start, start + DAY_MS))
        monitor.add_losses("1", one.losses.between(start, start + DAY_MS))
        _, said = monitor.advance(start + DAY_MS)
        opened += [(each.monitor, each.window_end, False) for each in said if each.status == "opened"]
    return [each for each in opened if each[0] in alarms.MONITORS]


def test_an_alarm_opens_once_and_ends_after_three_quiet_days():
    fired = np.array([[0, 1, 0, 0, 1, 0, 0, 0, 1, 1]], bool)
    opened, after = planted.episodes(fired)
    assert np.flatnonzero(opened[0]).tolist() == [1, 8]
    assert np.flatnonzero(~after[0]).tolist() == [0, 7]


def test_thresholds_let_through_as_many_alarms_as_allowed():
    scores = np.random.default_rng(0).random((64, planted.LOOKS))  # ten years
    found = planted.quietest(scores)
    assert planted.episodes(scores > found)[0].sum() == 9  # of 9.99
    assert planted.quietest(np.zeros((64, planted.LOOKS))) == 0.0


def test_power_counts_streams_that_were_quiet_before():
    first = planted.BEGINS - planted.WINDOW_DAYS + 1
    scores = np.zeros((4, planted.LOOKS))
    scores[0, first] = scores[1, first + 3] = 1
    scores[2, first - 1] = scores[2, first] = 1  # open before
    scores[3, first + planted.WITHIN_DAYS] = 1  # too late
    assert planted.power(scores, 0.5) == planted.Power(0.5, 1.5)
    always, never = np.ones((4, planted.LOOKS)), np.zeros((4, planted.LOOKS))
    assert planted.power(always, 0.5).found == planted.power(never, 0.5).found == 0


def test_what_one_threshold_makes_of_streams_of_two_noises_is_told_apart():
    first = planted.BEGINS - planted.WINDOW_DAYS + 1
    quiet, drifting = np.zeros((4, planted.LOOKS)), np.zeros((4, planted.LOOKS))
    quiet[1, 5] = drifting[1, first] = 1  # the second noise
    told = planted.by_noise({"it": {"numeric": quiet, "mean": drifting}}, {"numeric": {"it": {"threshold": 0.5}}}, 2)
    assert told == {"false_alarms": {"numeric": {"it": [0, 1]}}, "found": {"mean": {"it": [0.0, 0.5]}}}


@pytest.fixture(scope="module")
def jump():
    """One stream of numbers and one of texts that leap on the day on which drifts begin."""
    rng = np.random.default_rng(0)
    shape = (1, planted.REFERENCE_DAYS + planted.WATCHED_DAYS, planted.ROWS_A_DAY)
    numbers, texts = rng.standard_normal(shape), rng.integers(0, 7, shape).astype(np.int8)
    since = planted.REFERENCE_DAYS + planted.BEGINS
    numbers[:, since:] += 3
    texts[:, since:] = 7
    return {"numeric": numbers, "text": texts}


def on_the_day(scores: np.ndarray) -> bool:
    before = scores[:, : planted.BEGINS - planted.WINDOW_DAYS + 1].max()
    return planted.power(scores, before) == planted.Power(1.0, 0.0)


def test_every_detector_sees_a_leap_at_the_end_of_its_day(jump, tmp_path):
    for kind, rows in jump.items():
        ours, unfloored = contestants.headwater(rows, kind == "text")
        assert on_the_day(ours)
        assert on_the_day(unfloored)
        assert on_the_day(contestants.evidently(rows, kind == "text"))
        np.save(tmp_path / f"{kind}.npy", rows)
    for name, strength in (("ADWIN", 20), ("Page-Hinkley", 300)):
        assert on_the_day(contestants.river_fires(jump["numeric"], name, strength)), name
    uv, paths = uv_program(), {kind: tmp_path / f"{kind}.npy" for kind in jump}
    assert uv is not None
    with ThreadPoolExecutor(2) as pool:
        for scores in pool.map(lambda name: contestants._apart(uv, name, paths), contestants.APART):
            assert all(on_the_day(each) for each in scores.values())


def test_days_differ_as_the_population_says(tmp_path):
    for population, noise in planted.POPULATIONS.items():
        paths = planted.write_streams(tmp_path / population, population, 1, 24)
        numbers, texts = np.load(paths["numeric"]).mean(axis=-1), (np.load(paths["text"]) == 0).mean(axis=-1)
        by_chance = [1 / planted.ROWS_A_DAY, (1 / planted.CATEGORIES[0] - 1) / planted.ROWS_A_DAY]
        for levels, chance in zip((numbers, np.log(texts)), by_chance, strict=True):
            spread = levels.var(axis=1).reshape(-1, len(noise)).mean(axis=0) - chance
            # The log of a share has less noise than the log of what it is a share of.
            assert np.sqrt(spread) == pytest.approx(noise, rel=0.3)


@pytest.mark.parametrize("population", planted.POPULATIONS)
def test_ours_finds_what_is_sudden(population, tmp_path):
    paths = planted.write_streams(tmp_path, population, 6, 18)
    scores = {name: contestants.headwater(np.load(paths[name]), False)[0] for name in ("numeric", "sudden")}
    found = planted.compare({contestants.OURS: scores})["drifts"]
    assert found["sudden"][contestants.OURS].found >= 0.8


def test_everything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(alarms, "UNCHANGED", 4)
    for name, (strengths, detector) in contestants.RIVER.items():
        monkeypatch.setitem(contestants.RIVER, name, (strengths[::30], detector))
    found = alarms.measure(tmp_path, None, alarms.Sizes(streams=3, planted=2, days=14), lambda _: None)
    assert found["unchanged"]["weekly"]["features"]["looks"] == 8
    assert set(found["planted"]["populations"]) == set(planted.POPULATIONS)
    for told in found["planted"]["populations"].values():
        assert set(told["drifts"]) == set(told["verdicts"]) == {*planted.DRIFTS, "category"}
        assert all(each["headwater"]["found"] <= 1 for each in told["drifts"].values())
        assert all(each["alarms_a_year"] <= 1 for kind in told["thresholds"].values() for each in kind.values())
        assert "ADWIN" not in told["drifts"]["category"]
        parts = told["by_noise"]
        assert all(len(each) == len(told["noise"]) for each in parts["found"]["mean"].values())
    console = Console(width=80, record=True)
    for each in alarms.tables(found):
        console.print(each)
    shown = console.export_text()
    assert "sequential" in shown
    assert shown.count("Hinkley") == 2
    assert "differ by 0.05, 0.15 or 0.45" in " ".join(shown.split())
    assert "\u2026" not in shown  # nothing is cut off
