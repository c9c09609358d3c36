"""Regions as people name them, a witness's file, and an agent whose backend takes its time."""

import threading

import pytest

from jobs.kafka import decode, encode
from jobs.retraining import agent as agents
from jobs.retraining.agent import ORDERS, OWNERSHIP, Agent
from jobs.retraining.backends.base import Submission, payload_hash
from jobs.retraining.ownership import Member
from jobs.retraining.regions import MIRRORED, RegionsError, load_regions, mirror_of
from jobs.retraining.retrainer import EVENTS, SUBMISSIONS
from jobs.retraining.standing import Electorate, Standing, Timing
from jobs.retraining.witness import Journal, JournalError
from schemas.topics import TOPICS

TWO = """
regions:
  east: {kafka: "a:1"}
  west: {kafka: "b:2", settings: {security.protocol: SSL}}
witnesses: [hill]
homes: {fraud: west}
timing: {lease_s: 4}
"""


def written(tmp_path, text):
    (tmp_path / "regions.yaml").write_text(text)
    return tmp_path / "regions.yaml"


def test_regions_are_read(tmp_path):
    found = load_regions(written(tmp_path, TWO))
    assert found.names == ("east", "west")
    assert found.region("west").settings == {"security.protocol": "SSL"}
    assert found.electorate("delay") == Electorate(("east", "west"), ("hill",))
    assert found.electorate("fraud").regions == ("west", "east")
    assert found.timing == Timing(lease_s=4)
    assert found.topics_at("west", ("submissions",)) == {
        "submissions": "submissions",
        "east.submissions": "submissions",
    }
    assert not {mirror_of(name, topic) for name in found.names for topic in MIRRORED} & set(TOPICS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- east", "the file: expected names and values"),
        ("regions: {}", "regions: expected one or more"),
        ("regions: {east: {}}", "regions.east.kafka: expected host:port, got None"),
        ("regions: {East: {kafka: 'a:1'}}", "up to 32 lower-case letters"),
        ("regions: {drift: {kafka: 'a:1'}}", "other than"),
        ("regions: {east: {kafka: 'a:1', brokers: x}}", "expected only kafka, settings, got ['brokers']"),
        ("regions: {east: {kafka: 'a:1'}}\nwitnesses: [east]", "no name twice"),
        ("regions: {east: {kafka: 'a:1'}}\nhomes: {m: west}", "homes.m: expected the name of a region, got 'west'"),
        ("regions: {east: {kafka: 'a:1'}}\ntiming: {lease_s: soon}", "timing.lease_s: expected a number, got 'soon'"),
        ("regions: {east: {kafka: 'a:1'}}\ntiming: {lease_s: 1}", "at least two beats"),
        ("regions: [", "expected regions in YAML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, said):
    file = written(tmp_path, text)
    with pytest.raises(RegionsError) as caught:
        load_regions(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_standing_keeps_all_it_says_on_the_wire():
    said = Standing("east", 3, 5, "east", 7, (5, 2), 5, "owner", 7, 1, "", ("west",))
    record = decode(OWNERSHIP, encode(OWNERSHIP, agents._record(said, "m", 1)))
    assert agents._standing(record) == said
    assert record["seat"] == "m/east"


def claim(number, status="intent", epoch=1):
    record = {"incident_id": "i", "model": "m", "epoch": epoch, "number": number, "status": status, "event": event()}
    return record | {"payload_hash": "h", "submission_id": None, "detail": None}


def event():
    return {"incident_id": "i", "model": "m", "effective_from": 0, "event_time": 0}


def test_a_witness_keeps_its_own_word_and_everybodys_claims(tmp_path):
    journal = Journal(tmp_path / "w.db", "hill")
    own = agents._record(Standing("hill", 1), "m", 0)
    journal.write([(OWNERSHIP, own), (OWNERSHIP, agents._record(Standing("east", 9), "m", 0))])
    journal.write([(OWNERSHIP, own | {"revision": 2}), (SUBMISSIONS, claim(1)), (SUBMISSIONS, claim(2, "accepted"))])
    journal.close()
    again = Journal(tmp_path / "w.db", "hill")
    told = list(again.read())
    assert [(topic, each.get("revision"), each.get("number")) for topic, each in told] == [
        (OWNERSHIP, 2, None),
        (SUBMISSIONS, None, 1),
        (SUBMISSIONS, None, 2),
    ]
    again.close()


def test_a_witness_is_one_process_and_a_file_one_witness(tmp_path):
    journal = Journal(tmp_path / "w.db", "hill")
    with pytest.raises(JournalError, match="no other process has open"):
        Journal(tmp_path / "w.db", "hill")
    journal.close()
    with pytest.raises(JournalError, match="that of hill"):
        Journal(tmp_path / "w.db", "dale")


class Slow:
    """A backend that answers when it is told to."""

    name, hidden_s = "slow", 0.0

    def __init__(self):
        self.asked, self.answer, self.runs = threading.Event(), threading.Event(), []

    def find(self, incident_id):
        return None

    def submit(self, incident_id, payload):
        self.runs.append(incident_id)
        self.asked.set()
        assert self.answer.wait(10)
        return Submission(incident_id, "run", payload_hash(payload), "running")


class Ready:
    def payload(self, event):
        return {"incident_id": event["incident_id"], "margin": 0.0}

    def missing(self, event):
        return []


class Alone:
    """The only region of one, with a clock that stands still unless it is moved."""

    def __init__(self):
        self.now, self.published, self.backend = 0.0, [], Slow()
        self.agent = Agent(
            "east", "m", Electorate(("east",)), Timing(), self.publish, lambda: self.now, lambda line: None,
            backend=self.backend, preparation=Ready(),
        )  # fmt: skip
        while not self.agent.may_submit:
            self.agent.vote()
            self.now += 0.1

    def publish(self, records):
        self.published += [(each.topic, each.record) for each in records]

    def statuses(self):
        return [record["status"] for topic, record in self.published if topic == SUBMISSIONS]


@pytest.mark.parametrize("still_owns", [True, False])
def test_beats_go_on_while_a_backend_is_asked_and_a_term_that_ends_meanwhile_says_nothing_more(still_owns):
    alone = Alone()
    alone.agent.take(EVENTS, event())
    alone.agent.carry_out()
    alone.agent.vote()  # it holds the intent, and says so
    work = threading.Thread(target=alone.agent.carry_out, daemon=True)
    work.start()
    assert alone.backend.asked.wait(10)
    beats = alone.agent.member.standing.beat
    for _ in range(3):
        alone.now += 1.1
        alone.agent.vote()
    assert alone.agent.member.standing.beat >= beats + 3
    if not still_owns:
        alone.agent.member.hand_over(alone.now)
        alone.agent.vote()
    alone.backend.answer.set()
    work.join(10)
    assert not work.is_alive()
    assert alone.backend.runs == ["i"]
    assert alone.statuses() == (["intent", "accepted"] if still_owns else ["intent"])


def order(kind, epoch, *members):
    return {"model": "m", "member": "east", "epoch": epoch, "order": kind, "members": list(members)}


def test_an_order_holds_for_its_epoch():
    alone = Alone()
    epoch = alone.agent.member.epoch
    alone.agent.take(ORDERS, order("hand_over", epoch - 1))
    assert alone.agent.may_submit
    alone.agent.take(ORDERS, order("hand_over", epoch))
    assert not alone.agent.may_submit


def test_who_is_gone_is_not_waited_for():
    found = []
    now = [0.0]
    agent = Agent(
        "east", "m", Electorate(("east", "west")), Timing(), lambda records: found.extend(records), lambda: now[0],
        lambda line: None, backend=Slow(), preparation=Ready(),
    )  # fmt: skip

    def pass_time(seconds):
        for _ in range(round(seconds / 0.25)):
            now[0] += 0.25
            agent.tick()

    pass_time(30)
    assert not agent.may_submit
    agent.take(ORDERS, order("declare_gone", agent.member.newest_epoch, "west"))
    pass_time(30)
    assert agent.may_submit


class Three:
    """East, west and a witness, each of which hears at once what it is to hear."""

    def __init__(self):
        electorate = Electorate(("east", "west"), ("hill",))
        self.now, self.cut, self.epochs = 0.0, set(), []
        self.members = {name: Member(name, electorate, Timing(), 0.0, lambda epoch: 0) for name in electorate.voters}

    def pass_time(self, seconds):
        for _ in range(round(seconds / 0.25)):
            self.now += 0.25
            for name, member in self.members.items():
                if (said := member.step(self.now)) is None:
                    continue
                member.said(said)
                for other, each in self.members.items():
                    if frozenset((name, other)) not in self.cut:
                        each.hear(said, self.now)

    def heal(self):
        """A mirror brings what was written meanwhile."""
        self.cut = set()
        for member in self.members.values():
            for each in self.members.values():
                member.hear(each.standing, self.now)

    def owners(self):
        return [name for name, each in self.members.items() if each.may_submit(self.now)]


def test_who_has_stood_for_a_later_epoch_is_brought_back():
    three = Three()
    three.cut = {frozenset(("east", "west")), frozenset(("west", "hill"))}
    three.pass_time(40)
    assert three.owners() == ["east"]
    west, east = three.members["west"], three.members["east"]
    assert west.standing.promised > east.epoch  # it has stood, time and again
    three.heal()
    three.pass_time(40)
    assert three.owners() == ["east"]
    assert west.standing.promised == east.epoch
    assert west.standing.granted == "east"
    epoch = east.epoch
    three.pass_time(60)
    assert (three.owners(), east.epoch) == (["east"], epoch)
    # Now it can do without the witness.
    three.cut = {frozenset(("east", "hill")), frozenset(("west", "hill"))}
    three.pass_time(60)
    assert (three.owners(), east.epoch) == (["east"], epoch)
