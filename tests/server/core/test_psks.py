"""The service Psks over a real store: uses are noted, sessions of keys that ended end."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from fleetnet.errors import REVOKED
from fleetnet.handshake import Hello
from fleetnet_server.core.psks import Psks
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.psks import PskTable
from fleetnet_server.store.sqlite import SqliteStore


class Peer:
    """What the service sees of a device's session."""

    def __init__(self, device_id: int, psk_identity: str):
        self.device_id = device_id
        self.name = f"cam-{device_id}"
        self.psk_identity = psk_identity
        self.byes: list[int] = []

    def bye(self, reason: int) -> None:
        self.byes.append(reason)


class Table(PskTable):
    """The real one, that can be told to fail to commit."""

    fails = False

    def note_used(self, used: Mapping[str, int]) -> list[str]:
        if self.fails:
            raise StoreUnavailable("disk full")
        return super().note_used(used)


class World:
    """Three devices: two with keys, one with a certificate."""

    def __init__(self, path: Path):
        self.store = SqliteStore(path)
        self.devices = [self.store.add_device(f"cam-{number}") for number in (1, 2, 3)]
        self.table = Table(self.store)
        for device in self.devices[:2]:
            self.table.add(device, lambda identity: b"sealed", "test", False)
        self.service = Psks(self.table)
        self.peers = [Peer(1, "cam-1.1"), Peer(2, "cam-2.1"), Peer(3, "")]
        self.service.live = {peer.device_id: peer for peer in self.peers}  # type: ignore[misc]

    def open(self, peer: Peer) -> None:
        self.service.opened(peer, Hello())  # type: ignore[arg-type]

    async def look(self) -> None:
        """One look, and what it began."""
        self.service.look()
        if self.service._noting is not None:
            await self.service._noting

    def used(self) -> list[str]:
        return [psk.identity for psk in self.table.all() if psk.used_ms is not None]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "fleet.db")
    yield made
    await made.service.stop()
    made.store.close()


async def test_uses_are_noted_off_the_event_loop(world: World) -> None:
    for peer in world.peers:
        world.open(peer)
    assert world.used() == []  # nothing was written while the session opened
    await world.look()
    assert world.used() == ["cam-1.1", "cam-2.1"]
    assert [peer.byes for peer in world.peers] == [[], [], []]


async def test_a_key_that_was_removed_ends_its_session_and_no_other(world: World) -> None:
    for peer in world.peers:
        world.open(peer)
    await world.look()
    world.table.remove(world.devices[0], "test")
    await world.look()
    await world.look()
    assert [peer.byes for peer in world.peers] == [[REVOKED], [], []]


async def test_a_key_that_is_retired_ends_its_session(world: World) -> None:
    """Two programs with the keys of one device: the older key is out."""
    world.table.rotate(world.devices[0], lambda identity: b"sealed", "test", False)
    await world.look()
    assert world.peers[0].byes == []
    newer = Peer(1, "cam-1.2")
    world.open(newer)
    await world.look()  # notes, and retires
    await world.look()  # sees that
    assert world.peers[0].byes == [REVOKED] and newer.byes == []


async def test_a_key_that_ended_between_handshake_and_hello(world: World) -> None:
    world.table.remove(world.devices[0], "test")
    await world.look()
    late = Peer(1, "cam-1.1")
    world.open(late)
    assert late.byes == [REVOKED]
    await world.look()
    assert world.used() == []


async def test_a_store_that_is_away_gets_the_uses_later(world: World) -> None:
    world.table.fails = True
    world.open(world.peers[0])
    await world.look()
    world.open(world.peers[1])
    await world.look()
    assert world.used() == []
    world.table.fails = False
    await world.look()
    assert world.used() == ["cam-1.1", "cam-2.1"]


async def test_what_was_not_noted_yet_is_noted_at_the_end(world: World) -> None:
    world.open(world.peers[0])
    world.service.look()
    world.open(world.peers[1])
    await world.service.stop()
    assert world.used() == ["cam-1.1", "cam-2.1"]
    await asyncio.sleep(0)
