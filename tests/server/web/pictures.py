"""The pictures of docs/dashboard.md: an orchard with its hour, seen by a real Chromium.

    PYTHONPATH=.:server:device_lib:tests python -m server.web.pictures [FOLDER=docs/images]

Look at them before they are committed.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from server.web.chromium import DESKTOP, PHONE, Tab, chromium
from server.web.orchard import CAMERA, STAR, Orchard, picture
from server.web.world import WebFleet

LOG = (
    ("info", "sensors found: bme280, anemometer"),
    ("info", "radio: channel 11, -61 dBm"),
    ("warning", "anemometer: no pulse for 30 s, taken as calm"),
    ("info", "clock set by server"),
    ("error", "bme280: read failed (EIO), tried again"),
)
ALARMS = (
    ("pump-02", "dry-run", {"flow": 0.4, "limit": 2}),
    ("tank-east", "level-low", 11.5),
    (STAR, "frost-soon", "below 2 °C in 3 h"),
    ("cam-yard", "motion", None),
    (STAR, "wind-high", 14.2),
    ("soil-04", "sensor-open", "probe 2"),
)
CONFIG = {"rate_hz": 0.1, "alarms": {"frost_c": 2, "wind_ms": 14}}
COMMANDS: tuple[tuple[str, dict[str, float]], ...] = (
    ("blink", {"times": 3}),
    ("calibrate", {"offset": 4.5}),
    ("calibrate", {"offset": 0.2}),
    ("reboot", {}),
)
# name, page, what has to be there, screen, scheme
PICTURES: tuple[tuple[str, str, str, dict[str, int], Any], ...] = (
    ("overview-light", "/", "tbody tr", DESKTOP, "light"),
    ("overview-dark", "/", "tbody tr", DESKTOP, "dark"),
    ("device-light", f"/#/device/{STAR}", ".commands li", DESKTOP, "light"),
    ("camera-dark", f"/#/device/{CAMERA}", ".picture img", DESKTOP, "dark"),
    ("alarms-light", "/#/alarms", ".alarms li", DESKTOP, "light"),
    ("overview-phone-light", "/", "tbody tr", PHONE, "light"),
    ("device-phone-dark", f"/#/device/{STAR}", ".commands li", PHONE, "dark"),
    ("alarms-phone-dark", "/#/alarms", ".alarms li", PHONE, "dark"),
)

# Curves are drawn once a second.
_SETTLED_S = 1.2


async def fill(orchard: Orchard) -> None:
    """Give the orchard an hour of past, alarms, a log, commands and a configuration."""
    fleet, devices = orchard.fleet, orchard.devices
    await asyncio.gather(*(orchard.past(name) for name in (STAR, CAMERA)))
    for name in devices:
        await orchard.live(name, time.time())
    await devices[CAMERA].send_frame(picture(), "gate.jpg")
    for level, line in LOG:
        devices[STAR].log(level, line)
    for name, alarm, value in ALARMS:
        await devices[name].event(alarm, value)
        await devices[name].flush(20_000)
    path = f"/api/v1/devices/{STAR}"
    await fleet.ask("PUT", f"{path}/config", {"document": CONFIG})
    for command, arguments in COMMANDS:
        await fleet.ask("POST", f"{path}/call", {"name": command, "args": arguments})
    await fleet.ask("POST", "/api/v1/devices/valve-03/disable")
    for device in devices.values():
        await device.flush(20_000)


async def take(folder: Path) -> None:
    """Take all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        fleet = WebFleet(Path(place) / "fleet")
        orchard = Orchard(fleet)
        orchard.register()
        async with fleet, orchard, chromium() as browser:
            await fill(orchard)
            for name, path, ready, size, scheme in PICTURES:
                tab = await Tab.open(
                    browser, fleet, path=path, viewport=size, color_scheme=scheme,
                    device_scale_factor=2 if size is PHONE else 1,
                )  # fmt: skip
                await tab.page.wait_for_selector(ready)
                await tab.page.wait_for_selector(".live.is-live")
                await orchard.live(STAR, time.time())
                await asyncio.sleep(_SETTLED_S)
                await shoot(tab, folder / f"{name}.png", size is DESKTOP and "device" in path)
                await tab.close()


async def shoot(tab: Tab, path: Path, whole: bool) -> None:
    """Take one: of the whole page, or of what a screen shows of it."""
    await tab.page.screenshot(path=path, full_page=whole)
    # 256 colours are enough for a page, and a third of the bytes.
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")))
