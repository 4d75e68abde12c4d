"""Which certificate each device uses, and when it ends."""

from fleetnet_server.identity.expiry import Dated
from fleetnet_server.store.sqlite import SqliteStore

# The newest that is not revoked. One that was offered in a rotation and does not work yet, or
# never did, is not what its device uses.
_NEWEST = """
SELECT name, issued_ms, not_after_ms FROM (
    SELECT d.name, c.issued_ms, c.not_after_ms, row_number() OVER (
        PARTITION BY d.id ORDER BY c.issued_ms DESC, c.not_after_ms DESC, c.serial
    ) AS place
    FROM devices AS d JOIN certificates AS c ON c.device = d.id
    WHERE d.state IN ('enabled', 'quarantined') AND c.revoked_ms IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM identities AS i WHERE i.device = d.id AND i.serial = c.serial
        AND i.state IN ('offered', 'failed')
    )
) WHERE place = 1 ORDER BY name
"""

# What a device has of the server's public keys: of the newest identity that works; of a device
# without one only when its row was made is known, which is when its bundle was.
_PINS = """
SELECT d.name, d.created_ms, (
    SELECT i.pins FROM identities AS i WHERE i.device = d.id AND i.state = 'working'
    ORDER BY i.number DESC LIMIT 1
) FROM devices AS d WHERE d.state IN ('enabled', 'quarantined') ORDER BY d.name
"""


def device_certificates(store: SqliteStore) -> list[Dated]:
    """Return the certificate in use of each device that may connect. Raises StoreUnavailable."""
    return [Dated(*row) for row in store.read(_NEWEST)]


def devices_without_pin(store: SqliteStore, pin: str, made_ms: int) -> list[str]:
    """Return the devices that do not know a public key of the server. Raises StoreUnavailable.

    Args:
        pin: SHA-256 of the key, hexadecimal.
        made_ms: when the key was made; bundles made since then have it.
    """
    lacking = []
    for name, created_ms, pins in store.read(_PINS):
        knows = pin in pins.split() if pins is not None else created_ms >= made_ms
        if not knows:
            lacking.append(str(name))
    return lacking
