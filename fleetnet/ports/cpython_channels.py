"""What a SecureSocket stands on: TLS on a TCP socket, and the server's end of DTLS.

The client's end of DTLS is cpython_datagrams.Datagrams. All of them have the same calls, and
none of these waits: ``advance`` (the handshake), ``recv``, ``timeout``, ``close``.
"""

import collections
import contextlib
import socket
import time

from fleetnet.errors import FleetError, LinkClosed, Unsupported
from fleetnet.ports.openssl_compact import Session
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_dtls import DtlsAcceptor
from fleetnet.ports.openssl_dtls_state import Address, Association
from fleetnet.ports.openssl_object import SslObject

_READ_BYTES = 16_384
_DATAGRAM_BYTES = 2048
_MAX_WAITING = 64

# The socket's owner has a deadline of its own; this one only bounds what is kept.
_HANDSHAKE_S = 120.0


class StreamChannel:
    """TLS over a TCP socket that does not block."""

    def __init__(
        self, sock: socket.socket, context: Context, server_hostname: str | None, what: str
    ):
        self._ssl = SslObject(context, server_hostname, what)
        self._sock: socket.socket | None = sock
        self._what = what
        self._unsent = b""

    @property
    def verified(self) -> bool:
        """Whether the peer is authenticated."""
        return self._ssl.verified

    @property
    def psk_identity(self) -> bytes | None:
        """See SslObject."""
        return self._ssl.psk_identity

    def advance(self) -> bool:
        """Go on with the handshake as far as it goes now; True: it is complete."""
        ssl = self._ssl
        while not ssl.is_established:
            try:
                ssl.handshake()
            finally:
                self.flush()  # the next flight, or our alert
            if not ssl.is_established:
                data = self._fetch()
                if data is None:
                    return False
                if not data:
                    raise LinkClosed(f"{self._what} closed the connection during the handshake")
        return True

    def timeout(self) -> float | None:
        """TCP repeats by itself."""
        return None

    def _open(self) -> socket.socket:
        if self._sock is None:
            raise LinkClosed(f"{self._what}: connection is closed")
        return self._sock

    def _fetch(self) -> bytes | None:
        """Feed what has arrived; None: nothing, b"": end of file."""
        try:
            data = self._open().recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise LinkClosed(f"{self._what}: connection broke ({error})") from error
        self._ssl.feed(data)
        return data

    def flush(self) -> bool:
        """Send what waits; True when nothing is left."""
        self._unsent += self._ssl.output()
        try:
            while self._unsent:
                self._unsent = self._unsent[self._open().send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # What the peer said last, an alert perhaps, can still be read.
            if not self._ssl.is_established:
                return False
            raise LinkClosed(f"{self._what}: connection broke ({error})") from error
        return True

    def write(self, data: bytes) -> int | None:
        """Take up to one record of ``data``; None: there is no room for any."""
        if not self.flush():
            return None
        piece = bytes(data[:_READ_BYTES])
        self._ssl.write(piece)
        self.flush()
        return len(piece)

    def recv(self) -> bytes | None:
        """Return what one record held; b"": the end, None: nothing now."""
        self._open()
        while True:
            data = self._ssl.read()
            if data is not None:
                return data
            self.flush()  # the answer to a key update
            # An end without close_notify is the normal end of MicroPython's streams.
            fetched = self._fetch()
            if not fetched:
                return fetched

    def cipher(self) -> tuple[str, str]:
        """Return (name, version)."""
        return self._ssl.cipher()

    def peer_certificate(self) -> bytes | None:
        """Return the peer's certificate as DER, or None."""
        return self._ssl.peer_certificate()

    def close(self, linger_s: float = 0) -> None:
        """Say close_notify, half-close, discard input for ``linger_s`` at most, close.

        Input that nobody has read makes TCP send a reset, which overtakes an alert.
        """
        sock = self._sock
        if sock is None:
            return
        with contextlib.suppress(OSError, FleetError):
            self._ssl.close_notify()
            self.flush()
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(linger_s)
            end = time.monotonic() + linger_s
            while sock.recv(_READ_BYTES) and time.monotonic() < end:
                pass
        self._sock = None
        sock.close()


class ServerDatagrams:
    """DTLS with the one client that a UDP socket is connected to, cookie included."""

    def __init__(self, sock: socket.socket, context: Context, what: str):
        try:
            self._address: Address = sock.getpeername()
        except OSError:
            raise Unsupported(
                "a DTLS server socket has one client: sock.connect(its address) first, or use "
                "serve_dtls"
            ) from None
        self._sock: socket.socket | None = sock
        self._what = what
        self._acceptor = DtlsAcceptor(
            context,
            self._transmit,
            self._opened,
            self._arrived,
            self._lost,
            self._refused,
            max_handshakes=1,
            handshake_timeout_s=_HANDSHAKE_S,
        )
        self._association: Association | None = None
        self._waiting: collections.deque[bytes] = collections.deque()
        self._error: FleetError | None = None

    # -- the acceptor's calls ------------------------------------------------------------

    def _transmit(self, datagram: bytes, _address: Address) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # lost, as on the wire
                self._sock.send(datagram)

    def _opened(self, association: Association) -> None:
        self._association = association
        # One association a socket: who begins anew must not take it over unseen.
        self._acceptor.is_accepting = False

    def _arrived(self, _association: Association, payload: bytes) -> None:
        if not payload:
            self._error = LinkClosed(f"{self._what} closed the association")
        elif len(self._waiting) < _MAX_WAITING:
            self._waiting.append(payload)

    def _lost(self, _association: Association, error: FleetError | None) -> None:
        self._error = error or LinkClosed(f"{self._what}: association has ended")

    def _refused(self, _address: Address, error: FleetError) -> None:
        self._error = error

    # -- the channel ---------------------------------------------------------------------

    @property
    def verified(self) -> bool:
        """Whether the client is authenticated."""
        return self._ssl().verified

    @property
    def psk_identity(self) -> bytes | None:
        """See SslObject."""
        return self._ssl().psk_identity

    def _ssl(self) -> SslObject | Session:
        if self._association is None or self._sock is None:
            raise LinkClosed(f"{self._what}: no association")
        return self._association.ssl

    def _take(self) -> None:
        """Hand over what has arrived, and run the timers."""
        while self._sock is not None and len(self._waiting) < _MAX_WAITING:
            try:
                datagram = self._sock.recv(_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                raise LinkClosed(f"{self._what}: {error}") from error
            self._acceptor.receive(datagram, self._address, time.monotonic())
        self._acceptor.handle_timer(time.monotonic())

    def advance(self) -> bool:
        """Go on with the handshake as far as it goes now; True: it is complete."""
        if self._association is None:
            self._take()
            if self._error is not None:
                raise self._error
        return self._association is not None

    def timeout(self) -> float | None:
        """Return seconds until ``advance`` has something to repeat; None: nothing."""
        due = self._acceptor.next_timer()
        return None if due is None else max(0.0, due - time.monotonic())

    def send(self, data: bytes) -> bool:
        """Send one datagram; lost when the socket has no room."""
        self._ssl()
        assert self._association is not None
        self._acceptor.send(self._association, data)
        return True

    def recv(self) -> bytes | None:
        """Return one datagram's payload; None: nothing now."""
        if not self._waiting:
            self._ssl()
            self._take()
        if self._waiting:
            return self._waiting.popleft()
        if self._error is not None:
            raise self._error
        return None

    def cipher(self) -> tuple[str, str]:
        """Return (name, version)."""
        return self._ssl().cipher()

    def peer_certificate(self) -> bytes | None:
        """Return the client's certificate as DER, or None."""
        return self._ssl().peer_certificate()

    def close(self) -> None:
        """Send close_notify and close the socket; harmless when repeated."""
        sock = self._sock
        if sock is None:
            return
        if self._association is not None:
            self._acceptor.close(self._association)
        self._sock = None
        sock.close()
