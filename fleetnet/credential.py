"""CREDENTIAL and CREDENTIAL_STATE: how a device gets another identity, and says what became of it.

    CREDENTIAL (to the device)      fields: 1 action, 2 number, 3 certificate, 4 key, 5 anchors,
                                    6 pins, 7 reason
    CREDENTIAL_STATE (to the back-end)  fields: 1 state, 2 number, 3 CSR, 7 reason, 8 token

Certificates, keys and the CSR are DER; anchors are certificates back to back, pins 32 bytes
each. Decoders raise ProtocolError only, whatever the bytes. Source: docs/protocol.md section 14.
"""

from fleetnet import der
from fleetnet.errors import LIMIT, CredentialError, ProtocolError
from fleetnet.fields import FieldReader, FieldWriter
from fleetnet.limits import MAX_SEQUENCE

# Actions of CREDENTIAL.
INSTALL = 1
REQUEST = 2
RETIRE = 3
REFUSED = 4

# States of CREDENTIAL_STATE.
REQUESTED = 1
FAILED = 2
RETIRED = 3

PIN_SIZE = 32

# What a device has to hold beside its old identity: a leaf is below 1,000 B, an RSA key of
# 4,096 bits takes 2,375 B as PKCS #8.
MAX_CERTIFICATE = 2048
MAX_KEY = 2560
MAX_CSR = 2048
MAX_ANCHORS = 4
MAX_PINS = 8
MAX_TOKEN = 64

_ACTION = 1
_NUMBER = 2
_CERTIFICATE = 3
_KEY = 4
_ANCHORS = 5
_PINS = 6
_REASON = 7
_TOKEN = 8


class Credential:
    """What CREDENTIAL says.

    Attributes:
        action: INSTALL, REQUEST, RETIRE or REFUSED.
        number: of the identity that this is about, 1 .. 2**30-1.
        certificate: DER, or b"": the pair in force stays, with these anchors and pins.
        key: DER, or b"" beside a certificate: the key that the device made for this number.
        anchors: certificates that the device trusts from then on; INSTALL has at least one.
        pins: SHA-256 of each public key that the server has or will have.
        reason: REFUSED: text, for people.
    """

    def __init__(
        self,
        action: int,
        number: int,
        certificate: bytes = b"",
        key: bytes = b"",
        anchors: "list[bytes] | tuple[bytes, ...]" = (),
        pins: "list[bytes] | tuple[bytes, ...]" = (),
        reason: str = "",
    ):
        self.action = action
        self.number = number
        self.certificate = certificate
        self.key = key
        self.anchors = list(anchors)
        self.pins = list(pins)
        self.reason = reason


class CredentialState:
    """What CREDENTIAL_STATE says.

    Attributes:
        state: REQUESTED, FAILED or RETIRED.
        number: of the identity that this is about.
        csr: REQUESTED: PKCS #10, DER; b"": the back-end shall make the key as well.
        reason: FAILED: text, for people.
        token: REQUESTED by a device without an identity: what proves that it may have one.
    """

    def __init__(
        self, state: int, number: int, csr: bytes = b"", reason: str = "", token: str = ""
    ):
        self.state = state
        self.number = number
        self.csr = csr
        self.reason = reason
        self.token = token


def encode_credential(credential: Credential) -> bytes:
    """Return the body of CREDENTIAL."""
    out = FieldWriter()
    out.put_int(_ACTION, credential.action)
    out.put_int(_NUMBER, credential.number)
    for tag, value in (
        (_CERTIFICATE, credential.certificate),
        (_KEY, credential.key),
        (_ANCHORS, b"".join(credential.anchors)),
        (_PINS, b"".join(credential.pins)),
    ):
        if value:
            out.put_bytes(tag, value)
    if credential.reason:
        out.put_text(_REASON, credential.reason)
    return out.to_payload()


def decode_credential(payload: bytes) -> Credential:
    """Read CREDENTIAL. Raises ProtocolError, nothing else."""
    fields = FieldReader(payload)
    action = fields.get_int(_ACTION)
    if not INSTALL <= action <= REFUSED:
        raise ProtocolError("credential action %d" % action)
    number = _number(fields)
    certificate = _take(fields, _CERTIFICATE, MAX_CERTIFICATE)
    key = _take(fields, _KEY, MAX_KEY)
    anchors = split(fields.get_bytes(_ANCHORS))
    pins = split_pins(fields.get_bytes(_PINS))
    if key and not certificate:
        raise ProtocolError("credential has a key without a certificate")
    if action == INSTALL and not anchors:
        raise ProtocolError("credential without an anchor")
    return Credential(action, number, certificate, key, anchors, pins, fields.get_text(_REASON))


def encode_credential_state(state: CredentialState) -> bytes:
    """Return the body of CREDENTIAL_STATE."""
    out = FieldWriter()
    out.put_int(_ACTION, state.state)
    out.put_int(_NUMBER, state.number)
    if state.csr:
        out.put_bytes(_CERTIFICATE, state.csr)
    if state.reason:
        out.put_text(_REASON, state.reason)
    if state.token:
        out.put_text(_TOKEN, state.token)
    return out.to_payload()


def decode_credential_state(payload: bytes) -> CredentialState:
    """Read CREDENTIAL_STATE. Raises ProtocolError, nothing else."""
    fields = FieldReader(payload)
    state = fields.get_int(_ACTION)
    if not REQUESTED <= state <= RETIRED:
        raise ProtocolError("credential state %d" % state)
    token = fields.get_text(_TOKEN)
    if len(token) > MAX_TOKEN:
        raise ProtocolError("token of %d characters, limit %d" % (len(token), MAX_TOKEN), LIMIT)
    return CredentialState(
        state,
        _number(fields),
        _take(fields, _CERTIFICATE, MAX_CSR),
        fields.get_text(_REASON),
        token,
    )


def split(certificates: bytes) -> "list[bytes]":
    """Cut DER certificates that stand back to back. Raises ProtocolError, nothing else."""
    found: "list[bytes]" = []
    while certificates:
        try:
            end = der.size(certificates)
        except CredentialError as error:
            raise ProtocolError("anchor: %s" % error)
        if end > MAX_CERTIFICATE or len(found) >= MAX_ANCHORS:
            raise ProtocolError("more than %d anchors, or one too large" % MAX_ANCHORS, LIMIT)
        found.append(certificates[:end])
        certificates = certificates[end:]
    return found


def split_pins(pins: bytes) -> "list[bytes]":
    """Cut SHA-256 values that stand back to back. Raises ProtocolError, nothing else."""
    if len(pins) % PIN_SIZE:
        raise ProtocolError("pins of %d B" % len(pins))
    if len(pins) > MAX_PINS * PIN_SIZE:
        raise ProtocolError("more than %d pins" % MAX_PINS, LIMIT)
    return [pins[at : at + PIN_SIZE] for at in range(0, len(pins), PIN_SIZE)]


def _number(fields: FieldReader) -> int:
    number = fields.get_int(_NUMBER)
    if not 0 < number <= MAX_SEQUENCE:
        raise ProtocolError("identity number %d" % number)
    return number


def _take(fields: FieldReader, tag: int, limit: int) -> bytes:
    """Return a DER value, b"" when it is absent; one SEQUENCE and nothing behind it."""
    value = fields.get_bytes(tag)
    if len(value) > limit:
        raise ProtocolError("field %d of %d B, limit %d B" % (tag, len(value), limit), LIMIT)
    if value:
        try:
            end = der.size(value)
        except CredentialError as error:
            raise ProtocolError("field %d: %s" % (tag, error))
        if end != len(value):
            raise ProtocolError("field %d has bytes behind its end" % tag)
    return value
