"""P10: bytes on the wire, round trips and heap of a device, ours and one of MQTT.

Both are programs of real MicroPython, seen from outside by a proxy that counts (wire_count).
Each runs twice: as fast as loopback is, for bytes, and with a delay, for round trips.
"""

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from devices import bundle_for
from fleets import Server, bundles, serving
from mqtt_peer import broker_command, free_port, wait_for_port
from processes import HERE, cores, running
from wire_count import Count, DatagramCount, StreamCount

from fleetnet_server.sim.interpreters import device_environment

# Longer than what an acknowledgement waits for others, of TCP (40 ms) or of fleetnet (100 ms):
# each is counted with its batch, as it would be if the next one came seconds later.
_PAUSE_MS = 150
# Of each direction: more than the ends think for, so that what is on its way together is one turn.
_DELAY_S = 0.05
_FAR_MESSAGES = 3
_PATIENCE_S = 60


class Cost(NamedTuple):
    """What a device's readings cost.

    Attributes:
        wire: B of IP packets a reading, both ways; records: of TLS or DTLS records.
        batch_trips: round trips of a message, until it is acknowledged.
        first_trips: round trips from nothing to the first acknowledged message.
        connect_wire: B of IP packets until then.
        heap: gc.mem_alloc() of the program, B.
    """

    wire: float
    records: float
    batch_trips: float
    first_trips: int
    connect_wire: int
    heap: int


class _Run(NamedTuple):
    first: Count
    steady: Count
    readings: int
    heap: int


def ours(interpreter: str, fleet: Path, link: str, batches: int) -> Cost:
    """Measure a device of fleetnet over ``link``, "tls" or "dtls"."""
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name, serving(fleet) as server:
        number = server.tls_port if link == "tls" else server.dtls_port
        proxy = StreamCount if link == "tls" else DatagramCount

        def command(port: int) -> list[str]:
            there = Server(server.process, port, port)
            bundle = bundle_for(fleet, there, link, Path(name))
            return [str(HERE / "wire_device.py"), bundle]

        return _measure(interpreter, proxy, number, command, batches, 1 if link == "tls" else 0)


def mqtt(interpreter: str, fleet: Path, readings: int, messages: int) -> Cost:
    """Measure a publisher of ``readings`` a message at mosquitto."""
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        number = free_port()
        broker = broker_command(fleet, Path(name), number)
        with running(broker, cores()[0], errors=subprocess.DEVNULL):
            wait_for_port(number)

            def command(port: int) -> list[str]:
                bundle = bundles(fleet, 2)[1]
                return [str(HERE / "mqtt_device.py"), bundle, str(port), str(readings)]

            return _measure(interpreter, StreamCount, number, command, messages, 1)


def _measure(
    interpreter: str, proxy: Any, number: int, command: Any, messages: int, tcp_trips: int
) -> Cost:
    """Run the program twice; ``tcp_trips``: before the first byte, which a proxy does not see."""

    async def run(delay_s: float, count: int) -> _Run:
        between = proxy(number, delay_s)
        port = await between.start()
        try:
            return await _run([interpreter, *command(port), str(count), str(_PAUSE_MS)], between)
        finally:
            await between.close()

    near = asyncio.run(run(0.0, messages))
    far = asyncio.run(run(_DELAY_S, _FAR_MESSAGES))
    return Cost(
        wire=near.steady.wire / near.readings,
        records=near.steady.payload / near.readings,
        batch_trips=far.steady.turns / _FAR_MESSAGES,
        first_trips=far.first.turns + tcp_trips,
        connect_wire=near.first.wire,
        heap=near.heap,
    )


async def _run(command: Sequence[str], between: StreamCount | DatagramCount) -> _Run:
    process = await asyncio.create_subprocess_exec(
        "taskset", "-c", str(cores()[1]), *command, env=device_environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await _answer(process)
        first = between.count()
        _go_on(process)
        last = await _answer(process)
        steady = between.count().since(first)
        _go_on(process)
        await asyncio.wait_for(process.wait(), _PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _Run(first, steady, last["readings"], last["mem_alloc"])


def _go_on(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def _answer(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), _PATIENCE_S)
    if not line:
        raise RuntimeError(f"the device program ended early: {await process.wait()}")
    found: dict[str, Any] = json.loads(line)
    return found
