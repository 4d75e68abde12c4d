"""Bad networks between real devices and a real server: everything arrives, once, in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bad_network import Faults, UdpProxy
from bad_streams import TcpProxy
from end_to_end.device_process import PATIENCE_S, until
from end_to_end.fleet import Fleet, name_of, runtimes
from end_to_end.store_check import faults_of

SEED = 20

# The oldest MicroPython and CPython: both sides of the device library.
RUNTIMES = [runtimes()[0], None] if runtimes()[0] else [None]


@asynccontextmanager
async def udp_proxy(fleet: Fleet, up: Faults, down: Faults) -> AsyncIterator[UdpProxy]:
    proxy = UdpProxy(fleet.dtls, SEED, up, down)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()


def bad() -> Faults:
    return Faults(loss=0.3, duplicate=0.2, reorder=0.3, reorder_ms=30)


async def test_loss_duplicates_and_reordering(fleet: Fleet) -> None:
    """30 % lost, 20 % doubled, 30 % out of order, on both ways, handshake included."""
    async with udp_proxy(fleet, bad(), bad()) as proxy:
        for runtime in RUNTIMES:
            await fleet.start_device(
                name_of(runtime), "dtls", runtime, seconds=3, rate=10, via=proxy.address
            )
        # device_main gives its last readings 20 s; the rest is for its handshake.
        await asyncio.gather(*(device.ended(PATIENCE_S) for device in fleet.devices))
        for way in (proxy.up, proxy.down):
            assert min(way.counters[k] for k in ("lost", "duplicated", "reordered")) > 0
    accounts = [device.account() for device in fleet.devices]
    assert faults_of(fleet.store, accounts) == []


async def test_cut_connections(fleet: Fleet) -> None:
    """All TCP connections are reset, or ended by FIN, each time that readings got through."""
    proxy = TcpProxy(fleet.tls, SEED)
    await proxy.start()
    try:
        for runtime in RUNTIMES:
            await fleet.start_device(name_of(runtime), "tls", runtime, rate=20, via=proxy.address)
        cuts = 0
        while cuts < 4:
            before = fleet.counters("acknowledged")
            await until(
                lambda before=before: any(fleet.gains("acknowledged", before)),  # type: ignore[misc]
                "somebody is back",
                explain=fleet.story,
            )
            (proxy.reset if cuts % 2 else proxy.cut)()
            cuts += 1
        accounts = await fleet.finish()
    finally:
        await proxy.close()
    assert faults_of(fleet.store, accounts) == []
    assert min(fleet.counters("connects").values()) > 1


async def test_new_address_of_a_nat(fleet: Fleet) -> None:
    """The server sees another source port, and does not know it: the device notices."""
    async with udp_proxy(fleet, Faults(), Faults()) as proxy:
        for runtime in RUNTIMES:
            await fleet.start_device(name_of(runtime), "dtls", runtime, via=proxy.address)
        await fleet.until_online()
        proxy.rebind()
        took_s = await asyncio.gather(
            # What is on its way back while the address changes may still arrive.
            *(device.until_acknowledged(41) for device in fleet.devices)
        )
        print({"back after a new address, s": [round(seconds, 1) for seconds in took_s]})
        accounts = await fleet.finish()
    assert faults_of(fleet.store, accounts) == []
    assert [device.counter("connects") for device in fleet.devices] == [2] * len(accounts)


async def test_black_hole(fleet: Fleet) -> None:
    """Nothing passes for four seconds, and then everything: the session goes on."""
    up, down = Faults(), Faults()
    async with udp_proxy(fleet, up, down) as proxy:
        for runtime in RUNTIMES:
            await fleet.start_device(name_of(runtime), "dtls", runtime, via=proxy.address)
        await fleet.until_online()
        up.black_hole = down.black_hole = True
        before = fleet.counters("sent")
        await until(
            lambda: min(fleet.gains("sent", before)) >= 80,
            "four seconds have passed on every device",
            explain=fleet.story,
        )
        held = fleet.counters("acknowledged")
        up.black_hole = down.black_hole = False
        took_s = await asyncio.gather(*(device.until_acknowledged(1) for device in fleet.devices))
        print({"back after a black hole, s": [round(seconds, 1) for seconds in took_s]})
        accounts = await fleet.finish()
    assert min(fleet.gains("acknowledged", held)) > 0
    assert proxy.up.counters["black_hole"] > 0
    assert faults_of(fleet.store, accounts) == []
    assert [device.counter("connects") for device in fleet.devices] == [1] * len(accounts)
