"""A proxy that counts what passes between a device and its server, and may delay it.

Bytes of IP are those of the payload and of the headers. A datagram has 28 B of them (RFC 791,
RFC 768). A stream's segments are counted by the kernel on the device's side of the proxy
(tcp(7), TCP_INFO: segments in and out, pure acknowledgements among them), 52 B each: RFC 791,
RFC 9293 and the time stamps of RFC 7323, which Linux sends by default.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

DATAGRAM_HEADERS = 28
SEGMENT_HEADERS = 52
# struct tcp_info of linux/tcp.h: tcpi_segs_out and tcpi_segs_in, 32 bits each.
_SEGMENTS_AT = 136
_CHUNK = 65536


class Count(NamedTuple):
    """What has passed, both ways.

    Attributes:
        payload: B of TLS or DTLS records. packets: segments or datagrams.
        turns: how often something went down after something had gone up: round trips, when
            the delay is longer than what the two ends think.
    """

    payload: int
    packets: int
    turns: int
    headers: int

    @property
    def wire(self) -> int:
        """B of IP packets."""
        return self.payload + self.packets * self.headers

    def since(self, before: "Count") -> "Count":
        """Return the difference of two counts."""
        return Count(
            self.payload - before.payload, self.packets - before.packets,
            self.turns - before.turns, self.headers,
        )  # fmt: skip


class _Turns:
    """Counts changes of direction."""

    def __init__(self) -> None:
        self.count = 0
        self._is_up = False

    def passed(self, up: bool) -> None:
        if self._is_up and not up:
            self.count += 1
        self._is_up = up


class StreamCount:
    """Stands before one TCP server for one device at a time.

    Args:
        delay_s: of each direction.
    """

    def __init__(self, number: int, delay_s: float = 0.0):
        self._server = number
        self._delay_s = delay_s
        self._turns = _Turns()
        self._payload = 0
        self._segments = 0
        self._device: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen on a free port of loopback, and return it."""
        self._front = socket.create_server(("127.0.0.1", 0))
        self._front.setblocking(False)
        self._keep(self._accept())
        number: int = self._front.getsockname()[1]
        return number

    async def close(self) -> None:
        """Cut what is connected."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._front.close()

    def count(self) -> Count:
        """Return what has passed since the start."""
        segments = self._segments + (segments_of(self._device) if self._device else 0)
        # TCP's own first round trip passes no byte.
        return Count(self._payload, segments, self._turns.count, SEGMENT_HEADERS)

    def _keep(self, work: "asyncio.coroutines.Coroutine[None, None, None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            device, _ = await loop.sock_accept(self._front)
            await self._connection(device)

    async def _connection(self, device: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = socket.socket()
        for one in (device, server):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._device = device
        try:
            await loop.sock_connect(server, ("127.0.0.1", self._server))
            ways = [
                loop.create_task(self._way(device, server, True)),
                loop.create_task(self._way(server, device, False)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._segments += segments_of(device)
            self._device = None
            device.close()
            server.close()

    async def _way(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, _CHUNK):
            self._payload += len(data)
            self._turns.passed(up)
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await loop.sock_sendall(target, data)


class DatagramCount:
    """Stands before one UDP server for one device."""

    def __init__(self, number: int, delay_s: float = 0.0):
        self._server = number
        self._delay_s = delay_s
        self._turns = _Turns()
        self._payload = 0
        self._packets = 0
        self._device: tuple[str, int] | None = None

    async def start(self) -> int:
        """Listen on a free port of loopback, and return it."""
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._back.connect(("127.0.0.1", self._server))
        loop = asyncio.get_running_loop()
        for sock in (self._front, self._back):
            sock.setblocking(False)
        loop.add_reader(self._front, self._from_device)
        loop.add_reader(self._back, self._from_server)
        number: int = self._front.getsockname()[1]
        return number

    async def close(self) -> None:
        """Drop what is on its way."""
        for sock in (self._front, self._back):
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    def count(self) -> Count:
        """Return what has passed since the start."""
        return Count(self._payload, self._packets, self._turns.count, DATAGRAM_HEADERS)

    def _from_device(self) -> None:
        data, self._device = self._front.recvfrom(_CHUNK)
        self._pass(data, True, self._back.send)

    def _from_server(self) -> None:
        try:
            data = self._back.recv(_CHUNK)
        except ConnectionRefusedError:
            return  # the server is gone
        device = self._device
        if device is not None:
            self._pass(data, False, lambda data: self._front.sendto(data, device))

    def _pass(self, data: bytes, up: bool, send: Callable[[bytes], int]) -> None:
        self._payload += len(data)
        self._packets += 1
        self._turns.passed(up)
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._send, send, data)
        else:
            self._send(send, data)

    def _send(self, send: Callable[[bytes], int], data: bytes) -> None:
        if self._front.fileno() >= 0:
            send(data)


def segments_of(sock: socket.socket) -> int:
    """Return the TCP segments of a connection, sent and received (Linux 4.2)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    out, received = struct.unpack_from("II", info, _SEGMENTS_AT)
    return int(out) + int(received)
