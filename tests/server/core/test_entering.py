"""Sessions at a store that several servers share: they begin after a wait, and may be lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from end_to_end.device_process import until
from fleetnet import errors, relay
from fleetnet import frame as wire
from fleetnet.frame import READINGS
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet_server.core import entering
from fleetnet_server.core.origin import Origin
from server.core import relay_rig, session_world
from server.core.session_world import BODY, Link, World
from server.core.shared_store import SharedStore


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(session_world, "SqliteStore", SharedStore)
    made = World(tmp_path)
    made.register()
    yield made
    await made.stop()


@pytest.fixture
async def hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[relay_rig.World]:
    monkeypatch.setattr(relay_rig, "SqliteStore", SharedStore)
    made = relay_rig.World(tmp_path)
    yield made
    await made.stop()


def shared(world: World | relay_rig.World) -> SharedStore:
    assert isinstance(world.store, SharedStore)
    return world.store


async def turns() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def stored(world: World) -> list[int]:
    await world.writer.flush()
    return [seq for (seq,) in world.store.read("SELECT seq FROM messages ORDER BY id")]


async def opened(world: World) -> Link:
    link = world.open(Link())
    await turns()
    assert link.told() == ["opened"]
    return link


def send(link: Link, count: int = 1) -> None:
    for _ in range(count):
        link.session.send(1, READINGS, BODY)
    link.pump()


async def test_the_session_opens_when_the_store_has_answered(world: World) -> None:
    store = shared(world)
    store.permission.clear()
    link = world.open(Link())
    await turns()
    assert link.told() == [] and len(world.sessions.live) == 1
    store.permission.set()
    await turns()
    assert link.told() == ["opened"]
    send(link, 3)
    assert await stored(world) == [1, 2, 3]
    link.peer.link_lost(None)  # type: ignore[union-attr]
    (device,) = {device for device, _ in store.begun}
    assert store.ended == [device] and world.sessions.live == {}


async def test_a_link_that_is_lost_while_it_waits_gives_the_lease_back(world: World) -> None:
    store = shared(world)
    store.permission.clear()
    link = world.open(Link())
    await turns()
    assert link.peer is not None
    link.peer.link_lost(None)
    assert store.ended == []
    store.permission.set()
    await turns()
    assert store.held == set() and len(store.ended) == 1
    assert world.sessions.live == {} and world.sessions.presence.opened_count == 0


async def test_hello_twice_begins_once(world: World) -> None:
    """As over DTLS, where HELLO is said again until it is answered."""
    store = shared(world)
    store.permission.clear()
    link = world.accept(Link())
    assert link.peer is not None
    link.session.open_link(port.ticks(), False, Hello())
    for chunk in 2 * link.session.data_to_send(port.ticks()):
        link.peer.receive_data(chunk)
    store.permission.set()
    await turns()
    assert len(store.begun) == 1 and link.told() == ["opened"]


async def test_a_session_that_is_replaced_while_it_waits(world: World) -> None:
    store = shared(world)
    store.permission.clear()
    first = world.open(Link())
    await turns()
    second = world.open(Link())
    await turns()
    assert len(store.begun) == 1, "a device's sessions begin one after the other"
    store.permission.set()
    await turns()
    assert (first.told(), second.told()) == ([errors.REPLACED], ["opened"])
    assert len(store.begun) == 2 and len(store.held) == 1 and store.ended == []
    first.pump()
    assert first.peer is not None
    first.peer.link_lost(None)
    assert len(store.held) == 1, "the lease is the second session's"


async def test_a_store_that_is_away_or_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shared(world)
    store.is_away = True
    link = world.open(Link())
    await turns()
    assert link.told() == [errors.STORE_UNAVAILABLE] and not store.held
    link.peer.link_lost(None)  # type: ignore[union-attr]
    store.is_away = False
    store.permission.clear()
    monkeypatch.setattr(entering, "_WAIT_S", 0.05)
    silent = world.open(Link())
    await until(lambda: bool(silent.session.state and silent.told()), "an answer")
    silent.peer.link_lost(None)  # type: ignore[union-attr]
    store.permission.set()
    await turns()
    assert store.held == set() and len(store.ended) == 1, "what came late is given back"
    await opened(world)


async def test_a_device_that_was_disabled_meanwhile_is_sent_away(world: World) -> None:
    store = shared(world)
    store.permission.clear()
    link = world.open(Link())
    world.store.set_enabled("cam-1", False)
    world.watch.look()
    await world.watch.stop()
    store.permission.set()
    await turns()
    assert link.told() == [errors.DISABLED]


async def test_what_is_lost_is_never_acknowledged_and_nothing_is_stored_behind_it(
    world: World,
) -> None:
    """Another server has the device: messages 1 and 2 are stored here, 3 to 5 are not."""
    store = shared(world)
    link = await opened(world)
    send(link, 2)
    assert await stored(world) == [1, 2]
    (device,) = store.held
    send(link, 2)
    store.take(device)
    send(link, 1)
    assert await stored(world) == [1, 2]
    assert link.told() == [errors.REPLACED]
    waiting = link.session.sender.streams[1].frames
    assert len(waiting) == 3, "it has them still, and sends them where it is now"
    peer = link.peer
    assert peer is not None and peer.pending == 0 and world.router._waiting_bytes == 0
    assert (world.router.lost, world.sessions.entering.taken_count) == (3, 1)
    link.pump()
    assert world.sessions.live == {} and not world.sessions.entering.is_draining(device)
    assert store.ended == [], "the lease is another's"

    # It comes back here, with the same session: everything once, in order.
    link.session.close_link()
    again = Link()
    again.session = link.session
    world.open(again)
    await turns()
    again.pump()
    assert await stored(world) == [1, 2, 3, 4, 5] and world.router.duplicates == 0


async def test_a_notice_ends_a_session_that_sends_nothing(world: World) -> None:
    store = shared(world)
    link = await opened(world)
    (device,) = store.held
    assert store.on_lost is not None
    store.on_lost(device)
    assert link.told() == [errors.REPLACED]
    store.on_lost(77)


async def test_everybody_is_sent_away_while_the_store_is(world: World) -> None:
    link = await opened(world)
    world.sessions.entering.send_away()
    assert link.told() == [errors.STORE_UNAVAILABLE]
    link.pump()
    refused = world.open(Link())
    await turns()
    assert refused.told() == [errors.STORE_UNAVAILABLE] and world.sessions.live == {}
    world.sessions.entering.is_shut = False
    await opened(world)


# -- behind a hub ------------------------------------------------------------------------------


async def test_a_sensors_messages_wait_for_the_store(hubs: relay_rig.World) -> None:
    store = shared(hubs)
    hub = relay_rig.Link(hubs, "hub-1").hello()
    await turns()
    hub.pump()
    store.permission.clear()
    hub.announce(1, "cam")
    hub.announce(1, "cam")  # as it does each second
    for seq in (1, 2, 3):
        hub.carry(1, seq)
    await turns()
    assert hub.answers() == [] and hubs.stored("cam") == []
    store.permission.set()
    await turns()
    await hubs.settle(hub)
    assert hub.answers() == [wire.WELCOME] and len(store.begun) == 2
    assert hubs.stored("cam") == [(3, 1), (3, 2), (3, 3)] and hub.unacknowledged() == 0


async def test_a_hub_that_goes_while_its_sensor_waits(hubs: relay_rig.World) -> None:
    store = shared(hubs)
    hub = relay_rig.Link(hubs, "hub-1").hello()
    await turns()
    hub.pump()
    store.permission.clear()
    hub.announce(1, "cam")
    await turns()
    hub.peer.link_lost(None)
    store.permission.set()
    await turns()
    assert store.held == set() and hubs.sessions.live == {}
    assert hubs.presence("cam").state == "offline"


async def test_a_hub_is_sent_away_when_the_store_is_away(hubs: relay_rig.World) -> None:
    store = shared(hubs)
    hub = relay_rig.Link(hubs, "hub-1").hello()
    await turns()
    hub.pump()
    store.is_away = True
    hub.announce(1, "cam")
    await turns()
    hub.pump()
    assert hub.endings == [errors.STORE_UNAVAILABLE]


async def test_a_hub_that_is_lost_carries_nothing_more(hubs: relay_rig.World) -> None:
    store = shared(hubs)
    hub = relay_rig.Link(hubs, "hub-1").hello()
    await turns()
    hub.pump()
    hub.announce(1, "cam")
    await turns()
    hub.carry(1, 1)
    await hubs.settle(hub)
    assert hub.unacknowledged() == 0
    (origin,) = (peer for peer in hubs.sessions.live.values() if isinstance(peer, Origin))
    hub.announce(2, "other")  # nobody assigned it: what comes of it is skipped
    store.take(hub.peer.device_id)
    hub.carry(1, 2)
    hub.carry(2, 1)
    await hubs.settle(hub)
    assert hubs.stored("cam") == [(3, 1)] and hub.unacknowledged() == 2
    assert hub.endings == [errors.REPLACED] and hub.peer.pending == 0
    assert origin.pending == 0 and not origin._carrying
    assert hubs.sessions.live == {}
    marks = hubs.store.watermarks(hub.peer.device_id, hub.session.epoch)
    assert marks == {relay.RELAYED: 1}, "the next server goes on behind what is stored"


async def test_a_sensor_that_went_elsewhere_and_a_hub_that_still_keeps_for_it(
    hubs: relay_rig.World,
) -> None:
    """Its session ends here; what the hub has of it is stored, under the hub's own lease."""
    store = shared(hubs)
    hub = relay_rig.Link(hubs, "hub-1").hello()
    await turns()
    hub.pump()
    hub.announce(1, "cam")
    await turns()
    hub.pump()
    hub.answers()
    (cam,) = store.held - {hub.peer.device_id}
    store.take(cam)
    assert store.on_lost is not None
    store.on_lost(cam)
    hub.carry(1, 1)
    hub.carry(1, 2)
    await hubs.settle(hub)
    assert hub.answers() == [-errors.REPLACED]
    assert hubs.presence("cam").state == "offline"
    assert hubs.stored("cam") == [(3, 1), (3, 2)] and hub.unacknowledged() == 0
    assert store.begun[-1] == (cam, True)
    hub.announce(1, "cam", nonce=b"left", age_ms=None)
    await turns()
    assert store.begun[-1] == (cam, False) and store.held == {hub.peer.device_id}
