"""Scores of drift by NannyML or Alibi Detect. A script of its own, in an environment of its own.

``uv run --no-project --isolated --with nannyml python compose/bench/contestants_script.py JSON``. Reads streams of
shape (streams, days, rows), writes scores of shape (streams, looks), each of a trailing window against the reference,
and prints ``{"seconds"}``, imports apart.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["main"]

Score = Callable[[Any], float]


def main(order: dict[str, Any]) -> dict[str, float]:
    """Score.

    Parameters
    ----------
    order : dict
        library (nannyml or alibi), files (of each: what to read, what to write, whether it holds texts),
        reference_days, window_days.
    """
    fit = {"nannyml": nannyml, "alibi": alibi}[order["library"]]()
    began = time.monotonic()
    days, width = order["reference_days"], order["window_days"]
    for source, target, text in order["files"]:
        streams = np.load(source, mmap_mode="r")
        found = np.empty((len(streams), streams.shape[1] - days - width + 1))
        for number, stream in enumerate(np.asarray(each) for each in streams):
            score = fit(stream[:days].ravel(), text)
            found[number] = [score(stream[i : i + width].ravel()) for i in range(days, len(stream) - width + 1)]
        np.save(target, found)
    return {"seconds": time.monotonic() - began}


def nannyml() -> Callable[[Any, bool], Score]:
    """Its univariate default for either kind: the Jensen-Shannon distance."""
    import pandas as pd
    from nannyml.chunk import DefaultChunker
    from nannyml.drift.univariate.methods import FeatureType, MethodFactory
    from nannyml.thresholds import ConstantThreshold

    def fit(reference: Any, text: bool) -> Score:
        kind = FeatureType.CATEGORICAL if text else FeatureType.CONTINUOUS
        method = MethodFactory.create(
            key="jensen_shannon",
            feature_type=kind,
            chunker=DefaultChunker(),
            threshold=ConstantThreshold(lower=None, upper=0.1),
        )
        method.fit(pd.Series(reference, name="x"))
        return lambda window: float(method.calculate(pd.Series(window)))

    return fit


def alibi() -> Callable[[Any, bool], Score]:
    """Its tests of a column: Kolmogorov-Smirnov of numbers, chi-square of texts.

    The score is the statistic, not its p-value: one tells the other while sizes stay the same, and p-values of
    single precision end at 1e-45.
    """
    from alibi_detect.cd import ChiSquareDrift, KSDrift

    def fit(reference: Any, text: bool) -> Score:
        detector = (ChiSquareDrift if text else KSDrift)(reference[:, None])
        return lambda window: float(detector.predict(window[:, None])["data"]["distance"][0])

    return fit


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))  # noqa: T201
