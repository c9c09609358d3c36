"""Two versions of a repo and what lies between them: every kind of change is named, with what it costs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import compose.commands.features
import compose.planning
from compose.cli import headwater
from compose.local.home import Home, PlatformError
from compose.plan import Facts, Plan, Recorded, facts_of, fingerprint, plan, record, recorded
from compose.planning import as_json, brief, shown, stateless
from features.compiler.repo import load_repo
from jobs.generations import Begun, Letters

SHOP = Path(__file__).parents[1] / "repos" / "shop"
JOB, ID = "features-shop", "0123"
TOPICS = ("shop.orders", "features.spending", "features.abroad", "features.latest_order")
AGAIN = """
again = StreamFeatureView(name="again", entities=[store], source=orders, timestamp_field="placed", mode="flink",
    udf=foreign, udf_string="foreign", schema=[Field(name="store", dtype=Int64), Field(name="n", dtype=Int64)],
    aggregations=[Aggregation(column="*", function="count", time_window=timedelta(hours=6),
                              slide_interval=timedelta(hours=1), name="n")])
"""
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Facts]]:
    """The facts of the shop's views after changes of its text."""
    number = iter(range(1000))

    def made(*changes: tuple[str, str], more: str = "") -> dict[str, Facts]:
        repo = tmp_path_factory.mktemp("versions") / str(next(number))
        shutil.copytree(SHOP, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
        text = (repo / "definitions.py").read_text()
        for there, instead in changes:
            assert there in text
            text = text.replace(there, instead)
        (repo / "definitions.py").write_text(text + more)
        return facts_of(load_repo(repo).views.values())

    return made


@pytest.fixture(scope="module")
def first(version: Callable[..., dict[str, Facts]]) -> dict[str, Facts]:
    return version()


def between(old: dict[str, Facts], new: dict[str, Facts], running: bool = True) -> Plan:
    before = Recorded("2026-01-01T00:00:00+00:00", ID, json.loads(json.dumps(old)), {}, {})
    return plan(JOB, before, new, running, TOPICS)


def test_the_same_repo_has_nothing_to_do(first: dict[str, Facts], version: Callable[..., dict[str, Facts]]) -> None:
    found = between(first, version())
    assert found.nothing
    assert not found.restarts
    assert {each.state for each in found.views} == {"kept"}
    assert found.begins == frozenset()
    assert found.topics == found.left == ()
    assert "state" not in plain(found)
    stopped = between(first, first, running=False)
    assert not stopped.nothing
    assert stopped.restarts
    assert stopped.begins == frozenset()
    text = plain(stopped)
    assert "goes on from where it is stopped: 3 with their state, 0 begin" in text
    assert text.count("state     kept: it goes on where it is") == 3
    lost = stateless(stopped)
    assert lost.begins == set(first)
    assert plain(lost).count("because   its job has left no state") == 3
    assert "starts: no view keeps its state" in plain(lost)
    assert "run       `headwater submit features --repo /shop`" in text


@dataclass(frozen=True)
class Case:
    """A planted change of one view, and what is to be said of it."""

    there: str
    instead: str
    says: tuple[str, ...]
    why: str = "its windows are kept in another form, and would be misread"
    backfill: tuple[str, ...] = ()
    schema: bool = False
    view: str = "abroad"
    restarts: bool = True


CASES = {
    "window": Case(
        'function="max", time_window=timedelta(hours=6)',
        'function="max", time_window=timedelta(hours=12), slide_interval=timedelta(hours=6)',
        ("~ lines_max: max(line_count) over 6 h, Int64 -> max(line_count) over 12 h, every 6 h, Int64",),
        backfill=("wider windows: lines_max",),
    ),
    "narrower": Case(
        'function="max", time_window=timedelta(hours=6)',
        'function="max", time_window=timedelta(hours=3)',
        ("~ lines_max: max(line_count) over 6 h, Int64 -> max(line_count) over 3 h, Int64",),
        backfill=("changed features: lines_max",),
    ),
    "function": Case(
        'function="last"',
        'function="first"',
        ("~ last_channel: last(channel) over 6 h, String -> first(channel) over 6 h, String",),
        backfill=("changed features: last_channel",),
    ),
    "feature gone": Case(
        '        Aggregation(column="line_count", function="max", time_window=timedelta(hours=6), name="lines_max"),\n',
        "",
        ("- lines_max: max(line_count) over 6 h, Int64",),
        schema=True,
    ),
    "feature new": Case(
        '        Field(name="lines_max", dtype=Int64),\n',
        '        Field(name="lines_max", dtype=Int64),\n        Field(name="lines", dtype=Int64),\n',
        ("+ lines: sum(line_count) over 6 h, Int64",),
        backfill=("new features: lines",),
        schema=True,
    ),
    "hop": Case(
        "tiling_hop_size=timedelta(seconds=30)",
        "tiling_hop_size=timedelta(seconds=60)",
        ("~ tiles of: 30 s -> 1 min",),
        backfill=("rows at other times",),
    ),
    "keys": Case(
        'name="abroad",\n    entities=[store]',
        'name="abroad",\n    entities=[store, customer]',
        ("~ keys: store Int64 -> customer_id String, store Int64",),
        backfill=("other keys",),
        schema=True,
    ),
    "transformation": Case(
        "<> 'NL'",
        "<> 'BE'",
        ("- transformation:", "+ transformation:"),
        why="its windows hold records as they were before the change",
        backfill=("changed transformation",),
    ),
    "type": Case(
        'Field(name="dear", dtype=Float64)',
        'Field(name="dear", dtype=Float32)',
        ("~ dear: p95(amount) over 1 d, Float64 -> p95(amount) over 1 d, Float32",),
        view="spending",
        why="its rows are others now",
        schema=True,
    ),
    "ttl": Case(
        "ttl=timedelta(days=40)",
        "ttl=timedelta(days=90)",
        ("~ ttl: 40 d -> 90 d",),
        view="spending",
        why="",
        restarts=False,
    ),
    "columns of the newest": Case(
        '        Field(name="amount", dtype=Float64),\n        Field(name="channel", dtype=String),\n',
        '        Field(name="amount", dtype=Float64),\n',
        ("- channel: the newest, String",),
        view="latest_order",
        why="its rows are others now",
        schema=True,
    ),
}
ALSO = {
    "type": [("import Float64, Int64", "import Float32, Float64, Int64")],
    "feature gone": [('        Field(name="lines_max", dtype=Int64),\n', "")],
    "feature new": [
        (
            '        Aggregation(column="channel", function="last"',
            '        Aggregation(column="line_count", function="sum", time_window=timedelta(hours=6), name="lines"),\n'
            '        Aggregation(column="channel", function="last"',
        )
    ],
    "keys": [
        (
            '        Field(name="countries"',
            '        Field(name="customer_id", dtype=String),\n        Field(name="countries"',
        )
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_a_changed_view(name: str, first: dict[str, Facts], version: Callable[..., dict[str, Facts]]) -> None:
    case = CASES[name]
    new = version((case.there, case.instead), *ALSO.get(name, ()))
    found = between(first, new)
    (changed,) = found.changed
    assert (changed.name, changed.kind) == (case.view, "changed")
    told = [line for line in changed.changes if not line.startswith(" ")]
    assert tuple(told) == case.says
    assert changed.why == case.why
    assert changed.state == ("begins" if case.why else "kept")
    assert found.begins == ({case.view} if case.why else frozenset())
    assert changed.backfill == case.backfill
    assert bool(changed.schema_ids) == case.schema
    assert changed.restarts == found.restarts == case.restarts
    assert not found.nothing
    assert fingerprint(first[case.view]) != fingerprint(new[case.view])
    text = plain(found)
    assert all(line in text for line in case.says)
    assert "--fresh" not in text
    if case.restarts:
        assert text.count("state     kept: it goes on where it is") == 2
        assert "goes on from where it is stopped first: 2 with their state, 1 begin" in text
        assert f"none: it starts from the beginning of its topic\n    because   {case.why}" in text
    if case.schema:
        old_id, new_id = first[case.view]["schema_id"], new[case.view]["schema_id"]
        assert f"features.{case.view} would hold rows of two schemas, ids {old_id} and {new_id}" in text
    assert len(found.refused) == (name == "type")
    assert ("refused   view 'spending': expected 'dear' to be Float64" in text) == (name == "type")
    assert ("headwater backfill --repo /shop --view" in text) == bool(case.backfill)
    # Undone, it is a change too, and leaves nothing behind.
    assert [each.name for each in between(new, first).changed] == [case.view]


def test_views_that_come_and_go(first: dict[str, Facts], version: Callable[..., dict[str, Facts]]) -> None:
    found = between(first, version(more=AGAIN))
    (new,) = found.changed
    assert (new.name, new.kind) == ("again", "new")
    assert "+ n: count(*) over 6 h, every 1 h" in new.changes
    assert any("CARDINALITY" in line for line in new.changes)
    assert new.backfill == ("it is new",)
    assert found.topics == ("features.again",)
    assert found.begins == {"again"}
    text = plain(found)
    assert "archiver-shop and pusher-shop are started anew by the platform" in text
    assert "headwater down" not in text
    assert brief(found) == "features-shop: 1 new (again), 3 unchanged."
    fewer = {name: facts for name, facts in first.items() if name != "abroad"}
    gone = between(first, fewer)
    assert [(each.name, each.kind) for each in gone.changed] == [("abroad", "removed")]
    assert gone.left == ("features.abroad",)
    assert gone.topics == ()
    assert gone.begins == frozenset()
    assert gone.restarts
    assert "- abroad  removed\n    state     dropped" in plain(gone)
    turned = dict(reversed(first.items()))  # same views, another order: state is found by names
    assert between(first, turned).nothing


def test_what_the_source_says_counts(first: dict[str, Facts], version: Callable[..., dict[str, Facts]]) -> None:
    moved = between(first, version(('topic="shop.orders"', 'topic="shop.orders.v2"')))
    assert {each.name for each in moved.changed} == set(first)
    assert moved.topics == ("shop.orders.v2",)
    assert moved.begins == set(first)
    assert {each.why for each in moved.views} == {"it reads shop.orders.v2 by orders, and not shop.orders by orders"}
    assert "starts: no view keeps its state" in plain(moved)
    renamed = between(first, {name: {**facts, "source": "sales"} for name, facts in first.items()})
    assert renamed.begins == set(first)  # offsets are found by the source's name
    later = between(first, version(("timedelta(minutes=2)", "timedelta(minutes=5)")))
    assert {each.changes for each in later.changed} == {("~ records may be late by: 2 min -> 5 min",)}
    assert later.begins == frozenset()
    assert later.restarts
    other = between(first, version(('"name": "store_id", "type": "int"', '"name": "store_id", "type": "long"')))
    # A view without windows keeps nothing that could be misread.
    assert other.begins == {"spending", "abroad"}
    (made,) = [each.why for each in other.views if each.name == "abroad"]
    assert "kept in another form" in made
    more = '{"name": "store_id", "type": "int"},\n          {"name": "note", "type": ["null", "string"]}'
    grown = between(first, version(('{"name": "store_id", "type": "int"}', more)))
    assert grown.begins == {"abroad"}
    (made,) = [each.why for each in grown.views if each.name == "abroad"]
    assert made == "line_count, which its transformation makes, may be of another type now"


def test_a_new_version_of_the_compiler_is_no_change_of_the_views_and_still_one(first: dict[str, Facts]) -> None:
    old = {
        name: {**facts, "sql": "of another version"} if name == "spending" else facts for name, facts in first.items()
    }
    (changed,) = between(old, first).changed
    assert changed.changes == ("~ the same definition, compiled otherwise by this version of Headwater",)
    assert changed.restarts


def test_what_is_recorded_is_what_it_is_compared_with(first: dict[str, Facts], tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert recorded(home, JOB) is None
    unknown = plan(JOB, None, first, topics=("shop.orders",))
    assert {each.kind for each in unknown.views} == {"new"}
    assert unknown.begins == set(first)
    assert "nothing is recorded yet" in plain(unknown)
    begun = {name: Begun(number, {"0": 10 * number}) for number, name in enumerate(first)}
    letters = {"orders": Letters("shop.orders", 1)}
    record(home, JOB, ID, first, begun, letters)
    file = home.path("projects", "definitions", f"{JOB}.json")
    found = json.loads(file.read_text())
    assert len(found["definition"]["abroad"]["fingerprint"]) == 12
    before = recorded(home, JOB)
    assert before is not None
    assert list(before.views) == list(first)
    assert (before.id, before.begun, before.letters) == (ID, begun, letters)
    assert plan(JOB, before, first, True, TOPICS).nothing
    # By a version that named nothing: what its checkpoints hold cannot be found.
    del found["begun"]
    file.write_text(json.dumps(found))
    assert recorded(home, JOB) is None


def plain(found: Plan) -> str:
    return click.unstyle("\n".join(shown(found, Path("/shop"))))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan, dict[str, Facts]], None]:
    """What the commands find, without a platform."""
    monkeypatch.setattr(compose.commands.features, "job_book", lambda _: None)

    def be(found: Plan, facts: dict[str, Facts]) -> None:
        monkeypatch.setattr(compose.planning, "planned", lambda *_: (found, facts))

    return be


def test_the_command_says_what_there_is_to_do_by_its_status(
    said: Callable[[Plan, dict[str, Facts]], None],
    first: dict[str, Facts],
    version: Callable[..., dict[str, Facts]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = CliRunner().invoke
    said(between(first, first), first)
    done = run(headwater, ["features", "plan", "--repo", "shop"])
    assert done.exit_code == 0, done.output
    found = between(first, version(("<> 'NL'", "<> 'BE'")))
    said(found, first)
    done = run(headwater, ["features", "plan", "--repo", "shop"])
    assert done.exit_code == 2
    assert "\x1b" not in done.output  # no terminal
    assert "~ abroad  changed" in done.output
    assert "\x1b[33m~ abroad" in run(headwater, ["features", "plan", "--repo", "shop"], color=True).output
    done = run(headwater, ["features", "plan", "--repo", "shop", "--json"])
    assert done.exit_code == 2
    assert json.loads(done.output) == json.loads(json.dumps(as_json(found)))
    assert json.loads(done.output)["changes"]
    for wrong in (["--repo"], ["--nonsense"], []):
        assert run(headwater, ["features", "plan", *wrong]).exit_code == 1

    def fail(*_: object) -> None:
        raise PlatformError("no such view.")

    monkeypatch.setattr(compose.planning, "planned", fail)
    done = run(headwater, ["features", "plan", "--repo", "shop"])
    assert done.exit_code == 1
    assert "no such view" in done.output
