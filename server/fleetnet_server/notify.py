"""What a service manager is told of the server: ready, reloading, stopping, alive.

The protocol of sd_notify(3): a datagram of lines KEY=VALUE to the socket in NOTIFY_SOCKET.
Without that variable nothing is said; with a manager that is gone nothing breaks.
"""

import asyncio
import os
import socket
import time
from collections.abc import Mapping

import structlog

_log = structlog.get_logger("fleetnet")

# Signs of life in one WATCHDOG_USEC, as sd_watchdog_enabled(3) asks for: one may be late.
_SIGNS = 2


class Manager:
    """The service manager of this process, if it has one.

    Args:
        environment: with NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ):
        path = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of Linux's abstract names.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._interval_s = _interval_s(environment)
        self._task: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        """The ports are open; from now on signs of life come from the running event loop."""
        self._tell("READY=1", f"STATUS={status}")
        if self._address and self._interval_s and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._live())

    def reloading(self) -> None:
        """Files are being read anew; ``ready`` says when that is over."""
        # systemd tells by the time whether this belongs to the reload that it asked for.
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The drain begins. Signs of life go on until the process ends."""
        self._tell("STOPPING=1", "STATUS=sending devices away")

    async def _live(self) -> None:
        # On the loop that serves the devices: when that hangs, so does this.
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._interval_s)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.warning("service manager not told", what=lines[0], reason=str(error))


def _interval_s(environment: Mapping[str, str]) -> float:
    """Return the seconds between two signs of life; 0: nobody waits for them."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    # The variables are inherited: those of a parent are not meant for us.
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(usec) / 1e6 / _SIGNS
