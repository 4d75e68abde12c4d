"""The fleet's CA: what it makes is accepted by openssl and by real MicroPython, and no more."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from fleetnet.errors import CredentialError
from fleetnet.ports import port
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.errors import FolderError, IdentityError
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity import pki, rollover
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.key_types import KEY_TYPES, key_to_der, make_key, name_of_key
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.net.dtls import DtlsListener
from fleetnet_server.net.tls import TlsListener
from fleetnet_server.sim.interpreters import device_environment
from interpreters import ROOT, Interpreter, interpreters
from server.identity.openssl import openssl, verify

HOSTS = ("fleet.example", "10.0.0.5")
RUNTIMES = [*interpreters(), None]


def name_of(runtime: Interpreter | None) -> str:
    return "cpython" if runtime is None else runtime.name


def parts(authority: Authority) -> tuple[bytes, bytes]:
    """(issuing, root), DER"""
    return authority.issuing_certificate, authority.bundle_anchor


def verdict(place: Path, leaf: bytes, authority: Authority, *arguments: object) -> bool:
    return verify(place, leaf, *parts(authority), *arguments)[0]


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_openssl_accepts_the_chain_for_its_purpose_only(key_type: str, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, key_type=key_type, permit=HOSTS)
    device = authority.issue_device("cam.1").certificate
    server = authority.issue_server(HOSTS).certificate
    for name in ("-verify_hostname", "fleet.example"), ("-verify_ip", "10.0.0.5"):
        assert verdict(tmp_path, server, authority, "-purpose", "sslserver", *name)
    assert not verdict(tmp_path, server, authority, "-purpose", "sslclient")
    for name in ("cam.1", "cam-1", "a" * 63):
        device = authority.issue_device(name).certificate
        assert verdict(tmp_path, device, authority, "-purpose", "sslclient"), name
        assert len(device) < 1000
    assert not verdict(tmp_path, device, authority, "-purpose", "sslserver")
    issuing, root = parts(authority)
    assert verify(tmp_path, issuing, None, root)[0]
    assert not verify(tmp_path, device, None, root)[0], "the root did not sign it"
    types = {rollover.key_type_of(each) for each in (issuing, root, device, server)}
    assert types == {key_type}


def test_fields(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, permit=HOSTS)
    for der, length in zip(parts(authority), (0, 1), strict=True):
        extensions = x509.load_der_x509_certificate(der).extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical and basic.value == x509.BasicConstraints(True, length)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical and usage.value.key_cert_sign and usage.value.crl_sign
        assert not usage.value.digital_signature
    issuing = x509.load_der_x509_certificate(authority.issuing_certificate).extensions
    constraints = issuing.get_extension_for_class(x509.NameConstraints)
    assert not constraints.critical, "mbedTLS would refuse it"
    leaf = x509.load_der_x509_certificate(authority.issue_device("cam").certificate).extensions
    usage = leaf.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign


def test_path_length_holds(tmp_path: Path) -> None:
    """An issuing CA below the issuing CA is refused by openssl."""
    authority = Authority.create(tmp_path)
    pair = authority.generations[1].issuing
    below = pki.create_issuing(pair, "below")
    leaf = pki.issue_device(below, "cam-1")
    (tmp_path / "both.pem").write_bytes(
        pki.to_pem(pair.certificate) + pki.to_pem(below.certificate)
    )
    accepted, said = verify(
        tmp_path, leaf.certificate, below.certificate, authority.bundle_anchor,
        "-untrusted", tmp_path / "both.pem",
    )  # fmt: skip
    assert not accepted and "path length constraint exceeded" in said


def test_a_stolen_issuing_key_makes_no_certificate_for_another_site(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, permit=("fleet.example", "10.0.0.0/8"))
    with pytest.raises(CredentialError, match=r"bank\.example.*ca rotate --issuing --permit"):
        authority.issue_server(["fleet.example", "bank.example"])
    with pytest.raises(CredentialError, match=r"may not sign for 11\.0\.0\.1"):
        authority.issue_server(["11.0.0.1"])
    assert authority.issue_server(["www.fleet.example", "10.1.2.3", "127.0.0.9", "::1"])
    # The thief uses a program of his own, which does not look at the constraints.
    stolen = authority.generations[1].issuing
    for host in ("bank.example", "11.0.0.1", "notfleet.example"):
        leaf = foreign_leaf(stolen, host)
        accepted, said = verify(tmp_path, leaf, *parts(authority), "-purpose", "sslserver")
        assert not accepted and "permitted subtree violation" in said
    assert verdict(tmp_path, foreign_leaf(stolen, "fleet.example"), authority)


def foreign_leaf(ca: pki.Credential, host: str) -> bytes:
    """Sign a server's leaf without looking at the CA's constraints."""
    bare = x509.load_der_x509_certificate(ca.certificate)
    key = serialization.load_der_private_key(ca.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(bare.subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")]))
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(bare.not_valid_before_utc)
        .not_valid_after(bare.not_valid_after_utc)
    )
    for extension in bare.extensions:
        if not isinstance(extension.value, x509.NameConstraints):
            builder = builder.add_extension(extension.value, extension.critical)
    twin = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return pki.issue_server(pki.Credential(twin, ca.key), [host]).certificate


@pytest.mark.parametrize("link", ["tls", "dtls"])
@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_bundle_and_chain_work_with_the_root_as_anchor(
    runtime: Interpreter | None, link: str, tmp_path: Path
) -> None:
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    settings = Settings(bind="127.0.0.1", host="127.0.0.1", tls_port=0, dtls_port=0)
    async with Backend(folder, settings) as running:
        ports = {"tls_port": running.tls_port, "dtls_port": running.dtls_port}
        bundle = add_device(folder, settings.model_copy(update=ports), running.store, "cam", link)
        assert (bundle / "ca.der").read_bytes() == Authority.load(folder).anchors[0]
        assert await try_connect(runtime, bundle) == "acknowledged"
        assert len(x509.load_pem_x509_certificates(ServerKeys(folder).chain)) == 2
    async with leaf_only(folder, link, ports):
        assert await try_connect(runtime, bundle) == "WrongCA"


@asynccontextmanager
async def leaf_only(folder: Path, link: str, ports: dict[str, int]) -> AsyncIterator[None]:
    """A server that knows no CA, so that OpenSSL cannot complete its chain."""
    keys = ServerKeys(folder)
    kind: Any = TlsListener if link == "tls" else DtlsListener
    context = port.server_context(keys.cert, keys.key, datagram=link == "dtls")
    listener = kind(context, lambda *_: None, lambda *_: None)
    await listener.start("127.0.0.1", ports[f"{link}_port"])
    try:
        yield
    finally:
        listener.close()
        await asyncio.sleep(0)


async def try_connect(runtime: Interpreter | None, bundle: Path) -> str:
    """Run a device program once; return "acknowledged" or the name of its error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable if runtime is None else runtime.path,
        str(ROOT / "tests" / "fail_closed" / "try_connect.py"), str(bundle), "1",
        env=device_environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return str(json.loads(out.splitlines()[-1])[0])


LOAD = """
import sys, tls
context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        try:
            context.load_verify_locations(file.read())
            print("loaded")
        except ValueError as error:
            print(error)
"""


@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda each: each.name)
def test_critical_constraints_would_be_refused_by_micropython(
    interpreter: Interpreter, tmp_path: Path
) -> None:
    """Why the extension is not critical, see identity/constraints.py."""
    authority = Authority.create(tmp_path)
    root = pki.Credential(
        authority.bundle_anchor, (tmp_path / "ca" / "1" / "root-key.der").read_bytes()
    )
    issuing = x509.load_der_x509_certificate(authority.issuing_certificate)
    builder = (
        x509.CertificateBuilder(issuing.issuer, issuing.subject, issuing.public_key(), 7)  # type: ignore[arg-type]
        .not_valid_before(issuing.not_valid_before_utc)
        .not_valid_after(issuing.not_valid_after_utc)
    )
    for extension in issuing.extensions:
        is_critical = extension.critical or isinstance(extension.value, x509.NameConstraints)
        builder = builder.add_extension(extension.value, is_critical)
    key = serialization.load_der_private_key(root.key, None)
    critical = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    (tmp_path / "critical.der").write_bytes(critical.public_bytes(serialization.Encoding.DER))
    (tmp_path / "load.py").write_text(LOAD)
    names = ("ca/1/root.der", "ca/1/issuing.der", "critical.der")
    answer = interpreter.run(str(tmp_path / "load.py"), *(str(tmp_path / name) for name in names))
    assert answer.stdout.split("\n")[:3] == ["loaded", "loaded", "invalid cert"], answer.stderr


def csr(key: object, name: str = "root") -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]


def der(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_request_gives_its_key_and_nothing_else(key_type: str, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    key = make_key(key_type)
    issued = authority.sign_request(der(csr(key, "cam-9")), "cam-1", timedelta(hours=1))
    made = x509.load_der_x509_certificate(issued.certificate)
    assert issued.key == b"" and made.public_key() == key.public_key()
    assert made.subject.rfc4514_string() == "CN=cam-1"
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert verdict(tmp_path, issued.certificate, authority, "-purpose", "sslclient")
    assert len(issued.certificate) < 1000


def test_bad_requests_are_refused_by_reason(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    good = der(csr(make_key("p256")))

    def refused(request: bytes, reason: str) -> None:
        with pytest.raises(CredentialError, match=reason):
            authority.sign_request(request, "cam-1")

    refused(good[:-1] + bytes([good[-1] ^ 1]), "not signed by its own key")
    refused(good[:-3], "cannot be read")
    refused(b"", "cannot be read")
    refused(good + bytes(5000), "4096 at most")
    point = make_key("p256").public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )  # fmt: skip
    place = good.index(b"\x03\x42\x00\x04") + 3
    refused(good[:place] + point[:-1] + bytes([point[-1] ^ 1]) + good[place + 65 :], "read")
    refused(good[:place] + point + good[place + 65 :], "not signed by its own key")
    refused(der(ed25519_request()), "mbedTLS lacks")
    refused(der(csr(ec.generate_private_key(ec.SECP256K1()))), "secp256k1")
    refused(der(csr(ec.generate_private_key(ec.SECP521R1()))), "secp521r1")
    refused(der(csr(rsa.generate_private_key(65537, 1024))), "RSA of 1024 bits")  # noqa: S505
    refused(der(csr(rsa.generate_private_key(3, 2048))), "exponent 3")
    refused(der(csr(dsa.generate_private_key(2048))), "is DSA")
    with pytest.raises(IdentityError):
        authority.sign_request(good, "Cam 1")


def ed25519_request() -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(ed25519.Ed25519PrivateKey.generate(), None)


def test_lives(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, root_days=30, issuing_days=20)
    short = authority.issue_device("cam-1", lifetime=timedelta(minutes=10))
    life_ms = short.not_after_ms - short.not_before_ms
    assert 600_000 <= life_ms <= 663_000, "a third of it must be a third of ten minutes"
    long = authority.issue_device("cam-1")
    issuing = x509.load_der_x509_certificate(authority.issuing_certificate)
    assert long.not_after_ms == issuing.not_valid_after_utc.timestamp() * 1000
    with pytest.raises(CredentialError, match="5 s or more"):
        authority.issue_device("cam-1", lifetime=timedelta(seconds=4))
    key = key_to_der(make_key("p384"))
    server = authority.issue_server(["localhost"], key=key)
    assert server.key == key
    assert rollover.key_type_of(server.certificate) == "p384"


def test_what_cannot_be_made(tmp_path: Path) -> None:
    for key_type in ("ed25519", "Ed448"):
        with pytest.raises(CredentialError, match="mbedTLS lacks"):
            Authority.create(tmp_path, key_type=key_type)
    for permit in ("bad host", "10.0.0.1/8", "*.example"):
        with pytest.raises(CredentialError, match=r"neither|network"):
            Authority.create(tmp_path, permit=[permit])
    with pytest.raises(CredentialError, match="fleetnet ca init"):
        Authority.load(tmp_path)
    root_key = tmp_path / "root-key.der"
    root_key.write_bytes(b"x")
    with pytest.raises(FolderError, match="left alone"):
        Authority.create(tmp_path, root_key_file=root_key)
    assert root_key.read_bytes() == b"x"
    assert not list((tmp_path / "ca").iterdir()), "something was left over"


def test_a_key_that_was_taken_away_stops_only_what_needs_it(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    (folder / "ca" / "1" / "root-key.der").rename(tmp_path / "offline.der")
    assert Authority.load(folder).issue_device("cam-1")
    with pytest.raises(CredentialError, match="--root-key"):
        rollover.begin_issuing(folder, name="x")
    (folder / "ca" / "1" / "issuing-key.der").rename(tmp_path / "issuing.der")
    authority = Authority.load(folder)
    assert len(authority.client_anchors) == 2
    with pytest.raises(CredentialError, match="key is not here"):
        authority.issue_device("cam-1")
    (folder / "ca" / "1" / "issuing.der").write_bytes(b"garbage")
    with pytest.raises(CredentialError, match=r"issuing\.der is no certificate"):
        Authority.load(folder)
    (folder / "ca" / "authority.json").write_text("{}")
    with pytest.raises(CredentialError, match=r"authority\.json is damaged"):
        Authority.load(folder)


def first_layout(folder: Path) -> pki.Credential:
    """A fleet as the first version made it."""
    create_fleet(folder, ("localhost",))
    shutil.rmtree(folder / "ca")
    shutil.rmtree(folder / "server")
    ca = pki.create_ca()
    server = pki.issue_server(ca, ("localhost", "127.0.0.1"))
    for name in ("ca", "server"):
        (folder / name).mkdir()
    (folder / "ca" / "ca.der").write_bytes(ca.certificate)
    (folder / "ca" / "key.der").write_bytes(ca.key)
    (folder / "server" / "cert.der").write_bytes(server.certificate)
    (folder / "server" / "key.der").write_bytes(server.key)
    return ca


async def test_folder_of_the_first_layout(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    ca = first_layout(folder)
    authority = Authority.load(folder)
    assert authority.anchors == authority.client_anchors == (ca.certificate,)
    assert authority.trusted == (1,) and authority.generation == 1
    settings = Settings(bind="127.0.0.1", host="127.0.0.1", tls_port=0, dtls_port=0)
    async with Backend(folder, settings) as running:
        now = settings.model_copy(update={"tls_port": running.tls_port})
        bundle = add_device(folder, now, running.store, "cam", "tls")
        assert await try_connect(None, bundle) == "acknowledged"
    rollover.begin(folder, name="x")
    authority = Authority.load(folder)
    assert authority.trusted == (2, 1) and authority.anchors[1] == ca.certificate
    assert not (folder / "ca" / "key.der").exists()
    assert authority.generations[1].issuing == ca
    assert authority.bundle_anchor == ca.certificate


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_self_signed(key_type: str, tmp_path: Path) -> None:
    pair = pki.self_signed(["openmv", "192.168.1.50"], key_type, 365)
    for purpose in ("sslserver", "sslclient"):
        accepted, said = verify(
            tmp_path, pair.certificate, None, pair.certificate, "-purpose", purpose,
            "-verify_hostname", "openmv",
        )  # fmt: skip
        assert accepted, said
    text = openssl("x509", "-noout", "-text", "-in", tmp_path / "leaf.pem").stdout
    assert "CA:FALSE" in text and "IP Address:192.168.1.50" in text
    with pytest.raises(CredentialError, match="--host or --name"):
        pki.self_signed([])
    client = pki.self_signed(name="sensor-01")
    key = serialization.load_der_private_key(client.key, None)
    assert name_of_key(key) == "p256"
