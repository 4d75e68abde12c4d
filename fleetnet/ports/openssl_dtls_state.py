"""What DtlsAcceptor remembers: cookie keys, unfinished handshakes, associations, last words."""

import heapq
import hmac
import os
from collections.abc import Iterator
from typing import Any

from fleetnet.ports.openssl_compact import Session
from fleetnet.ports.openssl_dtls_wire import sealed
from fleetnet.ports.openssl_object import SslObject

Address = tuple[Any, ...]

_COOKIE_BYTES = 16
_COOKIE_LIFE_S = 60.0

# A refused client whose alert was lost asks again; the alert is repeated so long and often.
_TOMBSTONE_S = 10.0
_TOMBSTONES = 1000
_REPEATS = 8

# Datagrams with data that overtook the end of the handshake; others are lost, as on the wire.
_MOST_EARLY = 4


class Cookies:
    """Makes and checks the cookies of HelloVerifyRequest (RFC 6347 section 4.2.1)."""

    def __init__(self, key: bytes = b""):
        """Args: key: of all processes that share a port; default: one of its own."""
        self._key = key or os.urandom(32)
        self._period = -1
        self._keys: list[bytes] = []

    def make(self, rest: bytes, address: Address, key: int = 0) -> bytes:
        """Return the cookie of a hello; ``is_good`` was asked before."""
        message = repr(address).encode() + b"\0" + rest
        return hmac.digest(self._keys[key], message, "sha256")[:_COOKIE_BYTES]

    def _key_of(self, period: int) -> bytes:
        return hmac.digest(self._key, period.to_bytes(8, "big", signed=True), "sha256")

    def is_good(self, cookie: bytes, rest: bytes, address: Address, now: float) -> bool:
        """Whether a cookie was made for this hello and address, lately."""
        # The clock is the machine's: processes with one key have the same periods.
        period = int(now // _COOKIE_LIFE_S)
        if period != self._period:
            self._period = period
            self._keys = [self._key_of(period), self._key_of(period - 1)]
        if len(cookie) != _COOKIE_BYTES:
            return False
        return any(hmac.compare_digest(cookie, self.make(rest, address, key)) for key in (0, 1))


class Handshake:
    """One client's unfinished handshake.

    Attributes:
        cookie: stands for the ClientHello that began it.
        due: of the one timer that counts. deadline: then it is forgotten.
        unreadable: Finished messages that a pre-shared key did not open.
        may_compact: nothing was agreed on that only OpenSSL knows how to keep to.
        early: sealed records that came in front of its end.
    """

    __slots__ = (
        "address", "cookie", "deadline", "due", "early", "may_compact", "ssl", "unreadable",
    )  # fmt: skip

    def __init__(self, address: Address, ssl: SslObject, cookie: bytes, deadline: float):
        self.address = address
        self.ssl = ssl
        self.cookie = cookie
        self.deadline = deadline
        self.due: float | None = None
        self.unreadable = 0
        self.may_compact = True
        self.early: list[list[bytes]] = []

    def note_early(self, datagram: bytes) -> None:
        """Keep the sealed records of a datagram until it is known whether they are authentic.

        The newest is always kept: it may be the one with which the handshake ends.
        """
        records = sealed(datagram)
        if records:
            del self.early[_MOST_EARLY - 1 :]
            self.early.append(records)

    def end(self) -> None:
        """Give up its memory; a timer may hold the rest until it is due."""
        self.ssl.free()
        self.early = []


class Timers:
    """Of handshakes, in the order in which they are due; one counts for each."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Handshake]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, handshake: Handshake, due: float) -> None:
        """Set a handshake's timer; one that is due earlier stays, and looks again."""
        if handshake.due is not None and handshake.due <= due:
            return
        handshake.due = due
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, handshake))

    def first(self) -> float | None:
        """Return when the first is due."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Iterator[Handshake]:
        """Yield those that are due; they may be armed again meanwhile."""
        while self._heap and self._heap[0][0] <= now:
            due, _, handshake = heapq.heappop(self._heap)
            if handshake.due == due:
                handshake.due = None
                yield handshake


class Association:
    """One client's DTLS session; ``owner`` belongs to whoever uses the acceptor.

    Attributes:
        ssl: what opens and seals its records: keys alone, or OpenSSL's object.
        cookie: see Handshake.
    """

    __slots__ = ("address", "cookie", "owner", "ssl")

    def __init__(self, address: Address, ssl: SslObject | Session, cookie: bytes):
        self.address = address
        self.ssl = ssl
        self.cookie = cookie
        self.owner: Any = None


class LastWords:
    """Alerts for refused clients, who ask again when theirs was lost."""

    def __init__(self) -> None:
        self._alerts: dict[Address, list[Any]] = {}

    def __len__(self) -> int:
        return len(self._alerts)

    def keep(self, address: Address, alert: bytes, now: float) -> None:
        """Remember the alert that went to ``address``."""
        if len(self._alerts) >= _TOMBSTONES:
            self._alerts.pop(next(iter(self._alerts)))
        self._alerts[address] = [now + _TOMBSTONE_S, _REPEATS, alert]

    def forget(self, address: Address) -> None:
        """It begins anew."""
        self._alerts.pop(address, None)

    def again(self, size: int, address: Address, now: float) -> bytes:
        """Return the alert to answer a datagram of ``size`` bytes with, or b""."""
        kept = self._alerts.get(address)
        if kept is None or len(kept[2]) > size:
            return b""
        until, repeats, alert = kept
        if now >= until or not repeats:
            del self._alerts[address]
            return b""
        kept[1] = repeats - 1
        return bytes(alert)
