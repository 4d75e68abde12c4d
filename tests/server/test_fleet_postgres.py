"""A server whose store is PostgreSQL: its HTTP API, the Python API and the bridge to MQTT."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from end_to_end.fleet import free_port
from fleetnet_server import Fleet
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.tokens import TokenTable
from server.bridge.broker import HOST, Listener, Mosquitto, needs_mosquitto, user_of
from server.store.postgres_server import PATIENCE_S, PostgresServer
from server.store.reading_world import HOUR, NOW, World, fill

Fleets = tuple[Fleet, World, str]


@pytest.fixture
def folder(postgres: PostgresServer, tmp_path: Path) -> Path:
    made = tmp_path / "fleet"
    create_fleet(made, ("localhost",))
    settings = made / "fleetnet.toml"
    line = postgres.settings(postgres.database(), made)
    settings.write_text(line + settings.read_text())
    return made


@pytest.fixture
async def fleet(folder: Path) -> AsyncIterator[Fleets]:
    """A server, and another node that stores messages."""
    found = Fleet(folder, bind=HOST, tls_port=0, dtls_port=0, web_port=free_port())
    world = World(found.settings.store_place(folder), folder)
    token = TokenTable(world.store).add("test", ["admin"], "test", None)
    async with found:
        yield found, world, token
    world.close()


def answer(fleet: Fleets, path: str) -> tuple[int, Any]:
    made, _world, token = fleet
    connection = http.client.HTTPConnection(HOST, made.settings.web_port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        got = connection.getresponse()
        return got.status, json.loads(got.read())
    finally:
        connection.close()


def ask(fleet: Fleets, path: str) -> Any:
    status, document = answer(fleet, path)
    assert status == 200, (path, status, document)
    return document


async def pages(fleet: Fleets, path: str) -> list[Any]:
    items: list[Any] = []
    cursor = ""
    while True:
        found = await asyncio.to_thread(ask, fleet, path + cursor)
        items += found["items"]
        if not found.get("next"):
            return items
        cursor = f"&cursor={found['next']}"


async def test_pages_of_the_http_api(fleet: Fleets) -> None:
    _made, world, _token = fleet
    await asyncio.to_thread(fill, world)
    span = f"start={NOW}&end={NOW + 10 * HOUR}"
    found = await pages(fleet, f"/api/v1/readings?device=cam-1&{span}&limit=7")
    whole = (await asyncio.to_thread(ask, fleet, f"/api/v1/readings?device=cam-1&{span}"))["items"]
    assert found == whole and len(found) > 30
    assert [one["unix_ms"] for one in found] == sorted(one["unix_ms"] for one in found)
    one = await pages(fleet, f"/api/v1/readings?device=cam-1&channel=t&{span}&limit=3")
    assert one == [each for each in found if each["channel"] == "t"]
    names = [each["name"] for each in await pages(fleet, "/api/v1/devices?limit=1")]
    assert names == ["cam-1", "cam-2", "hall"]
    seen = await pages(fleet, "/api/v1/audit?limit=2")
    assert {each["action"] for each in seen} >= {"device-add", "token-add"}
    assert await pages(fleet, "/api/v1/commands?limit=2") == []
    assert await pages(fleet, "/api/v1/blobs?limit=2") == []
    assert len(await pages(fleet, "/api/v1/alarms?limit=2")) == 7
    assert len(await pages(fleet, "/api/v1/devices/cam-2/log?limit=2")) > 3
    steps = await pages(fleet, f"/api/v1/summaries?device=cam-1&channel=t&step=hour&{span}")
    assert sum(one["count"] for one in steps) > 5
    drawn = await asyncio.to_thread(
        ask, fleet, f"/api/v1/devices/cam-1/curves?{span}"
    )
    assert {one["name"] for one in drawn["channels"]} >= {"t", "h", "count"}
    shown = await asyncio.to_thread(ask, fleet, "/api/v1/overview")
    assert {one["name"] for one in shown["items"]} >= {"cam-1", "cam-2"}
    device = await asyncio.to_thread(ask, fleet, "/api/v1/devices/cam-1")
    assert device["state"] == "enabled"
    unknown = f"/api/v1/readings?device=nobody&{span}"
    assert (await asyncio.to_thread(answer, fleet, unknown))[0] == 404


async def test_feeds_and_queries_of_a_program(fleet: Fleets) -> None:
    made, world, _token = fleet
    heard: list[int] = []
    made.on_reading(lambda reading: heard.append(reading.value))
    world.reading(1, 1, 1)
    feed = made.readings("cam-*", "t")
    late = connect(world.place)
    late.execute("BEGIN")
    late.execute(
        "INSERT INTO messages(device, epoch, stream, seq, kind, t0, t1, received, body)"
        " VALUES(2, %s, 9, 1, 16, 1, 1, 1, %s)",
        (world.epoch(2, b"epoch-01"), f'[{NOW},0,["t"],[[0,0,100]]]'.encode()),
    )
    for seq in range(2, 6):
        world.reading(1, seq, seq)
    late.execute("COMMIT")
    late.close()
    async with asyncio.timeout(PATIENCE_S):
        got = [(await anext(feed)).value for _reading in range(5)]
    assert sorted(got) == [2, 3, 4, 5, 100]
    await feed.aclose()
    stored = [one.value async for one in made.query("cam-1", limit=3)]
    assert stored == [1, 2, 3]
    async with asyncio.timeout(PATIENCE_S):
        while len(heard) < 5:
            await asyncio.sleep(0.05)
    assert set(heard) >= {2, 3, 4, 5, 100}


@needs_mosquitto
async def test_the_bridge_sends_what_any_node_stored(folder: Path, tmp_path: Path) -> None:
    """In order of each device, once each, also behind a restart."""
    with Mosquitto(tmp_path / "broker") as broker:
        (folder / "mqtt.toml").write_text(
            f'[broker]\nhost = "{HOST}"\nport = {broker.plain}\nmax_backoff_s = 0.1\n'
        )
        made = Fleet(folder, bind=HOST, tls_port=0, dtls_port=0)
        world = World(made.settings.store_place(folder), folder)
        async with Listener(broker.plain) as got:
            async with made:
                await _sent(made, 0)
                for seq in range(1, 30):
                    world.reading(1 + seq % 2, seq, seq)
                await _sent(made, 29)
            for seq in range(30, 40):
                world.reading(1, seq, seq)
            again = Fleet(folder, bind=HOST, tls_port=0, dtls_port=0)
            async with again:
                await _sent(again, 10)
                messages = await got.until("fleetnet/+/readings", 39)
    world.close()
    users = [user_of(one) for one in messages]
    for device in ("cam-1", "cam-2"):
        seqs = [int(one["seq"]) for one in users if one["device"] == device]
        assert list(dict.fromkeys(seqs)) == sorted(set(seqs))
    assert {int(one["seq"]) for one in users} == set(range(1, 40))


async def _sent(fleet: Fleet, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            bridge = fleet.backend.bridge
            if bridge is not None and bridge.is_connected:
                if sum(bridge.counters.sent.values()) >= count:
                    return
            await asyncio.sleep(0.05)
