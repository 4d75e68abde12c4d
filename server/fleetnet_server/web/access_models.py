"""The documents about access, as OpenAPI shows them; times are unix ms."""

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import Field

from fleetnet_server.identity.names import MAX_NAME
from fleetnet_server.web.models import NAME, Document

# store/tokens.py
_MOST_TOKEN_NAME = 63  # characters
TokenName = Annotated[str, Path(pattern=NAME, max_length=_MOST_TOKEN_NAME)]
Scope = Literal["read", "command", "config", "admin"]


class NewDevice(Document):
    """A device to be registered."""

    name: str = Field(pattern=NAME, max_length=MAX_NAME)


class NewClaim(Document):
    """How a device shall come."""

    days: float = Field(7.0, gt=0, le=365, description="how long the token is good")
    transport: Literal["auto", "dtls", "tls"] = Field(
        "auto", description="auto: DTLS, and TLS where UDP does not pass"
    )


class Claimed(Document):
    """A claim, with its token."""

    device: str
    token: str
    expires_ms: int
    config: dict[str, Any] = Field(description="the device's config.json")


class Claim(Document):
    """A claim that waits for its device."""

    device: str
    created_ms: int
    expires_ms: int
    is_answered: bool = Field(description="a certificate was sent, and was not used yet")


class Asked(Document):
    """Devices that get new identities."""

    asked: list[str]


class Token(Document):
    """A token, without its secret; `used_ms` is to the minute."""

    name: str
    scopes: list[str]
    created_ms: int
    expires_ms: int | None
    used_ms: int | None


class NewToken(Document):
    """A token to be made."""

    name: str = Field(pattern=NAME, max_length=_MOST_TOKEN_NAME)
    scopes: list[Scope] = Field(default=["read"], min_length=1, max_length=4)
    expires_s: float | None = Field(None, gt=0, le=100 * 365 * 86_400, description="null: never")


class MadeToken(Document):
    """A new token; nobody can show it again."""

    name: str
    token: str
    scopes: list[str]
    expires_ms: int | None
