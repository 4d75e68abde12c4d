"""Who is not to be trusted gets nothing, and the device's error names the cause.

Real device programs, on MicroPython and CPython, over TLS 1.2, TLS 1.3 and DTLS.
"""

import glob
from pathlib import Path

import pytest

from fail_closed.rig import (
    LINKS,
    RUNTIMES,
    TRIES,
    backend,
    listener,
    name_of,
    run_device,
    write_bundle,
)
from fleetnet import errors
from fleetnet_server.identity.pki import issue_device
from pki import Pki

FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")

UNTRUSTED_SERVERS = {
    "wrong CA": ("server_of_other_ca", "WrongCA"),
    "expired": ("server_expired", "CertificateExpired"),
    "not yet valid": ("server_future", "CertificateNotYetValid"),
    "wrong name": ("server_elsewhere", "WrongName"),
}


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("case", UNTRUSTED_SERVERS)
async def test_untrusted_server_hears_nothing(
    case: str, link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    credential, expected = UNTRUSTED_SERVERS[case]
    async with listener(getattr(pki, credential), pki.ca, link) as (number, ears):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, link, number)
        lines = await run_device(runtime, bundle)
        assert {line[0] for line in lines} == {expected}, lines
        assert ears.heard == 0


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("year", [1970, 2000])
async def test_unset_clock_is_named(
    year: int, link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    if not FAKETIME:
        pytest.skip("faketime is not installed")
    async with listener(pki.server, pki.ca, link) as (number, ears):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, link, number)
        lines = await run_device(runtime, bundle, TRIES, f"@{year}-01-02 00:00:00")
        assert {line[0] for line in lines} == {"CertificateNotYetValid"}, lines
        assert ears.heard == 0


async def test_control_a_device_that_verifies_nothing_is_heard(pki: Pki, tmp_path: Path) -> None:
    """The counter that the tests above trust does count."""
    async with listener(pki.server, pki.ca, "tls1.3") as (number, ears):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, "tls1.3", number)
        await run_device(None, bundle, 1)
        assert ears.heard > 0


# case: (credential, alert in TLS 1.2 and DTLS, alert in TLS 1.3)
UNTRUSTED_DEVICES = {
    "another CA's": ("device_of_other_ca", 48, 48),
    "self-signed": ("device_self_signed", 48, 48),
    "expired": ("device_expired", 45, 45),
    "not yet valid": ("device_future", 42, 42),
    "wrong usage": ("device_wrong_usage", 43, 43),
    "none": (None, 40, 116),
}


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("case", UNTRUSTED_DEVICES)
async def test_untrusted_certificate_is_rejected_by_alert(
    case: str, link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    credential, alert, alert_13 = UNTRUSTED_DEVICES[case]
    expected = {alert}
    if link == "tls1.3":
        # mbedTLS hides it: "rejected, reason not given". A board's firmware speaks TLS 1.2 only.
        expected = {alert_13} if runtime is None else {None, alert}
    async with backend(pki, tmp_path / "fleet", link) as running:
        number = running.dtls_port if link == "dtls" else running.tls_port
        device = getattr(pki, credential) if credential else None
        bundle = write_bundle(tmp_path / "bundle", pki.ca, device, link, number)
        lines = await run_device(runtime, bundle)
        assert {line[0] for line in lines} == {"Rejected"}, lines
        assert {line[1] for line in lines} <= expected, lines
        assert all("reason not given" in str(line[3]) for line in lines if line[1] is None), lines
        assert running.router.received == 0


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("case", ["unknown", "disabled", "revoked", "accepted"])
async def test_unwanted_device_is_refused_by_reason(
    case: str, link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    device = issue_device(pki.ca, "press-7")
    async with backend(pki, tmp_path / "fleet", link) as running:
        if case != "unknown":
            registered = running.store.add_device("press-7")
            running.store.add_certificate(registered.id, device.serial, device.not_after_ms)
        if case == "disabled":
            running.store.set_enabled("press-7", False)
        if case == "revoked":
            running.store.revoke_certificate(device.serial)
        number = running.dtls_port if link == "dtls" else running.tls_port
        bundle = write_bundle(tmp_path / "bundle", pki.ca, device, link, number)
        lines = await run_device(runtime, bundle)
        if case == "accepted":
            assert {line[0] for line in lines} == {"acknowledged"}, lines
            assert running.router.stored == TRIES
            return
        reason = {
            "unknown": errors.UNKNOWN_DEVICE,
            "disabled": errors.DISABLED,
            "revoked": errors.REVOKED,
        }[case]
        assert {line[0] for line in lines} == {"Rejected"}, lines
        assert {line[2] for line in lines} == {reason}, lines
        assert running.router.received == 0


KEY_TYPES = {"P-256": "server", "P-384": "server_p384", "RSA-2048": "server_rsa"}


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("key_type", KEY_TYPES)
async def test_key_types(
    key_type: str, link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    """Each kind of server key, to a device with a P-256 certificate.

    Older builds of mbedTLS that offer TLS 1.3 cannot take an RSA server over TLS 1.2: they
    meet an RSA-PSS signature there that they lack (mbedTLS pull request 10672).
    """
    server = getattr(pki, KEY_TYPES[key_type])
    device = issue_device(pki.ca, "press-7")
    async with backend(pki, tmp_path / "fleet", link, server) as running:
        running.store.add_device("press-7")
        number = running.dtls_port if link == "dtls" else running.tls_port
        bundle = write_bundle(tmp_path / "bundle", pki.ca, device, link, number)
        lines = await run_device(runtime, bundle)
        if key_type == "RSA-2048" and link == "tls1.2" and name_of(runtime) == "micropython-1.25.0":
            assert {line[0] for line in lines} == {"LinkClosed"}, lines
        else:
            assert {line[0] for line in lines} == {"acknowledged"}, lines
