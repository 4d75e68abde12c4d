"""Best-effort readings, from a real device over DTLS to whoever watches."""

import asyncio
from pathlib import Path

from fleetnet_device import Device
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.core.live import LiveReading, LiveReadings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.store.query import query
from fleetnet_server.store.sqlite import SqliteStore


async def test_live_readings_reach_who_watches_and_not_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    settings = Settings(host="localhost", bind="127.0.0.1", tls_port=0, dtls_port=0)
    async with Backend(folder, settings) as backend:
        real = settings.model_copy(
            update={"tls_port": backend.tls_port, "dtls_port": backend.dtls_port}
        )
        with SqliteStore(settings.store_path(folder)) as store:
            bundle = add_device(folder, real, store, "cam", "dtls")
        watcher = backend.live.watch()
        device = Device(str(bundle))
        assert not device.send_live("early", 1), "there is no way yet"
        async with device, asyncio.timeout(30):
            while not device.is_open:
                await asyncio.sleep(0.01)
            assert device.send_live("x", 1.5)
            assert device.send_live("x", {"y": [2]})
            first, second = await anext(watcher), await anext(watcher)
            assert (first.device, first.channel, first.value) == ("cam", "x", 1.5)
            assert second.value == {"y": [2]}
            assert backend.live.latest("cam") == {"x": second}
        assert device.live_dropped == 1
    assert list(query(settings.store_path(folder))) == []
    watcher.close()
    assert [reading async for reading in watcher] == []


def test_slow_watcher_loses_the_oldest() -> None:
    live = LiveReadings()
    watcher = live.watch()
    for number in range(1_030):
        watcher.put(LiveReading("cam", "x", number, number))
    assert watcher.dropped == 6
