"""A certificate request made on the device, and its key as a file.

    private, public = await make_key()                      # fleetnet_device.p256
    request = await make_request("cam-1", private, public)  # DER, some 270 B: to the server
    key = sec1(private, public)                             # DER, 121 B: stays here

Sources: RFC 2986 (PKCS #10), RFC 2985 section 5.4.2 (extensionRequest), RFC 5480 and RFC 5758
(P-256, ecdsa-with-SHA256), RFC 5915 (EC private key).
"""

import hashlib

from fleetnet.errors import CredentialError
from fleetnet_device.p256 import SIZE, sign

_MAX_NAME = 63  # characters; a common name may have 64 (RFC 5280 appendix A.1)

_INTEGER = 0x02
_BIT_STRING = 0x03
_OCTET_STRING = 0x04
_UTF8_STRING = 0x0C
_SEQUENCE = 0x30
_SET = 0x31
_URI = 0x86  # [6] of a GeneralName
_FIRST = 0xA0  # [0]: the attributes of a request, the curve of a key
_SECOND = 0xA1  # [1]: the public half of a key

# Whole values: tag, size, contents.
_CURVE = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"  # prime256v1
_EC_KEY = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"  # id-ecPublicKey
_ECDSA_SHA256 = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
_COMMON_NAME = b"\x06\x03\x55\x04\x03"
_SUBJECT_ALT_NAME = b"\x06\x03\x55\x1d\x11"
_EXTENSION_REQUEST = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e"


def _value(tag: int, *parts: bytes) -> bytes:
    """Return a DER value; its contents are less than 64 KB."""
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    if size < 0x100:
        return bytes((tag, 0x81, size)) + body
    return bytes((tag, 0x82, size >> 8, size & 0xFF)) + body


def _integer(number: int) -> bytes:
    """Return a positive INTEGER in as few bytes as hold it and a sign of 0."""
    data = number.to_bytes(SIZE, "big").lstrip(b"\0")
    return _value(_INTEGER, b"\0" if data[0] & 0x80 else b"", data)


def _public_key_info(public: bytes) -> bytes:
    kind = _value(_SEQUENCE, _EC_KEY, _CURVE)
    return _value(_SEQUENCE, kind, _value(_BIT_STRING, b"\0", public))


def _unsigned(name: str, public: bytes) -> bytes:
    """Return the CertificationRequestInfo."""
    common_name = _value(_SEQUENCE, _COMMON_NAME, _value(_UTF8_STRING, name.encode()))
    subject = _value(_SEQUENCE, _value(_SET, common_name))
    uri = _value(_URI, b"urn:fleetnet:device:", name.encode())
    names = _value(_OCTET_STRING, _value(_SEQUENCE, uri))
    extensions = _value(_SEQUENCE, _value(_SEQUENCE, _SUBJECT_ALT_NAME, names))
    attribute = _value(_SEQUENCE, _EXTENSION_REQUEST, _value(_SET, extensions))
    version = _value(_INTEGER, b"\0")
    attributes = _value(_FIRST, attribute)
    return _value(_SEQUENCE, version, subject, _public_key_info(public), attributes)


async def make_request(name: str, private: bytes, public: bytes) -> bytes:
    """Return a certificate request (DER) with CN ``name`` and SAN URI urn:fleetnet:device:name.

    The signature is verified before anything is returned.

    Args:
        name: of the device, 1 to 63 ASCII characters.
        private: 32 B. It is not in the request, nor in any error.
        public: 65 B, of the same key.

    Raises:
        CredentialError: the name or the keys cannot be used, or the arithmetic failed.
    """
    if not 0 < len(name.encode()) <= _MAX_NAME or any([not " " < c < "\x7f" for c in name]):
        raise CredentialError("%r is no device name: 1 to 63 of a-z 0-9 . _ -" % name)
    body = _unsigned(name, public)
    r, s = await sign(private, public, hashlib.sha256(body).digest())
    signature = _value(_SEQUENCE, _integer(r), _integer(s))
    algorithm = _value(_SEQUENCE, _ECDSA_SHA256)
    return _value(_SEQUENCE, body, algorithm, _value(_BIT_STRING, b"\0", signature))


def sec1(private: bytes, public: bytes) -> bytes:
    """Return the key as key.der holds it: ECPrivateKey with curve and public key, 121 B."""
    return _value(
        _SEQUENCE,
        _value(_INTEGER, b"\x01"),
        _value(_OCTET_STRING, private),
        _value(_FIRST, _CURVE),
        _value(_SECOND, _value(_BIT_STRING, b"\0", public)),
    )
