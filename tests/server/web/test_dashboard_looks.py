"""Phone and desktop, dark and light, without motion: measured, with axe-core and a ruler."""

import time
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from server.web.chromium import DESKTOP, PHONE, Tab
from server.web.orchard import CAMERA, STAR, Orchard, picture
from server.web.test_overview import add_rows
from server.web.world import WebFleet

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A wide phone of ten years ago, turned or zoomed in (WCAG 1.4.10).
NARROW = {"width": 320, "height": 640}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


async def accessible(page: Page, what: str) -> None:
    """axe-core finds nothing: contrast, names, labels, roles, order of headings, targets."""
    found = await Axe().run(page, options={"runOnly": {"type": "tag", "values": RULES}})
    faults: list[Any] = [
        (what, one["id"], [(node["html"][:120], node["failureSummary"]) for node in one["nodes"]])
        for one in found.response["violations"]
    ]
    assert faults == []
    assert len(found.response["passes"]) > 10


async def fits(page: Page, what: str) -> None:
    """Nothing makes the page wider than the screen."""
    widths = await page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] <= widths[1], (what, widths)


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
async def test_every_page_is_accessible_and_fits(
    browser: Browser, orchard: Orchard, viewport: Any, scheme: Any
) -> None:
    await orchard.devices[STAR].event("frost", "in 3 h")
    await orchard.live(STAR, time.time())
    orchard.devices[STAR].log("warning", "anemometer: no pulse")
    await orchard.devices[CAMERA].send_frame(picture(1280, 800), "wide.jpg")
    tab = await Tab.open(
        browser, orchard.fleet, "admin", viewport=viewport, color_scheme=scheme
    )  # fmt: skip
    page = tab.page
    for path, ready in (
        ("/#/", "tbody tr"), (f"/#/device/{STAR}", ".plot .value"),
        (f"/#/device/{CAMERA}", ".picture img"), ("/#/alarms", ".alarms li"),
    ):  # fmt: skip
        await page.goto(tab.origin + path)
        await page.wait_for_selector(ready)
        await fits(page, path)
        await accessible(page, path)
        if viewport is PHONE:
            await page.set_viewport_size(NARROW)
            await fits(page, f"{path}, narrow")
            await page.set_viewport_size(PHONE)
    await page.goto(f"{tab.origin}/#/device/{STAR}")
    await page.get_by_role("button", name="Revoke…").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await accessible(page, "dialog")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_selector("#token")
    await fits(page, "login")
    await accessible(page, "login")
    await tab.close()


async def test_the_scheme_is_the_reader_s(browser: Browser, orchard: Orchard) -> None:
    shades = []
    for scheme in ("light", "dark"):
        tab = await Tab.open(browser, orchard.fleet, "read", color_scheme=scheme)
        shade = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        shades.append(int(shade.removeprefix("rgb(").partition(",")[0]))
        await tab.close()
    assert shades[0] > 200
    assert shades[1] < 60


async def test_nothing_moves_for_who_wants_no_motion(browser: Browser, orchard: Orchard) -> None:
    for motion, wanted in (("reduce", 0), ("no-preference", 1)):
        tab = await Tab.open(browser, orchard.fleet, "read", "/#/alarms", reduced_motion=motion)
        page = tab.page
        await page.wait_for_selector(".live.is-live")
        await orchard.devices[STAR].event("knock", motion)
        await expect(page.locator(".alarms li").first).to_contain_text(motion)
        moving = await page.evaluate("document.getAnimations().length")
        assert moving == wanted
        await tab.close()


async def test_of_ten_thousand_devices_one_screen_is_built(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fleet = WebFleet(tmp_path_factory.mktemp("many") / "fleet")
    add_rows(fleet, 10_000)
    async with fleet:
        tab = await Tab.open(browser, fleet, "read")
        page = tab.page
        await expect(page.locator("#shown")).to_have_text("1 to 50 of 10,000")
        assert await page.locator("tbody tr").count() == 50
        await page.get_by_role("button", name="Next").click()
        await expect(page.locator("tbody tr").first).to_contain_text("dev-00050")
        await page.get_by_label("Search").fill("dev-0999")
        await expect(page.locator("#shown")).to_have_text("1 to 10 of 10")
        await expect(page.get_by_role("button", name="Next")).to_be_hidden()
        await tab.close()


async def test_a_lost_connection_is_told_and_comes_back(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fleet = WebFleet(tmp_path_factory.mktemp("lost") / "fleet")
    async with fleet:
        tab = await Tab.open(browser, fleet, "read")
        page = tab.page
        await page.wait_for_selector(".live.is-live")
        await fleet.kill_server()
        banner = page.get_by_role("status").filter(has_text="Not live")
        await expect(banner).to_be_visible()
        await expect(page.locator("#live")).to_have_text("Not live")
        await fleet.start_server()
        await page.get_by_role("button", name="Try now").click()
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(banner).to_be_hidden()
        # What the browser itself says of a server that is gone.
        tab.faults = [fault for fault in tab.faults if "net::ERR_" not in fault]
        await tab.close()
