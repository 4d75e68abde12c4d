"""CREDENTIAL and CREDENTIAL_STATE: what is read is what was written, and all else is refused."""

import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from world import Lcg  # noqa: E402

from fleetnet import credential as wire  # noqa: E402
from fleetnet.errors import ProtocolError  # noqa: E402
from fleetnet.fields import FieldWriter  # noqa: E402

NAMES = ("action", "number", "certificate", "key", "anchors", "pins", "reason")
STATE_NAMES = ("state", "number", "csr", "reason", "token")


def sequence(size, fill=0x55):
    """A DER SEQUENCE of ``size`` bytes, 132 at least."""
    return b"\x30\x82" + (size - 4).to_bytes(2, "big") + bytes([fill]) * (size - 4)


def values(thing, names):
    return [getattr(thing, name) for name in names]


def refused(decode, payload):
    try:
        decode(payload)
    except ProtocolError:
        return True
    return False


def fields(*pairs):
    out = FieldWriter()
    for tag, value in pairs:
        if isinstance(value, int):
            out.put_int(tag, value)
        else:
            out.put_bytes(tag, value)
    return out.to_payload()


INSTALL = wire.Credential(
    wire.INSTALL, 7, sequence(900), sequence(140), [sequence(500), sequence(300, 1)],
    [b"p" * 32, b"q" * 32],
)  # fmt: skip


def test_a_credential_comes_back_as_it_went():
    for credential in (
        INSTALL,
        wire.Credential(wire.INSTALL, 1, sequence(900), b"", [sequence(200)]),
        wire.Credential(wire.INSTALL, (1 << 30) - 1, b"", b"", [sequence(200)], [b"p" * 32]),
        wire.Credential(wire.REQUEST, 2),
        wire.Credential(wire.RETIRE, 300),
        wire.Credential(wire.REFUSED, 1, reason="the token is used up"),
    ):
        body = wire.encode_credential(credential)
        assert values(wire.decode_credential(body), NAMES) == values(credential, NAMES)


def test_a_state_comes_back_as_it_went():
    for state in (
        wire.CredentialState(wire.REQUESTED, 1, sequence(280), "", "ABCDEFGHIJKLMNOPQRST"),
        wire.CredentialState(wire.REQUESTED, 5),
        wire.CredentialState(wire.FAILED, 5, reason="WrongCA: not our anchor"),
        wire.CredentialState(wire.RETIRED, 5),
    ):
        body = wire.encode_credential_state(state)
        assert values(wire.decode_credential_state(body), STATE_NAMES) == values(state, STATE_NAMES)


def test_a_credential_that_cannot_be_is_refused():
    anchor = (5, sequence(200))
    for payload in (
        fields((2, 1), anchor),  # no action
        fields((1, 5), (2, 1)),
        fields((1, 1), anchor),  # no number
        fields((1, 2), (2, 0)),
        fields((1, 2), (2, 1 << 30)),
        fields((1, 1), (2, 1)),  # no anchor
        fields((1, 1), (2, 1), (4, sequence(140)), anchor),  # a key, and no certificate
        fields((1, 1), (2, 1), (3, b"\x31\x00"), anchor),
        fields((1, 1), (2, 1), (3, sequence(300)[:-1]), anchor),
        fields((1, 1), (2, 1), (3, sequence(300) + b"\0"), anchor),
        fields((1, 1), (2, 1), (3, sequence(wire.MAX_CERTIFICATE + 1)), anchor),
        fields((1, 1), (2, 1), (3, sequence(300)), (4, sequence(wire.MAX_KEY + 1)), anchor),
        fields((1, 1), (2, 1), (5, sequence(200) + b"\x30")),
        fields((1, 1), (2, 1), (5, sequence(200) * 5)),
        fields((1, 1), (2, 1), (5, sequence(wire.MAX_CERTIFICATE + 1))),
        fields((1, 1), (2, 1), anchor, (6, b"p" * 31)),
        fields((1, 1), (2, 1), anchor, (6, b"p" * 32 * 9)),
        fields((1, 4), (2, 1), (7, b"\xff\xfe")),
    ):
        assert refused(wire.decode_credential, payload), payload
    assert not refused(wire.decode_credential, fields((1, 1), (2, 1), anchor, (40, b"new")))


def test_a_state_that_cannot_be_is_refused():
    for payload in (
        fields((2, 1)),
        fields((1, 4), (2, 1)),
        fields((1, 1)),
        fields((1, 1), (2, 1), (3, b"csr")),
        fields((1, 1), (2, 1), (3, sequence(wire.MAX_CSR + 1))),
        fields((1, 1), (2, 1), (8, b"T" * 65)),
        fields((1, 1), (2, 1), (8, b"\xff")),
    ):
        assert refused(wire.decode_credential_state, payload), payload


def test_no_bytes_raise_anything_else():
    random = Lcg(11)
    bodies = [
        wire.encode_credential(INSTALL),
        wire.encode_credential_state(wire.CredentialState(1, 1, sequence(280), "", "TOKEN")),
    ]
    for index, decode in enumerate((wire.decode_credential, wire.decode_credential_state)):
        for _ in range(300):
            data = bytearray(bodies[index])
            for _ in range(1 + random.below(4)):
                data[random.below(min(len(data), 40))] = random.below(256)
            refused(decode, bytes(data))
            refused(decode, bytes(data[: random.below(len(data))]))
            refused(decode, random.bytes(random.below(60)))
