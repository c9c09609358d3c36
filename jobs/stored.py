"""What ClickHouse keeps of a model's traffic, as its monitors were told it: sketches, and losses of answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from clickhouse_connect.driver.client import Client

from features.compiler.inputs import Inputs
from jobs.segmenting import planned
from monitors.losses import sketch_losses, sketch_segment_losses
from monitors.matching import WAIT_MS
from monitors.policy import PRIOR, Version
from monitors.segments import Segmentation
from monitors.sketches import Sketches, merge
from schemas.tables import DATABASE, table_name

__all__ = ["Batch", "Stored"]

MERGED_AT_ONCE = 200


@dataclass(frozen=True)
class Batch:
    """Some of the traffic, by version.

    Attributes
    ----------
    inputs : mapping of version to Sketches
        Tiles of an hour of request time.
    losses : mapping of version to Sketches
        See :func:`monitors.losses.sketch_losses`; tiles of an hour of the labels' arrival.
    segments, segment_losses : mapping of version to Sketches
        The same by segment, see :mod:`monitors.segments`.
    sketches, labelled : int
        Sketches read, and requests with labels.
    """

    inputs: Mapping[str, Sketches]
    losses: Mapping[str, Sketches]
    segments: Mapping[str, Sketches]
    segment_losses: Mapping[str, Sketches]
    sketches: int
    labelled: int


class Stored:
    """The archived traffic of one model. All times are UTC epoch milliseconds.

    Labels that the stream set aside as late are in the archive like any other, and count here.

    Parameters
    ----------
    client : Client
    inputs : Inputs
        What the model reads, and where its labels are.
    cut : callable of str to Segmentation
        How a version's traffic is cut.
    """

    def __init__(self, client: Client, inputs: Inputs, cut: Callable[[str], Segmentation]) -> None:
        self._client, self._inputs, self._cut = client, inputs, cut
        self._cut_by = planned(inputs).reads
        self._predictions = f"`{DATABASE}`.`{table_name(f'predictions.{inputs.model}')}`"
        self._labels = f"`{DATABASE}`.`{table_name(inputs.labels)}`"

    def span(self, until_ms: int) -> tuple[int, int] | None:
        """Times of the first and the last request before a time; None where none has sketches."""
        found = self._client.query(
            "SELECT toUnixTimestamp64Milli(min(event_time)), toUnixTimestamp64Milli(max(event_time)), "
            f"countIf(sketch IS NOT NULL) FROM {self._predictions} WHERE {_BEFORE}",
            parameters={"end": until_ms},
        ).result_rows[0]
        return (int(found[0]), int(found[1])) if found[2] else None

    def versions(self, until_ms: int) -> tuple[Version, ...]:
        """Who answers from when on, before a time, in order; the prior from the beginning."""
        changes = self._control("models.control", "version", "action != 'hold'", until_ms)
        return (Version(PRIOR, 0), *(Version(version, at_ms) for version, at_ms in changes))

    def retrainings(self, until_ms: int) -> tuple[tuple[str, int], ...]:
        """Monitor and time of each retraining that was asked for before a time, in order."""
        return self._control("retraining.events", "monitor", "1", until_ms)

    def _control(self, topic: str, column: str, only: str, until_ms: int) -> tuple[tuple[str, int], ...]:
        found = self._client.query(
            f"SELECT `{column}`, toUnixTimestamp64Milli(event_time) FROM `{DATABASE}`.`{table_name(topic)}` "
            f"WHERE model = {{model:String}} AND {_BEFORE} AND {only} ORDER BY event_time, _partition, _offset",
            parameters={"model": self._inputs.model, "end": until_ms},
        ).result_rows
        return tuple((str(name), int(at_ms)) for name, at_ms in found)

    def read(self, start_ms: int, end_ms: int, until_ms: int) -> Batch:
        """Requests of [start, end), and their labels that came before `until_ms`."""
        inputs, count = self._sketches("sketch", start_ms, end_ms)
        segments = self._sketches("segments", start_ms, end_ms)[0] if self._cut_by else {}
        losses, segment_losses, labelled = self._losses(start_ms, end_ms, until_ms)
        return Batch(inputs, losses, segments, segment_losses, count, labelled)

    def sketches(self, start_ms: int, end_ms: int) -> dict[str, Sketches]:
        """Inputs by version, of batches whose last request is in [start, end): tiles of others may be among theirs."""
        return self._sketches("sketch", start_ms, end_ms)[0]

    def _sketches(self, column: str, start_ms: int, end_ms: int) -> tuple[dict[str, Sketches], int]:
        """Each batch's are on the last of its rows."""
        sql = (
            f"SELECT model_version, assumeNotNull({column}) AS payload FROM {self._predictions} "
            f"WHERE {column} IS NOT NULL AND {_SINCE} AND {_BEFORE}"
        )
        found: dict[str, list[Sketches]] = {}
        count, given = 0, {"start": start_ms, "end": end_ms}
        with self._client.query_rows_stream(sql, given, column_formats={"payload": "bytes"}) as rows:
            for version, payload in rows:
                parts = found.setdefault(version, [])
                parts.append(Sketches.from_bytes(payload))
                count += 1
                if len(parts) == MERGED_AT_ONCE:
                    found[version] = [merge(parts)]
        return {version: merge(parts) for version, parts in found.items()}, count

    def _losses(
        self, start_ms: int, end_ms: int, until_ms: int
    ) -> tuple[dict[str, Sketches], dict[str, Sketches], int]:
        """A label is waited for as long as the monitors do; of several of a request the first counts."""
        labels = (
            f"SELECT `{self._inputs.request_id}` AS request_id, ifNull(toUInt8({self._inputs.label}), 0) AS positive, "
            f"event_time FROM {self._labels} WHERE {_SINCE} "
            "AND event_time < fromUnixTimestamp64Milli({until:Int64}) ORDER BY event_time LIMIT 1 BY request_id"
        )
        also = "".join(f", `{name}`" for name in self._cut_by)
        rows = self._client.query_df(
            "SELECT p.model_version AS version, p.probability AS probability, l.positive AS positive, "
            f"toUnixTimestamp64Milli(l.event_time) AS at{also} FROM "
            f"(SELECT request_id, model_version, probability, event_time{also} FROM {self._predictions} "
            f"WHERE {_SINCE} AND {_BEFORE}) AS p INNER JOIN ({labels}) AS l ON p.request_id = l.request_id "
            f"WHERE at <= toUnixTimestamp64Milli(p.event_time) + {WAIT_MS}",
            parameters={"start": start_ms, "end": end_ms, "until": min(until_ms, end_ms + WAIT_MS)},
        )
        found, parts = {}, {}
        for version, mine in rows.groupby("version", sort=True) if len(rows) else ():
            probability, positive = mine["probability"].to_numpy(np.float64), mine["positive"].to_numpy()
            at = mine["at"].to_numpy(np.int64)
            found[str(version)] = sketch_losses(probability, positive, at)
            if cut := self._cut(str(version)):
                parts[str(version)] = sketch_segment_losses(cut, cut.codes(mine), probability, positive, at)
        return found, parts, len(rows)


_SINCE = "event_time >= fromUnixTimestamp64Milli({start:Int64})"
_BEFORE = "event_time < fromUnixTimestamp64Milli({end:Int64})"
