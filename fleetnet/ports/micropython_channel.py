"""One TLS connection or DTLS association of MicroPython's tls module, over any stream.

Nothing in here waits: recv() and write() return None for "nothing now".

- Any exception but that ends the connection: mbedTLS repeats it for ever. Both layers are
  closed, and neither is touched again: cipher() before the handshake's end and
  setblocking() after close crash the process.
- verify_callback belongs to the context, not to the connection. A call into mbedTLS runs to
  its end before another can begin, so the context notes for whom it is (``active``).
- A context that knows its peer otherwise than by a chain (pins, pre-shared keys) has a
  ``check`` to pass at the end of the handshake, and its Recorder lets no record of
  application data out before, whoever drives the handshake, and be it a write.

Sources: extmod/modtls_mbedtls.c, extmod/asyncio/core.py.
"""

import io
from asyncio import core

from fleetnet.errors import LimitError, LinkClosed, LinkError, TrustError
from fleetnet.ports.micropython_records import (
    ALERT,
    APPLICATION_DATA,
    CERT_REQUIRED,
    CHANGE_CIPHER_SPEC,
    FATAL,
    HANDSHAKE,
    HEADER,
)


class Recorder(io.IOBase):
    """Stands between mbedTLS and the transport and remembers what mbedTLS does not tell.

    This is a client's; micropython_listen.py has the server's, micropython_modes.py the one
    that bars.

    Attributes:
        alert: description of the last plaintext fatal alert received (RFC 5246 section
            7.2), or None. TLS 1.3 encrypts it.
        sealed: the handshake is over, as far as records tell. DTLS: ChangeCipherSpec and a
            record of epoch 1 arrived (the server's Finished). TLS 1.2: a handshake record
            behind ChangeCipherSpec (the same). TLS 1.3: an encrypted record has left (our
            own).
        verdict: the error that our own check of the peer came to, or None.
        agreed: the pin of this connection's peer was looked at and is one of ours.
        certificate: the peer's, DER; kept where the firmware does not keep it.
    """

    def __init__(self, transport, channel, datagram):
        self.transport = transport
        self.channel = channel
        self.datagram = datagram
        self.head = b""  # of the record under way
        self.left = 0  # bytes that its body lacks
        self.spec_changed = False
        self.alert = None
        self.sealed = False
        self.verdict = None
        self.agreed = False
        self.certificate = None

    def readinto(self, buf):
        try:
            count = self.transport.readinto(buf)
        except OSError as error:
            # An exception must not fly through mbedTLS's C frames; a number may.
            return -abs(error.args[0])
        if count and not self.sealed:
            if self.datagram:
                self.look_at_datagram(buf, count)
            elif self.left:
                self.left -= count
                if not self.left:
                    # A whole record: mbedTLS has looked at it before anybody asks for ``sealed``.
                    kind = self.head[0]
                    self.head = b""
                    if kind == ALERT and count == 2 and buf[0] == FATAL:
                        self.alert = buf[1]
                    self.look_at_record(kind)
            else:
                # mbedTLS asks for a header, then for the body; TCP may cut either.
                self.head += buf[:count]
                if len(self.head) == HEADER:
                    self.left = self.head[3] << 8 | self.head[4]
        return count

    def write(self, buf):
        if not self.sealed:
            self.look_at_own(buf)
        try:
            return self.transport.write(buf)
        except OSError as error:
            return -abs(error.args[0])

    def ioctl(self, request, argument):
        return 0

    def look_at_datagram(self, buf, count):
        # A unix port may hand out two datagrams at once: an alert may stand behind a flight.
        at = 0
        while at + 13 <= count:
            if buf[at] == CHANGE_CIPHER_SPEC:
                self.spec_changed = True
            elif buf[at + 4]:  # the epoch
                self.sealed = self.spec_changed
            elif buf[at] == ALERT and at + 15 <= count and buf[at + 13] == FATAL:
                self.alert = buf[at + 14]
            at += 13 + (buf[at + 11] << 8 | buf[at + 12])

    def look_at_record(self, kind):
        # TLS 1.3 sends ChangeCipherSpec for show, and no plain handshake record after it.
        self.sealed = self.spec_changed and kind == HANDSHAKE
        self.spec_changed = self.spec_changed or kind == CHANGE_CIPHER_SPEC

    def look_at_own(self, buf):
        self.sealed = buf[0] == APPLICATION_DATA and not self.datagram


class Again(LinkError):
    """A DTLS client's first hello was answered with a cookie; nothing is kept of it."""


class Channel:
    """A connection: the tls module's object, its Recorder and its transport.

    Args:
        context: a micropython_tls.Context.
        transport: a socket, or any stream that has readinto, write and ioctl.
        what: "HOST:PORT", for messages.
        client_id: bytes that name a DTLS client's address; its cookie is bound to them.

    Raises:
        CredentialError (no server_hostname), TrustError (a stripped context), LimitError,
        Unsupported. The transport stays open.
    """

    def __init__(self, context, transport, server_hostname, what, client_id=None):
        options = {"server_side": context.server_side, "do_handshake_on_connect": False}
        if not context.server_side:
            options["server_hostname"] = server_hostname
        if client_id is not None:
            options["client_id"] = client_id
        if context.mode == "verified" and context.native.verify_mode != CERT_REQUIRED:
            # The first write carries handshake and data: afterwards would be too late.
            raise TrustError("verification was turned off behind a context that verifies")
        self._context = context
        self._what = what
        self._is_over = False
        self.recorder = context.recorder_class(transport, self, context.datagram)
        try:
            self._io = context.native.wrap_socket(self.recorder, **options)
        except (OSError, ValueError, MemoryError, TypeError) as error:
            raise map_late(error, None, what)
        self._keeps_certificate = hasattr(self._io, "getpeercert")
        context.watch(not self._keeps_certificate)

    def recv(self, n):
        """Return 1 to ``n`` bytes (DTLS: of one record), b"" at the end, None for nothing now."""
        return self._do(self._open().recv, n)

    def write(self, view):
        """Return how many bytes were taken, or None: try again, with the very same bytes.

        mbedTLS insists on that. The first write includes the handshake.
        """
        return self._do(self._open().write, view)

    def _do(self, call, argument):
        try:
            done = call(argument)
        except (OSError, ValueError, MemoryError) as error:
            raise self.broken(error)
        if done is not None:
            self.admit()
        return done

    def _open(self):
        if self._io is None:
            raise LinkClosed("%s: connection is closed" % self._what)
        self._context.active = self.recorder
        return self._io

    def is_over(self):
        """Say whether the handshake is over; a peer that was barred then raises its verdict."""
        if not self._is_over and self._io is not None and self.recorder.sealed:
            context = self._context
            if self._keeps_certificate and context.shows_certificate():
                # Exact: a session, and with it the peer's certificate, is there from the very
                # end of the handshake on.
                if self._io.getpeercert(True) is not None:
                    self.admit()
            elif context.datagram and not context.server_side:
                return True  # so it seems; anybody may send such datagrams
            else:
                self.admit()
        return self._is_over

    def admit(self):
        """Note the end of the handshake; raise what bars the peer."""
        if not self._is_over:
            self._is_over = True
            verdict = self.check()
            if verdict is not None:
                raise self.broken(verdict)

    def check(self):
        """Return the error that bars the peer, or None; after the handshake."""
        check = self._context.check
        return None if check is None else check(self)

    def broken(self, error):
        """Close, and return the fleetnet error for ``error``."""
        mapped = map_late(error, self.recorder, self._what)
        if isinstance(mapped, Again):
            self._io = None  # mbedTLS has freed it; the transport serves the next try
        self.close()
        return mapped

    def cipher(self):
        """Return (name, version); None before the handshake's end.

        A DTLS client whose firmware lacks getpeercert knows of it by the first record.
        """
        self.is_over()
        if self._io is None or not self._is_over:
            return None
        return self._io.cipher()

    def peer_certificate(self):
        """Return the peer's certificate as DER, None when it showed none."""
        if self._io is None or not self.is_over():
            return None
        return self._io.getpeercert(True) if self._keeps_certificate else self.recorder.certificate

    def close(self):
        """Close both layers; harmless when repeated."""
        io = self._io
        self._io = None
        if io is not None:
            wake(self.recorder.transport)
            io.close()
            self.recorder.transport.close()
            self._context.active = None


def wake(sock):
    """Let the tasks that wait for a socket look again, before its number is another socket's."""
    queue = core._io_queue
    tasks = queue.map.get(id(sock))
    if tasks:
        queue._dequeue(sock)
        for task in tasks[:2]:
            if task is not None:
                core._task_queue.push(task)


def map_late(error, recorder, what):
    """As map_error, which is loaded by the first error."""
    try:
        from fleetnet.ports.micropython_errors import map_error
    except MemoryError:
        return LimitError("not enough memory for a connection to %s" % what)
    return map_error(error, recorder, what)
