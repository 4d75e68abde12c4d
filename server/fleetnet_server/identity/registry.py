"""What identity needs of a registry; store implements it, app injects it."""

from typing import NamedTuple, Protocol

ENABLED = "enabled"
DISABLED = "disabled"


class Device(NamedTuple):
    """A registered device. ``revoked`` holds the serial numbers of its revoked certificates."""

    id: int
    name: str
    state: str
    revoked: frozenset[int] = frozenset()

    @property
    def is_enabled(self) -> bool:
        return self.state == ENABLED


class Registry(Protocol):
    """Anything that knows devices by name."""

    def lookup(self, name: str) -> Device | None:
        """Return the device, None when it is not registered."""
        ...
