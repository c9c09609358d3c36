import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from monitors.reports import ReportError, draw_report


def frame(shift: float, rows: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "delay": random.normal(shift, 1, rows),
            "carrier": random.choice(["UA", "B6"], rows),
            "gust": np.nan,
            "flights": random.integers(0, 9, rows).astype(object),
        }
    )


def test_a_report_is_drawn_by_the_program(tmp_path):
    frame(0).to_parquet(tmp_path / "reference.parquet")
    frame(3).to_parquet(tmp_path / "current.parquet")
    command = [sys.executable, "-m", "monitors.reports", "--categorical", "carrier", "--title", "3f2a <features>"]
    command += ["--summary", "Delays grew", "--out", str(tmp_path / "reports" / "3f2a.html")]
    command += [f"--{side}={tmp_path / side}.parquet" for side in ("reference", "current")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reports" / "3f2a.html").read_text()
    assert "<h1>3f2a &lt;features&gt;</h1><p>Delays grew</p>" in page
    assert "Drift" in page
    assert "delay" in page
    assert "carrier" in page


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(ReportError, match="got 300 of reference and 0 of current"):
        draw_report(frame(0), frame(0, rows=0), tmp_path / "r.html")
    with pytest.raises(ReportError, match="with values on both sides"):
        draw_report(frame(0)[["gust"]], frame(0)[["gust"]], tmp_path / "r.html")


def test_of_all_columns_only_some_are_summarised(tmp_path):
    whole = draw_report(frame(0), frame(3), tmp_path / "whole.html", ["carrier"]).read_text()
    close = draw_report(frame(0), frame(3), tmp_path / "close.html", ["carrier"], closely=["delay"]).read_text()
    assert len(close) < len(whole)
    assert whole.count("flights") > close.count("flights") > 0, "how it drifted is still there"
