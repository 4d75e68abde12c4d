"""Frames: the one unit that both transports carry.

    kind    u8      bit 7 set: optional, a receiver that does not know it skips it
    flags   u8      bits 0-3 stream, bit 4 sequenced, bit 5 more fragments follow,
                    bits 6-7 zero
    length  varint  payload bytes, at most 65,535 (1 to 3 bytes)
    seq     varint  only when sequenced, 1 .. 2**30-1 (1 to 5 bytes)
    payload

On TLS frames follow one another; a DTLS datagram holds one or more whole frames.

The payloads of two kinds are here, too, as the sender of messages reads and writes them;
receiver.py has the other side:

    ACK      window varint, then for each stream: stream u8, durable varint,
             n u8, n bytes bitmap
    FORWARD  for each stream: stream u8, oldest varint

Bit i of the bitmap (bit 0 = lowest bit of the first byte) stands for sequence number
durable + 1 + i.

Source: docs/protocol.md sections 2, 6.1 and 6.4.
"""

from fleetnet import limits
from fleetnet.errors import LIMIT, ProtocolError
from fleetnet.kinds import (
    ACK,
    BLOB,
    BLOB_CHUNK,
    BLOB_STATE,
    BLOBS,
    BYE,
    BYE_ACK,
    CALL,
    COMMANDS,
    CONFIG,
    CONFIG_STATE,
    CONTROL,
    CREDENTIAL,
    CREDENTIAL_STATE,
    EVENT,
    EVENTS,
    FORWARD,
    HELLO,
    LOG,
    LOGS,
    MESSAGE,
    MORE,
    OPTIONAL,
    PING,
    PONG,
    RAW,
    READINGS,
    REFUSE,
    RELAY,
    RESULT,
    SEQUENCED,
    STREAM_MASK,
    TELEMETRY,
    WELCOME,
)
from fleetnet.varint import put_varint, take_varint

__all__ = (
    "ACK",
    "BLOB",
    "BLOBS",
    "BLOB_CHUNK",
    "BLOB_STATE",
    "BYE",
    "BYE_ACK",
    "CALL",
    "COMMANDS",
    "CONFIG",
    "CONFIG_STATE",
    "CONTROL",
    "CREDENTIAL",
    "CREDENTIAL_STATE",
    "EVENT",
    "EVENTS",
    "FORWARD",
    "HELLO",
    "LOG",
    "LOGS",
    "MESSAGE",
    "MORE",
    "OPTIONAL",
    "PING",
    "PONG",
    "RAW",
    "READINGS",
    "REFUSE",
    "RELAY",
    "RESULT",
    "SEQUENCED",
    "STREAM_MASK",
    "TELEMETRY",
    "WELCOME",
    "FrameSplitter",
    "decode_ack",
    "decode_frame",
    "encode_forward",
    "encode_frame",
    "pack_datagrams",
    "split_datagram",
)

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


def decode_ack(payload: bytes) -> "tuple[int, list[tuple[int, int, bytes]]]":
    """Read ACK: (window, list of (stream, durable, bitmap)).

    Raises:
        ProtocolError: cut off, or a stream or the window out of range.
    """
    window, at = take_varint(payload, 0)
    if window > limits.MAX_WINDOW:
        raise ProtocolError("window %d, limit %d" % (window, limits.MAX_WINDOW), LIMIT)
    end = len(payload)
    entries = []
    while at < end:
        number = payload[at]
        durable, at = take_varint(payload, at + 1)
        if at >= end or not 0 < number <= limits.MAX_STREAM:
            raise ProtocolError("acknowledgement is cut off or names stream %d" % number)
        stop = at + 1 + payload[at]
        if stop > end:
            raise ProtocolError("acknowledgement bitmap is cut off")
        entries.append((number, durable, payload[at + 1 : stop]))
        at = stop
    return window, entries


def encode_forward(numbers: "dict[int, int]") -> bytes:
    """Lay out FORWARD from stream -> oldest sequence number that will still come.

    A greeting's resume points have the same form.
    """
    out = bytearray()
    for number in sorted(numbers):
        out.append(number)
        put_varint(out, numbers[number])
    return bytes(out)
