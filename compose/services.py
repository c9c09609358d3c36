"""What Headwater itself runs beside Kafka, Flink and ClickHouse, and the topics a Feast repo needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compose import projects
from compose.local.home import Home, write_text
from compose.local.jobs import JobBook
from compose.local.platform import Platform, local_services
from compose.local.services import Service, http_ready, python_module
from compose.regions import place_of
from features.compiler.inputs import write_inputs
from features.compiler.repo import Repo, load_repo
from features.compiler.service import model_inputs, plain_inputs, prediction_topic
from features.compiler.topics import feature_topic
from schemas.topics import TOPICS, Topic, topics_from_json, topics_to_json

__all__ = [
    "INPUTS_FILE",
    "REPO",
    "DerivedTopics",
    "derived_topics",
    "headwater_platform",
    "headwater_services",
    "repo_topics",
]

REPO = Path(__file__).parents[1] / "features"
MODELS = ("delay",)
EVENTS = tuple(name for name in TOPICS if name.startswith("flights."))
INPUTS_FILE = "inputs.json"
CONTROL_LOOP = ("controller", "retrainer", "reporter")


def repo_topics(definitions: Repo, services: Sequence[str] = MODELS) -> list[Topic]:
    """Topics that a Feast repo gives rise to: one a stream feature view, one a model."""
    views = [feature_topic(view) for view in definitions.views.values()]
    return views + [prediction_topic(model_inputs(definitions, service)) for service in services]


@dataclass(frozen=True)
class DerivedTopics:
    """The topics of a repo, in memory and in the file that the archiver and the pusher read."""

    home: Home
    repo: Path

    @property
    def file(self) -> Path:
        """Where they are written."""
        return self.home.path("topics.json")

    def read(self) -> list[Topic]:
        """Derive the topics and write the file; the repo is read once and not at every start of Kafka."""
        if not self.file.exists():
            self.write()
        return topics_from_json(self.file.read_text())

    def write(self) -> None:
        """Derive them anew, and what the models read."""
        definitions = load_repo(self.repo)
        inputs = {name: plain_inputs(model_inputs(definitions, name)) for name in MODELS}
        write_inputs(self.home.path(INPUTS_FILE), inputs)
        write_text(self.file, topics_to_json(repo_topics(definitions)))


def derived_topics(home: Home, repo: Path = REPO) -> DerivedTopics:
    """The topics of a repo, derived anew and written under the state directory."""
    topics = DerivedTopics(home, repo)
    topics.write()
    return topics


def headwater_platform(home: Home, repo: Path = REPO, controlled: bool = True) -> Platform:
    """The whole platform of a state directory, ready to be started.

    Parameters
    ----------
    home : Home
    repo : Path
    controlled : bool
        With the control loop: controller, retrainer and reporter.
    """
    home.prepare()
    topics, place = derived_topics(home, repo), place_of()

    def services(platform: Platform) -> list[Service]:
        return [each for each in headwater_services(platform, topics) if controlled or each.name not in CONTROL_LOOP]

    return Platform(
        home,
        services=services,
        topics=lambda: [*topics.read(), *(place.topics if place else ())],
        on_jobmanager_restart=lambda platform: JobBook(
            home, platform.endpoints.kafka, platform.endpoints.flink
        ).restore(),
        more=lambda: projects.services(home),
    )


def headwater_services(platform: Platform, topics: DerivedTopics) -> list[Service]:
    """Kafka, Flink and ClickHouse, and what reads and writes them."""
    views = ",".join(each.name for each in topics.read() if each.name.startswith("features."))
    page = platform.ports["page"]
    stores, place = ("kafka", "clickhouse"), place_of()
    return [
        *local_services(platform),
        *([place.mirror(platform)] if place else ()),
        Service(
            name="archiver",
            argv=python_module("jobs.archive", "--topics", ",".join(TOPICS), "--derived", topics.file),
            depends_on=stores,
        ),
        Service(
            name="pusher",
            argv=python_module("features.online.pusher", "--topics", views),
            depends_on=("kafka",),
        ),
        Service(
            name="promises",
            argv=python_module("jobs.promises", "--events", ",".join(EVENTS), "--derived", topics.file),
            depends_on=("kafka",),
        ),
        Service(
            name="controller",
            argv=python_module("jobs.retraining.controller", *(place.arguments if place else ())),
            depends_on=("kafka",),
        ),
        Service(
            name="retrainer",
            argv=python_module("jobs.retraining.consumer", *(place.arguments if place else ())),
            depends_on=stores,
        ),
        Service(name="reporter", argv=python_module("jobs.reporting"), depends_on=stores),
        Service(
            name="page",
            argv=python_module("compose.page", "--port", page),
            depends_on=stores,
            ready=http_ready(platform.endpoints.page),
            endpoint=platform.endpoints.page,
        ),
    ]
