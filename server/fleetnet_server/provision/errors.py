"""What can go wrong between this machine and a board."""

from fleetnet.errors import FleetError


class BoardError(FleetError):
    """A board cannot be reached, or cannot take what is installed; the message says the remedy."""


class PackageError(FleetError):
    """The library cannot be packed for boards; the message says the remedy."""
