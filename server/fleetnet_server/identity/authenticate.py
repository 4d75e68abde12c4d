"""From what a link proved to a registered, enabled device, or to a refusal."""

from collections.abc import Container
from typing import NamedTuple

from fleetnet import errors
from fleetnet_server.errors import IdentityError
from fleetnet_server.identity.certificate import identity
from fleetnet_server.identity.crl import issuer_hash
from fleetnet_server.identity.names import is_device_name
from fleetnet_server.identity.policy import ACCEPT, QUARANTINE, REFUSE
from fleetnet_server.identity.registry import ENABLED, QUARANTINED, REMOVED, Device, Registry

BY_CERTIFICATE = "certificate"
BY_PSK = "psk"

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
        serial: of its certificate; 0 with a pre-shared key.
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
    """

    reason: int
    message: str
    name: str = ""


def authenticate(
    link: LinkIdentity,
    registry: Registry,
    unknown: str = REFUSE,
    elsewhere: Container[tuple[bytes, int]] = frozenset(),
) -> Authenticated | Stranger | Refusal:
    """Decide on a client.

    What the handshake proved is its only identity: nothing that the peer says later can
    name another device. A certificate counts before a pre-shared key.

    Args:
        unknown: what the policy says of names that are not registered, see identity/policy.py.
            A name that somebody removed stays refused.
        elsewhere: what imported CAs revoked, see identity/crl_folder.py.

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
    if serial and elsewhere and is_revoked_elsewhere(link.certificate, serial, elsewhere):
        return Refusal(errors.REVOKED, f"device {name!r}: its CA revoked {serial:x}", name)
    return judge(name, serial, psk, registry, unknown)


def is_revoked_elsewhere(
    certificate: bytes, serial: int, elsewhere: Container[tuple[bytes, int]]
) -> bool:
    """Say whether the CA that issued a certificate has it in its list."""
    return (issuer_hash(certificate), serial) in elsewhere


def judge(
    name: str, serial: int, psk: str, registry: Registry, unknown: str = REFUSE
) -> Authenticated | Stranger | Refusal:
    """Decide on what the credentials say, see ``authenticate``."""
    device = registry.lookup(name)
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
