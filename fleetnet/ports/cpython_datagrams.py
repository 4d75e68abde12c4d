"""A DTLS association on a connected UDP socket, for asyncio on CPython."""

import asyncio
import contextlib
import socket
import time

from fleetnet.errors import FleetError, HandshakeTimeout, LinkClosed, Unreachable, Unsupported
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_object import SslObject

_DATAGRAM_BYTES = 2048


class Datagrams:
    """A DTLS association with one server. send() and recv() never block."""

    max_payload = DATAGRAM_PAYLOAD

    def __init__(
        self, sock: socket.socket, context: Context, server_hostname: str | None, what: str
    ):
        self.verified = context.verified
        self._sock: socket.socket | None = sock
        self._what = what
        self._ssl = SslObject(context, server_hostname, what)
        self._has_begun = False
        self._ready: asyncio.Future[None] | None = None

    def send(self, data: bytes) -> bool:
        """Send one datagram; False when the socket has no room now.

        Raises:
            ValueError: above max_payload. LinkClosed and its kin: the association is over.
        """
        if len(data) > self.max_payload:
            raise ValueError(f"datagram of {len(data)} B, limit {self.max_payload} B")
        if self._sock is None:
            raise LinkClosed(f"{self._what}: association is closed")
        self._ssl.write(data)
        return self._transmit()

    def _transmit(self) -> bool:
        assert self._sock is not None
        sent = True
        for datagram in self._ssl.datagrams():
            try:
                self._sock.send(datagram)
            except (BlockingIOError, InterruptedError):
                sent = False
            except ConnectionRefusedError:
                raise self._broken(_nobody(self._what)) from None
            except OSError as error:
                raise self._broken(LinkClosed(f"{self._what}: {error}")) from error
        return sent

    def recv(self) -> bytes | None:
        """Return one datagram's payload, or None when there is none now."""
        while True:
            if self._sock is None:
                raise LinkClosed(f"{self._what}: association is closed")
            try:
                payload = self._ssl.read()
                if payload is None:
                    if not self._fetch():
                        return None
                    continue
            except FleetError as error:
                raise self._broken(error) from None
            if not payload:
                raise self._broken(LinkClosed(f"{self._what} closed the association"))
            return payload

    def _fetch(self) -> bool:
        """Take one datagram from the socket; False when there is none."""
        assert self._sock is not None
        try:
            datagram = self._sock.recv(_DATAGRAM_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionRefusedError:
            raise _nobody(self._what) from None
        except OSError as error:
            raise LinkClosed(f"{self._what}: {error}") from error
        self._ssl.feed(datagram)
        return True

    async def receive(self, timeout_ms: int | None = None) -> bytes | None:
        """Wait for one datagram; None after ``timeout_ms``."""
        deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while True:
            data = self.recv()
            if data is not None:
                return data
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            await self._readable(left)

    async def _readable(self, timeout_s: float | None) -> None:
        """Wait until the socket has something, or ``timeout_s`` has passed."""
        if self._sock is None:
            raise LinkClosed(f"{self._what}: association is closed")
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._ready = ready
        number = self._sock.fileno()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(number, wake)
        timer = loop.call_later(timeout_s, wake) if timeout_s is not None else None
        try:
            await ready
        finally:
            if timer is not None:
                timer.cancel()
            # close() did it otherwise, before the number could belong to another file.
            if self._ready is ready:
                self._ready = None
                loop.remove_reader(number)

    def advance(self) -> bool:
        """Go on with the handshake as far as it goes now; True: it is complete.

        To be called when something has arrived, and when ``timeout`` is over: lost flights
        are repeated in here, by OpenSSL's timer.

        Raises:
            TrustError family, Rejected, LinkClosed, Unreachable: it failed.
        """
        ssl = self._ssl
        if not self._has_begun:
            self._has_begun = True
            ssl.handshake()
            self._transmit()
        while not ssl.is_established and self._fetch():
            try:
                ssl.handshake()
            finally:
                self._transmit()  # the next flight, or our alert
        if not ssl.is_established:
            ssl.handle_timeout()
            self._transmit()
        return ssl.is_established

    def timeout(self) -> float | None:
        """Return seconds until ``advance`` has something to repeat; None: nothing."""
        wait_s = self._ssl.timeout()
        return None if wait_s is None else wait_s + 0.001

    async def handshake(self, timeout_ms: int) -> None:
        """Complete the handshake. Raises HandshakeTimeout, and as ``advance``."""
        deadline = time.monotonic() + timeout_ms / 1000
        while not self.advance():
            left = deadline - time.monotonic()
            if left <= 0:
                raise HandshakeTimeout(f"{self._what}: no DTLS handshake in time")
            wait_s = self.timeout()
            await self._readable(left if wait_s is None else min(left, wait_s))

    @property
    def psk_identity(self) -> bytes | None:
        """By which this side named itself in a handshake with a pre-shared key, or None."""
        return self._ssl.psk_identity

    def _broken(self, error: FleetError) -> FleetError:
        self.close()
        return error

    def cipher(self) -> tuple[str, str]:
        """Return (name, version) of the association."""
        return self._ssl.cipher()

    def peer_certificate(self) -> bytes | None:
        """Return the server's certificate as DER."""
        return self._ssl.peer_certificate()

    def close(self) -> None:
        """Send close_notify and close the socket; harmless when repeated."""
        sock = self._sock
        if sock is None:
            return
        self._sock = None
        self._ssl.close_notify()
        with contextlib.suppress(OSError):  # the peer is gone; there is nobody left to tell
            for datagram in self._ssl.datagrams():
                sock.send(datagram)
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.get_loop().remove_reader(sock.fileno())
            if not ready.done():
                ready.set_result(None)  # receive() finds out that it is over
        sock.close()


async def open_datagram(
    host: str,
    port: int,
    context: Context,
    server_hostname: str | None = None,
    timeout_ms: int = 10_000,
) -> Datagrams:
    """Open a DTLS association; the handshake never blocks the loop.

    Raises:
        Unreachable, HandshakeTimeout, the TrustError family, Rejected.
    """
    if not context.datagram:
        raise Unsupported("a DTLS association needs a context made with datagram=True")
    loop = asyncio.get_running_loop()
    what = f"{host}:{port}"
    try:
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"cannot resolve {host} ({error})") from error
    sock = socket.socket(infos[0][0], socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect(infos[0][4])
    except OSError as error:
        sock.close()
        raise Unreachable(f"{what} cannot be reached: {error}") from error
    try:
        datagrams = Datagrams(sock, context, server_hostname or host, what)
    except FleetError:
        sock.close()
        raise
    try:
        await datagrams.handshake(timeout_ms)
    except BaseException:
        datagrams.close()
        raise
    return datagrams


def _nobody(what: str) -> Unreachable:
    return Unreachable(f"{what}: nobody listens there: is the server running?")
