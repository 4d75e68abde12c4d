"""docs/errors.md has a remedy for every error; docs/reference/errors.md has every class."""

import inspect
import re
from types import ModuleType

import pytest

import fleetnet.errors
import fleetnet_server.errors
from interpreters import ROOT

PAGE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")


def classes(module: ModuleType) -> list[str]:
    return [
        name for name, one in vars(module).items()
        if inspect.isclass(one) and one.__module__ == module.__name__
    ]  # fmt: skip


ALL = [*classes(fleetnet.errors), *classes(fleetnet_server.errors)]


def remedies() -> dict[str, list[str]]:
    """The cells behind each error's name in the tables, by name."""
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`") and not cells[0].startswith("`."):
            found.update({name: cells[1:] for name in re.findall(r"`(\w+)`", cells[0])})
    return found


# What is a family of others, and is told of in a sentence.
FAMILIES = ("FleetError", "LinkError")


@pytest.mark.parametrize("name", [name for name in ALL if name not in FAMILIES])
def test_an_error_has_a_remedy(name: str) -> None:
    found = remedies()
    assert name in found, f"docs/errors.md lacks {name}"
    assert all(len(cell) > 3 for cell in found[name]), name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_told_of(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_what_the_page_names_exists() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "server/fleetnet_server").rglob("*.py")
    )
    for name in set(remedies()) - set(ALL):
        assert re.search(rf"^class {name}\(|^{name}\b", source, re.MULTILINE), name


def test_the_reference_has_every_class() -> None:
    shown = re.findall(r"^::: (fleetnet(?:_server)?\.errors)\.(\w+)$", REFERENCE, re.MULTILINE)
    for module in (fleetnet.errors, fleetnet_server.errors):
        assert [name for home, name in shown if home == module.__name__] == classes(module)
