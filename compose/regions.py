"""Several regions on one machine: a platform each, mirrors between them, and a witness.

``headwater up --regions 2`` runs a ``headwater up`` for each, in a directory of its own. Which region a platform is,
and which others there are, it finds in its environment. What is trained is shared, as where regions have an MLflow
server and an object store in common: what one has retrained all can serve.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from compose.local.home import Home, PlatformError, write_text
from compose.local.mirror import mirror_service
from compose.local.platform import PORT_NAMES, Platform, Running
from compose.local.services import HOST, Service, free_ports, python_module
from jobs.retraining.regions import MIRRORED, Regions, RegionsError, load_regions, mirror_of
from schemas.topics import Topic, topic

__all__ = [
    "NAMES",
    "WITNESS",
    "Place",
    "local_regions",
    "place_of",
    "region_environ",
    "region_home",
    "regions_platform",
    "witness_service",
]

NAMES = ("east", "west", "north", "south")
WITNESS = "hill"
FILE, NAME = "HEADWATER_REGIONS", "HEADWATER_REGION"
COMMON = ("models", "mlflow")
START_S = 300.0


@dataclass(frozen=True)
class Place:
    """One region among several.

    Attributes
    ----------
    file : Path
        ``regions.yaml``.
    regions : Regions
    name : str
        Of this one.
    """

    file: Path
    regions: Regions
    name: str

    @property
    def topics(self) -> list[Topic]:
        """Mirrors of the others' topics, which are there before anything has been mirrored."""
        others = [each for each in self.regions.names if each != self.name]
        return [replace(topic(each), name=mirror_of(other, each)) for other in others for each in MIRRORED]

    def mirror(self, platform: Platform, host: str = HOST) -> Service:
        """What brings this region those of the others; it listens at that address."""
        return mirror_service(platform.home, self.regions, self.name, platform.ports["mirror"], host=host)

    @property
    def arguments(self) -> tuple[str, ...]:
        """For :mod:`jobs.retraining.consumer`."""
        return ("--regions", str(self.file), "--region", self.name)


def place_of(environ: Mapping[str, str] = os.environ) -> Place | None:
    """Which region the platform of this process is; None where there is but one.

    Raises
    ------
    PlatformError
        Where the regions cannot be read, or this is none of them.
    """
    if FILE not in environ:
        return None
    file, name = Path(environ[FILE]), environ.get(NAME, "")
    try:
        regions = load_regions(file)
        regions.region(name)
    except RegionsError as exc:
        raise PlatformError(f"{FILE} and {NAME} name no region: {exc}") from exc
    return Place(file, regions, name)


def region_home(home: Home, name: str) -> Home:
    """Where a region of ``headwater up --regions`` keeps its state."""
    return Home(home.path("regions", name))


def local_regions(home: Home, count: int, hosts: Sequence[str] = ()) -> Path:
    """Write ``regions.yaml`` for regions of this machine, with a witness, and return where it is.

    All ports are found here, those of an earlier run where they are free: what one region has chosen and not yet bound,
    another could choose as well.

    Parameters
    ----------
    home : Home
    count : int
    hosts : sequence of str
        Where each region's Kafka listens; default: on this machine alone.
    """
    names = NAMES[:count]
    files = {name: region_home(home, name).path("ports.json") for name in names}
    before: dict[str, int] = {}
    for name, each in files.items():
        with suppress(OSError, ValueError):
            before |= {f"{name} {port}": number for port, number in json.loads(each.read_text()).items()}
    found = free_ports([f"{name} {port}" for name in names for port in PORT_NAMES], before, {})
    for name, each in files.items():
        write_text(each, json.dumps({port: found[f"{name} {port}"] for port in PORT_NAMES}, indent=2) + "\n")
    content = {
        "regions": {
            name: {"kafka": f"{host}:{found[f'{name} kafka']}"}
            for name, host in zip(names, hosts or [HOST] * count, strict=True)
        },
        "witnesses": [WITNESS],
    }
    file = home.path("regions.yaml")
    write_text(file, yaml.safe_dump(content, sort_keys=False))
    for folder in COMMON:
        home.path(folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (link := region_home(home, name).path(folder)).is_symlink():
                link.symlink_to(home.path(folder))
    return file


def region_environ(home: Home, regions: Regions, file: Path, name: str) -> dict[str, str]:
    """By which ``headwater up`` is a region of :func:`local_regions`."""
    port = regions.region(name).kafka.rpartition(":")[2]
    own = str(region_home(home, name).root)
    return {"HEADWATER_HOME": own, "HEADWATER_KAFKA_PORT": port, FILE: str(file), NAME: name}


def regions_platform(home: Home, count: int) -> Platform:
    """What runs a platform for each region, and the witness; its services are the regions."""
    home.prepare()
    file = local_regions(home, count)
    regions = load_regions(file)

    def services(_: Platform) -> Sequence[Service]:
        return [*(_region_service(home, file, regions, name) for name in regions.names), witness_service(home, file)]

    return Platform(home, services=services)


def _region_service(home: Home, file: Path, regions: Regions, name: str) -> Service:
    own = region_home(home, name)

    def is_up() -> bool:
        running = Running.find(own)
        return running is not None and running.state == "up"

    return Service(
        name=name,
        argv=python_module("compose.cli", "up"),
        env=region_environ(home, regions, file, name),
        ready=is_up,
        ready_timeout_s=START_S,
        stop_timeout_s=60.0,
        endpoint=str(own.root),
    )


def witness_service(home: Home, file: Path, name: str = WITNESS) -> Service:
    """The witness, whose file is all it has."""
    state = home.path("witnesses", f"{name}.db")
    arguments = ("--regions", file, "--name", name, "--state", state)
    return Service(name=name, argv=python_module("jobs.retraining.witness", *arguments))
