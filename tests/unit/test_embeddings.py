"""Sketches of embeddings: what they say of two samples, and that nothing but the rows shows in them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from compose.cli import headwater
from monitors.embeddings import EmbeddingError, EmbeddingSketch, Kernel, mmd, mmd_bound, mmd_under_null

DIMENSIONS = 12


def exact(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Squared MMD by every pair of rows."""

    def kernel(a, b):
        apart = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
        return np.exp(-apart / 2 / bandwidth**2)

    within = [(kernel(a, a).sum() - len(a)) / len(a) / (len(a) - 1) for a in (x, y)]
    return float(within[0] + within[1] - 2 * kernel(x, y).mean())


def pair(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(150, 900, 2)
    x, y = (rng.normal(size=(size, DIMENSIONS)) for size in sizes)
    if kind == "moved":
        y += rng.normal(size=DIMENSIONS) * 0.4
    elif kind == "wider":
        y *= 1.4
    elif kind == "turned":  # each coordinate by itself is as before
        y[:, 1] = 0.9 * y[:, 0] + np.sqrt(1 - 0.81) * y[:, 1]
    elif kind == "clusters":
        x += 4 * rng.integers(0, 2, (len(x), 1))
        y += 4 * (rng.random((len(y), 1)) < 0.8)
    elif kind == "heavy":
        x, y = rng.standard_t(1.5, (len(x), DIMENSIONS)), rng.standard_t(1.5, (len(y), DIMENSIONS)) + 0.3
    return x, y


def sketches(x: np.ndarray, y: np.ndarray, seed: int = 0) -> tuple[EmbeddingSketch, EmbeddingSketch]:
    kernel = Kernel.of(x, seed)
    return EmbeddingSketch.empty(kernel).add(x), EmbeddingSketch.empty(kernel).add(y)


@pytest.mark.parametrize("kind", ["same", "moved", "wider", "turned", "clusters", "heavy"])
def test_the_distance_is_that_of_all_pairs_of_rows_within_its_bound(kind):
    for seed in range(35):
        x, y = pair(kind, seed)
        found = sketches(x, y, seed)
        off = abs(mmd(*found) - exact(x, y, found[0].kernel.bandwidth))
        assert off <= mmd_bound(*found), (kind, seed)


def test_chances_are_uniform_where_nothing_differs_and_small_where_something_does():
    chances: dict[str, list[float]] = {"same": [], "moved": [], "clusters": [], "wider": []}
    for kind, found in chances.items():
        for seed in range(120 if kind == "same" else 10):
            both = sketches(*pair(kind, 1000 + seed))
            under = mmd_under_null(*both, 400, np.random.default_rng(seed))
            found.append(float((1 + (under >= mmd(*both)).sum()) / 401))
    same = np.sort(chances.pop("same"))
    assert np.abs(same - (np.arange(len(same)) + 0.5) / len(same)).max() < 0.15  # KS at 1% of 120: 0.148
    assert max(max(each) for each in chances.values()) < 0.01


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_neither_order_nor_batches_show(seed, sizes):
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(1.1, (sum(sizes), 5)) * 10.0 ** rng.integers(-3, 4)
    rows[rng.random(len(rows)) < 0.1, 2] = np.nan
    kernel = Kernel(5, 3.0, 1)
    once = EmbeddingSketch.empty(kernel).add(rows)
    parts = [EmbeddingSketch.empty(kernel).add(each) for each in np.split(rng.permutation(rows), np.cumsum(sizes)[:-1])]
    merged = parts[0]
    for each in parts[1:]:
        merged = each.merge(merged)
    assert (merged.rows, merged.nulls) == (once.rows, once.nulls)
    assert merged.sums.tobytes() == once.sums.tobytes()
    assert merged.products.tobytes() == once.products.tobytes()


def test_what_cannot_be_compared_is_refused_in_words():
    one, other = (EmbeddingSketch.empty(Kernel(3, width)).add(np.zeros((4, 3))) for width in (1.0, 2.0))
    with pytest.raises(EmbeddingError, match="one kernel"):
        mmd(one, other)
    with pytest.raises(EmbeddingError, match="one kernel"):
        one.merge(other)
    with pytest.raises(EmbeddingError, match="3 dimensions"):
        one.add(np.zeros((2, 4)))
    with pytest.raises(EmbeddingError, match="1 to 4096"):
        Kernel(5000, 1.0)
    with pytest.raises(EmbeddingError, match="at least 2 rows"):
        Kernel.of(np.full((3, 2), np.nan))
    assert np.isnan(mmd(one, EmbeddingSketch.empty(one.kernel)))


def test_rows_that_are_all_alike_differ_from_none_of_their_kind():
    rows = np.full((50, 4), 7.0)
    both = sketches(rows, rows)
    assert mmd(*both) == pytest.approx(0, abs=1e-4)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(2)
    for name, moved in (("ref", 0.0), ("cur", 0.4)):
        rows = rng.normal(moved, 1, (3000, 8)).astype(np.float32)
        vectors = [None if i % 100 == 0 else row for i, row in enumerate(rows.tolist())]
        table = {"amount": rng.normal(size=3000), "text": pa.array(vectors, pa.list_(pa.float32()))}
        table |= {"steady": pa.array(rng.normal(size=(3000, 8)).tolist(), pa.list_(pa.float64(), 8))}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    return tmp_path


def compare(folder, *more):
    paths = [str(folder / f"{name}.parquet") for name in ("ref", "cur")]
    return CliRunner().invoke(headwater, ["drift", "compare", *paths, *more])


def test_embeddings_in_files_are_compared(files):
    done = compare(files, "--json")
    assert done.exit_code == 0, done.output
    columns = json.loads(done.stdout)["columns"]
    assert set(columns) == {"amount", "text", "steady"}
    assert set(columns["text"]) == {"mmd", "null_rate"}
    assert columns["text"]["mmd"]["value"] > columns["text"]["mmd"]["bound"]
    assert columns["text"]["mmd"]["p_value"] < 0.01
    assert columns["steady"]["mmd"]["p_value"] > 0.01
    assert columns["text"]["null_rate"]["value"] == 0
    said = compare(files, "--classify")
    assert said.exit_code == 0, said.output
    assert "text" in said.output


def test_embeddings_of_different_dimensions_are_an_error_that_names_them(files):
    pairs = pa.array([[1.0, 2.0], [1.0, 3.0]], pa.list_(pa.float64()))
    pq.write_table(pa.table({"text": pairs}), files / "cur.parquet")
    done = compare(files)
    assert done.exit_code == 1
    assert "cur.parquet" in done.output
    assert "'text'" in done.output
    assert "8 dimensions" in done.output


def test_files_of_nothing_but_embeddings_are_compared(files):
    for name in ("ref", "cur"):
        table = pq.read_table(files / f"{name}.parquet", columns=["text"])
        pq.write_table(table, files / f"{name}.parquet")
    done = compare(files, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["rows"] == {"reference": 3000, "current": 3000}
    assert set(found["columns"]) == {"text"}
