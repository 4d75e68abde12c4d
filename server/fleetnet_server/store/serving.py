"""The store process's side of `fleetnet serve --workers`: one writer for all workers.

It knows which worker has which device: the newest session wins, and what the worker before still
sends of that device is not stored. So the place where the next session goes on holds everything
that was stored, as in a server of one process.

A lease is a number, its fence, that grows; it lives in memory. After a restart of the store
process the workers say which they have.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.ports import SessionAbout, SessionStart
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreError, StoreUnavailable
from fleetnet_server.store import channel
from fleetnet_server.store.fleet_store import AuditRow
from fleetnet_server.store.writer import Writer

_log = logging.getLogger("fleetnet.store")

# What a worker that hangs may leave unread before it is cut off: its devices go elsewhere.
_MOST_UNSENT = 32 << 20


class Lease(NamedTuple):
    """Who has a device."""

    link: "_Link"
    fence: int


class Batch:
    """A Commit under way.

    Attributes:
        left: messages that are not durable yet. old: indexes of those that were stored before.
    """

    __slots__ = ("left", "link", "lost", "number", "old", "size")

    def __init__(self, link: "_Link", number: int, size: int, lost: list[int]):
        self.link = link
        self.number = number
        self.size = size
        self.left = size - len(lost)
        self.lost = lost
        self.old: list[int] = []

    def answer(self) -> None:
        """All of it is on the disk."""
        new = None
        if self.old or self.lost:
            others = {*self.old, *self.lost}
            new = [index for index in range(self.size) if index not in others]
        self.link.send(channel.Done(self.number, new, self.lost))


Token = tuple[Batch, int]
Stored = list[tuple[Message, Token, bool]]
Lost = list[tuple[Message, Token]]


class MessageStore(Protocol):
    """What is needed of a store; SqliteStore and PostgresStore have it."""

    @property
    def has_deferred(self) -> bool: ...

    def begin(
        self, device_id: int, epoch: bytes, about: SessionAbout, /
    ) -> SessionStart | Awaitable[SessionStart]: ...

    def end(self, device_id: int, /) -> None: ...

    def note_gap(
        self, device_id: int, epoch_id: int, stream: int, first: int, last: int, /
    ) -> None: ...

    def set_boot(self, device_id: int, boot: int, offset_ms: int, /) -> None: ...

    def defer_audit(self, row: AuditRow, /) -> bool: ...


class StoreServer:
    """Serves the workers of one machine. Made on a running loop.

    Args:
        store: a file, or a database that other machines have as well.
        make_writer: function(on_durable, on_lost) -> its Writer.
        keeps_leases: what the workers have is theirs still when this process began anew. Of a
            database it is not: other machines may have taken it.

    Attributes:
        on_joined, on_left: hear of a worker's number. on_news: (worker, kind, data).
        on_batch: hears of every commit. audit_lost: rows that found no room.
        leases: device -> who has it.
    """

    def __init__(
        self,
        store: MessageStore,
        make_writer: Callable[[Callable[[Stored], None], Callable[[Lost], None]], Writer[Token]],
        keeps_leases: bool = True,
    ):
        self._store = store
        self._keeps_leases = keeps_leases
        self.writer = make_writer(self._on_durable, self._on_lost)
        self.leases: dict[int, Lease] = {}
        # Above those of every store process before, as the clock goes; Join sees to the rest.
        self._fence = time.time_ns() // 1000
        self._links: dict[int, _Link] = {}
        self._all: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.on_joined: Callable[[int], None] = lambda worker: None
        self.on_left: Callable[[int], None] = lambda worker: None
        self.on_news: Callable[[int, str, Any], None] = lambda worker, kind, data: None
        self.on_batch: Callable[[Stored], None] = lambda done: None
        self.audit_lost = 0

    async def start(self, folder: Path) -> None:
        """Let the workers come. Raises OSError: FOLDER cannot be written."""
        sock = channel.listen(folder)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Link(self), sock=sock)

    async def stop(self) -> None:
        """Hang up; what was put is still committed by the writer."""
        if self._server is not None:
            self._server.close()
        for link in list(self._all):
            link.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tell(self, worker: int | None, kind: str, data: Any = None) -> None:
        """Tell a worker news; None: all of them."""
        frame = channel.News(kind, data)
        for number, link in self._links.items():
            if worker in (None, number):
                link.send(frame)

    def worker_of(self, device: int) -> int | None:
        """Return which worker has a device, None when nobody has."""
        lease = self.leases.get(device)
        return None if lease is None or not lease.link.is_alive else lease.link.worker

    # -- what links call -------------------------------------------------------------------

    def opened(self, link: "_Link") -> None:
        """A connection is there; whose it is, Join says."""
        self._all.add(link)

    def closed(self, link: "_Link") -> None:
        """A worker has ended. Its leases stay until somebody else takes them, see ``_begin``."""
        self._all.discard(link)
        if self._links.get(link.worker) is link:
            del self._links[link.worker]
            self.on_left(link.worker)

    def hear(self, link: "_Link", frame: channel.Frame) -> None:
        """Do what a worker asks for."""
        if isinstance(frame, channel.Commit):
            self._commit(link, frame)
        elif isinstance(frame, channel.News):
            self.on_news(link.worker, frame.kind, frame.data)
        elif isinstance(frame, channel.Begin):
            self._spawn(self._begin(link, frame))
        elif isinstance(frame, channel.End):
            if self.leases.get(frame.device) == Lease(link, frame.fence):
                del self.leases[frame.device]
                self._store.end(frame.device)
        elif isinstance(frame, channel.Join):
            self._join(link, frame)

    def _join(self, link: "_Link", frame: channel.Join) -> None:
        link.worker = frame.worker
        before = self._links.get(link.worker)
        if before is not None:
            before.close()
        self._links[link.worker] = link
        self._fence = max(self._fence, *frame.leases.values(), 0)
        for device, fence in frame.leases.items():
            known = self.leases.get(device)
            if not self._keeps_leases or (known is not None and known.fence > fence):
                link.send(channel.Lost(device, fence))
                continue
            if known is not None and known.link is not link:
                known.link.send(channel.Lost(device, known.fence))
            self.leases[device] = Lease(link, fence)
        self.on_joined(link.worker)

    async def _begin(self, link: "_Link", frame: channel.Begin) -> None:
        fence, has_moved = 0, False
        if frame.about.is_here:
            old = self.leases.get(frame.device)
            has_moved = old is not None and old.link is not link
            self._fence += 1
            fence = self._fence
            self.leases[frame.device] = Lease(link, fence)
            if old is not None and has_moved:
                old.link.send(channel.Lost(frame.device, old.fence))
        try:
            if has_moved:
                # What the other worker sent before is on its way to the disk.
                await self.writer.flush()
            begun = self._store.begin(frame.device, frame.epoch, frame.about)
            start = begun if isinstance(begun, SessionStart) else await begun
            if self._store.has_deferred:
                # A new epoch's number must not be another device's after a restart.
                await self.writer.flush()
        except (StoreUnavailable, StoreError) as error:
            link.send(channel.Failed(frame.number, str(error)))
            return
        if frame.about.is_here and self.leases.get(frame.device) != Lease(link, fence):
            # It came to another worker while this one waited, which was told Lost too early.
            link.send(channel.Failed(frame.number, "another worker has the device by now"))
            return
        link.send(channel.Begun(frame.number, start.epoch_id, start.marks, fence))

    # -- the commit ------------------------------------------------------------------------

    def _commit(self, link: "_Link", frame: channel.Commit) -> None:
        store = self._store
        for gap in frame.gaps:
            store.note_gap(*gap)
        for boot in frame.boots:
            store.set_boot(*boot)
        for row in frame.audit:
            self.audit_lost += not store.defer_audit(row)
        stale = {device for device, fence in frame.leases.items() if self._is_stale(device, fence)}
        batch = Batch(link, frame.number, len(frame.messages), self._lost(frame, stale))
        if not batch.left:
            self._spawn(self._answer_later(batch))
            return
        lost = set(batch.lost)
        for index, fields in enumerate(frame.messages):
            if index in lost:
                continue
            message = Message._make(fields)
            carrier = frame.carriers.get(index)
            if carrier is not None:
                message = Relayed(*message)
                message.carrier = carrier
                message.hub = frame.holders.get(index, message.device_id)
            self.writer.put(message, (batch, index))

    def _is_stale(self, device: int, fence: int) -> bool:
        """Whether somebody else has a device by now."""
        known = self.leases.get(device)
        return known is not None and known.fence > fence

    def _lost(self, frame: channel.Commit, stale: set[int]) -> list[int]:
        if not stale:
            return []
        holders = frame.holders
        return [
            index
            for index, (device, *_rest) in enumerate(frame.messages)
            if holders.get(index, device) in stale
        ]

    async def _answer_later(self, batch: Batch) -> None:
        """Nothing but small notes: they go with the next commit."""
        await self.writer.flush()
        batch.answer()

    def lose(self, device: int) -> None:
        """Another machine has a device now (see MessageStore.on_lost in core/ports.py)."""
        lease = self.leases.pop(device, None)
        if lease is not None:
            lease.link.send(channel.Lost(device, lease.fence))

    def _on_lost(self, lost: Lost) -> None:
        """Messages that came under a lease which is another machine's by now."""
        for message, (batch, index) in lost:
            batch.lost.append(index)
            batch.left -= 1
            if not batch.left:
                batch.answer()
            if type(message) is not Relayed:
                self.lose(message.device_id)

    def _on_durable(self, done: Stored) -> None:
        for _message, (batch, index), is_new in done:
            if not is_new:
                batch.old.append(index)
            batch.left -= 1
            if not batch.left:
                batch.answer()
        self.on_batch(done)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Link(asyncio.Protocol):
    """One connection of a worker.

    Attributes:
        worker: its number, -1 before Join and on the connection for commits.
    """

    def __init__(self, server: StoreServer):
        self._server = server
        self._frames = channel.Frames()
        self._transport: asyncio.Transport | None = None
        self.worker = -1

    @property
    def is_alive(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is of another class
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._server.hear(self, frame)
        except ValueError as error:
            _log.error("a worker says what nobody understands: %s", error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.closed(self)

    def send(self, frame: channel.Frame) -> None:
        """Send a message; to nobody when the worker has ended."""
        transport = self._transport
        if transport is None:
            return
        transport.write(channel.encode(frame))
        if transport.get_write_buffer_size() > _MOST_UNSENT:
            _log.error("worker %d does not listen: its connection is closed", self.worker)
            transport.abort()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()
