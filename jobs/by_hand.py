"""A view's windows as SQL that a good user of Flink would write: what ``headwater bench features`` compares with.

``python -m jobs.by_hand`` reads orders from standard input: ``{"way", "repo", "bounded", "checkpoint_ms"}`` on a line.
For each it sends a job for the only view of that Feast repo and answers ``{"id"}``, or ``{"error"}``. Ways:

- ``compiled``: what ``headwater submit features`` sends;
- ``rows``: a ``HOP`` for each window length, and a row of each, with nulls for the others' features;
- ``row``: the same, put together by a ``TUMBLE`` of one slide into one row of all features;
- ``over``: ``OVER RANGE`` for each window length, a row of each for every record.

All read the same tables and write to the same kind of sink, exactly once. What is written by hand takes Flink's default
for watermarks, several a second; the compiled job emits them with the records, since its rows carry them on. By hand
nothing says that a window is empty: the compiled job has one more row for a key that went quiet.
"""

import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from feast import StreamFeatureView
from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.definition import Definition, Feature, definition
from features.compiler.flink import ROWTIME, events_table, interval, sql_type
from features.compiler.repo import load_repo
from features.compiler.sources import stream_source
from features.compiler.topics import entity_codec, feature_topic, join_key_fields, value_fields
from jobs import features
from jobs.cluster import Cluster, send, stream_environment
from jobs.tables import Broker, sink

__all__ = ["WAYS", "build", "main"]

COMPILED, ROWS, ROW, OVER = WAYS = ("compiled", "rows", "row", "over")
_SQL = {"sum": "SUM({})", "count": "COUNT({})", "mean": "AVG({})", "min": "MIN({})", "max": "MAX({})"}


@click.command()
@click.option("--kafka", envvar="HEADWATER_KAFKA", required=True, help="Kafka's host:port.")
@click.option("--flink", envvar="HEADWATER_FLINK", required=True, help="REST address of the Flink cluster.")
def main(kafka: str, flink: str) -> None:
    """Send the jobs that standard input asks for, until it ends."""
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"id": _sent(order, kafka, flink)}
        except Exception as exc:  # Flink's own, in its words; the next order may be a better one
            answer = {"error": str(exc)}
        print(json.dumps(answer), flush=True)  # noqa: T201
    os._exit(0)  # the Java gateway keeps threads


def _sent(order: Mapping[str, Any], kafka: str, flink: str) -> str:
    (view,) = load_repo(Path(order["repo"])).views.values()
    cluster = Cluster(flink, checkpoint_ms=order["checkpoint_ms"])
    environment = stream_environment(cluster, f"{view.name}-{order['way']}")
    return send(build(environment, order["way"], view, kafka, order["bounded"]))


def build(
    environment: StreamTableEnvironment, way: str, view: StreamFeatureView, kafka: str, bounded: bool
) -> StatementSet:
    """The statements of a job; its rows go to ``features.<view>`` whichever way they are made."""
    if way == COMPILED:
        return features.build(environment, Broker(kafka, view.name, carries=True, bounded=bounded), [view])
    broker, source, meaning = Broker(kafka, view.name, bounded=bounded), stream_source(view), definition(view)
    statements = environment.create_statement_set()
    features.declare_source(environment, statements, broker, source)
    environment.execute_sql(sink(broker, f"features_{view.name}", feature_topic(view), key=entity_codec(view)))
    part = _over if way == OVER else _hop
    parts = "\nUNION ALL\n".join(part(meaning, events_table(source.name), each) for each in _windows(meaning))
    if way == ROW:
        environment.execute_sql(f"CREATE TEMPORARY VIEW {view.name}_parts AS {parts}")
        parts = _together(meaning, f"{view.name}_parts")
    select = _select(view, parts)
    statements.add_insert_sql(f"INSERT INTO features_{view.name} SELECT *, `event_time` FROM ({select})")
    return statements


def _select(view: StreamFeatureView, parts: str) -> str:
    """The columns of the topic. A row time is one millisecond before its event time."""
    keys, values = (
        [f"CAST(`{each.name}` AS {sql_type(each.dtype)}) AS `{each.name}`" for each in fields]
        for fields in (join_key_fields(view), value_fields(view))
    )
    time = f"CAST({ROWTIME} + INTERVAL '0.001' SECOND AS TIMESTAMP_LTZ(3)) AS `event_time`"
    columns = ", ".join([*keys, time, "CAST(NULL AS TIMESTAMP_LTZ(3)) AS `watermark`", *values])
    return f"SELECT {columns}\nFROM (\n{parts}\n)"


def _windows(meaning: Definition) -> list[tuple[int, int]]:
    """Lengths and slides in ms, shortest first."""
    return sorted({(each.window_ms, each.slide_ms) for each in meaning.features})


def _values(meaning: Definition, window: tuple[int, int], over: str = "") -> str:
    """The features of one window, and nulls, of their types without evaluating anything, for the others."""

    def value(each: Feature) -> str:
        aggregate = _SQL[each.function].format(f"`{each.column}`" if each.column else "*")
        if (each.window_ms, each.slide_ms) == window:
            return f"{aggregate}{over} AS `{each.name}`"
        return f"CAST(NULL AS {'BIGINT' if each.function == 'count' else 'DOUBLE'}) AS `{each.name}`"

    return ", ".join(value(each) for each in meaning.features)


def _hop(meaning: Definition, events: str, window: tuple[int, int]) -> str:
    keys, (length_ms, slide_ms) = _keys(meaning), window
    return (
        f"SELECT {keys}, window_time AS {ROWTIME}, {_values(meaning, window)}\n"
        f"FROM TABLE(HOP(TABLE {events}, DESCRIPTOR({ROWTIME}), {interval(slide_ms)}, {interval(length_ms)}))\n"
        f"GROUP BY {keys}, window_start, window_end, window_time"
    )


def _together(meaning: Definition, parts: str) -> str:
    """One row of all windows that end together: those of the shortest slide."""
    keys, names = _keys(meaning), ", ".join(f"MAX(`{each.name}`) AS `{each.name}`" for each in meaning.features)
    slide_ms = min(each.slide_ms for each in meaning.features)
    return (
        f"SELECT {keys}, window_time AS {ROWTIME}, {names}\n"
        f"FROM TABLE(TUMBLE(TABLE {parts}, DESCRIPTOR({ROWTIME}), {interval(slide_ms)}))\n"
        f"GROUP BY {keys}, window_start, window_end, window_time"
    )


def _over(meaning: Definition, events: str, window: tuple[int, int]) -> str:
    keys, before = _keys(meaning), interval(window[0])
    return (
        f"SELECT {keys}, {ROWTIME}, {_values(meaning, window, ' OVER recent')}\nFROM {events}\n"
        f"WINDOW recent AS (PARTITION BY {keys} ORDER BY {ROWTIME} RANGE BETWEEN {before} PRECEDING AND CURRENT ROW)"
    )


def _keys(meaning: Definition) -> str:
    return ", ".join(f"`{name}`" for name in meaning.keys)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
