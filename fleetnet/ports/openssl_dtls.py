"""The DTLS 1.2 server without a socket: cookies, associations by address, timers.

The rule here: a stranger's datagram costs nothing that lasts. Functions that meet
unproven bytes end in ``_untrusted``; they answer with at most as many bytes as came, and
otherwise drop. State begins when a ClientHello comes back with the cookie that was sent
to its address (RFC 6347 section 4.2.1). A ClientHello on the address of a live
association goes the same way, and replaces it only when the new handshake is complete
(section 4.2.8), so a forged one disturbs nobody.
"""

from collections.abc import Callable, Iterable

from fleetnet.errors import FleetError, HandshakeTimeout, Unsupported
from fleetnet.ports.openssl_compact import KeptAeads, Session
from fleetnet.ports.openssl_compact_handover import take_over
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_dtls_state import (
    Address,
    Association,
    Cookies,
    Handshake,
    LastWords,
    Timers,
)
from fleetnet.ports.openssl_dtls_wire import (
    APPLICATION,
    CLIENT_HELLO,
    DECRYPT_ERROR,
    HANDSHAKE,
    RECORD_HEADER,
    fatal_alert,
    has_sealed_handshake,
    hello_verify_request,
    limits_records,
    parse_hello_untrusted,
    split,
    split_records,
)
from fleetnet.ports.openssl_object import SslObject

# OpenSSL drops what it cannot read, so a wrong pre-shared key would end in silence. Twice: once
# may be the loss or the late arrival of a ChangeCipherSpec.
_UNREADABLE = 2


class DtlsAcceptor:
    """Feeds datagrams to associations; calls back when one opens, receives or fails.

    Args:
        context: a server context with ``datagram``.
        transmit: function(datagram, address) that sends or drops.
        on_open: function(association), its handshake is complete; set ``owner`` here.
        on_data: function(association, payload), one record's payload; b"": close_notify.
        on_lost: function(association, error), an open association broke.
        on_refused: function(address, error), a handshake failed or timed out.
        mtu: largest datagram to send, bytes.
        max_handshakes: handshakes under way at once; more hellos are dropped, and come again.
        handshake_timeout_s: after which an unfinished handshake is forgotten.
        cookie_key: of all processes that share a port, so that each takes the cookies of the
            others; default: one of its own.
        compact: keep the keys of an association instead of OpenSSL's object, where that can be.

    Attributes:
        context: of handshakes that begin from now on; those under way keep theirs.
        admit: function(address) -> whether a client whose cookie was right may begin a
            handshake, asked before anything is allocated. Default: up to ``max_handshakes``.
        handshake_timeout_s: as given; may be changed for handshakes that begin later.
        settled: function(address), an admitted handshake is over, whatever its end.
        kept: AEAD objects of compact associations; counts forged and replayed records.
        on_fallback: function(text), once: why associations keep OpenSSL's object after all.
    """

    def __init__(
        self,
        context: Context,
        transmit: Callable[[bytes, Address], None],
        on_open: Callable[[Association], None],
        on_data: Callable[[Association, bytes], None],
        on_lost: Callable[[Association, FleetError | None], None],
        on_refused: Callable[[Address, FleetError], None],
        mtu: int = 1200,
        max_handshakes: int = 1000,
        handshake_timeout_s: float = 10.0,
        cookie_key: bytes = b"",
        compact: bool = True,
    ):
        self.context = context
        self._transmit = transmit
        self._on_open = on_open
        self._on_data = on_data
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._mtu = mtu
        self._max_handshakes = max_handshakes
        self.handshake_timeout_s = handshake_timeout_s
        self.associations: dict[Address, Association] = {}
        self.half_open: dict[Address, Handshake] = {}
        self._tombstones = LastWords()
        self._timers = Timers()
        self._cookies = Cookies(cookie_key)
        self._compact = compact
        self.kept = KeptAeads()
        self.on_fallback: Callable[[str], None] = lambda text: None
        self.is_accepting = True
        self.admit: Callable[[Address], bool] = self._has_room
        self.settled: Callable[[Address], None] = lambda address: None
        self.junk = 0
        self.hellos = 0
        self.overloaded = 0
        self.handshakes = 0
        self.refused = 0

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take one datagram that came from ``address`` at ``now`` (seconds, monotonic)."""
        if len(data) > RECORD_HEADER:
            association = self.associations.get(address)
            if association is not None and data[0] == APPLICATION:
                self._receive_records(association, data, now)
                return
            if data[0] == HANDSHAKE and not data[4] and data[RECORD_HEADER] == CLIENT_HELLO:
                self._receive_hello_untrusted(data, address, now)
                return
            half_open = self.half_open.get(address)
            if association is not None:
                # Also beside a new handshake: each drops what is not under its own keys.
                self._receive_records(association, data, now)
            if half_open is not None:
                self._go_on(half_open, data, now)
            if association or half_open or self._repeat_alert(data, address, now):
                return
        self.junk += 1

    # -- records of associations -----------------------------------------------------------

    def _receive_records(self, association: Association, data: bytes, now: float) -> None:
        session = association.ssl
        try:
            if type(session) is not Session:
                self._read(association, session, data)
            elif data[0] == APPLICATION and RECORD_HEADER + (data[11] << 8 | data[12]) == len(data):
                text = session.open(data, now)
                if text:
                    self._on_data(association, text)
            else:
                self._open_records(association, session, split(data), now)
        except FleetError as error:
            self.lose(association, error)

    def _open_records(
        self, association: Association, session: Session, records: Iterable[bytes], now: float
    ) -> None:
        """Take the records of a datagram, of any kind."""
        for record in records:
            text = session.open(record, now)
            if text is None:
                continue
            if record[0] != APPLICATION:
                answer = session.answer(record[0], text, now)
                if answer is None:
                    self._on_data(association, b"")
                    return
                for datagram in split_records(answer, self._mtu):
                    self._transmit(datagram, association.address)
            elif text:
                # When the owner closes, the keys go, and nothing behind this is opened.
                self._on_data(association, text)

    def _read(self, association: Association, ssl: Session | SslObject, data: bytes) -> None:
        """Have OpenSSL take a datagram; b"": what it holds already."""
        assert isinstance(ssl, SslObject)
        ssl.feed(data)
        while (payload := ssl.read()) is not None:
            self._on_data(association, payload)
            if not payload or self.associations.get(association.address) is not association:
                return
            # Most datagrams hold one record; a second look at the buffer costs a call.
            if data and RECORD_HEADER + (data[11] << 8 | data[12]) == len(data):
                return
        for datagram in ssl.datagrams(self._mtu):
            self._transmit(datagram, association.address)

    # -- strangers -------------------------------------------------------------------

    def _receive_hello_untrusted(self, data: bytes, address: Address, now: float) -> None:
        parsed = parse_hello_untrusted(data) if self.is_accepting else None
        if parsed is None:
            self.junk += 1
            return
        cookie, rest = parsed
        if not self._cookies.is_good(cookie, rest, address, now):
            self.hellos += 1
            answer = hello_verify_request(data[5:11], self._cookies.make(rest, address))
            if len(answer) <= len(data):
                self._transmit(answer, address)
            return
        live = self.associations.get(address)
        known = self.half_open.get(address)
        if live is not None and live.cookie == cookie:
            self.junk += 1  # a late copy of the hello that opened it
        elif known is not None and known.cookie == cookie:
            self._go_on(known, data, now)  # its own retransmission
        elif self.admit(address):
            self._begin(data, cookie, address, now)
        else:
            self.overloaded += 1

    def _has_room(self, address: Address) -> bool:
        return address in self.half_open or len(self.half_open) < self._max_handshakes

    def _begin(self, data: bytes, cookie: bytes, address: Address, now: float) -> None:
        """Make the state of a handshake, in the place of an unfinished one."""
        self._tombstones.forget(address)
        ssl = SslObject(self.context, peer=f"{address[0]}:{address[1]}", mtu=self._mtu)
        ssl.feed(data)
        if not ssl.listen():
            ssl.free()
            self.junk += 1
            if address not in self.half_open:
                self.settled(address)
            return
        abandoned = self.half_open.pop(address, None)
        if abandoned is not None:
            abandoned.end()
        handshake = Handshake(address, ssl, cookie, now + self.handshake_timeout_s)
        self.half_open[address] = handshake
        first_flight = self._go_on(handshake, b"", now)
        handshake.may_compact = self._compact and not limits_records(first_flight)

    # -- handshakes ------------------------------------------------------------------

    def _go_on(self, handshake: Handshake, data: bytes, now: float) -> bytes:
        """Take a datagram of a handshake; return what was answered."""
        handshake.ssl.feed(data)
        if handshake.may_compact:
            handshake.note_early(data)
        try:
            done = handshake.ssl.handshake()
        except FleetError as error:
            self._refuse(handshake, error, now)
            return b""
        flight = self._flush(handshake)
        if done:
            self._open(handshake, flight, now)
        elif self._is_wrong_key(handshake, data):
            # As RFC 4279 section 2 has it, for an unknown identity and for a wrong key alike.
            wrong = handshake.ssl.wrong_key()
            self._refuse(handshake, wrong, now, fatal_alert(DECRYPT_ERROR))
        else:
            self._arm(handshake, now)
        return flight

    def _is_wrong_key(self, handshake: Handshake, data: bytes) -> bool:
        """Whether a client that shares a key has sent its Finished again, in vain."""
        if handshake.ssl.psk_identity is None or not has_sealed_handshake(data):
            return False
        handshake.unreadable += 1
        return handshake.unreadable >= _UNREADABLE

    def _open(self, handshake: Handshake, flight: bytes, now: float) -> None:
        address = handshake.address
        del self.half_open[address]
        self.settled(address)
        session = self._session(handshake, flight, now)
        association = Association(address, session or handshake.ssl, handshake.cookie)
        if session is not None:
            handshake.ssl.free()
        old = self.associations.pop(address, None)
        self.associations[address] = association
        self.handshakes += 1
        if old is not None:
            self._on_lost(old, None)
            old.ssl.free()
        self._on_open(association)
        try:
            # Data may have come in the same datagram as the client's Finished.
            if session is None:
                if self._is_live(association):
                    self._read(association, association.ssl, b"")
                return
            for records in handshake.early:
                if self._is_live(association):
                    self._open_records(association, session, records, now)
        except FleetError as error:
            self.lose(association, error)
        finally:
            handshake.early = []  # its timer may still hold it

    def _session(self, handshake: Handshake, flight: bytes, now: float) -> Session | None:
        """Return the keys of a handshake that is complete; None: OpenSSL's object stays."""
        if not (self._compact and handshake.may_compact):
            return None
        try:
            return take_over(handshake.ssl, flight, self.kept, now)
        except Unsupported as error:
            self._compact = False
            self.on_fallback(str(error))
            return None

    def _is_live(self, association: Association) -> bool:
        return self.associations.get(association.address) is association

    def _refuse(
        self, handshake: Handshake, error: FleetError, now: float, alert: bytes = b""
    ) -> None:
        alert = alert or handshake.ssl.output()
        address = handshake.address
        if self.half_open.pop(address, None) is not None:
            self.settled(address)
        handshake.end()
        self.refused += 1
        if alert:
            self._transmit(alert, address)
            self._tombstones.keep(address, alert, now)
        self._on_refused(address, error)

    def _repeat_alert(self, data: bytes, address: Address, now: float) -> bool:
        alert = self._tombstones.again(len(data), address, now)
        if alert:
            self._transmit(alert, address)
        return bool(alert)

    def _flush(self, handshake: Handshake) -> bytes:
        """Send what OpenSSL has written; return it."""
        written = handshake.ssl.output()
        for datagram in split_records(written, self._mtu):
            self._transmit(datagram, handshake.address)
        return written

    # -- timers ----------------------------------------------------------------------

    def _arm(self, handshake: Handshake, now: float) -> None:
        wait_s = handshake.ssl.timeout()
        due = handshake.deadline if wait_s is None else min(now + wait_s, handshake.deadline)
        self._timers.arm(handshake, due)

    def next_timer(self) -> float | None:
        """Return when handle_timer wants to run (``now`` of receive), or None."""
        due, rest = self._timers.first(), self.kept.due
        return rest if due is None or (rest is not None and rest < due) else due

    def handle_timer(self, now: float) -> None:
        """Retransmit handshake flights that are due, forget handshakes out of time."""
        if self.kept.due is not None and self.kept.due <= now:
            self.kept.sweep(now)
        for handshake in self._timers.pop_due(now):
            if self.half_open.get(handshake.address) is not handshake:
                continue
            if now >= handshake.deadline:
                error = HandshakeTimeout(f"{handshake.ssl.peer}: DTLS handshake not finished")
                self._refuse(handshake, error, now)
                continue
            try:
                handshake.ssl.handle_timeout()
            except FleetError as error:
                self._refuse(handshake, error, now)
                continue
            self._flush(handshake)
            self._arm(handshake, now)

    # -- the owner's side --------------------------------------------------------------

    def send(self, association: Association, payload: bytes) -> None:
        """Send one datagram's payload; a lost one is the caller's to repeat.

        Raises:
            LinkClosed: the association is over, or must be: see ``lose``.
        """
        datagram = association.ssl.seal(payload)
        if datagram:
            self._transmit(datagram, association.address)

    def abandon(self, address: Address) -> None:
        """Forget an unfinished handshake, whose client may begin anew; says nothing to it."""
        handshake = self.half_open.pop(address, None)
        if handshake is not None:
            handshake.end()
            self.settled(address)

    def lose(self, association: Association, error: FleetError) -> None:
        """End an association because of ``error``, and tell its owner."""
        if self._is_live(association):
            if type(association.ssl) is Session:
                self.close(association)
            else:
                # OpenSSL's object must not be asked to say anything behind an error.
                del self.associations[association.address]
                association.ssl.free()
            self._on_lost(association, error)

    def close(self, association: Association) -> None:
        """Send close_notify and forget the association."""
        if self._is_live(association):
            del self.associations[association.address]
            goodbye = association.ssl.goodbye()
            if goodbye:
                self._transmit(goodbye, association.address)
            association.ssl.free()
