"""The control loop in virtual time: traffic that keeps to the horizon, monitors, a trainer, and crashes everywhere."""

import dataclasses
import hashlib
import itertools
import random

import pytest

from jobs.kafka import Publish, decode, encode
from jobs.retraining.controller import Controller, Settings, bootstrap_id
from jobs.retraining.loop import coalesce
from monitors.policy import load_policy
from schemas.topics import topic

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
START_MS = 1_356_998_400_000  # 2013-01-01
# The moments below are computed for this cool-down, whatever the flights' own policy says.
POLICY = dataclasses.replace(load_policy(), cool_down_ms=14 * DAY_MS, lead_ms=4 * DAY_MS)
MONITORS = ("data", "features", "performance", "sequential")


def at(day):
    return START_MS + round(day * DAY_MS)


def window(monitor, day, fired=False, version="1", model="delay"):
    result = {"column": "x", "segment": "", "statistic": "ks", "value": 1.0, "threshold": 0.5, "p_value": None}
    return {
        "model": model,
        "model_version": version,
        "monitor": monitor,
        "window_start": at(day - 1),
        "window_end": at(day),
        "results": [{**result, "count": 10, "fired": fired}],
    }


def alert(day, incident="a", monitor="performance", version="1", **changes):
    return {
        "incident_id": incident,
        "status": "opened",
        "severity": "warning",
        "cause": "world",
        "model": "delay",
        "model_version": version,
        "monitor": monitor,
        "segment": "",
        "window_start": at(day - 1),
        "window_end": at(day),
        "summary": "drift",
        "estimated_harm": None,
        "evidence": [],
        "report": None,
        "policy": "p",
        **changes,
    }


def decision(incident, verdict="promoted", version="1"):
    return {"incident_id": incident, "model": "delay", "decision": verdict, "challenger_version": version}


def submission(incident, version="1"):
    return {"incident_id": incident, "model": "delay", "status": "succeeded", "detail": f"models/delay/{version}"}


def judged(controller, day, wall_ms=0):
    return [each for monitor in MONITORS for each in controller.on_window(window(monitor, day), wall_ms)]


def started(**settings):
    controller = Controller(Settings("delay", **settings), POLICY)
    return controller, controller.start(START_MS + 7 * HOUR_MS)


def trained(**settings):
    """A controller whose first model answers from day 31; in cool-down until day 44."""
    controller, _ = started(**settings)
    judged(controller, 30)
    controller.on_submission(submission(bootstrap_id("delay", 0)))
    controller.on_decision(decision(bootstrap_id("delay", 0)))
    return controller


def short(records):
    """(what, event time in days, version or incident) of what was published."""
    found = []
    for each in records:
        r = each.record
        days = round((r["event_time"] - START_MS) / DAY_MS, 3)
        found.append((r.get("action", "retrain"), days, r.get("version") or r["incident_id"]))
    return found


def test_at_the_start_the_prior_answers_up_to_the_day_the_first_model_is_due():
    _, (first,) = started()
    assert first.topic == "models.control"
    assert first.record == {
        "model": "delay",
        "version": "prior",
        "uri": "",
        "event_time": 0,
        "watermark": at(31) - 1,
        "action": "hold",
        "incident_id": None,
    }


def test_the_first_model_is_due_without_an_alert_and_takes_over_on_time():
    controller, _ = started()
    assert judged(controller, 29) == []
    (event,) = judged(controller, 30)
    assert event.topic == "retraining.events"
    assert event.record["monitor"] == "bootstrap"
    assert (event.record["event_time"], event.record["effective_from"]) == (at(30), at(31))
    assert controller.in_flight == [bootstrap_id("delay", 0)]
    assert controller.on_decision(decision(bootstrap_id("delay", 0))) == [], "its place is not known yet"
    promote, hold = controller.on_submission(submission(bootstrap_id("delay", 0)))
    assert (promote.record["action"], promote.record["version"]) == ("promote", "1")
    assert promote.record["uri"] == "models/delay/1"
    assert promote.record["event_time"] == promote.record["watermark"] == at(31)
    # Nothing can retrain before day 44, so nothing can change before day 48.
    assert hold.record["watermark"] == hold.record["event_time"] == at(30 + 14 + 4) - 1
    assert hold.record["version"] == "1"


def test_a_first_model_that_fails_is_asked_for_again_after_the_cool_down():
    controller, _ = started()
    judged(controller, 30)
    (hold,) = controller.on_decision(decision(bootstrap_id("delay", 0), "refused"))
    assert hold.record["watermark"] == at(31 + 14) - 1
    (event,) = judged(controller, 44)
    assert event.record["incident_id"] == bootstrap_id("delay", 1)
    assert event.record["effective_from"] == at(45)


def test_traffic_moves_on_behind_the_slowest_monitor():
    controller = trained()
    for monitor in MONITORS[:3]:
        assert controller.on_window(window(monitor, 50)) == []
    (hold,) = controller.on_window(window("sequential", 49))
    assert hold.record["watermark"] == at(49 + 4) - 1
    assert controller.on_window(window("data", 49.5)) == []
    (hold,) = controller.on_window(window("sequential", 50))
    assert hold.record["watermark"] == at(50 + 4) - 1


def test_a_little_progress_is_not_worth_a_record():
    controller = trained()
    judged(controller, 50)
    assert judged(controller, 50 + 0.5 / 24) == []
    assert len(judged(controller, 50 + 1 / 24)) == 1


def test_an_alert_retrains_and_its_model_answers_after_the_lead():
    controller = trained()
    judged(controller, 50)
    assert controller.on_alert(alert(51)) == [], "its window is not settled"
    event, hold = judged(controller, 51)
    assert event.record == {
        "incident_id": "a",
        "model": "delay",
        "monitor": "performance",
        "reason": "drift",
        "event_time": at(51),
        "effective_from": at(55),
        "policy": "delay-2",
    }
    assert hold.record["watermark"] == at(55) - 1
    assert judged(controller, 54) == [], "the horizon stays until the decision"
    controller.on_submission(submission("a", "2"))
    promote, hold = controller.on_decision(decision("a", version="2"))
    assert (promote.record["event_time"], promote.record["watermark"]) == (at(55), at(55))
    assert promote.record["incident_id"] == "a"
    assert hold.record["watermark"] == at(51 + 14 + 4) - 1


def test_after_a_refusal_the_champion_goes_on():
    controller = trained()
    controller.on_alert(alert(51))
    judged(controller, 51)
    (hold,) = controller.on_decision(decision("a", "refused", "2"))
    assert (hold.record["version"], hold.record["watermark"]) == ("1", at(51 + 14 + 4) - 1)


@pytest.mark.parametrize("order", [("refused", "promoted"), ("promoted", "refused")])
def test_what_an_owner_concluded_that_was_one_no_more_does_not_outdo_what_won(order):
    """It took the run for vanished, say, while its successor saw it win; two regions may hear them in either order."""
    controller = trained()
    controller.on_alert(alert(51))
    judged(controller, 51)
    controller.on_submission(submission("a", "2"))
    found = [each for verdict in order for each in controller.on_decision(decision("a", verdict, "2"))]
    promoted = [each.record for each in found if each.record["action"] == "promote"]
    assert [(each["version"], each["incident_id"]) for each in promoted] == [("2", "a")]
    assert controller.on_decision(decision("a", "refused", "2")) == []


def elsewhere(incident, day):
    return {
        "incident_id": incident, "model": "delay", "monitor": "performance", "reason": "drift", "policy": "p",
        "event_time": at(day), "effective_from": at(day + 4),
    }  # fmt: skip


def test_what_another_region_retrains_answers_here_and_is_not_asked_for_again():
    controller = trained()
    judged(controller, 50)
    (hold,) = controller.on_event(elsewhere("a", 51))
    assert hold.record["watermark"] == at(55) - 1
    controller.on_alert(alert(51))
    assert judged(controller, 51) == [], "the same drift, seen here too"
    controller.on_submission(submission("a", "2"))
    promote, _ = controller.on_decision(decision("a", version="2"))
    assert (promote.record["version"], promote.record["event_time"]) == ("2", at(55))
    # The cool-down is the model's, not a region's.
    controller.on_alert(alert(58, "b", version="2"))
    assert judged(controller, 58) == []
    assert controller.in_flight == []


def test_a_model_from_elsewhere_takes_effect_behind_what_was_promised_here():
    controller = trained()
    judged(controller, 60)
    horizon_ms = controller.horizon_ms
    controller.on_event(elsewhere("a", 40))
    controller.on_submission(submission("a", "2"))
    promote, *_ = controller.on_decision(decision("a", version="2"))
    assert promote.record["event_time"] == horizon_ms + 1


def test_another_models_event_is_none_of_its_business():
    controller = trained()
    controller.on_event({**elsewhere("a", 51), "model": "fraud"})
    assert controller.in_flight == []


def test_an_incident_held_back_by_the_cool_down_is_looked_at_again():
    controller = trained()
    controller.on_alert(alert(40))
    assert judged(controller, 43) == []
    (event,) = judged(controller, 44)
    assert (event.record["incident_id"], event.record["event_time"]) == ("a", at(44))


def test_an_incident_that_was_resolved_in_the_cool_down_does_not_retrain():
    controller = trained()
    controller.on_alert(alert(40))
    controller.on_alert(alert(42, status="resolved"))
    assert [each[0] for each in short(judged(controller, 44))] == []


def test_windows_that_settle_together_are_judged_one_by_one():
    controller = trained()
    controller.on_alert(alert(53, "b"))
    controller.on_alert(alert(51))
    for day in (50, 51, 52, 53):
        for monitor in MONITORS[:3]:
            controller.on_window(window(monitor, day))
    found = controller.on_window(window("sequential", 53))
    assert short(found) == [("retrain", 51, "a"), ("hold", 55, "1")]


def test_of_alerts_of_one_time_the_graver_one_retrains_whatever_came_first():
    for order in (1, -1):
        controller = trained()
        alerts = [alert(51, "a", "features"), alert(51, "b", "sequential", severity="critical")][::order]
        for each in alerts:
            controller.on_alert(each)
        assert judged(controller, 51)[0].record["incident_id"] == "b"


def test_a_data_fault_does_not_retrain_and_holds_back_its_effects():
    controller = trained()
    controller.on_alert(alert(50.5, "f", "data", cause="data"))
    controller.on_alert(alert(51, "p"))
    controller.on_alert(alert(52, "f", "data", cause="data", status="resolved"))
    assert {each[0] for day in (51, 52, 58, 59) for each in short(judged(controller, day))} == {"hold"}
    # The fault ends at 53 with its margin, windows of a week are clean at 60.
    assert short(judged(controller, 60))[0] == ("retrain", 60, "p")


def test_an_alert_about_a_model_that_was_replaced_is_stale():
    controller = trained()
    controller.on_alert(alert(51, version="prior"))
    assert {each[0] for each in short(judged(controller, 51))} == {"hold"}


def test_an_alert_that_comes_late_takes_effect_behind_what_was_promised():
    controller = trained()
    judged(controller, 51)
    judged(controller, 52)
    event, *_ = controller.on_alert(alert(51))
    assert (event.record["event_time"], event.record["effective_from"]) == (at(52), at(56))


def test_other_models_are_none_of_its_business():
    controller = trained()
    before = controller.horizon_ms
    for monitor in MONITORS:
        assert controller.on_window(window(monitor, 80, model="other")) == []
    controller.on_alert({**alert(50), "model": "other"})
    assert (controller.horizon_ms, controller.in_flight) == (before, [])


def test_live_traffic_waits_for_nothing():
    controller = Controller(Settings("delay", live=True), POLICY)
    (first,) = controller.start(START_MS, wall_ms=at(10))
    assert first.record["watermark"] == at(10) - 1000
    assert controller.on_clock(at(10) + 500) == []
    (hold,) = controller.on_clock(at(10) + 1000)
    assert hold.record["watermark"] == at(10)
    judged(controller, 30, wall_ms=at(30) + 60_000)
    assert controller.in_flight, "the first model is being trained"
    assert short(controller.on_clock(at(31.5)))[0][0] == "hold"
    controller.on_submission(submission(bootstrap_id("delay", 0)), at(31.5))
    promote, *_ = controller.on_decision(decision(bootstrap_id("delay", 0)), at(31.5) + 10)
    assert promote.record["event_time"] == at(31.5) - 999, "as soon as can be, behind what was promised"
    assert at(31) < promote.record["event_time"]


def test_every_record_fits_its_topic():
    controller = trained()
    controller.on_alert(alert(51))
    for each in judged(controller, 51):
        assert decode(each.topic, encode(each.topic, each.record)) == each.record
        assert each.record[topic(each.topic).key]


def test_promises_that_are_outdone_at_once_are_left_out():
    def control(action, time_ms):
        return Publish("models.control", {"action": action, "event_time": time_ms})

    event = Publish("retraining.events", {"event_time": 3})
    told = [control("hold", 0), control("hold", 1), event, control("promote", 4), control("hold", 5)]
    told.append(control("hold", 6))
    assert coalesce(told) == [told[0], event, told[3], told[5]]


class World:
    """A year that obeys the horizon. What it does in event time depends on event time and model version only.

    How it comes, in which bursts, how long a training run takes: that is what `seed` decides.
    """

    def __init__(self, nature, seed, days=180):
        self.nature, self.random, self.days = nature, random.Random(f"{nature}/{seed}"), days
        self.inputs, self.published, self.versions = [], [], []
        self.done_hours = 0
        self.runs = {}

    def chance(self, *about):
        return int(hashlib.sha256(repr((self.nature, *about)).encode()).hexdigest()[:8], 16) / 2**32

    def version_at(self, time_ms):
        return [version for from_ms, version in self.versions if from_ms <= time_ms][-1]

    def turn(self):
        """Inputs of the next moment, or None at the end."""
        for each in self.published:
            if each.topic == "retraining.events" and each.record["incident_id"] not in self.runs:
                self.runs[each.record["incident_id"]] = [self.random.randint(0, 6), each.record]
        found = []
        for key, run in self.runs.items():
            run[0] -= 1
            if run[0] == -1:
                found += self.outcome(key)
        control = [each.record for each in self.published if each.topic == "models.control"]
        changes = [each for each in control if each["action"] == "promote"]
        self.versions = [(each["event_time"], each["version"]) for each in [control[0], *changes]]
        horizon_ms = max(each["watermark"] for each in control)
        end = min((horizon_ms - START_MS) // HOUR_MS, self.days * 24)
        stop = min(end, self.done_hours + self.random.choice((0, 6, 24, 100, 400)))
        for hour in range(self.done_hours + 1, stop + 1):
            found += self.hour(hour)
        self.done_hours = max(stop, self.done_hours)
        if not found and self.done_hours >= self.days * 24 and all(run[0] < 0 for run in self.runs.values()):
            return None
        self.inputs += found
        return found

    def outcome(self, key):
        verdict = "promoted" if self.chance("verdict", key) < 0.6 else "refused"
        version = str(1 + len([each for each in self.inputs if each[0] == "models.decisions"]))
        told = [("submissions", submission(key, version)), ("models.decisions", decision(key, verdict, version))]
        return told if self.random.random() < 0.5 else told[::-1]

    def hour(self, hour):
        """Alerts, in any order, and the windows that settle them."""
        alerts, windows = [], []
        for monitor in MONITORS:
            if monitor == "data" or hour % 24 == 0:
                version = self.version_at(START_MS + hour * HOUR_MS)
                told = self.told(monitor, hour, version)
                windows.append(("drift.windows", window(monitor, hour / 24, told is not None, version)))
                alerts += [("drift.alerts", told)] if told else []
        self.random.shuffle(alerts)
        self.random.shuffle(windows)
        return alerts + windows

    def told(self, monitor, hour, version):
        if monitor == "data":  # faults of six hours
            begun = [h for h in (hour, hour - 6) if self.chance("fault", h) < 0.0005]
            changes = {"cause": "data", "status": "opened" if begun == [hour] else "resolved"}
            return alert(hour / 24, f"fault-{begun[0]}", monitor, version, **changes) if begun else None
        if self.chance(hour, monitor) > 0.1:
            return None
        severity = "critical" if self.chance("severity", hour) < 0.3 else "warning"
        status = "resolved" if self.chance("resolved", hour, monitor) < 0.3 else "opened"
        incident = f"{monitor}-{version}-{hour // 24 // 28}"
        return alert(hour / 24, incident, monitor, version, severity=severity, status=status)


class CrashError(Exception):
    pass


def play(world, crashes=(), shuffled=False):
    """Run the world; crash after so many records have been published, then start over from the topics."""
    crashes = list(crashes)
    wall_ms = 0

    def feed(controller, inputs):
        take = {
            "drift.windows": controller.on_window,
            "drift.alerts": controller.on_alert,
            "submissions": controller.on_submission,
            "models.decisions": controller.on_decision,
        }
        for name, record in inputs:
            publish(take[name](record, wall_ms))

    def publish(records):
        for each in records:
            if crashes and len(world.published) >= crashes[0]:
                crashes.pop(0)
                raise CrashError
            world.published.append(each)

    def live():
        nonlocal wall_ms
        controller = Controller(Settings("delay"), POLICY)
        topics = ("retraining.events", "models.control")
        controller.recover(*([e.record for e in world.published if e.topic == name] for name in topics))
        if controller.first_due_ms is None:
            publish(controller.start(START_MS))
        order = ("drift.alerts", "submissions", "models.decisions", "drift.windows")
        feed(controller, sorted(world.inputs, key=lambda e: order.index(e[0])) if shuffled else world.inputs)
        while (found := world.turn()) is not None:
            feed(controller, found)
            wall_ms += 500

    while True:
        try:
            live()
        except CrashError:
            wall_ms += 5000
        else:
            return world.published


def lasting(published):
    """What outlives the horizon's steps: events and changes of model."""
    return [each.record for each in published if each.record.get("action") != "hold"]


@pytest.mark.parametrize("nature", range(12))
def test_any_history_keeps_its_promises(nature):
    published = play(World(nature, 0))
    events = [each.record for each in published if each.topic == "retraining.events"]
    assert len(events) > 2
    assert len({each["incident_id"] for each in events}) == len(events)
    horizon_ms = -1
    by_id = {each["incident_id"]: each for each in events}
    for each in published:
        if each.topic == "models.control":
            assert each.record["watermark"] > horizon_ms, "the horizon only moves on"
            assert each.record["event_time"] > horizon_ms or each.record["event_time"] == 0, "no change in the past"
            if each.record["action"] == "promote":
                assert each.record["event_time"] == by_id[each.record["incident_id"]]["effective_from"]
            horizon_ms = each.record["watermark"]
    assert horizon_ms >= at(180), "traffic was never stuck"
    for before, after in itertools.pairwise(events):
        assert after["event_time"] - before["event_time"] >= POLICY.cool_down_ms
        assert after["effective_from"] - after["event_time"] <= POLICY.lead_ms


@pytest.mark.parametrize("nature", range(8))
def test_the_same_traffic_is_decided_alike_however_fast_anything_is(nature):
    usual = lasting(play(World(nature, 0)))
    for seed in range(1, 6):
        assert lasting(play(World(nature, seed))) == usual


def test_a_crash_anywhere_changes_nothing():
    usual = play(World(3, 0, 110))
    for count in range(len(usual)):
        assert play(World(3, 0, 110), [count]) == usual, f"killed before record {count}"


@pytest.mark.parametrize("seed", range(20))
def test_many_crashes_and_any_order_of_topics_on_recovery(seed):
    usual = lasting(play(World(seed, 0)))
    chosen = random.Random(seed)
    crashes = sorted(chosen.sample(range(45), 8)) * chosen.choice((1, 2))
    assert lasting(play(World(seed, 0), sorted(crashes), shuffled=True)) == usual


def test_the_policy_counts_not_the_code():
    policy = dataclasses.replace(POLICY, retrain=(), cool_down_ms=30 * DAY_MS)
    controller = Controller(Settings("delay"), policy)
    controller.start(START_MS)
    controller.on_alert(alert(51, version="prior"))
    assert [each.record["monitor"] for each in judged(controller, 51) if "monitor" in each.record] == ["bootstrap"]
