"""The ROMFS image: mounted by a real MicroPython, and a device that connects from it."""

import asyncio
import json
import stat
from pathlib import Path

import pytest

from end_to_end.fleet import Fleet
from fleetnet_server.provision.board import Board
from fleetnet_server.provision.errors import BoardError, PackageError
from fleetnet_server.provision.installing import Wanted, run_selftest
from fleetnet_server.provision.romfs import build_image, install_image
from interpreters import Interpreter
from provision.conftest import Boards
from provision.test_device_install import command
from provision.test_install import COMPILED, bundle_of

# For a MicroPython that has VfsRom and no partition.
MOUNT = """\
import sys, vfs
with open(%r, "rb") as file:
    vfs.mount(vfs.VfsRom(file.read()), "/rom")
sys.path.insert(0, "/rom/lib")
"""

# What a port with a ROMFS partition has (extmod/modvfs.c, vfs.rom_ioctl): here in RAM, of SIZE
# bytes, and mounted when mpremote says that the image is complete.
PARTITION = """
import sys
sys.modules.pop("vfs", None)
import vfs as real
class Vfs:
    data = bytearray(SIZE)
    def rom_ioctl(self, op, *args):
        if op == 1:
            return 1
        if op == 2:
            return self.data
        if op == 3:
            return 4
        if op == 4:
            self.data[args[1] : args[1] + len(args[2])] = args[2]
        if op == 5:
            real.mount(real.VfsRom(self.data), "/rom")
        if op == 6:
            return 4096
        return 0
    def __getattr__(self, name):
        return getattr(real, name)
sys.modules["vfs"] = Vfs()
"""


async def test_image_is_mounted_and_the_device_connects_from_it(
    fleet: Fleet, runtime: Interpreter, boards: Boards, tmp_path: Path
) -> None:
    fleet.add_device("cam-1", "dtls")
    board = boards(runtime)
    path = tmp_path / "cam-1.romfs"
    arguments = ("device", "install", board.port, "--device", "cam-1", "--romfs", "--json")
    code, out, err = await command(fleet, *arguments, "--image", path)
    assert code == 0, err
    report = json.loads(out)
    assert "no ROMFS partition" in report["notes"][0]
    assert report["selftest"] is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(board.folder.iterdir()) == [], "something was written to the board"

    def connect() -> dict[str, object]:
        with Board(board.port) as connection:
            connection.run(MOUNT % str(path))
            return run_selftest(connection, "/rom/lib", "/rom/bundle")

    result = await asyncio.to_thread(connect)
    assert result["ok"], result
    assert result["folder"] == "/rom/lib/fleetnet"


async def test_deployed_to_a_partition_through_mpremote(
    fleet: Fleet, runtime: Interpreter, boards: Boards, tmp_path: Path
) -> None:
    bundle = bundle_of(fleet, "cam-1")
    board = boards(runtime)
    path = tmp_path / "image.romfs"
    path.write_bytes(build_image(COMPILED, bundle))

    def deploy(size: int) -> object:
        with Board(board.port) as connection:
            connection.run(PARTITION.replace("SIZE", str(size)))
            facts = connection.facts()
            assert facts.has_romfs
            report = install_image(connection, facts, Wanted(COMPILED, bundle), path, 1)
            assert report.selftest is not None
            return report.selftest["ok"], report.selftest["folder"]

    with pytest.raises(BoardError, match="not written: ROMFS image is too big"):
        await asyncio.to_thread(deploy, 8192)
    assert await asyncio.to_thread(deploy, 262_144) == (True, "/rom/lib/fleetnet")


def test_name_that_romfs_cannot_hold() -> None:
    with pytest.raises(PackageError, match="ASCII"):
        build_image({"fleetnet/é.py": b""}, None)
