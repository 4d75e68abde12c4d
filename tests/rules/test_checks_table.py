"""The closing line of the project's checks: what ran counts, tests or not."""

import importlib.util
from types import ModuleType

import pytest

from rules.tree import ROOT


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_checks", ROOT / "tools/run_checks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("is_ok", "passed", "failed", "line"),
    [
        (True, 0, 0, "1 passed, 0 failed, 0 skipped"),
        (False, 0, 0, "0 passed, 1 failed, 0 skipped"),
        (True, 7, 0, "7 passed, 0 failed, 0 skipped"),
        (False, 7, 2, "7 passed, 2 failed, 0 skipped"),
    ],
)
def test_a_check_without_tests_counts_as_one(
    checks: ModuleType, is_ok: bool, passed: int, failed: int, line: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(checks, "absent_tools", list)
    result = checks.Result("style")
    result.ok, result.passed, result.failed = is_ok, passed, failed
    assert checks.close([result], strict=True) == is_ok
    assert capsys.readouterr().out.splitlines()[-1] == line
