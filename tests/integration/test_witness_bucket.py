"""A witness's journal in S3 as moto has it: conditional writes let one process at a time speak for the witness."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto_server import moto

from jobs.retraining.bucket import BucketJournal, LostError
from jobs.retraining.retrainer import SUBMISSIONS
from jobs.retraining.witness import JournalError

PATIENCE_S = 0.1
REGIONS = """
regions:
  east: {kafka: "127.0.0.1:9"}
  west: {kafka: "127.0.0.1:9"}
witnesses: [hill]
timing: {beat_s: 0.2, lease_s: 1}
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto() as found:
        boto3.client("s3", endpoint_url=found).create_bucket(
            Bucket="witness", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        yield found


@pytest.fixture
def journal(endpoint: str, request: pytest.FixtureRequest) -> Callable[..., BucketJournal]:
    url = f"s3://witness/{abs(hash(request.node.name))}.json"

    def make(name: str = "hill", patience_s: float = PATIENCE_S) -> BucketJournal:
        return BucketJournal(url, name, patience_s, boto3.client("s3", endpoint_url=endpoint))

    return make


def claim(number: int, epoch: int = 1) -> tuple[str, dict[str, Any]]:
    return SUBMISSIONS, {"model": "m", "epoch": epoch, "number": number, "incident_id": f"i{number}"}


def numbers(journal: BucketJournal) -> list[int]:
    return sorted(record["number"] for _, record in journal.read())


def test_what_was_kept_is_there_for_the_next_one(journal: Any) -> None:
    first, second = journal(), journal()
    assert first.take()
    first.write([claim(1), claim(2)])
    first.write([claim(2)])
    assert second.take()
    assert numbers(second) == [1, 2]
    with pytest.raises(LostError, match="another process of witness hill has it now"):
        first.write([claim(3)])
    with pytest.raises(LostError):
        first.keep() or first._write()
    assert second.write([claim(4)]) is None


def test_one_that_is_held_is_not_taken(journal: Any) -> None:
    first, second = journal(), journal(patience_s=0.4)
    assert first.take()
    over, taken = threading.Event(), []
    waiting = threading.Thread(target=lambda: taken.append(second.take(over.is_set)))
    waiting.start()
    for _ in range(20):
        first._kept_at = 0.0
        first.keep()
        time.sleep(0.1)
    assert waiting.is_alive()
    over.set()
    waiting.join(5)
    assert taken == [False]


def test_of_four_that_race_one_writes_at_a_time_and_nothing_is_lost(journal: Any) -> None:
    """Two of them took it once, and go on as if they had it still."""
    kept: list[int] = []
    refused: list[str] = []
    lock = threading.Lock()
    stale = [journal() for _ in range(2)]
    for each in stale:
        assert each.take()

    def race(first: int, again: bool, mine: BucketJournal) -> None:
        for number in range(first, first + 25):
            try:
                if again:
                    assert mine.take()
                mine.write([claim(number)])
                with lock:
                    kept.append(number)
            except LostError as exc:
                with lock:
                    refused.append(str(exc))
            time.sleep(0.005)

    assert journal().take()
    threads = [threading.Thread(target=race, args=(100 * n, False, each)) for n, each in enumerate(stale)]
    threads += [threading.Thread(target=race, args=(100 * n, True, journal())) for n in (2, 3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    assert len(kept) + len(refused) == 100
    assert len(refused) >= 50, "who has lost it never gets a word in"
    assert min(kept) >= 200
    last = journal()
    assert last.take()
    assert numbers(last) == sorted(kept)


def test_that_of_another_witness_and_one_that_is_none_are_refused(journal: Any, endpoint: str) -> None:
    assert journal().take()
    with pytest.raises(JournalError, match="expected that of witness vale, got that of hill"):
        journal("vale").take()
    boto3.client("s3", endpoint_url=endpoint).put_object(Bucket="witness", Key="text", Body=b"{")
    with pytest.raises(JournalError, match="expected a witness's journal"):
        BucketJournal("s3://witness/text", "hill", 1.0, boto3.client("s3", endpoint_url=endpoint)).take()
    with pytest.raises(JournalError, match="NoSuchBucket"):
        BucketJournal("s3://nothing/text", "hill", 1.0, boto3.client("s3", endpoint_url=endpoint)).take()


class Process:
    """``python -m jobs.retraining.witness`` with its journal in the bucket."""

    def __init__(self, folder: Path, number: int, endpoint: str) -> None:
        (folder / "regions.yaml").write_text(REGIONS)
        self._log = folder / f"{number}.log"
        options = [f"--regions={folder / 'regions.yaml'}", f"--state=s3://witness/{folder.name}.json"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.retraining.witness", "--name", "hill", *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "AWS_ENDPOINT_URL": endpoint},
            )

    def states(self) -> list[str]:
        lines = [json.loads(each) for each in self._log.read_text().splitlines() if each.startswith("{")]
        return [each["state"] for each in lines if "state" in each]

    def until(self, *states: str) -> None:
        deadline = time.monotonic() + 30
        while self.states() != list(states):
            assert time.monotonic() < deadline, self._log.read_text()
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.05)


def test_of_two_processes_one_is_the_witness(tmp_path: Path, endpoint: str) -> None:
    made: list[Process] = []
    try:
        made.append(Process(tmp_path, 1, endpoint))
        made[0].until("holds")
        made.append(Process(tmp_path, 2, endpoint))
        time.sleep(4.0)  # two leases, twice
        assert made[1].states() == []
        # Stopped, it is succeeded; when it goes on, it finds that out before it says anything.
        made[0].process.send_signal(signal.SIGSTOP)
        made[1].until("holds")
        made[0].process.send_signal(signal.SIGCONT)
        made[0].until("holds", "looks on")
        made[1].process.kill()
        made[0].until("holds", "looks on", "holds")
        made[0].process.send_signal(signal.SIGTERM)
        assert made[0].process.wait(20) == 0
    finally:
        for each in made:
            each.process.kill()
            each.process.wait()
