"""A DtlsAcceptor, its clients, and a wire between them that can lose and copy.

The acceptor's clock is ``now``, moved by hand. OpenSSL's retransmission timers run on the
real clock and cannot be moved: ``settle`` waits for them where a flight was lost.
"""

import time
from collections.abc import Callable

from fleetnet.errors import FleetError
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_dtls import DtlsAcceptor
from fleetnet.ports.openssl_dtls_state import Address, Association
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.identity.pki import Credential
from pki import Pki

HERE = ("192.0.2.7", 4000)


class World:
    """One acceptor and what it did.

    Attributes:
        sent: every datagram of the acceptor with its address; ``lose``: decides on each
            datagram (from_client, number of its sender's) whether it is lost.
    """

    def __init__(
        self,
        pki: Pki,
        max_handshakes: int = 100,
        timeout_s: float = 10.0,
        *,
        compact: bool = True,
        context: Context | None = None,
    ):
        self.pki = pki
        self.now = 1000.0
        self.sent: list[tuple[bytes, Address]] = []
        self.opened: list[Association] = []
        self.data: list[tuple[Address, bytes]] = []
        self.lost: list[tuple[Association, FleetError | None]] = []
        self.refused: list[tuple[Address, FleetError]] = []
        self.acceptor = DtlsAcceptor(
            context or server_context(*pki.server, pki.ca.certificate, datagram=True),
            lambda data, address: self.sent.append((data, address)),
            self.opened.append,
            lambda association, data: self.data.append((association.address, data)),
            lambda association, error: self.lost.append((association, error)),
            lambda address, error: self.refused.append((address, error)),
            max_handshakes=max_handshakes,
            handshake_timeout_s=timeout_s,
            compact=compact,
        )

    def client(
        self,
        credential: Credential | None = None,
        address: Address = HERE,
        context: Context | None = None,
    ) -> "Client":
        if context is None:
            credential = credential or self.pki.device
            context = client_context(self.pki.ca.certificate, *credential, datagram=True)
        return Client(self, context, address)

    def give(self, data: bytes, address: Address = HERE) -> list[bytes]:
        """Hand one datagram to the acceptor; return what it answers to that address."""
        before = len(self.sent)
        self.acceptor.receive(data, address, self.now)
        return [datagram for datagram, to in self.sent[before:] if to == address]

    def is_empty(self) -> bool:
        """Whether the acceptor holds no state of anybody."""
        acceptor = self.acceptor
        return not (acceptor.associations or acceptor.half_open or acceptor._tombstones)


class Client:
    """A device's end; its datagrams reach the acceptor from ``address``."""

    def __init__(self, world: World, context: Context, address: Address):
        self.world = world
        self.address = address
        self.ssl = SslObject(context, "localhost" if context.mode == "verified" else None)
        self.lose: Callable[[bool, int], bool] = lambda _from_client, _number: False
        self._counts = {True: 0, False: 0}
        self._back: list[bytes] = []

    def hello(self) -> bytes:
        """Return the first ClientHello, without cookie."""
        self.ssl.handshake()
        [datagram] = self.ssl.datagrams(1200)
        return datagram

    def hello_with_cookie(self) -> bytes:
        """Fetch a cookie and return the second ClientHello."""
        [request] = self.world.give(self.hello(), self.address)
        self.ssl.feed(request)
        self.ssl.handshake()
        [datagram] = self.ssl.datagrams(1200)
        return datagram

    def go(self) -> None:
        """Exchange datagrams until both are silent; raises what the client meets."""
        if not self.ssl.is_established:
            self.ssl.handshake()
        while True:
            moved = False
            for datagram in self.ssl.datagrams(1200):
                moved = True
                if not self._is_lost(True):
                    self._back += self.world.give(datagram, self.address)
            back, self._back = self._back, []
            for datagram in back:
                moved = True
                if not self._is_lost(False):
                    self.take(datagram)
            if not moved:
                return

    def take(self, datagram: bytes) -> None:
        self.ssl.feed(datagram)
        if not self.ssl.is_established:
            self.ssl.handshake()

    def settle(self, limit_s: float = 30.0) -> None:
        """Go on, and let both ends' timers repeat what was lost, until established."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            self.go()
            if self.ssl.is_established and self.address in self.world.acceptor.associations:
                return
            time.sleep(0.02)
            self.ssl.handle_timeout()
            before = len(self.world.sent)
            self.world.now += 0.02
            self.world.acceptor.handle_timer(self.world.now)
            self._back += [data for data, to in self.world.sent[before:] if to == self.address]
        raise AssertionError("the handshake did not end")

    def connect(self) -> Association:
        self.go()
        assert self.ssl.is_established
        return self.world.acceptor.associations[self.address]

    def say(self, data: bytes) -> list[bytes]:
        """Send one payload; return what the acceptor answers."""
        self.ssl.write(data)
        return self.world.give(self.ssl.output(), self.address)

    def _is_lost(self, from_client: bool) -> bool:
        number = self._counts[from_client]
        self._counts[from_client] = number + 1
        return self.lose(from_client, number)
