"""docs/tutorial: every file is written, every command runs, every output is the one shown.

Each page is one test: in page order, in an empty folder, with real processes on terminals.
tutorial_page.py has the conventions. That a wrong line, a block of an unknown kind and a command
that says more than the page are found, the tests at the end show on pages of their own.
"""

import re
from pathlib import Path

import pytest

from docs.tutorial_page import PageError, blocks
from docs.tutorial_run import PORTS, Reader, has_program
from interpreters import ROOT, Interpreter, interpreters

PAGES = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
# What only these pages need.
PROGRAMS = {"14-mqtt.md": ("mosquitto", "mosquitto_sub", "mosquitto_rr")}


def camera() -> Interpreter:
    """Debian's newest: with a DTLS server, TLS 1.3, and no pre-shared keys, as the pages say."""
    able = [each for each in interpreters()
            if "dtls_server" in each.features and "psk" not in each.features]  # fmt: skip
    if not able:
        pytest.skip("the tutorial's camera is Debian's MicroPython 1.26, which is not here")
    return able[-1]


def go_through(page: Path, folder: Path) -> None:
    reader = Reader(page, folder, camera())
    try:
        for block in blocks(page):
            reader.do(block)
    finally:
        reader.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_true(page: Path, tmp_path: Path) -> None:
    for name in PROGRAMS.get(page.name, ()):
        if not has_program(name):
            pytest.skip(f"{name} is not installed")
    (tmp_path / "page").mkdir()
    go_through(page, tmp_path / "page")


def test_the_index_names_every_page_in_order() -> None:
    index = (ROOT / "docs/tutorial/index.md").read_text(encoding="utf-8")
    places = [index.find(f"({page.name})") for page in PAGES if page.name != "index.md"]
    assert -1 not in places and places == sorted(places)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_leads_on(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fenced = [line for block in blocks(page) for line in block.lines]
    words = len(text.split()) - len("\n".join(fenced).split())
    assert 200 <= words <= 700, f"{words} words beside its blocks"
    assert "## Next" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_port_of_a_page_is_another_one_here(page: Path) -> None:
    """Pages run beside each other: a port that is not in PORTS would be the same for all."""
    text = "\n".join(line for block in blocks(page) for line in block.lines)
    named = re.findall(
        r"""(?:127\.0\.0\.1|localhost)[:", ]{1,3}(\d{4,5})\b(?!-)"""
        r"|(?:port =|listener|-p|\.py) (\d{4,5})\b",
        text,
    )
    assert {one or other for one, other in named} <= set(PORTS)


GOOD = """
```python title="say.py"
print("7443", 12345)
```
```console
$ python say.py
7443 ...
$ echo one; echo two; echo three
one
...
three
$ true
```
"""
WRONG = {
    "another output": GOOD.replace("7443 ...", "7444 ..."),
    "a line missing": GOOD.replace("...\nthree", "three"),
    "a line too many": GOOD.replace("three\n$", "three\nfour\n$"),
    "an output that is not shown": GOOD.replace("$ true", "$ echo surprise"),
    "a command that does not exist": GOOD.replace("$ true", "$ no-such-command"),
    "a kind nobody knows": GOOD.replace("```console", "```sh"),
    "code without a file": GOOD.replace(' title="say.py"', ""),
    "an indented block": GOOD + "\n    fleetnet check\n",
    "a fence in a list": GOOD + "\n- so:\n  ```console\n  $ false\n  ```\n",
    "a terminal that says something else":
        GOOD + '\n```console title="server"\n$ echo ready\nreedy\n```\n',
}  # fmt: skip


def test_what_is_true_passes(tmp_path: Path) -> None:
    run_text(tmp_path, GOOD + '\n```console title="server"\n$ echo a; sleep 60\na\n```\n')


@pytest.mark.parametrize("text", WRONG.values(), ids=list(WRONG))
def test_what_is_not_true_is_found(text: str, tmp_path: Path) -> None:
    with pytest.raises(PageError):
        run_text(tmp_path, text)


def run_text(folder: Path, text: str) -> None:
    (folder / "page.md").write_text(text)
    (folder / "page").mkdir()
    go_through(folder / "page.md", folder / "page")
