"""Feast repos that are run beside the flights: what is kept of each, and the services it gets.

``headwater submit features --repo DIR`` registers the repo under the name of its project. The process that runs the
platform sees it there and gives it an archiver and a pusher, now and whenever it starts again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose.local.home import Home, PlatformError, write_text
from compose.local.services import Service, python_module
from schemas.codec import field_kinds
from schemas.tables import column_type
from schemas.topics import TOPICS, Topic, topics_to_json

__all__ = ["Project", "definitions_file", "project_of", "registered", "services", "since"]


@dataclass(frozen=True)
class Project:
    """A Feast repo that runs on a platform.

    Attributes
    ----------
    name : str
        Its ``project`` in ``feature_store.yaml``.
    repo : Path
    topics : tuple of Topic
        Of its sources and its views.
    """

    name: str
    repo: Path
    topics: tuple[Topic, ...]

    def unarchived(self) -> dict[str, str]:
        """Fields, as ``topic.field``, that ClickHouse has no column for, and why."""
        return {
            f"{topic.name}.{name}": why
            for topic in self.topics
            for name, why in field_kinds(topic.schema, column_type)[1].items()
        }

    def register(self, home: Home) -> None:
        """Have the platform of a state directory run what the project needs.

        Raises
        ------
        PlatformError
            Where another repo goes by the same name there, or a view of another by the same name as one of this.
        """
        file = _folder(home) / f"{self.name}.json"
        if file.exists() and (other := Path(json.loads(file.read_text())["repo"])) != self.repo:
            raise PlatformError(
                f"The platform runs a project {self.name!r} from {other} already; give this one another name in its "
                "feature_store.yaml."
            )
        others = _topics_of_others(home, self.name)
        for each in self.topics:
            if each.name.startswith("features.") and each.name in others:
                raise PlatformError(
                    f"The topic {each.name} holds the rows of a view of {others[each.name]} on this platform; give the "
                    "view another name."
                )
        topics = _topics_file(home, self.name)
        topics.parent.mkdir(parents=True, exist_ok=True)
        # What another archives already must not be written to the same table twice.
        write_text(topics, topics_to_json(each for each in self.topics if each.name not in others))
        views = [each.name for each in self.topics if each.name.startswith("features.")]
        write_text(file, json.dumps({"repo": str(self.repo), "views": views}))


def project_of(repo: Path, only: Sequence[str] = ()) -> Project:
    """What a Feast repo is to a platform; every view is compiled, so what cannot run is refused here.

    Parameters
    ----------
    repo : Path
    only : sequence of str
        Names of views; default: all.

    Raises
    ------
    PlatformError
        Naming the view, the field and the reason.
    """
    # Feast takes seconds to import: not for everybody who looks at a project.
    from features.compiler.flink import compile_view
    from features.compiler.repo import RepoError, load_repo
    from features.compiler.sources import archived_topic, stream_source
    from features.compiler.topics import UnsupportedViewError, feature_topic

    try:
        definitions = load_repo(repo)
        views = [definitions.view(name) for name in only] or [*definitions.views.values()]
        if not views:
            raise PlatformError(f"{repo} defines no stream feature view; there is nothing to run.")
        topics: dict[str, Topic] = {}
        for view in views:
            compile_view(view)
            events = archived_topic(stream_source(view))
            topics[events.name] = events
            topics[feature_topic(view).name] = feature_topic(view)
    except (RepoError, UnsupportedViewError) as exc:
        raise PlatformError(f"{exc}.") from exc
    return Project(definitions.project, definitions.path, tuple(topics.values()))


def registered(home: Home) -> dict[str, dict[str, Any]]:
    """What is known of each project of a state directory, by name."""
    files = sorted(_folder(home).glob("*.json")) if _folder(home).is_dir() else []
    return {each.stem: json.loads(each.read_text()) for each in files}


def definitions_file(home: Home, job: str) -> Path:
    """Where it is written what a job was submitted with."""
    # Beside the registrations and not among them: the flights have none.
    return home.path("projects", "definitions", f"{job}.json")


def since(home: Home, job: str) -> dict[str, dict[str, int]]:
    """By topic where a job's views begin, of those that do not begin with their topic."""
    file = definitions_file(home, job)
    begun = json.loads(file.read_text()).get("begun", {}) if file.exists() else {}
    found = {f"features.{name}": each["offsets"] for name, each in begun.items()}
    return {name: offsets for name, offsets in found.items() if any(offsets.values())}


def services(home: Home) -> Iterator[Service]:
    """The services of every registered project."""
    for name, found in registered(home).items():
        archived = _topics_file(home, name)
        # With other topics, or other schemas of them, they are other services: to be started anew.
        env = {"HEADWATER_TOPICS": hashlib.sha256(archived.read_bytes()).hexdigest()}
        if json.loads(archived.read_text()):
            yield Service(
                name=f"archiver-{name}",
                argv=python_module("jobs.archive", "--topics", "", "--derived", archived),
                env=env,
                depends_on=("kafka", "clickhouse"),
            )
        topics, begins = ",".join(found["views"]), since(home, f"features-{name}")
        yield Service(
            name=f"pusher-{name}",
            argv=[
                *python_module("features.online.pusher", "--topics", topics, "--repo", found["repo"], "--group", name),
                *(["--since", json.dumps(begins)] if begins else []),
            ],
            env=env,
            depends_on=("kafka",),
        )


def _topics_of_others(home: Home, name: str) -> dict[str, str]:
    """Topics that are archived and served already, and whose they are."""
    found = dict.fromkeys(TOPICS, "the flights")
    if (flights := home.path("topics.json")).exists():
        found |= {each["name"]: "the flights" for each in json.loads(flights.read_text())}
    for other in registered(home):
        if other != name and (file := _topics_file(home, other)).exists():
            found |= {each["name"]: f"the project {other}" for each in json.loads(file.read_text())}
    return found


def _folder(home: Home) -> Path:
    return home.path("projects")


def _topics_file(home: Home, name: str) -> Path:
    return home.path("projects", "topics", f"{name}.json")
