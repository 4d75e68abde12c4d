"""One child of the supervisor: started, listened to, ended, and what it said last."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog

from fleetnet_server.workers.control import MAX_LINE, Setup, to_line

_log = structlog.get_logger("fleetnet.workers")


class Child:
    """A process that is started again and again; made on a running loop.

    Args:
        name: for logs. module: that python runs.
        setup: its first line. kept: files that it inherits besides its sockets.
        hear: called with what it says, beside what this class understands.

    Attributes:
        pid: 0: it does not run. starts: how often it was started.
        is_ready: it serves. ports: that it opened itself.
        failure: (kind, text) of the error that it ended with.
    """

    def __init__(
        self,
        name: str,
        module: str,
        setup: Setup,
        kept: tuple[int, ...],
        hear: "Callable[[Child, dict[str, Any]], None]",
    ):
        self.name = name
        self._module = module
        self._setup = setup
        self._kept = kept
        self._hear = hear
        self._process: asyncio.subprocess.Process | None = None
        self._sock: socket.socket | None = None
        self._listening: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.starts = 0
        self.began = self.last_sign = 0.0
        self.is_ready = False
        self.ports: dict[str, int] = {}
        self.failure: tuple[str, str] | None = None
        self.reloaded: bool | None = None

    @property
    def pid(self) -> int:
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def start(self) -> None:
        """Start it; ``until_ready`` waits until it serves. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.is_ready, self.failure, self.reloaded = False, None, None
        self._news = asyncio.Event()
        try:
            self._process = await asyncio.create_subprocess_exec(
                # -P: no module of the working directory is taken for one of ours.
                # The name is for `ps`.
                sys.executable, "-P", "-m", self._module, str(theirs.fileno()), self.name,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *self._setup.sockets.values(), *self._kept),
                env=_environment(),
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.starts += 1
        self.began = self.last_sign = time.monotonic()
        self._sock = ours
        self._listening = asyncio.get_running_loop().create_task(self._listen(ours))
        self._send(to_line(self._setup._asdict()))

    def say(self, **said: Any) -> None:
        """Tell it something, if it runs."""
        self._send(to_line(said))

    def _send(self, line: bytes) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # it has ended, or hangs: both are noticed
                self._sock.send(line)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.pid and self._process is not None:
            self._process.send_signal(number)

    async def until_ready(self) -> bool:
        """Wait until it serves; False: it ended instead, see ``failure``."""
        return await self._until(lambda: self.is_ready)

    async def until_reloaded(self) -> bool:
        """Wait until a SIGHUP was done; False: not completely, or it ended."""
        return await self._until(lambda: self.reloaded is not None) and bool(self.reloaded)

    async def _until(self, condition: Callable[[], bool]) -> bool:
        while not condition():
            if self._listening is None or self._listening.done():
                return False
            self._news.clear()
            await self._news.wait()
        return True

    async def wait(self) -> int:
        """Return its exit code once it has ended; negative: the signal that ended it."""
        assert self._process is not None
        code = await self._process.wait()
        if self._listening is not None:
            await asyncio.gather(self._listening, return_exceptions=True)
        self.is_ready = False
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        return code

    async def _listen(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        waiting = b""
        try:
            while data := await loop.sock_recv(sock, MAX_LINE):
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
        except OSError:
            pass  # as its end
        finally:
            self._news.set()
            loop.call_soon(self._news.set)

    def _take(self, said: dict[str, Any]) -> None:
        self.last_sign = time.monotonic()
        event = said.get("event")
        if event == "alive":
            return
        if event == "ready":
            self.is_ready, self.ports = True, said["ports"]
        elif event == "failed":
            self.failure = (said["kind"], said["text"])
        elif event == "reloaded":
            self.reloaded = said["is_done"]
        self._hear(self, said)
        self._news.set()


def _environment() -> dict[str, str]:
    """Everything but the service manager's, which only the supervisor talks to."""
    hidden = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    return {key: value for key, value in os.environ.items() if key not in hidden}
