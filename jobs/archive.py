"""The archiver: every topic into its ClickHouse table, once. ``python -m jobs.archive --topics a,b --derived FILE``

What it guarantees, and how, is in :mod:`jobs.archiving`.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaException

from jobs.archiving import STORE_ERRORS, ArchiveError, Archiver, Limits
from jobs.reading import client_of
from schemas.topics import TOPICS, Topic, topic, topics_from_json

__all__ = ["main"]

REPORT_SECONDS = 5.0
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
log = logging.getLogger("archive")


def run(kafka: str, clickhouse: str, topics: Sequence[Topic], limits: Limits, stop: threading.Event) -> None:
    """Archive until told to stop.

    Where ClickHouse is away, or an insert fails, whether it took place is not known: read the tables, and go on from
    what they say. After the last of ``RETRY_SECONDS`` without success, the error is raised.
    """
    failures = 0
    archiver: Archiver | None = None
    reported = time.monotonic()
    while not stop.is_set():
        try:
            if archiver is None:
                archiver = Archiver(kafka, client_of(clickhouse), topics, limits)
            elif failures:
                archiver.rewind()
            archiver.step()
            failures = 0
        except STORE_ERRORS as exc:
            if failures == len(RETRY_SECONDS):
                raise
            log.warning("ClickHouse: %s; reading the tables again in %.1f s", exc, RETRY_SECONDS[failures])
            stop.wait(RETRY_SECONDS[failures])
            failures += 1
        if archiver and time.monotonic() - reported >= REPORT_SECONDS:
            reported = time.monotonic()
            report(archiver)
    if archiver:
        archiver.flush()
        report(archiver)
        archiver.close()


def report(archiver: Archiver) -> None:
    """One line of JSON: what was done so far, and how far behind it is."""
    lag = archiver.lag()
    line = {"job": "archive", "at": int(time.time() * 1e3), **archiver.counts}
    line |= {
        "lag": sum(lag.values()),
        "lag_max": max(lag.values(), default=0),
        "lags": {k: v for k, v in lag.items() if v},
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the archiver until SIGTERM or SIGINT.

    Returns
    -------
    int
        1 where it could not go on; the last line of the log says why.
    """
    parser = argparse.ArgumentParser(prog="python -m jobs.archive", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--topics", default=",".join(TOPICS), help="names, separated by commas; default: all of schemas/"
    )
    parser.add_argument("--derived", type=Path, help="JSON file of topics that come from a Feast repo")
    parser.add_argument("--kafka", default=os.environ.get("HEADWATER_KAFKA"), help="host:port")
    parser.add_argument("--clickhouse", default=os.environ.get("HEADWATER_CLICKHOUSE"), help="http://host:port")
    parser.add_argument("--rows", type=int, default=Limits.rows, help="in a batch, of all topics")
    parser.add_argument("--delay-ms", type=int, default=Limits.delay_ms, help="that a record waits for its batch")
    options = parser.parse_args(arguments)
    if not options.kafka or not options.clickhouse:
        parser.error("expected --kafka and --clickhouse, or HEADWATER_KAFKA and HEADWATER_CLICKHOUSE")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    try:
        topics = [topic(name) for name in options.topics.split(",") if name]
        topics += topics_from_json(options.derived.read_text()) if options.derived else []
        run(options.kafka, options.clickhouse, topics, Limits(options.rows, delay_ms=options.delay_ms), stop)
    except (ArchiveError, KafkaException, KeyError, *STORE_ERRORS) as exc:
        log.error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
