"""A device sends no application byte to a server that it has no reason to trust.

Real devices on MicroPython and CPython, over TLS 1.2, TLS 1.3 and DTLS, against servers of
which each has one thing wrong. test_certificates.py has the commonest of them.
"""

import json
import secrets
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from fail_closed.hostile import old_server, plain_server, server_leaf
from fail_closed.rig import (
    LINKS,
    RUNTIMES,
    listener,
    name_of,
    run_device,
    write_bundle,
)
from fleetnet_server.identity.pki import Credential
from pki import Pki, odd

TRIES = 2

# case: the errors of which a device names one. A server that shows its CA's own certificate
# cannot sign with it in TLS 1.2 (keyUsage): OpenSSL says so by an alert.
SERVERS = {
    "self-signed stranger": {"WrongCA"},
    "wrong usage": {"TrustError"},
    "the CA itself": {"WrongName", "TrustError", "Rejected"},
    "signed by a device": {"WrongCA"},
}

# What ends a talk with somebody who does not speak TLS as we do.
NO_TALK = {"Rejected", "TrustError", "LinkClosed", "HandshakeTimeout"}

ANSWERS = {
    "http": b"HTTP/1.0 400 Bad Request\r\n\r\n",
    "close_notify": b"\x15\x03\x03\x00\x02\x01\x00",
    "application data": b"\x17\x03\x03\x00\x20" + bytes(32),
    "finished": b"\x14\x03\x03\x00\x01\x01\x16\x03\x03\x00\x20" + bytes(32),
}


def server_of(case: str, pki: Pki) -> Credential:
    if case == "self-signed stranger":
        return odd(None, ExtendedKeyUsageOID.SERVER_AUTH)
    if case == "wrong usage":
        return odd(pki.ca, ExtendedKeyUsageOID.CLIENT_AUTH)
    if case == "the CA itself":
        return pki.ca
    return server_leaf(pki.device)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("case", SERVERS)
async def test_an_untrusted_server_hears_nothing(
    case: str, link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    async with listener(server_of(case, pki), pki.ca, link) as (number, ears):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, link, number)
        lines = await run_device(runtime, bundle, TRIES)
        assert {line[0] for line in lines} <= SERVERS[case], lines
        assert ears.heard == 0


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", ["tls", "dtls"])
async def test_nobody_is_talked_down(
    link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    """A server with a good certificate that knows TLS 1.1, or DTLS 1.0, at most."""
    async with old_server(link == "dtls", pki.server) as (number, wire):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, link, number)
        lines = await run_device(runtime, bundle, TRIES)
        assert wire.received
        assert wire.application_records == 0
        assert {line[0] for line in lines} <= NO_TALK, lines


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", ["tls", "dtls"])
@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_server_in_the_clear_hears_nothing(
    answer: str, link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    async with plain_server(link == "dtls", ANSWERS[answer]) as (number, wire):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, link, number)
        lines = await run_device(runtime, bundle, 1)
        assert wire.received
        assert b"secret" not in wire.received
        assert wire.application_records == 0
        assert lines[0][0] in NO_TALK, lines


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
async def test_without_an_anchor_nothing_is_tried(
    link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    async with listener(pki.server, pki.ca, link) as (number, ears):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, link, number)
        (bundle / "ca.der").unlink()
        lines = await run_device(runtime, bundle, TRIES)
        assert {line[0] for line in lines} == {"CredentialError"}, lines
        assert all("ca.der" in str(line[3]) for line in lines), lines
        assert ears.heard == 0


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
async def test_a_server_without_our_pre_shared_key_hears_nothing(
    link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    """It has a good certificate: a device that goes by a key must not settle for that."""
    async with listener(pki.server, pki.ca, link) as (number, ears):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, None, link, number)
        (bundle / "ca.der").unlink()
        config = json.loads((bundle / "config.json").read_text())
        config["psk"] = {"identity": "press-7.1", "key": secrets.token_hex(16)}
        (bundle / "config.json").write_text(json.dumps(config))
        lines = await run_device(runtime, bundle, TRIES)
        has_psk = runtime is None or "psk" in runtime.features  # type: ignore[attr-defined]
        assert {line[0] for line in lines} <= (NO_TALK if has_psk else {"Unsupported"}), lines
        assert ears.heard == 0


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("link", LINKS)
async def test_a_context_whose_verification_was_stripped_sends_nothing(
    link: str, runtime: object, pki: Pki, tmp_path: Path
) -> None:
    """Somebody reaches behind our context and tells the TLS library not to verify."""
    async with listener(pki.server_of_other_ca, pki.ca, link) as (number, ears):
        bundle = write_bundle(tmp_path / "bundle", pki.ca, pki.device, link, number)
        lines = await run_device(runtime, bundle, TRIES, strip=True)
        assert {line[0] for line in lines} == {"TrustError"}, lines
        assert all("turned off" in str(line[3]) for line in lines), lines
        assert ears.heard == 0
