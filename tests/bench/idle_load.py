"""Holds idle sessions, which do nothing but keep alive; their numbers grow on demand.

    python idle_load.py LINK PORT DEVICES.JSONL [PINGS]

LINK: tls12, dtls, or mqtt (a broker: CONNECT over TLS, then PINGREQ). Each line N on standard
input opens sessions up to N of them; the answer {"open", "pings"} counts those that are open
and the keepalives so far. The keepalive of 60 s of devices that were opened in one second would
come in one second of each minute: each device's clock is set ahead by a part of the minute of
its own, once, so that they are spread as those of devices that began at different times.
"""

import heapq
import json
import os
import select
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from idle_costs import KEEPALIVE_MS, skew_ms
from mqtt_packets import CONNACK, PINGREQ, PINGRESP, connect
from OpenSSL import SSL

from fleetnet import events
from fleetnet.ports import port
from fleetnet.session import OPEN, Session
from fleetnet.ticks import ticks_add, ticks_diff
from fleetnet_server.bench.links import SecureSocket, connect_all
from fleetnet_server.sim.bundles import read_bundles
from fleetnet_server.sim.contexts import SharingCredentials

_AT_ONCE = 50
_PATIENCE_S = 60


class IdleSession:
    """A device of ours: the Session, pinging as it does by itself."""

    def __init__(self, link: SecureSocket, name: str, index: int):
        self.link = link
        self.pings = 0
        self.is_open = False
        self._ahead_ms = 0
        self._skew_ms = skew_ms(index)
        self._session = Session(os.urandom)
        self._session.open_link(port.ticks(), link.datagram)
        self._flush()

    def _now(self) -> int:
        return ticks_add(port.ticks(), self._ahead_ms)

    def _flush(self) -> None:
        while chunks := self._session.data_to_send(self._now()):
            for chunk in chunks:
                self.link.ssl.write(chunk)
        self.link.transmit()

    def receive(self) -> None:
        """Take what arrived. Raises RuntimeError when the server ends the session."""
        alive = self.link.feed()
        while data := self.link.ssl.read():
            self._session.receive_data(data, self._now())
        for event in self._session.take_events():
            if isinstance(event, events.Opened):
                self.is_open = True
            elif isinstance(event, events.Closed | events.Refused):
                raise RuntimeError(f"the server ended an idle session: {event.ending}")
        if not alive:
            raise RuntimeError("the server closed the connection of an idle session")
        self._flush()

    def settle(self) -> None:
        """The session is open, and nothing is under way: set the clock ahead."""
        self._ahead_ms = self._skew_ms

    def next_s(self) -> float:
        """Return the seconds until handle_timer."""
        due = self._session.next_timer()
        return 1.0 if due is None else max(0, ticks_diff(due, self._now())) / 1000

    def greet_again(self) -> None:
        """HELLO once more, when it may be lost."""
        self._session.handle_timer(self._now())
        self._flush()

    def handle_timer(self) -> None:
        """Ping, when it is time."""
        if self._session.state != OPEN:
            raise RuntimeError("an idle session is not open any more")
        self._session.handle_timer(self._now())
        chunks = self._session.data_to_send(self._now())
        self.pings += len(chunks)
        for chunk in chunks:
            self.link.ssl.write(chunk)
        self.link.transmit()


class IdlePublisher:
    """A device of the peer: MQTT 3.1.1, PINGREQ each keepalive (section 3.12)."""

    def __init__(self, link: SecureSocket, name: str, index: int):
        self.link = link
        self.pings = 0
        self.is_open = False
        self._due = time.monotonic() + (KEEPALIVE_MS - skew_ms(index)) / 1000
        link.ssl.write(connect(name))
        link.transmit()

    def receive(self) -> None:
        """Take what arrived. Raises RuntimeError for anything but CONNACK and PINGRESP."""
        if not self.link.feed():
            raise RuntimeError("the broker closed an idle connection")
        while data := self.link.ssl.read():
            if data[0] not in (CONNACK, PINGRESP):
                raise RuntimeError(f"the broker said {data.hex()}")
            self.is_open = True

    def greet_again(self) -> None:
        """Nothing to do: TCP does it."""

    def settle(self) -> None:
        """Nothing to do: the first ping's time is set."""

    def next_s(self) -> float:
        """Return the seconds until handle_timer."""
        return max(0.0, self._due - time.monotonic())

    def handle_timer(self) -> None:
        """Ping, when it is time."""
        if time.monotonic() >= self._due:
            self.pings += 1
            self._due += KEEPALIVE_MS / 1000
            self.link.ssl.write(PINGREQ)
            self.link.transmit()


class IdleLoad:
    """All of them, in one epoll loop and one heap of timers."""

    def __init__(self, link: str, number: int, path: Path):
        self.devices: list[IdleSession | IdlePublisher] = []
        self._make: Any = IdlePublisher if link == "mqtt" else IdleSession
        self._datagram = link == "dtls"
        self._number = number
        self._bundles = read_bundles(path)
        self._by_descriptor: dict[int, IdleSession | IdlePublisher] = {}
        self._timers: list[tuple[float, int]] = []
        self._poller = select.epoll()
        self._poller.register(sys.stdin, select.EPOLLIN)

    def open_to(self, count: int) -> None:
        """Open sessions up to ``count``, a few at a time."""
        while len(self.devices) < count:
            group = list(islice(self._bundles, min(_AT_ONCE, count - len(self.devices))))
            contexts = [self._context(bundle) for bundle in group]
            links = connect_all(contexts, self._number)
            fresh = []
            for bundle, link in zip(group, links, strict=True):
                device = self._make(link, bundle["name"], len(self.devices))
                self._by_descriptor[link.sock.fileno()] = device
                self._poller.register(link.sock, select.EPOLLIN)
                self.devices.append(device)
                fresh.append(device)
            self._wait(fresh)
            for device in fresh:
                device.settle()
                self._schedule(self.devices.index(device, len(self.devices) - len(fresh)))

    def _context(self, bundle: dict[str, Any]) -> Any:
        address = {"host": "localhost", "tls_port": self._number, "dtls_port": self._number}
        context = SharingCredentials({**address, **bundle}).context(self._datagram, False)
        native = context.native
        # As boards do: one P-256 key share, TLS 1.2.
        Binding.lib.SSL_CTX_set1_curves_list(native._context, b"P-256")
        if not self._datagram:
            native.set_max_proto_version(SSL.TLS1_2_VERSION)
        return context

    def _wait(self, devices: list[Any]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not all(device.is_open for device in devices):
            if time.monotonic() > deadline:
                raise RuntimeError(f"sessions did not open within {_PATIENCE_S} s")
            self.serve(0.1)
            for device in devices:
                if not device.is_open:
                    device.greet_again()

    def _schedule(self, index: int) -> None:
        due = time.monotonic() + self.devices[index].next_s()
        heapq.heappush(self._timers, (due, index))

    def serve(self, timeout_s: float) -> bool:
        """Take what arrived, and run timers; True when standard input has something."""
        told = False
        if self._timers:
            timeout_s = min(timeout_s, max(0.0, self._timers[0][0] - time.monotonic()))
        for descriptor, _ in self._poller.poll(timeout_s):
            if descriptor == sys.stdin.fileno():
                told = True
            else:
                self._by_descriptor[descriptor].receive()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            index = heapq.heappop(self._timers)[1]
            self.devices[index].handle_timer()
            self._schedule(index)
        return told


def main(arguments: list[str]) -> None:
    link, number, path = arguments
    load = IdleLoad(link, int(number), Path(path))
    while True:
        while not load.serve(1.0):
            pass
        line = sys.stdin.readline()
        if not line:
            return
        load.open_to(int(line))
        pings = sum(device.pings for device in load.devices)
        print(json.dumps({"open": len(load.devices), "pings": pings}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
