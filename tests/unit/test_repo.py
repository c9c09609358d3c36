"""Feast repos read from their files: as they are now, and each for itself."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from features import READ_BEFORE
from features.compiler.repo import RepoError, load_repo

pytestmark = pytest.mark.filterwarnings("ignore")
ENTITY = "from feast import FeatureService\nfrom more import NAME\nservice = FeatureService(name=NAME, features=[])\n"


def write(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "feature_store.yaml").write_text(f"project: {folder.name}\nprovider: local\nregistry: r.db\n")
    (folder / "definitions.py").write_text(ENTITY)
    (folder / "more.py").write_text(f"NAME = {name!r}\n")
    return folder


def test_each_repo_has_its_own_modules_whoever_imported_theirs_before(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", "a"), write(tmp_path / "two", "bb")
    # As Feast does, when its registry unpickles a function.
    sys.path.insert(0, str(one))
    others = {name: sys.modules.pop(name) for name in ("definitions", "more") if name in sys.modules}
    try:
        before = importlib.import_module("definitions")
        assert list(load_repo(two).services) == ["bb"]
        assert load_repo(two).project == "two"
        write(two, "ccc")
        assert list(load_repo(two).services) == ["ccc"]
        assert list(load_repo(one).services) == ["a"]
        assert sys.modules["definitions"] is before
    finally:
        sys.path.remove(str(one))
        for name in ("definitions", "more"):
            sys.modules.pop(name, None)
        sys.modules.update(others)


def test_a_file_that_changes_at_once_and_keeps_its_size_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    repo = write(tmp_path / "one", "a")
    written = (repo / "more.py").stat()
    assert list(load_repo(repo).services) == ["a"]
    write(tmp_path / "one", "b")
    os.utime(repo / "more.py", ns=(written.st_atime_ns, written.st_mtime_ns))
    assert list(load_repo(repo).services) == ["b"]
    assert not list(repo.rglob("__pycache__"))


def test_what_is_no_repo_is_said(tmp_path: Path) -> None:
    with pytest.raises(RepoError, match=r"a feature_store\.yaml in"):
        load_repo(tmp_path)
    folder = write(tmp_path / "one", "a")
    (folder / "definitions.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(RepoError, match="do not import"):
        load_repo(folder)
    (folder / "feature_store.yaml").write_text("provider: local\n")
    with pytest.raises(RepoError, match="to name a project"):
        load_repo(folder)


@pytest.mark.parametrize(("environ", "is_checked"), [({}, True), (READ_BEFORE, False)])
def test_definitions_are_checked_where_they_are_first_read(environ: dict[str, str], is_checked: bool) -> None:
    program = "import features, feast; feast.Field(name=1, dtype=feast.types.Int64)"
    others = {name: value for name, value in os.environ.items() if name not in READ_BEFORE}
    done = subprocess.run([sys.executable, "-c", program], env=others | environ, capture_output=True, check=False)
    assert ("TypeCheckError" in done.stderr.decode()) is is_checked
