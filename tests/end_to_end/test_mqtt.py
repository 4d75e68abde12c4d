"""Real devices, a real server process, a real mosquitto: an outage, a killed server, a command."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from end_to_end.device_process import PATIENCE_S
from end_to_end.fleet import Fleet, name_of, runtimes
from end_to_end.test_commands import RUNTIMES, online, start
from fleetnet_server.store.query import query
from server.bridge.broker import HOST, Listener, Mosquitto, needs_mosquitto, payload_of, user_of

pytestmark = needs_mosquitto

# An outage of 60 s of devices that take 20 readings a second, scaled: 10 times as many for 6 s.
RATE = 100
OUTAGE = 3600


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as it:
        yield it


def write(fleet: Fleet, broker: Mosquitto, more: str = "") -> None:
    (fleet.folder / "mqtt.toml").write_text(
        f'[broker]\nhost = "{HOST}"\nport = {broker.plain}\nmax_backoff_s = 0.2\n{more}'
    )


def keys(messages: list[aiomqtt.Message]) -> list[tuple[str, str, int, int]]:
    """Who, which epoch and stream, which number: in the order in which each came first."""
    found = [user_of(one) for one in messages]
    rows = [(one["device"], one["epoch"], int(one["stream"]), int(one["seq"])) for one in found]
    return list(dict.fromkeys(rows))


async def test_an_outage_and_a_killed_server_lose_nothing(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """Broker away for 3,600 readings, server killed while it catches up: all arrive, in order."""
    fleet = Fleet(tmp_path / "fleet")
    write(fleet, broker)
    async with Listener(broker.plain, "fleetnet/+/readings") as got, fleet:
        for runtime in runtimes():
            await fleet.start_device(name_of(runtime), "tls", runtime, rate=RATE)
        await fleet.until_online()
        await got.until("#", 3)
        broker.kill()
        before = fleet.counters("sent")
        async with asyncio.timeout(PATIENCE_S * 2):
            while sum(fleet.gains("sent", before)) < OUTAGE:
                await asyncio.sleep(0.05)
        broker.start()
        await fleet.kill_server()
        await fleet.start_server()
        accounts = await fleet.finish()
        stored = list(query(fleet.store))
        wanted = {(one.device, one.epoch, one.stream, one.seq) for one in stored}
        assert len(stored) >= OUTAGE and len(accounts) == len(runtimes())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while set(keys(got.messages)) != wanted:
                    await asyncio.sleep(0.05)
        missing = wanted - set(keys(got.messages))
        assert not missing, (
            f"{len(missing)} of {len(wanted)} stored messages were never published"
        )
        assert set(keys(got.messages)) == wanted
        readings = {
            (user_of(one)["device"], each["channel"], each["unix_ms"], json.dumps(each["value"]))
            for one in got.messages
            for each in payload_of(one)["readings"]
        }
        assert readings == {
            (one.device, one.channel, one.unix_ms, json.dumps(one.value)) for one in stored
        }
    found = keys(got.messages)
    for device in {one[0] for one in found}:
        for lane in {one[1:3] for one in found if one[0] == device}:
            numbers = [one[3] for one in found if one[0] == device and one[1:3] == lane]
            assert numbers == sorted(numbers), (device, lane)


async def test_a_killed_server_is_said_by_the_broker(tmp_path: Path, broker: Mosquitto) -> None:
    fleet = Fleet(tmp_path / "fleet")
    write(fleet, broker)
    async with Listener(broker.plain, "fleetnet/_bridge/status") as got, fleet:
        await got.until("#")
        await fleet.kill_server()
        await got.until("#", 2)
    assert [one.payload for one in got.messages] == [b"online", b"offline"]


async def test_a_command_by_mqtt(tmp_path: Path, broker: Mosquitto) -> None:
    """To a device of each runtime, which answers with what it got."""
    fleet = Fleet(tmp_path / "fleet")
    write(fleet, broker, "[commands]\nenabled = true\n")
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.CorrelationData = b"\x01\x00"
    async with Listener(broker.plain, "fleetnet/+/reply/#") as got, fleet:
        for runtime in RUNTIMES:
            await online(await start(fleet, name_of(runtime), "tls", runtime))
        async with aiomqtt.Client(
            HOST, broker.plain, protocol=aiomqtt.ProtocolVersion.V5
        ) as client:
            for runtime in RUNTIMES:
                for payload in (b"[20, 3]", b'{"a": 1, "c": 2}'):
                    topic = f"fleetnet/{name_of(runtime)}/command/add"
                    await client.publish(topic, payload, 1, properties=properties)
        answers = await got.until("#", 2 * len(RUNTIMES))
        found = {(payload_of(one)["device"], payload_of(one)["state"]) for one in answers}
        assert found == {
            (name_of(runtime), state) for runtime in RUNTIMES for state in ("ok", "failed")
        }  # fmt: skip
        values = [payload_of(one)["value"] for one in answers if payload_of(one)["state"] == "ok"]
        assert values == [{"sum": 23}] * len(RUNTIMES)
        assert {vars(one.properties)["CorrelationData"] for one in answers} == {b"\x01\x00"}
