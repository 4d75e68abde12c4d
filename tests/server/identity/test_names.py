"""Device names, and how authenticate decides."""

import pytest

from fleetnet import errors
from fleetnet_server.errors import IdentityError
from fleetnet_server.identity import pki
from fleetnet_server.identity.authenticate import (
    Authenticated,
    LinkIdentity,
    Refusal,
    authenticate,
)
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
    assert authenticate(LinkIdentity(der), Devices({"cam-1": enabled})) == Authenticated(
        enabled, credential.serial
    )
    cases = [
        ({}, errors.UNKNOWN_DEVICE),
        ({"cam-1": Device(7, "cam-1", "disabled")}, errors.DISABLED),
        (
            {"cam-1": Device(7, "cam-1", "enabled", frozenset({credential.serial}))},
            errors.REVOKED,
        ),
    ]
    for devices, reason in cases:
        refusal = authenticate(LinkIdentity(der), Devices(devices))
        assert isinstance(refusal, Refusal)
        assert refusal.reason == reason
        assert "cam-1" in refusal.message
    other = Device(7, "cam-1", "enabled", frozenset({credential.serial + 1}))
    assert authenticate(LinkIdentity(der), Devices({"cam-1": other})) == Authenticated(
        other, credential.serial
    )


def test_a_certificate_without_a_device_is_refused(ca: pki.Credential) -> None:
    server = pki.issue_server(ca, ["cam-1"]).certificate
    for der in (server, ca.certificate, b"", b"\x30\x03\x02\x01\x01", server[:-7]):
        refusal = authenticate(LinkIdentity(der), Devices({"cam-1": Device(7, "cam-1", "enabled")}))
        assert isinstance(refusal, Refusal)
        assert refusal.reason == errors.NO_IDENTITY


def test_a_pre_shared_key_names_its_device() -> None:
    enabled = Device(7, "cam.1", "enabled")
    found = authenticate(LinkIdentity(psk_identity=b"cam.1.12"), Devices({"cam.1": enabled}))
    assert isinstance(found, Authenticated)
    assert (found.device, found.psk_identity, found.method) == (enabled, "cam.1.12", "psk")
    for strange in (b"cam.1", b"cam.1.", b"cam.1.x", b".1", b"CAM.1.1", b"\xff.1", b""):
        refusal = authenticate(LinkIdentity(psk_identity=strange), Devices({"cam.1": enabled}))
        assert isinstance(refusal, Refusal)


def test_a_certificate_counts_before_a_pre_shared_key(ca: pki.Credential) -> None:
    link = LinkIdentity(pki.issue_device(ca, "cam-1").certificate, b"cam-2.1")
    devices = {name: Device(7, name, "enabled") for name in ("cam-1", "cam-2")}
    found = authenticate(link, Devices(devices))
    assert isinstance(found, Authenticated)
    assert found.device.name == "cam-1"
    assert found.psk_identity == ""
