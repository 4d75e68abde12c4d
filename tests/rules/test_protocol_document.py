"""docs/protocol.md against the code: vectors, kinds, reasons, limits, section numbers."""

import json
import re
from types import ModuleType

import pytest

from fleetnet import codes, errors, frame, handshake, kinds, limits, tags
from fleetnet.reasons import REASONS
from rules.tree import ROOT, product_files

DOCUMENT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
VECTORS = json.loads((ROOT / "tests" / "core" / "vectors.json").read_text(encoding="utf-8"))


def section(number: str, document: str = DOCUMENT) -> str:
    """Text of a section without its subsections' neighbours; AssertionError when missing."""
    found = re.search(rf"^#+ {re.escape(number)} .*?(?=^## |\Z)", document, re.M | re.S)
    assert found, f"docs/protocol.md has no section {number}"
    return found.group() if "." not in number else re.split(r"^### ", found.group(), flags=re.M)[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the table rows of a text, headings and rulers excluded."""
    lines = re.sub(r"^\|.*\n\|-.*\n", "", text, flags=re.M).splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]


def documented_kinds() -> dict[str, int]:
    return {row[1]: int(row[0], 16) for row in rows(section("3.1"))}


def constants(module: ModuleType) -> dict[str, int]:
    return {name: number for name, number in vars(module).items() if name.isupper()}


def test_the_vectors_are_those_of_the_file() -> None:
    for number, group, column in (
        ("12.1", "frames", 2),
        ("12.2", "refused_frames", 2),
        ("12.3", "payloads", 2),
        ("12.4", "refused_payloads", 3),
    ):
        shown = {
            row[0]: row[column].strip("`").replace("(none)", "") for row in rows(section(number))
        }
        assert shown == {row["name"]: row["hex"] for row in VECTORS[group]}, number


def test_the_json_vectors_are_those_of_the_file() -> None:
    for number, group in (("12.5", "bodies"), ("12.6", "refused_bodies")):
        shown = {row[0]: (row[1], row[2], row[3].strip("`")) for row in rows(section(number))}
        wanted = {row["name"]: (row["type"], row["meaning"], row["text"]) for row in VECTORS[group]}
        assert shown == wanted, number


def test_kinds_are_those_of_the_code() -> None:
    others = {"OPTIONAL", "SEQUENCED", "MORE", "STREAM_MASK", "MESSAGE"}
    streams = {row[1] for row in rows(section("5")) if row[1]}
    in_code = {n: number for n, number in constants(kinds).items() if n not in streams | others}
    differ = set(documented_kinds().items()) ^ set(in_code.items())
    assert not differ, f"section 3.1 and fleetnet/kinds.py differ in {differ}"


@pytest.mark.parametrize(
    ("numbers", "passes_on"), [(kinds, frame), (codes, errors), (tags, handshake)]
)
def test_who_has_them_all_has_them_all(numbers: ModuleType, passes_on: ModuleType) -> None:
    """A board never imports the first, everybody else the second, in both its lists."""
    wanted = constants(numbers)
    if numbers is tags:  # of HELLO's fields a program needs what it may say, not their tags
        wanted = {name: wanted[name] for name in wanted if name.startswith("CAN_")}
    lacking = set(wanted) - set(passes_on.__all__)
    assert not lacking, f"{passes_on.__name__} does not import and name in __all__: {lacking}"


def test_every_kind_has_a_vector() -> None:
    names = {number: name for name, number in documented_kinds().items()}
    shown = {names.get(row["kind"] & ~kinds.OPTIONAL) for row in VECTORS["frames"]}
    shown.update(row["type"] for group in ("payloads", "bodies") for row in VECTORS[group])
    if "ENDING" in shown:
        shown.update(("REFUSE", "BYE"))
    assert set(names.values()) <= shown, f"section 12 has none of {set(names.values()) - shown}"


def test_streams_are_those_of_the_code() -> None:
    for number, name, _ in rows(section("5")):
        assert not name or getattr(frame, name) == int(number)


def test_reasons_are_those_of_the_code() -> None:
    assert {int(row[0]): row[1] for row in rows(section("9"))} == REASONS


def test_limits_are_those_of_the_code() -> None:
    documented = {row[0]: int(row[1]) for row in rows(section("10"))}
    assert documented == {n: v for n, v in vars(limits).items() if n.isupper()}


def test_section_numbers_in_the_code_exist() -> None:
    wanted: set[str] = set()
    for path in product_files():
        text = " ".join(path.read_text(encoding="utf-8").split()).replace(" # ", " ")
        for first, more in re.findall(
            r"docs/protocol\.md sections? ([\d.]*\d)((?:(?:,| to| and) [\d.]*\d)*)", text
        ):
            wanted.update([first, *re.findall(r"[\d.]*\d", more)])
    assert len(wanted) > 8
    for number in sorted(wanted):
        section(number)
