"""A device that loses its power while the server is away: what was on its flash arrives, once.

Each test runs a device on the oldest and the newest MicroPython and on CPython at once.
"""

import asyncio
from pathlib import Path

from end_to_end.device_process import until
from end_to_end.fleet import Fleet, name_of, runtimes
from end_to_end.store_check import faults_of
from fleetnet_server.store.query import query


def counts(fleet: Fleet, name: str) -> list[int]:
    """The values of the channel "count", by time of storing."""
    found = query(fleet.store, device=name, channel="count")
    return [int(reading.value) for reading in found]


async def test_killed_while_offline(fleet: Fleet, tmp_path: Path) -> None:
    """Online, offline for longer than RAM may hold it, killed, started again: nothing spooled
    is lost, nothing is doubled, and the counters say so."""
    for runtime in runtimes():
        name = name_of(runtime)
        options = {"spool": str(tmp_path / name)}
        await fleet.start_device(name, "dtls", runtime, options=options)
    await fleet.until_online()
    await fleet.kill_server()
    before = fleet.counters("sent")
    # 10 s in RAM, then on the flash.
    await until(
        lambda: min(fleet.gains("sent", before)) > 400,
        "they have been offline for twenty seconds",
        explain=fleet.story,
    )
    first = {device.name: device.account() for device in fleet.devices}
    await asyncio.gather(*(device.kill() for device in fleet.devices))
    spooled = {name: len(list((tmp_path / name).iterdir())) for name in first}
    assert min(spooled.values()) > 0, spooled

    fleet.devices.clear()
    await fleet.start_server()
    for runtime in runtimes():
        name = name_of(runtime)
        options = {"spool": str(tmp_path / name)}
        await fleet.start_device(name, "dtls", runtime, seconds=3, options=options)
    await asyncio.gather(*(device.ended() for device in fleet.devices))
    for device in fleet.devices:
        recovered = device.counter("recovered")
        assert recovered > 150, device.story()
        assert device.counter("sent") + recovered == device.counter("acknowledged"), device.story()
        values = counts(fleet, device.name)
        second = device.counter("sent") // 2
        old, new = values[:-second], values[-second:]
        assert new == list(range(second)), "the second run is whole"
        assert old == list(range(len(old))), "the first run has no hole and nothing twice"
        acknowledged = first[device.name].acknowledged // 2
        assert len(old) >= acknowledged + recovered // 2 - 1, (len(old), acknowledged, recovered)


async def test_clean_restart_goes_on_in_the_same_epoch(fleet: Fleet, tmp_path: Path) -> None:
    """Stopped while the server is away, with everything on the flash, and started again."""
    for runtime in runtimes():
        name = name_of(runtime)
        options = {"spool": str(tmp_path / name)}
        await fleet.start_device(name, "tls", runtime, rate=5, options=options)
    await fleet.until_online()
    await fleet.kill_server()
    before = fleet.counters("sent")
    await until(lambda: min(fleet.gains("sent", before)) > 10, "they are offline")
    await fleet.finish()
    accounts = {device.name: device.account() for device in fleet.devices}
    fleet.devices.clear()
    await fleet.start_server()
    for runtime in runtimes():
        name = name_of(runtime)
        options = {"spool": str(tmp_path / name)}
        await fleet.start_device(name, "tls", runtime, seconds=1, rate=5, options=options)
    await asyncio.gather(*(device.ended() for device in fleet.devices))
    for device in fleet.devices:
        first = accounts[device.name]
        assert device.counter("recovered") == first.sent - first.acknowledged, device.story()
        stored = len(list(query(fleet.store, device=device.name)))
        assert stored == first.sent + device.counter("sent"), "each reading of both runs, once"
    epochs = {(r.device, r.epoch) for r in query(fleet.store)}
    assert len(epochs) == len(fleet.devices), "one epoch a device"
    assert faults_of(fleet.store, []) == []
