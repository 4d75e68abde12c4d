"""A fleet as people have it, for the dashboard: an orchard with sensors, pumps and cameras.

    async with Orchard(fleet) as orchard: ...      # its devices are real and connected

Everything is drawn from the name of the device: two runs show the same.
"""

import asyncio
import io
import math
import random
import time
from typing import Any, Self

from PIL import Image, ImageDraw, ImageFilter

from fleetnet_device import Device
from fleetnet_server.store.sqlite import SqliteStore
from server.web.world import PATIENCE_S, WebFleet

STAR = "weather-north"
CAMERA = "cam-gate"
AWAY = ("soil-07", "soil-12", "pump-03")
HOUR_S = 3600

NAMES = (
    STAR, "weather-south", CAMERA, "cam-yard", "cam-barn", "gateway-hill", "gateway-barn",
    *(f"soil-{number:02}" for number in range(1, 19)),
    *(f"pump-{number:02}" for number in range(1, 9)),
    *(f"valve-{number:02}" for number in range(1, 8)),
    "tank-east", "tank-west",
)  # fmt: skip

# channel: middle, how far it swings in an hour, noise
_CHANNELS = {
    "weather": {"temperature": (18.4, 2.2, 0.08), "humidity": (61.0, 7.0, 0.4),
                "pressure": (1013.2, 0.9, 0.02), "wind": (4.1, 1.8, 0.7)},
    "soil": {"moisture": (0.31, 0.02, 0.002), "temperature": (12.9, 0.4, 0.03)},
    "pump": {"flow": (22.0, 3.0, 0.5), "motor.current": (3.4, 0.3, 0.1)},
    "valve": {"position": (40.0, 20.0, 0.5)},
    "tank": {"level": (71.0, 4.0, 0.1)},
    "cam": {"exposure_us": (4200.0, 900.0, 40.0)},
    "gateway": {"uplink.rssi": (-71.0, 4.0, 1.2)},
}  # fmt: skip


class Orchard:
    """Devices of an orchard at a server that runs. ``names``: those that come."""

    def __init__(self, fleet: WebFleet, names: tuple[str, ...] = NAMES):
        self.fleet = fleet
        self.names = names
        self.devices: dict[str, Device] = {}

    def register(self) -> None:
        """Add all devices, with their labels; before the server starts."""
        fleet = self.fleet
        with SqliteStore(fleet.store) as store:
            for name in self.names:
                link = "dtls" if random.Random(name).random() < 0.6 else "tls"
                fleet.make_bundle(store, name, link)
                kind = name.partition("-")[0]
                site = "north" if random.Random(name).random() < 0.5 else "south"
                store.registry.change(name, "test", None, {"kind": kind, "site": site}, ())

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(self._connect(name) for name in self.names))
        for name in AWAY:
            if name in self.names:
                await self.live(name, time.time())
                await self.devices.pop(name).stop()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(device.stop() for device in self.devices.values()))

    async def _connect(self, name: str) -> None:
        device = Device(str(self.fleet.devices_folder / name))
        self.devices[name] = device

        @device.command("blink")
        def blink(times: int = 1) -> str:
            return f"blinked {times} times"

        @device.command("calibrate")
        def calibrate(offset: float) -> None:
            if abs(offset) > 2:
                raise ValueError("offset is beyond 2 degrees: look at the sensor first")

        @device.config.on_change
        def take(document: dict[str, Any]) -> None:
            if document.get("rate_hz", 1) > 50:
                raise ValueError("rate_hz is above 50, which this sensor does not reach")

        device.part("log")
        device.part("blobs")
        await device.start()
        async with asyncio.timeout(PATIENCE_S):
            while not device.is_open:
                await asyncio.sleep(0.02)

    async def live(self, name: str, at_s: float) -> None:
        """Send one reading of each channel, as of ``at_s``."""
        for channel, value in values(name, at_s).items():
            await self.devices[name].send(channel, value, time_ms=round(at_s * 1000))

    async def past(self, name: str, step_s: float = 10.0) -> None:
        """Send the readings of the last hour."""
        now_s = time.time()
        count = round(HOUR_S / step_s)
        for number in range(count):
            at_s = now_s - HOUR_S + number * step_s
            # Its radio was gone for some minutes.
            if not 0.42 < number / count < 0.47:
                await self.live(name, at_s)
            if number % 20 == 19:
                await self.devices[name].flush(20_000)


def values(name: str, at_s: float) -> dict[str, float]:
    """What the sensors of a device show at a time, unix s."""
    found = {}
    for channel, (middle, swing, noise) in _CHANNELS[name.partition("-")[0]].items():
        dice = random.Random(f"{name} {channel}")
        phase, period_s = dice.uniform(0, 6.28), dice.uniform(2400, 5200)
        jitter = random.Random(f"{name} {channel} {round(at_s)}").gauss(0, noise)
        slow = math.sin(phase + 6.28 * at_s / period_s) + 0.3 * math.sin(phase * 3 + at_s / 190)
        found[channel] = round(middle + swing * slow + jitter, 3)
    return found


def picture(width: int = 640, height: int = 400) -> bytes:
    """A JPEG of what the camera at the gate sees."""
    dice = random.Random(CAMERA)
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for y in range(height):
        share = y / height
        colour = (round(150 + 90 * share), round(185 + 35 * share), round(215 - 20 * share))
        draw.line((0, y, width, y), fill=colour)
    for depth, base in enumerate((0.52, 0.6, 0.7)):
        hill = [(x, height * (base + 0.05 * math.sin(x / (70 + 40 * depth) + depth)))
                for x in range(0, width + 8, 8)]
        green = (92 - 18 * depth, 128 - 16 * depth, 84 - 18 * depth)
        draw.polygon([*hill, (width, height), (0, height)], fill=green)
    for row in range(5):
        size = 9 + 7 * row
        for x in range(-20 + 13 * row, width, 34 + 15 * row):
            y = height * (0.62 + 0.065 * row) + dice.uniform(-3, 3)
            draw.rectangle((x - 1, y, x + 1 + row // 2, y + size), fill=(70, 52, 38))
            shade = dice.randrange(-12, 12)
            draw.ellipse((x - size, y - size, x + size, y + size * 0.5),
                         fill=(58 + shade, 98 + shade, 50 + shade))
    for x in (width * 0.3, width * 0.7):
        draw.rectangle((x, height * 0.55, x + 12, height), fill=(120, 104, 88))
    for y in (0.68, 0.78, 0.88):
        rail = (width * 0.31, height * y, width * 0.7, height * y + 7)
        draw.rectangle(rail, fill=(139, 122, 104))
    image = image.filter(ImageFilter.GaussianBlur(0.8))
    ImageDraw.Draw(image).text((10, 8), "cam-gate", fill=(255, 255, 255))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=82)
    return content.getvalue()
