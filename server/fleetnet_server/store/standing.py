"""What a registered device could come in with: whether it has anything that still counts."""

import time

from fleetnet_server.store.ports import Readable

VALID, EXPIRED, REVOKED, NONE = "valid", "expired", "revoked", "none"
WITHOUT = (EXPIRED, REVOKED)  # nothing of it is accepted, whatever its state says

_SQL = (
    "SELECT EXISTS(SELECT 1 FROM psks WHERE device = ?1), count(*),"
    " max(CASE WHEN revoked_ms IS NULL THEN not_after_ms END)"
    " FROM certificates WHERE device = ?1"
)


def credential(store: Readable, device_id: int) -> str:
    """Return "valid" (also by a pre-shared key), "expired", "revoked", or "none": it never had one.

    Raises StoreUnavailable.
    """
    ((has_psk, count, ends_ms),) = store.read(_SQL, (device_id,))
    if has_psk or (ends_ms or 0) > time.time_ns() // 1_000_000:
        return VALID
    if not count:
        return NONE
    return REVOKED if ends_ms is None else EXPIRED


def remedy(name: str) -> str:
    """Return what gives a device that is WITHOUT a certificate another one."""
    return f"`fleetnet device add {name} --again` makes it a new bundle"
