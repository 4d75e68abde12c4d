"""Every example is run by some test, and stands in the table of docs/tls.md."""

from pathlib import Path

import pytest

from interpreters import ROOT

EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_run_by_a_test(path: Path) -> None:
    name = str(path.relative_to(ROOT / "examples"))
    tests = [each for each in (ROOT / "tests").rglob("test_*.py") if each != Path(__file__)]
    assert any(name in each.read_text(encoding="utf-8") for each in tests), name


@pytest.mark.parametrize("path", sorted((ROOT / "examples/tls").glob("*.py")), ids=lambda p: p.stem)
def test_it_is_in_the_table(path: Path) -> None:
    table = (ROOT / "docs/tls.md").read_text(encoding="utf-8")
    assert f"](../examples/tls/{path.name})" in table
