"""BLOB, BLOB_CHUNK and BLOB_STATE as values with a byte form.

    BLOB        id varint, number varint, size varint, chunk size varint, content format
                varint, base_ms varint, boot varint, 32 bytes SHA-256, name (UTF-8)
    BLOB_CHUNK  id varint, index varint, number * 2 + asks varint, bytes
    BLOB_STATE  id varint, status u8, then
                  RECEIVING  echo varint, credit varint, held varint, bitmap
                  STORED     nothing
                  REFUSED    reason u8, detail (UTF-8)
                  UNKNOWN    echo varint

All three are best-effort frames; blob_sender.py and blob_receiver.py make them reliable.
Source: docs/protocol.md section 13.
"""

from fleetnet import limits
from fleetnet.errors import LIMIT, ProtocolError
from fleetnet.varint import put_varint, take_varint

# What the receiver says of a blob.
RECEIVING = 0
STORED = 1
REFUSED = 2
UNKNOWN = 3  # offer it (again)

# Reasons of REFUSED.
TOO_LARGE = 1
MISMATCH = 2
CONTRADICTION = 3

REASONS = {
    TOO_LARGE: "larger than the back-end takes",
    MISMATCH: "the content is not that of its SHA-256: it changed while it was sent",
    CONTRADICTION: "offered before with another size or chunk size",
}

JPEG = 22
OCTET_STREAM = 42

HASH_SIZE = 32

# A unix time in ms fits six varint bytes until the year 2109.
_TIME_BYTES = 7


class Offer:
    """What BLOB says.

    Attributes:
        id: 1 .. 2**30-1, the device's own number of this blob.
        number: of this frame among those about the blob on its way to the receiver.
        size, chunk: bytes of the whole and of all chunks but the last.
        content_format: IANA CoAP number.
        base_ms, boot: when it was made, as in READINGS.
        sha256: 32 bytes.
        name: 1 to 64 characters.
    """

    def __init__(self, id: int, size: int, chunk: int, sha256: bytes, name: str):
        self.id = id
        self.number = 0
        self.size = size
        self.chunk = chunk
        self.sha256 = sha256
        self.name = name
        self.content_format = OCTET_STREAM
        self.base_ms = 0
        self.boot = 0

    @property
    def count(self) -> int:
        """Number of chunks."""
        return (self.size + self.chunk - 1) // self.chunk

    def length_of(self, index: int) -> int:
        """Return the bytes of chunk ``index``."""
        return min(self.chunk, self.size - index * self.chunk)

    def to_payload(self) -> bytes:
        """Return the body of BLOB."""
        out = bytearray()
        for value in (
            self.id,
            self.number,
            self.size,
            self.chunk,
            self.content_format,
            self.base_ms,
            self.boot,
        ):
            put_varint(out, value)
        out.extend(self.sha256)
        out.extend(self.name.encode())
        return bytes(out)


def check_name(name: str) -> None:
    """Raise ValueError when a blob may not be called so."""
    if not 0 < len(name) <= limits.MAX_BLOB_NAME:
        raise ValueError("blob name of %d characters, 1..%d" % (len(name), limits.MAX_BLOB_NAME))


def decode_offer(payload: bytes) -> Offer:
    """Read BLOB. Raises ProtocolError, nothing else."""
    id, at = take_varint(payload, 0)
    number, at = take_varint(payload, at)
    size, at = take_varint(payload, at)
    chunk, at = take_varint(payload, at)
    content_format, at = take_varint(payload, at)
    base_ms, at = take_varint(payload, at, _TIME_BYTES)
    boot, at = take_varint(payload, at)
    sha256 = payload[at : at + HASH_SIZE]
    try:
        name = str(payload[at + HASH_SIZE :], "utf-8")
    except UnicodeError:
        raise ProtocolError("name of a blob is not UTF-8")
    if len(sha256) != HASH_SIZE or not 0 < len(name) <= limits.MAX_BLOB_NAME:
        raise ProtocolError("blob offer is cut off, or its name is not 1..64 characters")
    if not 0 < id <= limits.MAX_BLOB or not 0 < number <= limits.MAX_BLOB:
        raise ProtocolError("blob %d, frame %d out of range" % (id, number))
    if not limits.MIN_BLOB_CHUNK <= chunk <= limits.MAX_FRAME_PAYLOAD:
        raise ProtocolError("blob chunks of %d B" % chunk, LIMIT)
    offer = Offer(id, size, chunk, sha256, name)
    offer.number = number
    offer.content_format = content_format
    offer.base_ms = base_ms
    offer.boot = boot
    return offer


def put_chunk_head(out: bytearray, id: int, index: int, number: int, asks: bool) -> None:
    """Append what goes before a chunk's bytes; ``asks``: the receiver shall answer now."""
    put_varint(out, id)
    put_varint(out, index)
    put_varint(out, number * 2 + asks)


def decode_chunk(payload: bytes) -> "tuple[int, int, int, bool, memoryview]":
    """Read BLOB_CHUNK: (id, index, number, asks, content). Raises ProtocolError only."""
    id, at = take_varint(payload, 0)
    index, at = take_varint(payload, at)
    number, at = take_varint(payload, at)
    return id, index, number >> 1, bool(number & 1), memoryview(payload)[at:]


class State:
    """What BLOB_STATE says.

    Attributes:
        id, status: of the blob; see the constants.
        echo: highest number of a frame about the blob that arrived on this link.
        credit: chunks that may be on their way at once; 0: wait, and ask again.
        held: chunks 0 .. held-1 are there.
        bitmap: bit i, lowest bit of the first byte first: chunk held + 1 + i is there.
        reason, detail: of REFUSED.
    """

    def __init__(self, id: int, status: int, echo: int = 0):
        self.id = id
        self.status = status
        self.echo = echo
        self.credit = 0
        self.held = 0
        self.bitmap = b""
        self.reason = 0
        self.detail = ""

    def has(self, index: int) -> bool:
        """Say whether the receiver has chunk ``index``."""
        bit = index - self.held - 1
        if bit < 0:
            return index < self.held
        at = bit >> 3
        return at < len(self.bitmap) and bool(self.bitmap[at] >> (bit & 7) & 1)

    def to_payload(self) -> bytes:
        """Return the body of BLOB_STATE."""
        out = bytearray()
        put_varint(out, self.id)
        out.append(self.status)
        if self.status in (RECEIVING, UNKNOWN):
            put_varint(out, self.echo)
        if self.status == RECEIVING:
            put_varint(out, self.credit)
            put_varint(out, self.held)
            out.extend(self.bitmap)
        elif self.status == REFUSED:
            out.append(self.reason)
            out.extend(self.detail[: limits.MAX_TEXT].encode())
        return bytes(out)


def decode_state(payload: bytes) -> State:
    """Read BLOB_STATE. Raises ProtocolError, nothing else."""
    id, at = take_varint(payload, 0)
    if at >= len(payload) or payload[at] > UNKNOWN:
        raise ProtocolError("blob state is cut off, or has an unknown status")
    state = State(id, payload[at])
    at += 1
    if state.status in (RECEIVING, UNKNOWN):
        state.echo, at = take_varint(payload, at)
    if state.status == RECEIVING:
        state.credit, at = take_varint(payload, at)
        state.held, at = take_varint(payload, at)
        state.bitmap = payload[at:]
        if len(state.bitmap) > limits.BLOB_SPAN >> 3:
            raise ProtocolError("blob bitmap of %d B" % len(state.bitmap), LIMIT)
    elif state.status == REFUSED:
        if at >= len(payload):
            raise ProtocolError("refusal of a blob without a reason")
        state.reason = payload[at]
        try:
            state.detail = str(payload[at + 1 :], "utf-8")[: limits.MAX_TEXT]
        except UnicodeError:
            raise ProtocolError("refusal of a blob is not UTF-8")
    return state
