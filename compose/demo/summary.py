"""What a replay came to: the ledger, the incidents, and live against frozen models on the same requests.

Three sets of probabilities are judged by the same labels:

* `live`: what was logged when it was asked for, whichever model was in charge;
* `frozen`: the first model, trained on the first month, rescored on the features logged with each request;
* `half_year`: a model trained on the first half of the year's logged features with the labels known by then. It has
  seen the answers of that half, so it is judged on the second half alone; `second_half` has all three on the same
  requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from clickhouse_connect.driver.client import Client

from compose.control import Incident, fold, milliseconds, read_control
from compose.demo.ledger import Ledger
from compose.estimates import read_estimates
from compose.performance import Score, brief, input_columns, labelled
from jobs.parity import Verification

__all__ = [
    "Comparison",
    "Month",
    "Summary",
    "compare",
    "digest",
    "first_of_july",
    "half_year_split",
    "read_incidents",
    "summarize",
]

Judged = dict[str, dict[str, float | None]]
NAMES = ("live", "frozen", "half_year")


@dataclass(frozen=True)
class Month:
    """One calendar month (UTC) of labelled requests; figures None where there is no such model yet."""

    month: str
    count: int
    late_share: float
    live_auc: float | None
    frozen_auc: float | None
    live_logloss: float | None
    frozen_logloss: float | None


@dataclass(frozen=True)
class Comparison:
    """Live against frozen models.

    Attributes
    ----------
    whole : dict
        ``auc`` and ``logloss`` of `live` and `frozen` on every labelled request since the frozen model was trained, and
        of `half_year` on those of the second half.
    second_half : dict
        ``auc`` and ``logloss`` of all three on the same requests, from `split_ms` on.
    count, second_count : int
        Requests behind them.
    start_ms, split_ms, end_ms : int, optional
        Request time, UTC epoch milliseconds; None where there is no frozen model.
    months : tuple of Month
    """

    whole: Judged
    second_half: Judged
    count: int
    second_count: int
    start_ms: int | None
    split_ms: int
    end_ms: int | None
    months: tuple[Month, ...]


@dataclass(frozen=True)
class Summary:
    """Everything the demo says at its end.

    Attributes
    ----------
    ledger : Ledger
    comparison : Comparison
    incidents : tuple of Incident
    seconds : float
        Wall time of the whole demo.
    replay_seconds : float
        Of the replay alone.
    predictions_digest : str
        See :func:`digest`.
    verification : Verification, optional
        Logged features against an independent computation, where that was asked for.
    estimates : dict, optional
        How close the AUC expected without labels came to that of the labels, see
        :meth:`compose.estimates.Estimates.tracking`.
    """

    ledger: Ledger
    comparison: Comparison
    incidents: tuple[Incident, ...]
    seconds: float
    replay_seconds: float
    predictions_digest: str = ""
    verification: Verification | None = None
    estimates: dict[str, Any] | None = None

    @property
    def events_per_second(self) -> float:
        """Events through the whole chain per second of the replay."""
        return sum(self.ledger.events.values()) / max(self.replay_seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the ledger's counts, figures by model, incidents in full under ``timeline``."""
        compared = self.comparison
        hops = [asdict(hop) for hop in self.ledger.hops]
        counts = {name: value for name, value in self.ledger.as_dict().items() if name not in ("hops", "seconds")}
        return {
            **counts,
            **compared.whole,
            "judged_requests": compared.count,
            "second_half": {**compared.second_half, "judged_requests": compared.second_count},
            "spans_ms": {
                "live": [compared.start_ms, compared.end_ms],
                "frozen": [compared.start_ms, compared.end_ms],
                "half_year": [compared.split_ms, compared.end_ms],
            },
            "months": [asdict(month) for month in compared.months],
            "timeline": [asdict(incident) for incident in self.incidents],
            "hops": hops,
            "seconds": round(self.seconds, 3),
            "replay_seconds": round(self.replay_seconds, 3),
            "predictions_digest": self.predictions_digest,
            "verification": self.verification.as_dict() if self.verification else None,
            "estimates": self.estimates,
            "events_per_second": round(self.events_per_second, 1),
        }


def half_year_split(client: Client, predictions: str = "headwater.predictions_delay") -> int:
    """The first of July (UTC epoch ms) of the year most requests are of."""
    sql = f"SELECT toYear(event_time) AS year, count() AS n FROM {predictions} GROUP BY year ORDER BY n DESC LIMIT 1"
    rows = client.query(sql).result_rows
    return first_of_july(int(rows[0][0]) if rows else 1970)


def first_of_july(year: int) -> int:
    """Where the halves of a year meet, UTC epoch ms."""
    return milliseconds(datetime(year, 7, 1, tzinfo=UTC))


def compare(
    client: Client,
    frozen: Score | None,
    frozen_from_ms: int | None,
    half_year: Score | None,
    split_ms: int,
    predictions: str = "headwater.predictions_delay",
    labels: str = "headwater.flights_arrivals",
) -> Comparison:
    """Judge the models, a month at a time: a year of logged features does not have to fit into memory.

    Parameters
    ----------
    client : Client
    frozen, half_year : callable, optional
        Probabilities of a frame of logged columns.
    frozen_from_ms : int, optional
        Request time from which the frozen model could have answered.
    split_ms : int
        End of what the half-year model was trained on.
    predictions, labels : str
        Tables.
    """
    columns = input_columns(client, predictions)
    asked = "toUnixTimestamp64Milli(min(event_time)), toUnixTimestamp64Milli(max(event_time)), count()"
    first, last, rows = map(int, client.query(f"SELECT {asked} FROM {predictions}").result_rows[0])
    start_ms = frozen_from_ms if frozen is not None and frozen_from_ms is not None else None
    parts: list[_Part] = []
    months: list[Month] = []
    for month_ms, next_ms in _months(first, last) if rows else ():
        frame = labelled(client, month_ms, next_ms, columns, predictions, labels)
        if frame.empty:
            continue
        times = frame["event_time"].to_numpy("datetime64[ms]").astype(np.int64)
        part = _Part(times, frame["label"].to_numpy(np.uint8), frame["probability"].to_numpy(np.float64))
        if start_ms is not None and frozen is not None and next_ms > start_ms:
            part.frozen = frozen(frame)
        if half_year is not None and next_ms > split_ms:
            part.half_year = half_year(frame)
        months.append(_month(month_ms, part, start_ms))
        parts.append(part)
    everything = _Part.joined(parts)
    since = everything.times >= (start_ms if start_ms is not None else first)
    second = everything.times >= split_ms
    whole, later = everything.judged(since), everything.judged(second)
    for measure in whole:
        whole[measure]["half_year"] = later[measure]["half_year"]
    return Comparison(
        whole=whole,
        second_half=later,
        count=int(since.sum()),
        second_count=int(second.sum()),
        start_ms=start_ms,
        split_ms=split_ms,
        end_ms=int(everything.times.max()) if len(everything.times) else None,
        months=tuple(months),
    )


def digest(client: Client, predictions: str = "headwater.predictions_delay") -> str:
    """What was answered to whom by which model, as 16 hex digits that do not depend on the order of rows."""
    sql = f"SELECT hex(sum(cityHash64(request_id, model_version, probability))) FROM {predictions}"
    return str(client.query(sql).result_rows[0][0])


def read_incidents(kafka: str) -> tuple[Incident, ...]:
    """Every incident the control topics tell of, oldest first."""
    return tuple(fold(read_control(kafka)))


def summarize(
    kafka: str,
    client: Client,
    ledger: Ledger,
    *,
    frozen: Score | None,
    frozen_from_ms: int | None,
    half_year: Score | None,
    split_ms: int,
    seconds: float,
    replay_seconds: float,
    progress: Callable[[str], None] = lambda _: None,
    verification: Verification | None = None,
) -> Summary:
    """Put together what the demo says at its end.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    client : Client
        Of the archive.
    ledger : Ledger
    frozen, frozen_from_ms
        See :func:`compare`.
    half_year, split_ms
        See :func:`compare`.
    seconds, replay_seconds : float
        Wall time.
    progress : callable
        Told what is going on.
    verification : Verification, optional
    """
    progress("judging live and frozen models on the same requests")
    comparison = compare(client, frozen, frozen_from_ms, half_year, split_ms)
    return Summary(
        ledger,
        comparison,
        read_incidents(kafka),
        seconds,
        replay_seconds,
        digest(client),
        verification,
        read_estimates(kafka).tracking(),
    )


@dataclass
class _Part:
    """Labelled requests and what each model said of them; NaN where a model said nothing."""

    times: npt.NDArray[np.int64]
    label: npt.NDArray[np.uint8]
    live: npt.NDArray[np.float64]
    frozen: npt.NDArray[np.float64] | None = None
    half_year: npt.NDArray[np.float64] | None = None

    @classmethod
    def joined(cls, parts: Sequence["_Part"]) -> "_Part":
        if not parts:
            return cls(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0))
        filled = [
            {
                name: np.full(len(part.label), np.nan) if (said := getattr(part, name)) is None else said
                for name in NAMES
            }
            for part in parts
        ]
        probabilities = {name: np.concatenate([each[name] for each in filled]) for name in NAMES}
        times = np.concatenate([part.times for part in parts])
        return cls(times, np.concatenate([part.label for part in parts]), **probabilities)

    def said(self, name: str) -> npt.NDArray[np.float64]:
        """Probabilities of one model."""
        found: npt.NDArray[np.float64] | None = getattr(self, name)
        return np.full(len(self.label), np.nan) if found is None else found

    def judged(self, rows: npt.NDArray[np.bool_]) -> Judged:
        """AUC and log loss of each model that said something of all of these requests."""
        found: Judged = {"auc": {}, "logloss": {}}
        for name in NAMES:
            said = self.said(name)[rows]
            complete = not np.isnan(said).any()
            for measure, value in brief(self.label[rows], said if complete else None).items():
                found[measure][name] = value
        return found


def _month(month_ms: int, part: _Part, start_ms: int | None) -> Month:
    live = brief(part.label, part.live)
    # A month in which the first model took over has requests it could not have answered: only the rest is compared.
    rows = part.times >= start_ms if start_ms is not None else np.zeros(len(part.label), bool)
    if part.frozen is not None and rows.any():
        live = brief(part.label[rows], part.live[rows])
    frozen = brief(part.label[rows], part.frozen[rows] if part.frozen is not None else None)
    return Month(
        month=datetime.fromtimestamp(month_ms / 1000, UTC).strftime("%b %Y"),
        count=len(part.label),
        late_share=float(part.label.mean()),
        live_auc=live["auc"],
        frozen_auc=frozen["auc"],
        live_logloss=live["logloss"],
        frozen_logloss=frozen["logloss"],
    )


def _months(first_ms: int, last_ms: int) -> list[tuple[int, int]]:
    start = datetime.fromtimestamp(first_ms / 1000, UTC)
    starts = [datetime(start.year, start.month, 1, tzinfo=UTC)]
    while milliseconds(starts[-1]) <= last_ms:
        year, month = divmod(starts[-1].year * 12 + starts[-1].month, 12)
        starts.append(datetime(year, month + 1, 1, tzinfo=UTC))
    edges = [milliseconds(each) for each in starts]
    return list(pairwise(edges))
