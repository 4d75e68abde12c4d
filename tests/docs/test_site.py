"""The site of the documentation: it builds without a warning, and nothing in it leads nowhere.

`mkdocs build --strict` makes an error of a page that is in no navigation, a link or an anchor that
does not exist, a name that the reference cannot find. What it does not look at is looked at here.
"""

import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fleetnet_device
import fleetnet_server
from docs.built_site import Built, build_once
from fleetnet import names, readings
from fleetnet_device import limits
from fleetnet_device.device import Device
from interpreters import ROOT

pytest.importorskip("mkdocs", reason="the extra docs is not installed")

README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (ROOT / "docs/index.md").read_text(encoding="utf-8")
MARKDOWN = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_once(tmp_path_factory)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Built]:
    """Pages by their place in the site, as "reference/fleetnet.html"."""
    return {str(path.relative_to(site)): Built(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_built(pages: dict[str, Built]) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        assert str(path.relative_to(ROOT / "docs").with_suffix(".html")) in pages
    assert len(pages) > 40


_LOADS = re.compile(r"""(url\(|@import|<image|href=)\s*["']?(https?:)?//""")


def test_no_page_asks_another_host(site: Path, pages: dict[str, Built]) -> None:
    for page in pages.values():
        outside = [one for one in page.fetched if urlsplit(one).netloc]
        assert not outside, f"{page.path} loads {outside}"
    for path in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        assert not _LOADS.search(path.read_text(encoding="utf-8")), path


def test_every_link_leads_somewhere(pages: dict[str, Built], site: Path) -> None:
    """Also those that the reference and the theme make."""
    lost = []
    for address, page in pages.items():
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not link or address == "404.html":
                continue
            target = address
            if parts.path:
                here = posixpath.dirname(address)
                target = posixpath.normpath(posixpath.join(here, unquote(parts.path)))
            found = pages.get(target)
            if not (site / target).is_file():
                lost.append((address, link))
            elif found and parts.fragment and unquote(parts.fragment) not in found.ids:
                lost.append((address, link))
    assert not lost


# Markdown that stayed what it was: a list, a table, a fence, a link, a mark of mkdocstrings.
RAW = re.compile(r"\n(- |\d+\. |\||```)|^\|.*\|$|\]\([\w./#-]+\)|^::: ")


def test_all_markdown_became_html(pages: dict[str, Built]) -> None:
    raw = [
        (address, text[:100])
        for address, page in pages.items() for text in page.paragraphs if RAW.search(text.strip())
    ]  # fmt: skip
    assert not raw


@pytest.mark.parametrize(
    "text", ["a list:\n- one", "| a | b |", "as\n```\ncode", "see [it](api.md)", "::: fleetnet"]
)
def test_what_stayed_markdown_is_seen(text: str) -> None:
    assert RAW.search(text)


def public_names() -> Iterator[str]:
    """What a program can import from the three packages, and call of a Device."""
    for module, listed in names._HOMES:
        for name in listed.split():
            if not name.isupper():  # CERT_NONE and its kin are in the table of docs/tls.md
                yield f"fleetnet.{module}.{name}"
    for name in fleetnet_server.__all__:
        yield f"{fleetnet_server._PLACES[name]}.{name}"
    for name in fleetnet_device.__all__:
        yield f"fleetnet_device.device.{name}"
    for name in vars(Device):
        if not name.startswith("_"):
            yield f"fleetnet_device.device.Device.{name}"


def test_the_reference_has_every_public_name(pages: dict[str, Built]) -> None:
    ids = {one for address, page in pages.items() if address.startswith("reference/")
           for one in page.ids}  # fmt: skip
    assert not [name for name in public_names() if name not in ids]


def test_errors_that_are_raised_are_shown(pages: dict[str, Built]) -> None:
    """`Raises:` is written in ways that the parser of docstrings would drop."""
    text = pages["reference/fleetnet.html"].path.read_text(encoding="utf-8")
    begin = text.index('id="fleetnet.streams.open_connection"')
    part = text[begin : text.index('id="fleetnet.streams.start_server"')]
    for name in ("Unreachable", "HandshakeTimeout", "CredentialError", "the first drain()"):
        assert name in part


def test_defaults_that_are_names_have_their_numbers() -> None:
    text = (ROOT / "docs/reference/fleetnet_device.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|$", text, re.MULTILINE)
    assert len(shown) == 6
    for name, number in shown:
        home = readings if name == "OCTET_STREAM" else limits
        assert getattr(home, name) == int(number), name


# -- links in the repository's own view ------------------------------------------------------

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"^(```.*?^```|(?:    .*\n)+)|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as a repository's web view and the site make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_file_lead_to_files(path: Path) -> None:
    for link in _LINK.findall(_CODE.sub("", path.read_text(encoding="utf-8"))):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        assert target.exists() and target.is_relative_to(ROOT), f"{path}: {link}"
        if parts.fragment and target.suffix == ".md" and "reference" not in target.parts:
            assert parts.fragment in anchors(target), f"{path}: {link}"


# A file of the repository that a page names, alone in a span of code.
_NAMED = re.compile(
    r"`((?:tests|tools|examples|deploy|docs)/[\w./*-]+|(?:server|fleetnet|device_lib)/[\w./*-]+\.py)`"
)


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_exist(path: Path) -> None:
    for name in _NAMED.findall(path.read_text(encoding="utf-8")):
        if path.name != "CHANGELOG.md":
            assert list(ROOT.glob(name.rstrip("/"))), f"{path} names {name}"


# -- the home page ---------------------------------------------------------------------------


def test_the_home_page_and_the_readme_show_the_same() -> None:
    """Programs word for word, and each line of what is typed and printed."""
    for program in re.findall(r"```python\n(.*?)```", INDEX, re.DOTALL):
        assert program in README
    typed = [line for line in re.sub(r"```.*?```", "", INDEX, flags=re.S).splitlines()
             if line.startswith("    ")]  # fmt: skip
    assert typed and not [line for line in typed if line not in README]


def test_the_links_of_the_repository_go_there(pages: dict[str, Built]) -> None:
    wanted = "https://github.com/fleetnet/fleetnet/blob/main/examples/hub.py"
    assert wanted in pages["hub.html"].links


def test_a_page_is_called_by_its_title(pages: dict[str, Built]) -> None:
    """The site shows no files: what is server.md in the repository has a title here."""
    files = [
        (address, called)
        for address, page in pages.items()
        for link, called in zip(page.links, page.called, strict=True)
        if not urlsplit(link).netloc and called.strip().endswith(".md")
    ]
    assert not files
    page = pages["simulator.html"]
    title = "How large a fleet can be, and what it takes"
    assert ("scaling.html", title) in zip(page.links, page.called, strict=True)


def test_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    """The control: a page outside of docs/ that is not there, a page that is in no navigation."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# A\n\n[b](../b.py) and [c](../c.py)\n")
    (tmp_path / "c.py").touch()
    (tmp_path / "mkdocs.yml").write_text(
        f"site_name: a\nhooks: [{ROOT / 'tools/site_hook.py'}]\nextra: {{repository: 'https://r'}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=tmp_path, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no file ../b.py" in done.stderr and "c.py" not in done.stderr
