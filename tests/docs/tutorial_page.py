"""The blocks of a page of the tutorial, and whether an output is the one that it shows.

Each fenced block is of one of these kinds; any other is an error, so that nothing is left out:

- with ``title="NAME"`` and a language of FILES: the file NAME, written as it stands there;
- ``console``: lines that begin with ``$ `` are typed, one after the other, and each has to end;
  what stands below one is its whole output;
- ``console title="..."``: the same in a terminal of its own, where the last command goes on: it
  ends with the line ``^C`` of a later block of that title, or with the page.

In an output ``...`` stands for anything in its line, and alone for any number of lines. Times,
dates, sizes, serials and fingerprints are shown as they once were, and compared by their form.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

FILES = ("python", "toml", "json", "ini", "text")
_FENCE = re.compile(r"^```(?P<kind>\w*)(?: title=\"(?P<title>[^\"]+)\")?$")
_BLANK = re.compile(r"[ \t]+")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
# What differs from run to run, in the order in which it is looked for.
_CHANGES = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z)?"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "<date>"),
    (re.compile(r"\b[0-9A-F]{2}(:[0-9A-F]{2}){15,}\b"), "<fingerprint>"),
    (re.compile(r"\b[0-9a-f]{8,}\b"), "<hex>"),
    (re.compile(r"\b\d+ (B|days|MiB)\b"), r"<number> \1"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b"), r"<number> \2"),
)


class PageError(AssertionError):
    """A block that is of no known kind, or a console block that begins with output."""


@dataclass
class Step:
    """A typed line and the output below it; ``text`` is "" for what a terminal says later."""

    number: int
    text: str
    output: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``number`` is its line in the page, ``title`` its file or terminal."""

    number: int
    kind: str
    title: str
    lines: tuple[str, ...]

    @property
    def is_file(self) -> bool:
        return self.kind in FILES

    def steps(self) -> list[Step]:
        """Return what is typed, with the output of each."""
        steps: list[Step] = []
        for number, line in enumerate(self.lines, self.number + 1):
            if line.startswith("$ ") or line == "^C":
                steps.append(Step(number, line.removeprefix("$ ")))
            elif steps:
                steps[-1].output.append(line)
            else:
                steps.append(Step(number, "", [line]))
        if not self.title and (not steps or not steps[0].text):
            raise PageError(f"line {self.number}: a console block begins with `$ `")
        return steps


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page. PageError for one that no rule above has."""
    found: list[Block] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    index = 0
    while index < len(lines):
        if lines[index].startswith("    ") or lines[index].strip().startswith("~~~"):
            raise PageError(f"{path.name}:{index + 1}: code is fenced with ``` at the margin")
        if "```" not in lines[index]:
            index += 1
            continue
        fence = _FENCE.match(lines[index])
        end = next((at for at in range(index + 1, len(lines)) if lines[at] == "```"), None)
        if fence is None or end is None:
            raise PageError(f"{path.name}:{index + 1}: not a fence that is known")
        block = Block(index + 1, fence["kind"], fence["title"] or "", tuple(lines[index + 1 : end]))
        if block.kind != "console" and not (block.is_file and block.title):
            raise PageError(f"{path.name}:{index + 1}: {block.kind!r} without a known meaning")
        found.append(block)
        index = end + 1
    return found


def normal(text: str) -> str:
    """Return an output without what differs from run to run."""
    lines = [_BLANK.sub(" ", line).strip() for line in _CONTROL.sub("", text).splitlines()]
    shown = "\n".join(lines)
    for pattern, form in _CHANGES:
        shown = pattern.sub(form, shown)
    return shown


def pattern_of(output: list[str]) -> re.Pattern[str]:
    """Return what an output has to match from its beginning, line by line."""
    parts = []
    for line in normal("\n".join(output)).split("\n") if output else []:
        if line == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(r".*?".join(map(re.escape, line.split("..."))) + r"\n")
    return re.compile("".join(parts))


def is_shown(output: list[str], said: str) -> bool:
    """Whether ``said``, all of it, is what the page shows."""
    ended = normal(said).strip("\n")
    return pattern_of(output).fullmatch(ended + "\n" if ended else "") is not None
