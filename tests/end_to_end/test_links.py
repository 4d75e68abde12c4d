"""Which way a device takes: DTLS, TLS where UDP does not pass, and back; several servers;
a first contact without a date; a TLS connection that dies without a word."""

import glob
import json
import socket

import pytest

from bad_network import Faults, UdpProxy
from bad_streams import TcpProxy
from end_to_end.device_process import DeviceProcess, until
from end_to_end.fleet import Fleet, free_port, name_of, runtimes
from end_to_end.store_check import faults_of
from fleetnet_server.store.query import query
from interpreters import Interpreter

RUNTIMES = runtimes()
SEED = 31


def redirect(fleet: Fleet, name: str, **changes: object) -> None:
    """Register a device, and change its config.json."""
    bundle = fleet.add_device(name, "auto")
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config.update(tls_port=fleet.tls[1], dtls_port=fleet.dtls[1])
    config.update(changes)
    path.write_text(json.dumps(config))


async def until_link(device: DeviceProcess, link: str) -> None:
    """Wait until readings are acknowledged over ``link``."""
    await until(lambda: device.last("link") == link, f"{device.name} uses {link}",
                explain=device.story)  # fmt: skip
    await device.until_acknowledged(30)
    assert device.last("link") == link, device.story()


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_dtls_goes_first(fleet: Fleet, runtime: Interpreter | None) -> None:
    redirect(fleet, "cam")
    device = await fleet.start_device("cam", "auto", runtime)
    await until_link(device, "dtls")
    assert faults_of(fleet.store, await fleet.finish()) == []
    assert device.counter("connects") == 1


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_blocked_udp_falls_back_and_returns(
    fleet: Fleet, runtime: Interpreter | None
) -> None:
    """UDP is swallowed at first: TLS within seconds. Once it passes again, so does DTLS."""
    up, down = Faults(), Faults()
    up.black_hole = down.black_hole = True
    proxy = UdpProxy(fleet.dtls, SEED, up, down)
    await proxy.start()
    try:
        redirect(fleet, "cam", dtls_port=proxy.address[1])
        device = await fleet.start_device("cam", "auto", runtime, options={"return_ms": 3_000})
        await until_link(device, "tls")
        up.black_hole = down.black_hole = False
        await until_link(device, "dtls")
        assert faults_of(fleet.store, await fleet.finish()) == []
    finally:
        await proxy.close()


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_closed_udp_port_falls_back_at_once(
    fleet: Fleet, runtime: Interpreter | None
) -> None:
    redirect(fleet, "cam", dtls_port=free_port())
    device = await fleet.start_device("cam", "auto", runtime)
    await until_link(device, "tls")
    assert faults_of(fleet.store, await fleet.finish()) == []


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_next_server_of_the_list(fleet: Fleet, runtime: Interpreter | None) -> None:
    """The first address is dead, the second one serves."""
    good = {"host": "127.0.0.1", "tls_port": fleet.tls[1], "dtls_port": fleet.dtls[1],
            "server_hostname": "localhost"}  # fmt: skip
    redirect(fleet, "cam", tls_port=free_port(), dtls_port=free_port(), servers=[good])
    device = await fleet.start_device("cam", "auto", runtime)
    await until_link(device, "dtls")
    assert faults_of(fleet.store, await fleet.finish()) == []


@pytest.mark.parametrize("link", ["dtls", "tls"])
@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_first_contact_in_the_year_2000(
    fleet: Fleet, runtime: Interpreter | None, link: str
) -> None:
    """No date, no NTP: the server is known by its key, and the readings get their date."""
    if not glob.glob("/usr/lib/*/faketime/libfaketime.so.1"):
        pytest.skip("faketime is not installed")
    redirect(fleet, "cam", transport=link)
    device = await fleet.start_device("cam", link, runtime, clock="@2000-01-01 00:00:00")
    took_s = await device.until_acknowledged(30)
    print({"first acknowledgement without a date, s": round(took_s, 1)})
    assert faults_of(fleet.store, await fleet.finish()) == []
    times = [reading.unix_ms for reading in query(fleet.store)]
    assert times and min(times) > 1_700_000_000_000, "readings are dated"


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_first_contact_with_an_impostor(fleet: Fleet, runtime: Interpreter | None) -> None:
    """The date is unknown and the key is not the pinned one: nothing is sent, and it says so."""
    if not glob.glob("/usr/lib/*/faketime/libfaketime.so.1"):
        pytest.skip("faketime is not installed")
    redirect(fleet, "cam", transport="tls", pins=["00" * 32])
    device = await fleet.start_device("cam", "tls", runtime, clock="@2000-01-01 00:00:00")
    await until(lambda: bool(device.errors()), "it says why", explain=device.story)
    await until(lambda: device.counter("sent") > 30, "it goes on", explain=device.story)
    assert "key" in device.errors()[0] or "pin" in device.errors()[0], device.errors()
    assert device.counter("connects") == 0
    await device.kill()
    assert not list(query(fleet.store))


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_tls_connection_that_dies_without_a_word(
    fleet: Fleet, runtime: Interpreter | None
) -> None:
    """No FIN, no RST, no answer: the device leaves it and is back, and nothing is lost."""
    proxy = TcpProxy(fleet.tls, SEED)
    await proxy.start()
    try:
        redirect(fleet, "cam", transport="tls", tls_port=proxy.address[1])
        device = await fleet.start_device("cam", "tls", runtime)
        await device.until_acknowledged(1)
        proxy.swallow()
        took_s = await device.until_acknowledged(41)
        print({"back after a silent end over TLS, s": round(took_s, 1)})
        assert faults_of(fleet.store, await fleet.finish()) == []
        assert device.counter("connects") == 2
    finally:
        await proxy.close()


def test_the_port_that_nobody_has_is_free() -> None:
    """The tests above mean it: nothing answers there."""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free_port())) != 0
