"""Variable-length unsigned integers: seven bits a byte, low bits first, high bit = more.

Source: docs/protocol.md section 2.1 (the LEB128 of DWARF 4 section 7.6).
"""

from fleetnet.errors import ProtocolError


def put_varint(buffer: bytearray, value: int) -> None:
    """Append ``value`` (0 or more) to ``buffer``."""
    while value > 0x7F:
        buffer.append(value & 0x7F | 0x80)
        value >>= 7
    buffer.append(value)


def take_varint(
    data: "bytes | bytearray | memoryview", at: int, max_bytes: int = 5
) -> "tuple[int, int]":
    """Read one integer from ``data`` at offset ``at``.

    Returns:
        (value, offset behind it).

    Raises:
        ProtocolError: the bytes end first, there are more than ``max_bytes``, or the last
            one is zero (every value has one encoding).
    """
    value = shift = 0
    end = len(data)
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if byte == 0 and shift > 7:
                raise ProtocolError("varint is not in its shortest form")
            return value, at
        if shift >= 7 * max_bytes:
            raise ProtocolError("varint is longer than %d bytes" % max_bytes)
    raise ProtocolError("varint is cut off")
