"""Two regions and a witness in network namespaces, and all that befalls them: one run an incident, counted there.

``pytest tests/regions --faults 50`` puts them through more of it, and prints what it took.
"""

import random
import signal
import statistics
import time

import pytest
from click.testing import CliRunner
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from namespaces import Network, possible
from two_regions import World, until

from compose.cli import headwater
from compose.regions import NAMES, WITNESS
from compose.standings import look
from jobs.kafka import BrokerError, reader

pytestmark = pytest.mark.skipif(not possible(), reason="network namespaces cannot be made here")

EAST, WEST = NAMES[:2]
TIMING = "timing: {beat_s: 0.5, lease_s: 3}\n"
SETTLED_S = 150.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with (
        Network([EAST, WEST, WITNESS]) as network,
        World(tmp_path_factory.mktemp("faults"), TIMING, network) as started,
    ):
        until(lambda: owner(started), 90.0)
        yield started


def owner(world):
    """Once both regions know of the same."""
    try:
        east, west = world.owner(EAST), world.owner(WEST)
    except BrokerError:
        return None
    return east[0] if east and east == west else None


def other_of(region):
    return WEST if region == EAST else EAST


def kill_member(world, rng):
    world.signal(signal.SIGKILL, owner(world) or EAST, "member")


def kill_both_members(world, rng):
    for each in (EAST, WEST):
        world.signal(signal.SIGKILL, each, "member")


def kill_mirror(world, rng):
    world.signal(signal.SIGKILL, rng.choice((EAST, WEST)), "mirror")


def kill_kafka(world, rng):
    world.signal(signal.SIGKILL, owner(world) or EAST, "kafka")


def kill_region(world, rng):
    world.signal(signal.SIGKILL, owner(world) or EAST, "kafka", "mirror", "member")


def kill_witness(world, rng):
    world.signal(signal.SIGKILL, WITNESS, WITNESS)


def stop_member(world, rng):
    """For longer than its lease: it goes on with what it was about to do."""
    _stop(world, rng, "member")


def stop_region(world, rng):
    _stop(world, rng, "member", "mirror", "kafka")


def _stop(world, rng, *services):
    region = owner(world) or EAST
    world.signal(signal.SIGSTOP, region, *services)
    try:
        time.sleep(rng.uniform(4.0, 9.0))
    finally:
        world.signal(signal.SIGCONT, region, *services)


def cut_regions(world, rng):
    _cut(world, rng, lambda: world.network.cut(EAST, WEST))


def isolate_owner(world, rng):
    region = owner(world) or EAST
    _cut(world, rng, lambda: world.network.isolate(region))


def isolate_all(world, rng):
    def everybody():
        for each in (EAST, WEST):
            world.network.isolate(each)

    _cut(world, rng, everybody)


def cut_from_training(world, rng):
    region = owner(world) or EAST
    _cut(world, rng, lambda: world.network.cut(region, world.network.HERE))


def _cut(world, rng, cut):
    cut()
    try:
        time.sleep(rng.uniform(3.0, 10.0))
    finally:
        world.network.heal()


def lose_mirror_offsets(world, rng):
    """It begins again from the first record, as after a restore or a change of its name."""
    target = rng.choice((EAST, WEST))
    source = other_of(target)
    admin = AdminClient({"bootstrap.servers": world.kafka(target)})
    world.signal(signal.SIGSTOP, target, "mirror")
    for future in admin.delete_topics([f"mm2-offsets.{source}.internal"]).values():
        future.result(20)
    world.signal(signal.SIGCONT, target, "mirror")
    world.signal(signal.SIGKILL, target, "mirror")


def swap(world, rng):
    if found := owner(world):
        told = ["regions", "hand-over", "m", "--to", other_of(found), "--wait", "0", "--regions", str(world.file)]
        CliRunner().invoke(headwater, told)


FAULTS = (
    kill_member, stop_member, isolate_owner, lose_mirror_offsets, swap, kill_region, cut_regions, stop_region,
    kill_both_members, kill_mirror, kill_kafka, kill_witness, isolate_all, cut_from_training,
)  # fmt: skip


def settled(world, key):
    try:
        return all("succeeded" in world.statuses(each, key) for each in (EAST, WEST))
    except BrokerError:
        return False


def mirrored(world):
    """Records that either region has ever been brought of what it needs of the other."""
    count = 0
    for target in (EAST, WEST):
        consumer = reader(world.kafka(target))
        for name in world.regions.topics_at(target):
            if name.startswith(other_of(target)):
                low, high = consumer.get_watermark_offsets(TopicPartition(name, 0), timeout=20)
                count += high - low
        consumer.close()
    return count


def test_one_run_an_incident_whatever_breaks(world, request, capsys):
    count, rng = request.config.getoption("--faults"), random.Random(0)
    told, keys = [], []
    for number in range(count):
        fault = FAULTS[number % len(FAULTS)]
        seen_by = rng.choice([(EAST,), (WEST,), (EAST, WEST)])
        # What the incident meets is before, at, or after its event.
        key = world.event(*seen_by, at_s=number)
        began = time.monotonic()
        time.sleep(rng.choice((0.0, rng.uniform(0.0, 0.6), rng.uniform(0.0, 3.0))))
        before = look(world.regions)
        behind = max((flow.behind for flow in before.flows), default=0)
        fault(world, rng)
        until(lambda key=key: settled(world, key), SETTLED_S, f"{fault.__name__}: incident {key} was not settled")
        keys.append(key)
        assert [world.training.count(each) for each in keys] == [1] * len(keys), fault.__name__
        told.append((fault.__name__, time.monotonic() - began, behind))
        until(lambda: owner(world), 90.0, f"{fault.__name__}: no owner")
    takeovers = [each.without_s for each in look(world.regions).takeovers]
    with capsys.disabled():
        _print(told, takeovers, mirrored(world), len(world.training.runs))


def _print(told, takeovers, brought, runs):
    print(f"\n{len(told)} faults, {runs} runs, one an incident")  # noqa: T201
    for name in sorted({each for each, _, _ in told}):
        times = [took for each, took, _ in told if each == name]
        print(f"  {name:<20} {len(times)} times, settled after {max(times):5.1f} s at most")  # noqa: T201
    print(f"  records that the other region lacked when it struck (RPO): at most {max(b for _, _, b in told)}")  # noqa: T201
    if takeovers:
        middle, most = statistics.median(takeovers), max(takeovers)
        print(f"  without an owner (RTO): median {middle:.1f} s, at most {most:.1f} s, {len(takeovers)} takeovers")  # noqa: T201
    print(f"  records brought by the mirrors, markers and those read again included: {brought:,}")  # noqa: T201
