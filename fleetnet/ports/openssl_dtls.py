"""The DTLS 1.2 server without a socket: cookies, associations by address, timers.

The rule here: a stranger's datagram costs nothing that lasts. Functions that meet
unproven bytes end in ``_untrusted``; they answer with at most as many bytes as came, and
otherwise drop. State begins when a ClientHello comes back with the cookie that was sent
to its address (RFC 6347 section 4.2.1). A ClientHello on the address of a live
association goes the same way, and replaces it only when the new handshake is complete
(section 4.2.8), so a forged one disturbs nobody.
"""

import heapq
import hmac
import os
from collections.abc import Callable
from typing import Any

from fleetnet.errors import FleetError, HandshakeTimeout
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_dtls_wire import (
    CLIENT_HELLO,
    DECRYPT_ERROR,
    HANDSHAKE,
    fatal_alert,
    has_sealed_handshake,
    hello_verify_request,
    parse_hello_untrusted,
)
from fleetnet.ports.openssl_object import RECORD_HEADER, SslObject

Address = tuple[Any, ...]

_APPLICATION = 23
_COOKIE_BYTES = 16
_COOKIE_LIFE_S = 60.0

# A refused client whose alert was lost asks again; the alert is repeated so long and often.
_TOMBSTONE_S = 10.0
_TOMBSTONES = 1000
_REPEATS = 8

# OpenSSL drops what it cannot read, so a wrong pre-shared key would end in silence. Twice: once
# may be the loss or the late arrival of a ChangeCipherSpec.
_UNREADABLE = 2


class Association:
    """One client's DTLS state; ``owner`` belongs to whoever uses the acceptor."""

    __slots__ = ("address", "cookie", "deadline", "due", "owner", "ssl", "unreadable")

    def __init__(self, address: Address, ssl: SslObject, cookie: bytes, deadline: float):
        self.address = address
        self.ssl = ssl
        self.cookie = cookie  # stands for the ClientHello that began this handshake
        self.deadline = deadline
        self.due: float | None = None  # of the one timer that counts
        self.owner: Any = None
        self.unreadable = 0  # Finished messages that a pre-shared key did not open


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

    Attributes:
        context: of handshakes that begin from now on; those under way keep theirs.
        admit: function(address) -> whether a client whose cookie was right may begin a
            handshake, asked before anything is allocated. Default: up to ``max_handshakes``.
        handshake_timeout_s: as given; may be changed for handshakes that begin later.
        settled: function(address), an admitted handshake is over, whatever its end.
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
        self.half_open: dict[Address, Association] = {}
        self._tombstones: dict[Address, list[Any]] = {}
        self._timers: list[tuple[float, int, Association]] = []
        self._order = 0
        self._cookie_key = cookie_key or os.urandom(32)
        self._period = -1
        self._cookie_keys: list[bytes] = []
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
            if association is not None and data[0] == _APPLICATION:
                self._receive_record(association, data)
                return
            if data[0] == HANDSHAKE and not data[4] and data[RECORD_HEADER] == CLIENT_HELLO:
                self._receive_hello_untrusted(data, address, now)
                return
            half_open = self.half_open.get(address)
            if association is not None:
                # Also beside a new handshake: each drops what is not under its own keys.
                self._receive_record(association, data)
                if self.associations.get(address) is association:
                    self._flush(association)
            if half_open is not None:
                self._go_on(half_open, data, now)
            if association or half_open or self._repeat_alert(data, address, now):
                return
        self.junk += 1

    def _receive_record(self, association: Association, data: bytes) -> None:
        ssl = association.ssl
        ssl.feed(data)
        try:
            payload = ssl.read()
            while payload is not None:
                self._on_data(association, payload)
                # Most datagrams hold one record; a second look at the buffer costs a call.
                if not payload or RECORD_HEADER + (data[11] << 8 | data[12]) == len(data):
                    return
                if self.associations.get(association.address) is not association:
                    return
                payload = ssl.read()
        except FleetError as error:
            self._drop(association)
            self._on_lost(association, error)

    # -- strangers -------------------------------------------------------------------

    def _receive_hello_untrusted(self, data: bytes, address: Address, now: float) -> None:
        parsed = parse_hello_untrusted(data) if self.is_accepting else None
        if parsed is None:
            self.junk += 1
            return
        cookie, rest = parsed
        if not self._is_cookie(cookie, rest, address, now):
            self.hellos += 1
            answer = hello_verify_request(data[5:11], self._cookie(0, rest, address))
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

    def _cookie(self, key: int, rest: bytes, address: Address) -> bytes:
        message = repr(address).encode() + b"\0" + rest
        return hmac.digest(self._cookie_keys[key], message, "sha256")[:_COOKIE_BYTES]

    def _key_of(self, period: int) -> bytes:
        return hmac.digest(self._cookie_key, period.to_bytes(8, "big", signed=True), "sha256")

    def _is_cookie(self, cookie: bytes, rest: bytes, address: Address, now: float) -> bool:
        # The clock is the machine's: processes with one key have the same periods.
        period = int(now // _COOKIE_LIFE_S)
        if period != self._period:
            self._period = period
            self._cookie_keys = [self._key_of(period), self._key_of(period - 1)]
        if len(cookie) != _COOKIE_BYTES:
            return False
        return any(hmac.compare_digest(cookie, self._cookie(key, rest, address)) for key in (0, 1))

    def _begin(self, data: bytes, cookie: bytes, address: Address, now: float) -> None:
        """Make the state of a handshake, in the place of an unfinished one."""
        self._tombstones.pop(address, None)
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
            abandoned.ssl.free()
        association = Association(address, ssl, cookie, now + self.handshake_timeout_s)
        self.half_open[address] = association
        self._go_on(association, b"", now)

    # -- handshakes ------------------------------------------------------------------

    def _go_on(self, association: Association, data: bytes, now: float) -> None:
        association.ssl.feed(data)
        try:
            done = association.ssl.handshake()
        except FleetError as error:
            self._refuse(association, error, now)
            return
        self._flush(association)
        if done:
            self._open(association)
        elif self._is_wrong_key(association, data):
            # As RFC 4279 section 2 has it, for an unknown identity and for a wrong key alike.
            wrong = association.ssl.wrong_key()
            self._refuse(association, wrong, now, fatal_alert(DECRYPT_ERROR))
        else:
            self._arm(association, now)

    def _is_wrong_key(self, association: Association, data: bytes) -> bool:
        """Whether a client that shares a key has sent its Finished again, in vain."""
        if association.ssl.psk_identity is None or not has_sealed_handshake(data):
            return False
        association.unreadable += 1
        return association.unreadable >= _UNREADABLE

    def _open(self, association: Association) -> None:
        address = association.address
        del self.half_open[address]
        self.settled(address)
        old = self.associations.pop(address, None)
        self.associations[address] = association
        self.handshakes += 1
        if old is not None:
            self._on_lost(old, None)
            old.ssl.free()
        self._on_open(association)
        # Data may have come in the same datagram as the client's Finished.
        if association.address in self.associations:
            self._receive_rest(association)

    def _receive_rest(self, association: Association) -> None:
        try:
            while (payload := association.ssl.read()) is not None:
                self._on_data(association, payload)
                if self.associations.get(association.address) is not association:
                    return
        except FleetError as error:
            self._drop(association)
            self._on_lost(association, error)

    def _refuse(
        self, association: Association, error: FleetError, now: float, alert: bytes = b""
    ) -> None:
        alert = alert or association.ssl.output()
        if self.half_open.pop(association.address, None) is not None:
            self.settled(association.address)
        association.ssl.free()
        self.refused += 1
        if alert:
            self._transmit(alert, association.address)
            if len(self._tombstones) >= _TOMBSTONES:
                self._tombstones.pop(next(iter(self._tombstones)))
            self._tombstones[association.address] = [now + _TOMBSTONE_S, _REPEATS, alert]
        self._on_refused(association.address, error)

    def _repeat_alert(self, data: bytes, address: Address, now: float) -> bool:
        stone = self._tombstones.get(address)
        if stone is None:
            return False
        until, repeats, alert = stone
        if len(alert) > len(data):
            return False
        if now >= until or not repeats:
            del self._tombstones[address]
            return False
        stone[1] = repeats - 1
        self._transmit(alert, address)
        return True

    def _flush(self, association: Association) -> None:
        for datagram in association.ssl.datagrams(self._mtu):
            self._transmit(datagram, association.address)

    # -- timers ----------------------------------------------------------------------

    def _arm(self, association: Association, now: float) -> None:
        """Set the handshake's timer; one that is due earlier stays, and looks again."""
        wait_s = association.ssl.timeout()
        due = association.deadline if wait_s is None else min(now + wait_s, association.deadline)
        if association.due is not None and association.due <= due:
            return
        association.due = due
        self._order += 1
        heapq.heappush(self._timers, (due, self._order, association))

    def next_timer(self) -> float | None:
        """Return when handle_timer wants to run (``now`` of receive), or None."""
        return self._timers[0][0] if self._timers else None

    def handle_timer(self, now: float) -> None:
        """Retransmit handshake flights that are due, forget handshakes out of time."""
        while self._timers and self._timers[0][0] <= now:
            due, _, association = heapq.heappop(self._timers)
            if association.due != due:
                continue
            association.due = None
            if self.half_open.get(association.address) is not association:
                continue
            if now >= association.deadline:
                error = HandshakeTimeout(f"{association.ssl.peer}: DTLS handshake not finished")
                self._refuse(association, error, now)
                continue
            try:
                association.ssl.handle_timeout()
            except FleetError as error:
                self._refuse(association, error, now)
                continue
            self._flush(association)
            self._arm(association, now)

    # -- the owner's side --------------------------------------------------------------

    def send(self, association: Association, payload: bytes) -> None:
        """Send one datagram's payload; a lost one is the caller's to repeat."""
        association.ssl.write(payload)
        self._transmit(association.ssl.output(), association.address)

    def abandon(self, address: Address) -> None:
        """Forget an unfinished handshake, whose client may begin anew; says nothing to it."""
        association = self.half_open.pop(address, None)
        if association is not None:
            association.ssl.free()
            self.settled(address)

    def close(self, association: Association) -> None:
        """Send close_notify and forget the association."""
        if self.associations.get(association.address) is association:
            association.ssl.close_notify()
            self._flush(association)
            self._drop(association)

    def _drop(self, association: Association) -> None:
        if self.associations.get(association.address) is association:
            del self.associations[association.address]
            association.ssl.free()
