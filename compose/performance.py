"""How well the predictions in ClickHouse were: AUC and log loss over event time, live beside a frozen model.

The live figures are of the probabilities that were logged when they were given. The frozen ones are the first model's,
rescored on the features logged with the same requests, so both saw the same world.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from clickhouse_connect.driver.client import Client

from schemas.topics import DAY_MS

__all__ = ["LABEL", "Day", "Performance", "Scored", "auc", "brief", "input_columns", "labelled", "log_loss"]

LABEL = "arr_delay > 15"
LABEL_WAIT_MS = 7 * DAY_MS
# An arrival comes at most 23 hours after its schedule in 2013; after two days a day's labels are in.
SETTLED_AFTER_MS = 2 * DAY_MS
SKIPPED = ("watermark", "model", "sketch", "sketch_rows", "segments", "_partition", "_offset")

Floats = npt.NDArray[np.float64]
Score = Callable[[pd.DataFrame], Floats]


def auc(label: npt.ArrayLike, probability: npt.ArrayLike) -> float | None:
    """Area under the ROC curve, ties counted half; None without both outcomes.

    By ranks: Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the
    other", 1947.
    """
    outcome = np.asarray(label, bool)
    positives = int(outcome.sum())
    negatives = len(outcome) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(np.asarray(probability), return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[place][outcome].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss(label: npt.ArrayLike, probability: npt.ArrayLike) -> float | None:
    """Mean negative log likelihood in nats, probabilities kept 1e-15 from 0 and 1; None of nothing."""
    outcome = np.asarray(label, bool)
    if not len(outcome):
        return None
    sure = np.clip(np.asarray(probability, np.float64), 1e-15, 1 - 1e-15)
    return float(-np.mean(np.log(np.where(outcome, sure, 1 - sure))))


def brief(label: npt.ArrayLike, probability: npt.ArrayLike | None) -> dict[str, float | None]:
    """AUC and log loss together; both None where there is no probability."""
    if probability is None:
        return {"auc": None, "logloss": None}
    return {"auc": auc(label, probability), "logloss": log_loss(label, probability)}


def input_columns(client: Client, predictions: str) -> list[str]:
    """Columns of a prediction table that a model may have read, with the request's id, time, version, probability."""
    rows = client.query(f"SELECT name FROM system.columns WHERE database || '.' || table = '{predictions}'").result_rows
    return [str(name) for (name,) in rows if name not in SKIPPED and not str(name).endswith("__event_time")]


def labelled(
    client: Client,
    start_ms: int,
    end_ms: int,
    columns: list[str],
    predictions: str = "headwater.predictions_delay",
    labels: str = "headwater.flights_arrivals",
) -> pd.DataFrame:
    """Predictions with request time in [start, end) whose outcome is known, in the order of time and id.

    Returns
    -------
    DataFrame
        The columns asked for, ``label`` (0 or 1) and ``day`` (of the request, UTC, days since 1970).
    """
    chosen = ", ".join(f"p.`{name}` AS `{name}`" for name in columns)
    return client.query_df(
        f"SELECT {chosen}, l.positive AS label, intDiv(toUnixTimestamp64Milli(p.event_time), {DAY_MS}) AS day FROM "
        f"(SELECT * FROM {predictions} WHERE {_between('event_time', start_ms, end_ms)}) AS p INNER JOIN "
        f"(SELECT flight_id, toUInt8({LABEL}) AS positive FROM {labels} "
        f"WHERE {_between('event_time', start_ms, end_ms + LABEL_WAIT_MS)}) AS l ON p.request_id = l.flight_id "
        "ORDER BY p.event_time, p.request_id"
    )


def _between(column: str, start_ms: int, end_ms: int) -> str:
    return (
        f"{column} >= fromUnixTimestamp64Milli(toInt64({start_ms}), 'UTC') AND "
        f"{column} < fromUnixTimestamp64Milli(toInt64({end_ms}), 'UTC')"
    )


@dataclass(frozen=True)
class Day:
    """One day's labelled requests. Arrays of one length: outcome, and the probabilities that were or would be given."""

    label: npt.NDArray[np.uint8]
    live: npt.NDArray[np.float32]
    frozen: npt.NDArray[np.float32] | None
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """The frozen model: how it scores a frame of logged columns, and from which request time on."""

    version: str
    from_ms: int
    score: Score


class Performance:
    """Days of performance, filled a few at a time by whoever has the time to.

    Parameters
    ----------
    predictions, labels : str
        Tables.
    chunk_days : int
        How much :meth:`step` does at once.
    """

    def __init__(
        self,
        predictions: str = "headwater.predictions_delay",
        labels: str = "headwater.flights_arrivals",
        chunk_days: int = 7,
    ) -> None:
        self.days: dict[int, Day] = {}
        self.changes = 0
        self._tables = predictions, labels
        self._chunk_days = chunk_days
        self._settled = 0
        self._seen: tuple[int, ...] = ()
        self._overall: tuple[dict[str, Any], int] = ({"count": 0}, -1)
        self._drawn: dict[int, tuple[list[dict[str, Any]], int]] = {}

    def step(self, client: Client, frozen: Scored | None) -> bool:
        """Work through the next days that are not final yet; False when there is nothing new.

        Raises
        ------
        clickhouse_connect.driver.exceptions.ClickHouseError
            Where ClickHouse does not answer, or has no such tables yet.
        """
        first_ms, last_ms, state = self._span(client)
        if last_ms <= 0 or state == self._seen:
            return False
        if not self._settled:
            self._settled = first_ms // DAY_MS
        start = self._settled
        end = min(start + self._chunk_days, last_ms // DAY_MS + 1)
        if end <= start:
            return False
        frame = labelled(client, start * DAY_MS, end * DAY_MS, self._columns(client, frozen), *self._tables)
        for day in sorted(set(frame["day"])) if len(frame) else ():
            self.days[int(day)] = _day(frame[frame["day"] == day], frozen, int(day))
        self.changes += 1
        self._settled = max(start, min(end, (last_ms - SETTLED_AFTER_MS) // DAY_MS))
        if self._settled == start or end > last_ms // DAY_MS:
            self._seen = state
        return True

    def series(self, bucket_days: int) -> list[dict[str, Any]]:
        """Performance in buckets of so many days from the first day on, only full of what is known so far.

        Returns
        -------
        list of dict
            ``start_ms``, ``end_ms``, ``count``, ``late_share``, ``live`` and ``frozen`` (``auc``, ``logloss``),
            ``versions``. Frozen figures only where the frozen model scored every request of the bucket.
        """
        if not self.days:
            return []
        drawn, changes = self._drawn.get(bucket_days, ([], -1))
        if changes == self.changes:
            return drawn
        changes, first = self.changes, min(self.days)
        groups: dict[int, list[Day]] = {}
        for day in sorted(self.days.copy()):
            groups.setdefault((day - first) // bucket_days, []).append(self.days[day])
        drawn = [self._bucket(first + at * bucket_days, bucket_days, days) for at, days in groups.items()]
        self._drawn[bucket_days] = drawn, changes
        return drawn

    def overall(self) -> dict[str, Any]:
        """Live and frozen over all days that the frozen model scored: ``count``, ``live``, ``frozen``."""
        known, changes = self._overall
        if changes != self.changes:
            both = [day for _, day in sorted(self.days.copy().items()) if day.frozen is not None]
            known = self._bucket(0, 0, both) if both else {"count": 0}
            self._overall = known, self.changes
        return known

    @staticmethod
    def _bucket(start: int, length: int, days: list[Day]) -> dict[str, Any]:
        label = np.concatenate([day.label for day in days])
        rescored = [day.frozen for day in days if day.frozen is not None]
        return {
            "start_ms": start * DAY_MS,
            "end_ms": (start + length) * DAY_MS,
            "count": len(label),
            "late_share": float(label.mean()) if len(label) else None,
            "live": brief(label, np.concatenate([day.live for day in days])),
            "frozen": brief(label, np.concatenate(rescored) if len(rescored) == len(days) else None),
            "versions": sorted({version for day in days for version in day.versions}),
        }

    def _span(self, client: Client) -> tuple[int, int, tuple[int, ...]]:
        """First request's time, the time up to which predictions and labels are both there, and what tells of news."""
        asked = "toUnixTimestamp64Milli(min(event_time)), toUnixTimestamp64Milli(max(event_time)), count()"
        (first, last, rows), (_, labels_last, labels) = (
            map(int, client.query(f"SELECT {asked} FROM {table}").result_rows[0]) for table in self._tables
        )
        state = (last, rows, labels_last, labels)
        return (first, min(last, labels_last), state) if rows and labels else (0, 0, state)

    def _columns(self, client: Client, frozen: Scored | None) -> list[str]:
        if frozen is None:
            return ["request_id", "event_time", "model_version", "probability"]
        return input_columns(client, self._tables[0])


def _day(rows: pd.DataFrame, frozen: Scored | None, day: int) -> Day:
    rescored = None
    if frozen is not None and (day + 1) * DAY_MS > frozen.from_ms:
        rescored = frozen.score(rows).astype(np.float32)
    return Day(
        label=rows["label"].to_numpy(np.uint8),
        live=rows["probability"].to_numpy(np.float32),
        frozen=rescored,
        versions=tuple(sorted(set(rows["model_version"].astype(str)))),
    )
