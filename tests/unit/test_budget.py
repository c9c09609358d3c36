"""What a budget spends, what it earns back, and that it survives a checkpoint."""

import numpy as np
import pytest

from monitors.budget import DAY_MS, Budget, BudgetError

LOOKS = 2


def new(a_month: float = 0.25) -> Budget:
    return Budget(a_month, LOOKS, 7)


def play(budget: Budget, days: range, p_values: float | np.ndarray) -> None:
    chances = np.broadcast_to(p_values, (len(days), LOOKS))
    for day, row in zip(days, chances, strict=True):
        for chance in row.tolist():
            budget.look(day * DAY_MS, chance)


@pytest.mark.parametrize("a_month", [0.02, 0.25, 0.9])
def test_a_month_of_looks_without_findings_spends_the_budget(a_month):
    budget = new(a_month)
    play(budget, range(100, 160), 1.0)
    assert budget.spent(159 * DAY_MS) == pytest.approx(a_month)
    assert budget.looks(159 * DAY_MS) == 30 * LOOKS
    assert budget.usual == pytest.approx(a_month / 30 / LOOKS)


def test_false_alarms_of_looks_that_hang_together_keep_to_it():
    """Chances of a random walk's steps, each uniform by itself: the worst case of windows that overlap."""
    rng = np.random.default_rng(0)
    alarms, months = 0, 0
    for _ in range(40):
        budget, found = new(0.5), 0
        for day in range(30 * 12):
            if day % 7 == 0:
                held = rng.random()  # a week of looks that all see the same
            found += held <= budget.look(day * DAY_MS, held)
            budget.look(day * DAY_MS, 1.0)
        alarms, months = alarms + found, months + 12
    # Only features can find anything here: half the budget, plus what its own findings earn.
    assert 0.1 < alarms / months < 0.5


def test_a_finding_earns_some_of_it_back_and_not_before_its_window_has_passed():
    quiet, lucky = new(), new()
    play(quiet, range(60), 1.0)
    play(lucky, range(60), 1.0)
    levels = {"quiet": [], "lucky": []}
    for day in range(60, 90):
        for name, budget in (("quiet", quiet), ("lucky", lucky)):
            chance = 0.0 if name == "lucky" and day == 60 else 1.0
            levels[name].append(budget.look(day * DAY_MS, chance))
            budget.look(day * DAY_MS, 1.0)
    more = np.array(levels["lucky"]) - np.array(levels["quiet"])
    assert (more[:7] == 0).all()
    assert (more[8:] > 0).all()
    assert more.sum() < quiet.a_month
    assert lucky.found(89 * DAY_MS) == 1
    assert quiet.found(89 * DAY_MS) == 0


def test_it_goes_on_from_a_checkpoint_and_takes_a_changed_budget_from_the_next_look_on():
    first = new()
    play(first, range(10), np.random.default_rng(1).random((10, LOOKS)) ** 4)
    again, changed = new(), new(0.5)
    again.restore(first.state())
    changed.restore(first.state())
    assert again.state() == first.state()
    assert changed.spent(9 * DAY_MS) == first.spent(9 * DAY_MS)
    levels = [each.look(10 * DAY_MS, 1.0) for each in (first, again, changed)]
    assert levels[0] == levels[1]
    assert levels[2] == pytest.approx(2 * levels[0])


@pytest.mark.parametrize("a_month", [0.0, 1.0, -1.0, float("nan")])
def test_a_budget_that_cannot_be_kept_is_refused(a_month):
    with pytest.raises(BudgetError, match="more than 0 and less than 1"):
        new(a_month)


def test_an_open_incident_spends_nothing():
    budget = new()
    assert budget.look(DAY_MS, 0.0, is_open=True) == budget.usual
    assert (budget.looks(DAY_MS), budget.found(DAY_MS)) == (0, 0)
