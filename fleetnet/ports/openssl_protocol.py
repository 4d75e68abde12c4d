"""TLS on a plain asyncio transport, with memory buffers between.

asyncio's own TLS transport drops the alert of a failed handshake and keeps 256 KiB a
connection; this one sends the alert, half-closes and discards what still comes, because
closing at once makes TCP's reset overtake the alert. Used by the CPython streams and by
the server's listener.
"""

import asyncio
import contextlib
from typing import cast

from fleetnet.errors import FleetError, HandshakeTimeout, LinkClosed
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_object import SslObject

LINGER_S = 1.0

# OpenSSL's memory buffers keep their largest size for the life of the connection; asyncio
# hands over up to 256 KiB at once.
_SLICE = 16384

# Type, version and length (RFC 8446 section 5.1).
_RECORD_HEAD = 5


class SecureProtocol(asyncio.Protocol):
    """One TLS connection; subclasses fill in the ``on_`` methods.

    ``context`` None: plain TCP, established as soon as it is connected.
    """

    def __init__(
        self,
        context: Context | None,
        server_hostname: str | None = None,
        handshake_timeout_s: float = 10.0,
    ):
        self._context = context
        self._server_hostname = server_hostname
        self._handshake_timeout_s = handshake_timeout_s
        self._ssl: SslObject | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_discarding = False
        self._is_over = False

    # -- what subclasses fill in -------------------------------------------------------

    def on_established(self) -> None:
        """The handshake is complete and the peer verified as the context demands."""

    def on_data(self, data: bytes) -> None:
        """Plaintext arrived."""

    def on_end(self, error: FleetError | None) -> None:
        """Called once: the connection is over; None after a clean end of the peer's."""

    # -- asyncio's calls ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance check: uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername") or ("?", 0)
        if self._context is None:
            self.on_established()
            return
        peer = f"{address[0]}:{address[1]}"
        try:
            self._ssl = SslObject(self._context, self._server_hostname, peer)
        except FleetError as error:
            self._finish(error)
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._handshake_timeout_s, self._handshake_late)
        if not self._context.server_side:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._is_discarding:
            return
        ssl = self._ssl
        if ssl is None:
            self.on_data(data)
            return
        if len(data) <= _SLICE:
            self._take(ssl, data)
            return
        for start in range(0, len(data), _SLICE):
            self._take(ssl, data[start : start + _SLICE])
            if self._is_discarding or self._ssl is None:
                return

    def _take(self, ssl: SslObject, data: bytes) -> None:
        ssl.feed(data)
        if not ssl.is_established and not self._go_on():
            return
        try:
            while (chunk := ssl.read()) is not None:
                if not chunk:
                    self._peer_closed()
                    return
                self.on_data(chunk)
                if self._is_discarding or self._ssl is None:
                    return
                size = _RECORD_HEAD + int.from_bytes(data[3:5], "big")
                if len(data) == size and not ssl.has_input():
                    return  # most often: one record of data, to which OpenSSL has no answer
        except FleetError as error:
            self._fail(error)
            return
        # A refused renegotiation or a key update is answered while reading.
        if (out := ssl.output()) and self._transport is not None:
            self._transport.write(out)

    def eof_received(self) -> bool:
        if not self._is_discarding:
            self._finish(LinkClosed(f"{self._peer()} closed the connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if not self._is_discarding:
            self._finish(LinkClosed(f"{self._peer()}: connection broke ({exc!r})"))
        if self._ssl is not None:
            self._ssl.free()
            self._ssl = None
        self._transport = None

    # -- for subclasses ----------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Encrypt and hand to the transport; nothing happens on a closed connection."""
        transport = self._transport
        # A connection that broke is closing before connection_lost says so; asyncio complains
        # of a fifth write to it on standard error.
        if transport is None or self._is_discarding or transport.is_closing():
            return
        if self._ssl is None:
            transport.write(data)
            return
        self._ssl.write(data)
        transport.write(self._ssl.output())

    def shut(self, linger_s: float = LINGER_S) -> None:
        """Flush, say close_notify, half-close, discard until the end of file or linger_s."""
        if self._transport is None or self._is_discarding:
            return
        if self._ssl is not None:
            self._ssl.close_notify()
        self._half_close(linger_s)
        self._is_over = True

    def abort(self) -> None:
        """Drop the connection now."""
        self._is_over = True
        if self._transport is not None:
            self._transport.abort()

    def _peer(self) -> str:
        return self._ssl.peer if self._ssl is not None else "peer"

    def _go_on(self) -> bool:
        """Advance the handshake; True when it has just become complete."""
        ssl = self._ssl
        assert ssl is not None
        assert self._transport is not None
        try:
            done = ssl.handshake()
        except FleetError as error:
            self._fail(error)
            return False
        if out := ssl.output():
            self._transport.write(out)
        if done:
            self._stop_timer()
            self.on_established()
        return done and self._ssl is not None and not self._is_discarding

    def _handshake_late(self) -> None:
        self._finish(HandshakeTimeout(f"{self._peer()}: no TLS handshake in time"))
        if self._transport is not None:
            self._transport.abort()

    def _peer_closed(self) -> None:
        """close_notify came: answer it and end. Nothing follows it, so nothing is discarded."""
        self._finish(None)
        transport = self._transport
        if transport is None or self._is_discarding:
            return
        self._is_discarding = True
        if self._ssl is not None:
            self._ssl.close_notify()
            if out := self._ssl.output():
                transport.write(out)
        transport.close()
        if transport.get_write_buffer_size():
            # Whoever reads no more would keep what is left, and the socket, for ever.
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def _fail(self, error: FleetError) -> None:
        self._finish(error)
        self._half_close(LINGER_S)

    def _half_close(self, linger_s: float) -> None:
        """Send what is left, alerts above all, and give the peer time to read it."""
        self._stop_timer()
        self._is_discarding = True
        transport = self._transport
        if transport is None:
            return
        if self._ssl is not None and (out := self._ssl.output()):
            transport.write(out)
        transport.resume_reading()
        if transport.can_write_eof():
            # The peer may have reset the connection, which asyncio has not noticed yet.
            with contextlib.suppress(OSError):
                transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(linger_s, transport.abort)

    def _finish(self, error: FleetError | None) -> None:
        if not self._is_over:
            self._is_over = True
            self.on_end(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
