"""What the supervisor and its children tell each other: lines of JSON over a socket pair.

The pair is also how a child knows that the supervisor lives: when it ends, so does the child.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

# A first line with sockets and settings has 500 B; a traceback's last words a few more.
MAX_LINE = 64 << 10

# Between two signs of life. The supervisor waits for many of them (supervisor.py).
ALIVE_S = 1.0


class Setup(NamedTuple):
    """What a child needs to know, its first line.

    Attributes:
        worker: its number; -1: the store process. workers: how many there are.
        sockets: file numbers by the setting's name. ports: the real ones.
        cookie_key: in hexadecimal. as_json, quiet: of its log.
    """

    folder: str
    worker: int
    workers: int
    sockets: dict[str, int]
    ports: dict[str, int]
    cookie_key: str
    as_json: bool
    quiet: bool


def to_line(said: dict[str, Any]) -> bytes:
    """Return something that is said as a line."""
    return json.dumps(said).encode() + b"\n"


def read_setup(sock: socket.socket) -> Setup:
    """Wait for the first line. Raises ValueError: the supervisor ended, or says something else."""
    line = b""
    while not line.endswith(b"\n"):
        data = sock.recv(1)  # not a byte more: the rest is the event loop's
        if not data or len(line) > MAX_LINE:
            raise ValueError("no setup from the supervisor")
        line += data
    return Setup(**json.loads(line))


class Control:
    """A child's end, on its event loop. Ends the process when the supervisor's has ended.

    Args:
        hear: called with what the supervisor says.
    """

    def __init__(self, sock: socket.socket, hear: Callable[[dict[str, Any]], None]):
        self._sock = sock
        self._hear = hear
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to listen, and to give signs of life."""
        loop = asyncio.get_running_loop()
        self._sock.setblocking(False)
        self._tasks = [loop.create_task(self._listen()), loop.create_task(self._live())]

    def say(self, **said: Any) -> None:
        """Tell the supervisor something."""
        try:
            self._sock.send(to_line(said))
        except BlockingIOError:
            pass  # it hangs; signs of life are all that is often said
        except OSError:
            os._exit(1)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        waiting = b""
        while True:
            try:
                data = await loop.sock_recv(self._sock, MAX_LINE)
            except OSError:
                data = b""
            if not data:
                # As kill -9 of a server with one process: nothing that was acknowledged is lost.
                os._exit(1)
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))

    async def _live(self) -> None:
        while True:
            self.say(event="alive")
            await asyncio.sleep(ALIVE_S)
