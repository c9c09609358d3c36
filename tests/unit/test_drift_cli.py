"""``headwater drift compare``, as a person with two files runs it."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from compose.cli import headwater
from monitors.files import BATCH_ROWS, sample

ROWS = BATCH_ROWS + 5000  # more than one batch


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of five carriers only B's delays have changed; half of the rows have a gate."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    frames = []
    for name, more in (("ref", 0.0), ("cur", 3.0)):
        carrier = random.choice(list("ABCDE"), ROWS, p=[0.5, 0.05, 0.15, 0.15, 0.15])
        delay = random.normal(10, 4, ROWS) + np.where(carrier == "B", more, 0)
        frame = pd.DataFrame({"delay": delay, "seats": random.integers(50, 300, ROWS), "carrier": carrier})
        frame["gate"] = np.where(random.random(ROWS) < 0.5, None, random.choice(["g1", "g2"], ROWS))
        frame["at"] = pd.Timestamp("2013-01-01", tz="UTC")
        frame.assign(**{f"only_{name}": 1}).to_parquet(folder / f"{name}.parquet", row_group_size=50_000)
        frames.append(frame)
    return folder, frames


def run(folder, *more):
    paths = [str(folder / f"{name}.parquet") for name in ("ref", "cur")]
    return CliRunner().invoke(headwater, ["drift", "compare", *paths, *more], catch_exceptions=False)


def test_figures_are_those_of_the_rows(files):
    folder, (reference, current) = files
    done = run(folder, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["rows"] == {"reference": ROWS, "current": ROWS}
    assert set(found["columns"]) == {"delay", "seats", "carrier", "gate"}
    for name in ("delay", "seats"):
        told = found["columns"][name]
        ks = stats.ks_2samp(reference[name], current[name]).statistic
        assert abs(told["ks"]["value"] - ks) <= told["ks"]["bound"]
        far = stats.wasserstein_distance(reference[name], current[name])
        assert abs(told["wasserstein"]["value"] - far) <= told["wasserstein"]["bound"]
    assert found["columns"]["delay"]["ks"]["p_value"] < 0.01
    shares = [each["carrier"].value_counts(normalize=True) for each in (reference, current)]
    assert found["columns"]["carrier"]["tv"]["value"] == pytest.approx(abs(shares[0] - shares[1]).sum() / 2)
    nulls = current["gate"].isna().mean() - reference["gate"].isna().mean()
    assert found["columns"]["gate"]["null_rate"]["value"] == pytest.approx(nulls)
    assert found["left_out"] == {
        "at": "of type timestamp[ms, tz=UTC]",
        "only_cur": "not in ref.parquet",
        "only_ref": "not in cur.parquet",
    }


def test_a_segment_shows_what_the_whole_hides(files):
    folder, frames = files
    found = json.loads(run(folder, "--json", "--segments", "carrier").stdout)
    ks = {name: each["columns"]["delay"]["ks"]["value"] for name, each in found["segments"].items()}
    assert set(ks) == {f"carrier={each}" for each in "ABCDE"}
    assert max(ks, key=ks.get) == "carrier=B"
    assert ks["carrier=B"] > 5 * found["columns"]["delay"]["ks"]["value"]
    only = [frame.loc[frame["carrier"] == "B", "delay"] for frame in frames]
    told = found["segments"]["carrier=B"]["columns"]["delay"]["ks"]
    assert abs(told["value"] - stats.ks_2samp(*only).statistic) <= told["bound"]
    assert found["segments"]["carrier=B"]["rows"] == len(only[1])


def test_people_see_what_differs_most_first(files):
    folder, _ = files
    shown = run(folder, "--segments", "carrier").output
    lines = [line.split() for line in shown.splitlines()]
    order = [line[0] for line in lines if line and line[0] in ("delay", "seats", "carrier", "gate")]
    assert order[0] == "delay"
    assert "Left out: at, of type timestamp[ms, tz=UTC]." in shown


def test_whole_rows_are_told_apart_where_asked(tmp_path):
    rng = np.random.default_rng(0)
    for name, sign in (("ref", 1), ("cur", -1)):
        delay = rng.standard_normal(3000)
        wind = sign * delay + rng.standard_normal(3000)
        carrier = pd.Categorical(rng.choice(["UA", "B6"], 3000))
        pd.DataFrame({"delay": delay, "wind": wind, "carrier": carrier}).to_parquet(tmp_path / f"{name}.parquet")
    told = json.loads(run(tmp_path, "--json", "--classify").stdout)
    apart = told["domain_classifier"]
    assert apart["auc"]["p_value"] < 1e-9
    assert apart["auc"]["value"] - apart["auc"]["bound"] > 0.7
    assert list(apart["columns"])[2] == "carrier"
    assert told["columns"]["delay"]["ks"]["p_value"] > 0.001
    assert "domain_classifier" not in json.loads(run(tmp_path, "--json").stdout)
    assert "By whole rows: AUC 0." in run(tmp_path, "--classify").output
    pd.DataFrame({"delay": [1.0], "wind": [2.0], "carrier": ["UA"]}).to_parquet(tmp_path / "cur.parquet")
    assert "expected 50 rows of either sample, got 3000 and 1" in run(tmp_path, "--classify").output


def test_a_report_is_drawn(files, tmp_path):
    folder, _ = files
    done = run(folder, "--report", str(tmp_path / "r.html"))
    assert done.exit_code == 0, done.output
    assert "cur.parquet beside ref.parquet" in (tmp_path / "r.html").read_text()


def test_what_cannot_be_compared_is_said(files, tmp_path):
    folder, _ = files
    (tmp_path / "no.parquet").write_text("x")
    said = CliRunner().invoke(
        headwater, ["drift", "compare", str(tmp_path / "no.parquet"), str(folder / "cur.parquet")]
    )
    assert said.exit_code == 1
    assert "no.parquet: expected a parquet file" in said.output
    pd.DataFrame({"z": [1]}).to_parquet(tmp_path / "z.parquet")
    said = CliRunner().invoke(headwater, ["drift", "compare", str(tmp_path / "z.parquet"), str(folder / "cur.parquet")])
    assert "expected a column of numbers or texts that both files have" in said.output
    assert "expected a column 'nowhere'" in run(folder, "--segments", "nowhere").output
    pd.DataFrame({"delay": []}).to_parquet(tmp_path / "e.parquet")
    said = CliRunner().invoke(headwater, ["drift", "compare", str(tmp_path / "e.parquet"), str(folder / "cur.parquet")])
    assert "expected rows, got none" in said.output


def test_a_report_of_nothing_is_refused_in_words(tmp_path):
    for name in ("ref", "cur"):
        pd.DataFrame({"delay": [np.nan, np.nan]}).to_parquet(tmp_path / f"{name}.parquet")
    said = run(tmp_path, "--report", str(tmp_path / "r.html"))
    assert (said.exit_code, type(said.exception)) == (1, SystemExit)
    assert "expected" in said.output


def test_a_sample_is_of_rows_of_the_file_in_their_order(files):
    folder, (reference, _) = files
    drawn = sample(folder / "ref.parquet", ["delay", "carrier"], 1000)
    at = reference.reset_index().set_index("delay").loc[drawn["delay"], "index"].to_numpy()
    assert len(drawn) == 1000
    assert np.all(np.diff(at) > 0)
    assert reference["carrier"].to_numpy()[at].tolist() == drawn["carrier"].tolist()
