"""What the holder of a token may do through the HTTP API."""

from collections.abc import Iterable

from fleetnet_server.errors import ConfigError

READ, COMMAND, CONFIG, ADMIN = "read", "command", "config", "admin"

# In the order in which they are shown. "admin" is the registry, the audit log and reloading; it
# includes the others.
SCOPES = (READ, COMMAND, CONFIG, ADMIN)


def check_scopes(names: Iterable[str]) -> frozenset[str]:
    """Return scopes as a set. Raises ConfigError: one is unknown, or there is none."""
    found = frozenset(names)
    unknown = sorted(found.difference(SCOPES))
    if unknown or not found:
        what = f"{unknown[0]!r} is no scope" if unknown else "a token needs a scope"
        raise ConfigError(f"{what}: use {', '.join(SCOPES)}")
    return found


def allows(scopes: frozenset[str], wanted: str) -> bool:
    """Say whether a token with ``scopes`` may do what needs ``wanted``."""
    return wanted in scopes or ADMIN in scopes
