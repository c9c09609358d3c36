"""What drifts in one region retrains once, and both serve the new model; the other finishes what a dead home began.

``pytest -s tests/regions/test_regions_flights.py --two-regions``: from January until a second incident, in ten minutes.
"""

import time

import pytest
from click.testing import CliRunner
from two_flights import EAST, MODEL, WEST, TwoRegions

from compose.cli import headwater
from compose.local.home import Home
from monitors.policy import DEFAULT_POLICY, load_policy

STALLED_S = 240.0
LEAD_MS = load_policy(DEFAULT_POLICY).lead_ms


@pytest.fixture(scope="module")
def world(request, tmp_path_factory):
    if not request.config.getoption("--two-regions"):
        pytest.skip("two platforms and five months of flights: ask for it with --two-regions")
    with TwoRegions(Home(tmp_path_factory.mktemp("flights"))) as started:
        yield started


def until(world, holds, what):
    """While traffic moves."""
    moved, last = time.monotonic(), None
    while not (found := holds()):
        assert not world.failures, world.failures
        now = [each.position_ms for each in world.replays.values()], len(world.training.begun)
        if now != last:
            moved, last = time.monotonic(), now
        assert time.monotonic() - moved < STALLED_S, f"nothing moves, waiting for {what}"
        time.sleep(0.5)
    return found


def decisions(world, region):
    return {each["incident_id"]: each for each in world.heard(region, "models.decisions")}


def alerted(world, region):
    return {each["incident_id"] for each in world.read(region, "drift.alerts")}


def test_one_regions_drift_retrains_once_and_a_dead_home_is_stood_in_for(world, capsys):
    # 0. Whoever was up first owns the model; its home is where most of the traffic is.
    if (
        until(world, lambda: (found := world.owner(WEST)) and found == world.owner(EAST) and found, "an owner")[0]
        == WEST
    ):
        told = CliRunner().invoke(
            headwater, ["regions", "hand-over", MODEL, "--to", EAST, "--regions", str(world.file)]
        )
        assert told.exit_code == 0, told.output
        until(world, lambda: (found := world.owner(WEST)) == world.owner(EAST) and found[0] == EAST, "the hand-over")
    world.replay(until="2013-07-01")

    def drifted():
        """Won by an incident that east alone has seen."""
        found = [each for each in decisions(world, WEST).values() if each["decision"] == "promoted"]
        seen = alerted(world, EAST) - alerted(world, WEST)
        return [each for each in found if each["incident_id"] in seen]

    won = until(world, drifted, "a model that won because of east's drift")[0]
    version = won["challenger_version"]

    # 1. Both serve it from when they have said, and nothing older after that. What a region has promised before it
    #    heard of the incident it keeps, so they need not say the same.
    until(world, lambda: all(version in world.versions(each) for each in (EAST, WEST)), "answers of the new model")
    for region in (EAST, WEST):
        promoted = [each for each in world.read(region, "models.control") if each["action"] != "hold"]
        order = [each["version"] for each in promoted]
        (since,) = [each["event_time"] for each in promoted if each["version"] == version]
        older = ["prior", *order[: order.index(version)]]
        served = world.versions(region)
        assert served[version][0] >= since >= won["event_time"] + LEAD_MS
        assert all(served[each][1] < since for each in older if each in served)

    # 2. The home dies while the next incident's run is under way.
    home, epoch = world.owner(WEST)
    known = len(world.training.begun)
    world.training.held = True
    run = until(world, lambda: world.training.begun[known:], "the next incident")[0]
    key = run.incident_id
    until(world, lambda: run.process.poll() is not None, "its training")
    assert key not in decisions(world, WEST)
    world.kill(home)
    other = WEST if home == EAST else EAST
    began = time.monotonic()
    until(world, lambda: (found := world.owner(other)) and found[0] == other and found[1] > epoch, "another owner")
    took = time.monotonic() - began
    world.training.held = False
    verdict = until(world, lambda: decisions(world, other).get(key), "its decision")
    assert "log loss" in verdict["reason"]  # that of a run which came to its end

    # 3. Once each, counted where they ran.
    counted = {each.incident_id for each in world.training.begun}
    assert all(len(world.training.of(each)) == 1 for each in counted)
    said = [each for each in world.read(other, "models.decisions") if each["incident_id"] == key]
    assert len(said) == 1
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{len(counted)} incidents, a run each; {home} killed, {other} owned after {took:.1f} s and concluded "
            f"{key[:8]}: {verdict['decision']}, {verdict['reason']}"
        )
