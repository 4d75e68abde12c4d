"""The few DTLS records that are read or written without OpenSSL (RFC 6347 section 4)."""

from fleetnet.ports.openssl_object import RECORD_HEADER

HANDSHAKE = 22
CLIENT_HELLO = 1
DECRYPT_ERROR = 51

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


def has_sealed_handshake(data: bytes) -> bool:
    """Whether a datagram holds an encrypted handshake record (RFC 6347 section 4.1)."""
    at = 0
    while at + RECORD_HEADER <= len(data):
        if data[at] == HANDSHAKE and (data[at + 3] or data[at + 4]):
            return True
        at += RECORD_HEADER + (data[at + 11] << 8 | data[at + 12])
    return False


def fatal_alert(description: int) -> bytes:
    """Lay out a plaintext alert; its sequence number is above any that a handshake uses."""
    return b"\x15\xfe\xfd\0\0\xff\xff\xff\xff\xff\0\0\x02\x02" + bytes((description,))
