"""The services Commands and Configs over a real store and a device made of four lines."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fleetnet.commands import decode_call, decode_config, encode_config_state, encode_result
from fleetnet.frame import CALL, CONFIG, CONFIG_STATE, RESULT
from fleetnet.handshake import CAN_COMMAND, CAN_CONFIGURE, Hello
from fleetnet_server.core import commands as module
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.errors import (
    CommandError,
    CommandFailed,
    CommandTimeout,
    CommandUnknown,
    DeviceOffline,
)
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.sqlite import SqliteStore

NOW = 1_800_000_000_000


class Peer:
    """What services see of a device's session: it keeps what it is sent."""

    device_id = 1
    name = "cam-1"
    rules = None

    def __init__(self, capabilities: int = CAN_COMMAND | CAN_CONFIGURE):
        self.capabilities = capabilities
        self.sent: list[tuple[int, bytes]] = []
        self.has_room = True

    def send(self, stream: int, kind: int, payload: bytes) -> bool:
        if self.has_room:
            self.sent.append((kind, payload))
        return self.has_room

    def calls(self) -> list[Any]:
        return [decode_call(payload) for kind, payload in self.sent if kind == CALL]

    def configs(self) -> list[Any]:
        return [decode_config(payload) for kind, payload in self.sent if kind == CONFIG]


class World:
    """One device registered, and the two services."""

    def __init__(self, path: Path):
        self.store = SqliteStore(path)
        self.store.add_device("cam-1")
        self.table = CommandTable(self.store)
        self.commands = Commands(self.table)
        self.configs = Configs(self.table)
        self.seq = 0

    def open(self, boot: int = 7, version: int = 0, peer: Peer | None = None) -> Peer:
        peer = peer or Peer()
        hello = Hello()
        hello.boot = boot
        hello.config_version = version
        self.commands.opened(peer, hello)  # type: ignore[arg-type]
        self.configs.opened(peer, hello)  # type: ignore[arg-type]
        return peer

    def close(self, peer: Peer) -> None:
        self.commands.closed(peer)  # type: ignore[arg-type]
        self.configs.closed(peer)  # type: ignore[arg-type]

    def answer(self, peer: Peer, body: bytes, kind: int = RESULT) -> None:
        """A message of the device becomes durable."""
        self.seq += 1
        found = inspect_body(kind, body, lambda boot: None, NOW)
        epoch = self.store.epoch_id(1, b"epoch-01")
        message = Message(
            1, epoch, 1, self.seq, kind, found.t0, found.t1, NOW, found.body, found.problem
        )
        self.store.commit([message])
        service = self.commands if kind == RESULT else self.configs
        service.durable(peer, message)  # type: ignore[arg-type]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "fleet.db")
    yield made
    await made.commands.stop()
    await made.configs.stop()
    made.store.close()


async def until_sent(peer: Peer, count: int) -> None:
    async with asyncio.timeout(30):
        while len(peer.sent) < count:
            await asyncio.sleep(0.001)


async def quiet(world: World) -> None:
    """Wait until the services do nothing any more."""
    while world.commands._tasks or world.configs._tasks:
        await asyncio.gather(*world.commands._tasks, *world.configs._tasks)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("status", "value", "error"),
    [
        ("ok", {"a": [1, None]}, None),
        ("error", ["OSError", "[Errno 5] EIO"], CommandFailed),
        ("error", ["Timeout", "it was stopped"], CommandTimeout),
        ("unknown", None, CommandUnknown),
        ("expired", None, CommandTimeout),
    ],
)
async def test_a_call_and_its_outcomes(
    world: World, status: str, value: Any, error: type[Exception] | None
) -> None:
    peer = world.open()
    call = asyncio.create_task(world.commands.call("cam-1", "add", [1]))
    await until_sent(peer, 1)
    ((command_id, name, args, _expires, boot),) = peer.calls()
    assert (name, args, boot) == ("add", [1], 7)
    world.answer(peer, encode_result(command_id, status, value))
    if error is None:
        assert await call == value
    else:
        with pytest.raises(error):
            await call
    assert world.commands.status(command_id).state == status


async def test_calls_that_go_nowhere(world: World) -> None:
    with pytest.raises(DeviceOffline, match="queue the command"):
        await world.commands.call("cam-1", "add")
    world.open(peer=Peer(capabilities=0))  # its program has no commands
    with pytest.raises(DeviceOffline):
        await world.commands.call("cam-1", "add")
    with pytest.raises(CommandError, match="no command has the id"):
        world.commands.status("?")
    peer = world.open()
    with pytest.raises(CommandTimeout, match=r"did not answer 'add' in 0\.01 s"):
        await world.commands.call("cam-1", "add", timeout_s=0.01)
    # The answer still counts when it comes.
    world.answer(peer, encode_result(peer.calls()[0][0], "ok", 1))
    assert world.commands.status(peer.calls()[0][0]).state == "ok"


async def test_what_waits_is_sent_in_order_and_eight_at_a_time(world: World) -> None:
    ids = [await world.commands.queue("cam-1", "add", [n]) for n in range(20)]
    peer = world.open()
    await quiet(world)
    assert [call[0] for call in peer.calls()] == ids[:8]
    for done in range(20):
        world.answer(peer, encode_result(ids[done], "ok", done))
        await quiet(world)
        assert len(peer.calls()) == min(20, 9 + done)
    assert [call[0] for call in peer.calls()] == ids


async def test_what_is_not_answered_comes_again_with_the_boot_that_got_it(world: World) -> None:
    command_id = await world.commands.queue("cam-1", "add")
    first = world.open(boot=7)
    await quiet(world)
    world.close(first)
    second = world.open(boot=8)
    await quiet(world)
    assert [(call[0], call[4]) for call in first.calls()] == [(command_id, 7)]
    assert [(call[0], call[4]) for call in second.calls()] == [(command_id, 7)]
    world.answer(second, encode_result(command_id, "ok", 1))
    third = world.open(boot=9)
    await quiet(world)
    assert third.calls() == []


async def test_it_is_on_the_disk_before_it_is_sent(world: World) -> None:
    known = []

    class Watching(Peer):
        def send(self, stream: int, kind: int, payload: bytes) -> bool:
            command = world.table.get(decode_call(payload)[0])
            assert command is not None
            known.append((command.state, command.sent_boot))
            return super().send(stream, kind, payload)

    await world.commands.queue("cam-1", "add")
    peer = world.open(peer=Watching())
    await quiet(world)
    call = asyncio.create_task(world.commands.call("cam-1", "add"))
    await until_sent(peer, 2)
    call.cancel()
    assert known == [("sent", 7), ("sent", 7)]


async def test_busy_lost_and_no_room_are_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_S", 0.0)
    monkeypatch.setattr(module, "_REPEAT_S", 3600.0)
    command_id = await world.commands.queue("cam-1", "add")
    peer = world.open()
    await quiet(world)
    world.commands.look()
    assert len(peer.calls()) == 1, "it is not due"
    world.answer(peer, encode_result(command_id, "busy"))
    world.commands.look()
    assert len(peer.calls()) == 2
    # A link without room: as soon as it has some.
    peer.has_room = False
    world.answer(peer, encode_result(command_id, "busy"))
    world.commands.look()
    peer.has_room = True
    world.commands.look()
    assert len(peer.calls()) == 3
    # No answer at all: after a while.
    monkeypatch.setattr(module, "_REPEAT_S", 0.0)
    world.answer(peer, encode_result(command_id, "busy"))
    world.commands.look()
    world.commands.look()
    assert len(peer.calls()) == 5
    world.answer(peer, encode_result(command_id, "ok"))
    world.commands.look()
    assert len(peer.calls()) == 5
    await quiet(world)


async def test_rows_of_other_programs_are_found(world: World, tmp_path: Path) -> None:
    peer = world.open()
    with SqliteStore(tmp_path / "fleet.db") as other:
        table = CommandTable(other)
        command_id = table.add(1, "add", [], 4_000_000_000_000)
        table.set_config(1, {"rate": 5})
    world.commands.look()
    world.configs.look()
    await quiet(world)
    assert [call[0] for call in peer.calls()] == [command_id]
    assert peer.configs() == [(1, {"rate": 5})]
    world.commands.look()
    world.configs.look()
    await quiet(world)
    assert len(peer.sent) == 2


async def test_a_stale_command_is_never_sent(world: World) -> None:
    command_id = await world.commands.queue("cam-1", "add", expires_s=0.001)
    await asyncio.sleep(0.002)
    peer = world.open()
    world.commands.look()
    await quiet(world)
    assert peer.calls() == []
    assert world.commands.status(command_id).state == "expired"


async def test_an_unreadable_result_ends_the_call(world: World) -> None:
    peer = world.open()
    call = asyncio.create_task(world.commands.call("cam-1", "add"))
    await until_sent(peer, 1)
    world.answer(peer, b'["%s","ok",[NaN]]' % peer.calls()[0][0].encode())
    with pytest.raises(CommandFailed, match="unreadable result"):
        await call


async def test_stop_ends_calls(world: World) -> None:
    peer = world.open()
    call = asyncio.create_task(world.commands.call("cam-1", "add"))
    await until_sent(peer, 1)
    await world.commands.stop()
    with pytest.raises(CommandError, match="stopping"):
        await call


async def test_configurations_are_reconciled_at_connect(world: World) -> None:
    await world.configs.set("cam-1", {"rate": 5})
    assert world.open(version=1).configs() == []
    await quiet(world)
    found = world.configs.get("cam-1")
    assert found is not None
    assert (found.state_version, found.state) == (1, "applied"), "HELLO says so"
    assert world.open(version=0).configs() == [(1, {"rate": 5})]
    assert world.open(version=9).configs() == [(1, {"rate": 5})]
    assert world.open(peer=Peer(capabilities=CAN_COMMAND)).configs() == []


async def test_a_configuration_is_sent_at_once_or_when_there_is_room(world: World) -> None:
    peer = world.open()
    peer.has_room = False
    assert await world.configs.set("cam-1", {"rate": 5}) == 1
    world.configs.look()
    peer.has_room = True
    world.configs.look()
    assert peer.configs()[0] == (1, {"rate": 5})
    count = len(peer.configs())
    assert await world.configs.set("cam-1", {"rate": 6}) == 2
    assert peer.configs()[count:] == [(2, {"rate": 6})]
    world.answer(peer, encode_config_state(2, "rejected", "no"), CONFIG_STATE)
    found = world.configs.get("cam-1")
    assert found is not None
    assert (found.state, found.reported) == ("rejected", "no")
