"""Devices that lie about their identities, and one that is revoked while it gets a new one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fleetnet import credential as wire
from fleetnet.handshake import CAN_MAKE_KEY, CAN_ROTATE
from fleetnet.limits import MAX_SEQUENCE
from server.core.rotation_world import Clock, World, make_csr

CAN_BOTH = CAN_ROTATE | CAN_MAKE_KEY


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "fleet", Clock())
    yield made
    await made.rotations.stop()
    made.store.close()


def certificates(world: World) -> list[tuple[str, bool]]:
    rows = world.read("SELECT serial, revoked_ms FROM certificates ORDER BY issued_ms")
    return [(serial, revoked_ms is not None) for serial, revoked_ms in rows]


@pytest.mark.parametrize("case", ["revoked", "disabled", "removed"])
@pytest.mark.parametrize("own_key", [True, False], ids=["own key", "made here"])
async def test_nothing_is_made_for_who_goes(case: str, own_key: bool, world: World) -> None:
    """The server hears of a change some 250 ms later; until then the session lives."""
    peer = await world.open(can=CAN_BOTH if own_key else CAN_ROTATE)
    if own_key:
        await world.renew()
        assert [one.action for one in peer.sent] == [wire.REQUEST]
    registry = world.store.registry
    if case == "disabled":
        await asyncio.to_thread(registry.set_enabled, "cam-1", False)
    else:
        change = registry.revoke if case == "revoked" else registry.remove
        await asyncio.to_thread(change, "cam-1")
    before = certificates(world)
    if own_key:
        csr = make_csr(ec.generate_private_key(ec.SECP256R1()))
        await world.say(peer, wire.REQUESTED, peer.sent[-1].number, csr=csr)
    else:
        line = world.rotations._lines[peer.device_id]
        line.ask(1)
        world.rotations._consider(line)
        await world.quiet()
    assert certificates(world) == before
    assert wire.INSTALL not in [one.action for one in peer.sent]


@pytest.mark.parametrize("number", [MAX_SEQUENCE, MAX_SEQUENCE + 1, (1 << 32) - 1])
async def test_a_number_at_the_end_of_the_range_takes_none_away(number: int, world: World) -> None:
    liar = await world.open(number=number)
    world.close(liar)
    assert [row.number for row in world.rows()] == [0]
    honest = await world.open()
    await world.renew()
    assert [(one.action, one.number) for one in honest.sent] == [(wire.INSTALL, 1)]


async def test_a_store_of_last_week_is_told_the_number(world: World) -> None:
    peer = await world.open(number=40)
    assert world.rows()[0].number >= 40
    assert peer.sent
