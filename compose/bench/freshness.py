"""From an event to the value that has it in, readable in the embedded online store, at a steady rate.

Payments are written with the present as their event time; the features job, the pusher and the store are what runs
anywhere else. The store is read again and again, and of every row it is noted when it was first there. An event is in
the value from the first row of its account at or after its own time.

An event waits for its tile to close, up to a slide; its row waits for the checkpoint that commits it, up to an
interval; the rest is work. What the first two are is measured beside the whole: the wait for the tile is known from the
event's time, and the whole is measured at two checkpoint intervals.
"""

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from confluent_kafka import Producer
from numpy.typing import NDArray

from compose.bench.payments import Spans, accounts, event_topics, make_topics, rows_topic, write
from compose.bench.runs import Runs
from compose.local.home import PlatformError
from features.compiler.topics import entity_codec
from features.online.rows import RowStore

__all__ = ["SPANS", "Age", "freshness"]

SPANS = Spans((1, 10, 60, 600, 3600), 1)
SPACE = 1000  # accounts: so many rows a slide
WARM_S = 10.0  # after which what is sent counts; Java has compiled what it will by then
TAIL_S = 4.0  # what is sent in the end may have no row: no later event closes its tile
TICK_S = 0.01
POLL_S = 0.01


@dataclass(frozen=True)
class Age:
    """Of events, in ms.

    Attributes
    ----------
    checkpoint_ms : int
    events : int
        That were looked for.
    unseen : int
        That no row had.
    per_second : float
        Events sent.
    p50_ms, p99_ms : float
        From the event to the readable value.
    tile_p50_ms, tile_p99_ms : float
        Of it, until the event's tile is over.
    row_p50_ms, row_p99_ms : float
        From a row's event time to when it was readable.
    """

    checkpoint_ms: int
    events: int
    unseen: int
    per_second: float
    p50_ms: float
    p99_ms: float
    tile_p50_ms: float
    tile_p99_ms: float
    row_p50_ms: float
    row_p99_ms: float


def freshness(runs: Runs, folder: Path, rate: int, seconds: float, checkpoint_ms: int) -> Age:
    """Measure it on a platform that does nothing else.

    Raises
    ------
    PlatformError
        Where events cannot be written at that rate, or nothing arrives.
    """
    topic = f"live_{checkpoint_ms}"
    make_topics(runs.kafka, event_topics(topic))
    run = runs.start("compiled", topic, SPANS, bounded=False, checkpoint_ms=checkpoint_ms)
    path = folder / f"{topic}.db"
    store = RowStore(path)
    store.ensure(run.view.name)
    command = [sys.executable, "-m", "features.online.pusher", "--kafka", runs.kafka]
    command += ["--topics", rows_topic(run.view), "--path", str(path), "--group", topic]
    with (folder / f"{topic}.log").open("w") as log:
        pusher = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        runs.running(run)
        sender = _Sender(runs.kafka, topic, rate)
        codec = entity_codec(run.view)
        entities = [codec.encode({"account": each}) for each in range(SPACE)]
        seen = _watched(sender, store, run.view.name, entities, WARM_S + seconds + TAIL_S)
    finally:
        pusher.kill()
        pusher.wait()
        store.close()
        runs.end(run)
    return _age(sender, seen, seconds, checkpoint_ms)


class _Sender(threading.Thread):
    """Writes payments of the present, at a rate, until it is told to stop."""

    def __init__(self, kafka: str, topic: str, rate: int) -> None:
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": kafka, "log_level": 0, "linger.ms": 1})
        self._topic, self._rate, self._stopped = topic, rate, threading.Event()
        self.sent: list[pd.DataFrame] = []
        self.began = 0.0
        self.failure = ""

    def run(self) -> None:
        """Send what is due at each tick, and what an earlier one was late with."""
        rng, count, self.began = np.random.default_rng(0), 0, time.time()
        some = accounts(rng, 200_000, SPACE).to_numpy()
        try:
            while not self._stopped.wait(TICK_S):
                due = int((time.time() - self.began) * self._rate) - count
                account = np.take(some, np.arange(count, count + due), mode="wrap")
                frame = pd.DataFrame({"account": account, "event_time": int(time.time() * 1000), "amount": 1.0})
                write(self._producer, self._topic, frame)
                self._producer.poll(0)
                self.sent.append(frame)
                count += due
        except (PlatformError, BufferError) as exc:
            self.failure = str(exc)
        self._producer.flush(10)

    def stop(self) -> None:
        """Let the last of it go out."""
        self._stopped.set()
        self.join()


def _watched(sender: _Sender, store: RowStore, view: str, entities: list[bytes], seconds: float) -> pd.DataFrame:
    """Account, event time and first sight of every row that was seen while events were sent."""
    numbers = {entity: number for number, entity in enumerate(entities)}
    newest: dict[bytes, int] = {}
    seen: list[tuple[int, int, float]] = []
    sender.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = store.read(view, entities)
        now_ms = time.time() * 1000
        for entity, (event_ms, _) in found.items():
            if newest.get(entity) != event_ms:
                newest[entity] = event_ms
                seen.append((numbers[entity], event_ms, now_ms))
        time.sleep(POLL_S)
    sender.stop()
    if sender.failure or not seen:
        raise PlatformError(f"Freshness: {sender.failure or 'no row came to the store'}.")
    return pd.DataFrame(seen, columns=["account", "event_time", "seen"])


def _age(sender: _Sender, seen: pd.DataFrame, seconds: float, checkpoint_ms: int) -> Age:
    sent = pd.concat(sender.sent)
    first_ms = (sender.began + WARM_S) * 1000
    until_ms = first_ms + seconds * 1000
    events = sent[(sent.event_time >= first_ms) & (sent.event_time < until_ms)]
    ages, unseen = [np.empty(0)], 0
    rows = dict(iter(seen.groupby("account")))
    for account, mine in events.groupby("account"):
        if account not in rows:
            unseen += len(mine)
            continue
        times = mine.event_time.to_numpy()
        at = np.searchsorted(rows[account].event_time.to_numpy(), times, "left")
        there = at < len(rows[account])
        unseen += int((~there).sum())
        ages.append(rows[account].seen.to_numpy()[at[there]] - times[there])
    slide_ms = SPANS.slide_s * 1000
    tile = -events.event_time.to_numpy() % slide_ms
    row = seen[(seen.event_time >= first_ms) & (seen.event_time < until_ms)]
    p50, p99 = _quantiles(np.concatenate(ages))
    tile_p50, tile_p99 = _quantiles(tile)
    row_p50, row_p99 = _quantiles((row.seen - row.event_time).to_numpy())
    rate = len(events) / seconds
    return Age(checkpoint_ms, len(events), unseen, rate, p50, p99, tile_p50, tile_p99, row_p50, row_p99)


def _quantiles(values: NDArray[np.generic]) -> tuple[float, float]:
    if not len(values):
        raise PlatformError("Freshness: nothing of what was sent was readable in time.")
    p50, p99 = np.quantile(values.astype(float), [0.5, 0.99])
    return float(p50), float(p99)
