"""Sockets without asyncio on MicroPython: TLS and DTLS, blocking or not.

The socket below is never blocking: blocking is done here, by polling it. mbedTLS's DTLS timers
run only inside calls, and a blocking socket would sit in one; timeouts of sockets differ
between ports; and the C code that completes a handshake on its own has no deadline.

Source: extmod/modtls_mbedtls.c.
"""

import select

from fleetnet.errors import CredentialError, HandshakeTimeout, LimitError, LinkError, Unsupported
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.micropython import DRIVE_MS, ticks
from fleetnet.ports.micropython_channel import Again, Channel
from fleetnet.ticks import ticks_add, ticks_diff

# A blocking handshake without a timeout of the caller's ends after this.
HANDSHAKE_MS = 30_000

# read() to the end and readline() keep no more than this.
MAX_BYTES = 65_536

_READ_BYTES = 4096
_POLL_MS = 1000


def wrap(context, sock, server_side, do_handshake_on_connect, server_hostname, client_id):
    """See Context.wrap_socket."""
    if bool(server_side) != context.server_side:
        raise CredentialError(
            "server_side=%s, but the context is for a %s: use client_context or server_context"
            % (bool(server_side), "server" if context.server_side else "client")
        )
    if context.datagram and context.server_side and client_id is None:
        raise CredentialError("a DTLS server needs client_id=: bytes that name the client")
    secure = SecureSocket(context, sock, server_hostname, client_id)
    if do_handshake_on_connect:
        try:
            secure.do_handshake()
        except BaseException:
            secure.close()
            raise
    return secure


class SecureSocket:
    """TLS or DTLS over a connected socket, which it takes over and closes.

    Blocking at first. When it is not, calls return None for "nothing now"; a write that did
    must be repeated with the very same bytes.
    """

    def __init__(self, context, sock, server_hostname, client_id):
        self.verified = context.verified
        self._made_of = (context, sock, server_hostname, server_hostname or "peer", client_id)
        self._datagram = context.datagram
        self._what = server_hostname or "peer"
        self._timeout_ms = None
        self._early = []  # what came with the end of the handshake
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        self._sock = sock
        self._channel = Channel(*self._made_of)
        # Last of all: a socket that could not be wrapped stays as it was.
        sock.setblocking(False)

    def do_handshake(self):
        """Complete the handshake. Returns True; None when not blocking and more is to come.

        Raises:
            HandshakeTimeout, LinkClosed, Rejected, the TrustError family.
        """
        channel = self._channel
        if channel.is_over():
            return True
        limit = HANDSHAKE_MS if self._timeout_ms is None else self._timeout_ms
        deadline = ticks_add(ticks(), limit)
        while True:
            try:
                data = self._channel.recv(_READ_BYTES)
            except Again:
                # The client comes again with the cookie, and mbedTLS forgot everything else.
                self._channel = Channel(*self._made_of)
                data = None
            if data:
                self._early.append(data)
            if self._channel.is_over():
                return True
            if limit == 0:
                return None
            left = ticks_diff(deadline, ticks())
            if left <= 0:
                self.close()
                raise HandshakeTimeout("%s: no handshake within %d ms" % (self._what, limit))
            self._poll(select.POLLIN, min(left, DRIVE_MS))

    def _poll(self, events, timeout_ms):
        self._poller.modify(self._sock, events)
        self._poller.poll(timeout_ms)

    def _wait(self, events, deadline):
        """Wait for the socket; False when not blocking. LinkError at the deadline."""
        if self._timeout_ms == 0:
            return False
        left = _POLL_MS
        if deadline is not None:
            left = ticks_diff(deadline, ticks())
            if left <= 0:
                raise LinkError("%s: nothing within %d ms" % (self._what, self._timeout_ms))
        self._poll(events, min(left, _POLL_MS))
        return True

    def _deadline(self):
        return ticks_add(ticks(), self._timeout_ms) if self._timeout_ms else None

    def write(self, data):
        """Send some of ``data`` and return how much: above one record (4 KB on boards) a part.

        Raises:
            LimitError: DTLS, above fleetnet.limits.DATAGRAM_PAYLOAD. As do_handshake.
            LinkError: the timeout has passed; the connection is closed then.
        """
        if self._datagram and len(data) > DATAGRAM_PAYLOAD:
            raise LimitError("datagram of %d B, limit %d B" % (len(data), DATAGRAM_PAYLOAD))
        if not data:
            return 0
        if self.do_handshake() is None:
            return None
        deadline = self._deadline()
        while True:
            count = self._channel.write(data)
            if count is not None:
                return count
            try:
                if not self._wait(select.POLLOUT, deadline):
                    return None
            except LinkError:
                self.close()  # a part of the record may have left
                raise

    send = write

    def sendall(self, data):
        """Send all of ``data``. Not for a socket that does not block."""
        if self._timeout_ms == 0:
            raise LinkError("sendall() needs a blocking socket: use send()")
        view = memoryview(data)
        while len(view):
            view = view[self.write(view) :]

    def recv(self, n):
        """Return 1 to ``n`` bytes, b"" at the end; DTLS: one datagram, cut at ``n``."""
        if self.do_handshake() is None:
            return None
        if self._early:
            data = self._early.pop(0)
            if not self._datagram and len(data) > n:
                self._early.insert(0, data[n:])
            return data[:n]
        deadline = self._deadline()
        while True:
            data = self._channel.recv(n)
            if data is not None and (data or not self._datagram):
                return data
            if not self._wait(select.POLLIN, deadline):
                return None

    def read(self, n=-1):
        """As recv(n); without ``n`` everything up to the end of file, or what is there now."""
        if n >= 0:
            return self.recv(n)
        parts = b""
        while True:
            data = self.recv(_READ_BYTES)
            if data is None:
                return parts or None
            if not data:
                return parts
            parts = _joined(parts, data)

    def readline(self):
        """Return a line with its newline, less at the end of file; None: not complete yet."""
        line = b""
        while True:
            data = self.recv(_READ_BYTES)
            if data:
                line = _joined(line, data)
                at = line.find(b"\n") + 1
                if at:
                    if at < len(line):
                        self._early.insert(0, line[at:])
                    return line[:at]
            elif data is None:
                if line:
                    self._early.insert(0, line)
                return None
            else:
                return line

    def setblocking(self, flag):
        """Wait for ever, or not at all."""
        self._timeout_ms = None if flag else 0

    def settimeout(self, seconds):
        """Wait at most ``seconds``; None: for ever, 0: not at all."""
        self._timeout_ms = None if seconds is None else int(seconds * 1000)

    def cipher(self):
        """Return (name, version); None before the handshake's end."""
        return self._channel.cipher()

    def getpeercert(self, binary_form=True):
        """Return the peer's certificate as DER; None when it showed none."""
        if not binary_form:
            raise Unsupported("getpeercert() gives DER only: fleetnet.der reads it")
        return self._channel.peer_certificate()

    def close(self):
        """Close both layers; harmless when repeated."""
        self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()


def _joined(data, more):
    if len(data) + len(more) > MAX_BYTES:
        raise LimitError("more than %d B before the end: use recv(n)" % MAX_BYTES)
    return data + more
