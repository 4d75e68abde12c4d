"""Every example is run by some test, and stands in the table of docs/tls.md."""

import os
import subprocess
import sys
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


@pytest.mark.parametrize("name", ["backend_camera", "backend_readings", "backend_report", "hub"])
def test_without_arguments_it_says_how_it_is_called(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith(f"usage: {name}.py FOLDER")
