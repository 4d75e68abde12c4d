"""The `fleetnet` lines of the documentation: in fenced and indented blocks, and in the text."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from interpreters import ROOT

_COMMAND = re.compile(r"^(\$ )?(?P<command>([A-Z_]+=\S+ )*fleetnet( .*)?)$")
_SPAN = re.compile(r"`(fleetnet [^`]+)`")
_SHELL = ("```", "```sh", "```bash", "```console")


class Line(NamedTuple):
    """A command line of a page; ``number`` is its line there, ``block`` where its block begins."""

    page: str
    block: int
    number: int
    text: str


def pages() -> list[Path]:
    return [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def lines() -> Iterator[Line]:
    """Yield the command lines of all blocks; a line that ends with a backslash goes on."""
    for path in pages():
        for block, number, text in _joined(path.read_text(encoding="utf-8").splitlines()):
            found = _COMMAND.match(text)
            # A synopsis has what may be left out in brackets.
            if found and not re.search(r"fleetnet .*\[[-A-Z]", text):
                yield Line(path.name, block, number, found["command"])


def spans() -> Iterator[Line]:
    """Yield what the text, outside of blocks, shows as a command line."""
    for path in pages():
        is_fenced = False
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            is_fenced ^= text.lstrip().startswith("```")
            if not is_fenced and not text.startswith("    "):
                for span in _SPAN.findall(text):
                    yield Line(path.name, 0, number, span)


def blocks(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (its number, text) of each fenced shell block of a page."""
    texts = path.read_text(encoding="utf-8").splitlines()
    for number, first, last in _blocks(texts):
        if texts[number - 1].strip() in _SHELL:
            yield number, "\n".join(texts[first:last])


def _joined(texts: list[str]) -> Iterator[tuple[int, int, str]]:
    """Yield (where its block begins, its number, text) of each line of a shell block."""
    number = 0
    for block, first, last in _blocks(texts):
        number = first
        while number < last:
            begin, text = number, texts[number].strip()
            while text.endswith("\\") and number + 1 < last:
                number += 1
                text = text[:-1] + texts[number].strip()
            yield block, begin + 1, text
            number += 1


def _blocks(texts: list[str]) -> Iterator[tuple[int, int, int]]:
    """Yield (its number, index of its first line, index behind its last)."""
    index = 0
    while index < len(texts):
        text = texts[index]
        if text.lstrip().startswith("```"):
            end = index + 1
            while end < len(texts) and not texts[end].lstrip().startswith("```"):
                end += 1
            if text.strip() in _SHELL:
                yield index + 1, index + 1, end
            index = end + 1
        elif text.startswith("    "):
            end = index + 1
            while end < len(texts) and texts[end].startswith("    "):
                end += 1
            yield index + 1, index, end
            index = end
        else:
            index += 1
