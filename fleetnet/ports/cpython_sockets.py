"""Sockets without asyncio on CPython: TLS and DTLS, blocking or not.

The same calls as ports/micropython_sockets.py. The socket below never blocks: blocking is
done here, by polling it, since DTLS has timers to run meanwhile.
"""

import select
import socket
import time
from types import TracebackType

from fleetnet.errors import (
    CredentialError,
    FleetError,
    HandshakeTimeout,
    LimitError,
    LinkClosed,
    LinkError,
    Unsupported,
)
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.cpython_channels import ServerDatagrams, StreamChannel
from fleetnet.ports.cpython_datagrams import Datagrams
from fleetnet.ports.openssl_context import Context

# A blocking handshake without a timeout of the caller's ends after this.
HANDSHAKE_S = 30.0

# read() to the end and readline() keep no more than this.
MAX_BYTES = 65_536

_READ_BYTES = 4096

# How long the alert of a failed handshake is given to arrive.
_LINGER_S = 1.0


def wrap(
    context: Context,
    sock: socket.socket,
    server_side: bool,
    do_handshake_on_connect: bool,
    server_hostname: str | None,
) -> "SecureSocket":
    """See Context.wrap_socket."""
    if server_side != context.server_side:
        raise CredentialError(
            f"server_side={server_side}, but the context is for a "
            f"{'server' if context.server_side else 'client'}: use client_context or "
            "server_context"
        )
    if (sock.type == socket.SOCK_DGRAM) != context.datagram:
        raise CredentialError(
            "DTLS (datagram=True) needs a UDP socket, TLS a stream: make the other context"
        )
    secure = SecureSocket(context, sock, server_hostname)
    if do_handshake_on_connect:
        secure.do_handshake()
    return secure


class SecureSocket:
    """TLS or DTLS over a connected socket, which it takes over and closes.

    Blocks as the socket did. When it does not block, calls return None for "nothing now".

    Attributes:
        verified: the peer is authenticated (a server under CERT_OPTIONAL: known after the
            handshake).
    """

    def __init__(self, context: Context, sock: socket.socket, server_hostname: str | None):
        try:
            what = "{}:{}".format(*sock.getpeername())
        except (OSError, IndexError):  # not connected, or no Internet socket
            what = server_hostname or "peer"
        self._stream: StreamChannel | None = None
        self._channel: StreamChannel | Datagrams | ServerDatagrams
        if not context.datagram:
            self._channel = self._stream = StreamChannel(sock, context, server_hostname, what)
        elif context.server_side:
            self._channel = ServerDatagrams(sock, context, what)
        else:
            self._channel = Datagrams(sock, context, server_hostname, what)
        # Last of all: a socket that could not be wrapped stays as it was.
        self._timeout_s = sock.gettimeout()
        sock.setblocking(False)
        self.verified = context.verified
        self._sock = sock
        self._what = what
        self._is_over = False
        self._early = b""  # read from the stream, and not wanted yet
        self._poller = select.poll()

    def fileno(self) -> int:
        """Return the socket's number, for select; -1 when closed."""
        return self._sock.fileno()

    def do_handshake(self) -> bool | None:
        """Complete the handshake. Returns True; None when not blocking and more is to come.

        Raises:
            HandshakeTimeout, LinkClosed, Rejected, the TrustError family.
        """
        if self._is_over:
            return True
        limit = HANDSHAKE_S if self._timeout_s is None else self._timeout_s
        deadline = time.monotonic() + limit
        try:
            while not self._channel.advance():
                if limit == 0:
                    return None
                left = deadline - time.monotonic()
                if left <= 0:
                    raise HandshakeTimeout(f"{self._what}: no handshake within {limit:g} s")
                wait_s = self._channel.timeout()
                self._poll(select.POLLIN, left if wait_s is None else min(left, wait_s))
        except BaseException:
            self._give_up(_LINGER_S if limit else 0)
            raise
        self._is_over = True
        self.verified = self._channel.verified
        return True

    def _give_up(self, linger_s: float = 0) -> None:
        if self._stream is not None:
            self._stream.close(linger_s)
        else:
            self._channel.close()

    def _poll(self, events: int, timeout_s: float | None) -> None:
        number = self._sock.fileno()
        if number < 0:
            raise LinkClosed(f"{self._what}: connection is closed")
        self._poller.register(number, events)
        self._poller.poll(None if timeout_s is None else timeout_s * 1000 + 1)

    def _deadline(self) -> float | None:
        return time.monotonic() + self._timeout_s if self._timeout_s else None

    def _wait(self, events: int, deadline: float | None) -> bool:
        """Wait for the socket; False when not blocking. LinkError at the deadline."""
        if self._timeout_s == 0:
            return False
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise LinkError(f"{self._what}: nothing within {self._timeout_s:g} s")
        self._poll(events, left)
        return True

    def write(self, data: bytes) -> int | None:
        """Send some of ``data`` and return how much: above one record (16 KiB) a part.

        Raises:
            LimitError: DTLS, above fleetnet.limits.DATAGRAM_PAYLOAD. As do_handshake.
            LinkError: the timeout has passed; the connection is closed then.
        """
        if self._stream is None and len(data) > DATAGRAM_PAYLOAD:
            raise LimitError(f"datagram of {len(data)} B, limit {DATAGRAM_PAYLOAD} B")
        if not data:
            return 0
        if self.do_handshake() is None:
            return None
        try:
            return self._write(data)
        except FleetError:
            self._give_up()  # a part of a record may have left
            raise

    send = write

    def _write(self, data: bytes) -> int | None:
        deadline = self._deadline()
        channel = self._channel
        if isinstance(channel, StreamChannel):
            while (count := channel.write(data)) is None:
                if not self._wait(select.POLLOUT, deadline):
                    return None
            while not channel.flush() and self._wait(select.POLLOUT, deadline):
                pass
            return count
        while not channel.send(data):
            if not self._wait(select.POLLOUT, deadline):
                return None
        return len(data)

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``. Not for a socket that does not block."""
        if self._timeout_s == 0:
            raise LinkError("sendall() needs a blocking socket: use send()")
        view = memoryview(data)
        while len(view):
            view = view[self.write(view) or 0 :]  # type: ignore[arg-type]

    def recv(self, n: int) -> bytes | None:
        """Return 1 to ``n`` bytes, b"" at the end; DTLS: one datagram, cut at ``n``.

        Raises:
            LinkError: the timeout has passed. LinkClosed: also at the end of DTLS. Rejected. As
            do_handshake.
        """
        if self.do_handshake() is None:
            return None
        data: bytes | None = self._early
        deadline = self._deadline()
        while not data and n:
            try:
                data = self._channel.recv()
            except FleetError:
                self._give_up()
                raise
            if data is not None and not data:
                return b""
            if data is None and not self._wait(select.POLLIN, deadline):
                return None
        assert data is not None
        if self._stream is not None:
            self._early = data[n:]
        return data[:n]

    def read(self, n: int = -1) -> bytes | None:
        """As recv(n); without ``n`` everything up to the end of file, or what is there now."""
        if n >= 0:
            return self.recv(n)
        parts = b""
        while data := self.recv(_READ_BYTES):
            parts = _joined(parts, data)
        return parts if data is not None else parts or None

    def readline(self) -> bytes | None:
        """Return a line with its newline, less at the end of file; None: not complete yet."""
        line = b""
        while data := self.recv(_READ_BYTES):
            line = _joined(line, data)
            at = line.find(b"\n") + 1
            if at:
                self._early = line[at:] + self._early
                return line[:at]
        if data is None:
            self._early = line + self._early
            return None
        return line

    def setblocking(self, flag: bool) -> None:
        """Wait for ever, or not at all."""
        self._timeout_s = None if flag else 0.0

    def settimeout(self, seconds: float | None) -> None:
        """Wait at most ``seconds``; None: for ever, 0: not at all."""
        self._timeout_s = seconds

    def cipher(self) -> tuple[str, str] | None:
        """Return (name, version); None before the handshake's end."""
        return self._channel.cipher() if self._is_over else None

    def getpeercert(self, binary_form: bool = True) -> bytes | None:
        """Return the peer's certificate as DER; None when it showed none."""
        if not binary_form:
            raise Unsupported("getpeercert() gives DER only: fleetnet.der reads it")
        return self._channel.peer_certificate() if self._is_over else None

    @property
    def psk_identity(self) -> bytes | None:
        """By which the client named itself in a handshake with a pre-shared key, or None."""
        return self._channel.psk_identity if self._is_over else None

    def close(self) -> None:
        """Say that no more comes (close_notify), and close; harmless when repeated."""
        self._give_up()

    def __enter__(self) -> "SecureSocket":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _joined(data: bytes, more: bytes) -> bytes:
    if len(data) + len(more) > MAX_BYTES:
        raise LimitError(f"more than {MAX_BYTES} B before the end: use recv(n)")
    return data + more
