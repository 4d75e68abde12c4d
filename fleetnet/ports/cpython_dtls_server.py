"""DTLS servers on asyncio: the UDP socket that drains, and associations for programs.

asyncio's DatagramProtocol takes one datagram a turn, which is five times slower than
draining the socket from add_reader. ``DtlsSocket`` is that half; the back-end's listener and
``serve_datagrams`` stand on it.
"""

import asyncio
import collections
import socket
from collections.abc import Awaitable, Callable

from fleetnet.errors import FleetError, LinkClosed
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_dtls import DtlsAcceptor
from fleetnet.ports.openssl_dtls_state import Address, Association

# A turn stays under a millisecond or two, so that timers and TLS get theirs.
_DATAGRAMS_A_TURN = 64
_DATAGRAM_BYTES = 2048

# A burst of every device at once must fit; the kernel caps it at net.core.rmem_max.
_RECEIVE_BUFFER = 4 << 20

# Of one client, unread by its callback; more are dropped, as by any UDP queue.
_MAX_WAITING = 256


class DtlsSocket:
    """One UDP socket and its acceptor; subclasses fill in the ``on_`` methods.

    Attributes:
        acceptor: cookies, associations and counters (openssl_dtls.DtlsAcceptor).
        port: the real one, once started.
        send_dropped: datagrams that the kernel had no room for.
    """

    def __init__(
        self,
        context: Context,
        *,
        handshake_timeout_s: float = 10.0,
        max_handshakes: int = 1000,
        cookie_key: bytes = b"",
        compact: bool = True,
    ):
        """Args: as DtlsAcceptor."""
        self.acceptor = DtlsAcceptor(
            context,
            self._transmit,
            self.on_open,
            self.on_data,
            self.on_lost,
            self.on_refused,
            max_handshakes=max_handshakes,
            handshake_timeout_s=handshake_timeout_s,
            cookie_key=cookie_key,
            compact=compact,
        )
        self.port = 0
        self.send_dropped = 0
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._loop = asyncio.get_running_loop()

    # -- what subclasses fill in, see DtlsAcceptor -------------------------------------

    def on_open(self, association: Association) -> None:
        """A handshake is complete."""

    def on_data(self, association: Association, payload: bytes) -> None:
        """One record's payload arrived; b"": close_notify."""

    def on_lost(self, association: Association, error: FleetError | None) -> None:
        """An open association broke, or was replaced (None)."""

    def on_refused(self, address: Address, error: FleetError) -> None:
        """A handshake failed or timed out."""

    # -- the socket --------------------------------------------------------------------

    async def start(self, host: str, port: int, sock: socket.socket | None = None) -> None:
        """Bind ``host``:``port``; port 0 takes a free one, see ``port``.

        Args:
            sock: one that is bound already, of a parent process; host and port do not count.

        Raises:
            OSError: the address is in use or not ours.
        """
        if sock is not None:
            sock.setblocking(False)
            self._use_socket(sock)
            return
        infos = await self._loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        sock = socket.socket(infos[0][0], socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            sock.bind(infos[0][4])
        except OSError:
            sock.close()
            raise
        self._use_socket(sock)

    def _use_socket(self, sock: socket.socket) -> None:
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
        except OSError:
            if self._sock is not None:  # closed by what a datagram led to
                raise
        finally:
            self._schedule()

    def _schedule(self) -> None:
        """Keep one timer, for the earliest handshake."""
        due = self.acceptor.next_timer()
        if due is None or self._sock is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
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

    def use(self, context: Context) -> None:
        """Give new handshakes another context; live associations keep theirs."""
        self.acceptor.context = context

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


class AcceptedDatagrams:
    """A client's association; the calls of cpython_datagrams.Datagrams.

    Attributes:
        peer: (host, port) of the client. verified: it is authenticated.
        psk_identity: by which it named itself in a handshake with a pre-shared key, or None.
    """

    max_payload = DATAGRAM_PAYLOAD

    def __init__(self, listener: "DatagramListener", association: Association):
        ssl = association.ssl
        self.peer = (association.address[0], association.address[1])
        self.verified = ssl.verified
        self.psk_identity = ssl.psk_identity
        # Kept: the association may be gone when somebody asks.
        self._cipher = ssl.cipher()
        self._certificate = ssl.peer_certificate()
        self._listener = listener
        self._association: Association | None = association
        self._error: FleetError = LinkClosed(f"{ssl.peer}: association is closed")
        self._waiting: collections.deque[bytes] = collections.deque()
        self._arrived = asyncio.Event()

    def send(self, data: bytes) -> bool:
        """Send one datagram; False when the socket has no room now.

        Raises:
            ValueError: above max_payload. LinkClosed and its kin: the association is over.
        """
        if len(data) > self.max_payload:
            raise ValueError(f"datagram of {len(data)} B, limit {self.max_payload} B")
        if self._association is None:
            raise self._error
        listener = self._listener
        dropped = listener.send_dropped
        listener.acceptor.send(self._association, data)
        return listener.send_dropped == dropped

    def recv(self) -> bytes | None:
        """Return one datagram's payload, or None when there is none now."""
        if self._waiting:
            return self._waiting.popleft()
        if self._association is None:
            raise self._error
        return None

    async def receive(self, timeout_ms: int | None = None) -> bytes | None:
        """Wait for one datagram; None after ``timeout_ms``."""
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                while (data := self.recv()) is None:
                    self._arrived.clear()
                    await self._arrived.wait()
                return data
        except TimeoutError:
            return None

    def cipher(self) -> tuple[str, str]:
        """Return (name, version) of the association."""
        return self._cipher

    def peer_certificate(self) -> bytes | None:
        """Return the client's certificate as DER, None when it showed none."""
        return self._certificate

    def take(self, payload: bytes) -> None:
        """A datagram arrived."""
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append(payload)
            self._arrived.set()

    def lost(self, error: FleetError | None) -> None:
        """The association ended by itself."""
        self._association = None
        if error is not None:
            self._error = error
        self._arrived.set()

    def close(self) -> None:
        """Send close_notify and forget the association; harmless when repeated."""
        association = self._association
        self.lost(None)
        if association is not None:
            self._listener.acceptor.close(association)


Callback = Callable[[AcceptedDatagrams], Awaitable[None]]


class DatagramListener(DtlsSocket):
    """Runs ``callback(datagrams)`` as a task for each client whose handshake is complete.

    Attributes:
        refused: handshakes that failed; last_refusal: why the latest did.
    """

    def __init__(self, context: Context, callback: Callback):
        super().__init__(context)
        self._callback = callback
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused = 0
        self.last_refusal: FleetError | None = None

    def on_open(self, association: Association) -> None:
        datagrams = association.owner = AcceptedDatagrams(self, association)
        task = self._loop.create_task(self._serve(datagrams))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, datagrams: AcceptedDatagrams) -> None:
        try:
            await self._callback(datagrams)
        except FleetError:
            pass  # the association ended, which is the callback's to know
        finally:
            datagrams.close()

    def on_data(self, association: Association, payload: bytes) -> None:
        if payload:
            association.owner.take(payload)
        else:
            association.owner.close()

    def on_lost(self, association: Association, error: FleetError | None) -> None:
        association.owner.lost(error)

    def on_refused(self, address: Address, error: FleetError) -> None:
        self.refused += 1
        self.last_refusal = error

    def close(self) -> None:
        """End every association, cancel the callbacks, close the socket."""
        super().close()
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait for the callbacks that still run."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def serve_datagrams(
    callback: Callback, host: str, port: int, context: Context
) -> DatagramListener:
    """See fleetnet.streams.serve_dtls."""
    listener = DatagramListener(context, callback)
    await listener.start(host, port)
    return listener
