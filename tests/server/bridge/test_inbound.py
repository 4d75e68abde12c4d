"""Commands and configurations by MQTT: who may, what is answered, and what is no request."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from server.bridge.broker import HOST, Listener, Mosquitto, needs_mosquitto, payload_of
from server.bridge.world import World

pytestmark = needs_mosquitto

ON = """
[commands]
enabled = true
timeout_s = 5
[config]
enabled = true
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as it:
        yield it


@pytest.fixture
async def world(tmp_path: Path, broker: Mosquitto) -> AsyncIterator[World]:
    async with World(tmp_path / "fleet", broker.plain, ON) as it:
        await it.connected()
        await it.until(lambda: broker.log.count("SUBSCRIBE from fleetnet") == 2)
        yield it


async def ask(
    broker: Mosquitto, topic: str, payload: bytes, retain: bool = False, **values: Any
) -> None:
    """Publish a request with properties."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for key, value in values.items():
        setattr(properties, key, value)
    async with aiomqtt.Client(HOST, broker.plain, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.publish(topic, payload, 1, retain, properties)


def answers(world: World, value: Any) -> list[tuple[Any, ...]]:
    """Let commands succeed; return what they were called with, as it comes."""
    calls: list[tuple[Any, ...]] = []

    async def call(*arguments: Any) -> Any:
        calls.append(arguments)
        return value

    world.backend.commands.call = call  # type: ignore[method-assign]
    return calls


async def test_a_command_and_its_answer(world: World, broker: Mosquitto) -> None:
    calls = answers(world, {"lit": True})
    async with Listener(broker.plain) as got:
        await ask(
            broker, "fleetnet/cam-1/command/blink", b'{"times": 3}',
            ResponseTopic="reply/me", CorrelationData=b"\x00\xff7", MessageExpiryInterval=30,
        )  # fmt: skip
        (message,) = await got.until("reply/me")
        assert payload_of(message) == {
            "device": "cam-1", "state": "ok", "value": {"lit": True}, "command": "blink",
        }  # fmt: skip
        assert vars(message.properties)["CorrelationData"] == b"\x00\xff7"
        await ask(broker, "fleetnet/cam-1/command/read%2Fall", b"")
        (message,) = await got.until("fleetnet/cam-1/reply/+")
        assert str(message.topic) == "fleetnet/cam-1/reply/read%2Fall"
    assert calls == [
        ("cam-1", "blink", {"times": 3}, 30, "mqtt:fleetnet"),
        ("cam-1", "read/all", [], 5.0, "mqtt:fleetnet"),
    ]


@pytest.mark.parametrize(
    ("topic", "payload", "state"),
    [
        ("cam-1/command/blink", b"{}", "offline"), ("nobody/command/blink", b"", "unknown-device"),
        ("cam-1/command/blink", b"{", "bad-request"), ("cam-1/command/blink", b"3", "offline"),
        ("cam-1/command/blink", b"[" * 60_000, "bad-request"),
        ("cam-1/command/blink", b"\xff", "bad-request"),
        ("cam-1/config/set", b"[1]", "bad-request"), ("cam-1/config/set", b"", "bad-request"),
        ("nobody/config/set", b"{}", "unknown-device"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_answered(
    world: World, broker: Mosquitto, topic: str, payload: bytes, state: str
) -> None:
    async with Listener(broker.plain, "fleetnet/+/reply/#") as got:
        await ask(broker, f"fleetnet/{topic}", payload)
        (message,) = await got.until("#")
        assert payload_of(message)["state"] == state and payload_of(message)["error"]
    assert world.bridge.counters.requests == {state: 1}


async def test_a_command_can_wait_for_its_device(world: World, broker: Mosquitto) -> None:
    async with Listener(broker.plain, "fleetnet/+/reply/#") as got:
        await ask(
            broker, "fleetnet/cam-1/command/blink", b"{}", MessageExpiryInterval=600,
            UserProperty=("queue", "true"),
        )  # fmt: skip
        (message,) = await got.until("#")
        found = payload_of(message)
    assert found["state"] == "queued"
    command = world.backend.commands.status(found["id"])
    assert command.issuer == "mqtt:fleetnet" and command.state == "queued"
    assert 590_000 < command.expires_ms - command.created_ms <= 600_000
    rows = world.backend.store.read("SELECT actor, action, device FROM audit ORDER BY id DESC")
    assert rows[0] == ("mqtt:fleetnet", "command", "cam-1")


async def test_a_configuration(world: World, broker: Mosquitto) -> None:
    async with Listener(broker.plain, "fleetnet/+/reply/#") as got:
        await ask(broker, "fleetnet/cam-1/config/set", b'{"rate": 5}')
        (message,) = await got.until("fleetnet/cam-1/reply/config")
        assert payload_of(message) == {"device": "cam-1", "state": "ok", "version": 1}
    config = world.backend.configs.get("cam-1")
    assert config is not None and config.document == {"rate": 5}
    await asyncio.to_thread(world.backend.store.commit, [])
    rows = world.backend.store.read("SELECT actor, action FROM audit ORDER BY id DESC LIMIT 1")
    assert rows == [("mqtt:fleetnet", "config-set")]


async def test_the_policy_of_the_group_decides(tmp_path: Path, broker: Mosquitto) -> None:
    world = World(tmp_path / "fleet", broker.plain, ON)
    (tmp_path / "fleet" / "policy.toml").write_text(
        '[group.default]\ncommands = ["blink"]\nissuers = ["cli:*"]\n'
    )
    async with world, Listener(broker.plain, "fleetnet/+/reply/#") as got:
        await world.until(lambda: broker.log.count("SUBSCRIBE from fleetnet") == 2)
        await ask(broker, "fleetnet/cam-1/command/blink", b"{}")
        await ask(broker, "fleetnet/cam-1/config/set", b"{}")
        found = [payload_of(one) for one in await got.until("#", 2)]
        assert [one["state"] for one in found] == ["not-allowed"] * 2, found
        assert world.backend.configs.get("cam-1") is None
        await asyncio.to_thread(world.backend.store.commit, [])
        rows = world.backend.store.read(
            "SELECT actor, detail FROM audit WHERE action = 'command-denied'"
        )
        assert {row[0] for row in rows} == {"mqtt:fleetnet"} and rows


async def test_what_was_retained_is_no_request(tmp_path: Path, broker: Mosquitto) -> None:
    await ask(broker, "fleetnet/cam-1/command/reset", b"{}", retain=True)
    async with World(tmp_path / "fleet", broker.plain, ON) as world:
        await world.until(lambda: broker.log.count("SUBSCRIBE from fleetnet") == 2)
        calls = answers(world, 1)
        await ask(broker, "fleetnet/cam-1/command/blink", b"{}")
        await world.until(lambda: bool(calls))
        assert [call[1] for call in calls] == ["blink"]
        assert not world.bridge.counters.requests["retained"]  # it was not even sent to us


async def test_an_answer_goes_only_where_the_settings_allow(
    world: World, broker: Mosquitto
) -> None:
    calls = answers(world, 1)
    async with Listener(broker.plain) as got:
        for topic in ("homeassistant/device/x/config", "fleetnet/cam-2/presence", "reply"):
            await ask(broker, "fleetnet/cam-1/command/blink", b"", ResponseTopic=topic)
        await world.until(lambda: len(calls) == 3)
        dropped = world.bridge.counters.dropped
        await world.until(lambda: dropped["response topic not allowed"] == 2)
        await got.until("reply")
        assert not got.of("homeassistant/#") and len(got.of("fleetnet/cam-2/presence")) == 1


async def test_too_many_at_once_are_told_so(world: World, broker: Mosquitto) -> None:
    gate = asyncio.Event()

    async def call(*_: Any) -> None:
        await gate.wait()

    world.backend.commands.call = call  # type: ignore[method-assign]
    async with Listener(broker.plain, "fleetnet/+/reply/#") as got:
        async with aiomqtt.Client(HOST, broker.plain) as client:
            for _ in range(70):
                await client.publish("fleetnet/cam-1/command/blink", b"", 1)
        found = [payload_of(one)["state"] for one in await got.until("#", 6)]
        assert found == ["busy"] * 6
        gate.set()
        await got.until("#", 70)


async def test_topics_that_no_name_fits(world: World, broker: Mosquitto) -> None:
    await ask(broker, "fleetnet/cam-1/command/%zz", b"")
    await world.until(lambda: world.bridge.counters.requests["unreadable topic"] == 1)
