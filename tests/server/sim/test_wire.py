"""The wire before a device, on real sockets: what is lost, cut and moved."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from fleetnet_server.sim.wire import Address, Wire
from loop_clock import put_forward


class Echo:
    """A server of both kinds that sends everything back, and knows who came."""

    def __init__(self) -> None:
        self.streams: list[asyncio.StreamWriter] = []
        self.sources: list[int] = []

    async def open(self) -> Address:
        self.tcp = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setblocking(False)
        self.udp.bind(("127.0.0.1", 0))
        asyncio.get_running_loop().add_reader(self.udp, self._answer)
        return Address(
            "127.0.0.1", self.tcp.sockets[0].getsockname()[1], self.udp.getsockname()[1]
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append(writer)
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    def _answer(self) -> None:
        data, source = self.udp.recvfrom(2048)
        self.sources.append(source[1])
        self.udp.sendto(data, source)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.udp)
        self.udp.close()
        self.tcp.close()
        for writer in self.streams:
            writer.close()
        await asyncio.sleep(0)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    yield made
    await made.close()


@pytest.fixture
async def wire(echo: Echo) -> AsyncIterator[Wire]:
    made = Wire(await echo.open(), "7/3")
    await made.open()
    yield made
    made.close()
    await asyncio.sleep(0.01)


async def ask(sock: socket.socket, number: int, timeout_s: float = 30.0) -> bytes | None:
    """Send a datagram; return its echo, None when there is none in time."""
    loop = asyncio.get_running_loop()
    sock.send(b"%d" % number)
    try:
        return await asyncio.wait_for(loop.sock_recv(sock, 2048), timeout_s)
    except TimeoutError:
        return None


async def fate(wire: Wire, sock: socket.socket, number: int) -> bytes | None:
    """Send a datagram; return its echo, None when it was lost on one of its ways."""
    losses = wire.losses
    sock.send(b"%d" % number)
    async with asyncio.timeout(30):
        while wire.losses == losses:
            with contextlib.suppress(BlockingIOError):
                return sock.recv(2048)
            await asyncio.sleep(0.001)
    return None


def datagrams(wire: Wire) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(("127.0.0.1", wire.dtls_port))
    return sock


async def test_everything_passes_until_something_is_wrong(wire: Wire) -> None:
    with datagrams(wire) as sock:
        assert [await ask(sock, n) for n in range(20)] == [b"%d" % n for n in range(20)]
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.tls_port)
    sent = bytes(range(256)) * 4000
    writer.write(sent)
    assert await asyncio.wait_for(reader.readexactly(len(sent)), 30) == sent
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    assert wire.losses == 0


async def test_the_same_datagrams_are_lost_in_every_run(echo: Echo) -> None:
    server = await echo.open()
    runs = []
    for _ in range(2):
        wire = Wire(server, "7/3")
        await wire.open()
        wire.loss = 0.5
        with datagrams(wire) as sock:
            runs.append([await fate(wire, sock, n) for n in range(24)])
        wire.close()
    assert runs[0] == runs[1]
    assert None in runs[0] and any(runs[0])


async def test_a_stream_with_loss_waits_and_keeps_its_order(wire: Wire) -> None:
    wire.loss = 0.5
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.tls_port)
    for number in range(10):
        writer.write(b"%d " % number)
        await writer.drain()
        await asyncio.sleep(0.005)
    expected = b"0 1 2 3 4 5 6 7 8 9 "
    assert await asyncio.wait_for(reader.readexactly(len(expected)), 30) == expected
    assert wire.losses
    writer.close()


async def test_a_cut_resets_and_heals(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.tls_port)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    wire.cut(60)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.readexactly(1), 30)
    writer.close()
    with datagrams(wire) as sock:
        assert await ask(sock, 1, 0.05) is None
        put_forward(61)
        async with asyncio.timeout(30):
            while wire.is_cut:
                await asyncio.sleep(0.01)
        assert await ask(sock, 2) == b"2"


async def test_a_move_takes_another_port_and_tells_nobody(wire: Wire, echo: Echo) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.tls_port)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    with datagrams(wire) as sock:
        assert await ask(sock, 1) == b"1"
        wire.move()
        assert await ask(sock, 2) == b"2"
    assert len(set(echo.sources)) == 2
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.readexactly(1), 30)
    writer.close()
    assert not echo.streams[0].is_closing()


async def test_a_server_that_is_away_is_no_error() -> None:
    echo = Echo()
    wire = Wire(await echo.open(), "7/3")
    await wire.open()
    await echo.close()
    with datagrams(wire) as sock:
        assert await ask(sock, 1, 0.05) is None
        assert await ask(sock, 2, 0.05) is None
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.tls_port)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.readexactly(1), 30)
    writer.close()
    wire.close()
