"""Two versions of a repo and what lies between them: every kind of change is named, with what it costs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

import compose.commands.features
import compose.commands.submit
import compose.planning
from compose.cli import headwater
from compose.local.home import Home, PlatformError
from compose.local.jobs import JobRecord
from compose.plan import Facts, Plan, Recorded, facts_of, fingerprint, plan, record, recorded
from compose.planning import as_json, brief, shown
from features.compiler.repo import load_repo

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
    before = Recorded("2026-01-01T00:00:00+00:00", ID, json.loads(json.dumps(old)))
    return plan(JOB, before, new, ID, running, TOPICS)


def test_the_same_repo_has_nothing_to_do(first: dict[str, Facts], version: Callable[..., dict[str, Facts]]) -> None:
    found = between(first, version())
    assert found.nothing
    assert not found.restarts
    assert not found.restored
    assert {each.name: each.state for each in found.views} == {
        "abroad": "kept",
        "spending": "kept",
        "latest_order": "none",
    }
    assert found.fresh == found.topics == found.left == ()
    stopped = between(first, first, running=False)
    assert not stopped.nothing
    assert stopped.restarts
    assert stopped.fresh == ()
    text = plain(stopped)
    assert "goes on from its checkpoint, with all windows" in text
    assert "run       `headwater submit features --repo /shop`" in text


@dataclass(frozen=True)
class Case:
    """A planted change of one view, and what is to be said of it."""

    there: str
    instead: str
    says: tuple[str, ...]
    state: str = "unreadable"
    backfill: tuple[str, ...] = ()
    schema: bool = False
    fresh: str = "abroad: windows are kept in another form"
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
        state="mixed",
        backfill=("changed transformation",),
        fresh="abroad: windows hold records as they were before the change",
    ),
    "type": Case(
        'Field(name="dear", dtype=Float64)',
        'Field(name="dear", dtype=Float32)',
        ("~ dear: p95(amount) over 1 d, Float64 -> p95(amount) over 1 d, Float32",),
        view="spending",
        state="kept",
        schema=True,
        fresh="",
    ),
    "ttl": Case(
        "ttl=timedelta(days=40)",
        "ttl=timedelta(days=90)",
        ("~ ttl: 40 d -> 90 d",),
        view="spending",
        state="kept",
        fresh="",
        restarts=False,
    ),
    "columns of the newest": Case(
        '        Field(name="amount", dtype=Float64),\n        Field(name="channel", dtype=String),\n',
        '        Field(name="amount", dtype=Float64),\n',
        ("- channel: the newest, String",),
        view="latest_order",
        state="none",
        schema=True,
        fresh="",
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
    assert changed.state == case.state
    assert changed.backfill == case.backfill
    assert bool(changed.schema_ids) == case.schema
    assert changed.restarts == found.restarts == case.restarts
    assert len(found.fresh) == bool(case.fresh)
    assert "".join(found.fresh).startswith(case.fresh)
    assert not found.nothing
    assert fingerprint(first[case.view]) != fingerprint(new[case.view])
    text = plain(found)
    assert all(line in text for line in case.says)
    assert ("--fresh" in text) == bool(case.fresh)
    if case.schema:
        old_id, new_id = first[case.view]["schema_id"], new[case.view]["schema_id"]
        assert f"features.{case.view} would hold rows of two schemas, ids {old_id} and {new_id}" in text
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
    assert ["other places" in each for each in found.fresh] == [True]
    text = plain(found)
    assert "archiver-shop and pusher-shop" in text
    assert brief(found) == "features-shop: 1 new (again), 3 unchanged."
    fewer = {name: facts for name, facts in first.items() if name != "abroad"}
    gone = between(first, fewer)
    assert [(each.name, each.kind) for each in gone.changed] == [("abroad", "removed")]
    assert gone.left == ("features.abroad",)
    assert gone.topics == ()
    assert ["other places" in each for each in gone.fresh] == [True]
    turned = dict(reversed(first.items()))  # same views, another order: Flink finds other operators at their places
    assert between(first, turned).fresh
    assert not between(first, turned).changed


def test_what_the_source_says_counts(first: dict[str, Facts], version: Callable[..., dict[str, Facts]]) -> None:
    moved = between(first, version(('topic="shop.orders"', 'topic="shop.orders.v2"')))
    assert {each.name for each in moved.changed} == set(first)
    assert moved.topics == ("shop.orders.v2",)
    assert any("would go on reading shop.orders" in each for each in moved.fresh)
    later = between(first, version(("timedelta(minutes=2)", "timedelta(minutes=5)")))
    assert {each.changes for each in later.changed} == {("~ records may be late by: 2 min -> 5 min",)}
    assert later.fresh == ()
    assert later.restarts
    other = between(first, version(('"name": "store_id", "type": "int"', '"name": "store_id", "type": "long"')))
    states = {each.name: each.state for each in other.changed}
    # Of abroad's line_count nobody knows the type but the transformation.
    assert states == {"spending": "unreadable", "abroad": "unreadable", "latest_order": "none"}
    more = '{"name": "store_id", "type": "int"},\n          {"name": "note", "type": ["null", "string"]}'
    grown = between(first, version(('{"name": "store_id", "type": "int"}', more)))
    assert {each.name: each.state for each in grown.changed}["spending"] == "kept"


def test_a_new_version_of_the_compiler_is_no_change_of_the_views_and_still_one(first: dict[str, Facts]) -> None:
    old = {
        name: {**facts, "sql": "of another version"} if name == "spending" else facts for name, facts in first.items()
    }
    (changed,) = between(old, first).changed
    assert changed.changes == ("~ the same definition, compiled otherwise by this version of Headwater",)
    assert changed.restarts


def test_nothing_is_recorded_yet_or_the_platform_sent_it_again(first: dict[str, Facts], tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert recorded(home, JOB) is None
    unknown = plan(JOB, None, first, topics=("shop.orders",))
    assert {each.kind for each in unknown.views} == {"new"}
    assert unknown.fresh == ()
    assert "nothing is recorded yet" in plain(unknown)
    record(home, JOB, ID, first)
    file = json.loads(home.path("projects", "definitions", f"{JOB}.json").read_text())
    assert len(file["definition"]["abroad"]["fingerprint"]) == 12
    before = recorded(home, JOB)
    assert before is not None
    assert list(before.views) == list(first)
    assert before.id == ID
    assert plan(JOB, before, first, ID, True, TOPICS).nothing
    again = plan(JOB, before, first, "another", True, TOPICS)
    assert again.restored
    assert "has sent the job again" in plain(again)


def plain(found: Plan) -> str:
    return click.unstyle("\n".join(shown(found, Path("/shop"))))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Plan, dict[str, Facts]], None]:
    """What the commands find, without a platform."""
    running = SimpleNamespace(endpoints=SimpleNamespace(kafka="", flink=""))
    for module in (compose.commands.features, compose.commands.submit):
        monkeypatch.setattr(module, "running_platform", lambda: (Home(tmp_path), running))

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


def test_submit_says_it_in_a_line_and_keeps_a_checkpoint_from_being_misread(
    said: Callable[[Plan, dict[str, Facts]], None],
    first: dict[str, Facts],
    version: Callable[..., dict[str, Facts]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    sent: list[bool] = []

    class Book:
        at = "file:///chk-1"

        def records(self) -> list[JobRecord]:
            return [JobRecord(JOB, (), (ID,), cancelled=True)]

        def checkpoint(self, _: JobRecord) -> str:
            return self.at

        def submit(self, names: list[str], options: list[str], fresh: bool) -> list[JobRecord]:
            sent.append(fresh)
            return [JobRecord(name, tuple(options), (ID, "4567")) for name in names]

    monkeypatch.setattr(compose.commands.submit, "job_book", lambda *_: Book())
    monkeypatch.setattr(compose.commands.submit, "_prepared", lambda *_: JOB)
    new = version(("<> 'NL'", "<> 'BE'"))
    found = between(first, new, running=False)
    said(found, new)
    run, command = CliRunner().invoke, ["submit", "features", "--repo", str(SHOP)]
    done = run(headwater, command)
    assert done.exit_code == 1
    assert "1 changed (abroad), 2 unchanged" in done.output
    assert "cannot go on from its checkpoint: abroad: windows hold records as they were before" in done.output
    assert sent == []
    assert run(headwater, [*command, "--fresh"]).exit_code == 0
    assert sent == [True]
    before = recorded(Home(tmp_path), JOB)
    assert before is not None
    assert before.id == "4567"
    assert before.views["abroad"]["transformation"].endswith("<> 'BE'")
    Book.at = ""  # it never came to one: nothing can be misread
    assert run(headwater, command).exit_code == 0
    said(replace(found, fresh=()), new)
    assert run(headwater, command).exit_code == 0
    assert sent == [True, False, False]
