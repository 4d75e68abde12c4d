"""The DTLS listener: its own UDP socket, many datagrams a turn of the loop.

asyncio's DatagramProtocol takes one datagram a turn, which is five times slower than
draining the socket from add_reader.
"""

import asyncio
import socket

from fleetnet.errors import FleetError
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_dtls import Address, Association, DtlsAcceptor
from fleetnet_server.core.transport import Accept, LinkHandler, Refused

# A turn stays under a millisecond or two, so that timers and TLS get theirs.
_DATAGRAMS_A_TURN = 64
_DATAGRAM_BYTES = 2048

# A burst of every device at once must fit; the kernel caps it at net.core.rmem_max.
_RECEIVE_BUFFER = 4 << 20


class DtlsLink:
    """The Transport of one association."""

    __slots__ = ("_association", "_listener", "address", "handler")
    kind = "dtls"
    datagram = True

    def __init__(self, listener: "DtlsListener", association: Association):
        self._listener = listener
        self._association: Association | None = association
        self.address = (association.address[0], association.address[1])
        self.handler: LinkHandler | None = None

    def send(self, data: bytes) -> None:
        """See Transport.send; a datagram that finds no room is lost, as on the wire."""
        if self._association is not None:
            self._listener.acceptor.send(self._association, data)

    def close(self, linger_s: float = 1.0) -> None:
        """See Transport.close. UDP has nothing to linger for."""
        association = self._association
        self._association = None
        self.handler = None
        if association is not None:
            self._listener.acceptor.close(association)

    def abort(self) -> None:
        """See Transport.abort; close_notify costs nothing here."""
        self.close()

    def lost(self, error: FleetError | None) -> None:
        """The association ended by itself."""
        handler = self.handler
        self._association = None
        self.handler = None
        if handler is not None:
            handler.link_lost(error)


class DtlsListener:
    """Accepts DTLS associations and hands the authenticated ones to ``accept``.

    Attributes:
        acceptor: cookies, associations and counters (openssl_dtls.DtlsAcceptor).
        send_dropped: datagrams that the kernel had no room for.
    """

    def __init__(
        self,
        context: Context,
        accept: Accept,
        refused: Refused,
        *,
        handshake_timeout_s: float = 10.0,
        max_handshakes: int = 1000,
    ):
        self.acceptor = DtlsAcceptor(
            context,
            self._transmit,
            self._open,
            self._data,
            self._lost,
            self._refused,
            max_handshakes=max_handshakes,
            handshake_timeout_s=handshake_timeout_s,
        )
        self._accept = accept
        self._report = refused
        self.port = 0
        self.send_dropped = 0
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._loop = asyncio.get_running_loop()

    async def start(self, host: str, port: int) -> None:
        """Bind ``host``:``port``; port 0 takes a free one, see ``port``.

        Raises:
            OSError: the address is in use or not ours.
        """
        infos = await self._loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        sock = socket.socket(infos[0][0], socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            sock.bind(infos[0][4])
        except OSError:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        self._sock = sock
        self._loop.add_reader(sock.fileno(), self._drain)

    def _drain(self) -> None:
        sock = self._sock
        if sock is None:
            return
        receive = self.acceptor.receive
        receive_from = sock.recvfrom
        now = self._loop.time()
        try:
            for _ in range(_DATAGRAMS_A_TURN):
                data, address = receive_from(_DATAGRAM_BYTES)
                receive(data, address, now)
        except (BlockingIOError, InterruptedError):
            pass
        except ConnectionError:
            pass  # an ICMP error of an earlier send; the association's timers see to it
        finally:
            self._schedule()

    def _schedule(self) -> None:
        """Keep one timer, for the earliest handshake."""
        due = self.acceptor.next_timer()
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        # Not timer.when(): uvloop's handle for a time that has passed has none.
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        self.acceptor.handle_timer(self._loop.time())
        self._schedule()

    def _transmit(self, datagram: bytes, address: Address) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            sock.sendto(datagram, address)
        except OSError:
            # No room, or no route: the session's own timers notice that nothing arrives.
            self.send_dropped += 1

    def _open(self, association: Association) -> None:
        link = association.owner = DtlsLink(self, association)
        if not self.acceptor.is_accepting:
            link.close()
            return
        certificate = association.ssl.peer_certificate() or b""
        try:
            handler = self._accept(link, certificate)
        except BaseException:
            link.close()  # nobody would ever end it
            raise
        if link._association is not None:
            link.handler = handler

    def _data(self, association: Association, payload: bytes) -> None:
        link: DtlsLink = association.owner
        if not payload:
            link_handler = link.handler
            link.close()
            if link_handler is not None:
                link_handler.link_lost(None)
        elif link.handler is not None:
            link.handler.receive_data(payload)

    def _lost(self, association: Association, error: FleetError | None) -> None:
        if association.owner is not None:
            association.owner.lost(error)

    def _refused(self, address: Address, error: FleetError) -> None:
        self._report("dtls", (address[0], address[1]), error)

    def stop_accepting(self) -> None:
        """Answer no more hellos; live associations go on."""
        self.acceptor.is_accepting = False

    def close(self) -> None:
        """Close every association and the socket."""
        for association in list(self.acceptor.associations.values()):
            if association.owner is not None:
                association.owner.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
