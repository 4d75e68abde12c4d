"""Tokens of the HTTP API in the store: who may ask for what.

The token itself is nowhere, its SHA-256 is: whoever reads the store cannot use what it finds.
160 random bits need no slow hash.
"""

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

from fleetnet_server.errors import ConfigError, StoreError
from fleetnet_server.identity.scopes import SCOPES, check_scopes
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.ports import Connection, Database

# By which programs that look for secrets in texts can find it.
PREFIX = "fnt_"
_TOKEN_BYTES = 20
_TOKEN = re.compile(r"fnt_[A-Z2-7]{32}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

ADDED, REVOKED = "token-add", "token-revoke"


class Token(NamedTuple):
    """A token without its secret; times are unix ms, ``used_ms`` to the minute."""

    name: str
    scopes: frozenset[str]
    created_ms: int
    expires_ms: int | None
    used_ms: int | None

    @property
    def actor(self) -> str:
        """How the audit log names its holder."""
        return f"token:{self.name}"


def make_token() -> str:
    """Return "fnt_" and 32 characters of base32 (RFC 4648): 160 random bits."""
    return PREFIX + base64.b32encode(secrets.token_bytes(_TOKEN_BYTES)).decode()


def token_hash(token: str) -> str:
    """Return what the store knows of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class TokenTable:
    """Tokens of one store file. Raises StoreUnavailable throughout."""

    def __init__(self, store: Database):
        self._store = store

    def add(
        self, name: str, scopes: Iterable[str], actor: str, expires_ms: int | None = None
    ) -> str:
        """Make a token and commit; return it: nobody can show it again.

        Raises:
            ConfigError: no name, or no such scope. StoreError: the name is taken.
        """
        if _NAME.fullmatch(name) is None:
            raise ConfigError(
                f"{name!r} is no token's name: use 1 to 63 of a-z 0-9 . _ - "
                "and begin with a letter or a digit"
            )
        known = check_scopes(scopes)
        ordered = [scope for scope in SCOPES if scope in known]
        token = make_token()
        values = (name, token_hash(token), " ".join(ordered), _now_ms(), expires_ms)

        def work(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO tokens(name, token, scopes, created_ms, expires_ms)"
                " VALUES(?, ?, ?, ?, ?) ON CONFLICT(name) DO NOTHING",
                values,
            )
            if not connection.changes():
                raise StoreError(f"token {name!r} exists: choose another name, or revoke it first")
            detail = {"token": name, "scopes": ordered, "expires_ms": expires_ms}
            add_audit(connection, actor, ADDED, None, detail)

        self._store.transact(work)
        return token

    def all(self) -> list[Token]:
        """Return every token by name."""
        return [
            _token(*row)
            for row in self._store.read(
                "SELECT name, scopes, created_ms, expires_ms, used_ms FROM tokens ORDER BY name"
            )
        ]

    def revoke(self, name: str, actor: str) -> None:
        """Forget a token and commit; it is refused at once. Raises StoreError: no such token."""

        def work(connection: Connection) -> None:
            connection.execute("DELETE FROM tokens WHERE name = ?", (name,))
            if not connection.changes():
                raise StoreError(f"no token {name!r}: see `fleetnet token list`")
            add_audit(connection, actor, REVOKED, None, {"token": name})

        self._store.transact(work)

    def find(self, token: str) -> Token | None:
        """Return what a token is good for; None: it is no token, or its time is over.

        One seek by its hash, on the event loop's thread: how long it takes says nothing of
        the tokens that there are.
        """
        if _TOKEN.fullmatch(token) is None:
            return None
        rows = self._store.read(
            "SELECT name, scopes, created_ms, expires_ms, used_ms FROM tokens WHERE token = ?",
            (token_hash(token),),
        )
        if not rows:
            return None
        found = _token(*rows[0])
        return None if found.expires_ms is not None and found.expires_ms <= _now_ms() else found

    def note_used(self, name: str) -> None:
        """Keep that a token was used, and commit: waits for the disk."""
        self._store.transact(
            lambda connection: connection.execute(
                "UPDATE tokens SET used_ms = ? WHERE name = ?", (_now_ms(), name)
            )
        )


def _token(
    name: str, scopes: str, created_ms: int, expires_ms: int | None, used_ms: int | None
) -> Token:
    return Token(name, frozenset(scopes.split()), created_ms, expires_ms, used_ms)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
