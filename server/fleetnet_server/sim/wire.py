"""The bad network before one device: a proxy for TCP and UDP on the loopback interface.

    wire = Wire(("203.0.113.7", 7443, 7443), "7/3")
    await wire.open()                     # the device connects to wire.tls_port, wire.dtls_port
    wire.loss = 0.05
    wire.cut(2.0)
    wire.close()

What is lost is drawn from the seed and the number of the datagram, apart for each direction:
the n-th datagram of a device has the same fate in every run.
"""

import asyncio
import random
import socket
from collections.abc import Callable
from typing import NamedTuple, cast

# A lost segment is sent again after so long at the earliest (RFC 6298 section 2.4 says 1 s,
# Linux takes 0.2 s).
_RETRANSMIT_S = 0.2

_DATAGRAM_BYTES = 2048

# A burst of datagrams does not keep the other devices of the loop waiting.
_MAX_TURN = 32

# What a slow side leaves in the proxy's memory before the other side is read no further.
_WAITING_BYTES = 65_536


class Address(NamedTuple):
    """Where a server is."""

    host: str
    tls_port: int
    dtls_port: int


class Wire:
    """Stands before the server for one device.

    Attributes:
        loss: share of datagrams that are lost. is_cut: nothing passes.
        tls_port, dtls_port: where the device connects to, on 127.0.0.1.
        losses, cuts, moves: how often what happened.
    """

    def __init__(self, server: Address, seed: str):
        self.server = server
        self.loss = 0.0
        self.is_cut = False
        self.tls_port = 0
        self.dtls_port = 0
        self.losses = self.cuts = self.moves = 0
        self.up = random.Random(f"{seed}/up")  # noqa: S311 (repeatable, no secret)
        self.down = random.Random(f"{seed}/down")  # noqa: S311
        self._pairs: set[_Pair] = set()
        self._udp: _UdpRelay | None = None
        self._listener: asyncio.Server | None = None
        self._healing: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Listen. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Pair(self).front, "127.0.0.1", 0)
        self.tls_port = self._listener.sockets[0].getsockname()[1]
        self._udp = _UdpRelay(self, await _resolve(self.server))
        self.dtls_port = self._udp.port

    def draw_loss(self, dice: random.Random) -> bool:
        """Say whether the next piece of a direction is lost; always one draw."""
        is_lost = dice.random() < self.loss
        self.losses += is_lost
        return is_lost

    def cut(self, seconds: float) -> None:
        """Reset every connection, and let nothing pass for ``seconds``."""
        self.cuts += 1
        self.is_cut = True
        self.reset()
        if self._healing is not None:
            self._healing.cancel()
        self._healing = asyncio.get_running_loop().call_later(seconds, self.heal)

    def heal(self) -> None:
        """Let everything pass again; loss stays."""
        self.is_cut = False

    def reset(self) -> None:
        """End every TCP connection by RST."""
        for pair in list(self._pairs):
            pair.end()

    def move(self) -> None:
        """Forget the device, as a router that restarts: the server hears nothing of it."""
        self.moves += 1
        for pair in self._pairs:
            pair.orphan()
        if self._udp is not None:
            self._udp.move()

    def close(self) -> None:
        """Stop listening, end everything."""
        if self._healing is not None:
            self._healing.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._udp is not None:
            self._udp.close()
        self.reset()

    def add(self, pair: "_Pair") -> None:
        self._pairs.add(pair)

    def remove(self, pair: "_Pair") -> None:
        self._pairs.discard(pair)


async def _resolve(server: Address) -> tuple[int, tuple[str, int]]:
    found = await asyncio.get_running_loop().getaddrinfo(
        server.host, server.dtls_port, type=socket.SOCK_DGRAM
    )
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


class _UdpRelay:
    """The UDP half: one front for the device, one socket towards the server."""

    def __init__(self, wire: Wire, server: tuple[int, tuple[str, int]]):
        self._wire = wire
        self._family, self._server = server
        self._loop = asyncio.get_running_loop()
        self._client: tuple[str, int] | None = None
        self._back: socket.socket | None = None
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.setblocking(False)
        self._front.bind(("127.0.0.1", 0))
        self.port: int = self._front.getsockname()[1]
        self._loop.add_reader(self._front.fileno(), self._from_device)

    def move(self) -> None:
        """Go on from another port; what comes to the old one is lost."""
        if self._back is not None:
            old = self._back
            # The new one first, or the system may give the same port again.
            self._connect()
            self._drop(old)

    def close(self) -> None:
        self._loop.remove_reader(self._front.fileno())
        self._front.close()
        if self._back is not None:
            self._drop(self._back)
            self._back = None

    def _connect(self) -> None:
        back = socket.socket(self._family, socket.SOCK_DGRAM)
        back.setblocking(False)
        back.connect(self._server)
        self._back = back
        self._loop.add_reader(back.fileno(), self._from_server, back)

    def _drop(self, back: socket.socket) -> None:
        self._loop.remove_reader(back.fileno())
        back.close()

    def _from_device(self) -> None:
        for _ in range(_MAX_TURN):
            try:
                data, client = self._front.recvfrom(_DATAGRAM_BYTES)
            except OSError:
                return
            if client != self._client:
                # A new association comes from a port of its own.
                self._client = client
                old = self._back
                self._connect()
                if old is not None:
                    self._drop(old)
            if not self._wire.draw_loss(self._wire.up) and not self._wire.is_cut:
                assert self._back is not None
                _send(self._back.send, data)

    def _from_server(self, back: socket.socket) -> None:
        for _ in range(_MAX_TURN):
            try:
                data = back.recv(_DATAGRAM_BYTES)
            except ConnectionRefusedError:
                continue  # of an earlier datagram: the server was away
            except OSError:
                return
            client = self._client
            if client and not self._wire.draw_loss(self._wire.down) and not self._wire.is_cut:
                _send(self._front.sendto, data, client)


def _send(send: Callable[..., object], *arguments: object) -> None:
    try:
        send(*arguments)
    except OSError:
        return  # no room, or nobody there: a network drops


class _Pair:
    """One TCP connection of the device, and the one to the server that stands for it."""

    def __init__(self, wire: Wire):
        self.wire = wire
        self.front = _Half(self, wire.up)
        self.back = _Half(self, wire.down)
        self.is_over = False
        self._task: asyncio.Task[None] | None = None

    def front_made(self) -> None:
        """The device has connected."""
        if self.wire.is_cut:
            self.end()
            return
        self.wire.add(self)
        self.front.hold()
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        server = self.wire.server
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.back, server.host, server.tls_port)
        except OSError:
            self.end()
            return
        if self.is_over:
            self.back.abort()
        else:
            self.front.release()

    def other(self, half: "_Half") -> "_Half":
        return self.back if half is self.front else self.front

    def orphan(self) -> None:
        """Reset the device's side; the server's stays open, and mute."""
        self.front.abort()

    def end(self) -> None:
        """Reset both sides."""
        self.is_over = True
        self.front.abort()
        self.back.abort()
        self.wire.remove(self)


class _Half(asyncio.Protocol):
    """One side of a pair: what it reads goes out of the other."""

    def __init__(self, pair: _Pair, dice: random.Random):
        self._pair = pair
        self._dice = dice
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._holds = 0
        self._is_orphan = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._transport.set_write_buffer_limits(_WAITING_BYTES)
        if self is self._pair.front:
            self._pair.front_made()

    def data_received(self, data: bytes) -> None:
        pair = self._pair
        if pair.wire.is_cut or pair.other(self)._is_orphan:
            return
        self._held += data
        if pair.wire.draw_loss(self._dice):
            # Nothing overtakes what is sent again: the stream waits.
            self.hold()
            asyncio.get_running_loop().call_later(_RETRANSMIT_S, self.release)
        elif not self._holds:
            self._forward()

    def hold(self) -> None:
        """Pass nothing on until ``release``."""
        self._holds += 1
        if self._transport is not None:
            self._transport.pause_reading()

    def release(self) -> None:
        self._holds = max(0, self._holds - 1)
        if not self._holds and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._forward()

    def _forward(self) -> None:
        target = self._pair.other(self)._transport
        if self._held and target is not None and not target.is_closing():
            target.write(bytes(self._held))
        self._held.clear()

    def pause_writing(self) -> None:
        self._pair.other(self).hold()

    def resume_writing(self) -> None:
        self._pair.other(self).release()

    def eof_received(self) -> bool:
        target = self._pair.other(self)._transport
        if target is not None and not target.is_closing() and target.can_write_eof():
            self._forward()
            target.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_orphan and not self._pair.is_over:
            self._pair.end()

    def abort(self) -> None:
        """Close with RST."""
        self._is_orphan = True
        if self._transport is None or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            # Linger on, for zero seconds: RST in the place of FIN (socket(7)).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._transport.abort()
