"""Readings of every interpreter, over TLS and DTLS, are in the store once and in order."""

import asyncio
import json
import sys
from collections import Counter

from end_to_end.fleet import Fleet, name_of, runtimes
from end_to_end.store_check import faults_of
from fleetnet_server.sim.interpreters import device_environment
from fleetnet_server.store.query import query

SECONDS = 3
RATE = 10


async def test_readings_arrive_once_and_in_order(fleet: Fleet) -> None:
    for runtime in runtimes():
        for link in ("tls", "dtls"):
            await fleet.start_device(f"{link}-{name_of(runtime)}", link, runtime, SECONDS, RATE)
    await asyncio.gather(*(device.ended() for device in fleet.devices))
    accounts = [device.account() for device in fleet.devices]
    assert [account.sent for account in accounts] == [2 * SECONDS * RATE] * len(accounts)
    assert faults_of(fleet.store, accounts) == []
    assert [device.counter("connects") for device in fleet.devices] == [1] * len(accounts)

    # The command prints what the store holds, while the server runs.
    process = await asyncio.create_subprocess_exec(
        *fleet.command("query", "--json", "--channel", "count"),
        stdout=asyncio.subprocess.PIPE,
        env=fleet.environment(),
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    printed = [json.loads(line) for line in out.splitlines()]
    assert Counter(line["device"] for line in printed) == {a.name: SECONDS * RATE for a in accounts}
    for account in accounts:
        mine = [line for line in printed if line["device"] == account.name]
        assert [line["value"] for line in mine] == list(range(SECONDS * RATE))
        times = [line["unix_ms"] for line in mine]
        assert len(set(times)) == len(times), f"{account.name}: readings share a time: {times}"


# The shortest program there is: no flush, no sleep.
SEND_AND_LEAVE = """
import asyncio
from fleetnet_device import Device

async def main():
    async with Device(%r) as device:
        await device.send("door", "open")

asyncio.run(main())
"""


async def test_reading_of_a_program_that_ends_at_once(fleet: Fleet) -> None:
    names = []
    for runtime in runtimes():
        for link in ("tls", "dtls"):
            names.append(f"{link}-{name_of(runtime)}")
            bundle = fleet.add_device(names[-1], link)
            process = await asyncio.create_subprocess_exec(
                runtime.path if runtime else sys.executable,
                "-c",
                SEND_AND_LEAVE % str(bundle),
                env=device_environment(),
            )
            assert await asyncio.wait_for(process.wait(), 30) == 0
    assert sorted(reading.device for reading in query(fleet.store)) == sorted(names)
