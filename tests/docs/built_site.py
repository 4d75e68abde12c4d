"""The documentation, built once for all workers of a run; its pages, taken apart."""

import fcntl
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from interpreters import ROOT

PATIENCE_S = 300

# What a browser fetches by itself; where `a` leads is the reader's choice.
_FETCHED = {
    "audio": "src", "embed": "src", "iframe": "src", "img": "src", "input": "src",
    "link": "href", "object": "data", "script": "src", "source": "src", "track": "src",
    "use": "href", "video": "src",
}  # fmt: skip
# A link that only tells a relation, and fetches nothing.
_TOLD = {"canonical", "prev", "next", "alternate"}


def build(target: Path) -> None:
    """Build the site; the warnings of mkdocs are the error."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert done.returncode == 0, "\n".join(said)


def build_once(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site; the first worker of a run builds it, the others wait."""
    base = factory.getbasetemp()
    target = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    begun = target.with_suffix(".begun")
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not begun.exists():
            begun.touch()
            build(target)
            target.with_suffix(".built").touch()
    assert target.with_suffix(".built").exists(), "it does not build: see the test that tried"
    return target


class Built(HTMLParser):
    """One page of the site.

    Attributes:
        fetched: addresses that a browser asks for by itself. links: where `a` leads.
        called: what the reader sees of each of them. ids: anchors.
        paragraphs: the text of each `p` and `li`.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.called: list[str] = []
        self._is_in_link = False
        self.ids: set[str] = set()
        self.paragraphs: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.ids |= {values[key] for key in ("id", "name") if key in values}
        relations = set(values.get("rel", "").split())
        if tag in _FETCHED and not (tag == "link" and relations <= _TOLD and relations):
            self.fetched.append(values.get(_FETCHED[tag], ""))
        self.fetched += re.findall(r"(\S+)(?: \S+)?(?:,|$)", values.get("srcset", ""))
        self.fetched += re.findall(r"url\(([^)]+)\)", values.get("style", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
            self.called.append("")
            self._is_in_link = True
        if tag in ("p", "li", "td"):
            self.paragraphs.append("")
        if tag in ("pre", "code", "script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()
        self._is_in_link = self._is_in_link and tag != "a"
        if tag in ("p", "li", "td"):
            self.paragraphs.append("")

    def handle_data(self, data: str) -> None:
        if self._is_in_link:
            self.called[-1] += data
        if self.paragraphs and not self._open:
            self.paragraphs[-1] += data
