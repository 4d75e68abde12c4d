"""Tagged fields: how HELLO, WELCOME, REFUSE, BYE, PING and PONG carry their values.

    tag varint, length varint, value        repeated, each tag at most once

A receiver skips tags that it does not know, so that a field can be added without a new
version. Source: docs/protocol.md section 2.2.
"""

from fleetnet import limits
from fleetnet.errors import LIMIT, ProtocolError
from fleetnet.varint import put_varint, take_varint


class FieldWriter:
    """Collects fields in the order in which they are put."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def put_bytes(self, tag: int, value: "bytes | bytearray") -> None:
        put_varint(self._buffer, tag)
        put_varint(self._buffer, len(value))
        self._buffer.extend(value)

    def put_int(self, tag: int, value: int) -> None:
        """Put an unsigned integer as a varint value."""
        number = bytearray()
        put_varint(number, value)
        self.put_bytes(tag, number)

    def put_text(self, tag: int, text: str) -> None:
        """Put UTF-8 text, cut to MAX_TEXT characters."""
        self.put_bytes(tag, text[: limits.MAX_TEXT].encode())

    def to_payload(self) -> bytes:
        return bytes(self._buffer)


class FieldReader:
    """Reads a payload of fields; each getter gives its default for an absent tag.

    Raises:
        ProtocolError: from the constructor and from every getter; nothing else.
    """

    def __init__(self, payload: bytes):
        self._fields: "dict[int, bytes]" = {}
        at = 0
        end = len(payload)
        while at < end:
            tag, at = take_varint(payload, at)
            length, at = take_varint(payload, at)
            if length > end - at:
                raise ProtocolError("field %d is cut off" % tag)
            if tag in self._fields:
                raise ProtocolError("field %d appears twice" % tag)
            if len(self._fields) >= limits.MAX_FIELDS:
                raise ProtocolError("more than %d fields" % limits.MAX_FIELDS, LIMIT)
            self._fields[tag] = payload[at : at + length]
            at += length

    def has(self, tag: int) -> bool:
        return tag in self._fields

    def get_bytes(self, tag: int, default: bytes = b"", size: int = -1) -> bytes:
        """Return the raw value; ``size`` >= 0 demands exactly that many bytes."""
        value = self._fields.get(tag)
        if value is None:
            return default
        if size >= 0 and len(value) != size:
            raise ProtocolError("field %d has %d B, not %d" % (tag, len(value), size))
        return value

    def get_int(self, tag: int, default: int = 0, max_bytes: int = 5) -> int:
        value = self._fields.get(tag)
        if value is None:
            return default
        number, at = take_varint(value, 0, max_bytes)
        if at != len(value):
            raise ProtocolError("field %d holds more than a number" % tag)
        return number

    def get_text(self, tag: int) -> str:
        """Return text of at most MAX_TEXT characters; bytes that are not UTF-8 refuse."""
        try:
            return str(self.get_bytes(tag), "utf-8")[: limits.MAX_TEXT]
        except (UnicodeError, ValueError):
            raise ProtocolError("field %d is not UTF-8 text" % tag)
