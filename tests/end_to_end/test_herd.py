"""A fleet that lost its power at once comes back at the rate that is set, and few devices knock
twice. The devices are those of `fleetnet sim`: the real library.

Five thousand devices, and servers that restart or are killed, as figures: tests/proof/storm.py;
the decisions for five thousand: server/core/test_herd.py. It takes as long as such a fleet needs
to come back at its rate.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from end_to_end.fleet import Fleet
from fleetnet_server.sim.storm_model import Case, run

# Five seconds: those over DTLS, which wait for less, are sent away for the last of them.
DEVICES, RATE = 100, 20


async def storm(fleet: Fleet, kind: str) -> dict[str, Any]:
    """Run the simulator through a storm; return what it says of it."""
    process = await asyncio.create_subprocess_exec(
        *fleet.command(
            "sim", "--devices", str(DEVICES), "--seconds", "9", "--rate", "0.5",
            "--ramp", str(RATE), "--storm-at", "1", "--storm", kind, "--json",
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=fleet.environment() | {"FLEETNET_SESSIONS_PER_S": str(RATE)},
    )  # fmt: skip
    out, noise = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, noise.decode()
    assert b"Traceback" not in noise, noise.decode()
    found: dict[str, Any] = json.loads(out)
    return found


async def test_everybody_is_back_at_the_rate_that_is_set(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    try:
        found = await storm(fleet, "power")
    finally:
        await fleet.close()
    outcome = found["storm"]
    assert outcome["hit"] == outcome["back"] == DEVICES, found
    assert outcome["attempts_per_device"] <= 1.5, found
    # No faster than the rate, of which a second's worth of turns may be taken at once. Nothing is
    # asked about slower: a machine that has other work is no fault.
    assert outcome["back_ms"]["max"] / 1000 >= 0.9 * (DEVICES / RATE - 1.0), found
    assert found["store"]["lost"] == found["store"]["twice"] == 0
    # The model says the same; that a busy machine is slower than it is no fault of it.
    model = run(Case(devices=DEVICES, kind="power", away_s=0.0, sessions_per_s=RATE, message_s=2.0))
    assert model.back == DEVICES
    assert outcome["back_ms"]["max"] / 1000 >= 0.8 * model.max_s - 0.5, (found, model)
    assert abs(outcome["attempts_per_device"] - model.attempts_per_device) <= 0.4, (found, model)
