"""Read a Feast repo from its files, as ``feast apply`` would, without a registry."""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import yaml
from feast import FeatureService, StreamFeatureView
from feast.data_source import DataSource, KafkaSource
from feast.repo_operations import parse_repo

__all__ = ["Repo", "RepoError", "load_repo"]


class RepoError(ValueError):
    """A Feast repo that cannot be read, or lacks what was asked of it. The message says what there is."""


@dataclass(frozen=True)
class Repo:
    """The parts of a Feast repo that Headwater runs.

    Attributes
    ----------
    path : Path
        The folder with ``feature_store.yaml``.
    project : str
        Its name there.
    views : dict of str to StreamFeatureView
    services : dict of str to FeatureService
    sources : dict of str to DataSource
    """

    path: Path
    project: str
    views: dict[str, StreamFeatureView]
    services: dict[str, FeatureService]
    sources: dict[str, DataSource]

    def view(self, name: str) -> StreamFeatureView:
        """The stream feature view of that name.

        Raises
        ------
        RepoError
            Naming the views there are.
        """
        if name not in self.views:
            raise RepoError(
                f"no stream feature view {name!r} in {self.path}; there are {', '.join(sorted(self.views))}"
            )
        return self.views[name]

    def service(self, name: str) -> FeatureService:
        """The feature service of that name.

        Raises
        ------
        RepoError
            Naming the services there are.
        """
        if name not in self.services:
            known = ", ".join(sorted(self.services)) or "none"
            raise RepoError(f"no feature service {name!r} in {self.path}; there are {known}")
        return self.services[name]

    def kafka_source(self, name: str) -> KafkaSource:
        """The Kafka source of that name.

        Raises
        ------
        RepoError
            Where there is none, or it is another kind of source.
        """
        found = self.sources.get(name)
        if not isinstance(found, KafkaSource):
            known = ", ".join(sorted(n for n, each in self.sources.items() if isinstance(each, KafkaSource)))
            raise RepoError(f"expected {name!r} to be a KafkaSource of {self.path}; there are {known}")
        return found


def load_repo(path: Path) -> Repo:
    """Import the definitions of a Feast repo.

    Parameters
    ----------
    path : Path
        The folder with ``feature_store.yaml``.

    Raises
    ------
    RepoError
        Where the folder is no Feast repo or its files do not import.
    """
    path = path.resolve()
    if not (path / "feature_store.yaml").is_file():
        raise RepoError(f"expected a Feast repo with a feature_store.yaml in {path}; give another --repo DIR")
    try:
        project = str(yaml.safe_load((path / "feature_store.yaml").read_text())["project"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as exc:
        raise RepoError(f"expected {path / 'feature_store.yaml'} to name a project: {exc!r}") from exc
    with _inside(path):
        try:
            contents = parse_repo(path)
        except Exception as exc:  # the user's own code runs here and may raise anything
            raise RepoError(f"the definitions in {path} do not import: {exc!r}") from exc
    return Repo(
        path=path,
        project=project,
        views={view.name: view for view in contents.stream_feature_views},
        services={service.name: service for service in contents.feature_services},
        sources={source.name: source for source in contents.data_sources},
    )


@contextmanager
def _inside(path: Path) -> Iterator[None]:
    """Feast imports a repo's files as top-level modules relative to the working directory.

    Both are put back. Modules that go by the names of the repo's files and folders are set aside meanwhile, and what
    is imported now is forgotten, so that a repo is read as its files are now, and many with a ``views.py`` each can be
    read in one process. No bytecode of theirs is kept: it would be taken for that of a file which changes within the
    same second and does not grow.
    """
    names = {each.stem for each in path.glob("*.py")} | {each.name for each in path.iterdir() if each.is_dir()}

    def ours() -> dict[str, ModuleType]:
        return {name: each for name, each in sys.modules.items() if name.partition(".")[0] in names}

    before, kept, writes_none = Path.cwd(), ours(), sys.dont_write_bytecode
    for name in kept:
        del sys.modules[name]
    os.chdir(path)
    sys.path.insert(0, str(path))
    importlib.invalidate_caches()
    sys.dont_write_bytecode = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.dont_write_bytecode = writes_none
        os.chdir(before)
        sys.path.remove(str(path))
        for name in ours():
            del sys.modules[name]
        sys.modules.update(kept)
