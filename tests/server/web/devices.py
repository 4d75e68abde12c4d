"""A real device beside a server with HTTP, for the length of a test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fleetnet_device import Device
from server.web.world import PATIENCE_S, WebFleet

HOSTILE = "\u202e<img src=x onerror=alert(1)>\x1b[2J\r\n\x00"


async def until(ask: Callable[[], Awaitable[Any]], is_true: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while not is_true(found := await ask()):
            await asyncio.sleep(0.05)
    return found


@asynccontextmanager
async def online(fleet: WebFleet, name: str, **options: Any) -> AsyncIterator[Device]:
    bundle = fleet.devices_folder / name
    if not bundle.exists():
        await asyncio.to_thread(fleet.add_device, name, "tls")
    device = Device(str(bundle), **options)

    @device.command("double")
    def double(value: int) -> int:
        return 2 * value

    @device.command("fail")
    def fail() -> None:
        raise ValueError(HOSTILE)

    @device.config.on_change
    def changed(document: dict[str, Any]) -> None:
        """Whatever it is, it is applied."""

    async with device:
        async with asyncio.timeout(PATIENCE_S):
            while not device.is_open:
                await asyncio.sleep(0.01)
        yield device
