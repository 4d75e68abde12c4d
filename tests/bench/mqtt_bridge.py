"""The bridge against a bare aiomqtt publisher: readings per second into mosquitto, QoS 1, MQTT 5.

    python mqtt_bridge.py bridge FOLDER PORT batch|single MESSAGES READINGS
    python mqtt_bridge.py bare PORT MESSAGES BYTES IN_FLIGHT

bridge: a store with so many messages, of which the broker has none; from the connection until
the broker has answered for all. bare: the same number and size of MQTT messages with aiomqtt's
``publish``, IN_FLIGHT of them at a time. Either prints {"seconds", "cpu", "sent"}.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiomqtt
from mqtt_peer import free_port, mosquitto, wait_for_port
from payloads import body
from processes import cores, program, running

from fleetnet.frame import READINGS
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.log_output import configure_logging
from fleetnet_server.store.outbox import Outbox
from fleetnet_server.store.sqlite import SqliteStore

HOST = "127.0.0.1"
_DEVICES = 20
_COMMIT = 2048


class Rate(NamedTuple):
    """Readings per second of the clock and of the publishing process's CPU."""

    per_second: float
    per_core_second: float


def _fill(path: Path, messages: int, readings: int) -> None:
    """Store messages behind the place of a bridge that has sent none of them."""
    with SqliteStore(path) as store:
        Outbox(store, "fleetnet").start(86_400_000)
        devices = [store.add_device(f"bench-{index:02d}").id for index in range(_DEVICES)]
        epochs = [store.epoch_id(device, b"epoch-01") for device in devices]
        now = time.time_ns() // 1_000_000
        found = inspect_body(READINGS, body(readings), lambda boot: None, now)
        batch = [
            Message(
                devices[index % _DEVICES], epochs[index % _DEVICES], 1, 1 + index // _DEVICES,
                READINGS, found.t0, found.t1, now, found.body, None,
            )
            for index in range(messages)
        ]  # fmt: skip
        for at in range(0, messages, _COMMIT):
            store.commit(batch[at : at + _COMMIT])


async def bridge(folder: Path, number: int, mode: str, messages: int, readings: int) -> None:
    """Let a back-end's bridge send what is stored."""
    configure_logging(as_json=True, quiet=True)  # what is printed is the answer
    create_fleet(folder, ("localhost",))
    settings = Settings(bind=HOST, tls_port=0, dtls_port=0, compaction=False)
    _fill(settings.store_path(folder), messages, readings)
    (folder / "mqtt.toml").write_text(
        f'[broker]\nhost = "{HOST}"\nport = {number}\n[readings]\nmode = "{mode}"\n'
    )
    async with Backend(folder, settings) as backend:
        began, cpu = time.monotonic(), time.process_time()
        assert backend.bridge is not None
        while backend.bridge.counters.readings < messages * readings:
            await asyncio.sleep(0.01)
        _say(began, cpu, backend.bridge.counters.sent["readings"])


async def bare(number: int, messages: int, size: int, in_flight: int) -> None:
    """Publish as a program would that has a list of messages."""
    payload, places = b"x" * size, asyncio.Semaphore(in_flight)
    async with aiomqtt.Client(
        HOST, number, protocol=aiomqtt.ProtocolVersion.V5, max_inflight_messages=in_flight
    ) as client:
        # Else it warns about each, which costs more than sending it.
        client.pending_calls_threshold = in_flight

        async def publish(index: int) -> None:
            async with places:
                await client.publish(f"bench/bench-{index % _DEVICES:02d}", payload, 1, timeout=60)

        began, cpu = time.monotonic(), time.process_time()
        if in_flight == 1:
            for index in range(messages):
                await client.publish(f"bench/bench-{index % _DEVICES:02d}", payload, 1)
        else:
            await asyncio.gather(*map(publish, range(messages)))
        _say(began, cpu, messages)


def _say(began: float, cpu: float, sent: int) -> None:
    seconds, used = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": used, "sent": sent}), flush=True)


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[int]:
    """Run mosquitto on the other core; nobody subscribes."""
    command = mosquitto()
    assert command is not None
    number = free_port()
    path = folder / "mosquitto.conf"
    path.write_text(
        f"persistence false\nlog_dest none\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
        f"user root\nlistener {number} {HOST}\nallow_anonymous true\n"
    )
    with running([command, "-c", str(path)], cores()[1]):
        wait_for_port(number)
        yield number


def measure(mode: str, messages: int, readings: int) -> tuple[Rate, dict[int, Rate]]:
    """Return the bridge's rate, and the bare publisher's by messages in flight."""
    # As many bytes as the bridge sends of one message; the bare one adds no properties.
    size = len(body(readings)) if mode == "batch" else len(body(1))
    each = readings if mode == "batch" else 1
    place = tempfile.TemporaryDirectory(prefix="fleetnet-bench-")
    with place as name, broker(Path(name)) as number:
        command = program(
            "mqtt_bridge.py", "bridge", f"{name}/fleet", str(number), mode, str(messages),
            str(readings),
        )  # fmt: skip
        ours = _rate(command, each)
        count = messages * readings // each
        peers = {
            in_flight: _rate(
                program("mqtt_bridge.py", "bare", str(number), str(count), str(size),
                        str(in_flight)), each
            )
            for in_flight in (1, 20, 100)
        }  # fmt: skip
    return ours, peers


def _rate(command: list[str], readings: int) -> Rate:
    with running(command, cores()[0]) as process:
        found = process.answer(120)
    count = found["sent"] * readings
    return Rate(count / found["seconds"], count / found["cpu"])


def main(arguments: list[str]) -> None:
    if arguments[0] == "bridge":
        folder, number, mode, messages, readings = arguments[1:]
        asyncio.run(bridge(Path(folder), int(number), mode, int(messages), int(readings)))
    else:
        asyncio.run(bare(*map(int, arguments[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])
