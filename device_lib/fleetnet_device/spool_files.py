"""The few operations of a file system that the spool needs.

Every write is on the flash when the call returns: MicroPython's file systems write on
close, CPython is asked to (fsync). No file is ever open for writing while it is read.

Source: extmod/vfs_fat_file.c and extmod/vfs_lfsx_file.c (a full disk raises OSError with
ENOSPC; flush and close both write everything).
"""

import os

from fleetnet_device.saved import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


class Files:
    """Files of one folder. Every method raises OSError."""

    def __init__(self, folder: str):
        self._folder = folder.rstrip("/") or "/"
        try:
            os.stat(self._folder)
        except OSError:
            os.mkdir(self._folder)

    def _path(self, name: str) -> str:
        return self._folder + "/" + name

    def names(self) -> "list[str]":
        """Names of all files."""
        return os.listdir(self._folder)

    def free(self) -> int:
        """Bytes that can still be written, as far as the file system says."""
        ask = getattr(os, "statvfs", None)
        if ask is None:
            return 1 << 30
        answer = ask(self._folder)
        return int(answer[0] * answer[4])

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return os.stat(self._path(name))[6]

    def open(self, name: str) -> "BinaryIO":
        """Open a file for reading."""
        return open(self._path(name), "rb")

    def append(self, name: str, parts: "list[bytes]") -> None:
        """Add ``parts`` to the end of a file, which is made when it is missing."""
        self._write(name, "ab", parts)

    def write(self, name: str, data: bytes) -> None:
        """Make ``data`` the content of a file. A power cut leaves any of both, or a mixture."""
        self._write(name, "wb", [data])

    def _write(self, name: str, mode: str, parts: "list[bytes]") -> None:
        file: "BinaryIO" = open(self._path(name), mode)  # type: ignore[assignment]
        with file:
            for part in parts:
                file.write(part)
            settle(file)

    def remove(self, name: str) -> None:
        """Delete a file."""
        os.remove(self._path(name))
