"""What a running server wants devices to hold: read again when the folder changes."""

import hashlib
import logging
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fleetnet_server.identity import rollover
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.certificate import device_name, public_key_hash
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.identity.wanted import FleetTrust, TrustFolder

YEAR_S = 365 * 86_400.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ServerKeys.create(tmp_path, Authority.create(tmp_path), ("localhost",))
    return tmp_path


def test_a_device_gets_a_certificate_for_its_key(folder: Path) -> None:
    trust = FleetTrust(folder, 3_600.0)
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = request.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    signed = trust.sign(csr, "cam-1").certificate
    assert device_name(signed) == device_name(trust.issue("cam-1").certificate) == "cam-1"
    assert trust.key_of(csr) == public_key_hash(signed).hex()
    found = x509.load_der_x509_certificate(signed)
    assert found.not_valid_after_utc - found.not_valid_before_utc < timedelta(days=2)


def test_the_pins_are_those_of_the_servers_keys(folder: Path) -> None:
    trust = FleetTrust(folder, YEAR_S)
    certificate = (folder / "server" / "cert.der").read_bytes()
    assert public_key_hash(certificate) in trust.pin_values
    assert [len(pin) for pin in trust.pin_values] == [hashlib.sha256().digest_size] * 2


def test_it_is_read_again_when_the_ca_changes(folder: Path) -> None:
    trust = TrustFolder(folder, YEAR_S)
    before = trust.current()
    assert before is not None and trust.current() is before
    rollover.begin(folder, name="second")
    after = trust.current()
    assert after is not None and after is not before
    assert len(after.anchors) == len(before.anchors) + 1
    assert trust.current() is after


def test_a_folder_that_broke_keeps_what_was_read(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = TrustFolder(folder, YEAR_S)
    before = trust.current()
    (folder / "ca" / "authority.json").write_text("{")
    with caplog.at_level(logging.DEBUG, "fleetnet.rotation"):
        for _ in range(3):
            assert trust.current() is before
    assert [record.levelname for record in caplog.records] == ["ERROR"], "said once"
    caplog.clear()
    assert TrustFolder(folder, YEAR_S).current() is None
