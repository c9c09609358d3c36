"""Jobs submitted, listed and cancelled from the command line: on the local platform, and on a cluster by address."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import cli

from compose.local.home import Home
from compose.local.jobs import FlinkRest
from compose.local.platform import Platform, local_services
from compose.services import derived_topics


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = Home(tmp_path_factory.mktemp("jobs")).prepare()
    topics = derived_topics(home)
    with Platform(home, services=local_services, topics=topics.read).running() as started:
        yield started


def headwater(platform: Platform, *arguments: str, fails: bool = False) -> str:
    done = cli(platform, *arguments)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if fails else done.stdout


def until_checkpointed(platform: Platform, job_id: str) -> dict[str, Any]:
    rest, deadline = FlinkRest(platform.endpoints.flink), time.monotonic() + 60
    while not (found := rest.get(f"/jobs/{job_id}/checkpoints"))["counts"]["completed"]:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return dict(found)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_job_is_submitted_once_cancelled_and_goes_on_from_its_checkpoint(platform: Platform, elsewhere: bool) -> None:
    at = platform.endpoints
    target = ("--target", at.flink) if elsewhere else ()
    submit = ("submit", "features", "--view", "weather", *target, *(("--kafka", at.kafka) if elsewhere else ()))

    def listed() -> dict[str, dict[str, Any]]:
        return {each["id"]: each for each in json.loads(headwater(platform, "jobs", "list", *target, "--json"))}

    before = set(listed())
    assert "features runs as" in headwater(platform, *submit)
    (first,) = set(listed()) - before
    assert listed()[first]["name"] == "features"
    until_checkpointed(platform, first)
    assert f"The job 'features' runs already as {first}" in headwater(platform, *submit, fails=True)

    assert "goes on from its last checkpoint" in headwater(platform, "jobs", "cancel", "features", *target)
    headwater(platform, *submit)
    (second,) = set(listed()) - before - {first}
    assert until_checkpointed(platform, second)["counts"]["restored"] == 1
    assert listed()[first]["state"] in ("CANCELED", "CANCELLING")
    headwater(platform, "jobs", "cancel", "features", *target)


def test_what_is_wrong_is_said(platform: Platform, tmp_path: Path) -> None:
    said = headwater(platform, "submit", "features", "--target", platform.endpoints.flink, fails=True)
    assert "Give --kafka HOST:PORT" in said
    assert "No job 'drift' was submitted from here" in headwater(platform, "jobs", "cancel", "drift", fails=True)
    said = headwater(platform, "submit", "features", "--repo", str(tmp_path), fails=True)
    assert "expected a Feast repo with a feature_store.yaml" in said
    said = headwater(platform, "submit", "features", "--view", "nothing", fails=True)
    assert "no stream feature view 'nothing'" in said
    assert headwater(platform, "alerts", "tail", "--json") == ""
