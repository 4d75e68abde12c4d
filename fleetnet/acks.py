"""ACK and FORWARD: what a receiver holds, and what a sender gave up.

    ACK      window varint, then for each stream: stream u8, durable varint,
             n u8, n bytes bitmap
    FORWARD  for each stream: stream u8, oldest varint

Bit i of the bitmap (bit 0 = lowest bit of the first byte) stands for sequence number
durable + 1 + i. Source: docs/protocol.md sections 6.1 and 6.4.
"""

from fleetnet import limits
from fleetnet.errors import LIMIT, ProtocolError
from fleetnet.varint import put_varint, take_varint


def put_ack(out: bytearray, number: int, durable: int, bitmap: bytes) -> None:
    """Append one stream's entry of ACK; ``bitmap`` has at most 255 bytes."""
    out.append(number)
    put_varint(out, durable)
    out.append(len(bitmap))
    out.extend(bitmap)


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


def encode_forward(oldest: "dict[int, int]") -> bytes:
    """Lay out FORWARD from stream -> oldest sequence number that will still come."""
    out = bytearray()
    for number in sorted(oldest):
        out.append(number)
        put_varint(out, oldest[number])
    return bytes(out)


def decode_forward(payload: bytes) -> "dict[int, int]":
    """Read FORWARD: stream -> oldest that will still come.

    Raises:
        ProtocolError: cut off, or a stream or a sequence number out of range, or
            a stream named twice.
    """
    at = 0
    entries: "dict[int, int]" = {}
    while at < len(payload):
        number = payload[at]
        oldest, at = take_varint(payload, at + 1)
        if not 0 < number <= limits.MAX_STREAM or not 0 < oldest <= limits.MAX_SEQUENCE + 1:
            raise ProtocolError("FORWARD of stream %d to %d" % (number, oldest))
        if number in entries:
            raise ProtocolError("FORWARD names stream %d twice" % number)
        entries[number] = oldest
    return entries
