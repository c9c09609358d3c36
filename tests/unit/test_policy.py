import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.policy import (
    Policy,
    PolicyError,
    Retraining,
    State,
    Version,
    decide,
    earliest_retraining_ms,
    load_policy,
    quarantine_spans,
)

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
TRAINED = State(versions=(Version("prior", 0), Version("1", 31 * DAY_MS)))


def alert(day=50.0, **changes):
    return {
        "incident_id": "a",
        "status": "opened",
        "severity": "warning",
        "cause": "world",
        "model": "delay",
        "model_version": "1",
        "monitor": "performance",
        "segment": "",
        "window_start": round((day - 7) * DAY_MS),
        "window_end": round(day * DAY_MS),
        "summary": "The model no longer fits its labels.",
        **changes,
    }


def test_the_default_policy_is_readable_and_complete():
    policy = load_policy()
    assert policy.bootstrap_after_ms == 31 * DAY_MS
    assert policy.cool_down_ms == 28 * DAY_MS
    assert policy.lead_ms == 7 * DAY_MS
    assert set(policy.retrain) < set(policy.expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "expected names with values"),
        ("lead: 4 d", "version: expected a text that names"),
        ("version: 1", "version: expected a text"),
        ("version: a\nlead: 4", "lead: expected a duration such as '14 d'"),
        ("version: a\nlead: soon", "lead: expected a duration such as '14 d'"),
        ("version: a\nlaed: 4 d", "the file: expected only .*lead.*, got 'laed'"),
        ("version: a\nlead_ms: 4", "got 'lead_ms'"),
        ("version: a\nmonitors: {retrain: all}", "monitors.retrain: expected a list of names"),
        ("version: a\nquarantine: {cause: [data]}", "quarantine: expected only after, before, causes, settle"),
        ("version: a\nquarantine: {causes: [weather]}", "causes: expected some of"),
        ("version: a\nquarantine: {severity_min: dire}", "quarantine.severity_min: expected one of"),
        ("version: a\nmargin: -1", "margin: expected a number not below zero, got -1"),
        ("version: a\nmargin: .nan", "margin: expected a number not below zero"),
        ("version: a\ncool_down: 1 d", "cool_down: expected at least lead and bootstrap_gap"),
        ("version: a\nconcurrency: 2", "concurrency: expected 1"),
        ("version: a\nretrain_max_30d: true", "retrain_max_30d: expected a whole number, got True"),
        ("version: [", "expected a policy in YAML"),
    ],
)
def test_a_bad_policy_says_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=message) as caught:
        load_policy(file)
    assert str(file) in str(caught.value)


def test_a_missing_policy_says_so(tmp_path):
    with pytest.raises(PolicyError, match=r"no\.yaml: expected a policy in YAML, got .*No such file"):
        load_policy(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("changes", "action", "reason"),
    [
        ({}, "retrain", "no longer fits"),
        ({"summary": ""}, "retrain", "performance drifted"),
        ({"status": "resolved"}, "ignore", "resolved"),
        ({"cause": "data"}, "quarantine", "kept out"),
        ({"cause": "us"}, "quarantine", "kept out"),
        ({"cause": "data", "severity": "info"}, "ignore", "retraining cannot help"),
        ({"monitor": "data"}, "ignore", "may not retrain"),
        ({"severity": "info"}, "ignore", "below warning"),
        ({"model_version": "0"}, "ignore", "about version 0, but 1 answers"),
    ],
)
def test_what_an_alert_is_decides(changes, action, reason):
    decision = decide(load_policy(), TRAINED, alert(**changes))
    assert decision.action == action
    assert reason in decision.reason


def test_the_prior_is_not_retrained():
    assert decide(load_policy(), State(), alert(20, model_version="prior")).action == "hold"


def test_an_incident_has_one_retraining_ever():
    state = dataclasses.replace(TRAINED, retrained=(Retraining("a", 32 * DAY_MS),))
    assert decide(load_policy(), state, alert(300)).reason == "this incident has had its retraining"


def test_a_model_cools_down_in_event_time():
    policy = dataclasses.replace(load_policy(), cool_down_ms=14 * DAY_MS)
    state = dataclasses.replace(TRAINED, retrained=(Retraining("b", 40 * DAY_MS),))
    assert decide(policy, state, alert(53.9)).action == "hold"
    assert decide(policy, state, alert(54)).action == "retrain"
    # The same incident, still open, at a later look.
    assert decide(policy, state, alert(53.9), at_ms=54 * DAY_MS).action == "retrain"


def test_a_later_retraining_does_not_reach_back():
    state = dataclasses.replace(TRAINED, retrained=(Retraining("b", 60 * DAY_MS),))
    assert decide(load_policy(), state, alert(50)).action == "retrain"


def test_an_incident_has_to_last_for_the_debounce_time():
    policy = dataclasses.replace(load_policy(), debounce_ms=2 * DAY_MS)
    assert decide(policy, TRAINED, alert(50)).action == "hold"
    assert decide(policy, TRAINED, alert(50), at_ms=52 * DAY_MS).action == "retrain"


def test_nothing_retrains_on_the_effect_of_a_fault():
    state = dataclasses.replace(TRAINED, faults=((48 * DAY_MS, 50 * DAY_MS),))
    assert decide(load_policy(), state, alert(50)).action == "hold"
    assert decide(load_policy(), state, alert(56.9)).action == "hold"
    assert decide(load_policy(), state, alert(57)).action == "retrain"


def test_the_budget_of_thirty_days():
    policy = dataclasses.replace(load_policy(), lead_ms=4 * DAY_MS, cool_down_ms=4 * DAY_MS, retrain_max_30d=2)
    state = dataclasses.replace(TRAINED, retrained=(Retraining("b", 40 * DAY_MS), Retraining("c", 45 * DAY_MS)))
    assert earliest_retraining_ms(policy, state) == 70 * DAY_MS
    assert decide(policy, state, alert(69.9)).action == "hold"
    assert decide(policy, state, alert(70)).action == "retrain"


@given(st.lists(st.integers(32, 200), max_size=8), st.integers(32, 260))
def test_what_earliest_promises_is_what_decide_does(days, at):
    """The horizon rests on it: before `earliest` nothing is accepted, from then on everything may be."""
    policy = dataclasses.replace(load_policy(), lead_ms=4 * DAY_MS, cool_down_ms=5 * DAY_MS)
    retrained = tuple(Retraining(str(i), day * DAY_MS) for i, day in enumerate(sorted(days)) if day <= at)
    state = dataclasses.replace(TRAINED, retrained=retrained)
    accepted = decide(policy, state, alert(at)).action == "retrain"
    assert accepted == (at * DAY_MS >= earliest_retraining_ms(policy, state))


def test_spans_in_quarantine():
    policy = Policy("p")
    faulty = {"cause": "data", "monitor": "data"}
    alerts = [
        alert(50, **faulty, window_start=49 * DAY_MS),
        alert(51, **faulty, incident_id="b", window_start=50 * DAY_MS),
        alert(52, **faulty, status="resolved", window_start=49 * DAY_MS),
        alert(60),
        alert(70, **faulty, incident_id="c", window_start=69 * DAY_MS),
    ]
    begin = 49 * DAY_MS - 6 * HOUR_MS
    assert quarantine_spans(policy, alerts, 49 * DAY_MS) == ()
    assert quarantine_spans(policy, alerts, 50 * DAY_MS) == ((begin, 50 * DAY_MS),)
    # b is still open: everything since is suspect.
    assert quarantine_spans(policy, alerts, 55 * DAY_MS) == ((begin, 55 * DAY_MS),)
    alerts.insert(3, alert(53, **faulty, incident_id="b", status="resolved", window_start=50 * DAY_MS))
    assert quarantine_spans(policy, alerts, 69 * DAY_MS) == ((begin, 54 * DAY_MS),)
    assert quarantine_spans(policy, alerts, 70 * DAY_MS) == (
        (begin, 54 * DAY_MS),
        (69 * DAY_MS - 6 * HOUR_MS, 70 * DAY_MS),
    )
