"""fleetnet.der against values that are laid out here by hand, on every interpreter.

Real certificates and keys: tests/ports/test_micropython_credentials.py.
"""

import os

from fleetnet import der
from fleetnet.errors import CredentialError


def value(tag, *parts):
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        head = bytes([tag, size])
    elif size < 0x100:
        head = bytes([tag, 0x81, size])
    else:
        head = bytes([tag, 0x82, size >> 8, size & 0xFF])
    return head + body


def sequence(*parts):
    return value(0x30, *parts)


def key_info(oid, public):
    return sequence(sequence(value(0x06, oid)), value(0x03, b"\0", public))


def uri_extension(*names, critical=False):
    mark = value(0x01, b"\xff") if critical else b""
    return sequence(value(0x06, b"\x55\x1d\x11"), mark, value(0x04, sequence(*names)))


def constraints(*inner):
    mark = value(0x01, b"\xff")
    return sequence(value(0x06, b"\x55\x1d\x13"), mark, value(0x04, sequence(*inner)))


def certificate(info, extensions=b"", version=True, issuer=b""):
    """The outline of RFC 5280 section 4.1; what der.py steps over is left empty."""
    parts = [value(0xA0, value(0x02, b"\x02"))] if version else []
    names = [sequence(issuer), sequence(), sequence()]  # issuer, validity, subject
    parts += [value(0x02, os.urandom(8)), sequence()] + names + [info]
    if extensions:
        parts.append(value(0xA3, sequence(extensions)))
    return sequence(sequence(*parts), sequence(), value(0x03, b"\0" * 70))


def sec1(point):
    public = value(0xA1, value(0x03, b"\0", point)) if point else b""
    return sequence(value(0x02, b"\x01"), value(0x04, os.urandom(32)), public)


def pkcs8(oid, inner):
    return sequence(value(0x02, b"\0"), sequence(value(0x06, oid)), value(0x04, inner))


def refused(call, data):
    try:
        call(data)
    except CredentialError as error:
        return str(error)
    raise AssertionError("%r was accepted" % data)


POINT = b"\x04" + os.urandom(64)
INFO = key_info(der.EC, POINT)


def test_public_key_of_a_certificate():
    for version in (True, False):
        cert = certificate(INFO, version=version)
        assert der.spki(cert) == INFO
        assert der.spki(memoryview(cert)) == INFO
        assert der.size(cert) == len(cert)
        assert der.size(cert + b"more") == len(cert)
    assert der.algorithm(INFO) == der.EC


def test_uris_in_their_order_among_other_names():
    names = [
        value(0x82, b"localhost"),
        value(0x86, b"urn:fleetnet:one"),
        value(0x87, b"\x7f\0\0\1"),
        value(0x86, b"urn:two"),
    ]
    usage = sequence(value(0x06, b"\x55\x1d\x25"), value(0x04, sequence()))
    for critical in (False, True):
        extensions = usage + uri_extension(*names, critical=critical) + usage
        cert = certificate(INFO, extensions)
        assert der.san_uris(cert) == ["urn:fleetnet:one", "urn:two"], critical
    assert der.san_uris(certificate(INFO, usage)) == []
    assert der.san_uris(certificate(INFO)) == []


def test_leaves_that_somebody_else_issued():
    other = value(0x0C, b"another name")
    authority = value(0x01, b"\xff")
    for extensions in (b"", constraints(), uri_extension(value(0x86, b"urn:x"))):
        assert der.is_issued_leaf(certificate(INFO, extensions, issuer=other))
        assert not der.is_issued_leaf(certificate(INFO, extensions)), "it signed itself"
    for inner in ((authority,), (authority, value(0x02, b"\0"))):
        assert not der.is_issued_leaf(certificate(INFO, constraints(*inner), issuer=other))


def test_public_half_of_private_keys():
    modulus = b"\0" + os.urandom(256)
    pkcs1 = sequence(value(0x02, b"\0"), value(0x02, modulus), value(0x02, b"\1\0\1"))
    assert der.public_point(sec1(POINT)) == POINT
    assert der.public_point(pkcs8(der.EC, sec1(POINT))) == POINT
    assert der.public_point(sec1(b"")) is None
    assert der.public_point(pkcs1) == modulus
    assert der.public_point(pkcs8(der.RSA, pkcs1)) == modulus
    assert der.public_point(pkcs8(der.ED25519, value(0x04, os.urandom(32)))) is None


def test_kinds_of_keys():
    assert der.algorithm(sec1(POINT)) == der.EC
    assert der.algorithm(pkcs8(der.EC, sec1(POINT))) == der.EC
    assert der.algorithm(pkcs8(der.ED25519, b"")) == der.ED25519
    assert der.algorithm(sequence(value(0x02, b"\0"), value(0x02, b"\1"))) == der.RSA
    encrypted = sequence(sequence(value(0x06, der.PBES2), sequence()), value(0x04, b"?"))
    assert der.algorithm(encrypted) == der.PBES2


def test_cut_anywhere_and_every_byte_changed():
    """Nothing but CredentialError or an answer, whatever the bytes are."""
    data = certificate(INFO, uri_extension(value(0x86, b"urn:a")))
    for end in range(len(data)):
        refused(der.spki, data[:end])
    damaged = bytearray(data)
    for at in range(len(data)):
        for wrong in (0, 0x80, 0x83, 0xFF):
            damaged[at] = wrong
            for call in (der.spki, der.san_uris, der.algorithm, der.public_point, der.size):
                try:
                    call(bytes(damaged))
                except CredentialError:
                    pass
        damaged[at] = data[at]


def test_what_is_no_der():
    for data in (b"", b"\x30", b"-----BEGIN CERTIFICATE-----", b"\x30\x80\0\0", b"\x30\x05\0"):
        for call in (der.spki, der.san_uris, der.algorithm, der.public_point, der.size):
            refused(call, data)
    # Three bytes of length are more than der.py reads.
    assert "length" in refused(der.size, b"\x30\x83\1\0\0" + b"\0" * 65536)
    name = uri_extension(value(0x86, b"\xff\xfe"))
    assert "URI" in refused(der.san_uris, certificate(INFO, name))
