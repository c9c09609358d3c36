"""Every detector on every series inside the monitors: a model that is right for weeks, and then wrong in every way."""

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from monitors import sequential
from monitors.checkpoint import LAYOUT, CheckpointError
from monitors.detectors import DETECTORS
from monitors.evaluate import ModelMonitor
from monitors.incidents import Alert, Finding
from monitors.losses import sketch_losses
from monitors.reference import ColumnSpec, Null, Reference
from monitors.sequential import HOURLY, Sequential, SequentialSpec, SpecError, change, parse_specs
from monitors.series import SERIES, hourly
from monitors.settings import MonitorSettings
from monitors.sketches import Sketches, sketch_batch
from monitors.thresholds import build_reference
from monitors.watchers import Window

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FIRST_DAY = 20_000
ROWS_AN_HOUR = 30
CALM, WRONG = 28, 14
ALL = tuple(SequentialSpec(series, detector) for series in SERIES for detector in DETECTORS)
RISES = {"log_loss", "surprise", "error_rate"}


@dataclass(frozen=True)
class Traffic:
    scores: Sketches
    losses: Sketches

    def between(self, start_ms: int, end_ms: int) -> "Traffic":
        return Traffic(self.scores.between(start_ms, end_ms), self.losses.between(start_ms, end_ms))


def traffic(*wrong: bool) -> Traffic:
    """Days on which the model is right, or says no where nearly everything is yes."""
    rng = np.random.default_rng(5)
    rows = 24 * ROWS_AN_HOUR
    off = np.repeat(np.array(wrong), rows)
    z = rng.standard_normal(len(off))
    probability = np.where(off, expit(-3 + 0.5 * z), expit(0.7 * z))
    label = rng.random(len(off)) < np.where(off, 0.95, probability)
    times = FIRST_DAY * DAY_MS + np.arange(len(off)) * (DAY_MS // rows)
    scores = sketch_batch({"score": probability}, {"score": "score"}, times, HOUR_MS)
    return Traffic(scores, sketch_losses(probability, label, times))


@cache
def worsening() -> Traffic:
    return traffic(*[False] * CALM, *[True] * WRONG)


@cache
def thinned() -> Traffic:
    """Ten days with one request and one label an hour."""
    rng = np.random.default_rng(6)
    probability, times = expit(0.7 * rng.standard_normal(240)), at(0) + np.arange(240) * HOUR_MS
    scores = sketch_batch({"score": probability}, {"score": "score"}, times, HOUR_MS)
    return Traffic(scores, sketch_losses(probability, rng.random(240) < probability, times))


@cache
def reference(version: str = "1") -> Reference:
    before = traffic(*[False] * CALM)
    return build_reference("m", version, {"score": ColumnSpec("score")}, before.scores, before.losses, seed=0)


def at(hours: float) -> int:
    return FIRST_DAY * DAY_MS + round(hours * HOUR_MS)


def told(monitor: ModelMonitor, heard: Traffic, start: int, end: int, step: int = 24) -> tuple[list[Window], list]:
    """What is said of some hours, so many at a time."""
    windows, alerts = [], []
    for hour in range(start, end, step):
        part = heard.between(at(hour), at(min(hour + step, end)))
        monitor.add_sketches("1", part.scores)
        monitor.add_losses("1", part.losses)
        found = monitor.advance(at(min(hour + step, end)))
        windows += found[0]
        alerts += found[1]
    return windows, alerts


def new(*specs: SequentialSpec) -> ModelMonitor:
    settings = MonitorSettings(sequential=specs) if specs else MonitorSettings()
    return ModelMonitor("m", {"1": reference(), "2": reference("2")}.get, settings)


def days(windows: list[Window]) -> dict[int, dict[str, sequential.Result]]:
    """Results of the monitor by day, the first is 1, and name."""
    return {
        (window.window_end - at(0)) // DAY_MS: {f"{each.column}:{each.statistic}": each for each in window.results}
        for window in windows
        if window.monitor == "sequential"
    }


@cache
def heard_by_all() -> tuple[list[Window], list[Alert]]:
    return told(new(*ALL), worsening(), 0, 24 * (CALM + WRONG))


def fired(results: dict[int, dict[str, sequential.Result]], name: str) -> list[int]:
    return [day for day, each in results.items() if name in each and each[name].fired]


@pytest.mark.parametrize("name", [each.name for each in ALL])
def test_every_detector_of_every_series_finds_what_happened_and_nothing_before(name):
    results = days(heard_by_all()[0])
    found = fired(results, name)
    assert found
    assert found[0] > CALM
    usual = reference().series[name.partition(":")[0]].center
    calm, wrong = results[CALM][name], results[CALM + WRONG][name]
    assert calm.threshold == pytest.approx(usual, abs=0.03)
    assert calm.value == pytest.approx(usual, abs=0.08)
    assert abs(wrong.value - usual) > 0.3
    assert calm.count == 24 * ROWS_AN_HOUR


@pytest.mark.parametrize("name", [each.name for each in ALL if each.detector != "kswin"])
def test_a_fall_is_an_alert_only_where_it_means_something(name):
    """A model that is wrong from its first hour, and then becomes right."""
    results = days(heard_worse_first()[0])
    assert bool(fired(results, name)) == (name.partition(":")[0] not in RISES)


@cache
def heard_worse_first() -> tuple[list[Window], list[Alert]]:
    """By all but KSWIN, which needs three weeks of either."""
    specs = [each for each in ALL if each.detector != "kswin"]
    return told(new(*specs), traffic(*[True] * 14, *[False] * 21), 0, 24 * 35)


def test_restarts_and_batches_do_not_show():
    quick = {"alpha": 0.001, "window_size": 96, "stat_size": 24}
    specs = [replace(each, parameters=quick) if each.detector == "kswin" else each for each in ALL]
    end, settings = 24 * (CALM + 4), MonitorSettings(sequential=tuple(specs))
    expected = told(new(*specs), worsening(), 0, end)
    assert {each.monitor for each in expected[1]} >= {"sequential"}
    monitor, windows, alerts = new(*specs), [], []
    cuts = [0, 7, 24 * 9 + 5, 24 * 20, 24 * CALM + 15, end]  # in the middle of days and between them
    for start, stop in pairwise(cuts):
        found = told(monitor, worsening(), start, stop, step=11)
        windows, alerts = windows + found[0], alerts + found[1]
        restored = ModelMonitor.from_bytes(monitor.to_bytes(), {"1": reference()}.get, settings)
        assert restored.to_bytes() == monitor.to_bytes()
        monitor = restored
    assert (windows, alerts) == expected


def test_the_default_is_one_adwin_on_the_log_loss():
    windows, alerts = told(new(), worsening(), 0, 24 * (CALM + WRONG))
    mine, every = days(windows), days(heard_by_all()[0])
    assert {day: list(each) for day, each in mine.items()} == {day: ["log_loss:adwin"] for day in mine}
    assert all(each["log_loss:adwin"] == every[day]["log_loss:adwin"] for day, each in mine.items())
    opened = next(each for each in alerts if each.monitor == "sequential")
    found = mine[fired(mine, "log_loss:adwin")[0]]["log_loss:adwin"]
    text = f"The log loss has risen: {found.value:.3f} today where it was {found.threshold:.3f} before."
    assert (opened.summary, opened.severity, opened.cause, opened.segment) == (text, "warning", "world", "")
    (why,) = opened.evidence
    assert (why.column, why.statistic, why.value, why.threshold) == ("log_loss", "adwin", found.value, found.threshold)
    assert why.share == 1.0
    assert opened.estimated_harm == pytest.approx(found.value - reference().series["log_loss"].center)
    assert MonitorSettings().sequential[0].parameters == {
        "delta": 0.002,
        "clock": 1,
        "grace_period": 7,
        "min_window_length": 5,
    }


def test_what_fires_is_one_incident_that_says_so():
    _, alerts = heard_by_all()
    mine = [each for each in alerts if each.monitor == "sequential"]
    assert mine[0].status == "opened"
    assert len({each.incident_id for each in mine}) == 1
    named = {why.column for each in mine for why in each.evidence}
    assert named == set(SERIES)
    for each in mine:
        if each.evidence:
            assert sum(why.share for why in each.evidence) == pytest.approx(1)
            columns = list(dict.fromkeys(why.column for why in each.evidence))
            said = re.findall(r"The ([a-z ]+) has (risen|changed): -?\d", each.summary)
            verbs = {True: "risen", False: "changed"}
            assert said == [(SERIES[name].title, verbs[name in RISES]) for name in columns]


def test_days_without_enough_requests_or_labels_say_nothing():
    monitor = new(*ALL)
    windows, alerts = told(monitor, thinned(), 0, 24 * 10)
    assert set(map(len, days(windows).values())) == {0}
    assert [each for each in alerts if each.monitor == "sequential"] == []


def test_scores_are_heard_without_any_labels_and_labels_without_scores_of_the_model():
    monitor, unscored_monitor = new(*ALL), ModelMonitor("m", {"1": unscored()}.get, MonitorSettings(sequential=ALL))
    for day in range(8):
        part = worsening().between(at(24 * day), at(24 * day + 24))
        monitor.add_sketches("1", part.scores)
        bare = sketch_batch({"x": np.ones(1)}, {"x": "numeric"}, np.array([at(24 * day)]), HOUR_MS)
        unscored_monitor.add_sketches("1", bare)
        unscored_monitor.add_losses("1", part.losses)
    heard = days(monitor.advance(at(24 * 8))[0])[8]
    assert set(heard) == {f"score:{name}" for name in DETECTORS}
    heard = days(unscored_monitor.advance(at(24 * 8))[0])[8]
    assert set(heard) == {each.name for each in ALL if each.series != "score"}


@cache
def unscored() -> Reference:
    before = traffic(*[False] * CALM)
    times = before.scores.tiles
    x = sketch_batch({"x": np.ones(len(times))}, {"x": "numeric"}, times, HOUR_MS)
    return build_reference("m", "1", {"x": ColumnSpec("numeric")}, x, before.losses, seed=0)


def test_another_version_begins_anew_after_the_hour_that_both_answered_in():
    monitor, change = new(*parse_specs(["score:adwin"])), 24 * 3 + 6
    told(monitor, worsening(), 0, change)
    for version, part in (("1", 1), ("2", 18)):
        hours = worsening().between(at(change), at(change + part))
        monitor.add_sketches(version, hours.scores)
    heard = days(monitor.advance(at(24 * 4))[0])[4]
    assert heard["score:adwin"].count == 17 * ROWS_AN_HOUR
    assert heard["score:adwin"].threshold == heard["score:adwin"].value  # nothing was heard before


def test_other_detectors_after_a_restart_begin_anew_and_those_that_stay_go_on():
    first = new(*parse_specs(["log_loss:adwin", "score:kswin"]))
    told(first, worsening(), 0, 24 * 10)
    other = (
        SequentialSpec("log_loss", "adwin"),
        SequentialSpec("score", "kswin", {"window_size": 100, "stat_size": 30}),
        SequentialSpec("bias", "ddm"),
    )
    second = ModelMonitor.from_bytes(first.to_bytes(), {"1": reference()}.get, MonitorSettings(sequential=other))
    heard = days(told(second, worsening(), 24 * 10, 24 * 11)[0])[11]
    assert heard["log_loss:adwin"] == days(heard_by_all()[0])[11]["log_loss:adwin"]
    for name in ("score:kswin", "bias:ddm"):
        assert heard[name].threshold == heard[name].value


def test_an_older_layout_is_refused():
    payload = new().to_bytes()
    assert LAYOUT == 5
    for older in (3, 4):
        with pytest.raises(CheckpointError, match=f"layout 5, got bytes that start '{older << 1:02x}"):
            ModelMonitor.from_bytes(bytes([older << 1]) + payload[1:], {}.get)


def test_settings_differ_where_detectors_do():
    same = {MonitorSettings().version, MonitorSettings(sequential=parse_specs(["log_loss:adwin"])).version}
    assert len(same) == 1
    others = [parse_specs(["score:adwin"]), (SequentialSpec("log_loss", "adwin", {"delta": 0.01}),)]
    assert len(same | {MonitorSettings(sequential=each).version for each in others}) == 3


def test_what_is_no_series_or_detector_is_refused():
    for text, message in {
        "log_loss": "expected SERIES:DETECTOR, one of log_loss, .* with one of adwin, .*, got 'log_loss'",
        "auc:adwin": "expected as series one of log_loss, .*, score, got 'auc'",
        "score:": "expected as detector one of adwin, .*, got ''",
        "score:cusum": "expected as detector one of adwin, .*, page_hinkley, got 'cusum'",
    }.items():
        with pytest.raises(SpecError, match=message):
            parse_specs([text])
    with pytest.raises(SpecError, match="got more of score:ddm"):
        parse_specs(["score:ddm", "bias:ddm", "score:ddm"])
    with pytest.raises(SpecError, match="got more of score:ddm"):
        new(SequentialSpec("score", "ddm"), SequentialSpec("score", "ddm", {"warm_start": 7}))
    with pytest.raises(SpecError, match="expected parameters of river's"):
        SequentialSpec("score", "ddm", {"delta": 1})
    assert set(HOURLY) == set(DETECTORS)


DAY = Null("log_loss", 0.5, 0.1, 30.0, -np.inf, 1, "plain")


def test_a_change_is_cut_where_days_differ_most():
    found = change([0.5] * 20 + [0.8] * 4, DAY)
    assert (found.before, found.since, found.days) == pytest.approx((0.5, 0.8, 4))
    far = 0.3 / (0.1 * np.sqrt(1 / 20 + 1 / 4))
    assert found.chance == pytest.approx(23 * stats.t.sf(far, 30))
    assert change([0.5], DAY) is None


def test_only_a_rise_counts_where_sides_are_one():
    fell = [0.8] * 20 + [0.5] * 4
    assert change(fell, DAY).chance > 0.5
    assert change(fell, replace(DAY, sides=2)).chance < 0.01


@pytest.mark.parametrize("count", [2, 8, 40, 200])
@pytest.mark.parametrize("sides", [1, 2])
def test_the_chance_of_a_change_holds_while_nothing_changes(count, sides):
    rng = np.random.default_rng(count)
    null = Null("x", 0.0, 1.0, 1e6, -np.inf, sides, "plain")
    chances = np.array([change(row.tolist(), null).chance for row in rng.standard_normal((4000, count))])
    for level in (0.2, 0.05, 0.01):
        assert (chances <= level).mean() <= level + 3 * np.sqrt(level / 4000)
    if count == 2:  # one place to cut: nothing is given away
        assert (chances <= 0.05).mean() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("worse", "count", "told"), [(0.8, 1, 0), (0.72, 14, 1)])
def test_what_a_detector_finds_is_told_once_days_bear_it_out_and_never_without(worse, count, told):
    """Three deviations of a single day say little, two of each of a week are beyond chance."""
    means = [0.5, 0.45, 0.55, 0.5, 0.4, 0.6, 0.5] * 6 + [worse] * count + [0.5] * (14 - count)
    watched, looks, fired = Sequential(parse_specs(["log_loss:adwin"]), small_steps()), [], []

    def spend(chance):
        looks.append(chance)
        return 0.25 / 90

    for day, mean in enumerate(means):
        _, finding = watched.judge(at(24 * (day + 1)), losses_of(mean, day), small_steps(), spend)
        fired.append(finding.fired)
    assert sum(fired) == told
    proposed = next(day for day, chance in enumerate(looks) if chance < 1)
    assert proposed >= 42
    if told:
        assert proposed < fired.index(True) < 42 + 8


def losses_of(mean: float, day: int) -> Sketches:
    """A day of labels, all with this log loss, 20 an hour."""
    times = at(24 * day) + np.repeat(np.arange(24), 20) * HOUR_MS
    return sketch_losses(np.full(len(times), np.exp(-mean)), np.ones(len(times)), times)


def small_steps() -> Reference:
    """Days are like 0.5, give or take 0.1."""
    return replace(reference(), series={"log_loss": DAY})


def test_detectors_share_a_look():
    """Of two detectors each has half of what the look may spend, and the look tells the budget of both."""
    looks = []
    one, two = (Sequential(parse_specs(each)) for each in (["log_loss:adwin"], ["log_loss:adwin", "bias:adwin"]))
    assert one.judge(at(24), losses_of(0.5, 0), reference(), looks.append) == ((), Finding(None))
    assert two.judge(at(24), None, reference(), looks.append) == ((), Finding(None))
    assert looks == []
    levels = {}
    for specs in (["log_loss:adwin"], ["log_loss:adwin", "bias:adwin"]):
        watched, told = Sequential(parse_specs(specs), small_steps_of_both()), []
        for day in range(50):
            mean = 0.5 if day < 40 else 0.75
            watched.judge(at(24 * (day + 1)), losses_of(mean, day), reference(), lambda p, t=told: t.append(p) or 0.0)
        levels[len(specs)] = min(told)
    assert 0 < levels[1] < 0.01
    assert levels[2] == pytest.approx(2 * levels[1], rel=0.5)


def small_steps_of_both() -> Reference:
    return replace(reference(), series={"log_loss": DAY, "bias": replace(DAY, statistic="bias", spread=10.0, sides=2)})


def test_a_reference_knows_what_a_day_is_like():
    known = reference().series
    assert list(known) == list(SERIES)
    losses = traffic(*[False] * CALM).losses
    for name in ("log_loss", "bias", "error_rate"):
        days = hourly(name, losses).reshape(CALM, 24).mean(axis=1)
        assert known[name].center == pytest.approx(days.mean())
        assert 0.999 * days.std(ddof=1) <= known[name].spread < 2 * days.std(ddof=1)
    assert known["score"].center == pytest.approx(0.5, abs=0.01)
    assert Reference.from_bytes(reference().to_bytes()).series == known
