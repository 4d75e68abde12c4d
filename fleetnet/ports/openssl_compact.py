"""A DTLS 1.2 session behind its handshake, without OpenSSL's object: keys, counters, a window.

``Session`` opens and seals the records of epoch 1. What it is given comes from whoever sends
UDP: everything is checked before a key is used, and changes nothing unless the record is
authentic. ``KeptAeads`` bounds how many sessions hold ready-made AEAD objects; the others have
theirs made from the key for each record, which costs a microsecond.

A sequence number is drawn before a record is sealed, from a counter that only goes up, so no
two texts are ever sealed under one nonce; a flight that is sent again is sent as the same bytes.

Sources: RFC 6347 sections 4.1 (header, replay window 4.1.2.6, invalid records 4.1.2.7), 4.2.4
(who repeats the last flight); RFC 5246 sections 6.2.3.3 (AEAD), 7.2 (alerts); RFC 5288 section 3;
RFC 9325 section 4.4 and RFC 8446 section 5.5 (how much one key may seal).
"""

import itertools
import struct
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetnet.errors import FleetError, LinkClosed
from fleetnet.ports.openssl_compact_keys import EXPLICIT_BYTES, SEAL_BYTES, TAG_BYTES, Keys
from fleetnet.ports.openssl_dtls_wire import ALERT, APPLICATION, HANDSHAKE, RECORD_HEADER
from fleetnet.ports.openssl_errors import map_failure

_FIRST_BYTE = RECORD_HEADER + EXPLICIT_BYTES
_LEAST_RECORD = _FIRST_BYTE + TAG_BYTES
_VERSION_AND_EPOCH = 0xFEFD0001
# Of a record: version and epoch, the sequence number's two parts, the nonce's explicit part.
_read_head = struct.Struct(">xIHI2x8s").unpack_from
# What is authenticated beside the text (RFC 5246 section 6.2.3.3): number, kind, version, length.
_associated = struct.Struct(">8s3sH").pack
_EPOCH = 1 << 48  # epoch 1, in front of the 48 bits of the sequence number

_WINDOW = 64  # records, as RFC 6347 section 4.1.2.6 prefers
_WINDOW_BITS = (1 << _WINDOW) - 1

# Bytes of text in a record (RFC 5246 section 6.2.1).
_MOST_TEXT = 1 << 14

# Records under one key, either way: 2**24.5, as RFC 9325 section 4.4 takes it over from RFC 8446
# section 5.5. DTLS 1.2 cannot change keys: the session ends, and the next one has others.
MOST_RECORDS = 23_726_566
# Records that did not open under one key, 2**36 (RFC 9147 section 4.5.3).
MOST_FORGED = 1 << 36

# A client repeats its flight after 0.4 s at the earliest (RFC 9147 section 5.8.2 allows less than
# RFC 6347's second); more often than this nobody is answered.
REPEAT_PAUSE_S = 0.2

_FATAL = 2
# How openssl_errors.py is told of an alert that came.
_VERIFIED = 0
_ALERT_REASON = 1000

_NO_RENEGOTIATION = b"\x01\x64"  # a warning (RFC 5246 section 7.2.2)
_GOODBYE = b"\x01\x00"
_FINISHED = 20
_CLIENT_HELLO = 1

Aead = Callable[[bytes, bytes, bytes], bytes]


class KeptAeads:
    """AEAD objects of the busy sessions, and what an acceptor counts.

    Attributes:
        due: when ``sweep`` wants to run, None: nothing is kept.
        forged: records that did not open, or could not be one. replayed: seen before, or too old
            to tell.
    """

    # A session that gets so many records between two sweeps holds two objects, 4 KB; one that
    # gets fewer pays a microsecond for each record instead.
    BUSY_RECORDS = 16
    SWEEP_S = 10.0
    # Of so many sessions: 16 MB.
    MOST_KEPT = 4096

    def __init__(self) -> None:
        self.due: float | None = None
        self.forged = 0
        self.replayed = 0
        self._tops: dict[Session, int] = {}

    def __len__(self) -> int:
        return len(self._tops)

    def has_room(self, session: "Session", now: float) -> bool:
        """Whether a session may hold its objects, which it then does from now on."""
        if len(self._tops) >= self.MOST_KEPT:
            return False
        self._tops[session] = session.top - self.BUSY_RECORDS  # the next sweep may be near
        if self.due is None:
            self.due = now + self.SWEEP_S
        return True

    def sweep(self, now: float) -> None:
        """Have the sessions that have become quiet give up theirs; seconds, monotonic."""
        for session, top in list(self._tops.items()):
            if session.top - top < self.BUSY_RECORDS:
                del self._tops[session]
                session.rest()
            else:
                self._tops[session] = session.top
        self.due = now + self.SWEEP_S if self._tops else None

    def forget(self, session: "Session") -> None:
        """A session is over."""
        self._tops.pop(session, None)


class Session:
    """See the module's docstring; of a server. Calls that OpenSSL's object has are the same.

    Attributes:
        peer, psk_identity, verified: see SslObject.
        top: highest sequence number of an authentic record; -1: there was none.
        quiet_since: ``top`` when it last gave up its AEAD objects.
    """

    __slots__ = (
        "_answered",
        "_certificate",
        "_cipher",
        "_flight",
        "_forged",
        "_kept",
        "_keys",
        "_numbers",
        "_open",
        "_seal",
        "_seen",
        "peer",
        "psk_identity",
        "quiet_since",
        "top",
        "verified",
    )

    def __init__(
        self,
        keys: Keys,
        cipher: tuple[str, str],
        first: int,
        flight: bytes,
        kept: KeptAeads,
        now: float,
    ):
        """Args: first: sequence number to write with. flight: the last one, sent ``now``."""
        self._keys: Keys | None = keys
        self._cipher = cipher
        self._numbers = itertools.count(first)
        self._flight = flight
        self._kept = kept
        self._open: Aead | None = None
        self._seal: Aead | None = None
        self._seen = 0  # bit n: whether record top - n was seen
        self._forged = 0
        self._answered = now
        self._certificate: bytes | None = None
        self.top = self.quiet_since = -1
        self.peer = ""
        self.psk_identity: bytes | None = None
        self.verified = False

    def knows(self, peer: str, verified: bool, identity: bytes | None, der: bytes | None) -> None:
        """Take over who the client is."""
        self.peer, self.verified, self.psk_identity = peer, verified, identity
        self._certificate = der

    def peer_certificate(self) -> bytes | None:
        """See SslObject."""
        return self._certificate

    def forget_certificate(self) -> None:
        """Let it go: half a kilobyte, where the owner has read in it what there is to know."""
        self._certificate = None

    def cipher(self) -> tuple[str, str]:
        """See SslObject."""
        return self._cipher

    # -- records -----------------------------------------------------------------------

    def open(self, record: bytes, now: float) -> bytes | None:
        """Return the text of one record; None: it is not authentic, or not new.

        Args:
            record: with its header, exactly. now: seconds, monotonic.

        Raises:
            LinkClosed: this key has done all that it may.
        """
        keys = self._keys
        if keys is None:
            return None
        length = len(record) - _LEAST_RECORD
        if not 0 <= length <= _MOST_TEXT:
            self._kept.forged += 1
            return None
        of, high, low, explicit = _read_head(record)
        if of != _VERSION_AND_EPOCH:
            self._kept.forged += 1
            return None
        number = high << 32 | low
        ahead = number - self.top
        if ahead <= 0 and (ahead <= -_WINDOW or self._seen >> -ahead & 1):
            self._kept.replayed += 1
            return None
        decrypt = self._open or self._opener(keys, now)
        try:
            text = decrypt(
                keys[2] + explicit,
                record[_FIRST_BYTE:],
                _associated(record[3:11], record[:3], length),
            )
        except InvalidTag:
            self._count_forged()
            return None
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _WINDOW_BITS if ahead < _WINDOW else 1
            self.top = number
            if number >= MOST_RECORDS:
                raise self._used_up()
        else:
            self._seen |= 1 << -ahead
        return text

    def _opener(self, keys: Keys, now: float) -> Aead:
        kept = self._kept
        if self.top - self.quiet_since < kept.BUSY_RECORDS or not kept.has_room(self, now):
            return AESGCM(keys.client_key).decrypt
        self._seal = AESGCM(keys.server_key).encrypt
        self._open = AESGCM(keys.client_key).decrypt
        return self._open

    def _count_forged(self) -> None:
        self._kept.forged += 1
        self._forged += 1
        if self._forged >= MOST_FORGED:
            raise self._used_up()

    def seal(self, text: bytes, kind: int = APPLICATION) -> bytes:
        """Return a record of ``text``, bytes-like; b"" when there is none.

        Raises:
            ValueError: more than a record holds. LinkClosed: the session is over, or the key has
                sealed all that it may.
        """
        if type(text) is not bytes:
            text = bytes(text)  # a buffer could change under the cipher
        length = len(text)
        if length > _MOST_TEXT:
            raise ValueError(f"datagram of {length} B, limit {_MOST_TEXT} B")
        if not length:
            return b""
        keys = self._keys
        if keys is None:
            raise LinkClosed(f"{self.peer}: association is closed")
        number = next(self._numbers)  # of one step, and never given back
        if number >= MOST_RECORDS and (kind == APPLICATION or number >= _EPOCH):
            raise self._used_up()
        numbered = (_EPOCH | number).to_bytes(8, "big")
        head = b"\x17\xfe\xfd" if kind == APPLICATION else bytes((kind, 0xFE, 0xFD))
        encrypt = self._seal or AESGCM(keys[1]).encrypt
        sealed = encrypt(keys[3] + numbered, text, numbered + head + length.to_bytes(2, "big"))
        return head + numbered + (length + SEAL_BYTES).to_bytes(2, "big") + numbered + sealed

    def _used_up(self) -> LinkClosed:
        return LinkClosed(f"{self.peer}: its keys have done all that is safe: connect again")

    # -- what is not data ----------------------------------------------------------------

    def answer(self, kind: int, text: bytes, now: float) -> bytes | None:
        """Take the text of an authentic record that is no data; return bytes to send.

        Returns:
            None: the client said close_notify. b"": nothing to say.

        Raises:
            Rejected: a fatal alert.
        """
        if kind == HANDSHAKE and text and self._may_repeat(text[0], now):
            if text[0] == _FINISHED:
                return self._flight  # the same bytes
            return self.seal(_NO_RENEGOTIATION, ALERT)
        if kind == ALERT and len(text) == 2:
            if text == _GOODBYE:
                return None
            if text[0] == _FATAL:
                self._keys = None  # nothing is said behind it
                raise map_failure(_VERIFIED, [(_ALERT_REASON + text[1], "")], self.peer, True)
        return b""

    def _may_repeat(self, message: int, now: float) -> bool:
        if message not in (_FINISHED, _CLIENT_HELLO):
            return False
        if now - self._answered < REPEAT_PAUSE_S:
            return False
        self._answered = now
        return True

    def goodbye(self) -> bytes:
        """Return a record that says close_notify; b"" when nothing may be sealed any more."""
        try:
            return self.seal(_GOODBYE, ALERT)
        except FleetError:
            return b""

    # -- memory --------------------------------------------------------------------------

    def rest(self) -> None:
        """Give up the AEAD objects until there is much to do again."""
        self._open = self._seal = None
        self.quiet_since = self.top

    def free(self) -> None:
        """Forget the keys."""
        self._keys = self._open = self._seal = None
        self._kept.forget(self)
