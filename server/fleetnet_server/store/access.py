"""Who may come in, as the HTTP API shows and changes it: tokens, claims, new identities.

Every function waits for the disk: call it on a thread.
"""

import time
from typing import Any, Protocol

from fleetnet_server.errors import StoreError
from fleetnet_server.identity.registry import Device
from fleetnet_server.store.claims import ClaimTable, make_token
from fleetnet_server.store.identities import IdentityTable
from fleetnet_server.store.ports import Database
from fleetnet_server.store.registry import DeviceTable
from fleetnet_server.store.tokens import TokenTable

Row = dict[str, Any]


class _Reading(Database, Protocol):
    """store/views.py: reads with a connection of the thread's own."""

    @property
    def registry(self) -> DeviceTable: ...


class Access:
    """The changes of one store file. Raises StoreUnavailable throughout."""

    def __init__(self, views: _Reading, store: Database):
        self._views = views
        self._claims = ClaimTable(store)
        self._identities = IdentityTable(store)
        self._tokens = TokenTable(views)

    # -- devices -------------------------------------------------------------------------------

    def add_device(self, name: str, actor: str) -> None:
        """Register a device. Raises IdentityError: no name; StoreError: it is taken."""
        self._views.registry.add(name, actor)

    def claim(self, name: str, expires_ms: int, actor: str) -> str:
        """Return a token for a device's first certificate; registers a device that is new.

        Raises IdentityError: no name of a device.
        """
        device = self._views.registry.lookup(name) or self._views.registry.add(name, actor)
        token = make_token()
        self._claims.open(device.id, token, expires_ms, actor)
        return token

    def claims(self) -> list[Row]:
        """Return the claims that wait for their device, by its name."""
        rows = self._views.read(
            "SELECT d.name, c.created_ms, c.expires_ms, c.public_key IS NOT NULL"
            " FROM claims AS c JOIN devices AS d ON d.id = c.device"
            " WHERE c.closed_ms IS NULL AND c.expires_ms > ? ORDER BY d.name",
            (time.time_ns() // 1_000_000,),
        )
        return [
            {"device": name, "created_ms": made, "expires_ms": ends, "is_answered": bool(answered)}
            for name, made, ends, answered in rows
        ]

    def renew(self, device: Device, actor: str) -> None:
        """Ask for a new identity of a device; the server hears of it within a second."""
        self._identities.ask([device], actor)

    # -- tokens --------------------------------------------------------------------------------

    def tokens(self) -> list[Row]:
        """Return every token by name, never what it is."""
        return [one._asdict() for one in self._tokens.all()]

    def add_token(self, name: str, scopes: list[str], actor: str, expires_ms: int | None) -> str:
        """Make a token and return it, this once.

        Raises ConfigError: no name, or no such scope. StoreError: the name is taken.
        """
        return self._tokens.add(name, scopes, actor, expires_ms)

    def revoke_token(self, name: str, actor: str) -> None:
        """Refuse a token from now on. Raises StoreError: there is none of that name."""
        if not any(one.name == name for one in self._tokens.all()):
            raise StoreError(f"no token {name!r}")
        self._tokens.revoke(name, actor)
