"""Ctrl-C at the prompt of a board, and the same program once more in the same interpreter."""

import asyncio
import signal
import subprocess
import time
from pathlib import Path

import pytest

from end_to_end.fleet import Fleet
from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter, interpreters

PROGRAM = """
import asyncio, sys
from fleetnet_device import Device

device = Device(sys.argv[1], linger_ms=20)

async def main(count):
    async with device:
        for _ in range(count):
            await device.send("temperature", 21.5)
            print(device.state)
            await asyncio.sleep_ms(400)
        await device.flush()
        print("end", device.acknowledged == device.sent, device.connects, device.errors)

try:
    asyncio.run(main(1000))
except KeyboardInterrupt:
    asyncio.new_event_loop()
asyncio.run(main(2))
"""


def interrupted(runtime: Interpreter, program: Path, bundle: Path) -> str:
    """Run the program, press Ctrl-C when it is online; return its last line."""
    with subprocess.Popen(
        [runtime.path, str(program), str(bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=device_environment(),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "online\n":
                time.sleep(0.1)  # so that it hits the loop in its sleep, and no task hears of it
                process.send_signal(signal.SIGINT)
                break
        return process.stdout.read().splitlines()[-1]


@pytest.mark.parametrize("runtime", interpreters(), ids=lambda each: each.name)
async def test_a_program_that_ctrl_c_ended_runs_again(runtime: Interpreter, tmp_path: Path) -> None:
    program = tmp_path / "main.py"
    program.write_text(PROGRAM)
    fleet = Fleet(tmp_path / "fleet")
    try:
        await fleet.start_server()
        bundle = fleet.add_device("cam-1", "dtls")
        async with asyncio.timeout(60):
            last = await asyncio.to_thread(interrupted, runtime, program, bundle)
    finally:
        await fleet.close()
    assert last == "end True 2 0"
