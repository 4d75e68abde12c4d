"""Errors that only the server raises; the rest of the family is in fleetnet.errors.

Every layer may import this module.
"""

from fleetnet.errors import CredentialError, FleetError


class StoreUnavailable(FleetError):
    """The store could not commit: disk full, I/O error, or locked by another program.

    Nothing of the batch was stored. The same batch may be committed again.
    """


class StoreError(FleetError):
    """The file is no store of ours, or one of another version; the message says the remedy."""


class IdentityError(CredentialError):
    """A certificate does not name exactly one fleetnet device."""


class ConfigError(FleetError):
    """A setting is unknown or has a wrong value; the message names it and its place."""


class FolderError(FleetError):
    """A fleet folder is missing, or would have been overwritten."""


class FleetNotRunning(FleetError):
    """The program used a Fleet outside of its ``async with``."""


class CommandError(FleetError):
    """A command did not bring a value; the subclasses say why."""


class NotAllowed(CommandError):
    """The policy of the device's group does not allow the command, or not to its issuer."""


class CommandFailed(CommandError):
    """The device ran it, and its handler raised.

    Attributes:
        kind: name of the exception's type on the device; text: what it said.
    """

    def __init__(self, message: str, kind: str, text: str):
        super().__init__(message)
        self.kind = kind
        self.text = text


class CommandTimeout(CommandError):
    """No answer before the deadline. The device does not begin it any more."""


class CommandUnknown(CommandError):
    """The device's program has no command of that name."""


class DeviceOffline(CommandError):
    """The device has no session now that takes commands; ``queue`` waits for one."""


def unknown_device(name: str) -> StoreError:
    """Make the error for a name that no device has."""
    return StoreError(f"device {name!r} is not registered: see `fleetnet device list`")
