"""The control loop as a process: ``python -m jobs.retraining.controller --kafka HOST:PORT --model delay``.

:class:`jobs.retraining.loop.Controller` decides; here is the reading and the writing.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jobs.kafka import BrokerError, FencedError, Publish, TopicLog, Writer, first_timestamp_ms
from jobs.retraining.loop import CONTROL, EVENTS, Controller, Settings, bootstrap_id, coalesce
from jobs.retraining.regions import RegionsError, load_regions
from monitors.policy import DEFAULT_POLICY, PolicyError, load_policy

__all__ = ["Controller", "Settings", "bootstrap_id", "main", "run"]

ALERTS, SUBMISSIONS, DECISIONS, WINDOWS = "drift.alerts", "submissions", "models.decisions", "drift.windows"
REPEAT_SECONDS = 3.0
# Where several topics have news, alerts are taken before the windows that settle them.
INPUTS = (EVENTS, ALERTS, SUBMISSIONS, DECISIONS, WINDOWS)
SHARED = (EVENTS, SUBMISSIONS, DECISIONS)
"""What counts wherever it was said: what one region retrains no other retrains again, and answers in all."""


def run(
    kafka: str,
    controller: Controller,
    traffic: str,
    start_ms: int | None,
    stopped: Callable[[], bool],
    log: Callable[[Mapping[str, Any]], None],
    clock: Callable[[], float] = time.time,
    topics: Mapping[str, str] | None = None,
) -> None:
    """Read the control topics for ever, and publish what the controller says.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    controller : Controller
    traffic : str
        Topic whose first record, be it a heartbeat, tells the start of traffic where `start_ms` does not.
    start_ms : int, optional
    stopped : callable
    log : callable
    clock : callable
        Wall time in seconds.
    topics : mapping of str to str, optional
        Topics to read by their names at the broker, mirrors of other regions' among them; default: this region's.

    Raises
    ------
    FencedError
        Where another controller of the model has started.
    BrokerError
    """
    # 1. From here on no other controller of this model can publish, and nothing of theirs is half done.
    writer = Writer(kafka, f"headwater-controller-{controller.settings.model}")

    def publish(records: Sequence[Publish]) -> None:
        writer.publish(kept := coalesce(records))
        for each in kept:
            log({"published": each.topic, **each.record})

    # 2. What has been published, then everything it came from: only what is missing is published again.
    outputs = TopicLog(kafka, (EVENTS, CONTROL))
    told = list(outputs.to_end())
    outputs.close()
    controller.recover(*([record for name, record in told if name == each] for each in (EVENTS, CONTROL)))
    inputs = TopicLog(kafka, topics or INPUTS)
    held = list(inputs.to_end())
    log({"recovered": len(told), "backlog": len(held), "horizon": controller.horizon_ms})
    # 3. Then what comes.
    look_at = 0.0
    spoken_at = clock()
    while not stopped():
        now_ms = round(clock() * 1000)
        if controller.first_due_ms is None and clock() >= look_at:
            look_at = clock() + 1.0
            found_ms = start_ms if start_ms is not None else first_timestamp_ms(kafka, traffic)
            publish(controller.start(found_ms, now_ms) if found_ms is not None else [])
        held += inputs.poll(0.0 if held else 0.2)
        publish(found := _feed(controller, _with_alerts(inputs, held, stopped), now_ms))
        held = []
        # A job that is restored has forgotten the last promise; where it is what everything waits for, no other comes.
        if found:
            spoken_at = clock()
        elif clock() - spoken_at >= REPEAT_SECONDS and (promise := controller.promise()) is not None:
            spoken_at = clock()
            writer.publish([promise])
    inputs.close()


def _with_alerts(
    inputs: TopicLog, records: list[tuple[str, dict[str, Any]]], stopped: Callable[[], bool]
) -> list[tuple[str, dict[str, Any]]]:
    """The records with every alert that was written no later than the windows among them, alerts first.

    The drift job writes both at the same checkpoint but commits one topic after the other. By the time a window can be
    seen its alerts are in their topic, if in a transaction that is still open; so they are waited for by offset.
    """
    if any(name == WINDOWS for name, _ in records):
        ends = inputs.written(ALERTS)
        while not inputs.has_read(ALERTS, ends) and not stopped():
            records = records + inputs.poll(0.05)
    return sorted(records, key=lambda entry: INPUTS.index(entry[0]))


def _feed(controller: Controller, records: Iterable[tuple[str, Mapping[str, Any]]], now_ms: int) -> list[Publish]:
    take = {
        EVENTS: controller.on_event,
        ALERTS: controller.on_alert,
        SUBMISSIONS: controller.on_submission,
        DECISIONS: controller.on_decision,
        WINDOWS: controller.on_window,
    }
    found = [each for name, record in records for each in take[name](record, now_ms)]
    return found + controller.on_clock(now_ms)


def _day(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    kafka = os.environ.get("HEADWATER_KAFKA")
    parser = argparse.ArgumentParser(prog="jobs.retraining.controller", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kafka", default=kafka, required=kafka is None, metavar="HOST:PORT")
    parser.add_argument("--model", default="delay")
    parser.add_argument("--policy", default=DEFAULT_POLICY, help="YAML; default: the one of the flights")
    parser.add_argument("--traffic", default="flights.requests", help="topic whose first record starts the clock")
    parser.add_argument("--start", type=_day, help="day on which traffic starts, UTC; default: that record's")
    parser.add_argument("--live", action="store_true", help="the horizon is the wall clock; nothing waits")
    parser.add_argument("--regions", metavar="FILE", help="of several regions: YAML, see the README")
    parser.add_argument("--region", metavar="NAME", help="which of them this is")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when told to stop, 1 where Kafka or the policy fails, 3 when superseded by another controller."""
    args = _arguments(argv)
    stops: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: stops.append(number))
    try:
        controller = Controller(Settings(args.model, live=args.live), load_policy(args.policy))
        topics = None
        if args.regions:
            topics = load_regions(args.regions).topics_at(args.region, SHARED, more=(ALERTS, WINDOWS))
        run(args.kafka, controller, args.traffic, args.start, lambda: bool(stops), _print, topics=topics)
    except (BrokerError, PolicyError, RegionsError) as exc:
        print(f"controller: {exc}", file=sys.stderr)  # noqa: T201
        return 3 if isinstance(exc, FencedError) else 1
    return 0


def _print(line: Mapping[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
