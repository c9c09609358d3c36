"""The local backend with real processes: once, whoever asks; nothing left behind; killed runs go on."""

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.retraining.backends.base import BackendError, ConflictError, payload_hash
from jobs.retraining.backends.launch import Forking, Spawning
from jobs.retraining.backends.local import LocalBackend

PAYLOAD = {"incident_id": "i1", "model": "delay", "cutoff_ms": 5, "clickhouse": "http://127.0.0.1:1"}

TRAIN = """
import json, os, pathlib, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--run") + 1])
with (run / "started").open("a") as stream:
    stream.write(f"{os.getpid()} {os.nice(0)} {os.environ['OMP_NUM_THREADS']}\\n")
print("training", json.loads((run / "payload.json").read_text())["incident_id"], flush=True)
BODY
def end(**result):
    (run / "result.tmp").write_text(json.dumps(result))
    (run / "result.tmp").replace(run / "result.json")
end(status="succeeded", uri="u", version="7")
"""


def command(body="", seconds=0.0):
    return [sys.executable, "-c", TRAIN.replace("BODY", f"time.sleep({seconds})\n{body}")]


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
    return found


def starts(tmp_path, name="i1"):
    file = tmp_path / "runs" / name / "started"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


@pytest.fixture
def make(tmp_path):
    made = []

    def backend(body="", seconds=0.0, **settings):
        made.append(LocalBackend(tmp_path / "runs", Spawning(command(body, seconds)), **settings))
        return made[-1]

    yield backend
    for each in made:
        each.close()


def test_a_run_gets_its_payload_and_gives_its_result(make, tmp_path):
    backend = make()
    assert backend.find("i1") is None
    assert backend.submit("i1", PAYLOAD).state in ("running", "succeeded")
    found = until(lambda: (f := backend.find("i1")) and f.state != "running" and f)
    assert (found.state, found.result) == ("succeeded", {"status": "succeeded", "uri": "u", "version": "7"})
    assert found.payload_hash == payload_hash(PAYLOAD)
    assert "training i1" in backend.logs("i1")
    ((_, niceness, threads),) = starts(tmp_path)
    assert (int(niceness), threads) == (os.nice(0) + 5, "1")


def test_submitting_again_is_the_same_run(make, tmp_path):
    backend = make()
    for _ in range(3):
        backend.submit("i1", PAYLOAD)
    until(lambda: backend.status("i1").state == "succeeded")
    backend.submit("i1", {**PAYLOAD, "clickhouse": "http://127.0.0.1:2", "epoch": 9})
    assert len(starts(tmp_path)) == 1


def test_another_payload_under_the_same_incident_is_refused(make, tmp_path):
    backend = make()
    backend.submit("i1", PAYLOAD)
    with pytest.raises(ConflictError, match=r"incident i1: expected a run with payload \w{12}, found one with"):
        backend.submit("i1", {**PAYLOAD, "cutoff_ms": 6})
    until(lambda: backend.status("i1").state == "succeeded")
    assert len(starts(tmp_path)) == 1


def test_racing_submitters_start_one_process(make, tmp_path):
    backends = [make(seconds=0.3) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # Only the winner's thread may start the process, which dies with that thread: so each waits.
        def submit(each):
            each.submit("i1", PAYLOAD)
            return until(lambda: (f := each.status("i1")).state in ("succeeded", "failed") and f)

        found = list(pool.map(submit, backends))
    assert {each.state for each in found} == {"succeeded"}
    assert len(starts(tmp_path)) == 1
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["i1"], "nothing is left of the losers"


def test_a_training_process_that_was_killed_is_run_again(make, tmp_path):
    backend = make(seconds=0.5)
    backend.submit("i1", PAYLOAD)
    pid = int(until(lambda: starts(tmp_path))[0][0])
    os.kill(pid, signal.SIGKILL)
    until(lambda: backend.status("i1").state == "lost")
    assert backend.submit("i1", PAYLOAD).attempts == 2
    assert until(lambda: (f := backend.status("i1")).state == "succeeded" and f).attempts == 2


def test_attempts_are_bounded_and_the_reason_is_told(make):
    backend = make("sys.exit('no space left')", attempts_max=2)
    for attempt in (1, 2, 2):
        assert backend.submit("i1", PAYLOAD).attempts == attempt
        until(lambda: backend.status("i1").state != "running")
    found = backend.status("i1")
    assert found.state == "failed"
    assert "2 attempts ended without a result" in found.detail
    assert found.detail.endswith("no space left")


def test_a_run_that_says_it_failed_has_failed(make):
    backend = make('(run / \'result.json\').write_text(\'{"status": "failed", "reason": "no rows"}\'); sys.exit(1)')
    backend.submit("i1", PAYLOAD)
    found = until(lambda: (f := backend.status("i1")).state == "failed" and f)
    assert (found.attempts, found.detail) == (1, "no rows")


def test_half_a_result_is_none(make, tmp_path):
    backend = make("(run / 'result.json').write_text('{\"sta') if len((run / 'attempts').read_text()) < 4 else 0")
    backend.submit("i1", PAYLOAD)
    until(lambda: (tmp_path / "runs" / "i1" / "result.json").exists())
    assert until(lambda: backend.submit("i1", PAYLOAD).state == "succeeded")


def test_cancelled_is_for_good(make, tmp_path):
    backend = make(seconds=60)
    backend.submit("i1", PAYLOAD)
    pid = int(until(lambda: starts(tmp_path))[0][0])
    assert backend.cancel("i1").state == "cancelled"
    assert not alive(pid)
    assert backend.submit("i1", PAYLOAD).state == "cancelled"
    assert len(starts(tmp_path)) == 1


PARENT = """
import sys, time
from jobs.retraining.backends.launch import Spawning
from jobs.retraining.backends.local import LocalBackend
backend = LocalBackend(sys.argv[1], Spawning(sys.argv[3:]))
backend.submit("i1", {"incident_id": "i1"})
time.sleep(float(sys.argv[2]))
"""


def test_training_dies_with_whoever_started_it_and_the_next_one_goes_on(make, tmp_path):
    argv = [sys.executable, "-c", PARENT, str(tmp_path / "runs"), "60", *command(seconds=60)]
    parent = subprocess.Popen(argv)
    pid = int(until(lambda: starts(tmp_path))[0][0])
    backend = make()
    assert backend.status("i1").state == "running"
    assert backend.submit("i1", {"incident_id": "i1"}).attempts == 1, "it is not ours to start"
    parent.kill()
    parent.wait()
    until(lambda: not alive(pid))
    assert until(lambda: (f := backend.submit("i1", {"incident_id": "i1"})).state == "succeeded" and f).attempts == 2


def test_closing_leaves_no_process(make, tmp_path):
    backend = make(seconds=60)
    backend.submit("i1", PAYLOAD)
    pid = int(until(lambda: starts(tmp_path))[0][0])
    backend.close()
    assert not alive(pid)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 65, ".hidden"])
def test_an_incident_id_cannot_lead_out_of_the_directory(make, name):
    with pytest.raises(BackendError, match="expected an incident id"):
        make().submit(name, PAYLOAD)


def test_no_such_run(make):
    with pytest.raises(BackendError, match="expected a run in"):
        make().status("nothing")


def test_a_directory_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(BackendError, match=r"incident i1: expected to run in .*runs/i1, got"):
        LocalBackend(tmp_path / "runs", Spawning(command())).submit("i1", PAYLOAD)


def test_the_hash_is_of_what_is_trained():
    same = [{**PAYLOAD, "clickhouse": "x"}, {**PAYLOAD, "epoch": 3}, json.loads(json.dumps(PAYLOAD, indent=3))]
    assert {payload_hash(each) for each in same} == {payload_hash(PAYLOAD)}
    assert payload_hash({**PAYLOAD, "quarantine": [[1, 2]]}) != payload_hash(PAYLOAD)


TRAINER = """
import json, os, pathlib, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
IMPORTED = os.getpid()
def main(arguments):
    run = pathlib.Path(arguments[arguments.index("--run") + 1])
    with (run / "started").open("a") as stream:
        stream.write(f"{os.getpid()} {os.nice(0)} {IMPORTED} {os.getsid(0)}\\n")
    told = json.loads((run / "payload.json").read_text())
    print("training", told["incident_id"], flush=True)
    if told.get("breaks"):
        raise RuntimeError("no space left")
    time.sleep(told.get("seconds", 0))
    pool = ProcessPoolExecutor(2, mp_context=get_context("fork"))
    assert pool.submit(abs, -1).result() == 1
    for _ in range(3):
        pool.submit(time.sleep, 0.3)
    pool.shutdown(wait=False, cancel_futures=True)
    (run / "result.tmp").write_text(json.dumps({"status": "succeeded"}))
    (run / "result.tmp").replace(run / "result.json")
    return 0
"""


@pytest.fixture
def forking(tmp_path, monkeypatch):
    """A backend whose runs are forked off a process that has the trainer imported."""
    (tmp_path / "trainer_of_tests.py").write_text(TRAINER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    backend = LocalBackend(tmp_path / "runs", Forking("trainer_of_tests:main", ["decimal"]))
    yield backend
    backend.close()


def ended(backend, name):
    return until(lambda: (f := backend.status(name)).state != "running" and f)


def test_forked_runs_share_what_was_imported_and_nothing_else(forking, tmp_path):
    for name in ("i1", "i2"):
        forking.submit(name, {"incident_id": name})
        assert ended(forking, name).state == "succeeded"
        assert forking.logs(name) == f"training {name}\n"
    (first,), (second,) = starts(tmp_path, "i1"), starts(tmp_path, "i2")
    assert first[2] == second[2], "imported once"
    assert len({first[0], second[0], first[2]}) == 3
    assert all((pid, int(niceness)) == (session, os.nice(0) + 5) for pid, niceness, _, session in (first, second))
    until(lambda: not members(first[3]) and not members(second[3]))


def members(session):
    """Processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found += [stat.parent.name] if stat.read_text().rsplit(")", 1)[1].split()[3] == session else []
    return found


def test_a_forked_run_that_breaks_says_why_and_the_next_one_runs(forking):
    for _ in range(5):
        forking.submit("i1", {"incident_id": "i1", "breaks": True})
        ended(forking, "i1")
    assert forking.status("i1").detail.endswith("RuntimeError: no space left")
    forking.submit("i2", {"incident_id": "i2"})
    assert ended(forking, "i2").state == "succeeded"


def test_what_forks_is_begun_again_when_it_was_killed_and_its_runs_with_it(forking, tmp_path):
    forking.submit("i1", {"incident_id": "i1", "seconds": 60})
    pid, _, parent, _ = until(lambda: starts(tmp_path))[0]
    os.kill(int(parent), signal.SIGKILL)
    until(lambda: not alive(pid))
    assert until(lambda: (f := forking.status("i1")).state == "lost" and f).attempts == 1
    forking.submit("i2", {"incident_id": "i2"})
    assert ended(forking, "i2").state == "succeeded"


def test_a_forked_run_is_cancelled_and_closing_leaves_no_process(forking, tmp_path):
    for name in ("i1", "i2"):
        forking.submit(name, {"incident_id": name, "seconds": 60})
    pids = [until(lambda name=name: starts(tmp_path, name))[0][0] for name in ("i1", "i2")]
    assert forking.cancel("i1").state == "cancelled"
    assert [alive(pid) for pid in pids] == [False, True]
    forking.close()
    until(lambda: not alive(pids[1]))
