"""A worker's line to the store process, for everything but commits; see channel.py.

It connects again by itself. What is told while there is nobody to hear it is left out: whoever
joins tells all that counts anew.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetnet_server.core.ports import SessionAbout
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store import channel

_log = logging.getLogger("fleetnet.store")

# Between two attempts: the store process starts in one second.
_PAUSE_S = 0.1

# What a store process that hangs may leave unread before nothing more is told to it.
_MOST_UNSENT = 8 << 20


class StoreLine:
    """Made on a running loop; see remote.start_line.

    Attributes:
        task: that runs ``run``. leases: what is told in Join.
        on_lost: hears of devices that another worker has, with the fence of the lease before.
        on_joined: called behind every Join. on_news: what the store process tells, (kind, data).
        left_out: messages that were not told.
    """

    def __init__(self, folder: Path, worker: int):
        self._folder = folder
        self._worker = worker
        self._writer: asyncio.StreamWriter | None = None
        self._number = 0
        self._asked: dict[int, asyncio.Future[channel.Begun]] = {}
        self._waiting: dict[int, channel.Begin] = {}
        self.task: asyncio.Task[None] | None = None
        self.leases: Callable[[], dict[int, int]] = dict
        self.on_lost: Callable[[int, int], None] = lambda device, fence: None
        self.on_joined: Callable[[], None] = lambda: None
        self.on_news: Callable[[str, Any], None] = lambda kind, data: None
        self.left_out = 0

    async def begin(self, device: int, epoch: bytes, about: SessionAbout) -> channel.Begun:
        """Ask for a session; without a connection, when there is one. Raises StoreUnavailable."""
        self._number += 1
        frame = channel.Begin(self._number, device, epoch, about)
        answer: asyncio.Future[channel.Begun] = asyncio.get_running_loop().create_future()
        self._asked[frame.number] = answer
        self._waiting[frame.number] = frame
        self.send(frame)
        try:
            return await answer
        finally:
            del self._asked[frame.number]
            self._waiting.pop(frame.number, None)

    def send(self, frame: channel.Frame) -> None:
        """Tell something, if there is a connection."""
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() > _MOST_UNSENT:
            self.left_out += 1
            return
        writer.write(channel.encode(frame))

    def tell(self, kind: str, data: Any) -> None:
        """Tell news (workers/news.py)."""
        self.send(channel.News(kind, data))

    async def run(self) -> None:
        """Keep the line; ends when it is cancelled."""
        while True:
            try:
                sock = await asyncio.to_thread(channel.connect, self._folder)
                reader, self._writer = await asyncio.open_unix_connection(sock=sock)
                self._join()
                await self._read(reader)
            except (OSError, ValueError) as error:
                _log.debug("no line to the store process: %s", error)
            finally:
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None
            await asyncio.sleep(_PAUSE_S)

    async def stop(self) -> None:
        """Send what waits, and hang up."""
        if self._writer is not None:
            try:
                async with asyncio.timeout(1):
                    await self._writer.drain()
            except (OSError, TimeoutError):
                pass  # nobody is there to be told
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def _join(self) -> None:
        self.send(channel.Join(self._worker, self.leases()))
        self.on_joined()
        # Asked before, of a store process that ended or that had not begun.
        for frame in self._waiting.values():
            self.send(frame)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = channel.Frames()
        while data := await reader.read(1 << 16):
            for frame in frames.feed(data):
                self._hear(frame)

    def _hear(self, frame: channel.Frame) -> None:
        if isinstance(frame, channel.Begun):
            answer = self._asked.get(frame.number)
            if answer is not None and not answer.done():
                answer.set_result(frame)
        elif isinstance(frame, channel.Failed):
            answer = self._asked.get(frame.number)
            if answer is not None and not answer.done():
                answer.set_exception(StoreUnavailable(frame.why))
        elif isinstance(frame, channel.Lost):
            self.on_lost(frame.device, frame.fence)
        elif isinstance(frame, channel.News):
            self.on_news(frame.kind, frame.data)
