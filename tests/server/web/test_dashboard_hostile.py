"""What devices send, at its worst: nothing of it runs, and the layout holds."""

import asyncio
import json
import time
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from server.web.chromium import DESKTOP, PHONE, Tab
from server.web.orchard import CAMERA, STAR, Orchard

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = "<script>window.ran=1</script>"
IMAGE = '"><img src=x onerror="window.ran=2">'
BIDI = "\u202egnp.exe\u2066\u200f\u061c"
CONTROLS = "\x00\x1b[2J\x07\r\n\x7f\x9b\u2028"
TEXTS = (SCRIPT, IMAGE, BIDI, CONTROLS, "\ud83d\ud83d", "javascript:window.ran=3", "W" * 64,
         "__proto__", "constructor", "{{7*7}}", "&lt;b&gt;", "a\u0300" * 32)  # fmt: skip
LONG = "M" * 900


async def unharmed(page: Page) -> None:
    """Nothing ran, nothing became an element, nothing is wider than the page."""
    assert await page.evaluate("window.ran") is None
    assert await page.locator("main script, main img[src=x], main iframe").count() == 0
    wide = await page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide[0] <= wide[1], wide


async def fill(orchard: Orchard) -> None:
    device = orchard.devices[STAR]
    for text in TEXTS:
        await device.send(text.encode(errors="replace").decode()[:64], text)
        await device.send(f"n {text.encode(errors='replace').decode()}"[:64], 1e300)
        await device.event(text.encode(errors="replace").decode()[:60] or "x", {text: [text]})
        device.log("error", text.encode(errors="replace").decode())
        await device.flush(20_000)
    await device.send("long", LONG)
    await device.send("deep", json.loads("[" * 12 + "]" * 12))
    await device.send("n tiny", 5e-324)
    await device.send("n tiny", -1.7e308)
    await device.send("n then", 1, time_ms=round(time.time() * 1000) + 86_400_000)
    await device.event("long", LONG)
    await device.flush(20_000)
    camera = orchard.devices[CAMERA]
    for text in (SCRIPT, BIDI, "../../etc/passwd", 'a".html'):
        await camera.send_blob(text, b"<script>window.ran=4</script>", 50)


async def test_a_hostile_device_is_shown_as_what_it_is(browser: Browser, orchard: Orchard) -> None:
    await fill(orchard)
    fleet = orchard.fleet
    for viewport in (DESKTOP, PHONE):
        tab = await Tab.open(browser, fleet, "operator", viewport=viewport)
        page = tab.page
        await page.wait_for_selector("tbody tr")
        await expect(page.locator("aside")).to_contain_text("MMMM")
        await unharmed(page)
        await page.goto(f"{tab.origin}/#/device/{STAR}")
        await expect(page.locator(".log")).to_contain_text(SCRIPT)
        await expect(page.locator(".log")).to_contain_text("\\u202egnp.exe\\u2066")
        await expect(page.locator(".alarms")).to_contain_text(IMAGE)
        await expect(page.locator(".values")).to_contain_text("(900 characters)")
        await page.get_by_role("button", name="more channels").click()
        await expect(page.locator(".plot").filter(has_text="n tiny")).to_be_visible()
        assert await page.evaluate("({}).polluted === undefined && window.ran === undefined")
        await page.wait_for_selector(".live.is-live")
        await orchard.devices[STAR].send(IMAGE, SCRIPT)
        await orchard.devices[STAR].event(SCRIPT, IMAGE)
        await expect(page.locator(".alarms li").first).to_contain_text(SCRIPT)
        await unharmed(page)
        await page.goto(f"{tab.origin}/#/device/{CAMERA}")
        await expect(page.locator(".files li")).to_have_count(4)
        await unharmed(page)
        await page.goto(f"{tab.origin}/#/alarms")
        await expect(page.locator(".alarms li").first).to_contain_text(SCRIPT)
        await unharmed(page)
        await tab.close()


async def test_names_that_no_registry_takes_do_no_harm_either(
    browser: Browser, orchard: Orchard
) -> None:
    """The server lets none of these be registered; the page does not rely on it."""
    worst = (SCRIPT, IMAGE, BIDI, CONTROLS, "N" * 10_000, "../../x", "a b" * 3000, "\ud800")
    tab = await Tab.open(browser, orchard.fleet, "read", viewport=PHONE)
    page = tab.page
    row = (await orchard.fleet.get("/api/v1/overview?limit=1"))["items"][0]

    async def overview(route: Route) -> None:
        answer: dict[str, Any] = await (await route.fetch()).json()
        answer["items"] = [
            row | {"name": name, "group": name, "status": name, "labels": {name: name}}
            | {"connection": row["connection"] | {"link": name, "ended": name}}
            for name in worst
        ]  # fmt: skip
        await route.fulfill(body=json.dumps(answer), content_type="application/json")

    await page.route("**/api/v1/overview*", overview)
    await page.reload()
    await expect(page.locator("tbody tr")).to_have_count(len(worst))
    await expect(page.locator("tbody")).to_contain_text(SCRIPT)
    await unharmed(page)
    for name in worst[:5]:
        await page.locator("tbody tr a").nth(worst.index(name)).click()
        await expect(page.locator("h1")).to_be_visible()
        await expect(page.get_by_role("alert").first).to_be_visible()
        await unharmed(page)
        await page.go_back()
        await page.wait_for_selector("tbody tr")
    # The server refuses these names as well, and says so in the console: that is right.
    tab.faults = [fault for fault in tab.faults if "status of 422" not in fault]
    await tab.close()


async def test_a_flood_of_readings_leaves_the_page_usable(
    browser: Browser, orchard: Orchard
) -> None:
    tab = await Tab.open(browser, orchard.fleet, "read", f"/#/device/{CAMERA}")
    page = tab.page
    await page.wait_for_selector(".live.is-live")
    device = orchard.devices[CAMERA]
    for burst in range(20):
        for number in range(100):
            await device.send(f"c{number}", burst)
        await asyncio.sleep(0.02)
    await device.flush(20_000)
    await expect(page.locator(".plot").first).to_be_visible()
    assert await page.locator(".plot").count() <= 9
    await page.get_by_role("button", name="more channels").click()
    await expect(page.locator(".plot")).to_have_count(64)
    assert await page.evaluate("document.querySelectorAll('*').length") < 6000
    await tab.close()
