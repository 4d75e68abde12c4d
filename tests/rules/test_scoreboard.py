"""tests/proof/scoreboard.py counts what passed and nothing else; its rigs themselves are long."""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from proof import rigs, scoreboard
from proof.rigs import NEEDS, RIGS, Rig
from proof.scoreboard import is_bad, order, report, run_rig
from proof.verdict import Row, Skipped, finish, noticed
from rules.tree import ROOT

GOOD = Row("99", "a fault", "an end", "a figure", True, "a bad one", True)

RIG = """
import json, sys
rows = {rows!r}
with open(sys.argv[sys.argv.index("--json") + 1], "w") as file:
    json.dump({{"rows": rows}}, file)
print("last words")
sys.exit({code})
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a rig of a program that writes these rows; return what the scoreboard found."""
    monkeypatch.setattr(rigs, "HERE", tmp_path)

    def make(code: int, *rows: dict[str, Any]) -> list[dict[str, Any]]:
        (tmp_path / "made.py").write_text(RIG.format(rows=list(rows), code=code))
        return run_rig(Rig("made", {"99": "a fault"}), True, set(), tmp_path)

    return make


def code_of(*rows: dict[str, Any]) -> int:
    return report(list(rows), {}, Console(quiet=True), False)


def row(**changes: Any) -> dict[str, Any]:
    return {**vars(GOOD), **changes}


def test_a_good_row_counts(made: Any) -> None:
    found = made(0, row())
    assert [one["row"] for one in found] == ["99"] and not is_bad(found[0])
    assert code_of(*found) == 0


@pytest.mark.parametrize(
    "bad",
    [row(passed=False), row(control_red=False), row(passed="yes"), row(control_red=1)],
    ids=["failed", "a control that stayed green", "no verdict", "no verdict on the control"],
)
def test_a_bad_row_fails_the_scoreboard(bad: dict[str, Any]) -> None:
    assert is_bad(bad)
    assert code_of(row(), bad) == 1


def test_a_rig_that_says_nothing_is_a_failed_row(made: Any) -> None:
    for found in (made(0), made(3), made(0, {"row": "99", "passed": True})):
        assert [one["row"] for one in found] == ["99"]
        assert is_bad(found[0]) and "last words" in found[0]["figure"]


def test_an_exit_code_that_its_rows_do_not_explain_is_a_failure(made: Any) -> None:
    found = made(1, row())
    assert [is_bad(one) for one in found] == [False, True]


def test_what_was_not_run_is_not_green(made: Any) -> None:
    found = made(0, {"row": "99", "fault": "a fault", "skipped": "no root"})
    assert not is_bad(found[0])
    assert code_of(*found) == 2, "nothing ran"
    assert made(2, {"row": "99", "fault": "a fault", "skipped": "no root"}) == found
    assert code_of(*found, row(row="98")) == 0


def test_the_table_says_what_became_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=150, file=sys.stdout)
    left_out = {"row": "97", "fault": "a fault", "skipped": "no root"}
    assert report([row(), row(row="98", control_red=False), left_out], {}, console, True) == 1
    shown = capsys.readouterr().out
    assert "STAYED GREEN" in shown and "1 rows passed, 1 failed, 1 not run" in shown
    assert "97  no root" in shown and "netem" in shown


def test_finish_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert finish([GOOD], file) == 0
    assert json.loads(file.read_text())["rows"] == [vars(GOOD)]
    for change in ({"passed": False}, {"control_red": False}):
        assert finish([Row(**{**vars(GOOD), **change})], None) == 1
    assert finish([], None) == 1
    assert finish([Skipped("98", "a fault", "no root")], None) == 2
    assert "nothing ran" in capsys.readouterr().out
    assert finish([GOOD, Skipped("98", "a fault", "no root")], file) == 0
    assert "skipped" in json.loads(file.read_text())["rows"][1]


def test_a_control_is_noticed_by_its_own_fault_only() -> None:
    assert noticed(["the rig broke", "12 stored twice"], r"\d+ stored twice")
    assert not noticed(["the rig broke"], r"\d+ stored twice")
    assert not noticed([], "")


def test_every_rig_is_there_and_keeps_the_contract() -> None:
    rows = [name for rig in RIGS for name in rig.rows]
    assert len(rows) == len(set(rows))
    assert {str(number) for number in range(1, 32)} <= set(rows), "facts: 31 rows"
    assert sorted(rows, key=order)[:3] == ["1", "2", "3"]
    for rig in RIGS:
        assert rig.path.is_file(), rig.program
        source = rig.path.read_text()
        assert "finish(" in source and "arguments(" in source, rig.program
        assert ast.get_docstring(ast.parse(source)), rig.program
        assert ('"--rows"' in source) is rig.has_rows, rig.program
        assert set(rig.needs) <= NEEDS.keys(), rig.program


def test_quick_fits_five_minutes() -> None:
    quick = [rig for rig in RIGS if rig.in_quick]
    together = sum(rig.quick_s for rig in quick if not rig.is_alone)
    assert together / scoreboard._AT_ONCE + sum(rig.quick_s for rig in quick if rig.is_alone) < 300


def test_rows_that_nobody_knows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert scoreboard.main(["--rows", "4,999"]) == 2
    assert "no such row: 999" in capsys.readouterr().out


def test_the_page_has_every_row() -> None:
    page = (ROOT / "docs" / "proof.md").read_text()
    shown = set(re.findall(r"^\| ([\w]+) \|", page, re.M))
    assert {name for rig in RIGS for name in rig.rows} <= shown
