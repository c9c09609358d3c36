"""Whether whole rows tell two samples apart: a classifier is trained to, and judged on rows it has not seen.

Columns that each look as before may go together differently: no statistic of one column shows that, and this does (the
two-sample test by classification of Lopez-Paz and Oquab, 2017).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import norm, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from monitors.buckets import Floats

__all__ = ["Domain", "tell_apart"]

FOLDS: Final = 5
ROWS_MIN: Final = 50
_CATEGORIES: Final = 250
_Z95: Final = 1.959963984540054
_SETTINGS: Final[Mapping[str, Any]] = {"max_iter": 60, "learning_rate": 0.1, "max_leaf_nodes": 15}


@dataclass(frozen=True)
class Domain:
    """How well rows tell the samples apart.

    Attributes
    ----------
    auc : float
        Of rows the classifier has not seen; 0.5 where nothing does.
    bound : float
        How far that of all rows is from it at most, in 95 samples of 100 (Hanley and McNeil, 1982).
    p_value : float
        Chance of as much where nothing differs: the rank sum test of Wilcoxon, stratified by fold (van Elteren, 1960).
        Exact in its level, since within a fold scores know nothing of which sample a row is of.
    columns : mapping of str to float
        By how much the AUC falls where a column is shuffled; those that matter most first.
    """

    auc: float
    bound: float
    p_value: float
    columns: Mapping[str, float]


def tell_apart(
    reference: pd.DataFrame, current: pd.DataFrame, categorical: Sequence[str] = (), seed: int = 0
) -> Domain:
    """Tell rows of one sample from those of another.

    Parameters
    ----------
    reference, current : DataFrame
        The same columns; numbers, or texts where `categorical` names them.
    categorical : sequence of str
    seed : int
        Of the folds, the classifier and the shuffling.

    Raises
    ------
    ValueError
        Where a sample has fewer than 50 rows.
    """
    if min(len(reference), len(current)) < ROWS_MIN:
        raise ValueError(f"expected {ROWS_MIN} rows of either sample, got {len(reference)} and {len(current)}")
    # One thread: on a machine that does anything else, several take many times as long.
    with threadpool_limits(1):
        return _told_apart(reference, current, categorical, seed)


def _told_apart(reference: pd.DataFrame, current: pd.DataFrame, categorical: Sequence[str], seed: int) -> Domain:
    rng = np.random.default_rng(seed)
    rows = _matrix(pd.concat([reference, current], ignore_index=True), categorical)
    label = np.repeat([0, 1], [len(reference), len(current)])
    # Every fold has its share of either sample.
    fold = np.concatenate([rng.permutation(np.arange(len(each)) % FOLDS) for each in (reference, current)])
    chosen = [name in categorical for name in reference.columns]
    tests: list[tuple[float, float, float, int]] = []
    lost = np.zeros(rows.shape[1])
    for number in range(FOLDS):
        seen, held = fold != number, fold == number
        model = HistGradientBoostingClassifier(categorical_features=chosen, random_state=seed, **_SETTINGS)
        model.fit(rows[seen], label[seen])
        score = model.predict_proba(rows[held])[:, 1]
        tests.append(_rank_sum(score, label[held]))
        lost += _lost(model, rows[held], label[held], tests[-1][0], rng)
    weight = np.array([each[3] for each in tests])
    auc = float(np.average([each[0] for each in tests], weights=weight))
    off, variance = sum(each[1] for each in tests), sum(each[2] for each in tests)
    p_value = float(norm.sf(off / math.sqrt(variance))) if variance > 0 else 1.0
    names = [str(name) for name in reference.columns]
    order = sorted(range(len(names)), key=lambda i: -lost[i])
    return Domain(
        auc, _bound(auc, len(reference), len(current)), p_value, {names[i]: float(lost[i] / FOLDS) for i in order}
    )


def _matrix(frame: pd.DataFrame, categorical: Sequence[str]) -> Floats:
    """Numbers; of a categorical column codes, the most frequent first, the rare ones together."""
    columns = []
    for name in frame.columns:
        if name in categorical:
            texts = frame[name].astype(object)
            order = {text: i for i, text in enumerate(texts.value_counts().index)}
            codes = texts.map(order).to_numpy(float)
            columns.append(np.minimum(codes, _CATEGORIES - 1))
        else:
            columns.append(frame[name].to_numpy(float))
    return np.column_stack(columns)


def _rank_sum(score: Floats, label: npt.NDArray[np.int64]) -> tuple[float, float, float, int]:
    """AUC; how far the rank sum is from what chance has, and its variance, each by the number of rows; pairs."""
    rank = rankdata(score)
    ones, rows = int(label.sum()), len(label)
    zeros = rows - ones
    off = float(rank[label == 1].sum()) - ones * (rows + 1) / 2
    variance = ones * zeros / (rows * (rows - 1)) * float(((rank - (rows + 1) / 2) ** 2).sum())
    return 0.5 + off / (ones * zeros), off / (rows + 1), variance / (rows + 1) ** 2, ones * zeros


def _lost(model: Any, rows: Floats, label: npt.NDArray[np.int64], auc: float, rng: np.random.Generator) -> Floats:
    """AUC lost by shuffling each column."""
    found = np.zeros(rows.shape[1])
    for column in range(rows.shape[1]):
        shuffled = rows.copy()
        shuffled[:, column] = rng.permutation(shuffled[:, column])
        found[column] = auc - _rank_sum(model.predict_proba(shuffled)[:, 1], label)[0]
    return found


def _bound(auc: float, zeros: int, ones: int) -> float:
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (ones - 1) * (one - auc**2) + (zeros - 1) * (two - auc**2)) / (zeros * ones)
    return _Z95 * math.sqrt(max(variance, 0.0))
