"""The site in a real Chromium: read, searched, on a phone and in the dark, without a network."""

import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import ConsoleMessage, expect

from docs.built_site import build_once
from server.web.chromium import CHROMIUM, DESKTOP, PATIENCE_MS, PHONE, chromium

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
# Chromium itself lets the keyboard into what scrolls, as the theme's tables do on a phone.
NOT_ASKED = {"scrollable-region-focusable": {"enabled": False}}
# A page of text and programs, one that mkdocstrings made; with wide tables, with long lines.
LOOKED_INTO = ("index.html", "reference/fleetnet_server.html")
PAGES = (*LOOKED_INTO, "configuration.html", "tls.html")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of files, and of nothing else."""
    folder = str(build_once(tmp_path_factory))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> "AsyncIterator[Browser]":
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    async with chromium() as made:
        yield made


async def open_tab(browser: "Browser", origin: str, faults: list[str], **options: Any) -> "Page":
    """Open a tab that notes what its pages ask another host for, and what they complain of."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(PATIENCE_MS)

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"console: {message.text}")

    def asked(url: str) -> None:
        if not url.startswith((origin + "/", "data:", "blob:")):
            faults.append(f"asked {url}")

    page.on("console", said)
    page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
    page.on("request", lambda request: asked(request.url))
    return page


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
async def test_pages_fit_are_accessible_and_ask_nobody(
    browser: "Browser", origin: str, viewport: Any, scheme: Any
) -> None:
    faults: list[str] = []
    page = await open_tab(browser, origin, faults, viewport=viewport, color_scheme=scheme)
    for path in PAGES:
        await page.goto(f"{origin}/{path}")
        await expect(page.locator("h1")).to_be_visible()
        is_dark = "slate" == await page.locator("body").get_attribute("data-md-color-scheme")
        assert is_dark == (scheme == "dark")
        wide, seen = await page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= seen, path
        if path not in LOOKED_INTO:
            continue  # axe-core takes seconds for a page of this size
        options = {"runOnly": {"type": "tag", "values": RULES}, "rules": NOT_ASKED}
        found = await Axe().run(page, options=options)
        assert not [
            (path, one["id"], [node["html"][:120] for node in one["nodes"]])
            for one in found.response["violations"]
        ]
        assert len(found.response["passes"]) > 10
    await page.context.close()
    assert faults == []


async def test_the_search_finds_without_a_network(browser: "Browser", origin: str) -> None:
    faults: list[str] = []
    page = await open_tab(browser, origin, faults, viewport=DESKTOP)
    await page.goto(f"{origin}/index.html")
    await page.locator("input.md-search__input").click()
    await page.keyboard.type("housekeeping_share")
    hit = page.locator("a.md-search-result__link", has_text="Configuration").first
    await expect(hit).to_be_visible()
    await hit.click()
    await page.wait_for_url("**/configuration.html*")
    await page.context.close()
    assert faults == []


async def test_commands_are_copied_without_their_answers(browser: "Browser", origin: str) -> None:
    faults: list[str] = []
    page = await open_tab(
        browser, origin, faults, viewport=DESKTOP,
        permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    await page.goto(f"{origin}/tutorial/01-encrypted-socket.html")
    session = page.locator(".highlight", has=page.locator(".gp")).first
    shown = await session.inner_text()
    await session.hover()
    await session.get_by_role("button").click()
    await page.wait_for_function("async () => !!await navigator.clipboard.readText()")
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("fleetnet ") and "$" not in copied
    assert shown.count("\n") > copied.strip().count("\n")
    await page.context.close()
    assert faults == []
