"""Models as ONNX, scored a batch at a time.

Only ONNX is ever loaded: a pickle runs code when it is read, and scanners miss hostile ones.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd

from jobs.kafka import TopicLog
from jobs.segmenting import segmentation_of
from monitors.segments import Segmentation

__all__ = ["PRIOR", "ModelLog", "Scorer", "model_matrix"]

CONTROL = "models.control"

PRIOR = "prior"
# What the prior says before the first outcome is known.
PRIOR_UNKNOWN = 0.5


def model_matrix(frame: pd.DataFrame, card: dict[str, Any]) -> npt.NDArray[np.float32]:
    """A frame as a model reads it.

    Parameters
    ----------
    frame : DataFrame
        A column for each of ``card["columns"]``.
    card : dict
        ``columns``: names in order; ``categories``: of the categorical ones, the number of each text. A text that
        training has not seen, like a null, is NaN.

    Returns
    -------
    ndarray of float32, shape (n, columns)
    """
    columns = []
    for name in card["columns"]:
        known = card["categories"].get(name)
        values = frame[name] if known is None else frame[name].map(known)
        columns.append(pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float32, na_value=np.nan))
    return np.column_stack(columns) if columns else np.zeros((len(frame), 0), np.float32)


class ModelLog:
    """Which version answers when, as ``models.control`` says so far.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    model : str

    Raises
    ------
    jobs.kafka.BrokerError
        Where the topic cannot be read.
    """

    def __init__(self, kafka: str, model: str) -> None:
        self._model = model
        self._log = TopicLog(kafka, (CONTROL,))
        self._from_ms, self._versions, self._uris = [-(2**62)], [PRIOR], [""]
        self._take(self._log.to_end())

    def at(self, time_ms: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Version and uri that answer at each event time, shape (n,) each. Hears what is new first."""
        self._take(self._log.poll(0.0))
        place = np.searchsorted(self._from_ms, time_ms, side="right") - 1
        return np.array(self._versions, dtype=object)[place], np.array(self._uris, dtype=object)[place]

    def close(self) -> None:
        """Let go of the broker."""
        self._log.close()

    def _take(self, records: Iterable[tuple[str, dict[str, Any]]]) -> None:
        for _, each in records:
            # Most records only promise that nothing changes.
            if each["model"] == self._model and each["version"] != self._versions[-1]:
                self._from_ms.append(each["event_time"])
                self._versions.append(each["version"])
                self._uris.append(each["uri"])


class Scorer:
    """Scores batches with whichever versions their rows ask for; a version is loaded when it is first asked for."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[dict[str, Any], Segmentation, onnxruntime.InferenceSession]] = {}

    def score(
        self,
        frame: pd.DataFrame,
        version: npt.NDArray[Any],
        uri: npt.NDArray[Any],
        prior: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """Probability of each row.

        Parameters
        ----------
        frame : DataFrame, n rows
        version, uri : ndarray of str, shape (n,)
            The model of each row and the directory it is in.
        prior : ndarray of float64, shape (n,)
            What rows of version ``prior`` are answered with; NaN where no outcome is known yet.

        Returns
        -------
        ndarray of float64, shape (n,)

        Raises
        ------
        FileNotFoundError
            Where a directory has no ``model.onnx`` or ``model.json``.
        """
        found = np.where(np.isnan(prior), PRIOR_UNKNOWN, prior)
        for each in pd.unique(pd.Series(version)):
            if each == PRIOR:
                continue
            rows = np.flatnonzero(version == each)
            card, _, session = self._model(str(uri[rows[0]]))
            matrix = model_matrix(frame.iloc[rows], card)
            found[rows] = session.run(["probabilities"], {"input": matrix})[0][:, 1]
        return found

    def segmentation(self, version: str, uri: str) -> Segmentation:
        """How the traffic of a version is cut; not at all for the prior."""
        return Segmentation() if version == PRIOR else self._model(uri)[1]

    def _model(self, uri: str) -> tuple[dict[str, Any], Segmentation, onnxruntime.InferenceSession]:
        if uri not in self._models:
            options = onnxruntime.SessionOptions()
            # The operator's own thread: two sessions with a pool each would fight over two cores.
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            session = onnxruntime.InferenceSession(
                (Path(uri) / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            card = json.loads((Path(uri) / "model.json").read_text())
            self._models[uri] = (card, segmentation_of(card), session)
        return self._models[uri]
