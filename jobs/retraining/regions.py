"""Regions and witnesses as people name them, in ``regions.yaml``; and where each topic of another region is found.

::

    regions:            # the first is the home of every model that `homes` does not name; then in order of takeover
      east:
        kafka: kafka.east.example:9093
        settings:       # more for the clients, by librdkafka's names
          security.protocol: SASL_SSL
      west:
        kafka: kafka.west.example:9093
    witnesses: [hill]   # processes that vote and own nothing, best somewhere else
    homes:
      delay: west
    timing:             # seconds; see `Timing`
      beat_s: 1
      lease_s: 5
      skew: 0.05
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from jobs.retraining.agent import OWNERSHIP
from jobs.retraining.retrainer import DECISIONS, EVENTS, SUBMISSIONS
from jobs.retraining.standing import Electorate, Timing
from schemas.topics import TOPICS

__all__ = ["MIRRORED", "SHARED", "Region", "Regions", "RegionsError", "load_regions", "mirror_of"]

SHARED = (OWNERSHIP, SUBMISSIONS, EVENTS, DECISIONS)
"""What members tell each other. What people tell one of them stays in its region."""
MIRRORED = (*SHARED, "drift.alerts", "drift.windows")
"""What every region has of every other."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


class RegionsError(ValueError):
    """A file of regions that cannot be used. The message names the file, the field, and what was expected."""


@dataclass(frozen=True)
class Region:
    """One region.

    Attributes
    ----------
    name : str
    kafka : str
        ``host:port``, or several with commas between.
    settings : mapping of str to str
        For clients, by librdkafka's names.
    """

    name: str
    kafka: str
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Regions:
    """All of them.

    Attributes
    ----------
    regions : tuple of Region
        In the order in which they take over.
    witnesses : tuple of str
    homes : mapping of str to str
        The region that a model belongs to, where that is not the first.
    timing : Timing
    """

    regions: tuple[Region, ...]
    witnesses: tuple[str, ...] = ()
    homes: Mapping[str, str] = field(default_factory=dict, hash=False)
    timing: Timing = field(default_factory=Timing)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the regions."""
        return tuple(each.name for each in self.regions)

    def region(self, name: str) -> Region:
        """The region of that name.

        Raises
        ------
        RegionsError
            Naming those there are.
        """
        for each in self.regions:
            if each.name == name:
                return each
        raise RegionsError(f"expected one of the regions {', '.join(self.names)}, got {name!r}")

    def electorate(self, model: str) -> Electorate:
        """Who votes for who retrains a model, its home first."""
        home = self.homes.get(model, self.names[0])
        return Electorate((home, *(each for each in self.names if each != home)), self.witnesses)

    def topics_at(self, name: str, topics: Sequence[str] = SHARED, more: Sequence[str] = ()) -> dict[str, str]:
        """By name at the broker of a region: its own topics, its mirrors of the others', and more of its own."""
        own = {each: each for each in (*topics, *more)}
        return own | {mirror_of(other, each): each for other in self.names if other != name for each in topics}


def mirror_of(region: str, topic: str) -> str:
    """What a region's topic is called in the others, by MirrorMaker's default policy.

    Mirrors that kept the name would be mirrored back: https://kafka.apache.org/documentation/#georeplication.
    """
    return f"{region}.{topic}"


def load_regions(path: str | Path) -> Regions:
    """The regions in a YAML file.

    Raises
    ------
    RegionsError
        Where the file cannot be read, a field is unknown or missing, or a value is not what it has to be.
    """
    try:
        found = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as exc:
        raise RegionsError(f"{path}: expected regions in YAML, got {exc}") from exc
    try:
        return _regions(found)
    except ValueError as exc:  # of the electorate and its timing, too
        raise RegionsError(f"{path}: {exc}") from None


def _regions(found: Any) -> Regions:
    found = _mapping("the file", found, {"regions", "witnesses", "homes", "timing"})
    regions = tuple(_region(str(name), each) for name, each in _mapping("regions", found.get("regions")).items())
    witnesses = found.get("witnesses") or []
    _require(isinstance(witnesses, list), "witnesses", "a list of names", witnesses)
    homes = {str(model): str(name) for model, name in _mapping("homes", found.get("homes") or {}).items()}
    timing = _mapping("timing", found.get("timing") or {}, {each.name for each in fields(Timing)})
    for name, value in timing.items():
        _require(isinstance(value, int | float) and not isinstance(value, bool), f"timing.{name}", "a number", value)
    all_names = [each.name for each in regions] + [_name("witnesses", each) for each in witnesses]
    _require(len(regions) > 0, "regions", "one or more", None)
    _require(len(set(all_names)) == len(all_names), "regions and witnesses", "no name twice", all_names)
    for model, name in homes.items():
        _require(name in [each.name for each in regions], f"homes.{model}", "the name of a region", name)
    return Regions(regions, tuple(witnesses), homes, Timing(**timing))


def _region(name: str, found: Any) -> Region:
    found = _mapping(f"regions.{name}", found, {"kafka", "settings"})
    kafka, settings = found.get("kafka"), _mapping(f"regions.{name}.settings", found.get("settings") or {})
    _require(isinstance(kafka, str) and ":" in kafka, f"regions.{name}.kafka", "host:port", kafka)
    return Region(_name("regions", name), str(kafka), {str(key): str(value) for key, value in settings.items()})


def _name(where: str, name: Any) -> str:
    """Topics of another region begin with its name, so no topic of ours may."""
    taken = {each.partition(".")[0] for each in TOPICS}
    wanted = f"up to 32 lower-case letters, digits and -, other than {', '.join(sorted(taken))}"
    _require(isinstance(name, str) and bool(_NAME.fullmatch(name)) and name not in taken, where, wanted, name)
    return str(name)


def _mapping(name: str, found: Any, known: set[str] | None = None) -> dict[Any, Any]:
    _require(isinstance(found, dict), name, "names and values", found)
    unknown = set(found) - known if known is not None else set()
    _require(not unknown, name, f"only {', '.join(sorted(known or ()))}", sorted(map(str, unknown)))
    return dict(found)


def _require(holds: bool, name: str, wanted: str, got: Any) -> None:
    if not holds:
        raise RegionsError(f"{name}: expected {wanted}, got {got!r}")
