"""The house keeps its shape: our packages are ours, imports point one way, what `__all__` names is there."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "features", "monitors", "jobs", "compose")
# A Feast repo's definitions are imported by Feast, in the repo's own folder.
MODULES = sorted(
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_ours_and_not_its_namesake_on_the_index(package: str) -> None:
    assert Path(importlib.import_module(package).__file__ or "").parent == ROOT / package


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_everything_in_all_exists(name: str) -> None:
    module = importlib.import_module(name)
    missing = [each for each in getattr(module, "__all__", ()) if not hasattr(module, each)]
    assert not missing, f"{name}.__all__ names {missing}, which are not there"


@pytest.mark.parametrize(
    "command",
    [["lint-imports"], ["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=lambda command: " ".join(command),
)
def test_imports_point_one_way_and_style_and_types_hold(command: list[str]) -> None:
    program = str(Path(sys.executable).with_name(command[0]))
    run = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_top_level_holds_what_it_should() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    allowed = {"pyproject.toml", "README.md", "uv.lock", "LICENSE", "CHANGELOG.md", "tests", *PACKAGES}
    top = {name.split("/")[0] for name in tracked}
    assert {name for name in top if not name.startswith(".")} <= allowed
