"""What pki makes is accepted by OpenSSL's command and by MicroPython's mbedTLS."""

import ipaddress
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleetnet.errors import CredentialError
from fleetnet_server.errors import FolderError, IdentityError
from fleetnet_server.identity import files, pki
from interpreters import Interpreter, interpreters

HOSTS = ("fleet.example", "10.0.0.5", "::1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    ca = pki.create_ca()
    (folder / "ca.pem").write_bytes(pki.to_pem(ca.certificate))
    for name, credential in (
        ("ca", ca),
        ("other", pki.create_ca()),
        ("server", pki.issue_server(ca, HOSTS)),
        ("device", pki.issue_device(ca, "cam-1")),
        ("longest", pki.issue_device(ca, "a" * 63)),
    ):
        (folder / f"{name}.der").write_bytes(credential.certificate)
        (folder / f"{name}.key").write_bytes(credential.key)
    return folder


def verify(folder: Path, name: str, *arguments: str) -> bool:
    """Ask openssl verify, strictly, about NAME.der below ca.pem."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    command = [openssl, "verify", "-x509_strict", "-CAfile", str(folder / "ca.pem"), *arguments]
    answer = subprocess.run(
        [*command, str(folder / f"{name}.der")], capture_output=True, check=False, timeout=30
    )
    return answer.returncode == 0


def test_openssl_accepts_each_for_its_purpose_only(folder: Path) -> None:
    assert verify(folder, "device", "-purpose", "sslclient")
    assert not verify(folder, "device", "-purpose", "sslserver")
    assert verify(folder, "server", "-purpose", "sslserver")
    assert not verify(folder, "server", "-purpose", "sslclient")
    assert verify(folder, "ca")
    assert not verify(folder, "other")


def test_openssl_accepts_the_servers_names_only(folder: Path) -> None:
    assert verify(folder, "server", "-verify_hostname", "fleet.example")
    assert verify(folder, "server", "-verify_ip", "10.0.0.5")
    assert verify(folder, "server", "-verify_ip", "::1")
    assert not verify(folder, "server", "-verify_hostname", "other.example")
    assert not verify(folder, "server", "-verify_ip", "10.0.0.6")


def test_a_leaf_signs_nothing(folder: Path) -> None:
    leaf = pki.Credential(
        (folder / "device.der").read_bytes(), (folder / "device.key").read_bytes()
    )
    below = pki.issue_device(leaf, "cam-2")
    (folder / "below.der").write_bytes(below.certificate)
    (folder / "leaf.pem").write_bytes(pki.to_pem(leaf.certificate))
    assert not verify(folder, "below", "-untrusted", str(folder / "leaf.pem"))


def test_fields(folder: Path) -> None:
    ca = x509.load_der_x509_certificate((folder / "ca.der").read_bytes())
    device = x509.load_der_x509_certificate((folder / "longest.der").read_bytes())
    assert len((folder / "longest.der").read_bytes()) < 1000
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value.ca and constraints.value.path_length == 0
    usage = device.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = device.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["urn:fleetnet:device:" + "a" * 63]
    assert (device.not_valid_after_utc - device.not_valid_before_utc).days == pki.LEAF_DAYS + 1
    server = x509.load_der_x509_certificate((folder / "server.der").read_bytes())
    hosts = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == ["fleet.example"]
    assert hosts.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.0.0.5"),
        ipaddress.ip_address("::1"),
    ]


LOAD = """
import sys, tls
def read(name):
    with open(sys.argv[1] + "/" + name, "rb") as file:
        return file.read()
for protocol, name in ((tls.PROTOCOL_TLS_CLIENT, "device"), (tls.PROTOCOL_TLS_SERVER, "server")):
    context = tls.SSLContext(protocol)
    context.load_cert_chain(read(name + ".der"), read(name + ".key"))
    context.load_verify_locations(read("ca.der"))
context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
try:
    context.load_cert_chain(read("device.der"), read("server.der"))
except ValueError:
    print("loaded")
"""


@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda each: each.name)
def test_micropython_loads_them(folder: Path, interpreter: Interpreter, tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    answer = interpreter.run(str(script), str(folder))
    assert answer.stdout == "loaded\n", answer.stderr


def test_misuse_is_named(folder: Path) -> None:
    ca = pki.create_ca()
    with pytest.raises(CredentialError, match="--host"):
        pki.issue_server(ca, [])
    for host in ("bad host", "*.example", "a..b", "http://x", "ä.example"):
        with pytest.raises(CredentialError, match="neither a DNS name"):
            pki.issue_server(ca, [host])
    with pytest.raises(IdentityError):
        pki.issue_device(ca, "Cam 1")
    with pytest.raises(CredentialError, match="does not belong"):
        pki.issue_device(pki.Credential(ca.certificate, pki.create_ca().key), "cam-1")
    with pytest.raises(CredentialError, match="cannot be read"):
        pki.issue_device(pki.Credential(ca.certificate, b"garbage"), "cam-1")


def test_new_files_are_private_and_never_replace(tmp_path: Path) -> None:
    path = tmp_path / "key.der"
    old = os.umask(0)
    try:
        files.write_new_file(path, b"one")
        files.make_private_folder(tmp_path / "secret")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FolderError, match="left alone"):
        files.write_new_file(path, b"two")
    assert path.read_bytes() == b"one"
    (tmp_path / "secret" / "key").write_bytes(b"x")
    (tmp_path / "new").mkdir()
    with pytest.raises(FolderError, match="left alone"):
        files.move_folder_into_place(tmp_path / "new", tmp_path / "secret")
    with pytest.raises(FolderError, match="left alone"):
        files.move_folder_into_place(tmp_path / "new", path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key.der", "new", "secret"]
