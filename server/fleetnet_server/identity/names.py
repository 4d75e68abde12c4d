"""The names of devices, and how a certificate carries them."""

import re

from fleetnet_server.errors import IdentityError

MAX_NAME = 63  # fits one DNS label and the 64 characters of a common name
URI_PREFIX = "urn:fleetnet:device:"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def is_device_name(name: str) -> bool:
    """1 to 63 characters of a-z, 0-9, dot, underscore and minus; the first a letter or digit."""
    return _NAME.fullmatch(name) is not None


def check_device_name(name: str) -> None:
    """Raise IdentityError when ``name`` is no device name."""
    if not is_device_name(name):
        raise IdentityError(
            f"{name!r} is no device name: use 1 to {MAX_NAME} of a-z 0-9 . _ - "
            "and begin with a letter or a digit"
        )


def device_uri(name: str) -> str:
    """Return the SAN URI of a device (RFC 5280 section 4.2.1.6). Raises IdentityError."""
    check_device_name(name)
    return URI_PREFIX + name
