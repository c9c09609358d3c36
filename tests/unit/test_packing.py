"""What the drift job packs of a batch, as Flink hands it over: progress rows and heartbeats among the records."""

import numpy as np
import pandas as pd

from jobs.evaluation import packed_answers, packed_labels
from monitors.matching import ANSWER, LABEL, pack_answers, pack_labels


def test_answers_of_each_version_are_on_its_last_request() -> None:
    version = pd.Series(["prior", "1", "prior", "1", "1"])
    ids = pd.Series(["a", None, "b", "c", None])  # progress rows of version 1 come first and last
    found = packed_answers(version, ids, pd.Series([0.1, 0.2, 0.3, 0.4, 0.5]), pd.Series([1, 2, 3, 4, 5]))
    assert found.notna().tolist() == [False, False, True, True, False]
    assert found[2] == pack_answers(["a", "b"], [0.1, 0.3], [1000, 3000])
    assert found[3] == pack_answers(["c"], [0.4], [4000])


def test_labels_are_on_the_last_label_and_heartbeats_are_none() -> None:
    ids = pd.Series([None, "a", "b", None])
    found = packed_labels(ids, pd.Series([0, 1, 0, 0]), pd.Series([1, 2, 3, 4]))
    assert found.notna().tolist() == [False, False, True, False]
    assert found[2] == pack_labels(["a", "b"], [1, 0], [2000, 3000])


def test_a_batch_of_heartbeats_says_nothing() -> None:
    nothing = pd.Series([None, None], dtype=object)
    assert packed_labels(nothing, pd.Series([0, 0]), pd.Series([1, 2])).isna().all()
    assert packed_answers(pd.Series(["1", "1"]), nothing, pd.Series([0.1, 0.1]), pd.Series([1, 2])).isna().all()


def test_layouts_hold_what_was_packed() -> None:
    (answer,) = np.frombuffer(pack_answers(["a"], [0.25], [7]), ANSWER)
    (label,) = np.frombuffer(pack_labels(["a"], [1], [9]), LABEL)
    assert answer["request"] == label["request"]
    assert (answer["probability"], answer["time_ms"], label["positive"], label["time_ms"]) == (0.25, 7, 1, 9)
