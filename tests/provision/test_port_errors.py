"""What goes wrong between this machine and a board: each has a name and a remedy."""

import os
import signal
import subprocess
import sys
import tty
from pathlib import Path

import pytest

from fleetnet_server.provision.board import Board, Facts
from fleetnet_server.provision.errors import BoardError
from fleetnet_server.provision.installing import Installer, Wanted, check_firmware
from interpreters import Interpreter, interpreters
from provision.conftest import Boards

# A littlefs of 64 blocks of 512 B in the RAM of the board, mounted at /small.
SMALL_FLASH = """
import os, vfs
class Blocks:
    def __init__(self):
        self.data = bytearray(64 * 512)
    def readblocks(self, n, buf, off=0):
        at = n * 512 + off
        buf[:] = self.data[at : at + len(buf)]
    def writeblocks(self, n, buf, off=0):
        at = n * 512 + off
        self.data[at : at + len(buf)] = buf
    def ioctl(self, op, arg):
        return 64 if op == 4 else 512 if op == 5 else 0
b = Blocks()
vfs.VfsLfs2.mkfs(b)
vfs.mount(vfs.VfsLfs2(b), "/small")
"""


def facts(**change: object) -> Facts:
    values: dict[str, object] = {
        "version": (1, 26, 0),
        "machine": "A board",
        "platform": "mimxrt",
        "mpy": 6,
        "cwd": "/flash",
        "path": ("", "/flash", "/flash/lib"),
        "has_tls": True,
        "has_dtls": True,
        "has_romfs": False,
        "has_vfsrom": False,
        "has_rtc": True,
        "year": 2026,
        "heap_free": 100_000,
        "flash_free": 1_000_000,
    }
    return Facts(**{**values, **change})  # type: ignore[arg-type]


def test_no_such_port(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"no such port: connect the board.*mpremote devs"):
        Board(str(tmp_path / "ttyNone"))


def test_port_that_another_program_has_open(runtime: Interpreter, boards: Boards) -> None:
    port = boards(runtime).port
    with (
        Board(port),
        pytest.raises(BoardError, match=r"another program has it open: close it"),
    ):
        Board(port)
    Board(port).close()


def test_nobody_answers() -> None:
    outer, inner = os.openpty()
    tty.setraw(inner)
    try:
        with pytest.raises(BoardError, match=r"no MicroPython answers there.*Reset the board"):
            Board(os.ttyname(inner), silence_s=0.3)
    finally:
        os.close(outer)
        os.close(inner)


def test_board_that_falls_silent(boards: Boards) -> None:
    board = boards(interpreters()[0])  # takes mpremote's own 10 s: once is enough
    with Board(board.port, silence_s=0.3) as connection:
        board.signal(signal.SIGSTOP)
        with pytest.raises(BoardError, match=r"stopped answering.*repeat the command"):
            connection.run("print(1)")
        with pytest.raises(BoardError, match="stopped answering"):
            connection.run("print(1)")


def test_full_file_system_is_seen_before_anything_is_written(
    runtime: Interpreter, boards: Boards
) -> None:
    with Board(boards(runtime).port) as connection:
        connection.run(SMALL_FLASH)
        wanted = Wanted({"fleetnet/__init__.py": bytes(40_000)}, root="/small")
        with pytest.raises(BoardError, match=r"full: 40000 B are needed, \d+ B are free.*--parts"):
            Installer(connection, wanted).install()
        assert connection.run("print(os.listdir('/small'))").strip() == "[]"


def test_file_system_that_fills_up(runtime: Interpreter, boards: Boards) -> None:
    """Small files take a block each: the sum of their bytes does not tell."""
    with Board(boards(runtime).port) as connection:
        connection.run(SMALL_FLASH)
        files = {f"fleetnet/m{n}.py": bytes(600) for n in range(40)}
        with pytest.raises(BoardError, match=r"file system is full\. Remove files"):
            Installer(connection, Wanted(files, root="/small")).install()
        assert "fleetnet'" not in connection.run("print(os.listdir('/small/lib'))")


@pytest.mark.parametrize(
    ("change", "transport", "text"),
    [
        ({"version": (1, 24, 1)}, "auto", r"1\.24\.1 on A board is too old.*1\.25.*Update"),
        ({"has_tls": False, "has_dtls": False}, "auto", "built without the tls module"),
        ({"has_dtls": False}, "dtls", r"no DTLS.*\"transport\" to \"tls\""),
    ],
)
def test_firmware_that_cannot_run_it(
    change: dict[str, object], transport: str, text: str
) -> None:
    with pytest.raises(BoardError, match=text):
        check_firmware("/dev/ttyACM0", facts(**change), transport)


def test_firmware_with_tls_alone_serves_a_bundle_that_may_fall_back() -> None:
    check_firmware("/dev/ttyACM0", facts(has_dtls=False), "auto")
    check_firmware("/dev/ttyACM0", facts(), "dtls")


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fleetnet_server.cli.main", "device", "install", "/dev/none"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: /dev/none: no such port")
    assert done.stderr.count("\n") == 1
