"""A witness: a small process that votes and owns nothing, so that two regions can tell which of them goes on alone.

``python -m jobs.retraining.witness --regions regions.yaml --name hill --state hill.db``

It has no Kafka of its own. It reads what the members of each region say there, and answers into each region; what one
region does not get the others mirror to it. What it has voted, and the claims it holds, are in a file before anybody
hears of them. A witness that has lost its file has lost its word: give the next one another name.

Where there is no third place to run it at, each of two regions runs it with the same ``--state s3://bucket/key``: see
:mod:`jobs.retraining.bucket`.
"""

import argparse
import json
import queue
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import Producer

from jobs.kafka import BrokerError, Publish, TopicLog, produce
from jobs.retraining.agent import OWNERSHIP, Agent
from jobs.retraining.member import Agents, clock
from jobs.retraining.regions import Region, Regions, RegionsError, load_regions
from jobs.retraining.retrainer import DECISIONS, EVENTS, SUBMISSIONS

__all__ = ["Journal", "JournalError", "Journals", "journal_key", "main", "run"]

POLL_S = 0.05
RETRY_S = 1.0
SEND_S = 10
Told = tuple[str, Mapping[str, Any]]


class JournalError(RuntimeError):
    """The witness's file cannot be used. The message names it, and says what was expected."""


class Journals(Protocol):
    """What a witness has said and holds: whoever can write there is the witness."""

    def read(self) -> Iterator[Told]:
        """Topics and records."""

    def write(self, told: Iterable[Told]) -> None:
        """Keep records, for good."""

    def keep(self) -> None:
        """Show that somebody is there."""

    def close(self) -> None:
        """Let another process have it."""


class Journal:
    """A journal in a file: whoever has it open is the witness.

    Parameters
    ----------
    path : path
    name : str
        Of the witness.

    Raises
    ------
    JournalError
        Where another process has it open, or it is another witness's.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        self._path, self._name = Path(path), name
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._path, isolation_level=None, timeout=0)
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.execute("CREATE TABLE IF NOT EXISTS witness (name TEXT PRIMARY KEY)")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS told (topic TEXT, key TEXT, record TEXT, PRIMARY KEY (topic, key))"
            )
            self._file.execute("INSERT INTO witness SELECT ? WHERE NOT EXISTS (SELECT * FROM witness)", (name,))
            (whose,) = self._file.execute("SELECT name FROM witness").fetchone()
        except (sqlite3.Error, OSError) as exc:
            raise JournalError(f"{path}: expected a witness's file that no other process has open, got {exc}") from exc
        if whose != name:
            raise JournalError(f"{path}: expected the file of witness {name}, got that of {whose}")

    def read(self) -> Iterator[Told]:
        """Topics and records."""
        for topic, text in self._file.execute("SELECT topic, record FROM told"):
            yield topic, json.loads(text)

    def write(self, told: Iterable[Told]) -> None:
        """Keep records; they are on the disk when this returns.

        Raises
        ------
        JournalError
        """
        rows = [(topic, key, json.dumps(each)) for topic, each in told if (key := journal_key(self._name, topic, each))]
        if not rows:
            return
        try:
            self._file.execute("BEGIN")
            self._file.executemany("INSERT OR REPLACE INTO told VALUES (?, ?, ?)", rows)
            self._file.execute("COMMIT")
        except sqlite3.Error as exc:
            raise JournalError(f"{self._path}: expected to write to it, got {exc}") from exc

    def close(self) -> None:
        """Let another process have it."""
        self._file.close()

    def keep(self) -> None:
        """Nobody else can have the file."""


def journal_key(witness: str, topic: str, record: Mapping[str, Any]) -> str:
    """What a later record has to share to replace this one; empty for one that need not be kept."""
    if topic == OWNERSHIP:  # what others say of themselves they go on saying
        return str(record["seat"]) if record["member"] == witness else ""
    if topic == SUBMISSIONS:  # of one number each says at least what the one before did
        return f"{record['model']}/{record['epoch']}/{record['number']}"
    return str(record["incident_id"]) if topic in (EVENTS, DECISIONS) else ""


class _Link:
    """The way to one region, which may be away for as long as it likes."""

    def __init__(self, regions: Regions, region: Region, arrived: "queue.SimpleQueue[Told]") -> None:
        self._region, self._topics, self._arrived = region, regions.topics_at(region.name), arrived
        self._producer = Producer(
            {
                "bootstrap.servers": region.kafka,
                "enable.idempotence": True,
                "linger.ms": 0,
                # What did not get there in time is said again, or has been overtaken by what was said since.
                "message.timeout.ms": SEND_S * 1000,
                "log_level": 0,
                **region.settings,
            }
        )
        self._over = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._read, name=f"link-{region.name}", daemon=True).start()

    def send(self, records: Sequence[Publish]) -> None:
        """Have records written, some time soon or never.

        Raises
        ------
        Exception
            What has ended the reading.
        """
        if self._error is not None:
            raise self._error
        for each in records:
            try:
                produce(self._producer, each)
            except BufferError:
                break
        self._producer.poll(0)

    def close(self) -> None:
        """Stop; what is under way is waited for, a little."""
        self._over.set()
        self._producer.flush(1.0)

    def _read(self) -> None:
        try:
            self._read_on()
        except Exception as exc:
            self._error = exc

    def _read_on(self) -> None:
        while not self._over.is_set():
            try:
                topics = TopicLog(self._region.kafka, self._topics, log_level=0, **self._region.settings)
                try:
                    while not self._over.is_set():
                        for each in topics.poll(POLL_S):
                            self._arrived.put(each)
                finally:
                    topics.close()
            except BrokerError:
                self._over.wait(RETRY_S)


def run(
    regions: Regions,
    name: str,
    journal: Journals,
    stopped: Callable[[], bool],
    log: Callable[[Mapping[str, Any]], None],
) -> None:
    """Vote until told to stop.

    Raises
    ------
    JournalError
    RegionsError
        Where there is no witness of that name.
    """
    if name not in regions.witnesses:
        raise RegionsError(f"expected one of the witnesses {', '.join(regions.witnesses) or '(none)'}, got {name!r}")
    arrived: queue.SimpleQueue[Told] = queue.SimpleQueue()
    links = [_Link(regions, region, arrived) for region in regions.regions]

    def publish(records: Sequence[Publish]) -> None:
        journal.write((each.topic, each.record) for each in records)
        for link in links:
            link.send(records)

    def make(model: str, said: Sequence[Told]) -> Agent:
        return Agent(name, model, regions.electorate(model), regions.timing, publish, clock, log, said)

    try:
        agents = Agents(make, list(journal.read()))
        while not stopped():
            # 1. What we hold is on the disk before we say that we hold it.
            journal.write(some := list(_some(arrived)))
            for topic, record in some:
                agents.take(topic, record)
            journal.keep()
            # 2. Then vote.
            for link in links:
                link.send(())
            agents.vote()
    finally:
        for link in links:
            link.close()


def _some(arrived: "queue.SimpleQueue[Told]") -> Iterator[Told]:
    """What has arrived, waiting a little for the first."""
    try:
        yield arrived.get(timeout=POLL_S)
        while True:
            yield arrived.get_nowait()
    except queue.Empty:
        return


def _by_turns(regions: Regions, name: str, url: str, stopped: Callable[[], bool]) -> None:
    """Be the witness whenever no other process is."""
    from jobs.retraining.bucket import BucketJournal, LostError

    while not stopped():
        journal = BucketJournal(url, name, patience_s=2 * regions.timing.lease_s)
        try:
            if journal.take(stopped):
                _print({"witness": name, "state": "holds", "journal": url})
                run(regions, name, journal, stopped, _print)
        except LostError as exc:
            _print({"witness": name, "state": "looks on", "because": str(exc)})


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when told to stop, 1 where the regions or the file cannot be used."""
    parser = argparse.ArgumentParser(prog="jobs.retraining.witness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--regions", required=True, metavar="FILE")
    parser.add_argument("--name", required=True)
    parser.add_argument("--state", required=True, metavar="FILE", help="or s3://bucket/key, of several processes")
    args = parser.parse_args(argv)
    stops: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: stops.append(number))
    try:
        regions = load_regions(args.regions)
        if args.state.startswith("s3://"):
            _by_turns(regions, args.name, args.state, lambda: bool(stops))
            return 0
        journal = Journal(args.state, args.name)
        try:
            run(regions, args.name, journal, lambda: bool(stops), _print)
        finally:
            journal.close()
    except (JournalError, RegionsError) as exc:
        print(f"witness: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _print(line: Mapping[str, Any]) -> None:
    print(json.dumps({"at": round(time.time(), 3), **line}), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
