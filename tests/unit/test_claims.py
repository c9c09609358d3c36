"""Claims as pure decisions, and the one who carries them out, killed between any two steps."""

import itertools
import json
import math
import random
import sys
import time

import pytest

from jobs.kafka import decode, encode
from jobs.retraining.backends.base import Submission, payload_hash
from jobs.retraining.backends.launch import Spawning
from jobs.retraining.backends.local import LocalBackend
from jobs.retraining.claims import UNKNOWN, Alone, Claims, next_step
from jobs.retraining.retrainer import Retrainer, decision_record

EVENT = {
    "incident_id": "i1",
    "model": "delay",
    "monitor": "performance",
    "reason": "drift",
    "event_time": 1000,
    "effective_from": 2000,
    "policy": "p",
}
RESULT = {
    "status": "succeeded",
    "version": "2",
    "uri": "models/delay/2",
    "decision": "promoted",
    "champion_log_loss": 0.46,
    "challenger_log_loss": 0.44,
    "champion_auc": 0.75,
    "challenger_auc": 0.78,
    "margin": 0.001,
    "held_out_rows": 9000,
    "reason": "better by 0.02",
}
TRAIN = f"""
import json, pathlib, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--run") + 1])
with (run / "started").open("a") as stream:
    stream.write("x")
time.sleep(float(sys.argv[1]))
(run / "r").write_text(json.dumps({RESULT!r}))
(run / "r").replace(run / "result.json")
"""


def record(status, epoch=1, incident="i1", found_hash="h", submission_id=None, detail=None, number=1):
    return {
        "incident_id": incident,
        "model": "delay",
        "backend": "local",
        "submission_id": submission_id,
        "epoch": epoch,
        "number": number,
        "status": status,
        "payload_hash": found_hash,
        "event": {**EVENT, "incident_id": incident},
        "event_time": 1,
        "recorded_at": 2,
        "detail": detail,
    }


def submission(state, found_hash="h"):
    return Submission("i1", "i1", found_hash, state)


@pytest.mark.parametrize(
    ("records", "run", "step"),
    [
        ([], UNKNOWN, "intend"),
        (["intent"], UNKNOWN, "find"),
        (["intent"], None, "submit"),
        (["intent"], submission("running"), "accept"),
        (["intent"], submission("succeeded"), "accept"),
        (["intent"], submission("lost"), "accept"),
        (["intent"], submission("running", "other"), "conflict"),
        (["intent", "accepted"], UNKNOWN, "find"),
        (["intent", "accepted"], None, "vanished"),
        (["intent", "accepted"], submission("running"), "wait"),
        (["intent", "accepted"], submission("lost"), "submit"),
        (["intent", "accepted"], submission("succeeded"), "settle"),
        (["intent", "accepted"], submission("failed"), "settle"),
        (["intent", "accepted"], submission("cancelled"), "settle"),
        (["intent", "accepted", "succeeded"], UNKNOWN, "done"),
        (["intent", "accepted", "failed"], None, "done"),
        (["intent", "cancelled"], submission("running"), "done"),
    ],
)
def test_what_comes_next(records, run, step):
    assert next_step(Claims(map(record, records)).get("i1"), run, Alone(1), "h") == step


def test_a_higher_epoch_takes_over_and_the_lower_stands_down():
    claims = Claims([record("intent", 1), record("accepted", 1, submission_id="s")])
    assert next_step(claims.get("i1"), UNKNOWN, Alone(2), "h") == "intend"
    claims.take(record("intent", 2))
    assert next_step(claims.get("i1"), UNKNOWN, Alone(2), "h") == "find", "and nothing is submitted that has been"
    assert next_step(claims.get("i1"), None, Alone(2), "h") == "vanished"
    assert next_step(claims.get("i1"), submission("running"), Alone(1), "h") == "stand down"
    assert claims.get("i1").submission_id == "s"


class Office:
    """Of an owner in doubt."""

    epoch = 1

    def __init__(self, may_submit, committed):
        self._may_submit, self._committed = may_submit, committed

    def may_submit(self):
        return self._may_submit

    def is_committed(self, number):
        return number <= self._committed


@pytest.mark.parametrize(
    ("office", "status", "run", "step"),
    [
        (Office(True, 1), "intent", None, "submit"),
        (Office(False, 1), "intent", None, "hold"),
        (Office(True, 0), "intent", None, "hold"),
        (Office(True, 0), "intent", UNKNOWN, "find"),
        (Office(False, 0), "intent", submission("running"), "accept"),
        (Office(False, 1), "accepted", submission("lost"), "hold"),
        (Office(False, 0), "accepted", submission("succeeded"), "hold"),
        (Office(True, 0), "accepted", submission("succeeded"), "settle"),
        (Office(False, 1), "accepted", None, "hold"),
        (Office(False, 1), "intent", submission("running", "other"), "hold"),
    ],
)
def test_who_is_not_sure_to_own_submits_and_concludes_nothing(office, status, run, step):
    assert next_step(Claims([record(status)]).get("i1"), run, office, "h") == step


@pytest.mark.parametrize("status", ["intent", "accepted"])
def test_what_the_backend_may_hide_is_waited_for(status):
    claim = Claims([record(status)]).get("i1")
    assert next_step(claim, None, Alone(1), "h", is_hidden=True) == "hold"
    assert next_step(claim, submission("running"), Alone(1), "h", is_hidden=True) != "hold"


def test_claims_are_counted_up_to_the_first_gap_and_said_again_from_there():
    claims = Claims([record("intent", 2, "i1", number=1), record("intent", 2, "i3", number=3)])
    assert (claims.counted(1), claims.counted(2)) == (0, 1)
    assert [(each["incident_id"], each["number"]) for each in claims.again(2, after=1)] == [("i3", 3)]
    claims.take(record("accepted", 2, "i1", number=2, submission_id="s"))
    assert claims.counted(2) == 3
    assert [(each["number"], each["status"]) for each in claims.again(2)] == [
        (1, "accepted"),
        (2, "accepted"),
        (3, "intent"),
    ]


def test_that_it_failed_counts_until_somebody_has_taken_it_over():
    told = [record("intent", 1), record("failed", 1, number=2, detail="gone"), record("intent", 2)]
    for order in itertools.permutations(told):
        assert Claims(order).get("i1").status == "intent"
    carried = [*told[:2], *Claims(told[:2]).carried(2)]
    assert {Claims(order).get("i1").status for order in itertools.permutations(carried)} == {"failed"}
    succeeded = [*told, record("succeeded", 1, number=3, detail="uri")]
    assert {Claims(order).get("i1").status for order in itertools.permutations(succeeded)} == {"succeeded"}


def test_the_run_of_another_owners_payload_is_the_incidents_too():
    claims = Claims([record("intent", 1, found_hash="first"), record("intent", 2, found_hash="second")])
    assert claims.get("i1").payload_hashes == {"first", "second"}
    assert next_step(claims.get("i1"), submission("running", "first"), Alone(2), "second") == "accept"
    assert next_step(claims.get("i1"), None, Alone(2), "third") == "intend", "before it is submitted it is said"
    assert [each["payload_hash"] for each in claims.carried(3)] == ["first", "second"]


def test_another_owner_carries_all_claims_over():
    claims = Claims([record("succeeded", 2, "i2", number=1, detail="uri"), record("intent", 3, "i1", number=1)])
    carried = claims.carried(4)
    told = [(each["incident_id"], each["epoch"], each["number"], each["status"]) for each in carried]
    assert told == [("i1", 4, 1, "intent"), ("i2", 4, 2, "succeeded")]
    assert Claims(carried).get("i2").detail == "uri"
    assert (Claims(carried).counted(4), Claims(carried).newest_epoch) == (2, 4)


def test_order_and_repetition_of_records_do_not_matter():
    told = [
        record("intent", 1, number=1),
        record("accepted", 1, submission_id="s", number=2),
        record("intent", 2, number=1),
        record("accepted", 2, submission_id="s", number=2),
        record("succeeded", 2, submission_id="s", detail="uri", number=3),
    ]
    for size in range(1, len(told) + 1):
        found = {Claims(order).get("i1") for order in itertools.permutations(told[:size])}
        assert len(found) == 1
    assert Claims(told + told[::-1]).get("i1") == Claims(told).get("i1")


def test_a_decision_carries_the_figures():
    found = decision_record(EVENT, {"champion": {"version": "1", "uri": "u"}, "margin": 0.001}, RESULT)
    assert decode("models.decisions", encode("models.decisions", found)) == found
    assert (found["decision"], found["champion_version"], found["challenger_version"]) == ("promoted", "1", "2")
    assert (found["champion_log_loss"], found["challenger_log_loss"], found["held_out_rows"]) == (0.46, 0.44, 9000)


def test_a_run_without_figures_is_refused_with_its_reason():
    found = decision_record(EVENT, {"champion": None, "margin": 0.001}, {"reason": "no rows"})
    assert (found["decision"], found["champion_version"], found["reason"]) == ("refused", "prior", "no rows")
    assert math.isnan(found["challenger_log_loss"])
    assert found["champion_auc"] is None
    assert encode("models.decisions", found)


class CrashError(Exception):
    pass


class Ready:
    """Preparation that takes a few looks."""

    def __init__(self, looks=0):
        self.looks = looks

    def payload(self, event):
        return {"incident_id": event["incident_id"], "cutoff_ms": event["event_time"], "margin": 0.0, "champion": None}

    def missing(self, event):
        self.looks -= 1
        return ["predictions"] if self.looks >= 0 else []


class Region:
    """A topic, a backend's directory, and one process after the other that dies at a given moment."""

    def __init__(self, tmp_path, seconds=0.0, preparation=None):
        self.runs, self.seconds = tmp_path / "runs", seconds
        self.preparation = preparation or Ready()
        self.published, self.log = [], []
        self.moments, self.crash_at = 0, None
        self.made = []

    def moment(self):
        """Somewhere a process may die."""
        self.moments += 1
        if self.moments == self.crash_at:
            raise CrashError

    def process(self, attempts_max=5, **options):
        region = self

        class Backend(LocalBackend):
            def find(self, incident_id):
                region.moment()
                return super().find(incident_id)

            def submit(self, incident_id, payload):
                region.moment()
                found = super().submit(incident_id, payload)
                region.moment()
                return found

        def publish(records):
            self.moment()
            self.published += [(each.topic, each.record) for each in records]
            self.moment()

        backend = Backend(self.runs, Spawning([sys.executable, "-c", TRAIN, str(self.seconds)]), attempts_max)
        self.made.append(backend)
        claims = Claims(self.topic("submissions"))
        office = Alone(claims.newest_epoch + 1)
        return Retrainer(backend, self.preparation, publish, self.log.append, claims, office, **options)

    def topic(self, name):
        return [each for topic, each in self.published if topic == name]

    def until_settled(self, retrainer, seconds=20.0):
        deadline = time.monotonic() + seconds
        while retrainer.active:
            assert time.monotonic() < deadline, self.log
            retrainer.tick()
            time.sleep(0.005)

    def starts(self, incident="i1"):
        file = self.runs / incident / "started"
        return len(file.read_text()) if file.exists() else 0


@pytest.fixture
def region(tmp_path):
    made = []

    def make(**options):
        made.append(Region(tmp_path / str(len(made)), **options))
        return made[-1]

    yield make
    for each in made:
        for backend in each.made:
            backend.close()


def statuses(region, incident="i1"):
    return [each["status"] for each in region.topic("submissions") if each["incident_id"] == incident]


def test_an_event_becomes_one_run_and_one_decision(region):
    here = region(preparation=Ready(2))
    retrainer = here.process()
    retrainer.on_event(EVENT)
    here.until_settled(retrainer)
    assert statuses(here) == ["intent", "accepted", "succeeded"]
    assert here.topic("submissions")[-1]["detail"] == "models/delay/2"
    assert [each["decision"] for each in here.topic("models.decisions")] == ["promoted"]
    assert {each["step"] for each in here.log} >= {"prepare", "intent", "submit", "accepted", "succeeded"}
    for topic, each in here.published:
        assert decode(topic, encode(topic, each)) == each


def test_a_redelivered_event_changes_nothing(region):
    here = region()
    retrainer = here.process()
    for _ in range(3):
        retrainer.on_event(EVENT)
        here.until_settled(retrainer)
    again = here.process()
    again.on_event(EVENT)
    assert not again.active
    assert (here.starts(), len(here.topic("models.decisions"))) == (1, 1)


def test_killed_between_any_two_steps(region):
    """The process dies (its training with it) at every moment there is, and the next one finishes what it began."""
    for crash_at in itertools.count(1):
        here = region(seconds=0.01)
        here.crash_at = crash_at
        crashed = False
        for _ in range(2):
            retrainer = here.process()
            try:
                retrainer.on_event(EVENT)
                here.until_settled(retrainer)
            except CrashError:
                crashed = True
                retrainer.backend.close()  # a process takes its training with it
        assert statuses(here)[-1] == "succeeded", f"crash {crash_at}"
        assert statuses(here).count("succeeded") == 1
        assert len(here.topic("models.decisions")) == 1
        assert len(list(here.runs.iterdir())) == 1
        assert {each["submission_id"] for each in here.topic("submissions")} == {None, "i1"}
        if not crashed:
            break
    assert crash_at > 8, "the moments were met"


def test_racing_consumers_have_one_run(region):
    here = region(seconds=0.2)
    racers = [here.process() for _ in range(4)]
    for each in racers:
        each.on_event(EVENT)
    while not any(each["status"] == "succeeded" for each in here.topic("submissions")):
        random.choice(racers).tick()
        time.sleep(0.005)
    assert here.starts() == 1


def test_a_run_that_fails_settles_the_incident_with_its_reason(region):
    here = region(seconds=math.nan)  # sleep refuses it
    retrainer = here.process(attempts_max=2)
    retrainer.on_event(EVENT)
    here.until_settled(retrainer)
    assert statuses(here) == ["intent", "accepted", "failed"]
    (decision,) = here.topic("models.decisions")
    assert decision["decision"] == "refused"
    assert "2 attempts ended without a result" in decision["reason"]
    assert "ValueError" in decision["reason"]


def test_a_run_with_another_payload_is_a_conflict_that_is_told(region):
    here = region()
    first = here.process()
    first.on_event(EVENT)
    here.until_settled(first)
    here.published.clear()
    second = here.process()
    second.on_event({**EVENT, "event_time": 1001})
    here.until_settled(second)
    assert statuses(here) == ["intent", "failed"]
    assert "expected the backend to have a run with" in here.topic("models.decisions")[0]["reason"]
    assert here.starts() == 1


def test_a_training_set_that_never_gets_complete(region):
    here = region(preparation=Ready(10**6))
    now = [0.0]
    retrainer = here.process(clock=lambda: now[0], prepare_seconds=600)
    retrainer.on_event(EVENT)
    for _ in range(10):
        retrainer.tick()
        now[0] += 70
    assert statuses(here) == ["intent", "failed"]
    assert "complete within 600 s: ['predictions']" in here.topic("models.decisions")[0]["reason"]
    assert here.starts() == 0


def test_runs_of_one_model_follow_one_another(region):
    here = region(seconds=0.1)
    retrainer = here.process()
    names = [f"i{number}" for number in range(4)]
    for name in names:
        retrainer.on_event({**EVENT, "incident_id": name})
    most = 0
    while retrainer.active:
        retrainer.tick()
        most = max(most, sum(each.find(name) is not None and each.status(name).state == "running"
                             for each in here.made for name in names))  # fmt: skip
    assert most == 1
    assert [each["incident_id"] for each in here.topic("models.decisions")] == names


def test_a_payload_is_hashed_as_it_is_written(region):
    here = region()
    retrainer = here.process()
    retrainer.on_event(EVENT)
    here.until_settled(retrainer)
    written = json.loads((here.runs / "i1" / "payload.json").read_text())
    assert {each["payload_hash"] for each in here.topic("submissions")} == {payload_hash(written)}
