"""Presence, events, newest values, frames and discovery, as a real mosquitto gives them on."""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleetnet_server.bridge import discovery
from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.store.blobs import _insert, content_path
from pki import Pki
from server.bridge.broker import Listener, Mosquitto, needs_mosquitto, payload_of, user_of
from server.bridge.world import World

pytestmark = needs_mosquitto

HOME = """
[state]
enabled = true
every_s = 0.05
[home_assistant]
enabled = true
[[home_assistant.channel]]
match = "temp*"
name = "Temperature"
device_class = "temperature"
unit = "°C"
state_class = "measurement"
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as it:
        yield it


def come(world: World, device: str, is_here: bool = True) -> None:
    """What sessions tell when a device comes or goes."""
    peer: Any = SimpleNamespace(
        name=device, address="192.0.2.1", is_quarantined=False, stored=0, duplicates=0, lost=0,
        lag_ms=None, seen=0, via="",
    )  # fmt: skip
    presence = world.backend.presence
    if is_here:
        hello: Any = SimpleNamespace(software="fleetnet/1 test", boot=1, identity=0)
        presence.opened(peer, hello, None)
        world.peers = getattr(world, "peers", {}) | {device: peer}  # type: ignore[attr-defined]
    else:
        presence.ended(world.peers[device], "it was tired")  # type: ignore[attr-defined]


def states(got: Listener, device: str) -> list[str]:
    return [payload_of(one)["state"] for one in got.of(f"fleetnet/{device}/presence")]


async def test_presence_is_retained_and_follows(tmp_path: Path, broker: Mosquitto) -> None:
    async with World(tmp_path / "fleet", broker.plain) as world:
        await world.connected()
        async with Listener(broker.plain, name="first") as got:
            come(world, "cam-1")
            await world.until(lambda: states(got, "cam-1")[-1:] == ["online"])
            (event,) = await got.until("fleetnet/cam-1/event/session-opened")
            assert payload_of(event)["software"] == "fleetnet/1 test"
        async with Listener(broker.plain, name="second") as got:
            await got.until("fleetnet/+/presence", 2)
            assert all(one.retain for one in got.of("fleetnet/+/presence"))
            assert states(got, "cam-1") == ["online"] and states(got, "cam-2") == ["offline"]
            come(world, "cam-1", False)
            await world.until(lambda: states(got, "cam-1") == ["online", "offline"])
            found = payload_of(got.of("fleetnet/cam-1/presence")[-1])
            assert found["ended"] == "it was tired" and found["since_ms"] > 1e12


async def test_the_bridge_says_whether_it_is_here(tmp_path: Path, broker: Mosquitto) -> None:
    async with Listener(broker.plain, "fleetnet/_bridge/status") as got:
        async with World(tmp_path / "fleet", broker.plain) as world:
            await got.until("#")
            # Its connection breaks without a good-bye: the broker says it.
            world.bridge._connection._client.socket().shutdown(2)  # type: ignore[union-attr]
            await world.until(lambda: world.bridge.counters.connections == 2)
            await got.until("#", 3)
        await got.until("#", 4)
    said = [one.payload for one in got.messages]
    assert said == [b"online", b"offline", b"online", b"offline"]


async def test_a_broker_that_forgot_is_told_again(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker", is_kept=False) as broker:
        async with World(tmp_path / "fleet", broker.plain) as world:
            await world.connected()
            come(world, "cam-1")
            await world.until(lambda: world.bridge.counters.sent["events"] == 1)
            await world.until(lambda: world.bridge._post.is_empty)
            await asyncio.sleep(0.1)
            broker.kill()
            await world.until(lambda: not world.bridge.is_connected)
            come(world, "cam-2")
            broker.start()
            async with Listener(broker.plain) as got:
                await world.until(
                    lambda: (states(got, "cam-1")[-1:], states(got, "cam-2")[-1:])
                    == (["online"], ["online"])
                )
                # What happened meanwhile waited.
                await got.until("fleetnet/cam-2/event/session-opened")


async def test_newest_values_and_discovery(tmp_path: Path, broker: Mosquitto) -> None:
    async with (
        World(tmp_path / "fleet", broker.plain, HOME) as world,
        Listener(broker.plain) as got,
    ):
        await world.put("cam-1", 1, {"temp": 20.5, "door": True, "box": [1, 2]})
        await world.put("cam-1", 2, {"temp": 21.5})
        await world.until(
            lambda: payload_of(got.of("fleetnet/cam-1/state")[-1])["temp"] == 21.5
            if got.of("fleetnet/cam-1/state") else False
        )  # fmt: skip
        found = payload_of(got.of("fleetnet/cam-1/state")[-1])
        assert found == {"temp": 21.5, "door": True, "box": [1, 2]}
        message = (await got.until("homeassistant/device/fleetnet-cam-1/config"))[-1]
        assert isinstance(message.payload, bytes)
        assert discovery.check(str(message.topic), message.payload, "homeassistant") == []
        parts = payload_of(message)["components"]
        assert set(parts) == {"c_temp", "c_door"}  # a list is no state
        assert parts["c_temp"]["unit_of_measurement"] == "°C"
        assert parts["c_temp"]["state_topic"] == "fleetnet/cam-1/state"
        await world.put("cam-1", 3, {"hum": 40})
        message = (await got.until("homeassistant/device/fleetnet-cam-1/config", 2))[-1]
        assert set(payload_of(message)["components"]) == {"c_temp", "c_door", "c_hum"}


async def test_a_removed_device_is_taken_back(tmp_path: Path, broker: Mosquitto) -> None:
    async with World(tmp_path / "fleet", broker.plain, HOME) as world:
        await world.put("cam-1", 1, {"temp": 20.5})
        async with Listener(broker.plain, name="a") as got:
            await got.until("homeassistant/device/fleetnet-cam-1/config")
            await got.until("fleetnet/cam-1/state")
            world.backend.store.registry.remove("cam-1", "test")
            while len(got.of("homeassistant/device/fleetnet-cam-1/config")) < 2:
                await world.bridge._feed._look_once()  # the list of devices is up to 1 s old
                await asyncio.sleep(0.05)
        async with Listener(broker.plain, name="b") as got:
            await got.until("fleetnet/cam-2/presence")
            assert not [one for one in got.messages if "cam-1" in str(one.topic)]


def store_frame(world: World, device: str, number: int, data: bytes) -> None:
    """What blobs.py does when a frame is complete."""
    sha256 = hashlib.sha256(data).digest()
    known = world.backend.store.lookup(device)
    assert known is not None
    path = world.folder / "blobs" / content_path(sha256)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    row = BlobRow(known.id, number, "frame", 22, len(data), sha256, None, int(time.time() * 1000))
    world.backend.store.transact(lambda connection: _insert(connection, [row]))
    detail = {"name": "frame", "size": len(data), "sha256": sha256.hex(), "content_format": 22}
    world.backend.events.publish("blob-stored", device, detail)


async def test_frames(tmp_path: Path, broker: Mosquitto) -> None:
    more = '[frames]\nenabled = true\nmax = "64K"\n'
    async with World(tmp_path / "fleet", broker.plain, more) as world:
        await world.connected()
        async with Listener(broker.plain, name="a") as got:
            store_frame(world, "cam-1", 1, b"\xff\xd8" + bytes(50_000))
            (message,) = await got.until("fleetnet/cam-1/frame")
            assert message.payload == b"\xff\xd8" + bytes(50_000)
            assert vars(message.properties)["ContentType"] == "image/jpeg"
            assert user_of(message)["name"] == "frame"
            store_frame(world, "cam-1", 2, bytes(65_537))
            await world.until(lambda: world.bridge.counters.dropped["frame larger than max"] == 1)
            store_frame(world, "cam-1", 3, b"third")
            await got.until("fleetnet/cam-1/frame", 2)
        async with Listener(broker.plain, name="b") as got:
            (message,) = await got.until("fleetnet/cam-1/frame")
            assert message.retain and message.payload == b"third"


async def test_the_postbox_is_bounded(tmp_path: Path, broker: Mosquitto) -> None:
    async with World(tmp_path / "fleet", broker.plain) as world:
        await world.connected()
        broker.kill()
        await world.until(lambda: not world.bridge.is_connected)
        for number in range(4000):
            world.backend.events.publish("gap", "cam-1", {"first": number})
            if number % 100 == 0:
                await asyncio.sleep(0)
        dropped = world.bridge.counters.dropped
        await world.until(lambda: dropped["too many events wait"] == 4000 - 2048)
        broker.start()
        async with Listener(broker.plain) as got:
            await world.until(lambda: world.bridge.counters.sent["events"] == 2048)
            found = [payload_of(one)["first"] for one in got.of("fleetnet/cam-1/event/gap")]
            assert found == sorted(found)


async def test_a_retained_reading_ends_with_its_expiry(tmp_path: Path, broker: Mosquitto) -> None:
    """Who comes in time gets it from the broker, who comes later does not."""
    more = '[readings]\nretain = true\nexpiry = "2s"\n'
    async with World(tmp_path / "fleet", broker.plain, more) as world:
        await world.connected()
        seen: list[int] = []
        for number in range(200):
            if not any(seen):  # again, where a busy machine came too late
                await world.put("cam-1", number + 1, {"temp": 20.5})
                await world.until(lambda: world.bridge.counters.readings == len(seen) + 1)
            async with Listener(broker.plain, name=f"late-{number}") as got:
                # Retained without an expiry: when it is here, all that is retained is.
                await got.until("fleetnet/_bridge/status")
                await got.until("fleetnet/+/presence", 2)
                seen.append(len(got.of("fleetnet/cam-1/readings")))
            if any(seen) and not seen[-1]:
                break
            await asyncio.sleep(0.05)
        assert any(seen) and seen[-1] == 0


async def test_a_broker_that_refuses_us_is_said_and_asked_again(tmp_path: Path, pki: Pki) -> None:
    with Mosquitto(tmp_path / "broker", pki) as broker:
        tls = f'[broker.tls]\nca = "{broker.folder}/ca.pem"\n'
        async with World(tmp_path / "fleet", broker.password, broker=tls) as world:
            await world.until(lambda: "authori" in world.bridge.problem)
            assert await world.put("cam-1", 1, {"temp": 1}) == 1
            await world.until(lambda: world.bridge.behind == 1)
            assert not world.bridge.is_connected and world.bridge.counters.connections == 0
            asked = broker.log.count("New connection")
            await world.until(lambda: broker.log.count("New connection") > asked + 1)
            # Once it lets us in, what waited comes.
            (broker.folder / "passwords").write_text("")
            broker.stop()
            conf = broker.folder / "mosquitto.conf"
            conf.write_text(
                conf.read_text().replace(
                    f"password_file {broker.folder}/passwords", "allow_anonymous true"
                )
            )
            broker.start()
            await world.until(lambda: world.bridge.counters.readings == 1)
