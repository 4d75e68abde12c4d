"""The TLS listener: one protocol object a connection, no task, no StreamReader."""

import asyncio
import socket
from typing import cast

import structlog

from fleetnet.errors import FleetError, LinkClosed
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_protocol import SecureProtocol
from fleetnet_server.core.transport import Accept, LinkHandler, Refused
from fleetnet_server.net.admission import Admission, Door

_log = structlog.get_logger("fleetnet.tls")

# Bytes waiting for a device that does not read; acknowledgements are some 10 B each, so a
# device that far behind is dead or hostile.
_MAX_UNSENT = 262_144

# After so many bytes of one connection it is the others' turn: 600 messages of a sensor, some
# 10 ms. uvloop by itself reads up to 8 MB of one socket, 256 KiB at a time, before the next one.
_TURN_BYTES = 32_768

# Connection bursts after a restart; the default of 100 stalls them for seconds.
_BACKLOG = 4096


class TlsConnection(SecureProtocol):
    """One client's connection; the Transport that core sees."""

    kind = "tls"
    datagram = False

    def __init__(self, listener: "TlsListener"):
        super().__init__(listener.context, None, listener.handshake_timeout_s)
        self._listener = listener
        self._handler: LinkHandler | None = None
        self._turn = 0  # bytes of this turn: 0 until the first one has come, never after that
        self._is_displaced = False
        self.address: tuple[str, int] = ("?", 0)

    @property
    def psk_identity(self) -> bytes | None:
        """By which the client named itself; None: it showed a certificate."""
        return self._ssl.psk_identity if self._ssl is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        name = transport.get_extra_info("peername")
        if name:
            self.address = (name[0], name[1])
        listener = self._listener
        if not listener.door.enter(self, self.address[0], self._displaced):
            self._is_over = True
            cast("asyncio.Transport", transport).abort()
            return
        listener.connections.add(self)
        super().connection_made(transport)

    def _displaced(self) -> None:
        """Another address got this handshake's place."""
        self._is_displaced = True
        error = LinkClosed("handshake not finished while others waited for its place")
        self._finish(error)
        self.abort()

    def data_received(self, data: bytes) -> None:
        room = max(0, _TURN_BYTES - self._turn)
        self._turn += len(data)
        if len(data) <= room or self._is_discarding:
            super().data_received(data)
            return
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._next_turn, memoryview(data)[room:])
        if room:
            super().data_received(data[:room])

    def _next_turn(self, data: memoryview) -> None:
        if self._ssl is None or self._is_discarding:
            return  # it ended between two turns
        self._turn = min(len(data), _TURN_BYTES)
        if len(data) > _TURN_BYTES:
            asyncio.get_running_loop().call_soon(self._next_turn, data[_TURN_BYTES:])
        else:
            transport = self._transport
            if transport is not None and not transport.is_closing():
                transport.resume_reading()
        super().data_received(bytes(data[:_TURN_BYTES]))

    def on_established(self) -> None:
        self._listener.door.leave(self)
        assert self._ssl is not None
        self._listener.handshakes += 1
        handler = self._listener.accept(self, self._ssl.peer_certificate() or b"")
        if not self._is_over:  # core may have closed it while it decided
            self._handler = handler

    def on_data(self, data: bytes) -> None:
        if self._handler is not None:
            self._handler.receive_data(data)

    def on_end(self, error: FleetError | None) -> None:
        self._listener.door.leave(self)
        handler = self._handler
        self._handler = None
        if handler is not None:
            handler.link_lost(error)
        elif not self._turn and not self._is_displaced and isinstance(error, LinkClosed):
            # A balancer's health check, a port scan, `fleetnet doctor`: nothing was refused.
            self._listener.probe_count += 1
            _log.debug("connection closed before its first byte", address=self.address[0])
        elif error is not None:
            self._listener.refused_count += 1
            self._listener.refused(self.kind, self.address, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.door.leave(self)
        self._listener.connections.discard(self)
        super().connection_lost(exc)

    def send(self, data: bytes) -> None:
        super().send(data)
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() > _MAX_UNSENT:
            self._finish(LinkClosed(f"{self.address[0]}:{self.address[1]} does not read"))
            self.abort()

    def close(self, linger_s: float = 1.0) -> None:
        """See Transport.close."""
        self._handler = None
        self.shut(linger_s)

    def abort(self) -> None:
        self._handler = None
        super().abort()


class TlsListener:
    """Accepts TLS connections and hands the authenticated ones to ``accept``.

    Args:
        admission: shared with other listeners; None: every address as often as it likes.

    Attributes:
        door: places for handshakes under way, with counters of its own.
        half_open, handshakes, refused_count, overloaded: counters.
        probe_count: connections that their clients closed before the first byte.
        connections: those with a socket, lingering ones included.
    """

    def __init__(
        self,
        context: Context,
        accept: Accept,
        refused: Refused,
        *,
        handshake_timeout_s: float = 10.0,
        max_handshakes: int = 1000,
        admission: Admission | None = None,
    ):
        self.context = context
        self.accept = accept
        self.refused = refused
        self.handshake_timeout_s = handshake_timeout_s
        self.door = Door(max_handshakes, admission)
        self.handshakes = 0
        self.refused_count = 0
        self.probe_count = 0
        self.connections: set[TlsConnection] = set()
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def half_open(self) -> int:
        return len(self.door)

    @property
    def overloaded(self) -> int:
        return self.door.overloaded

    async def start(self, host: str, port: int, sock: socket.socket | None = None) -> None:
        """Listen on ``host``:``port``; port 0 takes a free one, see ``port``.

        Args:
            sock: one that listens already, of a parent process; host and port do not count.

        Raises:
            OSError: the address is in use or not ours.
        """
        loop = asyncio.get_running_loop()
        if sock is not None:
            self._server = await loop.create_server(
                lambda: TlsConnection(self), sock=sock, backlog=_BACKLOG
            )
        else:
            self._server = await loop.create_server(
                lambda: TlsConnection(self), host, port, backlog=_BACKLOG
            )
        self.port = self._server.sockets[0].getsockname()[1]

    def use(self, context: Context) -> None:
        """Give new connections another context; the others keep theirs."""
        self.context = context

    def use_timeout(self, handshake_timeout_s: float) -> None:
        """Give new handshakes so long."""
        self.handshake_timeout_s = handshake_timeout_s

    def stop_accepting(self) -> None:
        """Take no new connections; the others go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Stop, and drop what is still connected."""
        self.stop_accepting()
        for connection in list(self.connections):
            connection.abort()
