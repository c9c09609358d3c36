"""The reporter: an Evidently report for every alert that opens, off the hot path.

``python -m jobs.reporting --kafka HOST:PORT --clickhouse URL --home DIRECTORY``

Reads ``drift.alerts`` from the start and draws what is not there yet, so a reporter that was killed goes on where it
was. It yields the processor to everything else.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from pandas.api.types import is_numeric_dtype

from jobs.kafka import BrokerError, TopicLog
from jobs.niceness import session_yields
from jobs.reading import client_of
from jobs.segmenting import Cards
from monitors import segments
from monitors.reports import ReportError, draw_report
from monitors.shift import SHIFT, parse_against
from schemas.topics import DAY_MS

__all__ = ["Reporter", "main"]

ALERTS, CONTROL, EVENTS = "drift.alerts", "models.control", "retraining.events"
# Either side of a report: enough to see a distribution, little enough to draw in seconds.
ROWS = 4000
RETRY_SECONDS = 5.0
ATTEMPTS_MAX = 5
NOT_INPUTS = ("request_id", "event_time", "watermark", "model", "model_version", "sketch", "sketch_rows", "segments")


class Reporter:
    """Draws the reports of alerts.

    Parameters
    ----------
    client : Client
        Of the archive.
    home : Path
        Reports go to ``<home>/<report>``, as each alert names it.
    """

    def __init__(self, client: Client, home: Path) -> None:
        self._client = client
        self._home = home
        self._known: dict[str, list[dict[str, Any]]] = {ALERTS: [], CONTROL: [], EVENTS: []}

    def hear(self, name: str, record: dict[str, Any]) -> None:
        """Take a record of one of the three topics."""
        self._known[name].append(record)

    def pending(self) -> list[dict[str, Any]]:
        """Opened alerts without a report, oldest first."""
        opened = {each["incident_id"]: each for each in self._known[ALERTS] if each["status"] == "opened"}
        return [each for each in opened.values() if each["report"] and not self._file(each).exists()]

    def draw(self, alert: Mapping[str, Any]) -> Path:
        """Draw one report: the rows the model was trained on, or what else it is about, beside those of its window.

        Raises
        ------
        ReportError
            Where either side has no rows.
        ClickHouseError
        """
        current = self._rows(alert, alert["window_start"], alert["window_end"])
        reference = self._rows(alert, *self._before(alert))
        # A column can be named twice, by two statistics.
        named = dict.fromkeys(each["column"] for each in alert["evidence"])
        order = [name for name in named if name in current] + [name for name in current if name not in named]
        text = [name for name in order if not is_numeric_dtype(current[name])]
        title = f"{alert['model']} {alert['model_version']}: {alert['monitor']} {alert['segment']}".strip()
        draft = self._file(alert).with_suffix(".partial")
        draw_report(reference[order], current[order], draft, text, title, alert["summary"], list(named))
        draft.replace(self._file(alert))
        return self._file(alert)

    def _file(self, alert: Mapping[str, Any]) -> Path:
        return self._home / str(alert["report"])

    def _before(self, alert: Mapping[str, Any]) -> tuple[int, int]:
        """Event time of what the alert's window was compared with."""
        if alert["monitor"] != SHIFT:
            return 0, self._trained_until(alert)
        (against,) = parse_against([alert["segment"]])
        first, last = against.span(int(alert["window_end"]) // DAY_MS)
        return first * DAY_MS, last * DAY_MS

    def _trained_until(self, alert: Mapping[str, Any]) -> int:
        """Event time at which the training set of the alert's model ended; the alert's window where it had none."""
        promoted = {each["version"]: each["incident_id"] for each in self._known[CONTROL] if each["incident_id"]}
        incident = promoted.get(alert["model_version"])
        cutoffs = [each["event_time"] for each in self._known[EVENTS] if each["incident_id"] == incident]
        return int(cutoffs[0]) if cutoffs else int(alert["window_start"])

    def _rows(self, alert: Mapping[str, Any], start_ms: int, end_ms: int) -> pd.DataFrame:
        """Of the alert's segment, where it is about one: of more rows, since the archive knows no segments."""
        part = alert["segment"] if alert["monitor"] in segments.MONITORS else ""
        # A sample by hash: the same rows whenever the report is drawn.
        found = self._client.query_df(
            f"SELECT * EXCEPT ({', '.join(NOT_INPUTS)}) FROM headwater.predictions_{alert['model']} "
            "WHERE event_time > fromUnixTimestamp64Milli({start:Int64}) "
            "AND event_time <= fromUnixTimestamp64Milli({end:Int64}) "
            f"ORDER BY cityHash64(request_id) LIMIT {ROWS * 10 if part else ROWS}",
            parameters={"start": start_ms, "end": end_ms},
        )
        if part and len(found):
            cut = Cards(self._home / "models" / alert["model"])(alert["model_version"])
            found = found[cut.rows_of(part, found)][:ROWS]
        names = [str(name) for name in found]
        return found[[name for name in names if not name.startswith("_") and not name.endswith("__event_time")]]


def run(kafka: str, reporter: Reporter, stops: Sequence[int]) -> None:
    """Draw what is pending and wait for more, until told to stop."""
    log = TopicLog(kafka, (ALERTS, CONTROL, EVENTS))
    attempts: dict[str, int] = {}
    while not stops:
        for name, record in log.poll(1.0):
            reporter.hear(name, record)
        for alert in reporter.pending():
            incident = alert["incident_id"]
            if stops or attempts.get(incident, 0) >= ATTEMPTS_MAX:
                continue
            began = time.monotonic()
            try:
                file = reporter.draw(alert)
                _tell({"report": file.name, "seconds": round(time.monotonic() - began, 1)})
            except (ReportError, ClickHouseError) as exc:  # the archive may be a moment behind the alert
                attempts[incident] = attempts.get(incident, 0) + 1
                _tell({"incident": incident, "attempt": attempts[incident], "error": str(exc)})
                time.sleep(RETRY_SECONDS)
    log.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when told to stop, 1 where Kafka fails."""
    parser = argparse.ArgumentParser(prog="jobs.reporting", description=(__doc__ or "").splitlines()[0])
    for name, metavar in (("kafka", "HOST:PORT"), ("clickhouse", "URL"), ("home", "DIRECTORY")):
        default = os.environ.get(f"HEADWATER_{name.upper()}")
        parser.add_argument(f"--{name}", default=default, required=default is None, metavar=metavar)
    given = parser.parse_args(argv)
    stops: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: stops.append(number))
    os.nice(19)
    session_yields(19)
    try:
        run(given.kafka, Reporter(client_of(given.clickhouse), Path(given.home)), stops)
    except BrokerError as exc:
        print(f"reporter: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _tell(line: Mapping[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
