"""Two servers at one PostgreSQL and one MQTT broker: one of them has the bridge."""

from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

from end_to_end.device_process import until
from end_to_end.fleet import free_port
from end_to_end.nodes_rig import World, two_nodes
from fleetnet_server import node
from fleetnet_server.app import Backend
from server.bridge.broker import HOST, Listener, Mosquitto, needs_mosquitto, payload_of
from server.store.postgres_server import PostgresServer


def has_bridge(backend: Backend) -> bool:
    return backend.bridge is not None and backend.bridge.is_connected


def counts(listener: Listener) -> set[int]:
    """Everything that the broker got of the device's channel."""
    found: set[int] = set()
    for message in listener.of("fleetnet/cam-1/readings"):
        readings = payload_of(message)["readings"]
        found |= {one["value"] for one in readings if one["channel"] == "count"}
    return found


@needs_mosquitto
async def test_the_bridge_goes_on_at_the_other_server(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    with Mosquitto(tmp_path / "broker") as broker:
        mqtt = dict.fromkeys("ab", settings(broker.plain))
        async with Listener(broker.plain) as listener, two_nodes(tmp_path, postgres, mqtt) as world:
            await goes_on(world, listener)


@needs_mosquitto
async def test_who_does_not_reach_the_broker_gives_the_bridge_up(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    monkeypatch.setattr(node, "_BROKER_S", 1.0)
    with Mosquitto(tmp_path / "broker") as broker:
        mqtt = {"a": settings(free_port()), "b": settings(broker.plain)}
        async with two_nodes(tmp_path, postgres, mqtt) as world:
            a, b = world.nodes["a"], world.nodes["b"]
            await until(lambda: has_bridge(b), "the one that reaches it has the bridge")
            await until(lambda: a.bridge is None, "the other one does not try")


def settings(number: int) -> str:
    return f'[broker]\nhost = "{HOST}"\nport = {number}\nmax_backoff_s = 0.1\n'


async def goes_on(world: World, listener: Listener) -> None:
    nodes = world.nodes
    await until(lambda: any(map(has_bridge, nodes.values())), "one has the bridge")
    (leader,) = (name for name in nodes if has_bridge(nodes[name]))
    other = nodes["b" if leader == "a" else "a"]
    assert other.bridge is None
    world.begin_to_send()
    await until(lambda: len(counts(listener)) > 20, "readings at the broker")
    world.switch.turn(other.tls_port)
    await nodes.pop(leader).stop()
    await until(lambda: has_bridge(other), "the other one has it now")
    before = world.sent
    await until(lambda: max(counts(listener)) > before, "readings made since then")
    await world.all_is_there_once()
    await until(lambda: len(counts(listener)) == world.sent, "everything is at the broker")
