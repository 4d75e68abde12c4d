"""A bad datagram network for tests on real sockets: loses, doubles, swaps, holds and damages.
(Its fellow for TCP is bad_streams.)

    proxy = UdpProxy(("127.0.0.1", port), seed=7, up=Faults(loss=0.3, duplicate=0.2))
    await proxy.start()             # then let the device connect to proxy.address
    proxy.rebind()                  # the NAT forgot: the server sees a new source port
    await proxy.close()

``up`` is the way from the device to the server, ``down`` the way back. What happens to the n-th
datagram of a direction depends on the seed, the direction and n alone: every datagram draws the
same number of times, so that one fault's rate does not move the others' choices, and two runs
with the same traffic meet the same faults. Times are real (event loop), never slept through.
"""

import asyncio
import errno
import random
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

Address = tuple[str, int]
DATAGRAM = 65_535


@dataclass
class Faults:
    """What one direction does to datagrams; probabilities 0..1, times in milliseconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0  # held back until the next datagram has passed, or reorder_ms
    reorder_ms: float = 50.0
    corrupt: float = 0.0  # one bit is turned over
    delay_ms: float = 0.0
    jitter_ms: float = 0.0  # added to delay_ms, uniform 0..jitter_ms
    black_hole: bool = False  # swallows everything while true


@dataclass(frozen=True)
class Fate:
    """What was drawn for one datagram."""

    lost: bool
    doubled: bool
    swapped: bool
    flip_bit: int | None
    delay_s: float


class Dice:
    """The seeded choices of one direction."""

    def __init__(self, seed: int, direction: str) -> None:
        self._random = random.Random(f"{seed}/{direction}")

    def throw(self, faults: Faults, size: int) -> Fate:
        """Draw the fate of the next datagram, always with the same number of draws."""
        lost, doubled, swapped, damaged, where, wait = (self._random.random() for _ in range(6))
        flip = int(where * size * 8) if damaged < faults.corrupt and size else None
        return Fate(
            lost < faults.loss,
            doubled < faults.duplicate,
            swapped < faults.reorder,
            flip,
            (faults.delay_ms + wait * faults.jitter_ms) / 1000,
        )


class Send(Protocol):
    def __call__(self, data: bytes) -> None: ...


def flipped(data: bytes, bit: int) -> bytes:
    """The same bytes with one bit turned over."""
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


class DatagramWay:
    """One direction: applies faults to each datagram and hands it on, now or later."""

    def __init__(self, seed: int, direction: str, faults: Faults) -> None:
        self.faults = faults
        self.counters: Counter[str] = Counter()
        self._dice = Dice(seed, direction)
        self._held: list[tuple[bytes, Send, asyncio.TimerHandle]] = []
        self._timers: set[asyncio.TimerHandle] = set()

    def carry(self, data: bytes, send: Send) -> None:
        """Take one datagram; ``send`` is called zero, one or two times with what comes out."""
        fate = self._dice.throw(self.faults, len(data))
        self.counters["in"] += 1
        if self.faults.black_hole:
            self.counters["black_hole"] += 1
            return
        if fate.lost:
            self.counters["lost"] += 1
            return
        if fate.flip_bit is not None:
            self.counters["corrupted"] += 1
            data = flipped(data, fate.flip_bit)
        if fate.swapped:
            self.counters["reordered"] += 1
            self._hold(data, send)
        else:
            self._later(fate.delay_s, data, send)
            self._release()
        if fate.doubled:
            self.counters["duplicated"] += 1
            self._later(fate.delay_s, data, send)

    def close(self) -> None:
        """Drop everything that is still on the way."""
        for _, _, timer in self._held:
            timer.cancel()
        for timer in self._timers:
            timer.cancel()
        self._held.clear()
        self._timers.clear()

    def _hold(self, data: bytes, send: Send) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.faults.reorder_ms / 1000, self._release)
        self._held.append((data, send, timer))

    def _release(self) -> None:
        """Let go what was held back: behind the datagram that has just been carried."""
        held, self._held = self._held, []
        for data, send, timer in held:
            timer.cancel()
            self._later(self.faults.delay_ms / 1000, data, send)

    def _later(self, delay_s: float, data: bytes, send: Send) -> None:
        if delay_s <= 0:
            self._now(data, send)
            return
        loop = asyncio.get_running_loop()

        def arrive() -> None:
            self._timers.discard(timer)
            self._now(data, send)

        timer = loop.call_later(delay_s, arrive)
        self._timers.add(timer)

    def _now(self, data: bytes, send: Send) -> None:
        self.counters["out"] += 1
        try:
            send(data)
        except OSError:  # nobody there, or no room: a datagram network drops
            self.counters["unsendable"] += 1


def udp_socket(bind: Address | None = None) -> socket.socket:
    """A non-blocking UDP socket with room for bursts."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    if bind:
        sock.bind(bind)
    return sock


@dataclass
class Flow:
    """The NAT entry of one client: its address and the socket that stands for it."""

    client: Address
    sock: socket.socket = field(default_factory=udp_socket)


class UdpProxy:
    """Stands before one UDP server; each client gets a source port of its own, as by a NAT."""

    def __init__(
        self,
        server: Address,
        seed: int = 0,
        up: Faults | None = None,
        down: Faults | None = None,
    ) -> None:
        self.server = server
        self.up = DatagramWay(seed, "up", up or Faults())
        self.down = DatagramWay(seed, "down", down or Faults())
        self.rebinds = 0
        self._flows: dict[Address, Flow] = {}
        self._front: socket.socket | None = None

    async def start(self) -> None:
        """Listen on a free port of the loopback interface."""
        self._front = udp_socket(("127.0.0.1", 0))
        asyncio.get_running_loop().add_reader(self._front, self._from_clients)

    @property
    def address(self) -> Address:
        """Where clients connect to. RuntimeError before start()."""
        if self._front is None:
            raise RuntimeError("the proxy was not started")
        host, port = self._front.getsockname()
        return host, port

    def rebind(self) -> None:
        """Forget every flow: the next datagram of a client leaves from another port, and what
        the server still sends to the old one is lost."""
        flows, self._flows = self._flows, {}
        # The new sockets are made before the old are closed, else the system may give the same
        # port again and nothing would have changed.
        for client in flows:
            self._flows[client] = self._new_flow(client)
        for flow in flows.values():
            self._end(flow)
        self.rebinds += 1

    async def close(self) -> None:
        """Stop; datagrams still on the way are dropped."""
        self.up.close()
        self.down.close()
        for flow in self._flows.values():
            self._end(flow)
        self._flows.clear()
        if self._front is not None:
            asyncio.get_running_loop().remove_reader(self._front)
            self._front.close()
            self._front = None

    def _new_flow(self, client: Address) -> Flow:
        flow = Flow(client)
        flow.sock.connect(self.server)
        asyncio.get_running_loop().add_reader(flow.sock, self._from_server, flow)
        return flow

    def _end(self, flow: Flow) -> None:
        asyncio.get_running_loop().remove_reader(flow.sock)
        flow.sock.close()

    def _from_clients(self) -> None:
        front = self._front
        while front is not None:
            try:
                data, client = front.recvfrom(DATAGRAM)
            except OSError:
                return
            if client not in self._flows:
                self._flows[client] = self._new_flow(client)
            self.up.carry(data, lambda data, client=client: self._to_server(client, data))

    def _to_server(self, client: Address, data: bytes) -> None:
        flow = self._flows.get(client)
        if flow is not None:
            flow.sock.send(data)

    def _from_server(self, flow: Flow) -> None:
        while True:
            try:
                data = flow.sock.recv(DATAGRAM)
            except OSError as error:
                # ECONNREFUSED reports an earlier send; what waits behind it is still to be read.
                if error.errno == errno.ECONNREFUSED:
                    self.down.counters["refused"] += 1
                    continue
                return
            self.down.carry(data, lambda data: self._to_client(flow.client, data))

    def _to_client(self, client: Address, data: bytes) -> None:
        if self._front is not None:
            self._front.sendto(data, client)
