"""The closed loop from nothing to a summary: platform, jobs, a year of flights, and the wait until all is quiet."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from confluent_kafka import KafkaException

from compose.control import ControlLog, fold
from compose.demo.position import Position
from compose.demo.quiet import Pulse
from compose.local.home import Home, PlatformError
from compose.local.jobs import JobBook
from compose.local.platform import Platform, Running
from compose.local.services import Service, python_module
from compose.services import headwater_platform

__all__ = ["JOBS", "Demo", "Options", "demo_home", "prepared"]

JOBS = ("features", "scoring", "drift")
# A job writes all its state at a checkpoint, and a year takes minutes here. In `latest` mode a second is months.
AS_OF_CHECKPOINT_MS = 2000
QUIET_SECONDS = 3.0
LOOK_SECONDS = 1.0
LOG_TAIL_BYTES = 128 << 10
# Longer without any progress, and something is stuck: better to say so than to wait.
STALLED_SECONDS = 180.0


@dataclass(frozen=True)
class Options:
    """What to replay, see the options of ``headwater demo``."""

    flights: int | None = None
    rate: float | None = None
    fault: str = "none"
    mode: str = "as-of"

    def replay(self) -> list[str]:
        """Arguments of ``compose.demo.replay``."""
        given = ["--fault", self.fault]
        given += ["--flights", str(self.flights)] if self.flights else []
        given += ["--rate", str(self.rate)] if self.rate else []
        return given


def demo_home(home: Home) -> Home:
    """Where the demo keeps its state: apart from what ``headwater up`` keeps."""
    return Home(home.path("demo"))


@contextmanager
def prepared(home: Home, keep: bool) -> Iterator[Platform]:
    """A platform on an empty state directory, which is removed at the end unless it is to be kept or tells of failure.

    Raises
    ------
    PlatformError
        Where a demo runs there already.
    """
    if (running := Running.find(home)) is not None:
        raise PlatformError(
            f"A demo runs already in {home.root} (process {running.pid}), its page at {running.endpoints.page}. "
            "Stop it with Ctrl-C where it was started, or point HEADWATER_HOME elsewhere."
        )
    shutil.rmtree(home.root, ignore_errors=True)
    try:
        yield headwater_platform(home)
    except PlatformError:
        keep = True  # its logs tell why
        raise
    finally:
        if not keep:
            shutil.rmtree(home.root, ignore_errors=True)


class Demo:
    """One replay through a running platform.

    Parameters
    ----------
    platform : Platform
    options : Options
    """

    def __init__(self, platform: Platform, options: Options) -> None:
        self.platform = platform
        self.options = options
        self._replay_log = platform.home.log_file("replay")

    @cached_property
    def _log(self) -> ControlLog:
        return ControlLog(self.platform.endpoints.kafka)

    def submit(self) -> None:
        """Send the three jobs."""
        at = self.platform.endpoints
        mode = self.options.mode
        seldom = ["--checkpoint-ms", str(AS_OF_CHECKPOINT_MS)] if mode == "as-of" else []
        options = ["--mode", mode, *seldom]
        JobBook(self.platform.home, at.kafka, at.flink).submit(JOBS, options)

    def replay(self, hold: bool = True) -> None:
        """Start the traffic, as one more service: a replayer that is killed goes on where it was.

        Parameters
        ----------
        hold : bool
            Wait where the control loop says so, see :mod:`compose.demo.replay`.
        """
        at = self.platform.endpoints
        options = [*self.options.replay(), *([] if hold else ["--no-hold"])]
        argv = python_module("compose.demo.replay", "--kafka", at.kafka, *options)
        self.platform.supervisor.add(Service("replay", argv=argv, depends_on=("kafka",), restart="failure"))

    def position(self) -> Position:
        """How far traffic and control loop are."""
        self._log.refresh()
        incidents = fold(self._log.records)
        last = self._last_line()
        promotions = sum(1 for each in incidents if each.promoted_version)
        sent = last.get("sent", {})
        return Position(
            state=str(last.get("state", "waiting")),
            event_time_ms=int(last.get("event_time_ms", 0)),
            end_ms=int(last.get("end_ms", 0)),
            sent=sum(sent.values()),
            events=int(last.get("events", 0)),
            incidents=sum(1 for each in incidents if each.kind == "alert"),
            promotions=promotions,
        )

    @property
    def sent(self) -> dict[str, int]:
        """Events that the replay says it has sent, by topic."""
        return {name: int(count) for name, count in self._last_line().get("sent", {}).items()}

    def wait(self, tell: Callable[[Position], object]) -> None:
        """Return when the traffic is over and everything it set off has come to rest.

        Raises
        ------
        PlatformError
            Where nothing moves any more although something should.
        """
        pulse = Pulse(self.platform.endpoints.kafka, self.platform.endpoints.clickhouse)
        moved, last, beat = time.monotonic(), None, None
        lacking = ["traffic"]
        while lacking:
            still = time.monotonic() - moved
            try:
                position = self.position()
                tell(position)
                # While the traffic is seen to move, nobody has to be asked whether anything does.
                if position != last or beat != (beat := pulse.beat()):
                    moved, last = time.monotonic(), position
                lacking = self._lacking(pulse, position, still)
            except KafkaException as exc:  # a broker that was killed comes back
                lacking = [f"Kafka: {exc.args[0].str()}"]
            if still > STALLED_SECONDS:
                raise PlatformError(
                    f"Nothing has moved for {STALLED_SECONDS:.0f} s, waiting for {', '.join(lacking)}. "
                    f"`headwater logs` of {self.platform.home.root} tells more."
                )
            time.sleep(LOOK_SECONDS)

    def _lacking(self, pulse: Pulse, position: Position, still_seconds: float) -> list[str]:
        """What has to come yet, in words; empty when all is over."""
        if position.state != "done":
            return [f"the replay, which is {position.state}"]
        if busy := [each.incident_id for each in fold(self._log.records) if _in_flight(each)]:
            return [f"training for incident {each}" for each in busy]
        if still_seconds <= QUIET_SECONDS:
            return ["quiet"]
        return pulse.outstanding(self.sent, position.end_ms) or pulse.lag()

    def _last_line(self) -> dict[str, Any]:
        try:
            with self._replay_log.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - LOG_TAIL_BYTES))  # a broker that is away makes its client talkative
                lines = [line for line in file.read().splitlines() if line.startswith(b'{"state"')]
            return dict(json.loads(lines[-1])) if lines else {}
        except (OSError, json.JSONDecodeError):  # not there yet, or half a line
            return {}


def _in_flight(incident: Any) -> bool:
    return incident.effective_from_ms is not None and incident.decision is None
