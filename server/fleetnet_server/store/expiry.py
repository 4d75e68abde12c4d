"""Which certificate each device uses and when it ends, and what it knows of CA and server."""

from fleetnet_server.identity.expiry import Dated
from fleetnet_server.store.ports import Readable

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
) AS placed WHERE place = 1 ORDER BY name
"""

# What a device has of the server's public keys: of the newest identity that works; of a device
# without one only when its row was made is known, which is when its bundle was.
_PINS = """
SELECT d.name, d.created_ms, (
    SELECT i.pins FROM identities AS i WHERE i.device = d.id AND i.state = 'working'
    ORDER BY i.number DESC LIMIT 1
) FROM devices AS d WHERE d.state IN ('enabled', 'quarantined') ORDER BY d.name
"""

# The marks of the CAs that went with a device's newest working identity; those without any
# certificate (pre-shared keys, claims that nobody made yet) are left out.
_MARKS = """
SELECT name, (
    SELECT marks FROM identities WHERE device = devices.id AND state = 'working'
    ORDER BY number DESC LIMIT 1
) FROM devices WHERE state IN ('enabled', 'quarantined') AND EXISTS (
    SELECT 1 FROM certificates WHERE device = devices.id AND revoked_ms IS NULL
) ORDER BY name
"""


def device_certificates(store: Readable) -> list[Dated]:
    """Return the certificate in use of each device that may connect. Raises StoreUnavailable."""
    return [Dated(*row) for row in store.read(_NEWEST)]


def devices_without_pin(store: Readable, pin: str, made_ms: int) -> list[str]:
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


def devices_with_marks(store: Readable) -> list[tuple[str, str]]:
    """Return (name, Authority.marks) of each device that has a certificate and may connect.

    The marks are "" where the device lives on its bundle. Raises StoreUnavailable.
    """
    return [(name, marks or "") for name, marks in store.read(_MARKS)]
