"""Two parquet files compared by Evidently as its documentation has it: ``evidently_script.py REFERENCE CURRENT``."""

import sys

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

__all__ = ["main"]


def main(reference: str, current: str) -> None:
    """Read, compare by the preset for drift, and have the result as a dictionary."""
    frames = [pd.read_parquet(each) for each in (reference, current)]
    numbers = DataDefinition(numerical_columns=list(frames[0].columns))
    sides = [Dataset.from_pandas(each, data_definition=numbers) for each in frames]
    report = Report([DataDriftPreset()])
    report.run(current_data=sides[1], reference_data=sides[0]).dict()


if __name__ == "__main__":
    main(*sys.argv[1:])
