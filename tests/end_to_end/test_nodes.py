"""Two servers at one PostgreSQL, and devices that go from one to the other, over real TLS."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

from end_to_end.device_process import until
from end_to_end.nodes_rig import World, two_nodes
from fleetnet.errors import REPLACED, STORE_UNAVAILABLE
from fleetnet_server.app import Backend
from fleetnet_server.errors import CommandTimeout, ConfigError, DeviceOffline
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.opening import open_store
from fleetnet_server.web.collector import node_metrics
from fleetnet_server.web.server import problems_of
from server.store.postgres_server import PostgresServer


@pytest.fixture
async def world(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    async with two_nodes(tmp_path, postgres) as made:
        yield made


async def test_a_device_that_goes_from_server_to_server(world: World) -> None:
    """Each server that it left has a session that nobody told of the end."""
    a, b = world.nodes["a"], world.nodes["b"]
    world.begin_to_send()
    for node, name in ((b, "b"), (a, "a"), (b, "b")):
        await world.is_acknowledged(20)
        world.switch.turn(node.tls_port)
        await world.is_at(name)
    await world.is_acknowledged(20)
    await until(lambda: a.sessions.entering.taken_count >= 2, "a has lost it twice")
    assert b.sessions.entering.taken_count == 1
    assert "a newer session" in a.presence._known["cam-1"].shown.ended
    assert not any(peer.is_open for peer in a.sessions.live.values()), "BYE has no answer"
    await world.all_is_there_once()
    # Both say which server has it.
    await until(lambda: a.presence.of("cam-1").node == "b", "a knows")
    assert a.node is not None and a.node.alive == 2
    shown = {one.name: one.samples[0].value for one in node_metrics(a.node, a)}
    assert (shown["fleetnet_leases_lost"], shown["fleetnet_nodes"]) == (2, 2)
    await until(lambda: b.presence.of("cam-1").node == "b", "b knows")
    assert a.presence.is_online("cam-1") and a.presence.of("cam-1").link == "tls"


async def test_a_revocation_by_another_program_ends_the_session(world: World) -> None:
    with open_store(world.place) as store:
        await asyncio.to_thread(store.registry.revoke, "cam-1")
    await until(lambda: not world.nodes["a"].sessions.live, "its session is over")
    with open_store(world.place) as store:
        assert [row[0] for row in store.read("SELECT 1 FROM audit WHERE action = 'device-revoke'")]
    world.switch.turn(world.nodes["b"].tls_port)
    await until(lambda: world.device.state != "online", "it is refused at b as well")


async def test_commands_find_the_device_wherever_they_are_given(world: World) -> None:
    got: list[int] = []

    @world.device.command()
    def blink(times: int) -> int:
        got.append(times)
        return times * 2

    await until(lambda: bool(world.nodes["a"].commands._lines), "it takes commands")
    b = world.nodes["b"]
    assert await b.commands.call("cam-1", "blink", {"times": 21}, timeout_s=30) == 42
    with open_store(world.place) as store:
        table, device = CommandTable(store), store.lookup("cam-1")
        assert device is not None
        assert await b.commands.is_ready(device.id)  # what the HTTP API asks before it calls
        expires_ms = 4_000_000_000_000
        number = await asyncio.to_thread(
            table.add, device.id, "blink", {"times": 5}, expires_ms, None, "test"
        )
        await until(lambda: got == [21, 5], "a command of another program")
        await until(lambda: (table.get(number) or 0).state == "ok", "its answer")  # type: ignore[union-attr]
    version = await b.configs.set("cam-1", {"rate": 5})
    await until(lambda: world.device.config.version == version, "a configuration")
    await world.device.stop()
    await until(lambda: not world.nodes["a"].sessions.live, "it has gone")
    with pytest.raises((DeviceOffline, CommandTimeout)):
        await b.commands.call("cam-1", "blink", {"times": 1}, timeout_s=1)


@contextlib.contextmanager
def away(postgres: PostgresServer, how: str) -> Iterator[None]:
    """The database is gone, or nothing of it answers."""
    if how == "frozen":
        with postgres.frozen():
            yield
    else:
        postgres.kill()
        yield
        postgres.start()


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_the_database_nothing_is_acknowledged_and_devices_are_sent_away(
    how: str, world: World, postgres: PostgresServer
) -> None:
    a = world.nodes["a"]
    world.begin_to_send()
    await world.is_acknowledged(20)
    with away(postgres, how):
        await sent_away(world)
    await until(lambda: not a.sessions.entering.is_shut and not problems_of(a), "it is back")
    await world.is_acknowledged(20)
    await world.all_is_there_once()


async def sent_away(world: World) -> None:
    a = world.nodes["a"]
    await until(lambda: a.sessions.entering.is_shut, "the server is not patient for ever")
    acknowledged = world.device.acknowledged
    stored = a.router.stored
    await until(lambda: STORE_UNAVAILABLE in world.device.endings, "it was sent away")
    assert problems_of(a), "what a balancer asks says so as well"
    sent = world.sent
    await until(lambda: world.sent > sent + 20, "it goes on measuring")
    assert world.device.acknowledged == acknowledged and a.router.stored == stored


async def test_who_does_the_work_of_all(world: World) -> None:
    a, b = world.nodes["a"], world.nodes["b"]
    await until(lambda: a.leads() or b.leads(), "somebody does")
    leader = "a" if a.leads() else "b"
    other = world.nodes["b" if leader == "a" else "a"]
    assert not other.leads()
    await until(lambda: other.commands.expires is False, "it knows")
    await world.nodes.pop(leader).stop()
    await until(other.leads, "the other one does it now")
    await until(lambda: other.commands.expires, "it knows")
    assert other.node is not None
    await until(
        lambda: [one.name for one in other.node.others] == [other.node.name],  # type: ignore[union-attr]
        "it is alone",
    )


async def test_two_servers_of_one_name(world: World) -> None:
    shutil.copytree(world.folder / "b", world.folder / "c")
    with pytest.raises(ConfigError, match="another server at this database is 'b'"):
        await Backend(world.folder / "c", world.settings("b")).__aenter__()
    assert REPLACED not in world.device.endings
