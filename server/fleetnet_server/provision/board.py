"""A board on a serial port, through mpremote's own transport.

The board's running program is interrupted (Ctrl-C), as `mpremote resume` does, and nothing is
reset before the board has said what it is: a soft reset of the unix port ends its process.
"""

import contextlib
import io
import json
import os
import struct
import textwrap
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fleetnet_server.provision.errors import BoardError

MINIMUM = (1, 25)
_CHUNK = 512
# What the transport raises when the other end has gone in the middle of an exchange.
_GONE = (OSError, struct.error)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)

_ASK = """
import gc, json, os, sys, time
def _has(module, name=None):
    try:
        return name is None or hasattr(__import__(module), name) or not __import__(module)
    except ImportError:
        return False
gc.collect()
_s = sys.implementation
try:
    _v = os.statvfs(%s or os.getcwd())
    _v = _v[0] * _v[3]
except OSError:
    _v = None
print(json.dumps({
    "name": _s[0], "version": list(_s[1])[:3], "machine": getattr(_s, "_machine", ""),
    "mpy": getattr(_s, "_mpy", 0), "platform": sys.platform, "cwd": os.getcwd(),
    "path": sys.path, "tls": _has("tls"), "dtls": _has("tls", "PROTOCOL_DTLS_CLIENT"),
    "romfs": _has("vfs", "rom_ioctl"), "vfsrom": _has("vfs", "VfsRom"),
    "rtc": _has("machine", "RTC"), "sha256": _has("hashlib", "sha256"),
    "year": time.gmtime()[0], "heap_free": gc.mem_free(), "flash_free": _v}))
"""

_HASHES = """
import binascii, hashlib, os
_b = bytearray(512)
def _walk(folder, depth):
    try:
        entries = list(os.ilistdir(folder))
    except OSError:
        return
    for entry in entries:
        path = folder + "/" + entry[0]
        if entry[1] & 0x4000:
            if depth:
                _walk(path, depth - 1)
            continue
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while True:
                n = file.readinto(_b)
                if not n:
                    break
                digest.update(memoryview(_b)[:n])
        print(binascii.hexlify(digest.digest()).decode(), path)
"""


@dataclass(frozen=True)
class Facts:
    """What a board says of itself.

    Attributes:
        version: MicroPython's, (major, minor, patch).
        mpy: ``sys.implementation._mpy``.
        year: of its clock; 1970, 2000 or 2015 when nobody has set it.
        flash_free: bytes; None when the file system does not tell.
    """

    version: tuple[int, int, int]
    machine: str
    platform: str
    mpy: int
    cwd: str
    path: tuple[str, ...]
    has_tls: bool
    has_dtls: bool
    has_romfs: bool
    has_vfsrom: bool
    has_rtc: bool
    year: int
    heap_free: int
    flash_free: int | None

    @property
    def firmware(self) -> str:
        """For people: "MicroPython 1.25.0 on linux"."""
        return f"MicroPython {'.'.join(map(str, self.version))} on {self.machine or self.platform}"

    @property
    def is_process(self) -> bool:
        """A unix port: it has no clock to set, and a soft reset ends it."""
        return self.platform in ("linux", "darwin", "win32")


class Board:
    """An open connection to a board's raw REPL. Use it with ``with``.

    Args:
        port: as mpremote takes it: a device file, or a URL that pyserial knows.
        silence_s: without a byte of answer for so long, the board counts as gone.

    Raises:
        BoardError: nobody answers there, the port is busy or does not exist.
    """

    def __init__(self, port: str, baudrate: int = 115200, silence_s: float = 10):
        from mpremote.transport import TransportError
        from mpremote.transport_serial import SerialTransport

        self.port = port
        self._transport_error: type[Exception] = TransportError
        self._silence_s = silence_s
        self._is_gone = False
        try:
            self._serial = SerialTransport(port, baudrate=baudrate, timeout=silence_s)
        except (TransportError, OSError) as error:
            raise _cannot_open(port) from error
        try:
            self._quietly(self._serial.enter_raw_repl, soft_reset=False, timeout_overall=silence_s)
        except (TransportError, *_GONE) as error:
            self._serial.serial.close()
            raise BoardError(
                f"{port}: no MicroPython answers there. Is it the right port (`mpremote devs` "
                "lists them)? Is a program on it that ignores Ctrl-C, or a watchdog? Reset the "
                "board and try again"
            ) from error

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the raw REPL and free the port. Harmless on a board that has gone."""
        if not self._is_gone:
            with contextlib.suppress(self._transport_error, *_GONE):
                self._serial.exit_raw_repl()
        with contextlib.suppress(*_GONE):
            self._serial.close()
        with contextlib.suppress(*_GONE):
            self._serial.serial.close()

    @property
    def transport(self) -> Any:
        """mpremote's transport, for its own commands."""
        return self._serial

    @staticmethod
    def _quietly(call: Any, *arguments: Any, **options: Any) -> Any:
        """Call mpremote without what it prints: our output is a table or JSON."""
        with contextlib.redirect_stdout(io.StringIO()):
            return call(*arguments, **options)

    def run(self, program: str, timeout_s: float = 0) -> str:
        """Run ``program`` on the board and return what it printed.

        Args:
            timeout_s: how long it may print nothing; 0: as for every answer.

        Raises:
            BoardError: it raised (the text has the board's last line), or the board has gone.
        """
        if self._is_gone:
            raise self._gone()
        try:
            out, trouble = self._quietly(
                self._serial.exec_raw,
                textwrap.dedent(program),
                timeout=timeout_s or self._silence_s,
            )
        except (self._transport_error, *_GONE) as error:
            self._is_gone = True
            raise self._gone() from error
        if trouble:
            raise self._explain(trouble.decode(errors="replace"))
        return str(out.decode(errors="replace")).replace("\r\n", "\n")

    def _gone(self) -> BoardError:
        return BoardError(
            f"{self.port}: the board stopped answering. What worked before still works: "
            "connect it again and repeat the command, which goes on where it ended"
        )

    def soft_reset(self) -> None:
        """Start a fresh interpreter without running main.py."""
        try:
            enter = self._serial.enter_raw_repl
            self._quietly(enter, soft_reset=True, timeout_overall=self._silence_s)
        except (self._transport_error, *_GONE) as error:
            raise BoardError(f"{self.port}: the board did not come back from a reset") from error

    def _explain(self, traceback: str) -> BoardError:
        last = (traceback.strip().splitlines() or ["no traceback"])[-1]
        if "ENOSPC" in last or last == "OSError: 28":
            return BoardError(
                f"{self.port}: the board's file system is full. Remove files, leave parts out "
                "(--parts core), or freeze the library into the firmware (manifest.py). What "
                "worked before still works"
            )
        if "EROFS" in last or last == "OSError: 30":
            return BoardError(
                f"{self.port}: the board's file system is read-only. Name another folder with "
                "--root, or eject the board's USB drive on this computer"
            )
        return BoardError(f"{self.port}: the board says: {last}")

    # -- what the installer asks -----------------------------------------------------

    def facts(self, folder: str = "") -> Facts:
        """Ask what it is; ``folder`` is where its free space counts, "" the one it works in."""
        said = json.loads(self.run(_ASK % repr(folder)))
        version = (*said["version"], 0, 0, 0)[:3]
        return Facts(
            version=version,
            machine=said["machine"],
            platform=said["platform"],
            mpy=said["mpy"],
            cwd=said["cwd"],
            path=tuple(said["path"]),
            has_tls=said["tls"],
            has_dtls=said["dtls"],
            has_romfs=said["romfs"],
            has_vfsrom=said["vfsrom"],
            has_rtc=said["rtc"],
            year=said["year"],
            heap_free=said["heap_free"],
            flash_free=said["flash_free"],
        )

    def hashes(self, folder: str, depth: int) -> dict[str, str]:
        """Return path: SHA-256 in hex of the files in ``folder``, ``depth`` levels below it."""
        text = self.run(f"{_HASHES}\n_walk({folder!r}, {depth})", timeout_s=120)
        lines = [line.split(" ", 1) for line in text.splitlines() if " " in line]
        return {path: digest for digest, path in lines}

    def make_folders(self, path: str) -> None:
        """Create a folder and those above it, where they are missing."""
        above = [str(each) for each in reversed(PurePosixPath(path).parents)][1:]
        self.run(
            f"""
            import os
            for folder in {[*above, path]!r}:
                try:
                    os.stat(folder)
                except OSError:
                    os.mkdir(folder)
            """
        )

    def write(self, path: str, data: bytes) -> None:
        """Write a file in place; cut off, it is a part of a file."""
        self.run(f"_f = open({path!r}, 'wb')\n_w = _f.write")
        try:
            for at in range(0, len(data), _CHUNK):
                self.run(f"_w({data[at : at + _CHUNK]!r})")
        except BoardError:
            with contextlib.suppress(BoardError):
                self.run("_f.close()")
            raise
        self.run("_f.close()")  # littlefs may find no room only now

    def replace(self, path: str, data: bytes) -> None:
        """Write a file beside ``path`` and rename it: the name has the old or the new content."""
        self.write(path + ".new", data)
        self.rename(((path + ".new", path),))

    def rename(self, pairs: tuple[tuple[str, str], ...]) -> None:
        """Rename files one after the other, on the board, without this machine between."""
        self.run(f"import os\nfor old, new in {pairs!r}:\n os.rename(old, new)")

    def remove_tree(self, path: str) -> None:
        """Remove a folder and all in it; nothing happens when it is not there."""
        self.run(
            f"""
            import os
            def _remove(path):
                for entry in list(os.ilistdir(path)):
                    inner = path + "/" + entry[0]
                    if entry[1] & 0x4000:
                        _remove(inner)
                    else:
                        os.remove(inner)
                os.rmdir(path)
            try:
                os.stat({path!r})
            except OSError:
                pass
            else:
                _remove({path!r})
            """,
            timeout_s=60,
        )


def _cannot_open(port: str) -> BoardError:
    """Find out why: mpremote keeps the reason to itself."""
    try:
        descriptor = os.open(port, os.O_RDWR | getattr(os, "O_NOCTTY", 0) | _NONBLOCK)
    except FileNotFoundError:
        remedy = "no such port: connect the board; `mpremote devs` lists the ports there are"
    except PermissionError:
        remedy = "you may not open it: join the group that owns it (dialout on Debian)"
    except OSError as error:
        remedy = f"it cannot be opened ({error.strerror}): is another program using it?"
    else:
        os.close(descriptor)
        remedy = "another program has it open: close it (mpremote, an IDE, a terminal)"
    return BoardError(f"{port}: {remedy}")
