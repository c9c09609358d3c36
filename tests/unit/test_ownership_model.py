"""The formal model of ownership and claims, searched to its end; each of its rules is needed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parent / "ownership.pml"
RULES = ("NO_LEASE", "NO_COMMIT", "NO_CATCH_UP", "NO_HIDING", "NO_EPOCHS", "HALF")

pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("cc")), reason="the model checker spin is not installed here"
)


def searched(folder: Path, *definitions: str) -> tuple[int, int, int]:
    """Errors found, states there are, and steps never taken of a search that went to its end."""
    subprocess.run(["spin", "-a", *(f"-D{each}" for each in definitions), MODEL], cwd=folder, check=True)
    subprocess.run(["cc", "-O1", "-DSAFETY", "-DCOLLAPSE", "-w", "-o", "pan", "pan.c"], cwd=folder, check=True)
    said = subprocess.run(["./pan", "-m2000000", "-w24"], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "max search depth too small" not in said
    patterns = (r"errors: (\d+)", r"(\d+) states, stored", r"unreached in init\n(?:\t.*\n)*\t\((\d+) of \d+ states\)")
    errors, states, unreached = (re.search(each, said) for each in patterns)
    assert errors is not None
    assert states is not None
    assert "Search not completed" not in said or errors[1] != "0", said
    return int(errors[1]), int(states[1]), int(unreached[1]) if unreached else 0


# Fewer states than these are a model that got stuck; two regions alone have less to do, since their majority is both.
@pytest.mark.parametrize(
    ("members", "states_at_least"),
    [
        (("REGIONS=2", "WITNESSES=0", "EPOCHS=3"), 1_000),
        (("REGIONS=2", "WITNESSES=1", "EPOCHS=3"), 200_000),
        (("REGIONS=3", "WITNESSES=0", "EPOCHS=3"), 1_000_000),
        (("REGIONS=3", "WITNESSES=1", "EPOCHS=2"), 1_000_000),
    ],
    ids=["two regions", "two regions and a witness", "three regions", "three regions and a witness"],
)
def test_nothing_is_submitted_twice_in_any_order_of_things(tmp_path, members, states_at_least):
    errors, states, unreached = searched(tmp_path, *members)
    assert errors == 0
    assert states >= states_at_least
    assert unreached == 1, "all is reached but the end, which there is none of"


@pytest.mark.parametrize("rule", RULES)
def test_without_any_rule_something_is(tmp_path, rule):
    errors, *_ = searched(tmp_path, "REGIONS=2", "WITNESSES=1", "EPOCHS=2", rule)
    assert errors == 1
