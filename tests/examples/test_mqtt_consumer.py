"""The consumer gets each reading once, and devices that speak MQTT themselves beside them."""

import asyncio
from pathlib import Path

from examples.programs import HOST, Program, every_runtime, run_example, started
from interpreters import Interpreter
from pki import Pki
from server.bridge.broker import Listener, Mosquitto, needs_mosquitto
from server.bridge.world import World

pytestmark = needs_mosquitto


async def lines(program: Program, pattern: str) -> None:
    await asyncio.to_thread(program.wait_for, pattern)


async def test_repeats_are_left_out(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        world = World(tmp_path / "fleet", broker.plain)
        async with world:
            await world.connected()
            with started("mqtt_consumer.py", None, HOST, broker.plain, 5) as consumer:
                await lines(consumer, "subscribed")
                for seq in (1, 2, 3, 4):
                    await world.put("cam-1", seq, {"temp": 20 + seq}, base=1_800_000_000_000)
                await lines(consumer, "temp 1800000000000 24")
                # What a crash before the place was noted does.
                await world.until(lambda: world.bridge._outgoing.place == 4)
                world.bridge._outgoing._done = 2
                world.bridge._connection.give_up()  # type: ignore[union-attr]
                await world.until(lambda: world.bridge.counters.readings == 6)
                await world.put("cam-1", 5, {"temp": 25}, base=1_800_000_000_000)
                assert await asyncio.to_thread(consumer.finish) == 0
    said = consumer.output.splitlines()
    assert said[1:] == [
        *(f"cam-1 temp 1800000000000 {20 + seq}" for seq in range(1, 6)), "5 readings, 2 repeats"
    ]  # fmt: skip


@every_runtime
async def test_side_by_side(tmp_path: Path, pki: Pki, runtime: Interpreter | None) -> None:
    """One broker: a device of fleetnet through the bridge, and one that publishes by itself."""
    from examples.programs import files

    with Mosquitto(tmp_path / "broker", pki) as broker:
        async with World(tmp_path / "fleet", broker.plain) as world, Listener(broker.plain) as got:
            files(
                tmp_path, ca_der=pki.ca.certificate, cert_der=pki.device.certificate,
                key_der=pki.device.key,
            )  # fmt: skip
            paths = [tmp_path / name for name in ("ca.der", "cert.der", "key.der")]
            done = asyncio.to_thread(
                run_example, "mqtt_publish.py", runtime, HOST, broker.mutual, "localhost", *paths
            )
            await world.put("cam-1", 1, {"temperature": 20.5})
            assert "3 messages acknowledged" in await done
            await got.until("fleetnet/cam-1/readings")
            assert len(await got.until("cam-01/temperature", 3)) == 3
