"""A back-end takes nothing from a device that it has no reason to trust, and says why.

Real devices on MicroPython and CPython, over TLS 1.2, TLS 1.3 and DTLS. The commonest bad
certificates are in test_certificates.py; here are the sly ones.
"""

import asyncio
from pathlib import Path

import pytest

from fail_closed.hostile import device_leaf, nothing_is_left, old_client
from fail_closed.rig import (
    LINKS,
    RUNTIMES,
    backend,
    name_of,
    run_device,
    write_bundle,
)
from fleetnet import errors
from fleetnet_server.identity.pki import Credential
from pki import Pki

TRIES = 2

# case: (TLS alert, or None, reason of REFUSE, or None)
DEVICES = {
    "the CA itself": (43, None),
    "a CA with a device's name": (None, errors.NO_IDENTITY),
    "signed by a device": (48, None),
    "two names": (None, errors.NO_IDENTITY),
    "no name": (None, errors.NO_IDENTITY),
}


def device_of(case: str, pki: Pki) -> Credential:
    if case == "the CA itself":
        return pki.ca
    if case == "a CA with a device's name":
        return device_leaf(pki.ca, "press-7", is_ca=True)
    if case == "signed by a device":
        return device_leaf(pki.device, "press-7")
    if case == "two names":
        return device_leaf(pki.ca, "press-7", "press-8")
    return device_leaf(pki.ca)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("case", DEVICES)
async def test_a_sly_certificate_is_refused(
    case: str, link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    alert, reason = DEVICES[case]
    expected = {(alert, reason)}
    if link == "tls1.3" and runtime is not None:
        expected.add((None, reason))  # mbedTLS hides it; a board's firmware speaks TLS 1.2 only
    async with backend(pki, tmp_path / "fleet", link) as running:
        running.store.add_device("press-7")
        number = running.dtls_port if link == "dtls" else running.tls_port
        bundle = write_bundle(tmp_path / "bundle", pki.ca, device_of(case, pki), link, number)
        lines = await run_device(runtime, bundle, TRIES)
        assert {line[0] for line in lines} == {"Rejected"}, lines
        assert {(line[1], line[2]) for line in lines} <= expected, lines
        assert running.router.received == 0


@pytest.mark.parametrize("datagram", [False, True], ids=["tls", "dtls"])
async def test_an_old_version_gets_the_alert_protocol_version(
    datagram: bool, pki: Pki, tmp_path: Path
) -> None:
    """RFC 8446 section 6.2: alert 70; TLS 1.1 and DTLS 1.0 clients with a good certificate."""
    async with backend(pki, tmp_path / "fleet", "tls1.3") as running:
        number = running.dtls_port if datagram else running.tls_port
        said = await asyncio.to_thread(old_client, datagram, pki.device, number)
        assert said[:1] == b"\x15", said.hex()
        assert said[-1] == 70, said.hex()
        await nothing_is_left(running)
