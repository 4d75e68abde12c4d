"""Every core test file, run by every real MicroPython that this machine has."""

import ast
from pathlib import Path

import pytest

from interpreters import ROOT, Interpreter, interpreters, required

FILES = sorted((ROOT / "tests" / "core").glob("test_*.py"))


def names_in(path: Path) -> list[str]:
    """Names of the test functions that a file defines, in the order of the runner."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = [node.name for node in tree.body if isinstance(node, kinds)]
    return sorted(name for name in names if name.startswith("test_"))


def run(interpreter: Interpreter, path: Path) -> tuple[int, str]:
    done = interpreter.run("tests/run_on_micropython.py", str(path), timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_the_oldest_supported_version_is_here() -> None:
    if required() is None:
        pytest.skip("MicroPython 1.25 is not on this machine: tools/get_micropython.sh gets it")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda each: each.name)
def test_core_file(interpreter: Interpreter, path: Path) -> None:
    status, output = run(interpreter, path)
    names = [line.split()[1] for line in output.splitlines() if line.startswith("ok ")]
    assert status == 0, output
    assert names == names_in(path), output


@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def test_a():\n    assert 1 == 2\n", "FAIL test_a"),
        ("def test_a():\n    pass\nraise ValueError('x')\n", "FAIL test_bad (import)"),
        ("async def test_a():\n    1 / 0\n", "FAIL test_a"),
        ("def tset_a():\n    pass\n", "(no test in it)"),
    ],
)
def test_the_runner_sees_failures(
    interpreter: Interpreter, source: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "test_bad.py"
    path.write_text(source)
    status, output = run(interpreter, path)
    assert status == 1
    assert said in output
