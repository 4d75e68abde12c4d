"""Commands and configurations between a real server and real devices.

Every handler of command_device.py notes that it began: what counts is how often.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bad_network import Address, Faults, UdpProxy
from end_to_end.device_process import DeviceProcess, until
from end_to_end.fleet import Fleet, name_of, runtimes
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.errors import CommandFailed, CommandTimeout, CommandUnknown, DeviceOffline
from fleetnet_server.sim.interpreters import device_environment
from fleetnet_server.store.logs import logs
from interpreters import Interpreter

PROGRAM = Path(__file__).with_name("command_device.py")
SEED = 31
OLDEST = runtimes()[0]
RUNTIMES = list(dict.fromkeys((OLDEST, None)))
LINKS = ("tls", "dtls")


async def start(
    fleet: Fleet,
    name: str,
    link: str,
    runtime: Interpreter | None,
    *more: str,
    via: Address | None = None,
) -> DeviceProcess:
    """Start command_device.py, registering the device when it is new."""
    bundle = fleet.folder / "devices" / name
    if not bundle.exists():
        fleet.add_device(name, link, via)
    process = await asyncio.create_subprocess_exec(
        runtime.path if runtime else sys.executable, str(PROGRAM), str(bundle), *more,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=device_environment(),
    )  # fmt: skip
    device = DeviceProcess(name, process)
    fleet.devices.append(device)
    return device


async def online(device: DeviceProcess) -> None:
    await until(lambda: device.last("state") == "online", "it is online", explain=device.story)


def ran(fleet: Fleet, name: str) -> list[str]:
    """What the device's handlers noted, over all its boots."""
    path = fleet.folder / "devices" / name / "ran"
    return path.read_text().split("\n")[:-1] if path.exists() else []


@contextmanager
def holding(fleet: Fleet, name: str) -> Iterator[None]:
    """The command "held" does not end in here."""
    hold = fleet.folder / "devices" / name / "hold"
    hold.touch()
    yield
    hold.unlink()


@asynccontextmanager
async def backend_of(fleet: Fleet) -> AsyncIterator[Backend]:
    """The server in this process, so that its errors can be caught."""
    settings = Settings(bind="127.0.0.1", tls_port=fleet.tls[1], dtls_port=fleet.dtls[1])
    async with Backend(fleet.folder, settings) as backend:
        yield backend


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet whose server does not run."""
    made = Fleet(tmp_path / "fleet")
    try:
        yield made
    finally:
        await made.close()


async def fleetnet(fleet: Fleet, *arguments: str, code: int = 0) -> Any:
    """Run a `fleetnet` command as another process; return what its --json printed."""
    done = await fleet.run(*arguments, "--json")
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout else done.stderr


# -- call --------------------------------------------------------------------------------

HOSTILE = (
    [],
    [1, 2, 3],
    {"c": 1},
    {"a": None},
    {"": 1},
    {"a": {"b" * 1000: ["x" * 10000]}, "b": 2},
    [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]],
    ['\x00\x1b[31m\u2028\u00e9\U0001f600\\"', 1],
)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_calls_with_every_outcome(
    idle: Fleet, link: str, runtime: Interpreter | None
) -> None:
    async with backend_of(idle) as backend:
        commands = backend.commands
        device = await start(idle, "cam", link, runtime)
        with pytest.raises(DeviceOffline, match="queue the command"):
            await commands.call("cam", "add", [1])
        await online(device)
        assert await commands.call("cam", "add", {"a": 1, "b": 2}) == {"sum": 3}
        assert await commands.call("cam", "add", [1.5]) == {"sum": 1.5}
        with pytest.raises(CommandFailed) as failed:
            await commands.call("cam", "fail", ["out of film"])
        assert (failed.value.kind, failed.value.text) == ("RuntimeError", "out of film")
        with pytest.raises(CommandUnknown):
            await commands.call("cam", "self_destruct")
        with pytest.raises(CommandTimeout):
            await commands.call("cam", "slow", [30_000], timeout_s=0.3)
        for args in HOSTILE:
            with pytest.raises(CommandFailed):
                await commands.call("cam", "add", args)
        for args in ([float("nan")], ["x" * 20_000], {"a": object()}, {"a": {1: 2}}, "a"):
            with pytest.raises((ValueError, TypeError)):
                await commands.call("cam", "add", args)
        # Twenty at once: more than run, wait and travel at a time.
        found = await asyncio.gather(*(commands.call("cam", "add", [n]) for n in range(20)))
        assert found == [{"sum": n} for n in range(20)]
        assert device.last("connects") == 1
        assert ran(idle, "cam").count("add") == 22
        assert {each.state for each in backend_commands(backend)} <= {"ok", "error", "unknown"}
        await device.finish()


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_a_command_that_restarts_the_device(idle: Fleet, runtime: Interpreter | None) -> None:
    async with backend_of(idle) as backend:
        device = await start(idle, "cam", "tls", runtime)
        await online(device)
        assert await backend.commands.call("cam", "restart") == "going"
        await until(
            lambda: device.last("connects") == 2, "it is back", explain=device.story
        )
        assert ran(idle, "cam") == ["left"]
        # It takes its own handler down, and must be whole all the same.
        with pytest.raises(CommandFailed) as failed:
            await backend.commands.call("cam", "stop_at_once", timeout_s=20)
        assert failed.value.kind == "Interrupted"
        assert device.last("connects") >= 2
        await device.finish()


def backend_commands(backend: Backend) -> list[Any]:
    return backend.commands._store.recent(None, 100)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_a_bad_network_runs_each_command_once(
    fleet: Fleet, runtime: Interpreter | None
) -> None:
    """30 % of datagrams lost, 20 % doubled, 30 % out of order, on both ways."""
    bad = Faults(loss=0.3, duplicate=0.2, reorder=0.3, reorder_ms=30)
    proxy = UdpProxy(fleet.dtls, SEED)
    await proxy.start()
    try:
        device = await start(fleet, "cam", "dtls", runtime, via=proxy.address)
        await online(device)
        proxy.up.faults = proxy.down.faults = bad  # a handshake on this would take 20 s
        answers = await asyncio.gather(
            *(
                fleetnet(fleet, "call", "cam", "slow", f'[20,"c{n}"]', "--expires", "5m",
                         "--wait", "50s")
                for n in range(8)
            )
        )  # fmt: skip
        assert [answer["result"] for answer in answers] == [f"c{n}" for n in range(8)]
        await device.finish()
    finally:
        await proxy.close()
    assert min(way.counters["lost"] for way in (proxy.up, proxy.down)) > 0
    assert sorted(ran(fleet, "cam")) == [f"c{n}" for n in range(8)]


# -- queued --------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
async def test_queued_for_a_device_that_is_away(fleet: Fleet, link: str) -> None:
    fleet.add_device("cam", link)
    good = await fleetnet(fleet, "call", "cam", "add", "[40,2]", "--expires", "1h")
    assert good["state"] == "queued"
    stale = await fleetnet(fleet, "call", "cam", "slow", '[1,"stale"]', "--expires", "10ms")
    text = await fleetnet(fleet, "call", "cam", "add", "--wait", "100ms", code=1)
    assert text["state"] in ("queued", "expired")
    await fleet.kill_server()
    await fleet.start_server()
    device = await start(fleet, "cam", link, OLDEST)
    await until_ended(fleet, good["id"])
    assert (await fleetnet(fleet, "commands", "--id", good["id"]))["result"] == {"sum": 42}
    assert (await until_ended(fleet, stale["id"]))["state"] == "expired"
    await device.finish()
    assert ran(fleet, "cam") == ["add"]


async def until_ended(fleet: Fleet, command_id: str) -> Any:
    for _ in range(300):
        command = await fleetnet(fleet, "commands", "--id", command_id)
        if command["ended_ms"] is not None:
            return command
        await asyncio.sleep(0.1)
    raise AssertionError(f"{command} does not end: {fleet.log()} {fleet.story()}")


@pytest.mark.parametrize("link", LINKS)
async def test_server_killed_between_call_and_result(fleet: Fleet, link: str) -> None:
    device = await start(fleet, "cam", link, OLDEST)
    await online(device)
    with holding(fleet, "cam"):
        sent = await fleetnet(fleet, "call", "cam", "held", "--expires", "5m")
        await until(lambda: ran(fleet, "cam") == ["held"], "it began", explain=device.story)
        await fleet.kill_server()
        await fleet.start_server()
    ended = await until_ended(fleet, sent["id"])
    assert (ended["state"], ended["result"]) == ("ok", "held")
    await device.finish()
    assert ran(fleet, "cam") == ["held"]


async def kill_device_in_the_middle(
    fleet: Fleet, runtime: Interpreter | None, *more: str
) -> tuple[Any, list[str]]:
    """Kill a device that runs a command, start it again; the outcome and what ran."""
    first = await start(fleet, "cam", "tls", runtime, *more)
    await online(first)
    with holding(fleet, "cam"):
        sent = await fleetnet(fleet, "call", "cam", "held", "--expires", "5m")
        await until(lambda: ran(fleet, "cam") == ["held"], "it began", explain=first.story)
        await first.kill()
    second = await start(fleet, "cam", "tls", runtime, *more)
    ended = await until_ended(fleet, sent["id"])
    again = await fleetnet(fleet, "call", "cam", "add", "[1]")
    assert again["result"] == {"sum": 1}
    await second.finish()
    return ended, ran(fleet, "cam")


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_device_killed_in_the_middle(fleet: Fleet, runtime: Interpreter | None) -> None:
    ended, noted = await kill_device_in_the_middle(fleet, runtime)
    assert ended["state"] == "error"
    assert ended["error"]["type"] == "Interrupted"
    assert noted == ["held", "add"]


async def test_control_a_device_without_a_journal_is_found(fleet: Fleet) -> None:
    ended, noted = await kill_device_in_the_middle(fleet, OLDEST, "forgetful")
    assert noted == ["held", "held", "add"], "the check cannot see a command that runs twice"
    assert ended["state"] == "ok"


# -- configuration -------------------------------------------------------------------------


async def set_config(fleet: Fleet, text: str, *options: str, code: int = 0) -> Any:
    path = fleet.folder.parent / "document.json"
    path.write_text(text)
    return await fleetnet(fleet, "config", "set", "cam", str(path), *options, code=code)


async def until_config(fleet: Fleet, version: int) -> Any:
    for _ in range(300):
        found = await fleetnet(fleet, "config", "get", "cam")
        if found["state_version"] == version:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{found} does not change: {fleet.log()} {fleet.story()}")


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_configuration(fleet: Fleet, link: str, runtime: Interpreter | None) -> None:
    fleet.add_device("cam", link)
    assert "no configuration" in await fleetnet(fleet, "config", "get", "cam", code=1)
    assert (await set_config(fleet, '{"rate": 5}'))["version"] == 1
    for bad in ("[1]", '{"rate": ', '{"x": "%s"}' % ("y" * 20_000), '{"x": NaN}'):
        assert "FILE" in await set_config(fleet, bad, code=2)

    device = await start(fleet, "cam", link, runtime)  # it was away when version 1 was set
    found = await until_config(fleet, 1)
    assert (found["state"], found["reported"]) == ("applied", {"rate": 5})
    said = await set_config(fleet, '{"rate": "bad"}', "--wait", "30s", code=1)
    assert (said["version"], said["state"]) == (2, "rejected")
    found = await until_config(fleet, 2)
    assert (found["state"], found["reported"]) == ("rejected", "ValueError: rate is a number")
    assert (device.last("version"), device.last("rate")) == (1, 5)
    assert (await set_config(fleet, '{"rate": 7}', "--wait", "30s"))["state"] == "applied"
    await until(lambda: device.last("rate") == 7, "it is in force", explain=device.story)
    assert device.last("connects") == 1
    await device.kill()

    # Kept over the power cut, and not sent again.
    again = await start(fleet, "cam", link, runtime)
    await online(again)
    assert (await fleetnet(fleet, "call", "cam", "add", "[1]"))["result"] == {"sum": 1}
    assert (again.last("version"), again.last("rate")) == (3, 7)
    await again.finish()
    # "5" twice: it is given back to the callback when the next one was rejected.
    assert ran(fleet, "cam") == ["config 5", "config bad", "config 5", "config 7", "add"]
    assert "rejects version 2" in fleet.log()


# -- the log -------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_the_device_s_log_is_stored_and_dated(
    fleet: Fleet, runtime: Interpreter | None
) -> None:
    await fleet.terminate_server()
    device = await start(fleet, "cam", "tls", runtime)
    await until(lambda: device.counter("errors") > 0, "it failed to connect", explain=device.story)
    await fleet.start_server()
    await online(device)
    await until(lambda: any(logs(fleet.store, "cam")), "its log came", explain=device.story)
    await device.finish()
    found = list(logs(fleet.store, "cam"))
    assert (found[0].level, found[0].text) == ("info", "started")
    assert any(line.level == "error" and "connection: " in line.text for line in found), found
    assert all(line.unix_ms is not None for line in found)
