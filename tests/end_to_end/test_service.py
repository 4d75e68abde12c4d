"""The server under a service manager, as a user without rights, as deploy/systemd has it.

The manager is a socket that hears what systemd would hear; what systemd makes of the unit is in
tests/rules/test_deploy.py.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.device_process import until
from end_to_end.fleet import Fleet
from fleetnet_device import Device
from fleetnet_server.notify import Manager
from interpreters import ROOT

UNIT = ROOT / "deploy" / "systemd" / "fleetnet.service"

# Root gives its rights up here, after the imports: the sources may lie where only root can read.
# Without root there is nothing to give up. Then only the unit's system calls are left.
AS_NOBODY = """
import os, pkgutil, pwd, pyseccomp, sys
import encodings.idna, fleetnet_server.cli.main, fleetnet_server.cli.serve
for room in ("core", "identity", "net", "store", "web"):
    package = __import__("fleetnet_server." + room, fromlist=["*"])
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        __import__(found.name)
if not os.getuid():
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
os.umask(0o022)
filter = pyseccomp.SyscallFilter(pyseccomp.ERRNO(1))
for name in os.environ.pop("UNIT_SYSCALLS").split():
    try:
        filter.add_rule(pyseccomp.ALLOW, name)
    except (OSError, ValueError):
        pass  # of another architecture
filter.load()
from fleetnet_server.cli.main import main
main()
"""


class Heard:
    """The manager's socket.

    Attributes:
        lines: all that came, in order.
    """

    def __init__(self, path: str):
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(path)
        self._sock.setblocking(False)
        if not path.startswith("\0"):
            Path(path).chmod(0o777)
        self.lines: list[str] = []

    def has(self, line: str, times: int = 1) -> bool:
        """Whether a line has come so often."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.lines += self._sock.recv(4096).decode().split("\n")
        return self.lines.count(line) >= times

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that any user gets to; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="fleetnet-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def system_calls() -> set[str]:
    """What the unit's SystemCallFilter allows, by systemd's own lists."""
    allowed = group("@default")
    for line in re.findall("^SystemCallFilter=(.*)$", UNIT.read_text(), re.M):
        found = set().union(*(group(name) for name in line.strip("~").split()))
        allowed = allowed - found if line.startswith("~") else allowed | found
    return allowed


def group(name: str) -> set[str]:
    """The calls of a group @NAME, those of the groups in it included."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found: set[str] = set()
    for line in done.stdout.splitlines()[1:]:
        word = line.strip()
        if word and not word.startswith("#"):
            found |= group(word) if word.startswith("@") else {word}
    return found


def give_to_nobody(folder: Path) -> None:
    """Let a user without rights have a folder and all in it."""
    if os.getuid():
        return
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)


class ServiceFleet(Fleet):
    """A fleet whose server is started as the unit would."""

    def __init__(self, folder: Path, notify: Path):
        super().__init__(folder)
        self._notify = str(notify)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", AS_NOBODY, *super().command(*arguments)[3:]]

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "NOTIFY_SOCKET": self._notify, "WATCHDOG_USEC": "400000", "HOME": "/nonexistent",
            "UNIT_SYSCALLS": " ".join(system_calls()),
        }  # fmt: skip

    async def start_server(self, program: Path | None = None) -> None:
        give_to_nobody(self.folder)
        await super().start_server(program)

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid


async def test_a_service_of_a_user_without_rights(place: Path) -> None:
    heard = Heard(str(place / "notify"))
    fleet = ServiceFleet(place / "fleet", place / "notify")
    device = Device(str(fleet.add_device("cam-1", "dtls")))
    try:
        assert not heard.has("READY=1")
        await fleet.start_server()
        status = Path(f"/proc/{fleet.pid}/status").read_text()
        assert "\nCapEff:\t0000000000000000\n" in status
        assert "\nNoNewPrivs:\t1\n" in status and "\nSeccomp:\t2\n" in status
        assert f"\nUid:\t{os.getuid() or pwd.getpwnam('nobody').pw_uid}\t" in status
        await until(lambda: heard.has("READY=1"), "it is ready")
        assert any(line.startswith("STATUS=devices on tls_port ") for line in heard.lines)
        await until(lambda: heard.has("WATCHDOG=1", 3), "it gives signs of life")
        await device.start()
        await device.send("count", 1)
        assert await device.flush(10_000)
        os.kill(fleet.pid, signal.SIGHUP)
        await until(lambda: heard.has("READY=1", 2), "it has read its files anew")
        order = [line for line in heard.lines if line in ("READY=1", "RELOADING=1", "STOPPING=1")]
        assert order == ["READY=1", "RELOADING=1", "READY=1"]
        assert any(line.startswith("MONOTONIC_USEC=") for line in heard.lines)
        await fleet.terminate_server()
        assert heard.has("STOPPING=1")
        for name in ("fleet.db", "server/key.der"):
            assert stat.S_IMODE((fleet.folder / name).stat().st_mode) == 0o600, name
        assert "runs as root" not in fleet.log() and "Traceback" not in fleet.log()
    finally:
        await device.stop()
        await fleet.close()
        heard.close()


def hang(heard: Heard) -> int:
    """Block the event loop for ten intervals; return how many signs of life came meanwhile."""
    heard.has("")
    before = len(heard.lines)
    time.sleep(0.2)
    heard.has("")
    return len(heard.lines) - before


async def test_a_loop_that_hangs_gives_no_sign_of_life() -> None:
    name = f"fleetnet-{os.getpid()}"
    heard = Heard("\0" + name)
    manager = Manager({"NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "40000"})
    manager.ready("here")
    await until(lambda: heard.has("WATCHDOG=1", 3), "signs of life")
    # No thread speaks for a loop that stands still.
    assert hang(heard) == 0
    await until(lambda: heard.has("WATCHDOG=1", 6), "signs of life again")
    heard.close()


def test_without_a_manager_nothing_is_said() -> None:
    Manager({}).ready("here")
    gone = Manager({"NOTIFY_SOCKET": "/nonexistent/notify"})
    gone.ready("here")
    gone.stopping()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "x"}, 0.0),
    ],
)
def test_how_often(environment: dict[str, str], expected: float) -> None:
    assert Manager(environment)._interval_s == expected
