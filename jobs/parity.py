"""Every feature value logged with a prediction, computed again from the archived events and compared."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from clickhouse_connect.driver.client import Client

from features.comparison import Parity, compare, together
from features.compiler.clickhouse import SETTINGS
from features.compiler.definition import Definition, definition
from features.compiler.repo import Repo
from features.compiler.service import ModelInputs, column_of, model_inputs, time_of
from features.compiler.topics import EVENT_TIME
from features.witness import newest
from jobs.served import records_of
from schemas.tables import DATABASE, OFFSET, PARTITION, table_name

__all__ = ["NothingToCompareError", "Verification", "newest_ms", "verify"]


class NothingToCompareError(ValueError):
    """No request of the span has a prediction."""


@dataclass(frozen=True)
class Verification:
    """What a comparison came to.

    Attributes
    ----------
    requests : int
    parity : Parity
        Features are called ``<view>__<feature>``.
    age_seconds : dict of str to dict
        Of ``latest`` mode: by view, median and 99th percentile of how much older than its request a row was.
    stale : dict of str to int
        Of ``latest`` mode, where it was asked for: by view, requests that were given a row though a newer one was due.
    model_version : str
        That answered the newest request.
    start_ms, end_ms : int
        Request time, [start, end); UTC epoch milliseconds.
    """

    requests: int
    parity: Parity
    age_seconds: dict[str, dict[str, float]]
    stale: dict[str, int]
    model_version: str
    start_ms: int
    end_ms: int

    def behind(self, share: float) -> dict[str, int]:
        """Of `stale`, the views of which more than a share of requests were given such rows."""
        return {view: count for view, count in self.stale.items() if count > share * self.requests}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {name: value for name, value in vars(self).items() if name != "parity"}
        return {**told, **asdict(self.parity)}


def verify(
    client: Client,
    kafka: str,
    repo: Repo,
    mode: str = "as-of",
    start_ms: int | None = None,
    end_ms: int | None = None,
    service: str = "delay",
    stale_ms: int | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> Verification:
    """Compare what was logged with an independent computation, see :mod:`features.witness`.

    Parameters
    ----------
    client : Client
        Of the archive.
    kafka : str
        ``host:port``; there it is written which records came too late to count.
    repo : Repo
    mode : {"as-of", "latest"}
        Whether a value must be that of the request's time, or that of the row it is logged to come from.
    start_ms, end_ms : int, optional
        Request time, [start, end); UTC epoch milliseconds.
    service : str
        Feature service of the model.
    stale_ms : int, optional
        How long before a request a row has to be in the online store, to tell which requests were given older ones.
    progress : callable
        Told what is going on.

    Raises
    ------
    NothingToCompareError
        Where no request of the span has a prediction.
    ValueError
        Where a view's history cannot be read.
    """
    inputs = model_inputs(repo, service)
    views = {view.name: definition(view) for view in inputs.views}
    progress(f"reading {inputs.requests}")
    requests = _requests(client, inputs, views, start_ms, end_ms)
    progress("reading predictions")
    logged = _predictions(client, inputs, start_ms, end_ms)
    if requests.empty or logged.empty:
        raise NothingToCompareError(f"expected requests with predictions, found {len(requests)} and {len(logged)}")
    parities: dict[str, Parity] = {}
    stale: dict[str, int] = {}
    for view in inputs.views:
        meaning = views[view.name]
        progress(f"{view.name}: reading records")
        at = logged[time_of(view.name)].reindex(requests.index) if mode == "latest" else requests[EVENT_TIME]
        # The row of a request may be much older than the request; that it says it comes from, is not.
        oldest = int(at.min()) if mode == "latest" and at.notna().any() else None
        events, _ = records_of(client, kafka, view, oldest)
        progress(f"{view.name}: computing the features of {len(requests):,} requests again")
        keys = requests[list(meaning.keys)]
        expected = newest(meaning, events, keys, at.to_numpy())
        parities[view.name] = compare(meaning, expected, _logged(meaning, logged))
        if mode == "latest" and stale_ms is not None:
            there = newest(meaning, events, keys, (requests[EVENT_TIME] - stale_ms).to_numpy())[EVENT_TIME]
            stale[view.name] = int((there > at.fillna(0)).fillna(False).sum())
    ages = _ages(views, requests, logged) if mode == "latest" else {}
    version, times = logged["model_version"].iloc[int(logged[EVENT_TIME].argmax())], requests[EVENT_TIME]
    span = (int(times.min()), int(times.max()) + 1)
    return Verification(len(requests), together(parities), ages, stale, str(version), *span)


def newest_ms(client: Client, model: str) -> int | None:
    """Event time of the newest request that has a prediction, UTC epoch milliseconds; None where none has."""
    found = client.query(
        f"SELECT toUnixTimestamp64Milli(max(event_time)), count() FROM {_predicted(model)}"
    ).result_rows
    return int(found[0][0]) if found[0][1] else None


def _requests(
    client: Client, inputs: ModelInputs, views: dict[str, Definition], start_ms: int | None, end_ms: int | None
) -> pd.DataFrame:
    """Event time and entities of each request, by its id."""
    table = table_name(inputs.requests)
    found = client.query("SELECT name FROM system.columns WHERE database = {d:String} AND table = {t:String}",
                         parameters={"d": DATABASE, "t": table}).result_rows  # fmt: skip
    there = {str(row[0]) for row in found}
    keys = sorted({key for each in views.values() for key in each.keys})
    listed = ", ".join(f"`{name}`" for name in [inputs.request_id, *(key for key in keys if key in there)])
    frame = client.query_df(
        f"SELECT {listed}, toUnixTimestamp64Milli(event_time) AS event_time FROM {DATABASE}.{table} "
        f"WHERE {_between(start_ms, end_ms)} ORDER BY {PARTITION}, {OFFSET}",
        settings=dict(SETTINGS),
    )
    # A key that requests do not have is the model's own.
    frame = frame.assign(**{key: inputs.model for key in keys if key not in there})
    return frame if frame.empty else frame.set_index(inputs.request_id)


def _predictions(client: Client, inputs: ModelInputs, start_ms: int | None, end_ms: int | None) -> pd.DataFrame:
    table = table_name(f"predictions.{inputs.model}")
    names = client.query(
        f"SELECT name, type FROM system.columns WHERE database = '{DATABASE}' AND table = '{table}'"
    ).result_rows
    wanted = [(str(name), "DateTime64" in str(kind)) for name, kind in names if "__" in str(name)]
    chosen = ", ".join(f"toUnixTimestamp64Milli(`{n}`) AS `{n}`" if time else f"`{n}`" for n, time in wanted)
    frame = client.query_df(
        f"SELECT request_id, model_version, toUnixTimestamp64Milli(event_time) AS `{EVENT_TIME}`, {chosen} "
        f"FROM {_predicted(inputs.model)} WHERE {_between(start_ms, end_ms)}",
        settings=dict(SETTINGS),
    )
    return frame if frame.empty else frame.set_index("request_id")


def _predicted(model: str) -> str:
    return f"`{DATABASE}`.`{table_name(f'predictions.{model}')}`"


def _logged(meaning: Definition, logged: pd.DataFrame) -> pd.DataFrame:
    """A view's part of the predictions, under the names the view has for them."""
    names = [*(each.name for each in meaning.features), *meaning.latest]
    columns = {column_of(meaning.name, name): name for name in names} | {time_of(meaning.name): EVENT_TIME}
    return logged[list(columns)].rename(columns=columns)


def _between(start_ms: int | None, end_ms: int | None) -> str:
    parts = ["1"]
    if start_ms is not None:
        parts.append(f"event_time >= fromUnixTimestamp64Milli(toInt64({start_ms}), 'UTC')")
    if end_ms is not None:
        parts.append(f"event_time < fromUnixTimestamp64Milli(toInt64({end_ms}), 'UTC')")
    return " AND ".join(parts)


def _ages(views: dict[str, Definition], requests: pd.DataFrame, logged: pd.DataFrame) -> dict[str, dict[str, float]]:
    ages = {}
    for name in views:
        row_ms = logged[time_of(name)].reindex(requests.index).to_numpy(dtype=float, na_value=np.nan)
        age = (requests[EVENT_TIME].to_numpy(dtype=float) - row_ms) / 1000
        known = age[~np.isnan(age)]
        if len(known):
            ages[name] = {"median": float(np.median(known)), "p99": float(np.percentile(known, 99))}
    return ages
