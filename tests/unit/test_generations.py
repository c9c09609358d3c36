"""Which reading of its topic a view belongs to, the names its state is found by, and copies of repos."""

from pathlib import Path

import pytest

from compose.local import definitions
from compose.local.definitions import forget, keep
from compose.local.flink import latest_checkpoint, saved_state
from compose.local.home import Home, PlatformError
from features.compiler.flink import compile_view, generation_of
from features.compiler.repo import load_repo
from jobs.generations import Begun, Letters, following, newest, options
from jobs.tables import Broker, event_source, set_aside
from schemas.topics import Topic

SHOP = Path(__file__).parents[1] / "repos" / "shop"
SOURCES = {"spending": ("orders", "shop.orders"), "abroad": ("orders", "shop.orders"), "paid": ("bills", "shop.bills")}
pytestmark = pytest.mark.filterwarnings("ignore")


def test_what_begins_has_a_generation_of_its_own_and_the_rest_keeps_its() -> None:
    begun, letters = following(SOURCES, SOURCES, {}, {}, 0)
    assert begun == {name: Begun(0) for name in SOURCES}
    assert letters == {"orders": Letters("shop.orders", 0), "bills": Letters("shop.bills", 0)}
    assert list(options(begun, letters)) == []  # a repo that never changed is submitted as ever

    begun["abroad"] = Begun(0, {"0": 7})
    second, letters = following(SOURCES, {"spending"}, begun, letters, 1)
    assert second == {"spending": Begun(1), "abroad": Begun(0, {"0": 7}), "paid": Begun(0)}
    assert letters["orders"].generation == 0
    assert list(options(second, letters)) == ["--generation", "spending=1"]

    # All its views have begun since: the first reading goes on for its letters, which another would write again.
    third, letters = following(SOURCES, {"abroad"}, second, letters, 2)
    assert [each.generation for each in third.values()] == [1, 2, 0]
    assert letters["orders"].generation == 0
    assert newest(["--mode", "as-of", *options(third, letters)]) == 2

    # Another topic by the same source has letters of its own; a source that nobody reads has none.
    moved = {"spending": ("orders", "shop.v2"), "abroad": ("orders", "shop.v2")}
    fourth, letters = following(moved, set(moved), third, letters, 3)
    assert letters == {"orders": Letters("shop.v2", 3)}
    assert list(options(fourth, letters)) == [
        "--generation", "spending=3", "--generation", "abroad=3", "--letters", "orders=3",
    ]  # fmt: skip


def test_a_source_without_letters_takes_the_oldest_of_its_views() -> None:
    before = {"spending": Begun(1), "abroad": Begun(2)}
    sources = {name: SOURCES[name] for name in before}
    assert following(sources, (), before, {}, 3)[1] == {"orders": Letters("shop.orders", 1)}


def test_a_number_is_not_used_again_whatever_was_recorded() -> None:
    assert newest(()) == -1  # the first is 0
    assert newest(("--mode", "as-of")) == 0
    assert newest(("--generation", "a=3", "--letters", "s=4", "--view", "b")) == 4


def test_state_is_found_by_names_that_say_what_it_belongs_to() -> None:
    view = load_repo(SHOP).view("spending")
    first, second = compile_view(view), compile_view(view, 2)
    assert "uid => 'spending'" in first.select
    assert "uid => 'spending__g2'" in second.select
    assert "FROM orders_events" in first.views[0][1]
    assert "FROM orders__g2_events" in second.views[0][1]
    assert first.select == second.select.replace("__g2", "")
    assert generation_of("orders", 0) == "orders"


def test_a_reading_is_held_back_by_its_own_generation_alone() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "at", "type": "long"}]}

    def records(generation: int) -> str:
        broker = Broker("k:1", "features-shop", align="5 d", generation=generation)
        return event_source(broker, "orders", Topic("shop.orders", 1, key="", definition=schema), "at", 0)[0]

    assert "'scan.watermark.alignment.group' = 'features-shop'" in records(0)
    assert "'scan.watermark.alignment.group' = 'features-shop__g1'" in records(1)
    assert "'properties.group.id' = 'headwater-features-shop__g1'" in records(1)


@pytest.mark.parametrize(
    ("dead", "late", "where"),
    [
        (True, True, "(`decode_error` IS NOT NULL OR `rowtime` <= CURRENT_WATERMARK(`rowtime`))"),
        (True, False, "(`decode_error` IS NOT NULL)"),
        (False, True, "(`decode_error` IS NULL AND `rowtime` <= CURRENT_WATERMARK(`rowtime`))"),
    ],
)
def test_what_is_set_aside_by_whom(dead: bool, late: bool, where: str) -> None:
    _, insert = set_aside(Broker("k:1", "job", generation=3), "orders__g3", "shop.orders", dead, late)
    assert insert.endswith(f"WHERE `record_bytes` IS NOT NULL AND {where}")
    assert "'headwater.generation', ENCODE(CAST('3' AS STRING), 'UTF-8')" in insert


def repo(folder: Path) -> Path:
    (folder / "more").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "feature_store.yaml").write_text("project: p")
    (folder / "more" / "schema.avsc").write_text("{}")
    (folder / "definitions.py").write_text("a = 1")
    (folder / ".git" / "config").write_text("no")
    (folder / "online.db").write_text("no")
    (folder / "history.csv").write_bytes(bytes(definitions.FILE_BYTES_MAX + 1))
    return folder


def test_a_copy_has_what_definitions_need_and_stays_as_it_is(tmp_path: Path) -> None:
    home, source = Home(tmp_path / "home"), repo(tmp_path / "repo")
    first = keep(home, "features-p", source)
    names = sorted(str(each.relative_to(first)) for each in first.rglob("*") if each.is_file())
    assert names == ["definitions.py", "feature_store.yaml", "more/schema.avsc"]
    assert keep(home, "features-p", source) == first
    (source / "definitions.py").write_text("a = 2")
    second = keep(home, "features-p", source)
    assert second != first
    assert (first / "definitions.py").read_text() == "a = 1"
    other = keep(home, "scoring", source)
    forget(home, "features-p", {"--repo", str(second)})
    assert not first.exists()
    assert second.exists()
    assert other.exists()


def test_a_folder_that_is_no_repo_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "BYTES_MAX", 10)
    with pytest.raises(PlatformError, match="a copy of the definitions is kept"):
        keep(Home(tmp_path / "home"), "features-p", repo(tmp_path / "repo"))
    assert not (tmp_path / "home").exists()


def test_what_a_job_saved_in_the_end_is_newer_than_its_checkpoints(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for folder in ("chk-9", "chk-10"):
        home.path("flink", "checkpoints", "j", folder).mkdir(parents=True)
        home.path("flink", "checkpoints", "j", folder, "_metadata").touch()
    found = latest_checkpoint(home, "j")
    assert found is not None
    assert found.name == "chk-10"
    (saved_state(home, "j") / "savepoint-1").mkdir(parents=True)
    assert latest_checkpoint(home, "j") == found  # not complete
    (saved_state(home, "j") / "savepoint-1" / "_metadata").touch()
    assert latest_checkpoint(home, "j") == saved_state(home, "j") / "savepoint-1"
