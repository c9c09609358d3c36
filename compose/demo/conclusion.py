"""What a finished demo says: the ledger counted and frozen models scored on the same requests, in one summary."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from compose.control import first_model, read_control
from compose.demo.ledger import count
from compose.demo.rival import Rival
from compose.demo.summary import Summary, summarize
from compose.local.platform import Platform
from compose.performance import Score
from compose.services import REPO
from features.compiler.repo import load_repo
from jobs.parity import verify
from jobs.reading import client_of
from jobs.serving import Scorer

__all__ = ["conclude", "failure"]


def conclude(
    platform: Platform,
    sent: Mapping[str, int],
    rival: Rival,
    *,
    mode: str | None = None,
    seconds: float,
    replay_seconds: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Count, compare and put together.

    Parameters
    ----------
    platform : Platform
        Quiet: nothing on its way any more.
    sent : mapping of str to int
        Events the replay sent, by topic.
    rival : Rival
        The model of the first half-year, fitted or not.
    mode : {"as-of", "latest"}, optional
        How features were read: every logged value is compared with an independent computation.
    seconds, replay_seconds : float
        Wall time of everything, and of the replay alone.
    progress : callable
        Told what is going on.
    """
    at = platform.endpoints
    client = client_of(at.clickhouse)
    ledger = count(at.kafka, client, sent=sent, progress=lambda name: progress(f"counting {name}"))
    found = first_model(read_control(at.kafka))
    verification = verify(client, at.kafka, load_repo(REPO), mode, progress=progress) if mode else None
    progress("training a model on the first half of the year, to compare with")
    half_year, split_ms = rival.result()
    return summarize(
        at.kafka,
        client,
        ledger,
        frozen=score_of(found[1]) if found else None,
        frozen_from_ms=found[2] if found else None,
        half_year=half_year,
        split_ms=split_ms,
        seconds=seconds,
        replay_seconds=replay_seconds,
        progress=progress,
        verification=verification,
    )


def score_of(directory: str) -> Score:
    """Probabilities of a frame of logged columns under the model in a directory."""
    scorer = Scorer()

    def score(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        count = len(frame)
        none = np.full(count, np.nan)
        return scorer.score(frame, np.full(count, Path(directory).name), np.full(count, directory), none)

    return score


def failure(summary: Summary) -> str:
    """What a replay must not end with, in words; empty when all is well."""
    found = []
    if summary.ledger.unaccounted:
        found.append(f"{summary.ledger.unaccounted} records are unaccounted for")
    if summary.verification is not None and summary.verification.parity.mismatches:
        found.append(f"{summary.verification.parity.mismatches} feature values are not what they should be")
    if summary.ledger.duplicates:
        found.append(f"{summary.ledger.duplicates} records are there more than once")
    return " and ".join(found)
