"""`fleetnet demo` and `fleetnet sim`, run as their user runs them, and the example."""

import asyncio
import json
import sys

import pytest

from end_to_end.fleet import Fleet, name_of
from fleetnet_server.sim.interpreters import device_environment
from interpreters import ROOT, interpreters


async def run(command: list[str], environment: dict[str, str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode()


@pytest.mark.skipif(not interpreters(), reason="the demo needs a MicroPython")
async def test_demo_compares_what_was_sent_and_stored(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "fleetnet_server.cli.main", "demo", "--json"]
    paths = ":".join(each.path for each in interpreters())
    environment = {**fleet.environment(), "FLEETNET_MICROPYTHON": paths}
    status, out = await run([*command, "--seconds", "2", "--devices", "1"], environment)
    answer = json.loads(out)
    assert status == 0 and answer["agrees"], answer
    assert [device["transport"] for device in answer["devices"]] == ["tls", "dtls"]
    assert all(device["sent"] == device["stored"] > 0 for device in answer["devices"])


async def test_demo_without_micropython_fails_and_says_so(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "fleetnet_server.cli.main", "demo", "--seconds", "1"]
    environment = {**fleet.environment(), "PATH": "/nowhere", "FLEETNET_MICROPYTHON": ""}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=fleet.folder, stderr=asyncio.subprocess.PIPE
    )
    _, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert b"no MicroPython" in error


async def test_sim_runs_many_devices_of_both_links(fleet: Fleet) -> None:
    arguments = ["sim", "--devices", "20", "--seconds", "2", "--rate", "5", "--json"]
    status, out = await run(fleet.command(*arguments), fleet.environment())
    sums = json.loads(out)
    assert status == 0, sums
    assert sums["devices"] == sums["connects"] == 20
    assert sums["sent"] == sums["acknowledged"] > 20


@pytest.mark.parametrize("interpreter", [*interpreters(), None], ids=name_of)
async def test_example_sends_readings(fleet: Fleet, interpreter: object) -> None:
    bundle = fleet.add_device("cam-1", "dtls")
    path = sys.executable if interpreter is None else interpreter.path  # type: ignore[attr-defined]
    process = await asyncio.create_subprocess_exec(
        path, "examples/telemetry.py", str(bundle), env=device_environment(), cwd=ROOT
    )
    try:
        async with asyncio.timeout(30):
            while not (await run(fleet.command("query", "--json"), fleet.environment()))[1]:
                await asyncio.sleep(0.2)
    finally:
        process.kill()
        await process.wait()
