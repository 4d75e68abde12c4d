"""A real Chromium, and what went wrong in its pages that nobody would see."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    async_playwright,
    expect,
)

from server.web.world import WebFleet

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)

# The browser says so of every refusal that the page itself shows or knows how to take:
# nobody is logged in yet (401), there is no configuration (404), the device is away (409).
_EXPECTED = ("status of 401", "status of 404", "status of 409")

# Puts what the policy stopped where the test finds it.
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser of the machine; its sandbox needs what containers do not give root."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--font-render-hinting=none"]
        )
        try:
            yield browser
        finally:
            await browser.close()


class Tab:
    """A page of the dashboard.

    Attributes:
        page: Playwright's. faults: console errors, exceptions, requests to somewhere else.
    """

    def __init__(self, fleet: WebFleet, context: BrowserContext, page: Page):
        self.fleet = fleet
        self.context = context
        self.page = page
        self.origin = f"http://127.0.0.1:{fleet.web[1]}"
        self.faults: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.on("request", lambda request: self._asked(request.url))

    @classmethod
    async def open(
        cls,
        browser: Browser,
        fleet: WebFleet,
        token: str = "admin",
        path: str = "/",
        script: str = "",
        **options: Any,
    ) -> "Tab":
        """Open a page, logged in with a token of the fleet; "": not logged in.

        ``script`` runs before those of the page.
        """
        options.setdefault("viewport", DESKTOP)
        context = await browser.new_context(timezone_id="UTC", locale="en-GB", **options)
        await context.add_init_script(_WATCH + script)
        tab = cls(fleet, context, await context.new_page())
        if token:
            answer = await context.request.post(
                f"{tab.origin}/api/v1/session", data={"token": fleet.tokens[token]}
            )
            assert answer.ok, await answer.text()
        await tab.page.goto(tab.origin + path)
        return tab

    async def close(self) -> None:
        """Leave; what went wrong meanwhile fails the test."""
        violations = await self.page.evaluate("window.violations")
        await self.context.close()
        assert self.faults == []
        assert violations == []

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            if not any(text in message.text for text in _EXPECTED):
                self.faults.append(f"console: {message.text}")

    def _asked(self, url: str) -> None:
        self.requests.append(url)
        # What a page holds in itself is no address.
        if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(self.origin + "/"):
            self.faults.append(f"asked {url}")
