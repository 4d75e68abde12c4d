"""A real MicroPython behind a pseudo-terminal: what a board on a USB port is to mpremote.

    with PtyBoard(interpreter, folder) as board:
        ... install on board.port ...
        board.cut_after(20_000)     # power goes when it has been sent so many bytes more

Two pseudo-terminals, as `socat PTY EXEC:micropython,pty` makes them, and a thread that carries
bytes between them, so that the power can be cut at any byte. The folder stays: it is the flash.
"""

import contextlib
import os
import select
import subprocess
import termios
import threading
import tty
from pathlib import Path

from interpreters import Interpreter

_BLOCK = 4096
_REPL = Path(__file__).with_name("raw_repl.py")


class PtyBoard:
    """One MicroPython process and its port.

    Attributes:
        port: the device file that mpremote opens.
        sent: bytes that the board was sent so far.
        has_power: False after a cut.
    """

    def __init__(self, interpreter: Interpreter, folder: Path, *, heap: str = "2M"):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.sent = 0
        self.has_power = True
        self._is_closed = False
        self._limit: int | None = None
        self._outer, outer_end = os.openpty()
        self._inner, inner_end = os.openpty()
        tty.setraw(outer_end, termios.TCSANOW)
        tty.setraw(inner_end, termios.TCSANOW)
        self.port = os.ttyname(outer_end)
        self._outer_end = outer_end  # held open: else the thread reads EIO before mpremote comes
        self._process = subprocess.Popen(
            [interpreter.path, "-X", f"heapsize={heap}", str(_REPL)],
            stdin=inner_end,
            stdout=inner_end,
            stderr=inner_end,
            cwd=folder,
            env=environment(folder),
            start_new_session=True,
        )
        os.close(inner_end)
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def cut_after(self, count: int) -> None:
        """Cut the power after ``count`` bytes more to the board."""
        self._limit = self.sent + count

    def cut(self) -> None:
        """SIGKILL: nothing is written after it, what was written stays."""
        self.has_power = False
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        """Send the process a signal: SIGSTOP makes a board that hangs."""
        self._process.send_signal(number)

    def _carry(self) -> None:
        while True:
            ready = select.select([self._outer, self._inner, self._wake_read], [], [])[0]
            try:
                if self._wake_read in ready:
                    raise OSError("closed")
                if self._outer in ready:
                    self._to_board(os.read(self._outer, _BLOCK))
                if self._inner in ready:
                    os.write(self._outer, os.read(self._inner, _BLOCK))
            except OSError:
                # The process is gone: so is its port, as that of a board without power.
                os.close(self._outer)
                return

    def _to_board(self, data: bytes) -> None:
        if self._limit is not None and self.sent + len(data) >= self._limit:
            data = data[: self._limit - self.sent]
            os.write(self._inner, data)
            self.sent += len(data)
            self.cut()
            raise OSError("no power")
        self.sent += len(data)
        os.write(self._inner, data)

    def close(self) -> None:
        """End it; harmless when repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.write(self._wake_write, b"x")
        self._thread.join(10)
        for descriptor in (self._inner, self._outer_end, self._wake_read):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        os.close(self._wake_write)

    def __enter__(self) -> "PtyBoard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(folder: Path) -> dict[str, str]:
    """As a board has it: its own folder, what is frozen, its lib; nothing of this checkout."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "MICROPYPATH": f".frozen:{folder}/lib",
        "TERM": "dumb",
    }
