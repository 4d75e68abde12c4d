"""Device names, and how authenticate decides."""

import pytest

from fleetnet import errors
from fleetnet_server.errors import IdentityError
from fleetnet_server.identity import pki
from fleetnet_server.identity.authenticate import Refusal, authenticate
from fleetnet_server.identity.certificate import device_name, identity
from fleetnet_server.identity.names import device_uri, is_device_name
from fleetnet_server.identity.registry import Device


@pytest.mark.parametrize("name", ["a", "0", "cam-1", "a.b_c-d", "a" * 63])
def test_good_names(name: str) -> None:
    assert is_device_name(name)
    assert device_uri(name) == "urn:fleetnet:device:" + name


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "_a", "A", "a b", "a/b", "a\n", "é", "a" * 64, "a:b", "..", "a\x00"]
)
def test_bad_names(name: str) -> None:
    assert not is_device_name(name)
    with pytest.raises(IdentityError, match="no device name"):
        device_uri(name)


class Devices(dict[str, Device]):
    """A registry in memory."""

    def lookup(self, name: str) -> Device | None:
        return self.get(name)


@pytest.fixture(scope="module")
def ca() -> pki.Credential:
    return pki.create_ca()


def test_authenticate(ca: pki.Credential) -> None:
    credential = pki.issue_device(ca, "cam-1")
    der = credential.certificate
    assert device_name(der) == "cam-1"
    assert identity(der) == ("cam-1", credential.serial)
    enabled = Device(7, "cam-1", "enabled")
    assert authenticate(der, Devices({"cam-1": enabled})) == enabled
    cases = [
        ({}, errors.UNKNOWN_DEVICE),
        ({"cam-1": Device(7, "cam-1", "disabled")}, errors.DISABLED),
        (
            {"cam-1": Device(7, "cam-1", "enabled", frozenset({credential.serial}))},
            errors.REVOKED,
        ),
    ]
    for devices, reason in cases:
        refusal = authenticate(der, Devices(devices))
        assert isinstance(refusal, Refusal)
        assert refusal.reason == reason
        assert "cam-1" in refusal.message
    other = Device(7, "cam-1", "enabled", frozenset({credential.serial + 1}))
    assert authenticate(der, Devices({"cam-1": other})) == other


def test_a_certificate_without_a_device_is_refused(ca: pki.Credential) -> None:
    server = pki.issue_server(ca, ["cam-1"]).certificate
    for der in (server, ca.certificate, b"", b"\x30\x03\x02\x01\x01", server[:-7]):
        refusal = authenticate(der, Devices({"cam-1": Device(7, "cam-1", "enabled")}))
        assert isinstance(refusal, Refusal)
        assert refusal.reason == errors.NO_IDENTITY
