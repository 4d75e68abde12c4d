"""Keys, certificates and anchors that are not plain: PEM, RSA, or of no use, and then why.

Loaded for these only. A single DER certificate, and a P-256 pair of such, go past it
(micropython_tls.py).
"""

import binascii

from fleetnet import der
from fleetnet.errors import CredentialError

_P256 = "use P-256"


def refuse_ways(ways):
    """Raise for arguments of client_context that exclude each other; ``ways``: how many."""
    if not ways:
        raise CredentialError(
            "no trust anchor: this board has no certificate store; pass ca= the root's DER"
        )
    if ways == 1:
        raise CredentialError("psk= takes the place of cert= and key=")
    raise CredentialError("name the server by one of ca=, pins=, psk= and insecure=")


def load_unusual_anchor(native, error, source, data):
    """Load it yet, or raise CredentialError.

    Args:
        native: tls.SSLContext.
        error: what loading raised, or None if it was not tried.
        source: as the caller gave it; data: its bytes.
    """
    try:
        if error is None:
            _check_single(data)
            native.load_verify_locations(data)
            return
    except (ValueError, OSError, CredentialError) as raised:
        error = raised
    raise _explain("trust anchor%s" % _named(source), error, data)


def load_unusual_pair(native, error, cert, certificate, key, secret):
    """Load them yet, or raise CredentialError; arguments as for an anchor."""
    if cert is None or key is None:
        raise CredentialError("a certificate and its private key go together: pass cert= and key=")
    try:
        if error is None:
            _check_single(certificate)
            native.load_cert_chain(certificate, secret)
            point = der.public_point(to_der(secret))
            if point is not None and point not in der.spki(to_der(certificate)):
                raise CredentialError("the key is not that of the certificate: copy the pair again")
            return
    except (ValueError, OSError, CredentialError) as raised:
        error = raised
    what = "certificate%s or key%s" % (_named(cert), _named(key))
    raise _explain(what, error, certificate, secret)


def _named(source):
    return " " + source if isinstance(source, str) else ""


def _is_pem(data):
    """Say whether it is text; comments may stand before the first BEGIN."""
    return b"-----BEGIN" in data


def _check_single(data):
    if not _is_pem(data) and der.size(data) != len(data):
        raise CredentialError(
            "%d B hold %d B of certificate: pass several anchors as a list, a chain as PEM"
            % (len(data), der.size(data))
        )


def to_der(data):
    """Return the first object of a PEM text as DER; DER stays as it is (RFC 7468)."""
    if not _is_pem(data):
        return data
    at = data.find(b"-----BEGIN")
    # OpenSSL writes an EC key's parameters before the key.
    if data.find(b"-----BEGIN EC PARAMETERS") == at:
        at = data.find(b"-----BEGIN", at + 1)
    start = data.find(b"\n", at)
    end = data.find(b"-----END", at)
    try:
        return binascii.a2b_base64(data[start:end])
    except ValueError:
        raise CredentialError("PEM whose base64 is damaged")


def _explain(what, error, first, second=None):
    """Return the CredentialError for what is not usable.

    Args:
        what: what the data was meant to be.
        error: what was raised; the text of a CredentialError stays, if nothing more is known.
        first: a certificate; second: its private key, or None.
    """
    pem = not isinstance(error, CredentialError)  # else it is a check of our own that failed
    reasons = _certificate(first, pem)
    if second is not None:
        reasons = "; ".join([each for each in (_key(second, pem), reasons) if each])
    if not pem:
        reasons = reasons or str(error)
    return CredentialError(
        "%s cannot be used: %s" % (what, reasons or "the firmware says %r" % error)
    )


def _key(data, pem):
    if b"ENCRYPTED" in data[:200] and _is_pem(data):
        return "the key is encrypted: store it without a pass phrase"
    try:
        kind = der.algorithm(to_der(data))
    except CredentialError:
        return "the key is %s" % _form(data)
    if kind == der.PBES2:
        return "the key is encrypted: store it without a pass phrase"
    if kind == der.ED25519:
        return "the key is Ed25519, which mbedTLS lacks: " + _P256
    if kind not in (der.EC, der.RSA):
        return "the kind of the key is unknown: " + _P256
    return _pem_note(data, "key") if pem else ""


def _certificate(data, pem):
    try:
        kind = der.algorithm(der.spki(to_der(data)))
    except CredentialError:
        return "the certificate is %s" % _form(data)
    if kind == der.ED25519:
        return "the certificate is for Ed25519, which mbedTLS lacks: " + _P256
    if kind not in (der.EC, der.RSA):
        return "the kind of the certificate's key is unknown: " + _P256
    return _pem_note(data, "certificate") if pem else ""


def _form(data):
    if _is_pem(data):
        return "damaged PEM; DER is surer: `fleetnet cert convert FILE OUT --camera`"
    if not data:
        return "empty"
    if data[0] != 0x30:
        return "neither DER nor PEM"
    return "not what it should be (another kind of file?), or cut short: copy it again"


def _pem_note(data, name):
    if not _is_pem(data):
        return ""
    return (
        "the %s is PEM, and this firmware may take DER only: "
        "`fleetnet cert convert FILE OUT --camera`" % name
    )
