"""How a server stops, and how it takes new settings while devices talk to it."""

import asyncio
import itertools
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from end_to_end.device_process import until
from end_to_end.fleet import Fleet
from end_to_end.store_check import faults_of
from fleetnet.errors import OVERLOADED, SHUTDOWN, Rejected
from fleetnet.events import Closed, Refused
from fleetnet_device import Device
from fleetnet_server.app import Backend
from fleetnet_server.config import load_settings
from fleetnet_server.core.herd import RESTART_S
from fleetnet_server.errors import FolderError


class Told(Device):
    """A device that keeps what the server says at the end of a session."""

    def __init__(self, bundle: Path):
        super().__init__(str(bundle))
        self.endings: list[tuple[int, int]] = []

    def on_event(self, event: object) -> None:
        if isinstance(event, Closed | Refused):
            self.endings.append((event.ending.reason, event.ending.retry_after_ms))
        super().on_event(event)


def set_settings(fleet: Fleet, **values: float) -> None:
    """Write settings into the fleet's file."""
    path = fleet.folder / "fleetnet.toml"
    lines = ['host = "127.0.0.1"', *(f"{key} = {value}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n")


async def test_everybody_is_given_a_time_of_its_own(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    set_settings(fleet, sessions_per_s=2.0)
    bundles = [fleet.add_device(f"cam-{n}", ("tls", "dtls")[n % 2]) for n in range(10)]
    devices = [Told(bundle) for bundle in bundles]
    try:
        await fleet.start_server()
        for device in devices:
            await device.start()
        await until(lambda: all(device.state == "online" for device in devices), "all online")
        await fleet.terminate_server()
        await until(lambda: all(device.endings for device in devices), "everybody was told")
        assert {device.endings[0][0] for device in devices} == {SHUTDOWN}
        asked_s = sorted(device.endings[0][1] / 1000 for device in devices)
        assert asked_s[0] >= RESTART_S
        # Ten devices at two a second: 5 s, of which the devices' own quarter is left out.
        assert asked_s[-1] - asked_s[0] >= 0.5 * 5.0
        assert min(b - a for a, b in itertools.pairwise(asked_s)) > 0.3
    finally:
        for device in devices:
            await device.stop()
        await fleet.close()


async def test_the_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    try:
        await fleet.start_server()
        device = await fleet.start_device("cam-1", "tls", None)
        await device.until_acknowledged(10)
        server = fleet._server
        assert server is not None
        lock = sqlite3.connect(fleet.store, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")  # the server cannot commit, and waits for it
        sent = device.counter("sent")
        await until(lambda: device.counter("sent") > sent + 10, "readings wait")
        os.kill(server.pid, signal.SIGTERM)
        await until(lambda: not _accepts(fleet.tls), "the port is closed")
        assert server.returncode is None
        os.kill(server.pid, signal.SIGTERM)
        assert await asyncio.wait_for(server.wait(), 30.0) == -signal.SIGTERM
        lock.execute("ROLLBACK")
        lock.close()
        # What it had not stored it had not acknowledged.
        await fleet.start_server()
        await device.until_acknowledged(10)
        assert faults_of(fleet.store, await fleet.finish()) == []
    finally:
        await fleet.close()


# Something in the drain never returns, and holds the loop.
HANGS = """
import time
from fleetnet_server.app import Backend
from fleetnet_server.cli import main, serve
serve.DRAIN_S = 1
async def stop(self):
    time.sleep(60)
Backend.stop = stop
main.main()
"""


async def test_a_drain_that_hangs_is_ended_and_says_where_it_hung(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    program = tmp_path / "hangs.py"
    program.write_text(HANGS)
    try:
        await fleet.start_server(program)
        server = fleet._server
        assert server is not None
        os.kill(server.pid, signal.SIGTERM)
        assert await asyncio.wait_for(server.wait(), 30.0) == 1
        assert "hangs.py" in fleet.log() and "in stop" in fleet.log()
    finally:
        await fleet.close()


def _accepts(address: tuple[str, int]) -> bool:
    """Whether somebody listens; no connection is made, which would be a handshake."""
    with open("/proc/net/tcp") as table:
        return any(
            line.split()[1].endswith(f":{address[1]:04X}") and line.split()[3] == "0A"
            for line in table.readlines()[1:]
        )


async def test_sighup_brings_new_settings_and_ends_no_session(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    set_settings(fleet)
    devices = [Told(fleet.add_device(name, "tls")) for name in ("cam-1", "cam-2")]
    try:
        await fleet.start_server()
        server = fleet._server
        assert server is not None
        await devices[0].start()
        await until(lambda: devices[0].state == "online", "the first one is online")
        (fleet.folder / "fleetnet.toml").write_text("max_sessions = many\n")
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: "settings not reloaded" in fleet.log(), "it says what is wrong")
        set_settings(fleet, max_sessions=1, commit_rows=100)
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: "need a restart" in fleet.log(), "it says what it did not change")
        assert "commit_rows" in fleet.log()
        await devices[1].start()
        await until(lambda: devices[1].endings, "the second one was told")
        reason, retry_after_ms = devices[1].endings[0]
        assert reason == OVERLOADED and retry_after_ms >= 10_000
        await until(lambda: isinstance(devices[1].last_error, Rejected), "it says so, too")
        await devices[0].send("count", 1)
        assert await devices[0].flush(10_000)
        assert devices[0].connects == 1
    finally:
        for device in devices:
            await device.stop()
        await fleet.close()


async def test_a_program_reloads_what_can_change(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    set_settings(fleet)
    given = load_settings(fleet.folder).model_copy(
        update={"bind": "127.0.0.1", "tls_port": 0, "dtls_port": 0, "max_handshakes": 77}
    )
    async with Backend(fleet.folder, given) as backend:
        assert await backend.reload()
        assert backend.settings == given
        set_settings(
            fleet, sessions_per_s=3.0, address_handshakes_per_s=4.0, address_handshakes_burst=1,
            device_sessions_per_s=5.0, device_sessions_burst=1, handshake_timeout_s=6.0,
            keepalive_s=7.0, dtls_keepalive_s=8.0, max_sessions=9,
        )  # fmt: skip
        assert await backend.reload()
        gate, listeners = backend.sessions.gate, backend.listeners
        assert (gate.herd.rate, gate.max_sessions) == (3.0, 9)
        assert gate.links.take(1) and not gate.links.take(1)
        assert listeners.admission.table.take("a") and not listeners.admission.table.take("a")
        assert listeners.tls.handshake_timeout_s == 6.0
        assert listeners.dtls.acceptor.handshake_timeout_s == 6.0
        assert (backend.sessions.keepalive_ms, backend.sessions.datagram_keepalive_ms) == (
            7_000, 8_000,
        )  # fmt: skip
        # What the program gave, and the file does not name, stays.
        assert listeners.tls.door.most == listeners.dtls.door.most == 77
        assert listeners.tls.door.admission is listeners.dtls.door.admission
        set_settings(fleet, max_sessions=10, tls_port=1)
        assert not await backend.reload()
        assert gate.max_sessions == 10 and backend.settings.tls_port == 0


@pytest.mark.parametrize("name", ["server/key.der", "fleet.db", "ca/1/issuing-key.der"])
def test_keys_that_others_can_read_keep_the_server_from_starting(
    tmp_path: Path, name: str
) -> None:
    fleet = Fleet(tmp_path / "fleet")
    path = fleet.folder / name
    for folder in (fleet.folder, *path.relative_to(fleet.folder).parents):
        (fleet.folder / folder).chmod(0o755)
    path.chmod(0o644)
    with pytest.raises(FolderError, match=f"{name}.*chmod -R go-rwx"):
        asyncio.run(_start(fleet))
    path.chmod(0o600)
    if name != "fleet.db":
        (fleet.folder / "fleet.db").chmod(0o600)
    asyncio.run(_start(fleet))
    # A folder that is closed protects what is in it.
    path.chmod(0o644)
    fleet.folder.chmod(0o700)
    asyncio.run(_start(fleet))
    fleet.folder.chmod(0o707)
    with pytest.raises(FolderError, match="chmod o-w"):
        asyncio.run(_start(fleet))
    shutil.rmtree(fleet.folder)


async def _start(fleet: Fleet) -> None:
    settings = load_settings(fleet.folder).model_copy(
        update={"bind": "127.0.0.1", "tls_port": 0, "dtls_port": 0}
    )
    async with Backend(fleet.folder, settings):
        pass
