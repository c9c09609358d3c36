"""Performance without labels by NannyML. A script of its own, in an environment of its own.

``uv run --no-project --isolated --with nannyml python compose/bench/nanny_script.py JSON``. CBPE as its documentation
has it: fitted to a labelled reference, then given later rows without labels, in chunks of weeks. Prints ``{"seconds",
"weeks", "estimates"}``: of fitting and estimating, imports apart; first days of the chunks; by measure a value a chunk.
"""

import json
import sys
import time
from typing import Any

__all__ = ["main"]

MEASURES = {"auc": "roc_auc", "accuracy": "accuracy", "f1": "f1"}


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Estimate.

    Parameters
    ----------
    order : dict
        reference, analysis (parquet files: time, score, label).
    """
    import nannyml
    import pandas as pd

    reference, analysis = (pd.read_parquet(order[name]) for name in ("reference", "analysis"))
    for frame in (reference, analysis):
        frame["predicted"] = (frame["score"] >= 0.5).astype(int)
    began = time.monotonic()
    estimator = nannyml.CBPE(
        problem_type="classification_binary",
        y_pred_proba="score",
        y_pred="predicted",
        y_true="label",
        timestamp_column_name="time",
        metrics=list(MEASURES.values()),
        chunk_period="W",
    )
    estimator.fit(reference)
    told = estimator.estimate(analysis.drop(columns="label")).filter(period="analysis").to_df()
    found = {name: [float(each) for each in told[(theirs, "value")]] for name, theirs in MEASURES.items()}
    starts = [str(each)[:10] for each in told[("chunk", "start_date")]]
    return {"seconds": time.monotonic() - began, "weeks": starts, "estimates": found}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))  # noqa: T201
