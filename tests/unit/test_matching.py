"""Answers and labels find one another whatever the order and the batches they come in."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.matching import ANSWER, WAIT_MS, Matcher, pack_answers, pack_labels

HOUR_MS = 3_600_000


def traffic(count: int, seed: int) -> pd.DataFrame:
    """Requests of two versions, each with a label hours later but for every tenth."""
    random = np.random.default_rng(seed)
    asked = np.sort(random.integers(0, 72 * HOUR_MS, count))
    return pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(count)],
            "version": np.where(asked < 36 * HOUR_MS, "1", "2"),
            "asked_ms": asked,
            "label_ms": asked + random.integers(0, 9 * HOUR_MS, count),
            "p": random.random(count),
            "positive": random.integers(0, 2, count),
            "comes": np.arange(count) % 10 > 0,
        }
    )


def matched(matches: list) -> list[tuple[str, float, int, int]]:
    return sorted(
        (each.version, p, y, t)
        for each in matches
        for p, y, t in zip(each.probability.tolist(), each.positive.tolist(), each.time_ms.tolist(), strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=12), first=st.booleans())
def test_any_batches_in_any_order_give_the_same_matches(seed: int, cuts: list[int], first: bool) -> None:
    frame, matcher, found = traffic(120, seed), Matcher(), []
    labels = frame[frame["comes"]].sort_values("label_ms")
    batches: list[tuple[str, pd.DataFrame]] = []
    for kind, rows in (("answers", frame), ("labels", labels)):
        start = 0
        for size in [*cuts, len(rows)]:
            batches.append((kind, rows.iloc[start : start + size]))
            start += size
    order = np.random.default_rng(seed).permutation(len(batches)) if first else np.arange(len(batches))[::-1]
    for at in order:
        kind, rows = batches[at]
        if kind == "labels":
            found += matcher.add_labels(pack_labels(rows["id"], rows["positive"], rows["label_ms"]))
            continue
        for version, mine in rows.groupby("version"):
            found += matcher.add_answers(str(version), pack_answers(mine["id"], mine["p"], mine["asked_ms"]))
        matcher = Matcher(*matcher.state())  # a worker that died and came back
    expected = sorted(labels[["version", "p", "positive", "label_ms"]].itertuples(index=False, name=None))
    assert matched(found) == expected


def test_what_waits_too_long_is_forgotten() -> None:
    matcher = Matcher()
    matcher.add_answers("1", pack_answers(["a", "b"], [0.1, 0.2], [0, HOUR_MS]))
    matcher.add_labels(pack_labels(["x", "y"], [1, 0], [HOUR_MS, 3 * HOUR_MS]))
    matcher.forget(WAIT_MS)
    answers, labels = matcher.state()
    assert list(answers) == ["1"]
    assert len(answers["1"]) == ANSWER.itemsize  # b alone
    assert labels == b""


def test_a_label_waits_for_its_answer_until_the_watermark_has_passed_it() -> None:
    matcher = Matcher()
    matcher.add_labels(pack_labels(["a", "b"], [1, 0], [HOUR_MS, 3 * HOUR_MS]))
    matcher.forget(2 * HOUR_MS)
    assert matcher.add_answers("1", pack_answers(["a"], [0.5], [0])) == []
    (match,) = matcher.add_answers("1", pack_answers(["b"], [0.25], [0]))
    assert (match.probability.tolist(), match.positive.tolist()) == ([0.25], [0])


def test_a_match_has_the_segments_of_its_answers() -> None:
    matcher = Matcher()
    matcher.add_answers("1", pack_answers(["a", "b", "c"], [0.1, 0.2, 0.3], [0, 0, 0], [7, 0, 3]))
    (match,) = Matcher(*matcher.state()).add_labels(pack_labels(["c", "a"], [1, 0], [1, 2]))
    assert sorted(zip(match.probability.tolist(), match.segment.tolist(), strict=True)) == [(0.1, 7), (0.3, 3)]


def test_a_label_counts_once() -> None:
    matcher = Matcher()
    matcher.add_answers("1", pack_answers(["a"], [0.5], [0]))
    assert len(matcher.add_labels(pack_labels(["a", "a"], [1, 1], [1, 2]))) == 1
    assert matcher.add_labels(pack_labels(["a"], [1], [3])) == []


def test_ids_are_hashed_alike_everywhere() -> None:
    # A replica in another region must match what was packed here: the bytes are fixed for all time.
    assert pack_labels(["AA1-JFK-20130101T1000Z"], [1], [7]).hex() == "4f4f339b0988357807000000000000000100000000000000"
