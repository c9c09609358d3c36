"""Replays the flights into Kafka in event-time order: ``python -m compose.demo.replay --kafka HOST:PORT``.

All four topics advance together in slices of event time, so that none is ever ahead of another by more than a slice.
Every record carries its event time as Kafka timestamp and its place in the topic as header ``seq``: a replay that was
killed goes on after the last one, and every event is there exactly once. Null records, hourly of event time, promise
that nothing older follows in their partition.

The clock of the replay stands still at the horizon that the control loop announces on ``models.control``: a training
run that takes a minute here has days in the event time of real traffic, so results do not depend on this machine.
"""

import argparse
import json
import signal
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from confluent_kafka import KafkaError, Message, Producer

from compose.demo.broker import Horizon, ReplayError, written
from compose.demo.flights import TrafficError, fault, load_events
from schemas.batch import from_frame
from schemas.topics import DAY_MS, Topic, topic

__all__ = ["Pacing", "Replay", "main"]

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Pacing:
    """How fast, and in which steps.

    Attributes
    ----------
    slice_ms : int
        Event time by which the topics advance together.
    rate : float or None
        Events per second of wall time at most.
    tail_ms : int
        Heartbeats go on for so much event time after the last event, to close every window.
    progress_seconds : float
        Wall time between two lines of progress.
    """

    slice_ms: int = 6 * HOUR_MS
    rate: float | None = None
    tail_ms: int = 3 * DAY_MS
    progress_seconds: float = 1.0


@dataclass
class Stream:
    """One topic's events and how far they have been sent."""

    topic: Topic
    frame: pd.DataFrame
    done: list[tuple[int, int]]
    partition: np.ndarray[Any, Any] = field(init=False)
    time_ms: np.ndarray[Any, Any] = field(init=False)
    sent: int = 0

    def __post_init__(self) -> None:
        self.time_ms = self.frame["event_time"].to_numpy()
        self.partition = np.zeros(len(self.frame), dtype=np.int32)
        if len(self.done) > 1:
            keys = self.frame[self.topic.key]
            self.partition = np.array([zlib.crc32(key.encode()) % len(self.done) for key in keys], dtype=np.int32)
        for sequence, time_ms in self.done:
            self._check(sequence, time_ms)
        last = np.array([sequence for sequence, _ in self.done])
        self.todo = np.arange(len(self.frame)) > last[self.partition]
        self.sent = int((~self.todo).sum())

    def _check(self, sequence: int, time_ms: int) -> None:
        """A topic is gone on with only where it was begun with the same events."""
        times = self.time_ms
        begun = sequence < 0 or (sequence < len(times) and times[sequence] <= time_ms)
        if not begun or (sequence + 1 < len(times) and times[sequence + 1] < time_ms):
            raise ReplayError(
                f"expected in {self.topic.name} the first of these {len(times)} events, found another replay's: "
                "use the same options as before, or start with empty topics"
            )

    def slice(self, after_ms: int, until_ms: int) -> np.ndarray[Any, Any]:
        """Rows not yet sent with event time in (after, until]; their number is their `seq`."""
        start, end = np.searchsorted(self.time_ms, [after_ms, until_ms], side="right")
        rows: np.ndarray[Any, Any] = start + np.flatnonzero(self.todo[start:end])
        return rows


class Replay:
    """Sends the events of a set of frames, once.

    Parameters
    ----------
    kafka : str
        host:port.
    frames : dict of str to DataFrame
        By topic name, see :func:`compose.demo.flights.load_events`.
    pacing : Pacing
    horizon : Horizon, optional
        None: never hold.
    report : callable
        Gets a dict of progress about once a second and at the end.
    clock, sleep : callable
        Wall time in seconds, and the wait.
    """

    def __init__(
        self,
        kafka: str,
        frames: dict[str, pd.DataFrame],
        pacing: Pacing,
        horizon: Horizon | None,
        report: Callable[[dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.pacing, self.horizon, self.report, self._clock, self._sleep = pacing, horizon, report, clock, sleep
        self.stopped = False
        done = written(kafka, frames)
        self.streams = [Stream(topic(name), frame, done[name]) for name, frame in frames.items()]
        first_ms = min(int(each.time_ms[0]) for each in self.streams if len(each.time_ms))
        last_ms = max(int(each.time_ms[-1]) for each in self.streams if len(each.time_ms))
        self.end_ms = -(-last_ms // HOUR_MS) * HOUR_MS + pacing.tail_ms
        behind_ms = min(time_ms for each in self.streams for _, time_ms in each.done)
        # Nothing of the first hour is left out: slices are open at their start.
        self.position_ms = max(first_ms // HOUR_MS * HOUR_MS - 1, behind_ms - 1)
        self.resumed = sum(each.sent for each in self.streams)
        self.heartbeats = 0
        self._held_seconds = 0.0
        self._began = self._reported = clock()
        self._failures: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "delivery.report.only.error": True,
            }
        )

    def run(self) -> bool:
        """Send everything; False where :meth:`stop` ended it early.

        Raises
        ------
        ReplayError
            Where a record could not be delivered.
        """
        self._tell("running")
        if all(time_ms < 0 for each in self.streams for _, time_ms in each.done):
            # The first heartbeat, whatever the horizon: from it the control loop learns when traffic starts.
            self._send(self.position_ms + 1)
        while self.position_ms < self.end_ms and not self.stopped:
            until_ms = self._allowed(min(self.position_ms + self.pacing.slice_ms, self.end_ms))
            if until_ms > self.position_ms:
                self._send(until_ms)
                self._pace()
        self._tell("stopped" if self.stopped else "done")
        return not self.stopped

    def stop(self) -> None:
        """End after the slice under way."""
        self.stopped = True

    def _allowed(self, until_ms: int) -> int:
        """That event time, or the horizon where it is nearer; waits a moment when we stand at it."""
        if self.horizon is None:
            return until_ms
        horizon_ms = self.horizon.read()
        if horizon_ms <= self.position_ms:
            began = self._clock()
            horizon_ms = self.horizon.read(0.05)
            self._held_seconds += self._clock() - began
            if horizon_ms <= self.position_ms:
                self._maybe_tell("held")
        return min(until_ms, horizon_ms)

    def _send(self, until_ms: int) -> None:
        # 1. Events, topic by topic, with the heartbeats of each partition where they belong in time.
        for each in self.streams:
            rows = each.slice(self.position_ms, until_ms)
            self._produce(each, rows, until_ms)
            each.sent += len(rows)
        # 2. All of it acknowledged before any topic goes on: the topics stay in step.
        self._producer.flush()
        if self._failures:
            raise ReplayError(f"expected Kafka to take every record, got {self._failures[0]}")
        # 3. Only now is it behind us.
        self.position_ms = until_ms

    def _produce(self, stream: Stream, rows: np.ndarray[Any, Any], until_ms: int) -> None:
        frame = stream.frame.iloc[rows]
        values = from_frame(frame, stream.topic.schema, stream.topic.schema_id)
        keys = frame[stream.topic.key].tolist()
        times, places, numbers = stream.time_ms[rows].tolist(), stream.partition[rows].tolist(), rows.tolist()
        cuts = np.searchsorted(stream.time_ms[rows], hours := _hours(self.position_ms, until_ms), side="right")
        start = 0
        # The client's batch call takes no headers, hence a loop (0.8 M records/s).
        for hour_ms, cut in [*zip(hours, cuts.tolist(), strict=True), (None, len(rows))]:
            for at in range(start, cut):
                self._put(stream.topic.name, values[at], keys[at], places[at], times[at], numbers[at])
            start = cut
            if hour_ms is not None:
                self._beat(stream, hour_ms)

    def _beat(self, stream: Stream, hour_ms: int) -> None:
        before = int(np.searchsorted(stream.time_ms, hour_ms, side="right")) - 1
        for place, (_, last_ms) in enumerate(stream.done):
            if hour_ms > last_ms:
                self._put(stream.topic.name, None, None, place, hour_ms, before)
                self.heartbeats += 1

    def _put(self, name: str, value: bytes | None, key: str | None, place: int, time_ms: int, sequence: int) -> None:
        while True:
            try:
                self._producer.produce(
                    name, value, key, place, self._delivered, timestamp=time_ms, headers=[("seq", str(sequence))]
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failures.append(str(error))

    def _pace(self) -> None:
        self._maybe_tell("running")
        while self.pacing.rate and not self.stopped:
            ahead = (self._new() / self.pacing.rate) - (self._clock() - self._began - self._held_seconds)
            if ahead <= 0:
                return
            self._sleep(min(ahead, 0.2))
            self._maybe_tell("running")

    def _new(self) -> int:
        return sum(each.sent for each in self.streams) - self.resumed

    def _maybe_tell(self, state: str) -> None:
        if self._clock() - self._reported >= self.pacing.progress_seconds:
            self._tell(state)

    def _tell(self, state: str) -> None:
        self._reported = self._clock()
        seconds = self._reported - self._began
        self.report(
            {
                "state": state,
                "event_time_ms": self.position_ms,
                "end_ms": self.end_ms,
                "horizon_ms": self.horizon.horizon_ms if self.horizon else None,
                "sent": {each.topic.name: each.sent for each in self.streams},
                "events": sum(len(each.frame) for each in self.streams),
                "resumed": self.resumed,
                "heartbeats": self.heartbeats,
                "held_seconds": round(self._held_seconds, 3),
                "seconds": round(seconds, 3),
                "events_per_second": round(self._new() / max(seconds - self._held_seconds, 1e-3)),
            }
        )


def _hours(after_ms: int, until_ms: int) -> list[int]:
    return list(range((after_ms // HOUR_MS + 1) * HOUR_MS, until_ms + 1, HOUR_MS))


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compose.demo.replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT")
    parser.add_argument("--flights", type=int, help="only so many flights, the earliest")
    parser.add_argument("--start", type=_day, help="first day of requests, UTC")
    parser.add_argument("--end", type=_day, help="day before which requests end, UTC")
    parser.add_argument("--rate", type=float, help="events per second at most")
    parser.add_argument("--fault", choices=("none", "units", "outage"), default="none")
    parser.add_argument("--fault-start", type=_day, default=_day("2013-08-12"), help="UTC")
    parser.add_argument("--fault-days", type=float, default=5.0)
    parser.add_argument(
        "--slice-hours", type=float, default=6.0, help="event time by which the topics advance together"
    )
    parser.add_argument("--tail-days", type=float, default=3.0, help="event time of heartbeats after the last event")
    parser.add_argument("--model", default="delay", help="whose horizon on models.control is kept")
    parser.add_argument("--no-hold", action="store_true", help="do not keep to any horizon")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 once all is sent, 1 with one line on stderr where it cannot be, 128 + signal when stopped."""
    args = _arguments(argv)
    stopped_by = 0
    try:
        frames = load_events(
            args.flights,
            round(args.start.timestamp() * 1000) if args.start else None,
            round(args.end.timestamp() * 1000) if args.end else None,
            fault(args.fault, args.fault_start, args.fault_days),
        )
        pacing = Pacing(round(args.slice_hours * HOUR_MS), args.rate, round(args.tail_days * DAY_MS))
        horizon = None if args.no_hold else Horizon(args.kafka, args.model)
        replay = Replay(args.kafka, frames, pacing, horizon, lambda line: _print(line))

        def stop(number: int, _frame: object) -> None:
            nonlocal stopped_by
            stopped_by = number
            replay.stop()

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        replay.run()
    except (ReplayError, TrafficError) as exc:
        print(f"replay: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    return 128 + stopped_by if stopped_by else 0


if __name__ == "__main__":
    sys.exit(main())
