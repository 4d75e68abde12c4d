"""Devices change their identities while they work: nothing is lost, nobody stays outside."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bad_network import Faults, UdpProxy
from end_to_end.fleet import name_of, runtimes
from end_to_end.rotating import RotatingFleet, wait_for
from end_to_end.store_check import faults_of, faults_of_keys
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.server_keys import ServerKeys
from interpreters import Interpreter

EVERYBODY = [(runtime, link) for runtime in runtimes() for link in ("tls", "dtls")]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[RotatingFleet]:
    async with RotatingFleet(tmp_path / "fleet") as made:
        yield made


async def start_everybody(fleet: RotatingFleet, own_key: bool = False) -> list[str]:
    """One device for each interpreter and transport."""
    names = []
    for runtime, link in EVERYBODY:
        name = f"{name_of(runtime)}-{link}"
        fleet.add_device(name, link)
        if own_key:
            fleet.change_bundle(name, own_key=True)
        await fleet.start_device(name, link, runtime)
        names.append(name)
    await fleet.until_online()
    return names


async def test_rotation_under_load(fleet: RotatingFleet) -> None:
    """Three times each, while 20 readings a second flow."""
    names = await start_everybody(fleet)
    for round_ in range(3):
        before = {name: fleet.working(name) for name in names}
        assert set(before.values()) == {round_}
        fleet.renew(*names)
        await fleet.until_settled(before)
    for device in fleet.devices:
        await device.until_acknowledged(10)
    accounts = await fleet.finish()
    assert faults_of(fleet.store, accounts) == []
    # One session to begin with, and one for each identity: nothing else was cut.
    assert set(fleet.counters("connects").values()) == {4}, fleet.story()
    for name in names:
        assert "key.der" not in fleet.files(name)
    superseded = fleet.read("SELECT count(*) FROM certificates WHERE reason = 'superseded'")
    assert superseded == [(3 * len(names),)]


@pytest.mark.parametrize("runtime", runtimes(), ids=name_of)
async def test_on_a_bad_network(fleet: RotatingFleet, runtime: Interpreter | None) -> None:
    """DTLS, a tenth of the datagrams lost, doubled or swapped: offers, probes and sessions."""
    faults = Faults(loss=0.1, duplicate=0.1, reorder=0.1)
    proxy = UdpProxy(fleet.dtls, 7, faults, faults)
    await proxy.start()
    try:
        name = name_of(runtime)
        await fleet.start_device(name, "dtls", runtime, via=proxy.address)
        await fleet.until_online()
        for _ in range(2):
            number = fleet.working(name)
            fleet.renew(name)
            await fleet.until_settled({name: number})
        accounts = await fleet.finish()
    finally:
        await proxy.close()
    assert faults_of(fleet.store, accounts) == []


@pytest.mark.parametrize("runtime", runtimes(), ids=name_of)
async def test_own_key(fleet: RotatingFleet, runtime: Interpreter | None) -> None:
    """The device makes the key; what the server sends holds none."""
    name = name_of(runtime)
    fleet.add_device(name, "tls")
    fleet.change_bundle(name, own_key=True)
    await fleet.start_device(name, "tls", runtime, rate=2)
    await fleet.until_online()
    for number in (0, 1):
        fleet.renew(name)
        await fleet.until_settled({name: number})
    made = fleet.read("SELECT key_made FROM certificates WHERE revoked_ms IS NULL")
    assert made == [("device",)]
    assert faults_of(fleet.store, await fleet.finish()) == []


@pytest.mark.parametrize("runtime", runtimes(), ids=name_of)
async def test_the_server_dies_in_the_middle(
    fleet: RotatingFleet, runtime: Interpreter | None
) -> None:
    """SIGKILL at many points of a rotation: the device gets in, and gets its new identity."""
    name = name_of(runtime)
    await fleet.start_device(name, "tls", runtime)
    await fleet.until_online()
    for delay_ms in (5, 30, 60, 90, 150):
        number = fleet.working(name)
        fleet.renew(name)
        await wait_for(lambda: fleet.identities(name)[0][0] > number, "an offer is noted", fleet)
        await asyncio.sleep(delay_ms / 1000)
        await fleet.kill_server()
        await fleet.start_server()
        await fleet.until_settled({name: number})
        await fleet.devices[0].until_acknowledged(1)
    assert faults_of(fleet.store, await fleet.finish()) == []


@pytest.mark.parametrize("runtime", runtimes(), ids=name_of)
@pytest.mark.parametrize("own_key", [False, True], ids=["key-by-server", "own-key"])
async def test_the_device_dies_in_the_middle(
    fleet: RotatingFleet, runtime: Interpreter | None, own_key: bool
) -> None:
    """SIGKILL at many points of a rotation: it comes back with one identity or the other."""
    name = name_of(runtime)
    fleet.add_device(name, "tls")
    fleet.change_bundle(name, own_key=own_key)
    for delay_ms in (0, 20, 40, 80, 160):
        device = await fleet.start_device(name, "tls", runtime)
        await device.until_acknowledged(1)
        number = fleet.working(name)
        fleet.renew(name)
        await wait_for(lambda: fleet.identities(name)[0][0] > number, "an offer is noted", fleet)
        await asyncio.sleep(delay_ms / 1000)
        await device.kill()
        device = await fleet.start_device(name, "tls", runtime)
        await fleet.until_settled({name: number})
        await device.until_acknowledged(1)
        await device.kill()
    assert faults_of_keys(fleet.store) == []


async def test_ca_rollover(fleet: RotatingFleet) -> None:
    """A, then A and B, then B, with devices live: nobody is cut off, nothing is lost."""
    names = await start_everybody(fleet)
    first = Authority.load(fleet.folder)
    error = await fleet.run("ca", "rotate", "--switch-server", expect=1)
    assert "no rollover is under way" in error
    await fleet.run("ca", "rotate")
    await fleet.until_settled(dict.fromkeys(names, 0))
    assert json.loads(await fleet.run("ca", "show", "--json"))["devices_not_yet"] == []
    await fleet.run("ca", "rotate", "--switch-server")
    for device in fleet.devices:
        await device.until_acknowledged(10)
    await fleet.run("ca", "rotate", "--finish")
    await fleet.until_settled(dict.fromkeys(names, 1))
    now = Authority.load(fleet.folder)
    assert len(now.anchors) == 1 and now.anchors != first.anchors
    assert set(fleet.read("SELECT DISTINCT generation FROM certificates")) == {(1,), (2,)}
    # A last rotation, with A gone: the server's chain is B's, and it is believed.
    fleet.renew(*names)
    await fleet.until_settled(dict.fromkeys(names, 2))
    accounts = await fleet.finish()
    assert faults_of(fleet.store, accounts) == []
    # Of three changes of identity, and no other reason.
    assert set(fleet.counters("connects").values()) == {4}, fleet.story()


async def test_a_device_without_the_new_anchor_holds_the_rollover_up(fleet: RotatingFleet) -> None:
    await fleet.start_device("here", "tls", None)
    fleet.add_device("away", "tls")
    await fleet.until_online()
    await fleet.run("ca", "rotate")
    await fleet.until_settled({"here": 0})
    assert "away" in await fleet.run("ca", "rotate", "--switch-server", expect=1)
    await fleet.start_device("away", "tls", None)
    await fleet.until_settled({"away": 0})
    await fleet.run("ca", "rotate", "--switch-server")
    assert faults_of(fleet.store, await fleet.finish()) == []


async def test_pins_come_before_the_key(fleet: RotatingFleet) -> None:
    """After a change of the server's key devices learn of the next one, and keep their pair."""
    await fleet.start_device("cam-1", "tls", None)
    await fleet.until_online()
    keys = ServerKeys(fleet.folder)
    before = keys.pins()
    serial = fleet.read("SELECT serial FROM identities")
    after = keys.renew(Authority.load(fleet.folder), change_key=True).pins()
    assert after[0] == before[1] and after[1] not in before
    await fleet.until_settled({"cam-1": 0})
    rows = fleet.read("SELECT serial, pins FROM identities WHERE state = 'working'")
    assert rows == [(serial[0][0], " ".join(after))]
    assert fleet.read("SELECT count(*) FROM certificates") == [(1,)]
    slots = fleet.folder / "devices" / "cam-1"
    kept = b"".join(path.read_bytes() for path in slots.glob("identity-?"))
    assert bytes.fromhex(after[1]) in kept
    assert faults_of(fleet.store, await fleet.finish()) == []
