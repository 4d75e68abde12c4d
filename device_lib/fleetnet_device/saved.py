"""Small files on the flash that survive a power cut: the old content, or the new one.

    crc32 of the rest, 8 hexadecimal digits, and a line feed; then the content

Written to NAME.new first and renamed. FAT cannot rename over a file on some boards: there
the old one is removed before, and a reader who finds NAME.new alone takes that.
"""

import binascii
import os

from fleetnet_device.limits import SAVED_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


def write(path: str, content: bytes) -> None:
    """Replace a file. Raises OSError; the old content stays then."""
    if _whole(path) is None and _whole(path + ".new") is not None:
        # The power went before it had its name: it is the old content, and the only copy.
        _rename(path)
    replace(path, b"%08x\n" % (binascii.crc32(content) & 0xFFFFFFFF) + content)


def read(path: str) -> "bytes | None":
    """Return what ``write`` wrote last; None when there is nothing whole."""
    content = _whole(path)
    return _whole(path + ".new") if content is None else content


def _whole(name: str) -> "bytes | None":
    try:
        with open(name, "rb") as file:
            # A board takes the memory for all that is asked for.
            data = file.read(min(os.stat(name)[6], SAVED_BYTES))
    except OSError:
        return None
    if data[8:9] == b"\n" and data[:8] == b"%08x" % (binascii.crc32(data[9:]) & 0xFFFFFFFF):
        return data[9:]
    return None


def replace(path: str, data: bytes) -> None:
    """Put a file in the place of another. Raises OSError; the old one stays then."""
    with open(path + ".new", "wb") as file:
        file.write(data)
        settle(file)
    _rename(path)


def _rename(path: str) -> None:
    try:
        os.rename(path + ".new", path)
    except OSError:
        os.remove(path)
        os.rename(path + ".new", path)


def finish(path: str) -> None:
    """Give NAME.new its name when NAME is missing: the power went in between. Raises OSError.

    For files of ``replace``: who appends to NAME, or writes it anew, would lose the old content.
    """
    if not is_there(path) and is_there(path + ".new"):
        os.rename(path + ".new", path)


def remove(path: str) -> None:
    """Remove a file; its new half first, which would take its place. Raises OSError."""
    for name in (path + ".new", path):
        try:
            os.remove(name)
        except OSError:
            if is_there(name):
                raise


def is_there(path: str) -> bool:
    """Say whether there is such a file."""
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def settle(file: "BinaryIO") -> None:
    """Let what was written reach the disk; MicroPython's file systems do it on close."""
    file.flush()
    sync = getattr(os, "fsync", None)
    if sync is not None:
        sync(file.fileno())
