"""Two regions for real: Kafka, MirrorMaker 2, members and a witness; what is stubbed is the training platform alone."""

import json
import os
import signal
import threading
import time

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from stub_member import CONCURRENCY
from two_regions import World, until

from compose.cli import headwater
from jobs.kafka import encode


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("regions"), "timing: {beat_s: 0.5, lease_s: 3}\n") as started:
        yield started


def settled(world, key, *regions):
    return all("succeeded" in world.statuses(each, key) for each in regions)


def agreed(world):
    """Owner and epoch, once both regions know of the same."""
    east, west = world.owner("east"), world.owner("west")
    return east if east == west else None


def told(world, *arguments):
    done = CliRunner().invoke(headwater, ["regions", *arguments, "--regions", str(world.file)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done


def test_an_incident_that_both_regions_see_is_submitted_once(world):
    until(lambda: agreed(world))
    key = world.event("east", "west")
    until(lambda: settled(world, key, "east", "west"))
    assert world.training.count(key) == 1


def test_what_one_region_sees_the_owner_submits(world):
    keys = [world.event(each) for each in ("east", "west")]
    until(lambda: all(settled(world, key, "east", "west") for key in keys))
    assert [world.training.count(key) for key in keys] == [1, 1]


def test_what_was_never_committed_is_not_mirrored(world):
    producer = Producer({"bootstrap.servers": world.kafka("east"), "transactional.id": "aborts"})
    producer.init_transactions(20)
    producer.begin_transaction()
    aborted = world.record(0, "never")
    producer.produce("retraining.events", encode("retraining.events", aborted), b"never")
    producer.flush(20)
    producer.abort_transaction(20)
    key = world.event("east")
    until(lambda: settled(world, key, "east", "west"))
    heard = {each["incident_id"] for each in world.read("west", "retraining.events")}
    assert key in heard
    assert "never" not in heard


@pytest.mark.parametrize("way", range(3))
def test_a_model_is_handed_over_and_back(world, way):
    owner, epoch = until(lambda: agreed(world))
    successor = "west" if owner == "east" else "east"
    done = told(world, "hand-over", "m", "--to", successor)
    assert done.exit_code == 0, done.output
    assert f"{successor} owns m" in done.output
    until(lambda: (found := agreed(world)) and found[1] > epoch)
    key = world.event("east", "west")
    until(lambda: settled(world, key, "east", "west"))
    assert world.training.count(key) == 1


def test_a_hand_over_that_comes_to_nothing_is_ordered_again(world):
    """Whom it is meant for stands still, so the owner takes the model back, in another epoch."""
    owner, _ = until(lambda: agreed(world))
    successor = "west" if owner == "east" else "east"
    os.kill(world.pid(successor, "member"), signal.SIGSTOP)
    again = threading.Timer(8.0, os.kill, (world.pid(successor, "member"), signal.SIGCONT))
    again.start()
    done = told(world, "hand-over", "m", "--to", successor)
    again.join()
    assert done.exit_code == 0, done.output
    assert done.output.count("is told to hand over m") > 1
    assert f"{successor} owns m" in done.output
    os.kill(world.pid(owner, "member"), signal.SIGSTOP)
    try:
        late = told(world, "hand-over", "m", "--to", owner, "--wait", "3")
    finally:
        os.kill(world.pid(owner, "member"), signal.SIGCONT)
    assert late.exit_code == 1
    assert f"{owner} does not own m after 3 s" in late.output


def accepted_ms(world, keys):
    """When each was recorded as accepted, by the wall clock."""
    told = [each for each in world.read(world.owner("east")[0], "submissions") if each["status"] == "accepted"]
    return {each["incident_id"]: each["recorded_at"] for each in told if each["incident_id"] in keys}


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, round(share * len(values)))]


def test_from_event_to_accepted_submission_across_regions(world, capsys):
    """Seen where the owner is not, so that the event and its claim cross the link first."""
    owner, _ = until(lambda: agreed(world))
    other = "west" if owner == "east" else "east"
    sent = {}
    with world.writer(other) as write:
        for number in range(100):
            sent[write(at_s=200 + number)] = time.time() * 1000
            time.sleep(0.05)
    until(lambda: set(sent) <= set(accepted_ms(world, sent)))
    took = [at - sent[key] for key, at in accepted_ms(world, sent).items()]
    assert [world.training.count(key) for key in sent] == [1] * len(sent)
    with capsys.disabled():
        p50, p99 = quantile(took, 0.5), quantile(took, 0.99)
        print(f"\nacross regions, event to accepted: p50 {p50:.0f} ms, p99 {p99:.0f} ms of {len(took)}")  # noqa: T201


def test_a_thousand_incidents_at_once_drain_within_the_budget(world, capsys):
    until(lambda: agreed(world))
    began = time.monotonic()
    with world.writer("east") as write:
        keys = [write(at_s=1000 + number) for number in range(1000)]
    until(lambda: all("succeeded" in each for each in world.by_incident("west", keys).values()), 300.0)
    assert [world.training.count(key) for key in keys] == [1] * len(keys)
    assert world.training.most_at_once <= CONCURRENCY
    with capsys.disabled():
        took = time.monotonic() - began
        print(f"\n1,000 incidents: {took:.1f} s, at most {world.training.most_at_once} at once")  # noqa: T201


def test_status_tells_who_owns_and_what_has_arrived(world):
    owner, epoch = until(lambda: agreed(world))
    done = told(world, "status", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["unreachable"] == {}
    assert (found["models"]["m"]["owner"], found["models"]["m"]["epoch"]) == (owner, epoch)
    assert set(found["models"]["m"]["members"]) == {"east", "west", "hill"}
    assert {(each["source"], each["target"]) for each in found["flows"]} == {("east", "west"), ("west", "east")}
    assert all(each["behind"] == 0 for each in found["flows"])
    assert found["takeovers"]
    shown = told(world, "status").output
    assert f"m: {owner} owns it in epoch {epoch}." in shown


def test_the_other_region_finishes_what_the_owner_has_begun(world):
    owner, epoch = until(lambda: agreed(world))
    other = "west" if owner == "east" else "east"
    world.training.run_s = 1000.0
    try:
        key = world.event(owner, at_s=60)
        until(lambda: world.training.count(key) == 1 and "accepted" in world.statuses(other, key))
        for service in ("member", "mirror", "kafka"):
            os.kill(world.pid(owner, service), signal.SIGSTOP)
        until(lambda: (found := world.owner(other))[0] == other and found[1] > epoch)
    finally:
        world.training.run_s = 0.5
    until(lambda: settled(world, key, other))
    assert world.training.count(key) == 1
    for service in ("kafka", "mirror", "member"):
        os.kill(world.pid(owner, service), signal.SIGCONT)
    until(lambda: settled(world, key, owner), 120.0)
    again = world.event("east", "west", at_s=120)
    until(lambda: settled(world, again, "east", "west"), 120.0)
    assert world.training.count(again) == 1
