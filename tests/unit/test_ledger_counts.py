"""What the ledger and the incidents say of what was read, without a broker."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compose.control import fold, milliseconds
from compose.demo.keys import OFFSET_BITS, Aside, TopicKeys, is_aside
from compose.demo.ledger import LATEST_VIEWS, Hop, Ledger

START = datetime(2013, 2, 1, tzinfo=UTC)


def ledger(*hops: Hop) -> Ledger:
    return Ledger(
        events={"flights.requests": 3, "flights.arrivals": 2}, requests=3, predictions=3, labels=2,
        feature_rows={"origin": 4, "tail": 2}, dead_letters=0, late=0, alerts=0, incidents=0, submissions=0,
        promotions=0, refusals=0, scheduled=0, hops=hops, seconds=0.1,
    )  # fmt: skip


def test_totals_are_sums_over_the_hops() -> None:
    whole = ledger(Hop("a", 3, 2, missing=1), Hop("b", 3, 3, surplus=2, duplicates=4), Hop("c", 1, 0, dead=1))
    assert (whole.unaccounted, whole.duplicates) == (3, 4)
    told = whole.as_dict()
    assert (told["events"], told["feature_rows"]) == (5, 6)
    assert (told["events_by_topic"]["flights.arrivals"], told["feature_rows_by_view"]["tail"]) == (2, 2)
    assert (told["unaccounted"], told["duplicates"]) == (3, 4)


def test_repeated_means_the_same_key_at_the_same_time() -> None:
    records = [b"a", b"a", b"b", b"a", b"b"]
    times = np.array([1, 2, 1, 1, 1], np.int64)
    found = TopicKeys(records, times, np.arange(5), 5, 2)
    assert found.repeated() == 2  # the second (a, 1) and the second (b, 1)
    assert found.without_records().count == 5


def test_places_keep_partitions_apart() -> None:
    aside = Aside({("t", 0, 7), ("t", 1, 7), ("u", 0, 1)}, {("t", 0, 9)})
    dead, late = aside.places("t")
    assert dead.tolist() == [7, (1 << OFFSET_BITS) + 7]
    assert late.tolist() == [9]


@pytest.mark.parametrize(
    ("name", "aside"), [("a.dlq", True), ("a.late", True), ("flights.requests", False), ("dlq", False)]
)
def test_side_topics_are_known_by_their_name(name: str, aside: bool) -> None:
    assert is_aside(name) is aside


@pytest.mark.filterwarnings("ignore")
def test_latest_views_are_those_of_the_repo_without_windows() -> None:
    from features.compiler.repo import load_repo

    views = load_repo(Path(__file__).parents[2] / "features").views
    assert {name for name, view in views.items() if not view.aggregations} == LATEST_VIEWS


def told(incident_id: str, **more: Any) -> dict[str, Any]:
    return {"incident_id": incident_id, "model": "delay", "event_time": START} | more


def test_the_first_model_is_no_incident_of_an_alert() -> None:
    (found,) = fold(
        {
            "retraining.events": [told("boot", monitor="bootstrap", reason="due", effective_from=START)],
            "submissions": [
                told("boot", status="intent", submission_id=None),
                told("boot", status="accepted", submission_id="run"),
            ],
        }
    )
    assert (found.kind, found.monitor, found.summary, found.alerts) == ("scheduled", "bootstrap", "due", 0)
    assert (found.submission, found.submission_ids, found.decision) == ("accepted", ("run",), None)
    assert found.opened_ms == milliseconds(START)


def test_incidents_stand_in_the_order_they_opened() -> None:
    events = [
        told(name, monitor="m", reason="", effective_from=START, event_time=START + timedelta(days=days))
        for name, days in (("later", 2), ("first", 0), ("between", 1))
    ]
    assert [each.incident_id for each in fold({"retraining.events": events})] == ["first", "between", "later"]


def test_a_refusal_promotes_nothing() -> None:
    decision = told("i", decision="refused", challenger_version="4", champion_version="3")
    (found,) = fold({"models.decisions": [decision]})
    assert found.promoted_version is None
    assert found.decision is not None
    assert found.decision["event_time"] == milliseconds(START)
