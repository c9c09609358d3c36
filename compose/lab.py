"""What another policy would have done with traffic that is over, and what that would have been worth.

Decisions are those of the control loop's own code. What is not run again is the training: the versions that answered
are those that really did, so alerts are about them, whatever the policy that is tried would have put in their place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from compose.local.home import PlatformError
from compose.past import Past, References
from jobs.retraining.loop import BOOTSTRAP, EVENTS, Controller, Settings, bootstrap_id
from monitors.hindsight import MEASURES, Days, Decline, Outcome, Reign, declines, judge, outcome
from monitors.policy import Policy, Retraining, State, Version, earliest_retraining_ms
from monitors.thresholds import DAY_MS

__all__ = ["Found", "decide_again", "look_back", "try_policy"]

MONTH_MS = 30 * DAY_MS


def decide_again(past: Past, policy: Policy) -> list[Mapping[str, Any]]:
    """The retraining events that the control loop would have published after those of the first model.

    Parameters
    ----------
    past : Past
    policy : Policy
    """
    controller = Controller(Settings(past.model, live=True), policy)
    told = {"model": past.model, "uri": "", "watermark": None, "action": "rollback"}  # whatever put them there
    controller.recover(
        [
            {"model": past.model, "incident_id": bootstrap_id(past.model, number), "monitor": BOOTSTRAP}
            | {"event_time": at_ms, "effective_from": past.first_model_ms}
            for number, at_ms in enumerate(_first_trainings(past, policy))
        ],
        [told | {"version": each.version, "event_time": each.from_ms} for each in past.versions],
    )
    controller.start(past.start_ms)
    published = [each for alert in past.alerts for each in controller.on_alert(alert.record())]
    for monitor, end_ms in past.windows:
        published += controller.on_window({"model": past.model, "monitor": monitor, "window_end": end_ms})
    return [each.record for each in published if each.topic == EVENTS]


def _first_trainings(past: Past, policy: Policy) -> list[int]:
    """When the first model was asked for, once or more; where that is not known, as long before as the policy says."""
    known = [at_ms for monitor, at_ms in past.retrainings if monitor == BOOTSTRAP]
    return known or [past.first_model_ms - policy.bootstrap_gap_ms]


@dataclass(frozen=True)
class Found:
    """What came of it.

    Attributes
    ----------
    events : tuple of mapping
        Retraining events of the policy.
    declines : tuple of Decline
    outcomes : dict of str to Outcome
        Of the ``policy``, of what ``was`` asked for in fact, and of retraining ``always``, ``never`` and ``monthly``.
    """

    events: tuple[Mapping[str, Any], ...]
    declines: tuple[Decline, ...]
    outcomes: dict[str, Outcome]


def try_policy(past: Past, references: References, policy: Policy, start_ms: int, end_ms: int) -> Found:
    """What a policy would have done and what that was worth, beside what was done, and three that ask nobody.

    ``always`` retrains as often as the policy's cool-down and budget of 30 days allow, ``monthly`` every 30 days from
    the first model on.

    Parameters
    ----------
    past : Past
    references : callable of str to Reference or None
    policy : Policy
        It is in force from the beginning, so that its cool-down is too.
    start_ms, end_ms : int
        Declines and retrainings in this span count.

    Raises
    ------
    PlatformError
        Where the span is empty.
    """
    if not start_ms < end_ms:
        traffic = " to ".join(
            f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d}" for at in (past.start_ms, past.end_ms)
        )
        raise PlatformError(f"Expected a span within the traffic of {past.model}, {traffic}; there is none left of it.")
    events = decide_again(past, policy)
    found = declines(look_back(past, references, policy.margin))
    times = {
        "policy": [each["event_time"] for each in events],
        "was": [at_ms for monitor, at_ms in past.retrainings if monitor != BOOTSTRAP],
        "always": _always(past, policy),
        "never": [],
        "monthly": list(range(past.first_model_ms + MONTH_MS, past.end_ms + 1, MONTH_MS)),
    }
    return Found(
        events=tuple(each for each in events if start_ms < each["event_time"] <= end_ms),
        declines=tuple(each for each in found if start_ms <= each.start_ms < end_ms),
        outcomes={name: outcome(found, at, policy.lead_ms, start_ms, end_ms) for name, at in times.items()},
    )


def _always(past: Past, policy: Policy) -> list[int]:
    first = [Retraining("", at_ms) for at_ms in _first_trainings(past, policy)]
    retrained = [*first]
    while (at_ms := earliest_retraining_ms(policy, State(retrained=tuple(retrained)))) <= past.end_ms:
        retrained.append(Retraining("", at_ms))
    return [each.event_time_ms for each in retrained[len(first) :]]


def look_back(past: Past, references: References, margin: float) -> Days:
    """Every week, by the labels of the version that was in charge."""
    first = past.start_ms // DAY_MS
    in_charge = [_at(past.versions, (day + 1) * DAY_MS - 1) for day in range(first, past.end_ms // DAY_MS)]
    edges = [0, *(np.flatnonzero(np.array(in_charge[1:]) != np.array(in_charge[:-1])) + 1).tolist(), len(in_charge)]
    labels, totals = np.zeros(len(in_charge), np.int64), np.zeros((len(in_charge), len(MEASURES)))
    reigns = []
    for start, end in pairwise(edges):
        reference = references(in_charge[start]) if end > start else None
        losses = past.losses.get(in_charge[start]) if reference is not None else None
        if reference is None or losses is None:
            continue
        reigns.append(Reign(start, end, reference.losses, reference.window_days))
        mine = losses.between((first + start) * DAY_MS, (first + end) * DAY_MS)
        at, columns = mine.tiles // DAY_MS - first, [mine.names.index(name) for name in MEASURES]
        labels[at] = mine.rows
        totals[at] = np.nan_to_num(mine.means[:, columns]) * mine.non_null[:, columns]
    return judge(first * DAY_MS, labels, totals, reigns, past.settings.rows_min, margin)


def _at(versions: Sequence[Version], time_ms: int) -> str:
    return State(versions=tuple(versions)).version_at(time_ms)
