"""Hubs before a back-end: examples/hub_relay.py on MicroPython and CPython, sensors on both."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bad_streams import TcpProxy
from end_to_end.device_process import DeviceProcess, until
from end_to_end.fleet import Fleet, free_port, name_of, runtimes
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.sim.interpreters import device_environment
from fleetnet_server.store.hubs import HubTable
from fleetnet_server.store.query import query
from fleetnet_server.store.sqlite import SqliteStore
from interpreters import ROOT, Interpreter

EXAMPLE = ROOT / "examples" / "hub_relay.py"
COMMANDS = Path(__file__).with_name("command_device.py")
RUNTIMES = runtimes()
ALSO = RUNTIMES[::2] if len(RUNTIMES) > 2 else RUNTIMES


class HubProcess:
    """examples/hub_relay.py: ``tls`` is where its sensors connect."""

    def __init__(self, fleet: Fleet, name: str, runtime: Interpreter | None, link: str = "tls"):
        self.name = name
        self.runtime = runtime
        self.tls = ("127.0.0.1", free_port())
        self.dtls = ("127.0.0.1", free_port())
        self.bundle = fleet.add_device(name, link)
        self.folder = fleet.folder / "hubs" / name
        self.noise: list[str] = []

    async def start(self) -> None:
        ports = [str(self.tls[1])]
        if self.runtime is None or "dtls_server" in self.runtime.features:
            ports.append(str(self.dtls[1]))
        self._process = await asyncio.create_subprocess_exec(
            self.runtime.path if self.runtime else sys.executable,
            str(EXAMPLE), str(self.bundle), str(self.folder), *ports,
            env=device_environment(), stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 30)
        assert line.strip() == b"listening", line
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.noise.append(line.decode(errors="replace"))

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    def way(self, sensor: str) -> tuple[str, int]:
        return self.tls if sensor.endswith("-tls") else self.dtls


class Net:
    """A fleet with a flat CA, its hubs, and its sensors."""

    def __init__(self, fleet: Fleet):
        self.fleet = fleet
        self.hubs: list[HubProcess] = []

    async def hub(self, name: str, runtime: Interpreter | None, link: str = "tls") -> HubProcess:
        made = HubProcess(self.fleet, name, runtime, link)
        self.hubs.append(made)
        await self.cli("hub", "cert", name, "--host", "localhost")
        await made.start()
        return made

    def assign(self, hub: HubProcess, *sensors: str) -> None:
        with SqliteStore(self.fleet.store) as store:
            HubTable(store).assign(hub.name, sensors)

    async def sensor(
        self, name: str, hub: HubProcess, runtime: Interpreter | None, rate: int = 10,
        via: tuple[str, int] | None = None,
    ) -> DeviceProcess:  # fmt: skip
        link = "tls" if via else name.rpartition("-")[2]
        self.fleet.add_device(name, link, via or hub.way(name))
        self.assign(hub, name)
        return await self.fleet.start_device(name, link, runtime, rate=rate)

    async def cli(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *self.fleet.command(*arguments), env=self.fleet.environment(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        return out.decode()

    def stored(self, name: str) -> list[int]:
        """What the channel "count" of a sensor carried, in order of time."""
        return [
            int(r.value)
            for r in query(self.fleet.store)
            if (r.device, r.channel) == (name, "count")
        ]

    async def until_stored(self, device: DeviceProcess) -> None:
        """Everything that it was acknowledged is in the store: once, in order."""
        wanted = device.counter("sent") // 2
        await until(lambda: len(self.stored(device.name)) >= wanted, "it is stored", 40)
        assert self.stored(device.name) == list(range(wanted)), device.story()
        assert device.counter("sent") == device.counter("acknowledged"), device.story()
        assert device.counter("dropped") == 0

    def gaps(self) -> int:
        with SqliteStore(self.fleet.store) as store:
            return int(store.read("SELECT count(*) FROM gaps")[0][0])


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    fleet = Fleet(tmp_path / "fleet")
    # MicroPython presents one certificate only, so a hub's must be signed by the anchor.
    shutil.rmtree(fleet.folder)
    create_fleet(fleet.folder, ("localhost",), is_flat=True)
    async with fleet:
        made = Net(fleet)
        try:
            yield made
        finally:
            for hub in made.hubs:
                await hub.kill()
                assert not hub.noise, "".join(hub.noise)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_sensors_of_every_kind_behind_a_hub_of_every_kind(
    net: Net, runtime: Interpreter | None
) -> None:
    hub = await net.hub("hub-1", runtime, "dtls")
    can_dtls = runtime is None or "dtls_server" in runtime.features
    sensors = []
    for index, each in enumerate(RUNTIMES):
        link = "dtls" if can_dtls and index % 2 else "tls"
        sensors.append(await net.sensor(f"{name_of(each)}-{link}", hub, each))
    for sensor in sensors:
        await sensor.until_acknowledged(60)
    listed = json.loads(await net.cli("hub", "list", "--json"))
    assert [each["sensor"] for each in listed] == sorted(each.name for each in sensors)
    assert all(each["came_ms"] for each in listed)
    for sensor in sensors:
        await sensor.finish()
        await net.until_stored(sensor)
    assert net.gaps() == 0


@pytest.mark.parametrize("runtime", ALSO, ids=name_of)
async def test_back_end_and_hub_are_killed(net: Net, runtime: Interpreter | None) -> None:
    """The hub's flash keeps for the sensors while the back-end is away."""
    hub = await net.hub("hub-1", runtime)
    sensors = [await net.sensor(f"{name_of(each)}-tls", hub, each, rate=4) for each in RUNTIMES]
    for sensor in sensors:
        await sensor.until_acknowledged(8)
    await net.fleet.kill_server()
    had = [sensor.counter("acknowledged") for sensor in sensors]
    for sensor, before in zip(sensors, had, strict=True):
        await until(
            lambda: sensor.counter("acknowledged") >= before + 60, "the flash is enough", 60,
            sensor.story,
        )  # fmt: skip
    await hub.kill()
    await hub.start()
    await asyncio.sleep(2)
    await net.fleet.start_server()
    for sensor in sensors:
        await sensor.until_acknowledged(20)
    await hub.kill()
    await hub.start()
    for sensor in sensors:
        await sensor.finish()
        await net.until_stored(sensor)
    print({sensor.name: sensor.counter("acknowledged") for sensor in sensors})
    assert net.gaps() == 0


async def test_a_sensor_moves_between_hubs_and_the_back_end(net: Net) -> None:
    """A while at a MicroPython hub, then itself, then at a gateway, while the first hub is dead
    and holds what it has acknowledged."""
    first = await net.hub("hub-1", RUNTIMES[0])
    second = await net.hub("hub-2", None)
    proxy = TcpProxy(first.tls)
    await proxy.start()
    try:
        sensors = []
        for each in ALSO:
            name = f"{name_of(each)}-tls"
            sensors.append(await net.sensor(name, first, each, 5, proxy.address))
            net.assign(second, name)
        for sensor in sensors:
            await sensor.until_acknowledged(10)
        await net.fleet.kill_server()
        for sensor in sensors:
            await sensor.until_acknowledged(40)
        await first.kill()
        await net.fleet.start_server()
        for target in (net.fleet.tls, second.tls):
            proxy.server = target
            proxy.cut()
            for sensor in sensors:
                await sensor.until_acknowledged(20)
        for sensor in sensors:
            missing = sensor.counter("acknowledged") // 2 - len(net.stored(sensor.name))
            assert missing > 0, "it is at the first hub, which is dead"
            print({f"messages of {sensor.name} that only the dead hub had": missing})
        assert net.gaps() == 0
        await first.start()
        for sensor in sensors:
            await sensor.finish()
            await net.until_stored(sensor)
        assert net.gaps() == 0
    finally:
        await proxy.close()


@pytest.mark.parametrize("runtime", ALSO, ids=name_of)
async def test_commands_configuration_and_revocation(net: Net, runtime: Interpreter | None) -> None:
    hub = await net.hub("hub-1", runtime)
    bundle = net.fleet.add_device("arm-tls", "tls", hub.tls)
    net.assign(hub, "arm-tls")
    process = await asyncio.create_subprocess_exec(
        RUNTIMES[-2].path if RUNTIMES[-2] else sys.executable, str(COMMANDS), str(bundle),
        env=device_environment(), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    sensor = DeviceProcess("arm-tls", process)
    net.fleet.devices.append(sensor)
    try:
        await until(lambda: sensor.last("state") == "online", "it is in", explain=sensor.story)
        said = await net.cli("call", "arm-tls", "add", '{"a":2,"b":3}', "--json")
        assert json.loads(said)["result"] == {"sum": 5}
        (hub.folder / "config.json").write_text('{"rate":7}')
        await net.cli("config", "set", "arm-tls", str(hub.folder / "config.json"))
        await until(lambda: sensor.last("rate") == 7, "it is in force", explain=sensor.story)
        with SqliteStore(net.fleet.store) as store:
            await until(
                lambda: store.read("SELECT reported FROM configs") == [('{"rate":7}',)], "reported"
            )

        await net.cli("device", "revoke", "arm-tls")
        took = await until(lambda: bool(sensor.errors()), "it is told", 20, sensor.story)
        assert "revoked" in sensor.errors()[0]
        print({"a revoked sensor was told by its hub after, s": round(took, 2)})
        await net.fleet.kill_server()
        await hub.kill()
        await hub.start()
        before, at = sensor.counter("connects"), len(sensor.lines)
        await until(
            lambda: any("revoked" in each["error"] for each in sensor.lines[at + 20 :]),
            "it is told again, by the hub alone", explain=sensor.story,
        )  # fmt: skip
        assert sensor.counter("connects") == before
    finally:
        await sensor.kill()
