"""The Python API and its examples, with real devices: MicroPython and CPython, TLS and DTLS."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from end_to_end.device_process import DeviceProcess, until
from end_to_end.fleet import Fleet as Rig
from end_to_end.fleet import runtimes
from fleetnet_server import Fleet
from fleetnet_server.errors import CommandFailed, CommandUnknown, DeviceOffline
from fleetnet_server.sim.interpreters import device_environment
from interpreters import ROOT, Interpreter

PROGRAM = Path(__file__).with_name("python_api_device.py")
EXAMPLES = ROOT / "examples"
PATIENCE_S = 60.0
WAYS = [(link, runtime) for link in ("tls", "dtls") for runtime in (runtimes()[0], None)]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A fleet without a server: the test, or an example, is the server."""
    made = Rig(tmp_path / "fleet")
    try:
        yield made
    finally:
        await made.close()


async def start(rig: Rig, name: str, link: str, runtime: Interpreter | None) -> DeviceProcess:
    bundle = rig.add_device(name, link)
    process = await asyncio.create_subprocess_exec(
        runtime.path if runtime else sys.executable, str(PROGRAM), str(bundle),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=device_environment(),
    )  # fmt: skip
    device = DeviceProcess(name, process)
    rig.devices.append(device)
    return device


def embedded(rig: Rig) -> Fleet:
    return Fleet(
        rig.folder, host="127.0.0.1", bind="127.0.0.1", tls_port=rig.tls[1], dtls_port=rig.dtls[1]
    )


async def first(feed: AsyncIterator[Any]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(feed)


@pytest.mark.parametrize(("link", "runtime"), WAYS)
async def test_what_a_program_does_with_a_device(
    rig: Rig, link: str, runtime: Interpreter | None
) -> None:
    seen: list[Any] = []
    async with embedded(rig) as fleet:

        @fleet.on_reading(device="cam-*", channel="temp")
        async def take(reading: Any) -> None:
            seen.append(reading.value)
            if len(seen) == 2:
                raise RuntimeError("a program's own mistake")

        happened = fleet.events()
        process = await start(rig, "cam-01", link, runtime)
        assert (await first(happened)).kind == "session-opened"
        reading = await first(fleet.readings(device="cam-01", channel="temp"))
        assert (reading.device, reading.channel) == ("cam-01", "temp")
        live = await first(fleet.readings(channel="angle", live=True))
        assert (live.device, live.channel) == ("cam-01", "angle")
        device = fleet.device("cam-01")
        assert device.is_online and "angle" in device.latest
        assert await device.call("set_exposure", us=5000) == {"us": 5000}
        await until(lambda: process.last("exposure") == 5000, "set", explain=process.story)
        assert await device.call("cool", 3) == "cooled for 3 s"
        with pytest.raises(CommandFailed, match="no lens"):
            await device.call("fail")
        with pytest.raises(CommandUnknown):
            await device.call("fly")
        assert await device.set_config({"frame_rate": 5}) == 1
        await until(
            lambda: (found := device.config) is not None and found.state == "applied", "applied"
        )
        assert device.config is not None and device.config.reported == {"frame_rate": 5}
        await until(lambda: len(seen) > 3, "the handler went on after its failure")
        assert fleet.handlers[0].failures == 1
        frame = None
        async with asyncio.timeout(PATIENCE_S):
            while (frame := await device.latest_frame()) is None:
                await asyncio.sleep(0.05)
        assert frame.data.startswith(b"\xff\xd8") and frame.name == "frame"
        await process.finish()
        await until(lambda: not device.is_online, "it has gone")
        with pytest.raises(DeviceOffline):
            await device.call("cool", 1)
        stored = [one.value async for one in fleet.query("cam-01", "temp")]
        assert stored == list(range(21, 21 + process.counter("sent")))
        assert seen == stored[: len(seen)]


# -- the examples --------------------------------------------------------------------------


async def run(rig: Rig, name: str, *arguments: str) -> asyncio.subprocess.Process:
    environment = rig.environment() | {"PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), environment["PYTHONPATH"]))
    return await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / name), str(rig.folder), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip


async def test_the_example_that_watches_and_acts(rig: Rig) -> None:
    program = await run(rig, "backend_readings.py", "21")
    device = await start(rig, "cam-01", "tls", None)
    said: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert program.stdout is not None
            # The handler and the feed are told of a reading each for itself.
            while not (
                any(line.startswith("cooled: cooled for 5 s") for line in said)
                and any(line.startswith("cam-01 ") and line.endswith(" 22\n") for line in said)
            ):
                line = (await program.stdout.readline()).decode()
                assert line, (said, await program.stderr.read())  # type: ignore[union-attr]
                said.append(line)
    finally:
        await device.kill()
        program.terminate()
        await program.wait()
    assert said[0] == "listening\n"


async def test_the_example_with_a_camera_and_the_report(rig: Rig, tmp_path: Path) -> None:
    async with embedded(rig) as fleet:
        process = await start(rig, "cam-01", "dtls", None)
        device = None
        async with asyncio.timeout(PATIENCE_S):
            device = fleet.device("cam-01")
            while await device.latest_frame() is None:
                await asyncio.sleep(0.05)
    picture = tmp_path / "frame.jpg"
    program = await run(rig, "backend_camera.py", "cam-01", str(picture))
    out, errors = await asyncio.wait_for(program.communicate(), PATIENCE_S)
    assert program.returncode == 0, errors
    assert out.decode().splitlines() == [
        "exposure: {'us': 5000}", "configuration 1 picture frame",
    ]  # fmt: skip
    assert picture.read_bytes().startswith(b"\xff\xd8")
    await process.kill()
    report = await run(rig, "backend_report.py")
    out, errors = await asyncio.wait_for(report.communicate(), PATIENCE_S)
    assert report.returncode == 0, errors
    name, channel, low, mean, high = out.decode().split()
    assert (name, channel, low) == ("cam-01", "temp", "21")
    assert float(low) < float(mean) < float(high)
