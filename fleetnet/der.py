"""The little of DER that fleetnet reads by itself: public keys, their kind, names of a peer.

Everything takes bytes or a memoryview, follows the nesting down and never looks for a pattern,
copies nothing but its result, and raises CredentialError for what is not well formed. Length
fields have up to two bytes here (64 KB): no certificate of ours comes near.

Sources: X.690 section 8; RFC 5280 section 4.1 (certificate), RFC 5958 (PKCS #8),
RFC 5915 (EC private key), RFC 8017 appendix A.1.2 (RSA private key), RFC 8410 (Ed25519).
"""

from fleetnet.errors import CredentialError

EC = b"\x2a\x86\x48\xce\x3d\x02\x01"  # 1.2.840.10045.2.1
RSA = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"  # 1.2.840.113549.1.1.1
ED25519 = b"\x2b\x65\x70"  # 1.3.101.112
PBES2 = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d"  # an encrypted PKCS #8 key begins with it

_BASIC_CONSTRAINTS = b"\x55\x1d\x13"  # 2.5.29.19
_SUBJECT_ALT_NAME = b"\x55\x1d\x11"  # 2.5.29.17

_BOOLEAN = 0x01
_INTEGER = 0x02
_BIT_STRING = 0x03
_OCTET_STRING = 0x04
_OID = 0x06
_SEQUENCE = 0x30
_URI = 0x86


def _value(data: "bytes | memoryview", at: int, end: int) -> "tuple[int, int, int]":
    """Return (tag, start, stop): of the contents of the value that begins at ``at``."""
    if at + 2 > end:
        raise CredentialError("DER ends after %d B in the middle of a value" % end)
    tag = data[at]
    count = data[at + 1]
    at += 2
    if count >= 0x80:
        octets = count & 0x7F
        if octets not in (1, 2) or at + octets > end:
            raise CredentialError("not DER: bad length at byte %d" % (at - 1))
        count = data[at] if octets == 1 else data[at] << 8 | data[at + 1]
        at += octets
    if at + count > end:
        raise CredentialError("DER value at byte %d is cut short" % at)
    return tag, at, at + count


def _enter(data: "bytes | memoryview", at: int, end: int, tag: int) -> "tuple[int, int]":
    """Return (start, stop) of the contents; the value must have this tag."""
    found, start, stop = _value(data, at, end)
    if found != tag:
        raise CredentialError("DER tag 0x%02x at byte %d, expected 0x%02x" % (found, at, tag))
    return start, stop


def _skip(data: "bytes | memoryview", at: int, end: int, count: int) -> int:
    """Return where the value behind the next ``count`` ones begins."""
    while count:
        at = _value(data, at, end)[2]
        count -= 1
    return at


def size(data: "bytes | memoryview") -> int:
    """Return the size in bytes of the SEQUENCE at the start of ``data``, header included."""
    return _enter(data, 0, len(data), _SEQUENCE)[1]


def _public_key(cert: "bytes | memoryview") -> "tuple[int, int, int]":
    """Return (start, stop, end): of the SubjectPublicKeyInfo, and the end of what holds it."""
    at, end = _enter(cert, 0, len(cert), _SEQUENCE)
    at, end = _enter(cert, at, end, _SEQUENCE)
    if _value(cert, at, end)[0] == 0xA0:  # version; absent in version 1
        at = _skip(cert, at, end, 1)
    at = _skip(cert, at, end, 5)  # serial, signature algorithm, issuer, validity, subject
    return at, _enter(cert, at, end, _SEQUENCE)[1], end


def spki(cert: "bytes | memoryview") -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate; its SHA-256 is the server's pin."""
    start, stop, _ = _public_key(cert)
    return bytes(cert[start:stop])


def is_issued_leaf(cert: "bytes | memoryview") -> bool:
    """Say whether somebody else issued the certificate, and it may issue none itself."""
    at, end = _enter(cert, 0, len(cert), _SEQUENCE)
    at, end = _enter(cert, at, end, _SEQUENCE)
    if _value(cert, at, end)[0] == 0xA0:
        at = _skip(cert, at, end, 1)
    issuer = _skip(cert, at, end, 2)  # serial, signature algorithm
    validity = _skip(cert, issuer, end, 1)
    subject = _skip(cert, validity, end, 1)
    behind = _skip(cert, subject, end, 1)
    if bytes(cert[issuer:validity]) == bytes(cert[subject:behind]):
        return False
    at, end = _extension(cert, _BASIC_CONSTRAINTS)
    # SEQUENCE { cA BOOLEAN DEFAULT FALSE, ... } (RFC 5280 section 4.2.1.9)
    return at == end or _value(cert, at, end)[0] != _BOOLEAN


def san_uris(cert: "bytes | memoryview") -> "list[str]":
    """Return the URIs of the subject alternative name, in their order; none: []."""
    uris: "list[str]" = []
    at, end = _extension(cert, _SUBJECT_ALT_NAME)
    while at < end:
        tag, start, stop = _value(cert, at, end)
        if tag == _URI:
            try:
                uris.append(bytes(cert[start:stop]).decode())
            except UnicodeError:
                raise CredentialError("a URI of the certificate is not text")
        at = stop
    return uris


def _extension(cert: "bytes | memoryview", wanted: bytes) -> "tuple[int, int]":
    """Return (start, stop) within the SEQUENCE of an extension; (0, 0) when it is not there."""
    _, at, end = _public_key(cert)
    while at < end:
        tag, start, stop = _value(cert, at, end)
        if tag == 0xA3:
            start, stop = _enter(cert, start, stop, _SEQUENCE)
            while start < stop:
                first, last = _enter(cert, start, stop, _SEQUENCE)
                name, behind = _enter(cert, first, last, _OID)
                if bytes(cert[name:behind]) == wanted:
                    tag, first, after = _value(cert, behind, last)
                    if tag != _OCTET_STRING:  # the BOOLEAN "critical"
                        first, after = _enter(cert, after, last, _OCTET_STRING)
                    return _enter(cert, first, after, _SEQUENCE)
                start = last
        at = stop
    return 0, 0


def algorithm(data: "bytes | memoryview") -> bytes:
    """Return the OID, as encoded, of the algorithm of a key.

    Args:
        data: SubjectPublicKeyInfo; or a private key as PKCS #8, encrypted PKCS #8 (PBES2), SEC1
            or PKCS #1.
    """
    at, end = _enter(data, 0, len(data), _SEQUENCE)
    tag, start, stop = _value(data, at, end)
    if tag == _INTEGER:  # a private key: version first
        at = stop
        tag, start, stop = _value(data, at, end)
        if tag != _SEQUENCE:
            return EC if tag == _OCTET_STRING else RSA  # SEC1, PKCS #1
    start, stop = _enter(data, at, end, _SEQUENCE)
    start, stop = _enter(data, start, stop, _OID)
    return bytes(data[start:stop])


def public_point(key: "bytes | memoryview") -> "bytes | None":
    """Return what an EC or RSA private key says of its public half.

    Args:
        key: PKCS #8, SEC1 or PKCS #1.

    Returns:
        EC: the point (0x04, x, y). RSA: the modulus. Both stand literally in the
        SubjectPublicKeyInfo of the certificate. None where the key leaves it out.
    """
    kind = algorithm(key)
    at, end = _enter(key, 0, len(key), _SEQUENCE)
    at = _skip(key, at, end, 1)
    # PKCS #8: algorithm, then the key proper in an OCTET STRING.
    if _value(key, at, end)[0] == _SEQUENCE:
        at = _skip(key, at, end, 1)
        at, end = _enter(key, at, end, _OCTET_STRING)
        if kind not in (EC, RSA):
            return None
        at, end = _enter(key, at, end, _SEQUENCE)
        at = _skip(key, at, end, 1)
    if kind == RSA:
        start, stop = _enter(key, at, end, _INTEGER)
        return bytes(key[start:stop])
    at = _skip(key, at, end, 1)  # the private number
    while at < end:
        tag, start, stop = _value(key, at, end)
        if tag == 0xA1:
            start, stop = _enter(key, start, stop, _BIT_STRING)
            return bytes(key[start + 1 : stop])
        at = stop
    return None
