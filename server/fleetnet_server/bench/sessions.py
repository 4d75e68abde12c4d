"""Sessions that are idle, or send as fast as their server acknowledges."""

import select
import time
from collections.abc import Sequence

from fleetnet.ports import port
from fleetnet.ports.openssl_context import Context
from fleetnet_server.bench.errors import BenchError
from fleetnet_server.bench.links import LoadDevice, connect_all
from fleetnet_server.bench.socket_queue import SocketQueue

# A machine that needs longer is too busy to be measured.
_OPEN_S = 30
_DRAIN_S = 60

_TIMERS_S = 0.2
_IDLE_POLL_S = 0.002

# What a frame may carry in one datagram, and in one TLS record of a device.
_DTLS_FRAGMENT, _TLS_FRAGMENT = 1136, 4096

# The server's socket holds 416 KiB by default; 32 small datagrams are 24 KiB of it.
_POLITE_BYTES = 100_000
_VISITS_A_LOOK = 32


class Load:
    """Sessions of many devices with one server on this machine.

    Args:
        is_datagram: what ``add`` is given contexts of. number: the server's port.

    Attributes:
        most: messages that a visit sends: 1, a frame a write or datagram, or more: the window.
        devices: those that are connected.

    Raises:
        BenchError: the server closed a connection, or something took too long.
    """

    def __init__(self, is_datagram: bool, number: int, most: int = 1):
        self.most = most
        self.devices: list[LoadDevice] = []
        self._number = number
        self._fragment = _DTLS_FRAGMENT if is_datagram else _TLS_FRAGMENT
        self._by_number: dict[int, LoadDevice] = {}
        self._poller = select.epoll()
        self._timers_at = 0.0
        self._queue = SocketQueue(number) if is_datagram else None

    def add(self, contexts: Sequence[Context], payloads: Sequence[bytes]) -> None:
        """Open a session for each context, which sends the payload of its place."""
        links = connect_all(contexts, self._number)
        for link, payload in zip(links, payloads, strict=True):
            device = LoadDevice(link, payload, self._fragment)
            self.devices.append(device)
            self._by_number[link.sock.fileno()] = device
            self._poller.register(link.sock, select.EPOLLIN)
        self._open_all()

    def _open_all(self) -> None:
        deadline = time.monotonic() + _OPEN_S
        while not all(device.is_open for device in self.devices):
            if time.monotonic() > deadline:
                raise BenchError(f"sessions did not open within {_OPEN_S} s")
            self.serve(0.1)

    def serve(self, timeout_s: float) -> None:
        """Take what arrived for any device, and run the timers."""
        for number, _ in self._poller.poll(timeout_s):
            device = self._by_number[number]
            device.receive()
            if device.link.unsent:
                device.link.transmit()
        now = time.monotonic()
        if now >= self._timers_at:
            self._timers_at = now + _TIMERS_S
            for device in self.devices:
                device.handle_timer()

    def run(self, seconds: float) -> None:
        """Visit the devices round robin for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sent = 0
            for index, device in enumerate(self.devices):
                sent += device.visit(self.most)
                if index % _VISITS_A_LOOK == 0:
                    self._be_polite()
            self.serve(0 if sent else _IDLE_POLL_S)

    def _be_polite(self) -> None:
        """Take what arrived; go on once the server's socket has room."""
        self.serve(0)
        while self._queue is not None and self._queue.size() > _POLITE_BYTES:
            self.serve(0.001)

    def drain(self) -> None:
        """Wait until everything sent is acknowledged."""
        deadline = time.monotonic() + _DRAIN_S
        while any(device.acknowledged < device.sent for device in self.devices):
            if time.monotonic() > deadline:
                raise BenchError(f"not everything was acknowledged within {_DRAIN_S} s")
            for device in self.devices:
                if device.session.sender.in_flight or device.link.unsent:
                    continue
                device.flush()
            self.serve(0.02)

    def say_goodbye(self) -> None:
        """End every session, so that the server need not wait for them."""
        for device in self.devices:
            device.session.bye(port.ticks())
            device.flush()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and any(d.is_open for d in self.devices):
            self.serve(0.05)

    def sums(self) -> dict[str, int]:
        """Return {"sent", "acknowledged", "resent"} in messages, since the start."""
        return {
            "sent": sum(device.sent for device in self.devices),
            "acknowledged": sum(device.acknowledged for device in self.devices),
            "resent": sum(device.session.sender.resent for device in self.devices),
        }
