"""Hubs at the back-end: whose messages are stored, what goes back, who is sent away."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleetnet import commands as wire_commands
from fleetnet import errors, relay
from fleetnet import frame as wire
from fleetnet.ports import port
from fleetnet.session import OPEN, Session
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.peer import Peer
from server.core.relay_rig import BODY, EPOCH, Link, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.stop()


async def test_messages_are_stored_under_the_sensors_own_numbers(world: World) -> None:
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    assert hub.answers() == [wire.WELCOME]
    shown = world.presence("cam")
    assert (shown.state, shown.link, shown.via, shown.software) == (
        "online",
        "hub",
        "hub-1",
        "cam/1",
    )
    for seq in (1, 2, 3):
        hub.carry(1, seq)
    hub.carry(1, 1, b'[1800000000000,0,"door",true]', stream=2, kind=wire.EVENT)
    assert hub.unacknowledged() == 4
    await world.settle(hub)
    assert hub.unacknowledged() == 0
    assert world.stored("cam") == [(2, 1), (3, 1), (3, 2), (3, 3)] and not world.stored("hub-1")
    assert world.presence("cam").messages == 4
    await world.settle()
    assert [each[:2] for each in world.hubs.assignments()] == [("hub-1", "cam")]
    assert world.hubs.assignments("hub-1")[0].came_ms


async def test_the_same_message_by_two_ways_is_stored_once(world: World) -> None:
    world.hubs.assign("hub-2", ["cam"])
    first, second = Link(world, "hub-1").hello(), Link(world, "hub-2").hello()
    first.announce(1, "cam")
    first.carry(1, 1)
    first.carry(1, 2)
    second.announce(9, "cam", nonce=b"next", uptime_ms=6000)
    for seq in (2, 3):
        second.carry(9, seq)
    await world.settle(first, second)
    assert world.stored("cam") == [(3, 1), (3, 2), (3, 3)]
    assert world.router.duplicates == 1
    assert first.unacknowledged() == second.unacknowledged() == 0
    assert first.answers() == [wire.WELCOME, -errors.REPLACED], "it is elsewhere now"
    assert world.presence("cam").via == "hub-2"


async def test_a_hub_resumes_behind_what_it_carried(world: World) -> None:
    """After a restart of the back-end: no message twice, and no false gap."""
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    for seq in range(1, 6):
        hub.carry(1, seq)
    await world.settle(hub)
    session = hub.session
    await world.stop()
    world.start()
    session.close_link()
    hub = Link(world, "hub-1", session).hello()
    hub.announce(1, "cam")
    hub.carry(1, 6)
    await world.settle(hub)
    assert world.stored("cam") == [(3, seq) for seq in range(1, 7)]
    assert world.router.duplicates == 0 and world.gaps() == 0


async def test_what_a_hub_still_holds_is_no_gap_and_comes_late(world: World) -> None:
    session = Session(os.urandom, EPOCH, wall_ms=port.unix_ms)
    session.sender.open_stream(3, 11)  # the hub has acknowledged 1 to 10
    direct = Link(world, "cam", session).hello()
    session.send(3, wire.READINGS, BODY % 11)
    direct.pump()
    await world.settle(direct)
    assert world.stored("cam") == [(3, 11)] and world.gaps() == 0

    hub = Link(world, "hub-1").hello()
    hub.announce(4, "cam", age_ms=None)
    assert hub.answers() == [wire.WELCOME]
    for seq in range(1, 11):
        hub.carry(4, seq)
    await world.settle(hub, direct)
    assert world.stored("cam") == [(3, seq) for seq in range(1, 12)] and world.gaps() == 0
    assert world.presence("cam").link == "tls" and session.state == OPEN, "its session goes on"

    # Of a device that no hub speaks for it is a gap, as ever.
    other = Session(os.urandom, EPOCH, wall_ms=port.unix_ms)
    other.sender.open_stream(3, 11)
    Link(world, "other", other).hello()
    await world.settle()
    assert world.gaps() == 1


async def test_a_stale_link_at_a_hub_does_not_push_the_sensor_out(world: World) -> None:
    """The hub does not know yet that its sensor went: the later HELLO of the same boot counts."""
    direct = Link(world, "cam").hello(boot=7, uptime_ms=9000)
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam", uptime_ms=12_000, age_ms=8000)
    assert hub.answers() == [-errors.REPLACED] and direct.endings == []
    hub.carry(1, 1)
    await world.settle(hub)
    assert world.stored("cam") == [(3, 1)], "what it has is taken"
    hub.announce(1, "cam", nonce=b"late", uptime_ms=12_000, age_ms=100)
    assert hub.answers() == [wire.WELCOME]
    direct.pump()
    assert direct.endings == [errors.REPLACED]
    world.hubs.assign("hub-2", ["cam"])
    other = Link(world, "hub-2").hello()
    other.announce(1, "cam", nonce=b"old.", uptime_ms=12_000, age_ms=11_000)
    assert other.answers() == [-errors.REPLACED] and world.presence("cam").via == "hub-1"


async def test_commands_and_configuration_go_through_the_hub(world: World) -> None:
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    hub.answers()
    call = asyncio.create_task(world.commands.call("cam", "blink", {"times": 3}, timeout_s=30))
    async with asyncio.timeout(30):
        while not hub.heard:  # not before it is stored
            await asyncio.sleep(0.01)
            hub.pump()
    ((alias, kind, stream, body),) = hub.heard
    assert (alias, kind, stream) == (1, wire.CALL, wire.COMMANDS)
    command_id = wire_commands.decode_call(body)[0]
    hub.carry(1, 1, wire_commands.encode_result(command_id, "ok", 42), stream=1, kind=wire.RESULT)
    await world.settle(hub)
    assert await call == 42
    hub.heard.clear()
    version = await world.configs.set("cam", {"rate": 5})
    hub.pump()
    assert hub.heard[0][1:3] == (wire.CONFIG, wire.COMMANDS)
    state = wire_commands.encode_config_state(version, "applied", {"rate": 5})
    hub.carry(1, 2, state, stream=1, kind=wire.CONFIG_STATE)
    await world.settle(hub)
    config = world.configs.get("cam")
    assert config is not None and (config.state, config.reported) == ("applied", {"rate": 5})


CHANGES = {
    "disable": (errors.DISABLED, lambda w: w.store.set_enabled("cam", False)),
    "revoke": (errors.REVOKED, lambda w: w.store.registry.revoke("cam")),
    "unassign": (errors.UNKNOWN_DEVICE, lambda w: w.hubs.unassign("hub-1", ["cam"])),
    "remove": (errors.UNKNOWN_DEVICE, lambda w: w.store.registry.remove("cam")),
}


@pytest.mark.parametrize("is_here", [True, False])
@pytest.mark.parametrize("case", CHANGES)
async def test_who_may_no_longer_come_is_sent_away(case: str, is_here: bool, world: World) -> None:
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam", age_ms=0 if is_here else None)
    hub.carry(1, 1)
    await world.settle(hub)
    assert hub.answers() == [wire.WELCOME]
    reason, change = CHANGES[case]
    change(world)
    world.watch.look()
    hub.pump()
    assert hub.answers() == [-reason]
    assert world.presence("cam").state == "offline" or not is_here
    hub.carry(1, 2)
    await world.settle(hub)
    assert (3, 2) not in world.stored("cam") and hub.unacknowledged() == 0, "dropped, and gone on"
    marks = world.store.watermarks(hub.peer.device_id, hub.session.epoch)
    assert marks == {relay.RELAYED: 2}, "and so it stays"
    assert "relay-dropped" in await world.actions()
    hub.announce(1, "cam", nonce=b"next")
    assert hub.answers() == [-reason]


async def test_a_hub_goes_and_takes_its_sensors_with_it(world: World) -> None:
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    hub.peer.link_lost(None)
    assert world.presence("cam").state == "offline" and "hub-1" in world.presence("cam").ended
    assert world.sessions.live == {}
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam", nonce=b"next")
    hub.live(1, wire.BYE, relay.with_nonce(b"", b"old."))
    assert world.presence("cam").state == "online", "of an earlier session"
    hub.live(1, wire.BYE, relay.with_nonce(b"", b"next"))
    assert world.presence("cam").state == "offline"
    assert hub.answers() == [wire.WELCOME, wire.BYE_ACK, wire.BYE_ACK]


class Held:
    """A writer that commits when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Message, Peer, bool]] = []

    def put(self, message: Message, token: Peer) -> None:
        self.waiting.append((message, token, True))

    async def flush(self) -> None:
        """Nothing to do."""


async def test_nothing_is_acknowledged_before_its_commit(world: World) -> None:
    hub = Link(world, "hub-1").hello()
    hub.announce(1, "cam")
    world.router.writer = held = Held()
    for seq in (1, 2, 3):
        hub.carry(1, seq)
    world.router.on_durable(held.waiting[:1])
    await asyncio.sleep(0.01)
    hub.pump()
    assert hub.unacknowledged() == 2
    world.router.on_durable(held.waiting[1:])
    await asyncio.sleep(0.01)
    hub.pump()
    assert hub.unacknowledged() == 0
    assert hub.peer.pending == 0
