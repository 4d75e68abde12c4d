"""From what a link proved to a registered, enabled device, or to a refusal."""

import hashlib
from collections.abc import Container
from typing import NamedTuple

from cryptography import x509

from fleetnet import errors
from fleetnet_server.errors import IdentityError
from fleetnet_server.identity.certificate import identity
from fleetnet_server.identity.crl import issuer_hash
from fleetnet_server.identity.names import is_device_name
from fleetnet_server.identity.policy import ACCEPT, QUARANTINE, REFUSE
from fleetnet_server.identity.registry import ENABLED, QUARANTINED, REMOVED, Device, Registry

BY_CERTIFICATE = "certificate"
BY_PSK = "psk"

# CA/Browser Forum, Baseline Requirements section 7.1: at least 64 bits of a number are random.
_COUNTED_BITS = 63

_STATES = {QUARANTINE: QUARANTINED, ACCEPT: ENABLED}


class LinkIdentity(NamedTuple):
    """What the handshake proved.

    Attributes:
        certificate: the leaf, DER, which TLS verified against our anchors; b"": none.
        psk_identity: by whose pre-shared key the handshake was made; None: by none.
    """

    certificate: bytes = b""
    psk_identity: bytes | None = None


class Authenticated(NamedTuple):
    """A device that may come in.

    Attributes:
        serial: of its certificate, see ``foreign_serial``; 0 with a pre-shared key.
        psk_identity: "" with a certificate.
    """

    device: Device
    serial: int = 0
    psk_identity: str = ""

    @property
    def method(self) -> str:
        return BY_PSK if self.psk_identity else BY_CERTIFICATE


class Stranger(NamedTuple):
    """A device of a trusted CA that is not registered, and that the policy wants to be.

    Attributes:
        state: in which it is to be registered.
        policy: what the policy says of unknown devices.
    """

    name: str
    serial: int
    state: str
    policy: str


class Refusal(NamedTuple):
    """Why a peer is refused.

    Attributes:
        reason: code of fleetnet.errors, for REFUSE.
        message: for the log; carries the device's name where there is one.
        name: what the credentials say, "" when they name nobody.
        retry_after_ms: what the device is asked to stay away; 0: as it likes.
    """

    reason: int
    message: str
    name: str = ""
    retry_after_ms: int = 0


def authenticate(
    link: LinkIdentity,
    registry: Registry,
    unknown: str = REFUSE,
    elsewhere: Container[tuple[bytes, int]] = frozenset(),
    accepted: Container[bytes] = frozenset(),
) -> Authenticated | Stranger | Refusal:
    """Decide on a client.

    What the handshake proved is its only identity: nothing that the peer says later can
    name another device. A certificate counts before a pre-shared key.

    Args:
        unknown: what the policy says of names that are not registered, see identity/policy.py.
            A name that somebody removed stays refused.
        elsewhere: what imported CAs revoked, see identity/crl_folder.py.
        accepted: other CAs whose devices may come in, by issuer_hash: for devices that have no
            certificate of this fleet, or whoever runs such a CA could be any of ours.

    Raises:
        StoreUnavailable: what the registry raises; nothing of its own.
    """
    name, serial, psk = "", 0, ""
    try:
        if link.certificate:
            name, serial = identity(link.certificate)
        elif link.psk_identity:
            psk = link.psk_identity.decode("ascii", "replace")
            name = psk_name(psk)
        else:
            raise IdentityError("neither certificate nor pre-shared key")
    except IdentityError as error:
        return Refusal(errors.NO_IDENTITY, f"{error}: issue one with `fleetnet device add`")
    if serial and elsewhere and is_revoked_elsewhere(link.certificate, elsewhere):
        return Refusal(errors.REVOKED, f"device {name!r}: its CA revoked {serial:x}", name)
    found = judge(name, serial, psk, registry, unknown, link.certificate)
    return as_other_ca(found, link.certificate, registry, accepted)


def as_other_ca(
    found: Authenticated | Stranger | Refusal,
    certificate: bytes,
    registry: Registry,
    accepted: Container[bytes],
) -> Authenticated | Stranger | Refusal:
    """Return a decision; a refusal where another CA speaks for a device of this fleet.

    Args:
        found: the decision so far. certificate: of the link, DER; b"" for a pre-shared key.
        accepted: see ``authenticate``.
    """
    if (
        isinstance(found, Authenticated)
        and certificate
        and accepted
        and issuer_hash(certificate) in accepted
        and registry.has_own_certificate(found.device.id)
    ):
        return _impostor(found.device.name)
    return found


def _impostor(name: str) -> Refusal:
    return Refusal(
        errors.NO_IDENTITY,
        f"device {name!r} has a certificate of this fleet; one of another CA does not speak for "
        f"it: `fleetnet device revoke {name}` if it shall",
        name,
    )


def is_revoked_elsewhere(certificate: bytes, elsewhere: Container[tuple[bytes, int]]) -> bool:
    """Say whether the CA that issued a certificate has it in its list."""
    serial = x509.load_der_x509_certificate(certificate).serial_number
    return (issuer_hash(certificate), serial) in elsewhere


def foreign_serial(certificate: bytes, serial: int) -> int:
    """Return what stands for the serial number of a certificate that was not issued here.

    Some CAs count: two of them may both begin with 1. For such a number stand the first 159 bits
    of the certificate's SHA-256, which fit a revocation list (RFC 5280 section 5.2.3); one that
    was drawn at random is nobody else's.
    """
    if serial.bit_length() > _COUNTED_BITS:
        return serial
    return int.from_bytes(hashlib.sha256(certificate).digest()[:20], "big") >> 1 or 1


def judge(
    name: str,
    serial: int,
    psk: str,
    registry: Registry,
    unknown: str = REFUSE,
    certificate: bytes = b"",
) -> Authenticated | Stranger | Refusal:
    """Decide on what the credentials say, see ``authenticate``.

    Args:
        certificate: DER; b"": ``serial`` is what an earlier decision made of it.
    """
    device = registry.lookup(name)
    if certificate and (device is None or serial not in device.valid | device.revoked):
        serial = foreign_serial(certificate, serial)
    if device is None or device.state == REMOVED:
        state = _STATES.get(unknown)
        if state is not None and serial and not registry.was_removed(name):
            return Stranger(name, serial, state, unknown)
        return Refusal(
            errors.UNKNOWN_DEVICE,
            f"device {name!r} has good credentials but is not registered here: "
            f"`fleetnet device add {name}`, or see which store this server uses",
            name,
        )
    if serial in device.revoked:
        return Refusal(
            errors.REVOKED,
            f"device {name!r} came with revoked certificate {serial:x}: give it a new one, "
            f"`fleetnet device add --again {name}`",
            name,
        )
    if not device.may_come:
        return Refusal(
            errors.DISABLED, f"device {name!r} is disabled: `fleetnet device enable {name}`", name
        )
    return Authenticated(device, serial, psk)


def psk_name(psk_identity: str) -> str:
    """Return the device of a PSK identity NAME.NUMBER. Raises IdentityError."""
    name, _, number = psk_identity.rpartition(".")
    if not is_device_name(name) or not number.isascii() or not number.isdigit():
        raise IdentityError(f"PSK identity {psk_identity[:80]!r} is not NAME.NUMBER")
    return name
