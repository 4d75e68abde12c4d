"""A bad TCP network for tests on real sockets: a proxy that delays, swallows, cuts and resets.

    proxy = TcpProxy(("127.0.0.1", port), seed=7, up=StreamFaults(end_after=(1, 5000)))
    await proxy.start()             # then let the device connect to proxy.address
    proxy.reset()                   # RST to both ends of every connection
    await proxy.close()

``up`` is the way from the device to the server, ``down`` the way back. Where a connection ends
by itself depends on the seed and on the order of the connections alone.
"""

import asyncio
import random
import socket
import struct
from collections import Counter, deque
from dataclasses import dataclass

from bad_network import Address

CHUNK = 16_384
HELD_BYTES = 262_144  # a direction that holds more than this stops reading


def close_by_reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN: linger on, for zero seconds."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@dataclass
class StreamFaults:
    """What one direction does to a byte stream; a limit is drawn anew for each connection."""

    delay_ms: float = 0.0
    black_hole: bool = False  # swallows bytes while true; the connection stays up
    end_after: tuple[int, int] | None = None  # ends the connection after so many bytes (from, to)
    reset: bool = True  # how it ends then: RST, or FIN when false


class StreamWay:
    """One direction of one TCP connection: reads, holds for the delay, writes."""

    def __init__(
        self, pair: "Pair", source: socket.socket, target: socket.socket, faults: StreamFaults
    ) -> None:
        self.faults = faults
        self._pair = pair
        self._source = source
        self._target = target
        self._delayed: deque[bytes] = deque()  # b"" is the end of the stream
        self._timers: set[asyncio.TimerHandle] = set()
        self._waiting = bytearray()  # arrived, not yet taken by the target
        self._held = 0
        self._reading = True
        self._ended = False
        self._left: int | None = None
        if faults.end_after:
            self._left = pair.dice.randint(*faults.end_after)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._readable)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)

    def _readable(self) -> None:
        try:
            data = self._source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._pair.end(reset=True)
            return
        self._held += len(data)
        if not data or self._held > HELD_BYTES:
            self._loop.remove_reader(self._source)
            self._reading = False
        self._ended = self._ended or not data
        self._pair.counters["in"] += len(data)
        if self.faults.black_hole:
            self._pair.counters["black_hole"] += len(data)
            self._held -= len(data)
            return
        self._delayed.append(data)
        if self.faults.delay_ms > 0 or self._timers:
            # Whichever timer fires first takes the oldest bytes: a delay that was made shorter
            # meanwhile must not change the order of a stream.
            self._start_timer(self.faults.delay_ms / 1000)
        else:
            self._arrive()

    def _start_timer(self, delay_s: float) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            self._arrive()

        timer = self._loop.call_later(delay_s, fire)
        self._timers.add(timer)

    def _arrive(self) -> None:
        data = self._delayed.popleft()
        self._waiting += data
        self._write(end=not data)

    def _write(self, end: bool = False) -> None:
        now = bytes(self._waiting if self._left is None else self._waiting[: self._left])
        try:
            sent = self._target.send(now) if now else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._pair.end(reset=True)
            return
        del self._waiting[:sent]
        self._held -= sent
        self._pair.counters["out"] += sent
        if self._left is not None:
            self._left -= sent
            if self._left <= 0:
                self._pair.counters["ended"] += 1
                self._pair.end(reset=self.faults.reset)
                return
        self._after_write(end)

    def _after_write(self, end: bool) -> None:
        if self._waiting:
            self._loop.add_writer(self._target, self._write, end)
            return
        self._loop.remove_writer(self._target)
        if end:
            self._pair.half_close(self._target)
        elif not self._reading and not self._ended and self._held <= HELD_BYTES:
            self._loop.add_reader(self._source, self._readable)
            self._reading = True


class Pair:
    """One proxied TCP connection: a client socket, a server socket and the two ways."""

    def __init__(self, proxy: "TcpProxy", client: socket.socket, server: socket.socket) -> None:
        self.dice = proxy.dice
        self.counters = proxy.counters
        self._proxy = proxy
        self._sockets = (client, server)
        self._closed_halves = 0
        self._ways = (
            StreamWay(self, client, server, proxy.up),
            StreamWay(self, server, client, proxy.down),
        )

    def half_close(self, sock: socket.socket) -> None:
        """One direction has ended; with the second one the connection is over."""
        self._closed_halves += 1
        if self._closed_halves == 2:
            self.end(reset=False)
            return
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.end(reset=True)

    def swallow(self) -> None:
        """Let nothing through any more, and keep both sockets."""
        for way in self._ways:
            way.faults = StreamFaults(black_hole=True)

    def end(self, reset: bool) -> None:
        """Close both sockets, by RST or by FIN."""
        for way in self._ways:
            way.close()
        for sock in self._sockets:
            if reset:
                close_by_reset(sock)
            else:
                sock.close()
        self._proxy.forget(self)


class TcpProxy:
    """Stands before one TCP server; ``up`` and ``down`` may be changed while it runs."""

    def __init__(
        self,
        server: Address,
        seed: int = 0,
        up: StreamFaults | None = None,
        down: StreamFaults | None = None,
    ) -> None:
        self.server = server
        self.up = up or StreamFaults()
        self.down = down or StreamFaults()
        self.dice = random.Random(f"{seed}/tcp")
        self.counters: Counter[str] = Counter()
        self.connections = 0
        self._pairs: set[Pair] = set()
        self._front: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen on a free port of the loopback interface."""
        self._front = socket.create_server(("127.0.0.1", 0))
        self._front.setblocking(False)
        self._task = asyncio.create_task(self._accept(self._front))

    @property
    def address(self) -> Address:
        """Where clients connect to. RuntimeError before start()."""
        if self._front is None:
            raise RuntimeError("the proxy was not started")
        host, port = self._front.getsockname()
        return host, port

    def cut(self) -> None:
        """End every connection in good order (FIN both ways), whatever is on the way."""
        for pair in list(self._pairs):
            pair.end(reset=False)

    def reset(self) -> None:
        """End every connection by RST."""
        for pair in list(self._pairs):
            pair.end(reset=True)

    def swallow(self) -> None:
        """Every connection goes dead without a word, as behind a NAT that forgot it."""
        for pair in list(self._pairs):
            pair.swallow()

    def forget(self, pair: Pair) -> None:
        self._pairs.discard(pair)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._front is not None:
            self._front.close()
            self._front = None
        self.reset()

    async def _accept(self, front: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(front)
            self.connections += 1
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            server.setblocking(False)
            try:
                await loop.sock_connect(server, self.server)
            except OSError:
                self.counters["refused"] += 1
                close_by_reset(client)
                server.close()
                continue
            except asyncio.CancelledError:
                client.close()
                server.close()
                raise
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.add(Pair(self, client, server))
