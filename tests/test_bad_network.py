"""The bad networks do what they say, and do it again from the same seed."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import pytest

from bad_network import Faults, UdpProxy
from bad_streams import StreamFaults, TcpProxy

COUNT = 400


class Sink(asyncio.DatagramProtocol):
    """A server that keeps what it hears, from where, and echoes it when told to."""

    def __init__(self, echo: bool) -> None:
        self.echo = echo
        self.heard: list[bytes] = []
        self.sources: list[int] = []

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)
        self.sources.append(addr[1])
        if self.echo:
            self.transport.sendto(data, addr)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is on its way; TimeoutError after 30 s."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


Run = Callable[..., Awaitable[tuple[Sink, UdpProxy]]]


@pytest.fixture
async def start() -> AsyncIterator[Run]:
    """Start a sink with a proxy before it; both are closed at the end of the test."""
    made: list[tuple[asyncio.DatagramTransport, UdpProxy]] = []

    async def start(echo: bool = False, **options: object) -> tuple[Sink, UdpProxy]:
        loop = asyncio.get_running_loop()
        transport, sink = await loop.create_datagram_endpoint(
            lambda: Sink(echo), local_addr=("127.0.0.1", 0)
        )
        proxy = UdpProxy(transport.get_extra_info("sockname"), **options)  # type: ignore[arg-type]
        await proxy.start()
        made.append((transport, proxy))
        return sink, proxy

    yield start
    for transport, proxy in made:
        transport.close()
        await proxy.close()


async def pour(proxy: UdpProxy, count: int = COUNT) -> None:
    """Send numbered datagrams at a pace that overruns no buffer; wait until all were judged."""
    before = proxy.up.counters["in"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(proxy.address)
        for number in range(count):
            sock.send(b"%06d" % number + b"x" * 50)
            if number % 20 == 19:
                await asyncio.sleep(0.001)
        await until(lambda: proxy.up.counters["in"] == before + count)


async def heard(sink: Sink, proxy: UdpProxy) -> list[bytes]:
    """What the sink has once everything that the proxy let through has arrived."""
    way = proxy.up
    gone = way.counters["lost"] + way.counters["black_hole"]
    due = way.counters["in"] - gone + way.counters["duplicated"]
    await until(lambda: len(sink.heard) == due)
    return sink.heard


async def test_without_faults_nothing_happens(start: Run) -> None:
    sink, proxy = await start()
    await pour(proxy)
    assert [int(data[:6]) for data in await heard(sink, proxy)] == list(range(COUNT))


async def test_loss(start: Run) -> None:
    sink, proxy = await start(seed=1, up=Faults(loss=0.3))
    await pour(proxy)
    got = await heard(sink, proxy)
    assert len(got) == COUNT - proxy.up.counters["lost"]
    assert 0.2 < proxy.up.counters["lost"] / COUNT < 0.4
    assert got == sorted(set(got))


async def test_duplication(start: Run) -> None:
    sink, proxy = await start(seed=2, up=Faults(duplicate=0.2))
    await pour(proxy)
    got = await heard(sink, proxy)
    assert len(got) - len(set(got)) == proxy.up.counters["duplicated"]
    assert 0.1 < proxy.up.counters["duplicated"] / COUNT < 0.3


async def test_reordering(start: Run) -> None:
    sink, proxy = await start(seed=3, up=Faults(reorder=0.2))
    await pour(proxy)
    got = await heard(sink, proxy)
    assert sorted(got) == sorted(set(got))
    assert len(got) == COUNT
    swaps = sum(1 for first, second in pairwise(got) if first > second)
    assert swaps > COUNT * 0.1


async def test_corruption_flips_one_bit(start: Run) -> None:
    sink, proxy = await start(seed=4, up=Faults(corrupt=0.25))
    await pour(proxy)
    got = await heard(sink, proxy)
    flipped = 0
    for number, data in enumerate(got):
        meant = b"%06d" % number + b"x" * 50
        bits = sum((a ^ b).bit_count() for a, b in zip(data, meant, strict=True))
        assert bits in (0, 1)
        flipped += bits
    assert flipped == proxy.up.counters["corrupted"] > COUNT * 0.15


async def test_delay_and_jitter(start: Run) -> None:
    sink, proxy = await start(seed=5, up=Faults(delay_ms=60, jitter_ms=40))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await pour(proxy, 20)
    assert not sink.heard or loop.time() - begin >= 0.059
    got = await heard(sink, proxy)
    assert loop.time() - begin >= 0.059
    assert got != sorted(got)  # jitter overtakes


async def test_black_hole_opens_and_closes(start: Run) -> None:
    sink, proxy = await start(up=Faults(black_hole=True))
    await pour(proxy, 10)
    assert sink.heard == []
    proxy.up.faults.black_hole = False
    await pour(proxy, 10)
    assert len(await heard(sink, proxy)) == 10


async def test_rebind_changes_the_port_that_the_server_sees(start: Run) -> None:
    sink, proxy = await start(echo=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(proxy.address)
        loop = asyncio.get_running_loop()
        for text in (b"one", b"two"):
            sock.send(text)
            assert await asyncio.wait_for(loop.sock_recv(sock, 100), 30) == text
        proxy.rebind()
        sock.send(b"three")
        assert await asyncio.wait_for(loop.sock_recv(sock, 100), 30) == b"three"
    assert sink.sources[0] == sink.sources[1] != sink.sources[2]


async def test_directions_have_faults_of_their_own(start: Run) -> None:
    sink, proxy = await start(echo=True, down=Faults(loss=1.0))
    await pour(proxy, 20)
    await heard(sink, proxy)
    await until(lambda: proxy.down.counters["lost"] == 20)
    assert proxy.up.counters["lost"] == 0
    assert proxy.down.counters["out"] == 0


async def test_the_same_seed_gives_the_same_network(start: Run) -> None:
    faults = {"loss": 0.3, "duplicate": 0.2, "reorder": 0.1, "corrupt": 0.1, "reorder_ms": 10_000}
    runs = []
    for seed in (11, 11, 12):
        sink, proxy = await start(seed=seed, up=Faults(**faults))  # type: ignore[arg-type]
        await pour(proxy)
        await asyncio.sleep(0.05)
        runs.append((list(sink.heard), dict(proxy.up.counters)))
    assert runs[0] == runs[1] != runs[2]


async def test_one_fault_does_not_move_the_choices_of_another(start: Run) -> None:
    kept = []
    for duplicate in (0.0, 0.5):
        sink, proxy = await start(seed=21, up=Faults(loss=0.3, duplicate=duplicate))
        await pour(proxy)
        kept.append(set(await heard(sink, proxy)))
    assert kept[0] == kept[1]


async def test_a_dead_server_is_counted_and_survived(start: Run) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        nobody = sock.getsockname()
    proxy = UdpProxy(nobody)
    await proxy.start()
    await pour(proxy, 10)
    counters = proxy.up.counters["unsendable"], proxy.down.counters["refused"]
    assert sum(counters) > 0
    await proxy.close()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[tuple[Stream, Stream, TcpProxy]]]]:
    """Connect a client to a server through a proxy; everything is closed at the end."""
    accepted: asyncio.Queue[Stream] = asyncio.Queue()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.put_nowait((reader, writer)), "127.0.0.1", 0
    )
    proxies: list[TcpProxy] = []
    writers: list[asyncio.StreamWriter] = []

    async def connect(**options: object) -> tuple[Stream, Stream, TcpProxy]:
        port = server.sockets[0].getsockname()[1]
        proxy = TcpProxy(("127.0.0.1", port), **options)  # type: ignore[arg-type]
        proxies.append(proxy)
        await proxy.start()
        near = await asyncio.open_connection(*proxy.address)
        far = await asyncio.wait_for(accepted.get(), 30)
        writers.extend((near[1], far[1]))
        return near, far, proxy

    yield connect
    for proxy in proxies:
        await proxy.close()
    for writer in writers:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    server.close()


async def read(stream: Stream, size: int) -> bytes:
    return await asyncio.wait_for(stream[0].readexactly(size), 30)


async def test_tcp_carries_both_ways_and_half_closes(connect) -> None:
    near, far, _ = await connect()
    sent = bytes(range(256)) * 8000
    near[1].write(sent)
    near[1].write_eof()
    assert await asyncio.wait_for(far[0].read(), 30) == sent
    far[1].write(b"still open this way")
    assert await read(near, 19) == b"still open this way"
    far[1].close()
    assert await asyncio.wait_for(near[0].read(), 30) == b""


async def test_tcp_delay_keeps_the_order(connect) -> None:
    near, far, proxy = await connect(up=StreamFaults(delay_ms=80))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    near[1].write(b"one")
    await until(lambda: proxy.counters["in"] == 3)
    proxy.up.delay_ms = 0
    near[1].write(b"two")
    near[1].write_eof()
    assert await asyncio.wait_for(far[0].read(), 30) == b"onetwo"
    assert loop.time() - begin < 10


async def test_tcp_delay_delays(connect) -> None:
    near, far, _ = await connect(up=StreamFaults(delay_ms=80))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    near[1].write(b"late")
    await read(far, 4)
    assert loop.time() - begin >= 0.079


async def test_tcp_cut_is_an_orderly_end(connect) -> None:
    near, far, proxy = await connect()
    near[1].write(b"x")
    await read(far, 1)
    proxy.cut()
    assert await asyncio.wait_for(near[0].read(), 30) == b""
    assert await asyncio.wait_for(far[0].read(), 30) == b""


async def test_tcp_reset(connect) -> None:
    near, far, proxy = await connect()
    near[1].write(b"x")
    await read(far, 1)
    proxy.reset()
    for stream in (near, far):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(stream[0].read(), 30)


async def test_tcp_black_hole_stays_connected(connect) -> None:
    near, far, proxy = await connect(up=StreamFaults(black_hole=True))
    near[1].write(b"lost")
    await until(lambda: proxy.counters["black_hole"] == 4)
    far[1].write(b"heard")
    assert await read(near, 5) == b"heard"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(far[0].read(1), 0.05)


async def test_tcp_ends_after_the_same_number_of_bytes(connect) -> None:
    ends = []
    for seed in (5, 5, 6):
        faults = StreamFaults(end_after=(1, 100_000), reset=False)
        near, far, proxy = await connect(seed=seed, up=faults)
        near[1].write(b"z" * 100_000)
        ends.append(len(await asyncio.wait_for(far[0].read(), 30)))
        assert proxy.counters["ended"] == 1
    assert ends[0] == ends[1] != ends[2]


async def test_tcp_dead_server_refuses(unused_tcp_port: int) -> None:
    proxy = TcpProxy(("127.0.0.1", unused_tcp_port))
    await proxy.start()
    reader, writer = await asyncio.open_connection(*proxy.address)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 30)
    assert proxy.counters["refused"] == 1
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    await proxy.close()
