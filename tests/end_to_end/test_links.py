"""Which way a device takes: DTLS, TLS where UDP does not pass, and back; several servers;
a first contact without a date; a TLS connection that dies without a word.

Each test runs a device on the oldest and the newest MicroPython and on CPython at once.
"""

import asyncio
import glob
import json

import pytest

from bad_network import Faults, UdpProxy
from bad_streams import TcpProxy
from end_to_end.device_process import DeviceProcess, until
from end_to_end.fleet import Fleet, free_port, name_of, runtimes
from end_to_end.store_check import faults_of
from fleetnet_server.store.query import query

SEED = 31
YEAR_2000 = "@2000-01-01 00:00:00"


async def start(
    fleet: Fleet, options: dict[str, object] | None = None, clock: str = "", **changes: object
) -> list[DeviceProcess]:
    """Start a device of each runtime, with ``changes`` in its config.json."""
    for runtime in runtimes():
        path = fleet.add_device(name_of(runtime), "auto") / "config.json"
        config = json.loads(path.read_text())
        config.update(tls_port=fleet.tls[1], dtls_port=fleet.dtls[1])
        config.update(changes)
        path.write_text(json.dumps(config))
        await fleet.start_device(name_of(runtime), "auto", runtime, options=options, clock=clock)
    return fleet.devices


async def until_link(devices: list[DeviceProcess], link: str) -> None:
    """Wait until readings of all are acknowledged over ``link``."""

    async def one(device: DeviceProcess) -> None:
        await until(
            lambda: device.last("link") == link, f"{device.name} uses {link}", explain=device.story
        )
        await device.until_acknowledged(10)
        assert device.last("link") == link, device.story()

    await asyncio.gather(*map(one, devices))


@pytest.fixture
def faketime() -> None:
    if not glob.glob("/usr/lib/*/faketime/libfaketime.so.1"):
        pytest.skip("faketime is not installed")


async def test_dtls_goes_first(fleet: Fleet) -> None:
    devices = await start(fleet)
    await until_link(devices, "dtls")
    assert faults_of(fleet.store, await fleet.finish()) == []
    assert {device.counter("connects") for device in devices} == {1}


async def test_blocked_udp_falls_back_and_returns(fleet: Fleet) -> None:
    """UDP is swallowed at first: TLS within seconds. Once it passes again, so does DTLS."""
    up, down = Faults(), Faults()
    up.black_hole = down.black_hole = True
    proxy = UdpProxy(fleet.dtls, SEED, up, down)
    await proxy.start()
    try:
        devices = await start(fleet, {"return_ms": 6_000}, dtls_port=proxy.address[1])
        await until_link(devices, "tls")
        up.black_hole = down.black_hole = False
        await until_link(devices, "dtls")
        assert faults_of(fleet.store, await fleet.finish()) == []
    finally:
        await proxy.close()


async def test_closed_udp_port_falls_back_at_once(fleet: Fleet) -> None:
    devices = await start(fleet, dtls_port=free_port())
    await until_link(devices, "tls")
    assert faults_of(fleet.store, await fleet.finish()) == []


async def test_next_server_of_the_list(fleet: Fleet) -> None:
    """The first address is dead, the second one serves."""
    good = {
        "host": "127.0.0.1",
        "tls_port": fleet.tls[1],
        "dtls_port": fleet.dtls[1],
        "server_hostname": "localhost",
    }
    devices = await start(fleet, tls_port=free_port(), dtls_port=free_port(), servers=[good])
    await until_link(devices, "dtls")
    assert faults_of(fleet.store, await fleet.finish()) == []


@pytest.mark.usefixtures("faketime")
@pytest.mark.parametrize("link", ["dtls", "tls"])
async def test_first_contact_in_the_year_2000(fleet: Fleet, link: str) -> None:
    """No date, no NTP: the server is known by its key, and the readings get their date."""
    devices = await start(fleet, clock=YEAR_2000, transport=link)
    took_s = await asyncio.gather(*(device.until_acknowledged(30) for device in devices))
    print({f"30 acknowledged over {link} without a date, s": [round(s, 1) for s in took_s]})
    assert faults_of(fleet.store, await fleet.finish(), has_dates=False) == []
    times = [reading.unix_ms for reading in query(fleet.store)]
    assert times and min(times) > 1_700_000_000_000, "readings are dated"


@pytest.mark.usefixtures("faketime")
async def test_first_contact_with_an_impostor(fleet: Fleet) -> None:
    """The date is unknown and the key is not the pinned one: nothing is sent, and it says so."""
    devices = await start(fleet, clock=YEAR_2000, pins=["00" * 32])
    for device in devices:
        await until(lambda d=device: bool(d.errors()), "it says why", explain=device.story)  # type: ignore[misc]
        await until(lambda d=device: d.counter("sent") > 30, "it goes on", explain=device.story)  # type: ignore[misc]
        assert "none of the 1 pinned" in device.errors()[0], device.errors()
        assert device.counter("connects") == 0
        await device.kill()
    assert not list(query(fleet.store))


async def test_tls_connection_that_dies_without_a_word(fleet: Fleet) -> None:
    """No FIN, no RST, no answer: the device leaves it and is back, and nothing is lost."""
    proxy = TcpProxy(fleet.tls, SEED)
    await proxy.start()
    try:
        devices = await start(fleet, transport="tls", tls_port=proxy.address[1])
        await fleet.until_online()
        proxy.swallow()
        took_s = await asyncio.gather(*(device.until_acknowledged(41) for device in devices))
        print({"back after a silent end over TLS, s": [round(seconds, 1) for seconds in took_s]})
        assert faults_of(fleet.store, await fleet.finish()) == []
        assert {device.counter("connects") for device in devices} == {2}
    finally:
        await proxy.close()
