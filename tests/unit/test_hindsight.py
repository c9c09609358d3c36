"""What a policy was worth: declines, and who retrained in them, on months made by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from compose.lab_report import time_line
from monitors.hindsight import DAY_MS, MEASURES, Decline, Outcome, Reign, declines, judge, outcome
from monitors.losses import TILE_MS, sketch_losses
from monitors.reference import ColumnSpec, Null
from monitors.sketches import sketch_batch
from monitors.thresholds import build_reference

NULLS = (
    Null("log_loss", 0.5, 0.01, 20.0, -math.inf, 1, "plain"),
    Null("surprise", 0.0, 0.01, 20.0, -math.inf, 2, "plain"),
)
LABELS = 1000


def judged(excess, surprise=None, labels=LABELS, margin=0.001, reigns=None, rows_min=1000):
    """Days of so much log loss beyond the usual, and so much surprise: by default as much."""
    excess = np.asarray(excess, float)
    surprise = excess if surprise is None else np.asarray(surprise, float)
    counts = np.full(len(excess), labels)
    totals = np.stack([0.5 + excess, surprise], axis=1) * counts[:, None]
    return judge(0, counts, totals, reigns or [Reign(0, len(excess), NULLS)], rows_min, margin)


def step(before, during, after, by=0.1):
    return [0.0] * before + [by] * during + [0.0] * after


def days_of(found):
    return [(each.start_ms / DAY_MS, each.end_ms / DAY_MS) for each in found]


def test_a_decline_begins_and_ends_where_it_was_planted():
    (found,) = declines(judged(step(20, 10, 20)))
    assert days_of([found]) == [(20, 30)]
    assert found.sure
    assert found.harm == pytest.approx([0.1 * LABELS] * 10)


@pytest.mark.parametrize("days", [3, 6, 7, 8])
def test_a_short_one_does_too(days):
    assert days_of(declines(judged(step(20, days, 20)))) == [(20, 20 + days)]


def test_one_that_was_there_from_the_first_day_and_one_that_lasts_until_the_end():
    assert days_of(declines(judged(step(0, 12, 20)))) == [(0, 12)]
    assert days_of(declines(judged(step(20, 12, 0)))) == [(20, 32)]
    assert days_of(declines(judged(step(0, 14, 0)))) == [(0, 14)]


def test_as_usual_there_is_none():
    assert declines(judged(step(60, 0, 0))) == ()
    assert declines(judged([])) == ()
    assert declines(judged(step(0, 6, 0))) == (), "less than a week"


def test_a_week_has_to_be_worse_by_more_than_the_margin():
    assert len(declines(judged(step(20, 10, 20), margin=0.09))) == 1
    assert declines(judged(step(20, 10, 20), margin=0.11)) == ()


def test_better_than_usual_is_no_decline_though_it_is_as_strange():
    assert declines(judged(step(20, 10, 20, by=-0.1))) == ()


def test_either_measure_tells_and_the_larger_one_says_of_how_much():
    (found,) = declines(judged(step(20, 10, 20, by=-0.05), surprise=step(20, 10, 20, by=0.08)))
    assert (found.measure, sum(found.harm)) == ("surprise", pytest.approx(0.08 * 10 * LABELS))
    (found,) = declines(judged(step(20, 10, 20), surprise=step(20, 10, 20, by=0.0)))
    assert found.measure == "log_loss"


def test_a_few_days_between_two_weeks_do_not_part_them():
    for gap, parts in ((3, 1), (4, 2)):
        chance = np.full(40, 1.0)
        chance[[20, 21 + gap]] = 1e-9
        assert len(declines(replace(judged(step(14, 8 + gap, 18 - gap)), chance=chance))) == parts


def test_better_days_in_a_decline_do_not_make_up_for_worse_ones():
    (found,) = declines(judged([0.0] * 20 + [0.2, 0.2, -0.1, 0.2, 0.2, 0.2, 0.2] + [0.0] * 20))
    assert sum(found.harm) == pytest.approx(0.2 * 6 * LABELS)
    assert min(found.harm) == 0


def test_a_doubtful_week_makes_a_decline_that_is_not_sure():
    (found,) = declines(judged(step(100, 7, 100, by=0.033)))
    assert not found.sure
    (found,) = declines(judged(step(100, 7, 100, by=0.06)))
    assert found.sure


def test_weeks_with_few_labels_are_not_judged():
    days = judged(step(20, 10, 20), labels=140)
    assert np.isnan(days.chance).all()
    assert declines(days) == ()


def test_a_week_belongs_to_one_version_and_days_without_reference_to_none():
    days = judged(step(0, 40, 0), reigns=[Reign(10, 20, NULLS), Reign(20, 30, NULLS)])
    assert np.flatnonzero(np.isfinite(days.chance)).tolist() == [16, 17, 18, 19, 26, 27, 28, 29]
    assert days.nats[:10].sum() == days.nats[30:].sum() == 0
    assert days_of(declines(days)) == [(10, 20), (20, 30)]


def decline(start, end, nats=10.0, sure=True):
    return Decline(start * DAY_MS, end * DAY_MS, "surprise", sure, (nats,) * (end - start))


def came(found, *days, lead=7, span=(0, 100)):
    return outcome(found, [round(day * DAY_MS) for day in days], lead * DAY_MS, *(day * DAY_MS for day in span))


@pytest.mark.parametrize(
    ("day", "is_false"), [(32.9, True), (33, False), (40, False), (45, False), (50, False), (50.1, True)]
)
def test_a_retraining_is_for_nothing_unless_a_decline_is_under_way_or_near(day, is_false):
    assert bool(came([decline(40, 50)], day).false) == is_false


def test_a_decline_nobody_retrained_in_is_missed_whatever_was_before_and_after():
    found = came([decline(40, 50), decline(60, 70)], 35, 39.9, 62, 71)
    assert [each.start_ms for each in found.missed] == [40 * DAY_MS]
    assert found.delays_ms == (2 * DAY_MS,)
    assert found.false == (71 * DAY_MS,)


def test_the_delay_is_that_of_the_first_one_and_told_by_its_median():
    found = came([decline(10, 30), decline(40, 60), decline(70, 80)], 15, 20, 41, 79)
    assert [each / DAY_MS for each in found.delays_ms] == [5, 1, 9]
    assert found.delay_ms == 5 * DAY_MS
    assert came([decline(10, 30)]).delay_ms is None


def test_harm_is_done_until_a_retrained_model_answers():
    found = [decline(40, 60, nats=3.0)]
    assert came(found).harm == 60
    assert came(found, 42).harm == 3 * 9
    assert came(found, 42, 44).harm == 3 * 9
    assert came(found, 42.5).harm == 3 * 10, "a day that has begun"
    assert came(found, 58).harm == 60
    assert came(found, 39).harm == 60, "it knew nothing of it"


def test_a_doubtful_decline_excuses_and_is_held_against_nobody():
    found = came([decline(40, 50, sure=False)], 41)
    assert (found.false, found.missed, found.delays_ms, found.harm) == ((), (), (), 0)
    assert came([decline(40, 50, sure=False)]).missed == ()


def test_what_is_outside_the_span_does_not_count_but_excuses():
    declined = [decline(5, 15), decline(40, 50), decline(90, 99)]
    found = came(declined, 3, 12, 45, 95, span=(10, 80))
    assert found.retrains == (12 * DAY_MS, 45 * DAY_MS)
    assert (found.false, found.missed, found.harm) == ((), (), 100)
    assert came(declined, 80, span=(10, 80)).retrains == (80 * DAY_MS,), "decided by what was before"


def test_nothing_came_of_nothing():
    assert came([]) == Outcome((), (), (), (), 0)


def test_a_time_line_has_a_character_a_week():
    found = (decline(14, 28), decline(63, 69, sure=False))
    line = time_line(found, came(found, 24, 50), 0, 100 * DAY_MS)
    assert line == "..=R...F.-....."
    assert time_line((), came(()), 0, DAY_MS) == "."
    assert time_line(found, came(found, 100), 0, 100 * DAY_MS)[-1] == "F", "at the very end"


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_few_years_in_which_nothing_changes_have_a_sure_decline(memory):
    """Risks wander, and so does how well a model that is as it was fits them; a day resembles the one before or not."""
    years = [quiet_year(memory, seed) for seed in range(20)]
    assert sum(any(each.sure for each in year) for year in years) <= 5
    assert sum(map(len, years)) <= 20 * 5


def quiet_year(memory, seed, trained=31, daily=200):
    rng = np.random.default_rng(seed)
    days = trained + 365
    level = np.zeros(days)
    for day in range(1, days):
        level[day] = memory * level[day - 1] + math.sqrt(1 - memory**2) * rng.normal()
    day = np.repeat(np.arange(days), daily)
    odds = math.log(0.22 / 0.78) + 0.4 * level[day] + rng.normal(0, 0.7, len(day))
    score = 1 / (1 + np.exp(-odds))
    label = rng.random(len(day)) < 1 / (1 + np.exp(-odds - 0.2 * rng.normal(size=days)[day]))
    at = day * DAY_MS + rng.integers(0, DAY_MS, len(day))
    first = day < trained
    asked = sketch_batch({"score": score[first]}, {"score": "score"}, at[first], TILE_MS)
    spec = {"score": ColumnSpec("score")}
    reference = build_reference("m", "1", spec, asked, sketch_losses(score[first], label[first], at[first]), seed=seed)
    losses = sketch_losses(score, label, at).coarsen(DAY_MS)
    columns = [losses.names.index(name) for name in MEASURES]
    totals = losses.means[:, columns] * losses.non_null[:, columns]
    return declines(judge(0, losses.rows, totals, [Reign(trained, days, reference.losses)], 1000, 0.001))
