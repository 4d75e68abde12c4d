"""Sampler, health and watchdog together on real devices: what they send is in the store."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from end_to_end.fleet import Fleet, name_of, runtimes
from fleetnet_server.sim.interpreters import device_environment
from fleetnet_server.store.query import query
from interpreters import Interpreter

PROGRAM = Path(__file__).with_name("living_main.py")
EVERYWHERE = {"uptime_s", "loop_lag_ms", "connects", "errors", "dropped"}


@pytest.mark.parametrize("runtime", runtimes(), ids=name_of)
async def test_living_device(fleet: Fleet, runtime: Interpreter | None) -> None:
    bundle = fleet.add_device("cam", "dtls")
    process = await asyncio.create_subprocess_exec(
        runtime.path if runtime else sys.executable, str(PROGRAM), str(bundle),
        env=device_environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    said = json.loads(out)
    assert said["errors"] == 1 and said["fed"] > 2 and said["taken"] > 10
    readings = list(query(fleet.store))
    counts = [reading.value for reading in readings if reading.channel == "count"]
    assert 10 not in counts, "the failed sample is missing, and only that one"
    assert counts == [n for n in range(1, len(counts) + 2) if n != 10]
    health = {r.channel.removeprefix("health.") for r in readings if "health." in r.channel}
    assert health == EVERYWHERE | ({"heap_free", "heap_used"} if runtime else set())
