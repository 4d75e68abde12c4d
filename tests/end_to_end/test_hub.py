"""A sensor network without a back-end: hubs on MicroPython and CPython, sensors on both."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from end_to_end.device_process import until
from end_to_end.fleet import Fleet, name_of, runtimes
from fleetnet.hub import Hub
from fleetnet.hub_link import Reading
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity import pki
from fleetnet_server.sim.interpreters import device_environment
from interpreters import ROOT, Interpreter

PROGRAM = Path(__file__).with_name("hub_main.py")
EXAMPLE = ROOT / "examples" / "hub.py"
HUBS = runtimes()
LINKS = ("tls", "dtls")


class HubProcess:
    """A hub program beside the test; its sensors are the fleet's devices."""

    def __init__(self, fleet: Fleet, runtime: Interpreter | None, links: tuple[str, ...]):
        self.fleet = fleet
        self.runtime = runtime
        self.links = links
        self.readings: list[list[Any]] = []
        self.said: dict[str, Any] = {}
        self.noise: list[str] = []
        self.folder = fleet.folder / "hub"
        if not self.folder.exists():
            self.folder.mkdir()
            shutil.copy(fleet.folder / "ca" / "ca.der", self.folder)
            for name in ("cert.der", "key.der"):
                shutil.copy(fleet.folder / "server" / name, self.folder)

    async def start(self, **options: Any) -> None:
        ports = [self.fleet.tls[1] if "tls" in self.links else 0,
                 self.fleet.dtls[1] if "dtls" in self.links else 0]  # fmt: skip
        self._process = await asyncio.create_subprocess_exec(
            self.runtime.path if self.runtime else sys.executable,
            str(PROGRAM), str(self.folder), *map(str, ports), json.dumps(options),
            env=device_environment(), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self.said = {}
        self._reader = asyncio.create_task(self._read())
        await until(lambda: bool(self.said) or bool(self.noise), "the hub listens")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if line.startswith(b"["):
                self.readings.append(json.loads(line))
            elif line.startswith(b"{"):
                self.said = json.loads(line)
            else:
                self.noise.append(line.decode(errors="replace"))

    async def finish(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), 30)
        await self._reader
        assert self._process.returncode == 0 and not self.noise, "".join(self.noise)
        return self.said

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    def counts(self, device: str) -> list[int]:
        """What the channel "count" of a sensor carried, in the order of handing out."""
        return [each[3] for each in self.readings if each[0] == device and each[1] == "count"]


@pytest.fixture
async def fleet(fleet: Fleet) -> Fleet:
    """Its CA, its ports and its devices; the hub stands where the server was."""
    await fleet.kill_server()
    # MicroPython presents one certificate only, so the hub's must be signed by the anchor.
    shutil.rmtree(fleet.folder)
    create_fleet(fleet.folder, ("localhost",), is_flat=True)
    return fleet


async def hub_of(fleet: Fleet, runtime: Interpreter | None, **options: Any) -> HubProcess:
    links = LINKS if runtime is None or "dtls_server" in runtime.features else ("tls",)
    hub = HubProcess(fleet, runtime, links)
    await hub.start(**options)
    return hub


async def sensors(fleet: Fleet, hub: HubProcess, seconds: int = 600, rate: int = 10) -> None:
    """One of each runtime, over each transport in turn."""
    for index, runtime in enumerate(runtimes()):
        link = hub.links[index % len(hub.links)]
        await fleet.start_device(
            f"{name_of(runtime)}-{link}", link, runtime, seconds=seconds, rate=rate
        )


@pytest.mark.parametrize("runtime", HUBS, ids=name_of)
async def test_each_reading_once_and_in_order(fleet: Fleet, runtime: Interpreter | None) -> None:
    hub = await hub_of(fleet, runtime)
    try:
        await sensors(fleet, hub, seconds=4)
        await asyncio.gather(*(device.ended() for device in fleet.devices))
        said = await hub.finish()
        for device in fleet.devices:
            sent = device.counter("sent")
            assert sent == device.counter("acknowledged") == 80, device.story()
            assert hub.counts(device.name) == list(range(sent // 2))
            assert said["devices"][device.name][::2] == [1, 0]
        assert all(each[2] > 1_700_000_000_000 for each in hub.readings)
        print({f"heap of a hub with {len(fleet.devices)} sensors, KiB": said["heap"] // 1024})
    finally:
        await hub.kill()


@pytest.mark.parametrize("runtime", HUBS[::2], ids=name_of)
async def test_hub_that_is_killed_and_sensors_that_are(
    fleet: Fleet, runtime: Interpreter | None
) -> None:
    """What was acknowledged was handed out; what was handed out and not acknowledged comes
    again, from the same number on; nothing is missing."""
    hub = await hub_of(fleet, runtime)
    try:
        await sensors(fleet, hub)
        await fleet.until_online()
        await fleet.devices[0].kill()
        await hub.kill()
        first = {device.name: len(hub.counts(device.name)) for device in fleet.devices}
        hub.readings = []
        await hub.start()
        killed = fleet.devices.pop(0)
        await fleet.until_online()
        for device in fleet.devices:
            await device.finish()
        await hub.finish()
        for device in fleet.devices:
            counts = hub.counts(device.name)
            sent = device.counter("sent")
            assert sent == device.counter("acknowledged"), device.story()
            assert counts == list(range(counts[0], sent // 2)), "in order, without a hole"
            assert counts[0] <= first[device.name], "nothing is missing between the two lives"
        assert killed.counter("acknowledged") // 2 <= first[killed.name]
    finally:
        await hub.kill()


@pytest.mark.parametrize("runtime", HUBS[::2], ids=name_of)
async def test_a_slow_program_shuts_the_window(fleet: Fleet, runtime: Interpreter | None) -> None:
    """100 readings a second against a program that takes 20: the sensor keeps the rest."""
    hub = await hub_of(fleet, runtime, slow_ms=50)
    try:
        device = await fleet.start_device(
            "fast", "tls", None, rate=50, options={"linger_ms": 100, "max_readings": 4}
        )
        await until(lambda: device.counter("sent") > 600, "it sends", explain=device.story)
        behind = device.counter("sent") - device.counter("acknowledged")
        assert behind > 300, "the hub took no more than its program did"
        assert device.counter("acknowledged") <= len(hub.readings)
    finally:
        await hub.kill()


@pytest.mark.parametrize("runtime", HUBS[::2], ids=name_of)
async def test_who_may_not_come(fleet: Fleet, runtime: Interpreter | None) -> None:
    hub = await hub_of(fleet, runtime, allow=["friend"])
    try:
        stranger = await fleet.start_device("stranger", "tls", None)
        friend = await fleet.start_device("friend", "tls", None)
        await until(lambda: bool(stranger.errors()), "it is told", explain=stranger.story)
        assert "not registered" in stranger.errors()[0] and "list" in stranger.errors()[0]
        await friend.until_acknowledged(10)

        other = pki.create_ca("another CA")
        bundle = fleet.add_device("impostor", "tls")
        credential = pki.issue_device(other, "friend")
        (bundle / "cert.der").write_bytes(credential.certificate)
        (bundle / "key.der").write_bytes(credential.key)
        impostor = await fleet.start_device("impostor", "tls", None)
        await until(lambda: bool(impostor.errors()), "it is refused", explain=impostor.story)
        await friend.finish()
        said = await hub.finish()
        assert set(said["devices"]) == {"friend"} and said["refused"] >= 2
        assert {each[0] for each in hub.readings} == {"friend"}
    finally:
        await hub.kill()


async def test_two_devices_with_one_certificate(fleet: Fleet) -> None:
    """The newer one wins; the other is told so, and stays away longer each time."""
    hub = await hub_of(fleet, None)
    try:
        first = await fleet.start_device("cam", "tls", None)
        await first.until_acknowledged(1)
        second = await fleet.start_device("cam", "tls", None)
        await second.until_acknowledged(1)
        await until(lambda: bool(first.errors()), "the first is told", explain=first.story)
        assert "newer session" in first.errors()[0]
    finally:
        await hub.kill()


async def test_a_firmware_without_dtls_server_says_so(fleet: Fleet) -> None:
    without = [r for r in runtimes() if r is not None and "dtls_server" not in r.features]
    if not without:
        pytest.skip("every MicroPython here has the DTLS server")
    hub = HubProcess(fleet, without[0], ("dtls",))
    await hub.start()
    try:
        said = "Unsupported", "1.26"
        await until(lambda: all(one in "".join(hub.noise) for one in said), "it says so")
    finally:
        await hub.kill()


@pytest.mark.parametrize("runtime", HUBS[::2], ids=name_of)
async def test_the_example_prints_what_comes(fleet: Fleet, runtime: Interpreter | None) -> None:
    """examples/hub.py"""
    hub = HubProcess(fleet, runtime, ("tls",))
    process = await asyncio.create_subprocess_exec(
        runtime.path if runtime else sys.executable,
        str(EXAMPLE), str(hub.folder), str(fleet.tls[1]),
        env=device_environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert (await process.stdout.readline()).strip() == b"listening"
        await fleet.start_device("cam", "tls", None)
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().split()
        assert line[:2] == ["cam", "temperature"] and int(line[2]) > 1_700_000_000_000
    finally:
        process.kill()
        await process.wait()


async def test_store_is_asked_again_until_it_succeeds(fleet: Fleet) -> None:
    """A store that fails costs its sensor the session and nothing else; a full hub says so."""
    hub_folder = HubProcess(fleet, None, ("tls",)).folder
    stored: list[int] = []
    failures = ["disk is full"]
    is_armed = asyncio.Event()

    async def store(readings: list[Reading]) -> None:
        if is_armed.is_set() and failures:
            raise OSError(failures.pop())
        stored.extend(int(r.value) for r in readings if r.channel == "count")

    paths = [str(hub_folder / name) for name in ("ca.der", "cert.der", "key.der")]
    async with Hub(*paths, tls_port=fleet.tls[1], store=store, max_sensors=1) as hub:
        first = await fleet.start_device("first", "tls", None, seconds=6)
        await first.until_acknowledged(1)
        second = await fleet.start_device("second", "tls", None)
        await until(lambda: bool(second.errors()), "it hears", explain=second.story)
        assert "overloaded" in second.errors()[0] and "no room" in second.errors()[0]
        is_armed.set()
        await first.ended()
    assert not failures and "disk is full" in hub.last_refusal
    assert first.counter("connects") == 2 and "store" in first.errors()[0], first.story()
    assert stored == list(range(60))
