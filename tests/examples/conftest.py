"""What the examples are given: certificates and keys as files."""

from pathlib import Path

import pytest

from examples.programs import files
from fleetnet_server.identity.pki import to_pem
from pki import Pki, key_pem


@pytest.fixture
def place(pki: Pki, tmp_path: Path) -> Path:
    """A folder with the credentials of a server, a device and a stranger."""
    stranger = pki.device_of_other_ca
    files(
        tmp_path,
        ca_der=pki.ca.certificate,
        ca_pem=to_pem(pki.ca.certificate),
        otherca_der=pki.other_ca.certificate,
        server_der=pki.server.certificate,
        serverkey_der=pki.server.key,
        server_pem=to_pem(pki.server.certificate),
        serverkey_pem=key_pem(pki.server.key),
        cert_der=pki.device.certificate,
        key_der=pki.device.key,
        cert_pem=to_pem(pki.device.certificate),
        key_pem=key_pem(pki.device.key),
        stranger_der=stranger.certificate,
        strangerkey_der=stranger.key,
        stranger_pem=to_pem(stranger.certificate),
        strangerkey_pem=key_pem(stranger.key),
    )
    return tmp_path
