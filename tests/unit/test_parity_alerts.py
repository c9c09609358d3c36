"""What a look at ourselves leads to."""

from features.comparison import Checked, Parity
from jobs.parity import Verification
from jobs.parity_alerts import MONITOR, STORE, alerts

HOUR = 3_600_000


def verification(hour: int, wrong: int = 0, stale: dict[str, int] | None = None, missing: int = 0) -> Verification:
    by_feature = {"origin__count": Checked(100, wrong, 0.5, 0.0), "tail__last": Checked(100, 0, 0.0, 0.0)}
    parity = Parity(200, wrong + missing, 0.5, missing, 0, by_feature)
    return Verification(100, parity, {}, stale or {}, "3", hour * HOUR, (hour + 1) * HOUR)


def test_what_is_wrong_opens_an_incident_of_ours_that_ends_when_it_is_right():
    told, said = [], []
    for hour, wrong in enumerate([0, 4, 4, 0]):
        found = alerts("delay", "p", verification(hour, wrong), told, 0.0)
        told += [each.record() for each in found]
        said += [(hour, each.status, each.cause) for each in found]
    assert said == [(1, "opened", "us"), (3, "resolved", "us")]
    (evidence,) = told[0]["evidence"]
    assert (evidence["column"], evidence["value"], evidence["share"]) == ("origin__count", 0.04, 1.0)
    assert told[0]["summary"].startswith("4 of 200 logged feature values")
    assert (told[0]["model_version"], told[0]["report"]) == ("3", None)


def test_rows_that_are_missing_are_told_though_no_value_is_wrong():
    (found,) = alerts("delay", "p", verification(0, missing=3), [], 0.0)
    assert "3 requests have no values" in found.summary
    assert found.evidence == ()


def test_a_store_behind_is_an_incident_of_its_own():
    (found,) = alerts("delay", "p", verification(0, stale={"origin": 60, "tail": 20, "weather": 1}), [], 0.05)
    assert (found.monitor, found.segment, found.cause) == (MONITOR, STORE, "us")
    assert [(each.column, each.value, each.share) for each in found.evidence] == [
        ("origin", 0.6, 0.75),
        ("tail", 0.2, 0.25),
    ]
    assert "60% of 100 requests" in found.summary


def test_what_the_threshold_lets_pass_is_let_pass():
    assert alerts("delay", "p", verification(0, 4, {"origin": 5}), [], 0.05) == []


def test_alerts_of_other_monitors_and_models_are_left_alone():
    (opened,) = alerts("delay", "p", verification(0, 1), [], 0.0)
    others = [opened.record() | {"monitor": "data"}, opened.record() | {"model": "fraud"}]
    assert alerts("delay", "p", verification(1), others, 0.0) == []
