"""Every number that bounds something has its reason beside it, and docs/limits.md has them all."""

import ast
import re
from pathlib import Path

from fleetnet_server.config import Settings
from fleetnet_server.reloading import CHANGEABLE
from rules.tree import ROOT

SERVER = ROOT / "server" / "fleetnet_server"
PAGE = ROOT / "docs" / "limits.md"
GUIDE = ROOT / "docs" / "operations.md"

# What a constant is called that bounds what others send or keep open.
LIMIT = re.compile("MAX|MOST|WAITING|BURST|UNSENT|_UNANSWERED|_KEPT$")


def is_number(node: ast.expr) -> bool:
    """Whether an expression is a number, written out or computed of numbers."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    return False


def unexplained(source: str) -> list[str]:
    """Constants of a module that are numbers, without a comment beside or above them.

    A comment above counts for the lines that follow without an empty one between.
    """
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names = [t.id for t in targets if isinstance(t, ast.Name) and t.id.isupper()]
        names = [name for name in names if name not in DEFINITIONS]
        if not names or not isinstance(node, ast.Assign) or not is_number(node.value):
            continue
        at = node.lineno - 1
        while at >= 0 and lines[at].strip() and "#" not in lines[at]:
            at -= 1
        if at < 0 or "#" not in lines[at]:
            found += names
    return found


def numbers_of_settings() -> dict[str, object]:
    return {
        key: field.default
        for key, field in Settings.model_fields.items()
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }


# The rooms that the world talks to; the commands and the simulator are for their own user.
INNER = ("bench", "cli", "doctor", "provision", "sim")

# What a day is needs no reason.
DEFINITIONS = ("_DAY_S", "_DAY_MS", "DAY_MS", "HOUR_MS", "_HOUR_MS", "MINUTE_MS")


def modules() -> list[Path]:
    found = sorted(SERVER.rglob("*.py"))
    return [path for path in found if path.relative_to(SERVER).parts[0] not in INNER]


def test_every_number_has_its_reason() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in modules()
        if (names := unexplained(path.read_text(encoding="utf-8")))
    }
    assert not found, f"numbers without a comment that says why: {found}"


def test_the_rule_sees_a_number_without_a_reason() -> None:
    source = "MOST = 3\n\n# Why.\nA = 1\nB = 2 << 20\n\nC = 4.0\nD = 5  # why\n\nE = 'x'\n"
    assert unexplained(source) == ["MOST", "C"]


def test_every_setting_that_is_a_number_says_what_it_is() -> None:
    fields = Settings.model_fields
    bare = [key for key in numbers_of_settings() if not fields[key].description]
    assert not bare, f"settings without a description: {bare}"
    unlimited = [key for key in numbers_of_settings() if not fields[key].metadata]
    assert not unlimited, f"settings without a range: {unlimited}"


def rows() -> dict[str, list[str]]:
    """The table rows of docs/limits.md by their first cell."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_the_page_has_every_setting_and_its_default() -> None:
    page = rows()
    for key, default in numbers_of_settings().items():
        assert key in page, f"docs/limits.md lacks {key}"
        shown = page[key][0].replace(",", "")
        assert float(shown) == default, f"docs/limits.md: {key} is {default}, not {shown}"
        assert len(page[key][-1]) > 15, f"docs/limits.md: {key} without a reason"
        live = {"yes": True, "no": False}[page[key][1]]
        assert live == (key in CHANGEABLE), f"docs/limits.md: is {key} live or not?"


def test_the_guide_names_what_changes_without_a_restart() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    part = text[text.index("These settings change without a restart") :].split("Sessions that")[0]
    assert set(re.findall(r"`(\w+)`", part)) == CHANGEABLE


def test_what_may_not_grow_is_on_the_page() -> None:
    """A number that is called a limit is one, and the page says which."""
    page = rows()
    lacking = []
    for path in modules():
        module = str(path.relative_to(SERVER))[:-3].replace("/", ".")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and is_number(node.value):
                names = [t.id for t in node.targets if isinstance(t, ast.Name)]
                lacking += [f"{module}.{n}" for n in names if LIMIT.search(n)]
    lacking = [name for name in lacking if name not in page]
    assert not lacking, f"docs/limits.md lacks {lacking}"


def test_the_page_is_right_about_the_numbers_of_the_code() -> None:
    """Rows named module.NAME are compared with the module."""
    checked = 0
    for key, cells in rows().items():
        module, dot, name = key.rpartition(".")
        if not dot:
            continue
        path = SERVER / (module.replace(".", "/") + ".py")
        scope: dict[str, object] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and is_number(node.value):
                text = ast.unparse(node.value)
                scope.update((t.id, eval(text)) for t in node.targets if isinstance(t, ast.Name))  # noqa: S307
        assert name in scope, f"docs/limits.md: no {key}"
        assert scope[name] == float(cells[0].replace(",", "")), f"docs/limits.md: {key}"
        checked += 1
    assert checked > 20
