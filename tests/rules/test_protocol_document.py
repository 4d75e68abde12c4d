"""docs/protocol.md against the code: vectors, kinds, reasons, limits, section numbers."""

import json
import re

from fleetnet import frame, limits
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
    documented = {row[1]: int(row[0], 16) for row in rows(section("3.1"))}
    assert len(documented) == 23
    assert documented == {name: getattr(frame, name) for name in documented}
    others = {"OPTIONAL", "SEQUENCED", "MORE", "STREAM_MASK", "MESSAGE"}
    streams = {row[1] for row in rows(section("5")) if row[1]}
    constants = {name for name in vars(frame) if name.isupper() and not name.startswith("_")}
    assert constants - {"LIMIT"} == set(documented) | streams | others


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
