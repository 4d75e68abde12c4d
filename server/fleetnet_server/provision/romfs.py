"""A ROMFS image with the library and the credentials, built by mpremote's own builder.

    lib/fleetnet/...  lib/fleetnet_device/...  bundle/...

MicroPython mounts a board's first ROMFS partition at /rom and puts /rom/lib into sys.path; code
in it is executed in place, without a copy in RAM. The bundle is then "/rom/bundle".
"""

import argparse
import contextlib
import io
from pathlib import Path

from fleetnet_server.provision.board import Board, Facts
from fleetnet_server.provision.errors import BoardError, PackageError
from fleetnet_server.provision.installing import BUNDLE, Report, Wanted, run_selftest, set_clock


def build_image(library: dict[str, bytes], bundle: dict[str, bytes] | None) -> bytes:
    """Return the image (ROMFS version 1, extmod/vfs_rom.c).

    Raises:
        PackageError: a name that ROMFS cannot hold.
    """
    from mpremote.romfs import VfsRomWriter

    tree: dict[str, object] = {}
    _add(tree, {f"lib/{path}": data for path, data in library.items()})
    _add(tree, {f"{BUNDLE}/{name}": data for name, data in (bundle or {}).items()})
    writer = VfsRomWriter()
    _write(writer, tree)
    return bytes(writer.finalise())


def deploy_image(board: Board, image: Path) -> None:
    """Write the image to the board's first ROMFS partition, through mpremote.

    The partition is erased first: when this is cut off, nothing in it can be used, and the
    command has to be repeated. What is in the board's file system is not touched.

    Raises:
        BoardError: no partition, or the image does not fit.
    """
    from mpremote.commands import do_romfs

    arguments = argparse.Namespace(command=["deploy"], path=str(image), partition=0, mpy=False)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            do_romfs(_State(board), arguments)
    except (Exception, SystemExit) as error:
        lines = output.getvalue().strip().splitlines()
        reason = str(error) if not isinstance(error, SystemExit) else (lines or ["no reason"])[-1]
        raise BoardError(f"{board.port}: the ROMFS image was not written: {reason}") from error


def has_partition(board: Board, facts: Facts) -> bool:
    """Say whether the firmware was built with a ROMFS partition."""
    if not facts.has_romfs:
        return False
    return board.run("import vfs\nprint(vfs.rom_ioctl(1) > 0)").strip() == "True"


def install_image(board: Board, facts: Facts, wanted: Wanted, path: Path, size: int) -> Report:
    """Deploy the image and test it, or say how to mount it on a board without a partition.

    Raises:
        BoardError: see deploy_image.
    """
    report = Report(board.port, facts.firmware, version=f"{path} ({size} B)")
    if not has_partition(board, facts):
        where = f"this board has no ROMFS partition; the image was written to {path}."
        if facts.has_vfsrom:
            where += (
                " Its firmware can mount a copy of it: vfs.mount(vfs.VfsRom(open(FILE, 'rb')"
                ".read()), '/rom'); sys.path.insert(0, '/rom/lib')"
            )
        report.notes.append(where)
        return report
    deploy_image(board, path)
    report.sent = [str(path)]
    report.sent_bytes = size
    if not facts.is_process:
        board.soft_reset()  # the firmware mounts it at its start
    report.clock = set_clock(board, facts, wanted)
    if wanted.has_test and wanted.bundle is not None:
        report.selftest = run_selftest(board, "/rom/lib", f"/rom/{BUNDLE}")
    return report


class _State:
    """What mpremote's commands want of its command line's state."""

    def __init__(self, board: Board):
        self.transport = board.transport

    def ensure_raw_repl(self) -> None:
        """The board is in it."""

    def did_action(self) -> None:
        """No REPL is to follow."""


def _add(tree: dict[str, object], files: dict[str, bytes]) -> None:
    for path, data in files.items():
        if not path.isascii():
            raise PackageError(f"{path!r}: names in a ROMFS are ASCII")
        node = tree
        *folders, name = path.split("/")
        for folder in folders:
            inner = node.setdefault(folder, {})
            assert isinstance(inner, dict)
            node = inner
        node[name] = data


def _write(writer: "object", tree: dict[str, object]) -> None:
    for name, content in sorted(tree.items()):
        if isinstance(content, dict):
            writer.opendir(name)  # type: ignore[attr-defined]
            _write(writer, content)
            writer.closedir()  # type: ignore[attr-defined]
        else:
            writer.mkfile(name, content)  # type: ignore[attr-defined]
