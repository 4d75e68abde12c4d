"""When certificates end: devices', the server's own, the CAs', and how urgent that is."""

from collections.abc import Iterable
from typing import NamedTuple

from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.pki import Credential
from fleetnet_server.identity.server_keys import ServerKeys

DEVICE, SERVER, CA = "device", "server", "ca"
OK, SOON, URGENT, EXPIRED = "ok", "soon", "urgent", "expired"
LEVELS = (OK, SOON, URGENT, EXPIRED)

_DAY_MS = 86_400_000

# kind: days before the end that are "soon" and "urgent". A new CA must reach devices that are
# seldom online before the old one ends.
_DAYS = {DEVICE: (30, 7), SERVER: (30, 7), CA: (365, 90)}
# Of a short life these parts count instead: rotation begins when a third is left.
_SOON_PART, _URGENT_PART = 3, 10


class Dated(NamedTuple):
    """A certificate's name and validity, unix ms."""

    name: str
    not_before_ms: int
    not_after_ms: int


class Expiry(NamedTuple):
    """When one certificate ends.

    Attributes:
        kind: "device", "server" or "ca". name: of the device; of the server its first host; of
            a CA "root N" or "issuing N", N its generation.
        not_after_ms: unix ms. level: "ok", "soon", "urgent" or "expired".
    """

    kind: str
    name: str
    not_after_ms: int
    level: str


def level(kind: str, not_before_ms: int, not_after_ms: int, now_ms: int) -> str:
    """Return how urgent a certificate's end is.

    "soon": 30 days are left (365 of a CA), or a third of its life where that is less;
    "urgent": 7 days (90), or a tenth.
    """
    left = not_after_ms - now_ms
    if left <= 0:
        return EXPIRED
    life = not_after_ms - not_before_ms
    soon, urgent = _DAYS[kind]
    if left <= min(urgent * _DAY_MS, life // _URGENT_PART):
        return URGENT
    return SOON if left <= min(soon * _DAY_MS, life // _SOON_PART) else OK


def expiries(
    now_ms: int,
    devices: Iterable[Dated] = (),
    server: ServerKeys | None = None,
    authority: Authority | None = None,
) -> list[Expiry]:
    """Return the end of every certificate, the nearest first.

    Args:
        devices: the certificate that each device uses (store/expiry.py).
        server, authority: None: the folder has none.
    """
    found = [_expiry(DEVICE, one, now_ms) for one in devices]
    if server is not None:
        name = (*server.hosts, "server")[0]
        dated = Dated(name, server.not_before_ms, server.not_after_ms)
        found.append(_expiry(SERVER, dated, now_ms))
    if authority is not None:
        found.extend(_expiry(CA, one, now_ms) for one in _authorities(authority))
    return sorted(found, key=lambda one: (one.not_after_ms, one.kind, one.name))


def summary(found: Iterable[Expiry]) -> dict[str, int]:
    """Return how many there are of each level, for logs and metrics."""
    counts = dict.fromkeys(LEVELS, 0)
    for one in found:
        counts[one.level] += 1
    return counts


def _authorities(authority: Authority) -> Iterable[Dated]:
    for number in authority.trusted:
        one = authority.generations[number]
        yield _dated(f"root {number}", Credential(one.root, b""))
        if not one.is_flat:
            yield _dated(f"issuing {number}", one.issuing)


def _dated(name: str, pair: Credential) -> Dated:
    return Dated(name, pair.not_before_ms, pair.not_after_ms)


def _expiry(kind: str, one: Dated, now_ms: int) -> Expiry:
    how = level(kind, one.not_before_ms, one.not_after_ms, now_ms)
    return Expiry(kind, one.name, one.not_after_ms, how)
