"""Who is not to be trusted gets nothing, and the device's error names the cause.

Real device programs, on MicroPython and CPython, over TLS 1.2, TLS 1.3 and DTLS. The
default number of tries is small; FLEETNET_TRIES=100 is the proof.
"""

import asyncio
import glob
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from OpenSSL import SSL

from end_to_end.fleet import faked_clock
from fleetnet import errors
from fleetnet.ports import port
from fleetnet_server.app import Backend
from fleetnet_server.cli.init import create_fleet
from fleetnet_server.config import Settings
from fleetnet_server.identity.pki import Credential, issue_device
from fleetnet_server.net.dtls import DtlsListener
from fleetnet_server.net.tls import TlsListener
from fleetnet_server.sim.interpreters import device_environment
from interpreters import interpreters
from pki import Pki

TRIES = int(os.environ.get("FLEETNET_TRIES", "3"))
PROGRAM = Path(__file__).with_name("try_connect.py")
LINKS = ("tls1.2", "tls1.3", "dtls")
RUNTIMES = [*interpreters(), None]
FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")


def name_of(runtime: object) -> str:
    return "cpython" if runtime is None else runtime.name  # type: ignore[attr-defined,no-any-return]


class Ears:
    """A server's application: counts the bytes that reach it."""

    def __init__(self) -> None:
        self.heard = 0

    def receive_data(self, data: bytes) -> None:
        self.heard += len(data)

    def link_lost(self, error: object) -> None:
        pass


def write_bundle(
    folder: Path, anchor: Credential, device: Credential | None, link: str, port_number: int
) -> Path:
    folder.mkdir()
    config = {
        "name": "press-7",
        "host": "127.0.0.1",
        "tls_port": port_number,
        "dtls_port": port_number,
        "server_hostname": "localhost",
        "transport": "dtls" if link == "dtls" else "tls",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ca.der").write_bytes(anchor.certificate)
    if device is not None:
        (folder / "cert.der").write_bytes(device.certificate)
        (folder / "key.der").write_bytes(device.key)
    return folder


async def run_device(
    runtime: object,
    bundle: Path,
    tries: int = TRIES,
    clock: str | None = None,
    strip: bool = False,
) -> list[list[object]]:
    """Run try_connect to its end; return its lines."""
    command = [sys.executable if runtime is None else runtime.path]  # type: ignore[attr-defined]
    environment = device_environment()
    if clock is not None:
        environment.update(faked_clock(clock))
    process = await asyncio.create_subprocess_exec(
        *command, str(PROGRAM), str(bundle), str(tries), *(["strip"] if strip else []),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 20 + 6 * tries)
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith(b"[")]
    assert len(lines) == tries, (out, err)
    return lines


@asynccontextmanager
async def listener(
    server: Credential, anchor: Credential, link: str
) -> AsyncIterator[tuple[int, Ears]]:
    """A server of the real engine that only listens, and counts what it hears."""
    ears = Ears()
    datagram = link == "dtls"
    context = port.server_context(
        server.certificate, server.key, anchor.certificate, datagram=datagram
    )
    if link == "tls1.2":
        context.limit_version(SSL.TLS1_2_VERSION)
    kind = DtlsListener if datagram else TlsListener
    server_socket = kind(context, lambda *_: ears, lambda *_: None)  # type: ignore[arg-type]
    await server_socket.start("127.0.0.1", 0)
    try:
        yield server_socket.port, ears
    finally:
        server_socket.close()
        await asyncio.sleep(0)


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


@asynccontextmanager
async def backend(
    pki: Pki, folder: Path, link: str, server: Credential | None = None
) -> AsyncIterator[Backend]:
    """The whole back-end, with this run's CA in place of its own."""
    server = server or pki.server
    create_fleet(folder, ("localhost",))
    for name in ("ca", "server"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    (folder / "ca" / "ca.der").write_bytes(pki.ca.certificate)
    (folder / "server" / "cert.der").write_bytes(server.certificate)
    (folder / "server" / "key.der").write_bytes(server.key)
    settings = Settings(bind="127.0.0.1", tls_port=0, dtls_port=0)
    async with Backend(folder, settings) as running:
        if link == "tls1.2":
            running.tls.context.limit_version(SSL.TLS1_2_VERSION)
        yield running


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
    expected = alert_13 if link == "tls1.3" else alert
    if link == "tls1.3" and runtime is not None:
        expected = None  # mbedTLS hides it: "rejected, reason not given"
    async with backend(pki, tmp_path / "fleet", link) as running:
        number = running.dtls_port if link == "dtls" else running.tls_port
        device = getattr(pki, credential) if credential else None
        bundle = write_bundle(tmp_path / "bundle", pki.ca, device, link, number)
        lines = await run_device(runtime, bundle)
        assert {line[0] for line in lines} == {"Rejected"}, lines
        assert {line[1] for line in lines} == {expected}, lines
        if expected is None:
            assert all("reason not given" in str(line[3]) for line in lines), lines
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
