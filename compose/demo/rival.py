"""The model of the first half-year, which the live one is compared with: fitted while the second half is replayed."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from compose.demo.summary import first_of_july, half_year_split
from compose.local.platform import Platform
from compose.performance import Score
from compose.services import INPUTS_FILE
from features.compiler.inputs import read_inputs
from jobs.reading import client_of
from schemas.topics import DAY_MS

__all__ = ["Rival"]

NICENESS = 10
_KNOWN = """
SELECT (SELECT min(newest) FROM (SELECT max(event_time) AS newest FROM headwater.{table} GROUP BY _partition))
  > fromUnixTimestamp64Milli({{until:Int64}})
"""
_ANSWERED = """
SELECT (SELECT count() FROM headwater.predictions_{model} WHERE event_time <= fromUnixTimestamp64Milli({{until:Int64}}))
  >= (SELECT count() FROM headwater.flights_requests WHERE event_time <= fromUnixTimestamp64Milli({{until:Int64}}))
"""


class Rival:
    """A model trained on what was logged and known on the first of July, to be judged by the traffic after.

    Parameters
    ----------
    platform : Platform
    model : str
    """

    def __init__(self, platform: Platform, model: str = "delay") -> None:
        self._platform, self._model = platform, model
        self._fitted: Future[Score | None] | None = None

    def watch(self, event_time_ms: int) -> None:
        """Begin as soon as the archive has all that was known by then; to be told often how far traffic is."""
        split_ms = first_of_july(datetime.fromtimestamp(event_time_ms / 1000, UTC).year)
        if self._fitted is None and event_time_ms > split_ms + DAY_MS and self._is_archived(split_ms):
            self._begin(split_ms)

    def result(self) -> tuple[Score | None, int]:
        """The model, and until when it has learnt (UTC epoch ms).

        None where there was too little to learn from, and where no later traffic is there to judge it by.
        """
        client = self._client()
        split_ms = half_year_split(client)
        if self._fitted is None or self._fitted.exception() is not None:  # ClickHouse may have been killed meanwhile
            newest = f"SELECT toUnixTimestamp64Milli(max(event_time)) FROM headwater.predictions_{self._model}"
            if int(client.query(newest).result_rows[0][0]) <= split_ms:
                return None, split_ms
            self._begin(split_ms)
        assert self._fitted is not None
        return self._fitted.result(), split_ms

    def _begin(self, until_ms: int) -> None:
        pool = ThreadPoolExecutor(1, "rival")
        self._fitted = pool.submit(self._fit, until_ms)
        pool.shutdown(wait=False)

    def _fit(self, until_ms: int) -> Score | None:
        from threadpoolctl import threadpool_limits

        from jobs.training import fit_on_history

        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # Linux: of this thread
        inputs = read_inputs(self._platform.home.path(INPUTS_FILE))[self._model]
        with threadpool_limits(1):  # two would wait for each other while everything else runs
            return fit_on_history(self._platform.endpoints.clickhouse, inputs, until_ms)

    def _is_archived(self, until_ms: int) -> bool:
        client, given = self._client(), {"until": until_ms}
        asked = [_KNOWN.format(table=each) for each in ("flights_requests", "flights_arrivals")]
        try:
            return all(
                client.query(sql, parameters=given).result_rows[0][0]
                for sql in (*asked, _ANSWERED.format(model=self._model))
            )
        except (ClickHouseError, OSError):  # killed, or not asked anything yet
            return False

    def _client(self) -> Client:
        return client_of(self._platform.endpoints.clickhouse)
