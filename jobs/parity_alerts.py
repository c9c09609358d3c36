"""Alerts about ourselves: features that are not what their definitions say, and a store that has fallen behind.

What the monitors of the stream hold against a reference is what the platform made of the world. Whether it made it
rightly they cannot see; :mod:`jobs.parity` can. What is wrong there is no reason to retrain, since a model would learn
it: the policy keeps the span out of training sets.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from jobs.kafka import Publish
from jobs.parity import Verification
from monitors.incidents import Alert, Evidence, Finding, IncidentBook, Patience

__all__ = ["MONITOR", "STORE", "alerts", "publications"]

MONITOR: Final = "parity"
STORE: Final = "online store"
"""Segment of incidents of rows that are older than they have to be."""
_PATIENCE: Final = Patience()


def alerts(
    model: str, policy: str, found: Verification, told: Iterable[Mapping[str, Any]], threshold: float
) -> list[Alert]:
    """What a verification leads to: incidents that open, go on to other features or views, or are over.

    Parameters
    ----------
    model, policy : str
        Name of the model, version of its policy.
    found : Verification
    told : iterable of mapping
        Records of ``drift.alerts`` so far, in their order; those of other monitors are left alone.
    threshold : float
        Share of values that may differ, and of requests that may be given a row that is older than it has to be.
    """
    book = IncidentBook.of_alerts(model, policy, (each for each in told if each["monitor"] == MONITOR))
    window, given = (found.start_ms, found.end_ms), []
    findings = {"": _differences(found, threshold)}
    if found.stale:
        findings[STORE] = _behind(found, threshold)
    for segment, finding in findings.items():
        given += book.judge(found.model_version, MONITOR, segment, window, finding, _PATIENCE)
    return [replace(each, report=None) for each in given]  # distributions have nothing to show here


def publications(given: Iterable[Alert]) -> list[Publish]:
    """The records of alerts."""
    return [Publish("drift.alerts", each.record()) for each in given]


def _differences(found: Verification, threshold: float) -> Finding:
    parity = found.parity
    wrong = {name: each for name, each in parity.by_feature.items() if each.mismatches}
    if not parity.exceeds(threshold):
        return Finding(False)
    evidence = tuple(
        Evidence(name, "mismatches", each.mismatches / each.compared, threshold, each.mismatches / parity.mismatches)
        for name, each in sorted(wrong.items(), key=lambda entry: -entry[1].mismatches)
    )
    rows = f" {parity.missing:,} requests have no values." if parity.missing else ""
    named = f", most of {evidence[0].column}" if evidence else ""
    summary = (
        f"{parity.mismatches:,} of {parity.compared:,} logged feature values are not what their definitions say{named}."
        f"{rows} `headwater verify` shows some."
    )
    return Finding(True, "critical", "us", summary, evidence)


def _behind(found: Verification, threshold: float) -> Finding:
    late = found.behind(threshold)
    if not late:
        return Finding(False)
    evidence = tuple(
        Evidence(view, "stale_rows", count / found.requests, threshold, count / sum(late.values()))
        for view, count in sorted(late.items(), key=lambda entry: -entry[1])
    )
    first = evidence[0]
    summary = (
        f"The online store is behind the stream: {first.value:.0%} of {found.requests:,} requests were given rows of "
        f"{first.column} though newer ones were due. `headwater status` tells whether its pusher runs."
    )
    return Finding(True, "critical", "us", summary, evidence)
