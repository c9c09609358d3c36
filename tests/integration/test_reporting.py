"""Reports of alerts from a real archive: what the model was trained on beside the alert's window."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from own_services import own_clickhouse

from jobs.reporting import Reporter
from monitors.reports import ReportError
from monitors.segments import Dimension, Segmentation

START = datetime(2013, 2, 1, tzinfo=UTC)
ROWS = 600


def ms(hours: float) -> int:
    return round((START + timedelta(hours=hours)).timestamp() * 1000)


def alert(incident: str, start: float, end: float, segment: str = "") -> dict:
    named = [("origin__mean", "psi"), ("carrier", "tv"), ("origin__mean", "ks"), ("log_loss", "mean")]
    return {
        "incident_id": incident, "status": "opened", "model": "delay", "model_version": "1", "monitor": "features",
        "segment": segment, "window_start": ms(start), "window_end": ms(end), "summary": "Traffic differs.",
        "report": f"reports/{incident}.html", "evidence": [{"column": name, "statistic": each} for name, each in named],
    }  # fmt: skip


def test_a_report_names_the_columns_of_the_alert_and_is_drawn_once(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    rows = pd.DataFrame(
        {
            "request_id": [f"r{i}" for i in range(ROWS)],
            "event_time": [START + timedelta(hours=i / 2) for i in range(ROWS)],
            "model_version": "1",
            "probability": random.random(ROWS),
            "carrier": random.choice(["AA", "B6", "UA"], ROWS),
            "origin__mean": random.normal(size=ROWS),
            "origin__event_time": START,
            "nothing": np.nan,
        }
    )
    with own_clickhouse(tmp_path) as (_, client):
        client.command(
            "CREATE TABLE headwater.predictions_delay (request_id String, event_time DateTime64(3, 'UTC'), "
            "watermark Nullable(DateTime64(3, 'UTC')), model String, model_version String, probability Float64, "
            "carrier Nullable(String), origin__mean Nullable(Float64), "
            "origin__event_time Nullable(DateTime64(3, 'UTC')), nothing Nullable(Float64), "
            "sketch_rows Nullable(Int32), sketch Nullable(String), _partition Int32, "
            "_offset Int64) ENGINE = MergeTree ORDER BY request_id"
        )
        client.insert_df("predictions_delay", rows, database="headwater")
        reporter = Reporter(client, tmp_path)
        reporter.hear("drift.alerts", alert("i1", 200, 300))
        (pending,) = reporter.pending()
        page = reporter.draw(pending).read_text()
        assert "Traffic differs." in page
        assert "origin__mean" in page
        assert "carrier" in page
        assert "origin__event_time" not in page
        assert reporter.pending() == []
        drawn = {}
        with patch("jobs.reporting.draw_report", lambda *given: drawn.update(rows=given[:2]) or given[2].touch()):
            reporter.draw({**alert("i4", 132, 300), "monitor": "shift", "segment": "2013-01-28..2013-02-11"})
        assert [len(frame) for frame in drawn["rows"]] == [
            10 * 48 + 1,
            (300 - 132) * 2 - 1,
        ]  # an end counts
        card = tmp_path / "models" / "delay" / "1" / "model.json"
        card.parent.mkdir(parents=True)
        cut = Segmentation((Dimension("carrier", "carrier", "", ("AA", "B6")),))
        card.write_text(json.dumps({"segments": cut.plain()}))
        with patch("jobs.reporting.draw_report", lambda *given: drawn.update(rows=given[:2]) or given[2].touch()):
            reporter.draw(alert("i3", 200, 300, "carrier=B6"))
        assert [set(frame["carrier"]) for frame in drawn["rows"]] == [{"B6"}, {"B6"}]
        assert len(drawn["rows"][1]) == (rows["carrier"][401:601] == "B6").sum()
        with pytest.raises(ReportError, match="expected rows on both sides"):
            reporter.draw(alert("i2", 2000, 2100))
