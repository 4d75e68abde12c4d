"""The few DTLS records that are read or written without OpenSSL (RFC 6347 section 4)."""

from collections.abc import Iterator

RECORD_HEADER = 13  # type, version, epoch, sequence number, length

CHANGE_CIPHER_SPEC = 20
ALERT = 21
HANDSHAKE = 22
APPLICATION = 23
CLIENT_HELLO = 1
DECRYPT_ERROR = 51

_SERVER_HELLO = 2
# max_fragment_length (RFC 6066 section 4), record_size_limit (RFC 8449)
_LIMITING = (1, 28)

_HEADERS = RECORD_HEADER + 12  # record and handshake header


def parse_hello_untrusted(data: bytes) -> tuple[bytes, bytes] | None:
    """Cut a ClientHello into (cookie, everything else of its body); None: not acceptable.

    Fragmented ones are refused, as they could not be answered without state. Source:
    RFC 6347 sections 4.1, 4.2.1, 4.2.2.
    """
    size = len(data)
    if size < _HEADERS + 36 or data[1] != 0xFE or data[3]:
        return None
    record_end = RECORD_HEADER + (data[11] << 8 | data[12])
    body_size = int.from_bytes(data[14:17], "big")
    offset = int.from_bytes(data[19:22], "big")
    fragment = int.from_bytes(data[22:25], "big")
    end = _HEADERS + body_size
    if record_end > size or offset or fragment != body_size or end != record_end:
        return None
    at = _HEADERS + 2 + 32  # version, random
    at += 1 + data[at]  # session id
    if at >= end:
        return None
    cookie_end = at + 1 + data[at]
    if cookie_end > end:
        return None
    return data[at + 1 : cookie_end], data[_HEADERS:at] + data[cookie_end:end]


def hello_verify_request(sequence: bytes, cookie: bytes) -> bytes:
    """Lay out HelloVerifyRequest; ``sequence``: the hello's record sequence (6 bytes).

    The version is DTLS 1.0's, as RFC 6347 section 4.2.1 wants it.
    """
    body = b"\xfe\xff" + bytes((len(cookie),)) + cookie
    length = len(body).to_bytes(3, "big")
    message = b"\x03" + length + b"\0\0" + b"\0\0\0" + length + body
    return b"\x16\xfe\xff\0\0" + sequence + len(message).to_bytes(2, "big") + message


def split(data: bytes) -> Iterator[bytes]:
    """Cut a datagram into its records; what is behind the last whole one is left out."""
    at = 0
    while at + RECORD_HEADER <= len(data):
        end = at + RECORD_HEADER + (data[at + 11] << 8 | data[at + 12])
        if end > len(data):
            return
        yield data[at:end]
        at = end


def sealed(data: bytes) -> list[bytes]:
    """Return the records of a datagram that are encrypted: of an epoch above 0."""
    return [record for record in split(data) if record[3] or record[4]]


def has_sealed_handshake(data: bytes) -> bool:
    """Whether a datagram holds an encrypted handshake record (RFC 6347 section 4.1)."""
    return any(record[0] == HANDSHAKE for record in sealed(data))


def limits_records(flight: bytes) -> bool:
    """Whether the ServerHello at the start of a flight agrees to smaller records.

    True as well when it cannot be read.
    """
    at = _HEADERS + 2 + 32  # version, random
    if len(flight) <= at or flight[0] != HANDSHAKE or flight[RECORD_HEADER] != _SERVER_HELLO:
        return True
    end = RECORD_HEADER + (flight[11] << 8 | flight[12])
    at += 1 + flight[at] + 2 + 1  # session id, suite, compression
    if at == end:
        return False  # no extensions
    at += 2
    while at + 4 <= end <= len(flight):
        if flight[at] << 8 | flight[at + 1] in _LIMITING:
            return True
        at += 4 + (flight[at + 2] << 8 | flight[at + 3])
    return at != end


def fatal_alert(description: int) -> bytes:
    """Lay out a plaintext alert; its sequence number is above any that a handshake uses."""
    return b"\x15\xfe\xfd\0\0\xff\xff\xff\xff\xff\0\0\x02\x02" + bytes((description,))


def split_records(data: bytes, mtu: int) -> list[bytes]:
    """Pack concatenated DTLS records into datagrams of whole records, at most ``mtu`` bytes.

    A memory BIO keeps no boundaries; each record's length is in bytes 11 and 12 of its
    header (RFC 6347 section 4.1).
    """
    if len(data) <= mtu:
        return [data] if data else []
    datagrams = []
    start = at = 0
    while at < len(data):
        end = at + RECORD_HEADER + (data[at + 11] << 8 | data[at + 12])
        if end - start > mtu and at > start:
            datagrams.append(data[start:at])
            start = at
        at = end
    datagrams.append(data[start:])
    return datagrams
