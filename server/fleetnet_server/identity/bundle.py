"""What a device has to know to find its server and to trust it: config.json of its bundle."""

import time
from pathlib import Path
from typing import Any

from fleetnet_server.config import Settings
from fleetnet_server.identity.server_keys import ServerKeys


def bundle_config(folder: Path, settings: Settings, name: str, transport: str) -> dict[str, Any]:
    """Return the document; no secret is in it. Raises CredentialError: no server certificate."""
    return {
        "name": name,
        "host": settings.host,
        "tls_port": settings.tls_port,
        "dtls_port": settings.dtls_port,
        "server_hostname": settings.host,
        "transport": transport,
        # A device without a date knows the server by its key until it has one.
        "pins": ServerKeys(folder).pins(),
        "made_ms": time.time_ns() // 1_000_000,
    }


def claim_config(
    folder: Path, settings: Settings, name: str, transport: str, token: str
) -> dict[str, Any]:
    """Return the document of a device that fetches its first certificate with a token."""
    config = bundle_config(folder, settings, name, transport)
    config["claim"] = {"token": token, "port": settings.enrol_port}
    return config
