"""How far a week's mean loss is expected from that of its reference, of days that are independent."""

import numpy as np

from monitors.losses import TILE_MS, sketch_losses
from monitors.reference import ColumnSpec, Null
from monitors.sketches import sketch_batch
from monitors.thresholds import DAY_MS, build_reference

DAYS, ROWS, RATE = 35, 200, 0.3


def nulls(seed: int) -> dict[str, Null]:
    rng = np.random.default_rng(seed)
    times = ((16_000 + np.arange(DAYS)[:, None]) * DAY_MS + np.arange(ROWS) * (DAY_MS // ROWS)).ravel()
    losses = sketch_losses(np.full(len(times), RATE), rng.random(len(times)) < RATE, times)
    features = sketch_batch({"x": np.zeros(len(times))}, {"x": "numeric"}, times, TILE_MS)
    found = build_reference("plain", "1", {"x": ColumnSpec("numeric")}, features, losses, seed=0).losses
    return {each.statistic: each for each in found}


def test_a_week_is_given_all_of_its_spread_though_weekdays_are_known_from_five_weeks():
    true = RATE * (1 - RATE) / ROWS / 7 * (1 + 7 / DAYS)
    drawn = np.mean([nulls(seed)["bias"].spread ** 2 for seed in range(60)])
    assert 1 <= drawn / true < 1.3  # 0.91 as drawn
