"""What the stream served, held against the witness: every row of a view's topic, computed again from its records."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, cast

import pandas as pd
from clickhouse_connect.driver.client import Client
from confluent_kafka import Message
from feast import StreamFeatureView

from features.comparison import SCALED, Parity, compare_rows, magnitudes, together
from features.compiler.changes import TIME
from features.compiler.clickhouse import SETTINGS, CompiledHistory, compile_history
from features.compiler.clickhouse_changes import changes_of
from features.compiler.definition import ANY, Definition, definition
from features.compiler.flink import ROWTIME
from features.compiler.sources import sql_path, stream_source
from features.compiler.topics import EVENT_TIME, feature_topic
from features.offline.history import archive_of, check, settled_ms
from features.offline.transformed import transformed
from features.versions import standing
from features.witness import rows
from jobs.generations import Begun
from jobs.reading import TopicReader
from schemas.tables import DATABASE, OFFSET, PARTITION, table_name
from schemas.topics import DLQ_SUFFIX, LATE_SUFFIX

__all__ = ["Served", "places_aside", "records_of", "verify_rows"]

Places = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Served:
    """What a comparison came to.

    Attributes
    ----------
    records, rows : int
        That were read.
    late : int
        Records that the stream had set aside, and that do not count therefore.
    parity : Parity
        Features are called ``<view>__<feature>``.
    """

    records: int
    rows: int
    late: int
    parity: Parity

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"records": self.records, "rows": self.rows, "late": self.late, **asdict(self.parity)}


def verify_rows(
    client: Client,
    kafka: str,
    views: Iterable[StreamFeatureView],
    start_ms: int | None = None,
    end_ms: int | None = None,
    progress: Callable[[str], object] = lambda _: None,
    begun: Mapping[str, Begun] | None = None,
) -> Served:
    """Compare the archived rows of views with what their archived records should have given.

    Parameters
    ----------
    client : Client
        Of the archive.
    kafka : str
        ``host:port``; there it is written which records came too late to count.
    views : iterable of StreamFeatureView
    start_ms, end_ms : int, optional
        Event time of rows, [start, end); UTC epoch milliseconds. No row is looked at that a record which is still in
        time could change.
    progress : callable
        Told what is going on.
    begun : mapping of str to Begun, optional
        Of views that have changed, by name: rows of before are not looked at, and records that came too late for
        another reading of the topic count.

    Raises
    ------
    features.offline.history.HistoryError
        Where a view's records or rows are not archived, or its transformation does not run in ClickHouse.
    """
    parities: dict[str, Parity] = {}
    records = served = late = 0
    for view in views:
        settled = settled_ms(client, view, archive_of(client, view))
        end = settled if end_ms is None else min(end_ms, settled)
        progress(f"{view.name}: reading records")
        meaning = definition(view)
        since = (begun or {}).get(view.name, Begun(0))
        events, aside = records_of(client, kafka, view, start_ms, end, since.generation)
        progress(f"{view.name}: reading rows")
        got = _rows(client, view, meaning, start_ms, end, since)
        progress(f"{view.name}: computing the rows of {len(events):,} records again")
        expected = _between(rows(meaning, events, end - 1), start_ms)
        scale = None
        if any(each.function in SCALED for each in meaning.features):
            scale = _between(rows(meaning, magnitudes(meaning, events), end - 1), start_ms)
        parities[view.name] = compare_rows(meaning, expected, got, scale)
        records, served, late = records + len(events), served + len(got), late + aside
    return Served(records, served, late, together(parities))


def places_aside(kafka: str, topic: str, suffix: str, generation: int | None = None) -> Places:
    """Partition and offset of the records of a topic that were set aside in the topic with that suffix.

    With a generation only those that it set aside: what is late is, what cannot be decoded is not a matter of that.
    """
    found: set[tuple[int, int]] = set()

    def take(messages: list[Message]) -> None:
        for each in messages:
            headers = dict(cast(list[tuple[str, bytes]], each.headers() or []))
            if generation is None or int(headers.get("headwater.generation", b"0")) == generation:
                found.add((int(headers["headwater.partition"]), int(headers["headwater.offset"])))

    reader = TopicReader(kafka, [topic + suffix])
    try:
        reader.read(take)
    finally:
        reader.close()
    return frozenset(found)


def records_of(
    client: Client,
    kafka: str,
    view: StreamFeatureView,
    start_ms: int | None = None,
    end_ms: int | None = None,
    generation: int = 0,
) -> tuple[pd.DataFrame, int]:
    """The archived records that a view counts, and how many it does not because they came too late.

    Parameters
    ----------
    client, kafka, view
        See :func:`verify_rows`.
    start_ms, end_ms : int, optional
        Of the rows that they are wanted for.
    generation : int
        In which the view's topic is read, see :mod:`jobs.generations`.

    Returns
    -------
    records : DataFrame
        Join keys, columns and ``event_time`` as int64 epoch milliseconds, behind the view's transformation, in topic
        order: what :mod:`features.witness` takes.
    late : int
    """
    archive, topic, meaning = archive_of(client, view), stream_source(view).kafka_options.topic, definition(view)
    if meaning.of_changes:
        return _versions_of(client, kafka, view, generation)
    compiled = compile_history(view, archive, start_ms, end_ms)
    check(client, compiled)
    if compiled.function:
        found = transformed(client, compiled)
    else:
        found = _records(client, compiled, meaning, f"toUnixTimestamp64Milli(`{ROWTIME}`) + 1")
    events = found[~_among(found, places_aside(kafka, topic, LATE_SUFFIX, generation))]
    return events, len(found) - len(events)


def _versions_of(client: Client, kafka: str, view: StreamFeatureView, generation: int) -> tuple[pd.DataFrame, int]:
    """The same of changes: all of them, as any may have made a row that stands; which stood when is told by pandas."""
    archive, topic = archive_of(client, view), stream_source(view).kafka_options.topic
    compiled = compile_history(view, archive)
    check(client, compiled)
    changes = client.query_df(changes_of(view, archive), settings=dict(compiled.settings))
    rows = _records(client, compiled, definition(view), f"toUnixTimestamp64Milli(`{TIME}`)")
    if changes.empty:
        return rows.assign(since=0, until=0), 0
    late = _among(changes, places_aside(kafka, topic, LATE_SUFFIX, generation))
    usable = changes[~late & ~_among(changes, places_aside(kafka, topic, DLQ_SUFFIX))]
    stood = standing(usable).join(usable[[PARTITION, OFFSET]])
    return rows.merge(stood, on=[PARTITION, OFFSET], how="inner"), int(late.sum())


def _records(client: Client, compiled: CompiledHistory, meaning: Definition, time: str) -> pd.DataFrame:
    """Keys, columns and event time of the records behind the view's transformation, in topic order."""
    columns = {*meaning.keys, *meaning.latest, *(each.column for each in meaning.features)} - {ANY}
    listed = ", ".join(f"{sql_path(name)} AS `{name}`" for name in sorted(columns))
    frame = client.query_df(
        f"SELECT {listed}, {time} AS `{EVENT_TIME}`, `{PARTITION}`, `{OFFSET}` "
        f"FROM ({compiled.input}) ORDER BY `{PARTITION}`, `{OFFSET}`",
        settings=dict(compiled.settings),
    )
    for name in frame.columns[[isinstance(each, Decimal) for each in frame.iloc[0]]] if len(frame) else ():
        frame[name] = frame[name].astype(float)
    if frame.empty:
        return pd.DataFrame(columns=[*sorted(columns), EVENT_TIME, PARTITION, OFFSET]).astype({EVENT_TIME: "int64"})
    return frame.astype({EVENT_TIME: "int64"})


def _rows(
    client: Client, view: StreamFeatureView, meaning: Definition, start_ms: int | None, end_ms: int, since: Begun
) -> pd.DataFrame:
    names = [*meaning.keys, *(each.name for each in meaning.features), *meaning.latest]
    listed = ", ".join(f"`{name}`" for name in names)
    after = "" if start_ms is None else f" AND event_time >= fromUnixTimestamp64Milli(toInt64({start_ms}), 'UTC')"
    older = "".join(f" AND NOT ({PARTITION} = {part} AND {OFFSET} < {at})" for part, at in since.offsets.items() if at)
    frame = client.query_df(
        f"SELECT {listed}, toUnixTimestamp64Milli(event_time) AS event_time "
        f"FROM {DATABASE}.`{table_name(feature_topic(view).name)}` "
        f"WHERE event_time < fromUnixTimestamp64Milli(toInt64({end_ms}), 'UTC'){after}{older} "
        f"ORDER BY `{PARTITION}`, `{OFFSET}`",
        settings=dict(SETTINGS),
    )
    return frame if len(frame) else pd.DataFrame(columns=[*names, EVENT_TIME])


def _among(frame: pd.DataFrame, places: Places) -> pd.Series:
    if not places:
        return pd.Series(False, index=frame.index)
    return pd.Series(list(zip(frame[PARTITION], frame[OFFSET], strict=True)), index=frame.index).isin(places)


def _between(frame: pd.DataFrame, start_ms: int | None) -> pd.DataFrame:
    return frame if start_ms is None else frame[frame[EVENT_TIME] >= start_ms]
