"""From a verified certificate to a registered, enabled device, or to a refusal."""

from typing import NamedTuple

from fleetnet import errors
from fleetnet_server.errors import IdentityError
from fleetnet_server.identity.certificate import identity
from fleetnet_server.identity.registry import Device, Registry


class Refusal(NamedTuple):
    """Why a peer is refused.

    Attributes:
        reason: code of fleetnet.errors, for REFUSE.
        message: for the log; carries the device's name where there is one.
    """

    reason: int
    message: str


def authenticate(der: bytes, registry: Registry) -> Device | Refusal:
    """Decide on a client whose certificate TLS has verified against our CA.

    Args:
        der: the leaf certificate. Its identity is the only one: nothing that the peer says
            later can name another device.

    Raises:
        StoreUnavailable: what the registry raises; nothing of its own.
    """
    try:
        name, serial = identity(der)
    except IdentityError as error:
        return Refusal(errors.NO_IDENTITY, f"{error}: issue one with `fleetnet device add`")
    device = registry.lookup(name)
    if device is None:
        return Refusal(
            errors.UNKNOWN_DEVICE,
            f"device {name!r} has a good certificate but is not registered here: "
            f"`fleetnet device add {name}`, or see which store this server uses",
        )
    if serial in device.revoked:
        return Refusal(
            errors.REVOKED,
            f"device {name!r} came with revoked certificate {serial:x}: give it a new one",
        )
    if not device.is_enabled:
        return Refusal(
            errors.DISABLED, f"device {name!r} is disabled: `fleetnet device enable {name}`"
        )
    return device
