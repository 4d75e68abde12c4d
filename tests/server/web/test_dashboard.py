"""The dashboard as somebody uses it: a real Chromium, a real server, real devices."""

import json
import time

import pytest
from playwright.async_api import Browser, Page, expect

from server.web.chromium import Tab
from server.web.orchard import CAMERA, STAR, Orchard, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_logging_in_and_out_keeps_the_token_from_scripts(
    browser: Browser, orchard: Orchard
) -> None:
    fleet = orchard.fleet
    tab = await Tab.open(browser, fleet, token="")
    page = tab.page
    await page.get_by_label("Token").fill("fnt_wrong")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("alert")).to_contain_text("unknown, was revoked, or has expired")
    await page.get_by_label("Token").fill(fleet.tokens["read"])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Devices", exact=True)).to_be_visible()
    await expect(page.locator("#holder")).to_have_text("read (read)")
    kept = await page.evaluate(
        "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, location.href,"
        " document.documentElement.outerHTML])"
    )
    assert fleet.tokens["read"] not in kept
    cookies = await tab.context.cookies()
    assert [(one["httpOnly"], one["sameSite"]) for one in cookies] == [(True, "Strict")]
    await page.reload()
    await expect(page.locator("tbody tr")).to_have_count(len(orchard.names))
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("status").filter(has_text="logged out")).to_be_visible()
    assert await tab.context.cookies() == []
    await tab.close()


# The page that looks every 5 s of its own accord would look as if it followed.
NO_LOOKS = """
const later = window.setTimeout;
window.setTimeout = (act, ms, ...more) => (ms === 5000 ? 0 : later(act, ms, ...more));
"""


async def test_the_overview_filters_and_follows(browser: Browser, orchard: Orchard) -> None:
    tab = await Tab.open(browser, orchard.fleet, "read", script=NO_LOOKS)
    page = tab.page
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(4)
    await expect(rows.filter(has_text="soil-07")).to_contain_text("offline")
    await page.get_by_role("button", name="Online").click()
    await expect(rows).to_have_count(3)
    await page.get_by_label("Search").fill("kind=cam")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text(CAMERA)
    assert "text=kind" in page.url
    await page.reload()
    await expect(rows).to_have_count(1)
    await page.get_by_label("Search").fill("")
    await page.get_by_role("button", name="All").click()
    await page.get_by_role("button", name="Device", exact=True).click()
    await expect(rows.first).to_contain_text(STAR)
    await expect(page.get_by_role("columnheader", name="Device")).to_have_attribute(
        "aria-sort", "descending"
    )
    # One comes and goes: no reload, and no wait for the next look of its own.
    await orchard._connect("soil-07")
    row = rows.filter(has_text="soil-07")
    await expect(row).to_contain_text("online")
    await orchard.devices["soil-07"].event("probe-open", "probe 2")
    await expect(page.locator("aside")).to_contain_text("probe-open")
    await orchard.devices.pop("soil-07").stop()
    await expect(row).to_contain_text("offline")
    await tab.close()


async def test_a_reading_appears_without_a_reload(browser: Browser, orchard: Orchard) -> None:
    device = orchard.devices[STAR]
    now_s = time.time()
    for number in range(60):
        await orchard.live(STAR, now_s - 600 + number * 10)
    await device.send("mode", "day")
    await device.flush(20_000)
    tab = await Tab.open(browser, orchard.fleet, "read", f"/#/device/{STAR}")
    page = tab.page
    await expect(page.locator(".plot")).to_have_count(4)
    plot = page.locator(".plot").filter(has_text="temperature")
    line = plot.locator(".line")
    assert (await line.get_attribute("d") or "").count("L") > 30
    await expect(page.locator(".values")).to_contain_text("day")
    await page.wait_for_selector(".live.is-live")
    await device.send("temperature", 99.25)
    await expect(plot.locator(".value")).to_have_text("99.25")
    await device.send("mode", "night")
    await expect(page.locator(".values")).to_contain_text("night")
    device.send_live("spin", 7)
    await expect(page.locator(".plot").filter(has_text="spin").locator(".value")).to_have_text("7")
    label = await plot.locator("svg").get_attribute("aria-label") or ""
    assert label.startswith("temperature: newest 99.25, between ")
    # The cursor reads the past, by keyboard as well.
    cursor = page.get_by_role("slider")
    await cursor.focus()
    for _ in range(4):
        await page.keyboard.press("PageDown")
    await expect(plot.locator(".when")).to_contain_text("at ")
    await page.get_by_role("button", name="5 min").click()
    await expect(page.locator(".plot").filter(has_text="spin")).to_be_visible()
    await tab.close()


AXES = """async (axes) => {
  const { axisText } = await import("/static/plot.js");
  return axes.map(({ ticks, step }) => ticks.map((tick) => axisText(tick, step, ticks[0])));
}"""


async def test_the_numbers_at_an_axis_are_told_apart(browser: Browser, orchard: Orchard) -> None:
    big = 1_795_293_470_000_000
    axes = [
        ([0, 20, 40], 20, ["0", "20", "40"]),
        ([20_000, 25_000], 5_000, ["20k", "25k"]),
        ([1e6, 1.2e6], 2e5, ["1e6", "1.2e6"]),
        ([1.01e6, 1.02e6], 1e4, ["1.01e6", "1.02e6"]),
        ([big, big + 20, big + 40], 20, ["1.7953e15", "+20", "+40"]),
        ([50_000, 50_000.5], 0.5, ["50k", "+0.5"]),
        ([2e-4, 2.5e-4], 5e-5, ["2e-4", "2.5e-4"]),
        ([-2e7, -1.5e7, 0], 5e6, ["-2e7", "-1.5e7", "0"]),
    ]
    tab = await Tab.open(browser, orchard.fleet, "read")
    given = [{"ticks": ticks, "step": step} for ticks, step, _ in axes]
    assert await tab.page.evaluate(AXES, given) == [labels for *_, labels in axes]
    await tab.close()


async def test_a_command_is_sent_by_keyboard_alone(browser: Browser, orchard: Orchard) -> None:
    tab = await Tab.open(browser, orchard.fleet, "operator")
    page = tab.page
    await page.wait_for_selector("tbody tr")
    await page.keyboard.press("Tab")
    assert await focused(page) == "Skip to the content"
    await page.keyboard.press("Enter")
    await walk(page, STAR)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name=STAR)).to_be_focused()
    await page.wait_for_selector("#command")
    await walk(page, "command")
    await page.keyboard.type("blink")
    await walk(page, "args")
    await page.keyboard.type("{times: 3}")
    await walk(page, "Send")
    await page.keyboard.press("Enter")
    alert = page.get_by_role("alert").filter(has_text="no JSON")
    await expect(alert).to_be_visible()
    assert await focused(page) == "args"
    await page.keyboard.press("Control+A")
    await page.keyboard.type('{"times": 3}')
    await walk(page, "Send")
    await page.keyboard.press("Enter")
    done = page.locator(".commands li").first
    await expect(done).to_contain_text("blinked 3 times")
    await expect(page.locator("#announcer")).to_have_text("blink: ok, blinked 3 times")
    await tab.close()


async def test_how_commands_end_is_told(browser: Browser, orchard: Orchard) -> None:
    tab = await Tab.open(browser, orchard.fleet, "operator", f"/#/device/{STAR}")
    page = tab.page
    await send(page, "calibrate", '{"offset": 5}')
    first = page.locator(".commands li").first
    await expect(first).to_contain_text("ValueError: offset is beyond 2 degrees")
    await send(page, "reboot", "")
    await expect(first).to_contain_text("no such command")
    await page.goto(f"{tab.origin}/#/device/soil-07")
    await send(page, "blink", "")
    await expect(page.locator("#command-error")).to_contain_text("is not connected")
    await page.get_by_label("When it is away, keep").select_option("For an hour")
    await page.get_by_role("button", name="Send").click()
    await expect(first).to_contain_text("waits for the device")
    await tab.close()


async def send(page: Page, name: str, args: str) -> None:
    await page.get_by_label("Command", exact=True).fill(name)
    await page.get_by_label("Arguments, as JSON").fill(args)
    await page.get_by_role("button", name="Send").click()


async def test_a_configuration_is_set_applied_and_rejected(
    browser: Browser, orchard: Orchard
) -> None:
    tab = await Tab.open(browser, orchard.fleet, "operator", f"/#/device/{STAR}")
    page = tab.page
    text, state = page.get_by_label("It should have"), page.locator(".config-state")
    await expect(state).to_contain_text("None was set")
    await text.fill("[1]")
    await page.get_by_role("button", name="Set").click()
    await expect(page.locator("#config-error")).to_contain_text("write an object")
    await text.fill('{"rate_hz": 5}')
    await page.get_by_role("button", name="Set").click()
    await expect(state).to_contain_text("applied")
    await text.fill('{"rate_hz": 80}')
    await page.get_by_role("button", name="Set").click()
    await expect(state).to_contain_text("rejected")
    await expect(state).to_contain_text("rate_hz is above 50")
    # What somebody is writing is not written over by what somebody else sets.
    await text.fill('{"rate_hz": 7')
    path = f"/api/v1/devices/{STAR}/config"
    await orchard.fleet.ask("PUT", path, {"document": {"rate_hz": 9}})
    await expect(state).to_contain_text("Version 3")
    await expect(text).to_have_value('{"rate_hz": 7')
    await page.get_by_role("button", name="Undo").click()
    assert json.loads(await text.input_value()) == {"rate_hz": 9}
    await tab.close()


async def test_only_an_image_is_shown_as_one(browser: Browser, orchard: Orchard) -> None:
    device = orchard.devices[CAMERA]
    await device.send_frame(picture(320, 200), "first.jpg")
    tab = await Tab.open(browser, orchard.fleet, "read", f"/#/device/{CAMERA}")
    page = tab.page
    image = page.locator(".picture img")
    await expect(image).to_be_visible()
    size = await image.evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
    assert size == [320, 200]
    await page.wait_for_selector(".live.is-live")
    await device.send_frame(picture(160, 100), "second.jpg")
    await expect(page.locator(".frame .hint")).to_contain_text("160 \u00d7 100")
    lie = b"<svg xmlns='http://www.w3.org/2000/svg' onload='ran = 1'/><script>ran = 1</script>"
    await device.send_frame(lie, "third.jpg")
    await expect(page.locator(".frame .hint")).to_contain_text("is no image that can be shown")
    await expect(image).to_have_count(0)
    async with page.expect_download() as waiting:
        await page.get_by_role("link", name="Save it as a file").click()
    saved = await waiting.value
    assert saved.suggested_filename == "third.jpg"
    assert await page.evaluate("window.ran") is None
    await tab.close()


async def test_disabling_and_revoking_are_asked_for_twice(
    browser: Browser, orchard: Orchard
) -> None:
    tab = await Tab.open(browser, orchard.fleet, "read", "/#/device/soil-01")
    await expect(tab.page.get_by_text("Changing it needs a token")).to_be_visible()
    await expect(tab.page.get_by_role("button", name="Disable")).to_have_count(0)
    await tab.close()
    tab = await Tab.open(browser, orchard.fleet, "admin", "/#/device/soil-01")
    page = tab.page
    state = page.locator(".heading .status")
    await page.get_by_role("button", name="Disable…").click()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(state).to_have_text("online")
    await page.get_by_role("button", name="Disable…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    await expect(state).to_have_text("disabled")
    await page.get_by_role("button", name="Enable…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Enable").click()
    await expect(state).not_to_have_text("disabled")
    await page.get_by_role("button", name="Revoke…").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("button", name="Revoke for ever")).to_be_disabled()
    await dialog.get_by_label("Reason").select_option("Out of use")
    await dialog.get_by_label("Type its name").fill("soil-01")
    await dialog.get_by_role("button", name="Revoke for ever").click()
    await expect(page.locator(".certificates")).to_contain_text("revoked (cessation)")
    await expect(page.get_by_text("Revoked: all its certificates are refused.")).to_be_visible()
    audit = await orchard.fleet.get("/api/v1/audit?device=soil-01")
    assert {one["actor"] for one in audit["items"][:3]} == {"token:admin"}
    await tab.close()


async def focused(page: Page) -> str:
    """What has the focus: its id, or what it says."""
    found: str = await page.evaluate(
        "document.activeElement.id && document.activeElement.id !== 'skip'"
        " ? document.activeElement.id : document.activeElement.textContent.trim()"
    )
    return found


async def walk(page: Page, wanted: str) -> None:
    """Press Tab until something has the focus; whatever has it on the way shows it."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        outline = await page.evaluate(
            "getComputedStyle(document.activeElement).outlineStyle"
            " + getComputedStyle(document.activeElement).outlineWidth"
        )
        found = await focused(page)
        assert outline == "solid2px", found
        if found == wanted:
            return
    raise AssertionError(f"Tab does not lead to {wanted}")
