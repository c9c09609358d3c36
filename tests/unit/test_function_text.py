"""How a function in pandas is shown, and known again: its text, the plan, the command."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from compose.cli import headwater
from compose.plan import Recorded, facts_of, plan
from features.compiler.flink import compile_view
from features.compiler.function_text import text_of
from features.compiler.repo import load_repo

pytestmark = pytest.mark.filterwarnings("ignore")
CARDS = Path(__file__).parents[1] / "repos" / "cards"


def test_a_function_is_known_by_what_it_and_its_helpers_do(tmp_path: Path) -> None:
    for name in ("definitions.py", "rates.py", "feature_store.yaml"):
        (tmp_path / name).write_text((CARDS / name).read_text())

    def text(name: str = "", there: str = "", instead: str = "") -> str:
        whole = (tmp_path / name).read_text() if name else ""
        if name:
            assert there in whole
            (tmp_path / name).write_text(whole.replace(there, instead))
        found = compile_view(load_repo(tmp_path).views["spending_abroad"]).function
        assert found
        if name:
            (tmp_path / name).write_text(whole)
        return text_of(found.function)

    first = text()
    assert first == text()
    assert "kept['labels'].map(len)" in first
    assert text("definitions.py", "hour = kept", "# a comment\n    hour = kept") == first
    assert text("definitions.py", '"""Payments of some value', '"""Other payments') == first
    assert text("definitions.py", "hour < 6", "hour < 7") != first
    assert text("rates.py", "1.17", "1.18") != first
    assert text("rates.py", "currency.map(EUROS)", "currency.map(EUROS) + 0.5") != first
    assert text("definitions.py", 'astype("int64"))\n\n', 'astype("int64")) \n\n\n') == first


@pytest.mark.parametrize(
    ("name", "there", "instead", "says", "state"),
    [
        ("rates.py", "1.17", "1.18", "+ transformation:", "begins"),
        ("definitions.py", "hour < 6", "hour < 7", "  + def abroad(frame: pd.DataFrame) -> pd.DataFrame:", "begins"),
        ("definitions.py", "* 2,", "* 2.0,", "+ transformation:", "begins"),  # points are no whole numbers any more
        (
            "definitions.py",
            'udf_string="abroad",',
            'udf_string="abroad", tags={"columns": "paid, card, amount, currency, points, online, country, '
            'shop.terminal, fee, labels"},',
            "~ columns that its function gets: paid, card, amount, currency, points, online, country, shop.terminal, "
            "fee, labels, code -> paid, card, amount, currency, points, online, country, shop.terminal, fee, labels",
            "kept",
        ),
        ("definitions.py", "hour = kept", "# a comment\n    hour = kept", "", "kept"),
    ],
)
def test_a_plan_notices_a_changed_function(
    tmp_path: Path, name: str, there: str, instead: str, says: str, state: str
) -> None:
    for each in ("definitions.py", "rates.py", "feature_store.yaml"):
        (tmp_path / each).write_text((CARDS / each).read_text())
    old = json.loads(json.dumps(facts_of(load_repo(tmp_path).views.values())))
    whole = (tmp_path / name).read_text()
    assert there in whole
    (tmp_path / name).write_text(whole.replace(there, instead))
    found = plan("job", Recorded("", "id", old, {}, {}), facts_of(load_repo(tmp_path).views.values()), "id")
    view = next(each for each in found.views if each.name == "spending_abroad")
    assert view.state == state
    assert (says in view.changes) if says else view.changes == ()


def test_sql_in_place_of_pandas_begins_anew() -> None:
    facts = facts_of(load_repo(CARDS).views.values())
    sql = {"transformation": "SELECT * FROM payments_events"}
    old = {name: {key: each[key] for key in each if key != "pandas"} | sql for name, each in facts.items()}
    found = plan("job", Recorded("", "id", old, {}, {}), facts, "id")
    assert {each.state for each in found.views if "pandas" in facts[each.name]} == {"begins"}


def test_the_command_shows_the_function() -> None:
    done = CliRunner().invoke(headwater, ["features", "compile", "--repo", str(CARDS), "--view", "spending_abroad"])
    assert done.exit_code == 0, done.output
    for said in (
        "--   gets amount: double, or null",
        "--   cannot have lines: expected a plain type",
        "--   of what it gives is used euros: double",
        "kept = frame[(frame['country'] != 'NL')",
        "-- spending_abroad, in ClickHouse: what the function gets",
    ):
        assert said in done.output
    done = CliRunner().invoke(headwater, ["features", "compile", "--repo", str(CARDS), "--json"])
    latest, abroad, _ = json.loads(done.output)
    assert latest["pandas"]["gives"] == {"place": "string", "amount": "double", "number": "int64", "points": "int64"}
    assert abroad["pandas"]["left out"].keys() == {"lines"}
