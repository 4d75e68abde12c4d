"""Frames: the one unit that both transports carry.

    kind    u8      bit 7 set: optional, a receiver that does not know it skips it
    flags   u8      bits 0-3 stream, bit 4 sequenced, bit 5 more fragments follow,
                    bits 6-7 zero
    length  varint  payload bytes, at most 65,535 (1 to 3 bytes)
    seq     varint  only when sequenced, 1 .. 2**30-1 (1 to 5 bytes)
    payload

On TLS frames follow one another; a DTLS datagram holds one or more whole frames.

Source: docs/protocol.md section 2.
"""

from fleetnet import limits
from fleetnet.errors import LIMIT, ProtocolError
from fleetnet.varint import put_varint, take_varint

# Kinds (docs/protocol.md section 3). Control kinds are below MESSAGE.
HELLO = 0x01
WELCOME = 0x02
REFUSE = 0x03
BYE = 0x04
BYE_ACK = 0x05
PING = 0x06
PONG = 0x07
ACK = 0x08
FORWARD = 0x09
MESSAGE = 0x10  # this and above go to the application
READINGS = 0x10
RAW = 0x11
EVENT = 0x12
LOG = 0x13
CALL = 0x18
RESULT = 0x19
CONFIG = 0x20
CONFIG_STATE = 0x21
BLOB = 0x28
BLOB_CHUNK = 0x29
BLOB_STATE = 0x2A
CREDENTIAL = 0x30
CREDENTIAL_STATE = 0x31
RELAY = 0x38
OPTIONAL = 0x80

# Streams; the lower number leaves first (docs/protocol.md section 5).
CONTROL = 0
COMMANDS = 1
EVENTS = 2
TELEMETRY = 3
LOGS = 4
BLOBS = 5

STREAM_MASK = 0x0F
SEQUENCED = 0x10
MORE = 0x20
_RESERVED = 0xC0

# kind, flags, 3 bytes of length, 5 of sequence number.
_MAX_HEADER = 10


def encode_frame(kind: int, flags: int, seq: int, payload: "bytes | memoryview") -> bytes:
    """Lay out one frame; ``seq`` counts only when ``flags`` has SEQUENCED."""
    head = bytearray((kind, flags))
    put_varint(head, len(payload))
    if flags & SEQUENCED:
        put_varint(head, seq)
    return bytes(head) + payload


def decode_frame(
    data: "bytes | bytearray", at: int, max_payload: int
) -> "tuple[int, int, int, int, int] | None":
    """Read the header of the frame that begins at offset ``at``.

    Returns:
        (kind, flags, seq, payload start, payload end), seq 0 when not sequenced; or None
        when the frame is not all there yet. The payload is neither read nor copied.

    Raises:
        ProtocolError: reserved flags, a length above ``max_payload``, an over-long or
            over-large number, sequence 0. Nothing else, whatever the bytes.
    """
    end = len(data)
    if end - at < 3:
        return None
    flags = data[at + 1]
    if flags & _RESERVED:
        raise ProtocolError("reserved frame flags 0x%02x" % flags)
    length = data[at + 2]
    start = at + 3
    seq = 0
    try:
        if length > 0x7F:
            length, start = take_varint(data, at + 2, 3)
        if flags & SEQUENCED:
            seq = data[start] if start < end else 0x80
            start += 1
            if not 0 < seq < 0x80:
                seq, start = take_varint(data, start - 1)
    except ProtocolError:
        if end - at < _MAX_HEADER:
            return None  # a header that is still arriving looks cut off
        raise
    if length > max_payload:
        raise ProtocolError("frame of %d B, limit %d B" % (length, max_payload), LIMIT)
    if flags & SEQUENCED:
        if not 0 < seq <= limits.MAX_SEQUENCE:
            raise ProtocolError("sequence number %d" % seq)
    elif flags & MORE:
        raise ProtocolError("fragment without a sequence number")
    stop = start + length
    return None if stop > end else (data[at], flags, seq, start, stop)


class FrameSplitter:
    """Cuts a byte stream into frames; keeps at most one incomplete frame."""

    def __init__(self, max_payload: int):
        self.max_payload = max_payload
        self._rest = b""

    def split(self, data: bytes) -> "list[tuple[int, int, int, bytes]]":
        """Take the next bytes; return the frames that they complete.

        Returns:
            list of (kind, flags, seq, payload).

        Raises:
            ProtocolError: as decode_frame; the stream is unusable from then on.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0
        frames = []
        while True:
            head = decode_frame(data, at, self.max_payload)
            if head is None:
                break
            kind, flags, seq, start, at = head
            frames.append((kind, flags, seq, data[start:at]))
        if at < len(data):
            self._rest = data[at:]
        return frames


def split_datagram(data: bytes, max_payload: int) -> "list[tuple[int, int, int, bytes]]":
    """Cut one datagram, which must hold whole frames only.

    Raises:
        ProtocolError: as decode_frame, or the last frame is cut off.
    """
    at = 0
    end = len(data)
    frames = []
    while at < end:
        head = decode_frame(data, at, max_payload)
        if head is None:
            raise ProtocolError("datagram ends inside a frame")
        kind, flags, seq, start, at = head
        frames.append((kind, flags, seq, data[start:at]))
    return frames


def pack_datagrams(frames: "list[bytes]") -> "list[bytes]":
    """Put whole encoded frames together into datagrams of at most DATAGRAM_PAYLOAD bytes."""
    datagrams = []
    group: "list[bytes]" = []
    size = 0
    for encoded in frames:
        if group and size + len(encoded) > limits.DATAGRAM_PAYLOAD:
            datagrams.append(b"".join(group))
            group = []
            size = 0
        group.append(encoded)
        size += len(encoded)
    datagrams.append(b"".join(group))
    return datagrams
