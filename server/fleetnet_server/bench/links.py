"""Devices of a load generator: the real Session over the real engine, on bare sockets.

asyncio would cost the load more than the protocol does; an epoll loop over non-blocking
sockets leaves the load's core to the sessions.
"""

import os
import select
import socket
import time
from collections.abc import Callable, Sequence

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from fleetnet import errors, events
from fleetnet.frame import READINGS, TELEMETRY
from fleetnet.ports import port
from fleetnet.ports.openssl_context import Context, client_context
from fleetnet.ports.openssl_credentials import Source
from fleetnet.ports.openssl_object import SslObject
from fleetnet.reasons import reason_text
from fleetnet.session import CLOSING, OPEN, OVER, Session
from fleetnet_server.bench.errors import BenchError

_BYTES = 65536
_RETRANSMIT_S = 1.0

# A machine that needs longer for fifty handshakes is too busy to be measured.
_PATIENCE_S = 30


def device_context(ca: Source, certificate: Source, key: Source, link: str) -> Context:
    """Return the context of a device; ``link``: tls, tls12, dtls."""
    context = client_context(ca, certificate, key, datagram=link == "dtls")
    if link == "tls12":
        context.limit_version(SSL.TLS1_2_VERSION)
    # As boards do: one P-256 key share. Newer OpenSSL would offer a hybrid first, which other
    # servers do not know.
    Binding.lib.SSL_CTX_set1_curves_list(context.native._context, b"P-256")
    return context


class SecureSocket:
    """A connected non-blocking socket with a TLS or DTLS client on it."""

    def __init__(self, context: Context, host: str, number: int):
        kind = socket.SOCK_DGRAM if context.datagram else socket.SOCK_STREAM
        self.sock = socket.socket(socket.AF_INET, kind)
        self.sock.connect((host, number))
        if not context.datagram:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.datagram = context.datagram
        self.ssl = SslObject(context, "localhost")
        self.unsent = b""

    def handshake(self) -> bool:
        """Take what arrived and go on; True when complete."""
        self.feed()
        done = self.ssl.handshake()
        self.transmit()
        return done

    def feed(self) -> bool:
        """Give what the socket has to the engine; False at the end of the stream."""
        try:
            data = self.sock.recv(_BYTES)
        except BlockingIOError:
            return True
        if not data and not self.datagram:
            return False
        self.ssl.feed(data)
        return True

    def transmit(self) -> None:
        """Send what the engine has; what a stream does not take waits in ``unsent``."""
        if self.datagram:
            for datagram in self.ssl.datagrams():
                try:
                    self.sock.send(datagram)
                except (BlockingIOError, ConnectionRefusedError):
                    return  # lost, as on the wire
            return
        data = self.unsent + self.ssl.output()
        if data:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            self.unsent = data[sent:]

    def close(self) -> None:
        """Close the socket, and free what OpenSSL holds."""
        self.sock.close()
        self.ssl.free()


class LoadDevice:
    """One device: a Session, and messages of one body as fast as its window opens."""

    def __init__(self, link: SecureSocket, payload: bytes, fragment: int):
        self.link = link
        self.payload = payload
        self.session = Session(os.urandom, fragment_payload=fragment)
        self.sent = 0
        self.acknowledged = 0
        self.is_open = False
        self.session.open_link(port.ticks(), link.datagram)
        self.flush()

    def receive(self) -> None:
        """Take what arrived."""
        if not self.link.feed():
            if self.session.state in (CLOSING, OVER):
                return
            raise BenchError("the server closed the connection")
        now = port.ticks()
        while data := self.link.ssl.read():
            self.session.receive_data(data, now)
        for event in self.session.take_events():
            if isinstance(event, events.Delivered):
                self.acknowledged = event.seq
            elif isinstance(event, events.Opened):
                self.is_open = True
            elif isinstance(event, events.Closed) and event.ending.reason == errors.NORMAL:
                self.is_open = False
            elif isinstance(event, events.Closed | events.Refused):
                raise BenchError(f"session over: {reason_text(event.ending.reason)}")

    def visit(self, most: int) -> int:
        """Send at most ``most`` messages in one go; return how many the window took."""
        session = self.session
        if session.state != OPEN or self.link.unsent:
            return 0
        count = 0
        while count < most and session.has_room(TELEMETRY, len(self.payload)):
            self.sent = session.send(TELEMETRY, READINGS, self.payload)
            count += 1
        if count:
            self.flush()
        return count

    def flush(self) -> None:
        """Send what the session wants to send."""
        now = port.ticks()
        write = self.link.ssl.write
        while chunks := self.session.data_to_send(now):
            for chunk in chunks:
                write(chunk)
        self.link.transmit()

    def handle_timer(self) -> None:
        """Retransmit and keep alive."""
        self.session.handle_timer(port.ticks())
        self.flush()


def connect_all(contexts: Sequence[Context], number: int, at_once: int = 50) -> list[SecureSocket]:
    """Connect one socket a context, ``at_once`` handshakes under way at a time."""
    done: list[SecureSocket] = []
    for start in range(0, len(contexts), at_once):
        group = [SecureSocket(c, "127.0.0.1", number) for c in contexts[start : start + at_once]]
        _drive(group, lambda link: link.handshake(), "handshakes")
        done += group
    return done


def _drive(links: list[SecureSocket], step: Callable[[SecureSocket], bool], what: str) -> None:
    """Call ``step`` of each link, when something arrives for it, until it is True for all."""
    poller = select.epoll()
    waiting = {link.sock.fileno(): link for link in links}
    for number in waiting:
        poller.register(number, select.EPOLLIN)
    waiting = {number: link for number, link in waiting.items() if not step(link)}
    deadline = time.monotonic() + _PATIENCE_S
    while waiting:
        if time.monotonic() > deadline:
            count = f"{len(waiting)} of {len(links)}"
            raise BenchError(f"{what}: {count} not done after {_PATIENCE_S} s")
        ready = poller.poll(_RETRANSMIT_S)
        if not ready:
            for link in waiting.values():
                if link.datagram:
                    link.ssl.handle_timeout()
                    link.transmit()
        for number, _ in ready:
            if number in waiting and step(waiting[number]):
                del waiting[number]
    poller.close()
