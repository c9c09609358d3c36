"""Every feature value logged with a prediction, computed again from the archived events and compared."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from clickhouse_connect.driver.client import Client

from features.parity import VIEWS, Parity, as_of, compare
from schemas.tables import DATABASE, OFFSET, PARTITION, table_name

__all__ = ["Verification", "verify"]

REQUESTS = "flights.requests"


@dataclass(frozen=True)
class Verification:
    """What a comparison came to.

    Attributes
    ----------
    requests : int
    parity : Parity
    age_seconds : dict of str to dict
        Of ``latest`` mode: by view, median and 99th percentile of how much older than its request a row was.
    """

    requests: int
    parity: Parity
    age_seconds: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"requests": self.requests, **asdict(self.parity), "age_seconds": self.age_seconds}


def verify(
    client: Client,
    mode: str = "as-of",
    start_ms: int | None = None,
    end_ms: int | None = None,
    model: str = "delay",
    progress: Callable[[str], object] = lambda _: None,
) -> Verification:
    """Compare what was logged with an independent computation, see :mod:`features.parity`.

    Parameters
    ----------
    client : Client
        Of the archive.
    mode : {"as-of", "latest"}
        Whether a value must be that of the request's time, or that of the row it is logged to come from.
    start_ms, end_ms : int, optional
        Request time, [start, end); UTC epoch milliseconds.
    model : str
    progress : callable
        Told what is going on.

    Raises
    ------
    ValueError
        Where no request of the span has a prediction, or some have none.
    """
    streams = {view.stream for view in VIEWS}
    events = {}
    for name in sorted(streams):
        progress(f"reading {name}")
        events[name] = _read(client, name, columns_of(name))
    progress(f"reading {REQUESTS}")
    keys = sorted({key for view in VIEWS for key in view.keys})
    requests = _read(client, REQUESTS, ["flight_id", *keys], start_ms, end_ms).set_index("flight_id")
    progress("reading predictions")
    logged = _predictions(client, model, start_ms, end_ms)
    if requests.empty or logged.empty:
        raise ValueError(f"expected requests with predictions, found {len(requests)} and {len(logged)}")
    progress(f"computing the features of {len(requests):,} requests again")
    at = None
    if mode == "latest":
        times = {view.name: logged[f"{view.name}__event_time"].reindex(requests.index) for view in VIEWS}
        at = {name: pd.Series(each.to_numpy(), index=requests.index) for name, each in times.items()}
    expected = as_of(events, requests, at=at)
    progress("comparing")
    ages = _ages(requests, logged) if mode == "latest" else {}
    return Verification(len(requests), compare(expected, logged), ages)


def columns_of(stream: str) -> list[str]:
    """Columns of a topic that the views on it read."""
    found: set[str] = set()
    for view in VIEWS:
        if view.stream == stream:
            found |= set(view.keys) | {each[1].partition(">")[0] for each in view.features}
    return sorted(found)


def _read(
    client: Client, topic: str, columns: list[str], start_ms: int | None = None, end_ms: int | None = None
) -> pd.DataFrame:
    """Records of a topic in its order, times as epoch milliseconds."""
    chosen = ", ".join(f"`{name}`" for name in columns)
    where = _between(start_ms, end_ms)
    return client.query_df(
        f"SELECT {chosen}, toUnixTimestamp64Milli(event_time) AS event_time FROM {DATABASE}.{table_name(topic)} "
        f"WHERE {where} ORDER BY {PARTITION}, {OFFSET}"
    )


def _predictions(client: Client, model: str, start_ms: int | None, end_ms: int | None) -> pd.DataFrame:
    table = f"predictions_{model}"
    names = client.query(
        f"SELECT name, type FROM system.columns WHERE database = '{DATABASE}' AND table = '{table}'"
    ).result_rows
    wanted = [(str(name), "DateTime64" in str(kind)) for name, kind in names if "__" in str(name)]
    chosen = ", ".join(f"toUnixTimestamp64Milli(`{n}`) AS `{n}`" if time else f"`{n}`" for n, time in wanted)
    frame = client.query_df(f"SELECT request_id, {chosen} FROM {DATABASE}.{table} WHERE {_between(start_ms, end_ms)}")
    return frame.set_index("request_id")


def _between(start_ms: int | None, end_ms: int | None) -> str:
    parts = ["1"]
    if start_ms is not None:
        parts.append(f"event_time >= fromUnixTimestamp64Milli(toInt64({start_ms}), 'UTC')")
    if end_ms is not None:
        parts.append(f"event_time < fromUnixTimestamp64Milli(toInt64({end_ms}), 'UTC')")
    return " AND ".join(parts)


def _ages(requests: pd.DataFrame, logged: pd.DataFrame) -> dict[str, dict[str, float]]:
    ages = {}
    for view in VIEWS:
        row_ms = logged[f"{view.name}__event_time"].reindex(requests.index).to_numpy(dtype=float, na_value=np.nan)
        age = (requests["event_time"].to_numpy(dtype=float) - row_ms) / 1000
        known = age[~np.isnan(age)]
        if len(known):
            ages[view.name] = {"median": float(np.median(known)), "p99": float(np.percentile(known, 99))}
    return ages
