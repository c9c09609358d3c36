"""The ledger: every hop counted from what lies in Kafka and ClickHouse, never from the jobs' own counters.

A record is identified by where it lies (topic, partition, offset) and by its key, which are in Kafka's own framing, so
almost nothing has to be decoded. What came into a hop must have come out of it, or lie beside it as a dead letter or a
late record; what is left is `missing`. What came out twice is `duplicates`; what came out without having come in is
`surplus`, which is as wrong as a loss.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from clickhouse_connect.driver.client import Client

from compose.control import CONTROL_TOPICS, Incident, fold, read_control
from compose.demo.keys import OFFSET_BITS, Aside, Places, TopicKeys, is_aside
from jobs.reading import reader
from schemas.tables import DATABASE, OFFSET, PARTITION, table_name

__all__ = ["EVENTS", "FEATURES", "LATEST_VIEWS", "PREDICTIONS", "REQUESTS", "Hop", "Ledger", "LedgerError", "count"]

EVENTS = ("flights.requests", "flights.departures", "flights.arrivals", "flights.weather")
REQUESTS, LABELS = EVENTS[0], EVENTS[2]
FEATURES, PREDICTIONS = "features.", "predictions."
# Views of our repo without windows, a row an event. Named here, since reading the repo imports Feast, which takes as
# long as counting everything.
LATEST_VIEWS = frozenset({"flight", "tail", "weather"})
_ID_COLUMN = {REQUESTS: "flight_id", EVENTS[1]: "flight_id", LABELS: "flight_id"}


class LedgerError(RuntimeError):
    """The ledger cannot be counted: something that should be there is not. Says what, and what to do next."""


@dataclass(frozen=True)
class Hop:
    """One step of the way and what became of the records that took it.

    Attributes
    ----------
    name : str
    came, went : int
        Distinct records before and behind it.
    dead, late : int
        Of those that came: put aside with their reason.
    missing : int
        Came, and are nowhere.
    surplus : int
        Went, and never came.
    duplicates : int
        Went more than once, each extra time counted.
    """

    name: str
    came: int
    went: int
    dead: int = 0
    late: int = 0
    missing: int = 0
    surplus: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class Ledger:
    """What there is, and whether it adds up.

    Attributes
    ----------
    events : dict of str to int
        Records of each event topic, heartbeats left out.
    requests, predictions, labels : int
        Distinct keys of their topics.
    feature_rows : dict of str to int
        By view, progress rows left out.
    dead_letters, late : int
        Distinct records put aside, however many jobs did so.
    alerts, incidents : int
        Alerts opened or updated, and the incidents they are about.
    submissions, promotions, refusals : int
        Of those incidents.
    scheduled : int
        Submissions no alert led to: the first model.
    hops : tuple of Hop
    seconds : float
        What counting took.
    """

    events: dict[str, int]
    requests: int
    predictions: int
    labels: int
    feature_rows: dict[str, int]
    dead_letters: int
    late: int
    alerts: int
    incidents: int
    submissions: int
    promotions: int
    refusals: int
    scheduled: int
    hops: tuple[Hop, ...]
    seconds: float

    @property
    def unaccounted(self) -> int:
        """Records that are nowhere, and records from nowhere; 0 when everything adds up."""
        return sum(hop.missing + hop.surplus for hop in self.hops)

    @property
    def duplicates(self) -> int:
        """Extra copies over all hops; 0 when everything happened once."""
        return sum(hop.duplicates for hop in self.hops)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; totals where a field is kept by topic, which stands beside as ``<field>_by_topic``/``_by_view``."""
        whole = asdict(self)
        whole["events_by_topic"], whole["events"] = self.events, sum(self.events.values())
        whole["feature_rows_by_view"], whole["feature_rows"] = self.feature_rows, sum(self.feature_rows.values())
        return whole | {"unaccounted": self.unaccounted, "duplicates": self.duplicates}


def count(
    kafka: str,
    clickhouse: Client,
    *,
    sent: Mapping[str, int] | None = None,
    archived: Iterable[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Ledger:
    """Count everything once. Give it a quiet moment: records still on their way count as missing.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    clickhouse : Client
        Of the archive.
    sent : mapping of str to int, optional
        How many records the source had for each topic, to hold the topics against.
    archived : iterable of str, optional
        Topics that must be in ClickHouse to the last record; all event, feature and prediction topics if not given.
    progress : callable
        Told each topic as it is read.

    Raises
    ------
    LedgerError
        Where the request topic does not exist.
    """
    began = time.perf_counter()
    names = _topic_names(kafka)
    if REQUESTS not in names:
        raise LedgerError(f"expected a topic {REQUESTS} on {kafka}, found {len(names)} others; has a replay run there?")
    aside = Aside.read(kafka, names)
    kept = [n for n in names if n.startswith((*EVENTS, FEATURES, PREDICTIONS)) and not is_aside(n)]
    tables = _tables(clickhouse)
    required = set(kept if archived is None else archived)
    hops: list[Hop] = []
    keys: dict[str, TopicKeys] = {}
    for name in kept:
        progress(name)
        found = TopicKeys.read(kafka, name, keyless=name in EVENTS)
        hops.append(_topic_hop(name, found, sent, aside, clickhouse))
        if name in required:
            hops.append(_archive_hop(name, found, aside, clickhouse, tables))
        keys[name] = found if name.startswith((REQUESTS, PREDICTIONS)) else found.without_records()
    for name in keys:
        if name.startswith(PREDICTIONS):
            hops.append(_scoring_hop(name, keys[REQUESTS], keys[name], aside))
            hops += _sketch_hop(name, clickhouse)
    incidents, control = _control_hops(kafka)
    from_alerts = [each for each in incidents if each.kind == "alert"]
    verdicts = Counter(each.decision["decision"] for each in from_alerts if each.decision)
    return Ledger(
        events={name: keys[name].count for name in EVENTS if name in keys},
        requests=keys[REQUESTS].distinct,
        predictions=sum(found.distinct for name, found in keys.items() if name.startswith(PREDICTIONS)),
        labels=keys[LABELS].distinct if LABELS in keys else 0,
        feature_rows={n.removeprefix(FEATURES): f.count for n, f in keys.items() if n.startswith(FEATURES)},
        dead_letters=len(aside.dead),
        late=len(aside.late),
        alerts=sum(each.alerts for each in from_alerts),
        incidents=len(from_alerts),
        submissions=sum(_was_submitted(each) for each in from_alerts),
        promotions=verdicts["promoted"],
        refusals=verdicts["refused"],
        scheduled=sum(_was_submitted(each) for each in incidents if each.kind != "alert"),
        hops=tuple(hops + control),
        seconds=time.perf_counter() - began,
    )


def _topic_names(kafka: str) -> list[str]:
    consumer = reader(kafka)
    try:
        return sorted(consumer.list_topics(timeout=10).topics)
    finally:
        consumer.close()


def _topic_hop(name: str, found: TopicKeys, sent: Mapping[str, int] | None, aside: Aside, clickhouse: Client) -> Hop:
    """From whoever writes a topic into it: nothing twice, and as many as were sent."""
    repeated = found.count - found.distinct if name.startswith(PREDICTIONS) else found.repeated()
    if repeated and name.startswith(FEATURES):
        repeated -= _ties(name, repeated, clickhouse)
    dead, _ = aside.places(name)
    unique = found.count - repeated
    came = unique if sent is None else sent.get(name, unique)
    return Hop(
        f"→ {name}",
        came=came,
        went=unique,
        dead=len(dead) if name in EVENTS else 0,
        missing=max(0, came - unique),
        surplus=max(0, unique - came),
        duplicates=repeated,
    )


def _ties(name: str, repeated: int, clickhouse: Client) -> int:
    """Of the repeated (entity, event time), those that stand for two events at the same instant.

    A view of latest values has a row an event, and one airframe can be said to arrive twice in a minute: then the
    values differ. A view of windows has no business having two rows of one time at all.
    """
    if name.removeprefix(FEATURES) not in LATEST_VIEWS:
        return 0
    listed = f"SELECT name FROM system.columns WHERE database = '{DATABASE}' AND table = '{table_name(name)}'"
    names = (str(each) for (each,) in clickhouse.query(listed).result_rows)
    columns = ", ".join(f"`{each}`" for each in names if each not in ("watermark", PARTITION, OFFSET))
    if not columns:
        return 0
    sql = f"SELECT count() - uniqExact(tuple({columns})) FROM {DATABASE}.{table_name(name)}"
    copies = int(clickhouse.query(sql).result_rows[0][0])
    return max(0, repeated - copies)


def _tables(clickhouse: Client) -> set[str]:
    rows = clickhouse.query(f"SELECT name FROM system.tables WHERE database = '{DATABASE}'").result_rows
    return {str(name) for (name,) in rows}


def _archive_hop(name: str, found: TopicKeys, aside: Aside, clickhouse: Client, tables: set[str]) -> Hop:
    """From a topic into its table: by place, so that neither a loss nor a copy can hide behind the other."""
    table = table_name(name)
    stored = np.empty(0, np.int64)
    repeated_ids = 0
    if table in tables:
        place = f"bitOr(bitShiftLeft(toInt64(_partition), {OFFSET_BITS}), toInt64(_offset))"
        result = clickhouse.query(f"SELECT {place} AS place FROM {DATABASE}.{table}", column_oriented=True)
        stored = np.array(result.result_columns[0] if result.result_columns else [], np.int64)
        column = "request_id" if name.startswith(PREDICTIONS) else _ID_COLUMN.get(name)
        if column:
            sql = f"SELECT count() - uniqExact({column}) FROM {DATABASE}.{table}"
            repeated_ids = int(clickhouse.query(sql).result_rows[0][0])
    distinct = np.unique(stored)
    dead, _ = aside.places(name)
    gone = np.setdiff1d(found.places, distinct, assume_unique=True)
    excused = np.isin(gone, dead)
    repeated_in_topic = found.count - found.distinct if repeated_ids else 0
    return Hop(
        f"{name} → archive",
        came=found.count,
        went=len(distinct),
        dead=int(excused.sum()),
        missing=int((~excused).sum()),
        surplus=len(np.setdiff1d(distinct, found.places, assume_unique=True)),
        duplicates=max(len(stored) - len(distinct), repeated_ids - repeated_in_topic),
    )


def _scoring_hop(name: str, requests: TopicKeys, predictions: TopicKeys, aside: Aside) -> Hop:
    """Every request has a prediction, or lies aside."""
    dead, late = aside.places(REQUESTS)
    asked, answered = set(requests.records), set(predictions.records)
    open_ = asked - answered
    is_dead = _keys_at(requests, dead) & open_
    is_late = _keys_at(requests, late) & open_ - is_dead
    return Hop(
        f"{REQUESTS} → {name}",
        came=len(asked),
        went=len(answered),
        dead=len(is_dead),
        late=len(is_late),
        missing=len(open_ - is_dead - is_late),
        surplus=len(answered - asked),
    )


def _sketch_hop(name: str, clickhouse: Client) -> list[Hop]:
    """Every answer is in a sketch that drift detection gets; none where the table is not one of ours."""
    table = table_name(name)
    where = f"database = '{DATABASE}' AND table = '{table}' AND name = 'sketch_rows'"
    known = f"SELECT count() FROM system.columns WHERE {where}"
    if not int(clickhouse.query(known).result_rows[0][0]):
        return []
    came, went = clickhouse.query(f"SELECT count(), sum(sketch_rows) FROM {DATABASE}.{table}").result_rows[0]
    came, went = int(came), int(went or 0)
    return [Hop(f"{name} → sketches", came=came, went=went, missing=max(0, came - went), surplus=max(0, went - came))]


def _keys_at(found: TopicKeys, places: Places) -> set[bytes]:
    return {found.records[index] for index in np.flatnonzero(np.isin(found.places, places))}


def _was_submitted(incident: Incident) -> bool:
    return incident.submission not in (None, "intent")


def _control_hops(kafka: str) -> tuple[list[Incident], list[Hop]]:
    """Every retraining event is submitted once, and every submission that ended well is decided once."""
    records = read_control(kafka)
    incidents = fold(records)
    asked = [each for each in incidents if each.effective_from_ms is not None]
    submitted = [each for each in incidents if each.submission is not None]
    due = [each for each in submitted if each.submission not in ("failed", "cancelled")]
    verdicts: dict[str, set[tuple[str, str]]] = {}
    for each in records["models.decisions"]:
        verdicts.setdefault(each["incident_id"], set()).add((each["decision"], each["challenger_version"]))
    events, submissions, decisions = CONTROL_TOPICS[1:4]
    return incidents, [
        Hop(
            f"{events} → {submissions}",
            came=len(asked),
            went=len(submitted),
            missing=sum(each.submission is None for each in asked),
            surplus=sum(each.effective_from_ms is None for each in submitted),
            duplicates=sum(max(0, len(each.submission_ids) - 1) for each in submitted),
        ),
        Hop(
            f"{submissions} → {decisions}",
            came=len(submitted),
            went=len(verdicts),
            dead=len(submitted) - len(due),
            missing=sum(each.decision is None for each in due),
            surplus=len(set(verdicts) - {each.incident_id for each in submitted}),
            duplicates=sum(len(each) - 1 for each in verdicts.values()),
        ),
    ]
