"""What people may ask of an incident, and what they are told where they may not."""

from datetime import UTC, datetime, timedelta

import pytest

from compose.local.home import PlatformError
from compose.people import again, asked_for
from monitors.policy import load_policy

POLICY = load_policy()
AT = datetime(2013, 5, 1, tzinfo=UTC)
AT_MS = round(AT.timestamp() * 1000)


def told(**topics):
    return {name: [] for name in ("drift.alerts", "retraining.events", "submissions")} | {
        name.replace("_", "."): some for name, some in topics.items()
    }


def alert(day=0):
    return {"incident_id": "a", "model": "delay", "monitor": "features", "window_end": AT + timedelta(days=day)}


def event(incident_id="a"):
    return {
        "incident_id": incident_id, "model": "delay", "monitor": "features", "reason": "drift", "policy": "1",
        "event_time": AT, "effective_from": AT + timedelta(days=4),
    }  # fmt: skip


def submission(status, incident_id="a"):
    return {"incident_id": incident_id, "status": status, "detail": "no memory"}


def test_an_incident_is_asked_for_at_the_end_of_its_newest_window():
    found = asked_for(told(drift_alerts=[alert(2), alert(1)]), "a", POLICY)
    day_ms = 86_400_000
    assert (found["incident_id"], found["event_time"]) == ("a", AT_MS + 2 * day_ms)
    assert found["effective_from"] == found["event_time"] + POLICY.lead_ms


def test_it_is_asked_for_once_and_not_without_an_alert():
    with pytest.raises(PlatformError, match="already"):
        asked_for(told(drift_alerts=[alert()], retraining_events=[event()]), "a", POLICY)
    with pytest.raises(PlatformError, match="no alert"):
        asked_for(told(), "a", POLICY)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_another_try_is_an_incident_of_its_own(status):
    records = told(retraining_events=[event()], submissions=[submission("accepted"), submission(status)])
    first = again(records, "a")
    assert first == again(records, "a"), "whoever asks"
    assert first["incident_id"] != "a"
    assert first["event_time"] == AT_MS
    assert status in first["reason"]
    records["retraining.events"].append(event(first["incident_id"]))
    with pytest.raises(PlatformError, match="not settled"):
        again(records, "a")
    records["submissions"].append(submission("failed", first["incident_id"]))
    assert again(records, "a")["incident_id"] not in ("a", first["incident_id"])


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (told(), "never tried"),
        (told(retraining_events=[event()]), "not settled"),
        (told(retraining_events=[event()], submissions=[submission("failed"), submission("succeeded")]), "succeeded"),
    ],
)
def test_what_has_not_failed_is_not_tried_again(records, said):
    with pytest.raises(PlatformError, match=said):
        again(records, "a")
