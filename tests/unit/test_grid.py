"""Many cells at once say what each says alone."""

import numpy as np
import pytest

from monitors.grid import Comparer
from monitors.sketches import SketchError, sketch_batch
from monitors.statistics import distance, null_rate

HOUR_MS = 3_600_000


def columns(rng, rows, shift=0.0):
    ties = rng.integers(0, 4, rows).astype(float)
    return {
        "plain": shift + rng.standard_normal(rows),
        "heavy": rng.standard_cauchy(rows),
        "ties": np.where(rng.random(rows) < 0.3, np.nan, ties + (shift > 0)),
        "constant": np.full(rows, 3.0 + shift),
        "nothing": np.full(rows, np.nan),
        "score": rng.random(rows) ** (1 + shift),
        "carrier": rng.choice(np.array(["UA", "B6", None], dtype=object), rows),
    }


def sketched(rng, rows, hours, shift=0.0):
    kinds = dict.fromkeys(columns(rng, 1), "numeric") | {"score": "score", "carrier": "categorical"}
    return sketch_batch(columns(rng, rows, shift), kinds, rng.integers(0, hours, rows) * HOUR_MS, HOUR_MS)


@pytest.mark.parametrize("shift", [0.0, 0.7, 5.0])
@pytest.mark.parametrize("rows", [30, 4000])
def test_every_cell_is_as_by_itself(rows, shift):
    rng = np.random.default_rng(3)
    reference, table = sketched(rng, 5000, 9).collapse(), sketched(rng, rows, 12, shift)
    grid = Comparer(reference).compare(table)
    compared = 0
    for t in range(len(table.tiles)):
        one = table.take([t])
        for c, name in enumerate(table.names):
            usual, found = reference.column(name), one.column(name)
            assert grid.null_rate[t, c] == pytest.approx(null_rate(found))
            for statistic in ("psi", "ks"):
                value = getattr(grid, statistic)[t, c]
                if name == "carrier":
                    assert np.isnan(value)
                    continue
                assert value == pytest.approx(distance(statistic, usual, found), rel=1e-9, abs=1e-12, nan_ok=True)
                compared += not np.isnan(value)
            if name != "carrier":
                exact = found.total / found.count if found.count else np.nan
                assert grid.mean[t, c] == pytest.approx(exact, nan_ok=True)
    assert compared > 100


def test_other_columns_are_refused():
    rng = np.random.default_rng(3)
    table = sketched(rng, 100, 2)
    with pytest.raises(SketchError, match="expected a reference of one tile, got 2"):
        Comparer(table)
    other = sketch_batch({"x": np.zeros(3)}, {"x": "numeric"}, np.zeros(3, np.int64), HOUR_MS)
    with pytest.raises(SketchError, match="expected the columns"):
        Comparer(table.collapse()).compare(other)


def test_a_table_without_tiles_has_no_cells():
    rng = np.random.default_rng(3)
    table = sketched(rng, 100, 2)
    assert Comparer(table.collapse()).compare(table.take([])).ks.shape == (0, 7)
