"""Feast repos beside the flights: who may have which name, and who archives what."""

import json
from pathlib import Path
from typing import Any

import pytest

from compose.local.home import Home, PlatformError
from compose.projects import Project, project_of, registered, services
from schemas.tables import columns
from schemas.topics import Topic

SHOP = Path(__file__).parents[1] / "repos" / "shop"
SCHEMA: dict[str, Any] = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}
ODD = {"type": "record", "name": "R", "fields": [*SCHEMA["fields"], {"name": "b", "type": ["int", "string"]}]}


def project(name: str, *topics: str, schema: dict[str, object] = SCHEMA) -> Project:
    return Project(name, Path("/repos") / name, tuple(Topic(each, 1, key="", definition=schema) for each in topics))


def archived(home: Home, name: str) -> list[str]:
    return [each["name"] for each in json.loads(home.path("projects", "topics", f"{name}.json").read_text())]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_repo_is_read_and_gets_its_services(home: Home) -> None:
    found = project_of(SHOP)
    assert {each.name for each in found.topics} == {
        "shop.orders",
        "features.spending",
        "features.abroad",
        "features.latest_order",
    }
    assert list(found.unarchived()) == ["shop.orders.odd"]
    assert not list(services(home))
    found.register(home)
    found.register(home)  # submitted once more
    assert [each.name for each in services(home)] == ["archiver-shop", "pusher-shop"]
    assert registered(home)["shop"]["repo"] == str(SHOP)
    some = project_of(SHOP, ["abroad"])
    assert {each.name for each in some.topics} == {"shop.orders", "features.abroad"}


def test_no_two_may_have_one_name(home: Home) -> None:
    project("one", "a.events", "features.view").register(home)
    with pytest.raises(PlatformError, match=r"project 'one' from /repos/one already"):
        Project("one", Path("/elsewhere"), ()).register(home)
    with pytest.raises(PlatformError, match=r"features\.view holds the rows of a view of the project one"):
        project("two", "features.view").register(home)
    assert list(registered(home)) == ["one"]
    home.path("topics.json").write_text(json.dumps([{"name": "features.origin"}]))
    with pytest.raises(PlatformError, match="a view of the flights"):
        project("two", "features.origin").register(home)


def test_every_topic_is_archived_once_and_only_if_it_can_be(home: Home) -> None:
    project("one", "a.events", "features.x").register(home)
    project("two", "a.events", "b.events", "flights.departures", "features.y").register(home)
    assert archived(home, "one") == ["a.events", "features.x"]
    assert archived(home, "two") == ["b.events", "features.y"]
    project("three", "a.events").register(home)
    assert archived(home, "three") == []
    # With nothing to archive there is nobody to do it.
    assert "archiver-three" not in [each.name for each in services(home)]


def test_a_field_that_has_no_column_is_named() -> None:
    odd = project("odd", "c.events", schema=ODD)
    assert list(odd.unarchived()) == ["c.events.b"]
    assert "union of null and one type" in odd.unarchived()["c.events.b"]
    assert list(columns(ODD)) == ["a", "_partition", "_offset"]
