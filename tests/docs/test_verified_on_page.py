"""docs/verified-on.md claims of no interpreter what no test runs there; threat-model.md neither."""

import importlib.util
import re

import pytest

from interpreters import ROOT

PAGE = (ROOT / "docs/verified-on.md").read_text(encoding="utf-8")
THREATS = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
FIRMWARE = re.compile(r"\b(interpreters|runtimes|every_runtime|each_runtime|RUNTIMES|runtime)\b")


def tables(text: str, heading: str) -> list[list[str]]:
    part = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if "tests/" in row[-1]]


def files(row: list[str]) -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py)`", row[-1])


def is_portable(path: str) -> bool:
    """Whether `make test` runs a file with the other CPythons, too."""
    place = ROOT / "tools" / "run_checks.py"
    spec = importlib.util.spec_from_file_location("run_checks", place)
    assert spec is not None and spec.loader is not None
    checks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checks)
    left_out = [one.removeprefix("--ignore=") for one in checks.NOT_PORTABLE]
    named = [one.partition("::")[0] for one in checks.PORTABLE]
    return path not in left_out and any(path == one or path.startswith(one + "/") for one in named)


DEVICE = tables(PAGE, "On the device")
BACK_END = tables(PAGE, "The back-end")


@pytest.mark.parametrize("row", [*DEVICE, *BACK_END], ids=lambda row: row[0][:40])
def test_a_claim_has_its_tests(row: list[str]) -> None:
    assert files(row)
    for path in files(row):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("row", DEVICE, ids=lambda row: row[0][:40])
def test_a_firmware_is_claimed_where_a_test_takes_one(row: list[str]) -> None:
    """tests/core runs on each by tests/test_on_micropython.py, others ask for interpreters."""
    words = {"yes", "no", "-", "stand-in", "not run"}
    assert len(row) == 7 and {cell.partition(",")[0] for cell in row[1:6]} <= words
    if any(cell.startswith("yes") for cell in row[1:4]):
        assert any(
            path.startswith("tests/core/") or FIRMWARE.search((ROOT / path).read_text("utf-8"))
            for path in files(row)
        )


@pytest.mark.parametrize("row", [*DEVICE, *BACK_END], ids=lambda row: row[0][:40])
def test_another_cpython_is_claimed_where_make_test_runs_it(row: list[str]) -> None:
    said = row[5] if len(row) == 7 else row[2]
    portable = [is_portable(path) for path in files(row)]
    assert (said in ("yes", "in part", "stand-in")) == any(portable), (said, files(row))


def test_no_board_is_claimed() -> None:
    assert "| **a board** | **none** |" in PAGE


def test_every_control_has_its_test() -> None:
    rows = tables(THREATS, "What stands in the way")
    assert len(rows) > 25
    for row in rows:
        assert len(row) == 4 and set(row[0]) <= set("STRIDE ")
        for path in files(row):
            assert (ROOT / path).is_file(), path
    part = THREATS.split("## What stands in the way")[1].split("\n## ")[0]
    bare = [line for line in part.splitlines()
            if re.match(r"\| [STRIDE]", line) and "`tests/" not in line]  # fmt: skip
    assert not bare
