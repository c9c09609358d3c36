"""A week against other days of the same traffic: found, told, forgotten again, and the same however it is heard."""

from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from compose.bench import alarms
from monitors.budget import MONTH_DAYS, Budget
from monitors.drawing import Calibration, draw_pairs
from monitors.evaluate import ModelMonitor
from monitors.incidents import Alert, IncidentBook
from monitors.losses import sketch_losses
from monitors.policy import State, Version, decide, load_policy
from monitors.reference import ColumnSpec, Reference
from monitors.settings import MonitorSettings
from monitors.shift import PAIRS_DAYS, Against, AgainstError, Shift, parse_against
from monitors.sketches import Sketches, sketch_batch
from monitors.thresholds import DAY_MS, HOUR_MS, build_reference
from monitors.watchers import Window

FIRST_DAY = 20_006  # 2024-10-10
ROWS_AN_HOUR = 20
TRAINED, DAYS, CHANGE = 28, 120, 60
FIXED = "2024-10-10..2024-11-14"
REFERENCES = ("trailing:28d", "earlier:7d", FIXED)
SPECS = {
    "amount": ColumnSpec("numeric"),
    "channel": ColumnSpec("categorical"),
    "probability": ColumnSpec("score"),
    "weather": ColumnSpec("numeric", role="context"),
}
KINDS = {name: spec.kind for name, spec in SPECS.items()}


def at(day: float) -> int:
    return (FIRST_DAY * 24 + round(day * 24)) * HOUR_MS


def day_of(time_ms: int) -> float:
    return (time_ms - at(0)) / DAY_MS


@cache
def traffic(change: int = CHANGE, missing: int = -1, days: int = DAYS) -> Sketches:
    """Amounts are higher from a day on, for good; weather and scores are always elsewhere; a day may be missing."""
    rng = np.random.default_rng(3)
    times = at(0) + np.arange(days * 24 * ROWS_AN_HOUR) * (HOUR_MS // ROWS_AN_HOUR)
    day = (times - at(0)) // DAY_MS
    columns = {
        "amount": rng.lognormal(3, 1, len(times)) * np.where(day >= change, 2.0, 1.0),
        "channel": rng.choice(["web", "shop"], len(times)),
        "probability": (rng.random(len(times)) + day % 2) / 2,
        "weather": day + rng.random(len(times)),
    }
    kept = day != missing
    return sketch_batch({name: each[kept] for name, each in columns.items()}, KINDS, times[kept], HOUR_MS)


@cache
def reference(version: str = "1") -> Reference:
    before = traffic().between(at(0), at(TRAINED))
    times = before.tiles
    losses = sketch_losses(np.full(len(times), 0.3), np.arange(len(times)) % 3 == 0, times)
    return build_reference("m", version, SPECS, before, losses, seed=0)


def known(version: str) -> Reference | None:
    return reference(version) if version in "12" else None


def new(*texts: str, **settings: float) -> ModelMonitor:
    return ModelMonitor("m", known, MonitorSettings(against=parse_against(texts), **settings))


Told = tuple[list[Window], list[Alert]]


def told(monitor: ModelMonitor, heard: Sketches, start: int, end: int, version: str = "1", step: int = 24) -> Told:
    """What is said of some hours, so many at a time."""
    windows, alerts = [], []
    for hour in range(start, end, step):
        until = at(min(hour + step, end) / 24)
        monitor.add_sketches(version, heard.between(at(hour / 24), until))
        found = monitor.advance(until)
        windows, alerts = windows + found[0], alerts + found[1]
    return windows, alerts


@cache
def heard() -> Told:
    return told(new(*REFERENCES), traffic(), 0, 24 * DAYS)


def of(alerts: list[Alert], segment: str) -> list[tuple[str, float]]:
    """Status of its alerts and the day at whose beginning each was raised."""
    return [(each.status, day_of(each.window_end)) for each in alerts if each.segment == segment]


def shift(windows: list[Window]) -> dict[float, list]:
    return {day_of(each.window_end): list(each.results) for each in windows if each.monitor == "shift"}


def fired(results: dict[float, list], text: str) -> list[float]:
    """Days on which something was beyond its threshold."""
    return [day for day, found in results.items() if any(each.fired and each.segment == text for each in found)]


def test_a_change_is_news_to_trailing_days_until_it_is_usual():
    (opened, day), (resolved, end) = of(heard()[1], "trailing:28d")
    assert (opened, resolved) == ("opened", "resolved")
    assert CHANGE < day <= CHANGE + 5
    assert CHANGE + 7 < end <= CHANGE + 38
    alert = next(each for each in heard()[1] if each.segment == "trailing:28d")
    assert (alert.monitor, alert.cause, alert.severity) == ("shift", "world", "warning")
    assert alert.summary == "Traffic differs from the 28 days before it, most of all in amount."
    assert {each.column for each in alert.evidence} == {"amount"}
    assert sum(each.share for each in alert.evidence) == pytest.approx(1)


def test_a_change_is_news_to_the_week_before_for_a_week():
    (opened, day), (resolved, end) = of(heard()[1], "earlier:7d")
    assert (opened, resolved) == ("opened", "resolved")
    assert CHANGE < day <= CHANGE + 6
    assert CHANGE + 7 < end <= CHANGE + 18


def test_to_a_fixed_span_it_stays_news_and_an_epoch_later_it_is_a_new_incident():
    found = of(heard()[1], FIXED)
    assert [status for status, _ in found] == ["opened", "resolved", "opened", "resolved", "opened"]
    assert [round(day - found[0][1]) for _, day in found] == [0, 28, 28, 56, 56]
    assert fired(shift(heard()[0]), FIXED) == list(range(round(found[0][1]), DAYS + 1))
    words = {each.summary for each in heard()[1] if each.segment == FIXED and each.status == "opened"}
    assert words == {"Traffic differs from that of 2024-10-10 to 2024-11-13, most of all in amount."}


def test_it_is_judged_once_its_days_have_been_heard():
    begun = {text: min(day for day, found in shift(heard()[0]).items() if text in {r.segment for r in found})
             for text in REFERENCES}  # fmt: skip
    assert begun["trailing:28d"] == 28 + 7
    assert begun[FIXED] == 35 + 7
    # 35 days to draw pairs from at least, as of the last day that thresholds were drawn on.
    assert 35 + 7 <= begun["earlier:7d"] < 35 + 7 + 7


def test_scores_are_left_out_and_context_never_fires():
    results = [each for found in shift(heard()[0]).values() for each in found]
    assert {each.column for each in results} == {"amount", "channel", "weather"}
    assert {each.column for each in results if each.fired} == {"amount"}
    assert max(each.value for each in results if (each.column, each.statistic) == ("weather", "ks")) > 0.99


def test_without_references_nothing_is_looked_at_or_held():
    plain, more = new(), new(*REFERENCES)
    found, others = (told(each, traffic(), 0, 24 * 50)[0] for each in (plain, more))
    assert [each.monitor for each in found] == [each.monitor for each in others if each.monitor != "shift"]
    assert len([each for each in others if each.monitor == "shift"]) == 50
    assert len(plain.to_bytes()) < len(more.to_bytes()) / 3


def test_each_reference_looks_once_a_day_and_all_spend_from_one_budget():
    looks = {}
    for texts in ((), REFERENCES):
        windows, _ = told(new(*texts), traffic(), 0, 24 * 55)  # of the three only features has anything to look at
        spent = next(each for each in windows[::-1] if each.monitor == "budget").results[0]
        looks[texts] = (spent.count, spent.value)
    allowed = MonitorSettings().false_retrains_a_month
    share = {texts: allowed / MONTH_DAYS / (3 + len(texts)) for texts in looks}
    assert looks[()] == (30, pytest.approx(30 * share[()]))
    judged = 30 + sum(55 - first + 1 for first in (35, 42, 42))
    assert looks[REFERENCES] == (judged, pytest.approx(judged * share[REFERENCES]))


def test_batches_order_and_restarts_do_not_show():
    end = 24 * 75
    expected = told(new(*REFERENCES), traffic(), 0, end)
    assert {each.segment for each in expected[1] if each.monitor == "shift"} == set(REFERENCES)
    monitor, windows, alerts = new(*REFERENCES), [], []
    for start, stop in pairwise([0, 24 * 30 + 5, 24 * 47, 24 * 63 + 7, end]):  # within weeks of thresholds, and days
        found = told(monitor, traffic(), start, stop, step=31)
        windows, alerts = windows + found[0], alerts + found[1]
        restored = ModelMonitor.from_bytes(monitor.to_bytes(), known, monitor.settings)
        assert restored.to_bytes() == monitor.to_bytes()
        monitor = restored
    assert (windows, alerts) == expected
    backwards = new(*REFERENCES)
    for day in range(74, -1, -1):
        backwards.add_sketches("1", traffic().between(at(day), at(day + 1)))
    assert backwards.advance(at(75)) == expected
    assert backwards.to_bytes() == monitor.to_bytes()


def test_what_is_held_does_not_grow():
    monitor, sizes = new("trailing:28d", "earlier:7d"), []
    for day in range(0, 100, 10):
        told(monitor, traffic(), 24 * day, 24 * (day + 10))
        sizes.append(len(monitor.to_bytes()))
    assert max(sizes[6:]) < 1.05 * sizes[5]


def test_other_references_after_a_restart_start_with_what_was_held():
    first = new("trailing:28d")
    told(first, traffic(), 0, 24 * 45)
    second, none = (
        ModelMonitor.from_bytes(first.to_bytes(), known, MonitorSettings(against=parse_against(texts)))
        for texts in (["trailing:14d", "trailing:56d"], [])
    )
    found = shift(told(second, traffic(), 24 * 45, 24 * 46)[0])[46]
    assert {each.segment for each in found} == {"trailing:14d"}
    told(none, traffic(), 24 * 45, 24 * 46)
    assert len(none.to_bytes()) < len(first.to_bytes()) / 2


def test_the_prior_is_not_judged_and_what_it_was_asked_counts_for_the_model_after_it():
    monitor = new("trailing:28d")
    before, alerts = told(monitor, traffic(), 0, 24 * 62, version="prior")
    assert len(shift(before)) == 62
    assert not any(shift(before).values())
    assert alerts == []
    after = shift(told(monitor, traffic(), 24 * 62, 24 * 63)[0])
    assert {each.segment for each in after[63]} == {"trailing:28d"}
    judged = {(each.column, each.statistic): each for each in after[63]}
    whole = {(each.column, each.statistic): each for each in shift(heard()[0])[63] if each.segment == "trailing:28d"}
    assert {key: each.value for key, each in judged.items()} == {key: each.value for key, each in whole.items()}


def test_an_incident_outlives_the_version_and_is_over_when_traffic_is_usual():
    monitor = new("trailing:28d")
    told(monitor, traffic(), 0, 24 * 66)
    windows, alerts = told(monitor, traffic(), 24 * 66, 24 * 90, version="2")
    assert {each.model_version for each in windows if each.monitor == "shift"} == {"2"}
    assert ("resolved", 66 + 1 / 24) in of([each for each in alerts if each.monitor == "features"], "")
    opened, resolved = of(told(new("trailing:28d"), traffic(), 0, 24 * 90)[1], "trailing:28d")
    assert opened[1] < 66 < resolved[1]
    assert of(alerts, "trailing:28d") == [resolved]


def test_a_version_with_other_columns_starts_anew():
    table, fewer = traffic(), {name: spec for name, spec in SPECS.items() if name != "channel"}
    values = {"amount": np.ones(DAYS * 24), "weather": np.ones(DAYS * 24), "probability": np.ones(DAYS * 24) / 2}
    other = sketch_batch(values, {name: KINDS[name] for name in fewer}, table.tiles, HOUR_MS)
    other = replace(other, rows=other.rows * ROWS_AN_HOUR, counts=other.counts * ROWS_AN_HOUR)
    versions = {"1": reference(), "2": replace(reference("2"), columns=fewer)}
    monitor = Shift(parse_against(["trailing:28d"]), 1000)
    judged = {}
    for day in range(100):
        monitor.add((table if day < 40 else other).between(at(day), at(day + 1)).coarsen(DAY_MS))
        version = versions["1" if day < 40 else "2"]
        judged[day + 1], _ = monitor.judge(at(day + 1), version, 0.001, lambda *_: 0.001)
        monitor.forget(at(day + 1))
    assert [day for day, results in judged.items() if results] == [*range(35, 41), *range(40 + 35, 101)]
    assert {each.column for each in judged[100]} == {"amount", "weather"}
    assert 7 + 28 - 1 <= len(monitor.state()) <= 7 + 28 + 6 - 1  # what the next window needs, but for the day to come


def test_a_week_that_misses_a_day_is_not_judged_and_neither_is_a_week_compared_with_it():
    day, found = 57, shift(told(new("trailing:28d", "earlier:7d"), traffic(missing=57), 0, 24 * 74)[0])
    whole = shift(heard()[0])
    assert fired(whole, "trailing:28d")[0] < day + 8 == fired(found, "trailing:28d")[0]
    assert day + 8 in fired(whole, "earlier:7d")
    assert not [each for each in fired(found, "earlier:7d") if each < day + 15]
    sparse = new("trailing:28d", rows_min=7 * 24 * ROWS_AN_HOUR + 1)
    assert not any(each.fired for results in shift(told(sparse, traffic(), 0, 24 * 70)[0]).values() for each in results)


def test_windows_of_a_pair_have_every_weekday_once_and_no_day_in_common():
    days = np.arange(FIRST_DAY, FIRST_DAY + PAIRS_DAYS)
    one, other = draw_pairs(days, Calibration(), np.random.default_rng(0))
    assert one.shape == other.shape == (Calibration.replicates, PAIRS_DAYS)
    for weights in (one, other):
        assert weights.max() == 1
        assert all((weights[:, days % 7 == weekday].sum(axis=1) == 1).all() for weekday in range(7))
    assert not (one * other).any()
    assert (one.sum(axis=0) > 0).all()


def look(budget: Budget, end_ms: int, is_open: bool, p_value: float, _: str) -> float:
    return budget.look(end_ms, p_value, is_open)


@pytest.mark.parametrize("text", ["trailing:28d", "earlier:7d"])
def test_alarms_of_streams_that_never_change_keep_to_the_budget(text):
    """Days that resemble the ones before are the hardest; where the floor of distances hides nothing."""
    sizes, opened, months, chances = alarms.Sizes(days=150), 0, 0.0, []
    patience = MonitorSettings().patience["shift"]
    for number in range(6):
        stream = alarms.stream("together", number, sizes)
        monitor, version = Shift(parse_against([text]), 1000), alarms.reference_of(stream)
        budget, book = Budget(0.25, 1, 7), IncidentBook("m", "p")
        for end in range(stream.from_ms - 34 * DAY_MS, stream.from_ms + (sizes.days + 1) * DAY_MS, DAY_MS):
            monitor.add(stream.features.between(end - DAY_MS, end).coarsen(DAY_MS))
            spend = partial(look, budget, end, book.is_open("shift", text))
            results, findings = monitor.judge(end, version, budget.usual, spend)
            monitor.forget(end)
            months += (findings[text].fired is not None) / MONTH_DAYS
            chances += [each.p_value for each in results if each.statistic == "ks"]
            told = book.judge("1", "shift", text, (end - 7 * DAY_MS, end), findings[text], patience)
            opened += sum(each.status == "opened" for each in told)
    assert months > 25
    assert opened / months <= 2 * 0.25  # a quarter is to be expected; this many by chance in one of hundreds
    assert 0.02 < np.mean(np.array(chances) < 0.1) < 0.25


def test_a_policy_may_have_it_retrain(tmp_path: Path):
    alert = next(each for each in heard()[1] if each.segment == "trailing:28d").record()
    state = State(versions=(Version("prior", 0), Version("1", 1)))
    file = tmp_path / "policy.yaml"
    file.write_text("version: a\nmonitors: {expected: [data, features, shift], retrain: [shift]}\n")
    assert decide(load_policy(file), state, alert).action == "retrain"
    stock = decide(load_policy(), state, alert)
    assert (stock.action, stock.reason) == ("ignore", "monitor shift may not retrain")


def test_a_text_says_what_is_meant_and_one_reference_has_one_name():
    found = parse_against(["trailing:28d", "earlier:168h", "2013-01-01T00:00..2013-02-01"])
    assert found == (Against("trailing", 28), Against("earlier", 7), Against("fixed", 31, 15706))
    assert [each.text for each in found] == ["trailing:28d", "earlier:7d", "2013-01-01..2013-02-01"]
    assert parse_against([each.text for each in found]) == found
    assert MonitorSettings(against=found).version != MonitorSettings().version


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["training"], r"expected trailing:DURATION, earlier:DURATION or FROM..TO, such as .*, got 'training'"),
        (["trailing:13d"], "trailing:13d: expected whole days, 14 d to 400 d, got 13d"),
        (["trailing:30h"], "expected whole days"),
        (["trailing:401d"], "expected whole days, 14 d to 400 d"),
        (["earlier:1d"], "earlier:1d: expected whole days, 7 d to 400 d, got 1d"),
        (["earlier:soon"], "earlier: expected a duration such as"),
        (["2013-01-01..2013-01-14"], r"expected whole days, UTC, 14 to 400 of them"),
        (["2013-02-01..2013-01-01"], "the first before the last"),
        (["2013-01-01T06:00..2013-02-01"], "expected whole days, UTC"),
        (["2013-01-01..2013-02-30"], r"got '2013-01-01\.\.2013-02-30'"),
        (["trailing:28d", "trailing:672h"], "expected each reference once, got more of trailing:28d"),
    ],
)
def test_what_is_no_reference_is_refused(texts, message):
    with pytest.raises(AgainstError, match=message):
        parse_against(texts)
