"""`fleetnet sim` as its user runs it: every shape, every fault, storms, the past, remote."""

import asyncio
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from end_to_end.device_process import until
from end_to_end.fleet import Fleet
from fleetnet_server.cli.main import main as cli
from fleetnet_server.errors import ConfigError
from fleetnet_server.served import find_server, is_served, take_lock, write_ports
from fleetnet_server.sim import boards
from fleetnet_server.sim.bundles import bundles_path
from fleetnet_server.sim.faults import FAULTS
from fleetnet_server.sim.meter import Meter
from fleetnet_server.sim.plan import Plan, schedule
from fleetnet_server.sim.server import OwnServer
from fleetnet_server.sim.shapes import SHAPES
from fleetnet_server.sim.simulation import _config_error
from fleetnet_server.sim.storm import STORMS
from fleetnet_server.sim.unit import Unit
from fleetnet_server.store.sqlite import SqliteStore
from interpreters import ROOT, interpreters

DEVICES = 12


@pytest.fixture
def idle(tmp_path: Path) -> Fleet:
    """A fleet whose server does not run: the simulator starts its own."""
    return Fleet(tmp_path / "fleet")


async def reports(place: Path, *orders: tuple[str, ...]) -> list[dict[str, Any]]:
    """Run several at a time, each with a fleet of its own: they wait most of the time."""
    fleets = [Fleet(place / f"fleet-{number}") for number in range(len(orders))]
    runs = (report(fleet, *order) for fleet, order in zip(fleets, orders, strict=True))
    return await asyncio.gather(*runs)


async def run(
    fleet: Fleet, *arguments: str, code: int = 0, **settings: str
) -> tuple[str, str]:
    """Run `fleetnet sim`; return its standard output and error."""
    paths = ":".join(each.path for each in interpreters())
    process = await asyncio.create_subprocess_exec(
        *fleet.command("sim", *arguments),
        env=fleet.environment() | {"FLEETNET_MICROPYTHON": paths} | settings, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, error = await asyncio.wait_for(process.communicate(), 90)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == code, out.decode() + error.decode()
    assert "Traceback" not in error.decode(), error.decode()
    assert "never awaited" not in error.decode(), error.decode()
    return out.decode(), error.decode()


async def start(fleet: Fleet, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *fleet.command("sim", "--devices", "4", "--ramp", "0", "--json", *arguments),
        env=fleet.environment(), cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def has_ports(folder: Path) -> bool:
    """Whether a server runs and accepts devices."""
    server = find_server(folder)
    return server is not None and "tls_port" in server.ports


async def report(fleet: Fleet, *arguments: str) -> dict[str, Any]:
    """Run it with devices that start at once; return its report, which must be complete."""
    common = ("--devices", str(DEVICES), "--processes", "1", "--rate", "4", "--ramp", "0")
    out, _ = await run(fleet, *common, "--json", *arguments)
    found: dict[str, Any] = json.loads(out)
    assert found["complete"] and found["done"]
    assert found["devices"] == DEVICES
    if found["store"]:
        assert found["store"]["lost"] == found["store"]["twice"] == 0
    assert found["sent"] == found["acknowledged"] + found["erased"] > DEVICES
    return found


async def test_every_shape(idle: Fleet) -> None:
    shapes = [text for name in SHAPES for text in ("--shape", name)]
    found = await report(idle, *shapes, "--seconds", "5")
    assert found["shapes"] == list(SHAPES)
    assert found["frames"] > 0  # cameras
    assert found["cuts"] > 0  # flaky radios
    # Sleepers come twice in five seconds: ten readings at 4 a second.
    assert found["connects"] > DEVICES
    assert found["server"]["starts"] == 1
    for name in ("server", "simulator"):
        assert found[name]["rss_bytes"] > 10_000_000 and found[name]["cpu_s"] > 0
    for name in ("connect_ms", "latency_ms"):
        times = found[name]
        assert 0 < times["p50"] <= times["p90"] <= times["p95"] <= times["p99"] <= times["max"]
    steady = found["steady"]
    assert steady["seconds"] >= 1 and steady["readings_per_s"] > 0
    for name in ("server", "simulator"):
        assert steady[name]["rss_bytes_per_device"] > 0
    assert found["latency_ms"]["count"] == found["acknowledged"]


# What shows in the report that a fault struck each device.
STRUCK = {
    "loss": "losses", "cut": "cuts", "reboot": "reboots", "clock-lost": "reboots",
    "nat-move": "moves",
}  # fmt: skip


async def test_every_fault(tmp_path: Path) -> None:
    common = ("--seconds", "3", "--seed", "5", "--fault")
    found = await reports(tmp_path, *((*common, name) for name in FAULTS))
    for name, one in zip(FAULTS, found, strict=True):
        assert one["faults"] == [name]
        assert one[STRUCK[name]] >= (1 if name == "loss" else DEVICES), name
        assert (one["erased"] > 0) == (STRUCK[name] == "reboots"), name
        assert sum(one[key] for key in set(STRUCK.values())) == one[STRUCK[name]], name


async def test_every_storm(tmp_path: Path) -> None:
    common = ("--seconds", "4", "--storm-at", "1.5", "--storm")
    found = await reports(tmp_path, *((*common, kind) for kind in STORMS))
    for kind, one in zip(STORMS, found, strict=True):
        storm = one["storm"]
        assert storm["kind"] == kind
        assert storm["hit"] == storm["back"] == storm["back_ms"]["count"] == DEVICES, kind
        assert storm["attempts_per_device"] >= 1 and storm["most_per_s"] > 0
        assert 0 < storm["took_s"] <= storm["back_ms"]["max"] / 1000 + 0.01
        assert (storm["server_away_s"] > 0) == (kind != "power")
        assert one["server"]["starts"] == (1 if kind == "power" else 2)
        assert one["reboots"] == (DEVICES if kind == "power" else 0)
        assert one["connects"] >= 2 * DEVICES


async def test_a_device_that_has_to_wait_is_waited_for(idle: Fleet) -> None:
    """More devices than the server lets in while they send: all of it arrives later."""
    out, _ = await run(
        idle, "--devices", "14", "--transport", "dtls", "--ramp", "0", "--seconds", "1", "--json",
        FLEETNET_SESSIONS_PER_S="2",
    )  # fmt: skip
    found = json.loads(out)
    assert found["complete"] and found["connects"] == 14
    assert found["attempts"] > 14  # who would have waited longer than a link can was sent away


async def test_too_many_devices_for_the_open_files(idle: Fleet) -> None:
    command = idle.command("sim", "--devices", "300")
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", 'ulimit -n 200 && exec "$@"', "sh", *command,
        env=idle.environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, error = await process.communicate()
    assert process.returncode == 1
    assert b"open files, the limit is 200" in error and b"use more --processes" in error


async def test_a_day_in_seconds(idle: Fleet) -> None:
    out, _ = await run(idle, "--devices", "4", "--days", "1", "--rate", "0.01", "--json")
    found = json.loads(out)
    assert found["store"] == {"stored": 4 * 864, "lost": 0, "twice": 0, "kept": 0}
    assert found["sent"] == 2 * 4 * 864  # a curve beside the count
    process = await asyncio.create_subprocess_exec(
        *idle.command("query", "--device", "sim-00001", "--channel", "temperature", "--json"),
        env=idle.environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    lines, _ = await process.communicate()
    readings = [json.loads(line) for line in lines.splitlines()]
    assert len(readings) == 864
    assert len({reading["value"] for reading in readings}) > 100


async def test_the_past_keeps_to_its_scale(idle: Fleet) -> None:
    slow, _ = await run(
        idle, "--devices", "2", "--days", "0.5", "--rate", "0.01", "--scale", "14400", "--json"
    )
    assert json.loads(slow)["seconds"] >= 2.9  # half a day at four hours a second
    assert json.loads(slow)["complete"]


async def test_micropython_takes_part(idle: Fleet) -> None:
    if not interpreters():
        _, error = await run(idle, "--devices", "1", "--micropython", "1", code=1)
        assert "no MicroPython" in error
        return
    found = await report(idle, "--seconds", "2", "--micropython", "2")
    boards = found["micropython"]
    assert boards["devices"] == boards["done"] == 2
    assert boards["sent"] == boards["acknowledged"] == boards["stored"] > 0


async def test_a_server_that_runs_is_used(fleet: Fleet) -> None:
    found = await report(fleet, "--seconds", "1")
    assert found["server"] is None and found["store"]["stored"] == found["sent"]


async def test_what_cannot_be_had_is_said_before_devices_are_made(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, error = await run(fleet, "--storm-at", "1", "--storm", "kill", code=1)
    assert "this one is not the simulator's" in error
    monkeypatch.setattr(boards, "micropythons", list)
    done = CliRunner().invoke(cli, ["-C", str(fleet.folder), "sim", "--micropython", "1"])
    assert done.exit_code == 1 and "no MicroPython 1.25 or newer in FLEETNET_" in done.output
    assert not bundles_path(fleet.folder).exists()


async def test_a_server_that_does_not_listen(idle: Fleet) -> None:
    """It is about to end, or has only begun: whatever was sent to it would wait."""
    began = time.monotonic()
    with take_lock(idle.folder) as lock:
        write_ports(lock, {"tls_port": idle.tls[1], "dtls_port": idle.dtls[1]})
        _, error = await run(idle, "--devices", "1", code=1)
    assert f"(pid {os.getpid()}, tls_port {idle.tls[1]}" in error
    assert f"nobody answers on TCP port {idle.tls[1]} of localhost (Connection ref" in error
    bundles = str(bundles_path(idle.folder))
    server = f"127.0.0.1:{idle.tls[1]}"
    _, error = await run(idle, "--server", server, "--bundles", bundles, code=1)
    assert f"Error: nobody answers on TCP port {idle.tls[1]}" in error
    assert time.monotonic() - began < 45


async def test_the_ports_of_a_server_are_its_own_word(idle: Fleet) -> None:
    """It may have been started with others than the settings name."""
    server = OwnServer(idle.folder, {"PYTHONPATH": idle.environment()["PYTHONPATH"]})
    await server.start()
    try:
        assert server.ready["tls_port"] != idle.tls[1]
        found = await report(idle, "--seconds", "1")
    finally:
        await server.stop()
    assert found["server"] is None and found["store"]["stored"] == found["sent"]


async def test_its_server_ends_with_it(idle: Fleet) -> None:
    process = await start(idle, "--seconds", "600")
    try:
        await until(lambda: has_ports(idle.folder), "its server runs")
    finally:
        process.kill()
        await process.wait()
    await until(lambda: not is_served(idle.folder), "its server has ended")


@pytest.mark.parametrize("pause_s", [0.0, 0.3, 0.6])
async def test_ctrl_c_early_ends_it_as_cleanly(idle: Fleet, pause_s: float) -> None:
    """While its server starts, while its processes start, and when devices have begun."""
    process = await start(idle, "--seconds", "600", "--processes", "2")
    ready = is_served if not pause_s else has_ports
    await until(lambda: ready(idle.folder), "its server starts")
    await asyncio.sleep(pause_s)
    process.send_signal(signal.SIGINT)
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0 and not error, error.decode()
    found = json.loads(out)
    assert found["complete"] and found["done"] and found["seconds"] < 60
    assert not is_served(idle.folder)


async def test_a_device_that_has_not_begun_ends_without_a_word() -> None:
    plan = Plan(seconds=60, rate=1)
    unit = Unit(plan, schedule(plan, 0), {}, Meter())
    task = unit.start()
    unit.finish()
    await task
    assert unit.device is None


def test_the_error_for_people_is_found_below_other_groups() -> None:
    inner = ExceptionGroup("", [ValueError("x"), ExceptionGroup("", [ConfigError("that")])])
    assert str(_config_error(ExceptionGroup("", [inner]))) == "that"
    assert _config_error(ExceptionGroup("", [ValueError("x")])) is None


async def test_a_server_that_is_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    """Bundles are made beside the server and carried away; the folder is not needed there."""
    made, _ = await run(fleet, "--only-make", "--devices", str(DEVICES), "--json")
    bundles = tmp_path / "carried.jsonl"
    shutil.copy(json.loads(made)["bundles"], bundles)
    server = f"127.0.0.1:{fleet.tls[1]}"
    arguments = ("--server", server, "--bundles", str(bundles), "--seconds", "3")
    found = await report(fleet, *arguments, "--transport", "tls", "--storm-at", "1.5")
    assert found["store"] is None and found["server"] is None
    assert found["storm"]["kind"] == "power" and found["storm"]["back"] == DEVICES


async def test_a_server_that_is_elsewhere_needs_bundles(idle: Fleet) -> None:
    _, error = await run(idle, "--server", "127.0.0.1", code=2)
    assert "--bundles" in error
    _, error = await run(idle, "--scale", "5", code=2)
    assert "--days" in error


async def test_readings_that_do_not_arrive_are_an_error(fleet: Fleet) -> None:
    """A device that the server refuses: the run ends by itself, with code 1."""
    await run(fleet, "--only-make", "--devices", "2")
    with SqliteStore(fleet.store) as store:
        store.set_enabled("sim-00002", False)
    arguments = ("--devices", "2", "--seconds", "1", "--ramp", "0", "--json")
    out, _ = await run(fleet, *arguments, code=1)
    found = json.loads(out)
    assert found["done"] and not found["complete"] and found["errors"] == ["Rejected"]
    assert found["store"] == {"stored": 1, "lost": 0, "twice": 0, "kept": 0}
    assert found["waiting"] == 1  # it was never sent: nothing is lost of what was
    assert found["seconds"] < 60


async def test_a_signal_ends_it_cleanly(idle: Fleet) -> None:
    process = await start(idle, "--seconds", "600")
    await until(lambda: has_ports(idle.folder), "its server runs")
    await asyncio.sleep(2)  # devices send, if the machine has the time
    process.terminate()
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, error.decode()
    found = json.loads(out)
    assert found["complete"] and found["seconds"] < 60


async def test_its_tables_are_for_people(idle: Fleet) -> None:
    arguments = ("--devices", "2", "--seconds", "7", "--ramp", "0", "--storm-at", "5")
    out, _ = await run(idle, *arguments)
    for text in ("ack latency", "p99", "store: lost", "attempts a device", "KB/device", "restart",
                 "server, steady", "at 200 a second + 10 %"):  # fmt: skip
        assert text in out, out
    assert "complete" in out and "NOT COMPLETE" not in out
    assert "under way" not in out  # the live view is for a terminal


async def test_a_terminal_has_a_live_view(idle: Fleet) -> None:
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *idle.command("sim", "--devices", "2", "--seconds", "2", "--ramp", "0"), cwd=ROOT,
        env=idle.environment() | {"COLUMNS": "120", "TERM": "xterm"}, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                shown.extend(os.read(ours, 4096))
            except OSError:  # the other end is closed
                return

    await asyncio.gather(asyncio.to_thread(read), process.wait())
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0, text
    assert "under way" in text and "2/2" in text
    assert text.index("under way") < text.index("KB/device")
