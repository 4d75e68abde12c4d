"""Keys and certificate requests made by the device library, judged by OpenSSL and cryptography."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleetnet_device import csr, p256
from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter, interpreters

PROGRAM = Path(__file__).with_name("key_birth.py")
RUNTIMES = [*interpreters(), None]
NAMES = ["a", "cam-01", "x" * 63]


def judge(name: str, key: bytes, request: bytes) -> None:
    """Assert that the request asks for what it should, for this key, and is signed by it."""
    read = x509.load_der_x509_csr(request)
    assert read.is_signature_valid
    assert read.subject.rfc4514_string() == f"CN={name}"
    assert read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == name
    (extension,) = read.extensions
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    assert list(extension.value) == [x509.UniformResourceIdentifier(f"urn:fleetnet:device:{name}")]
    private = serialization.load_der_private_key(key, None)
    public = read.public_key()
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert private.public_key() == public and public.curve.name == "secp256r1"
    # Byte for byte what the libraries of others write.
    assert key == private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    assert read.public_bytes(serialization.Encoding.DER) == request


def openssl(request: bytes, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "request.der"
    path.write_bytes(request)
    command = ["openssl", "req", "-inform", "DER", "-in", str(path), "-verify", "-noout"]
    return subprocess.run([*command, "-subject"], capture_output=True, text=True, timeout=60)


async def test_two_hundred_requests(tmp_path: Path) -> None:
    keys = set()
    for number in range(200):
        name = NAMES[number % len(NAMES)]
        private, public = await p256.make_key()
        request = await csr.make_request(name, private, public)
        judge(name, csr.sec1(private, public), request)
        keys.add(private)
        if number % 20 == 0:
            done = openssl(request, tmp_path)
            assert done.returncode == 0 and "verify OK" in done.stdout + done.stderr, done
    assert len(keys) == 200


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda each: each.name if each else "cpython")
def test_requests_made_on_the_device(runtime: Interpreter | None, tmp_path: Path) -> None:
    done = subprocess.run(
        [runtime.path if runtime else sys.executable, str(PROGRAM), "cam-01", "5"],
        env=device_environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pairs = [tuple(map(bytes.fromhex, line.split())) for line in done.stdout.splitlines()]
    assert len(pairs) == len(set(pairs)) == 5
    for key, request in pairs:
        judge("cam-01", key, request)
        checked = openssl(request, tmp_path)
        assert checked.returncode == 0 and "CN = cam-01" in checked.stdout, checked


async def test_openssl_sees_a_request_that_was_changed(tmp_path: Path) -> None:
    private, public = await p256.make_key()
    request = await csr.make_request("cam-01", private, public)
    changed = request.replace(b"cam-01", b"cam-02")
    assert not x509.load_der_x509_csr(changed).is_signature_valid
    done = openssl(changed, tmp_path)
    assert "verify OK" not in done.stdout + done.stderr


async def test_the_curve_agrees_with_another_library() -> None:
    numbers = [int.from_bytes(os.urandom(32), "big") % p256.N or 1 for _ in range(50)]
    # What carries, borrows and empty windows there may be.
    numbers += [1 << bit for bit in range(0, 256, 17)] + [(1 << 64) - 1, (1 << 255) - 1]
    numbers += [p256.N - 1 - number for number in (0, 1, 1 << 64, 1 << 128)]
    for number in numbers:
        wanted = (
            ec.derive_private_key(number, ec.SECP256R1())
            .public_key()
            .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        )
        assert await p256.public_key(number.to_bytes(32, "big")) == wanted, hex(number)


def test_the_bases_are_what_they_are_called() -> None:
    for exponent, (x, y, z) in zip((192, 128, 64, 0), p256._BASES, strict=True):
        wanted = ec.derive_private_key(1 << exponent, ec.SECP256R1()).public_key()
        assert (x, y, z) == (wanted.public_numbers().x, wanted.public_numbers().y, 1)


def test_nothing_of_a_key_is_in_an_error() -> None:
    private = asyncio.run(p256.make_key())[0]
    other = asyncio.run(p256.make_key())[1]
    with pytest.raises(p256.CredentialError) as caught:
        asyncio.run(csr.make_request("cam-01", private, other))
    text = f"{caught.value!r} {caught.value}"
    for told in (private.hex(), str(int.from_bytes(private, "big")), repr(private)):
        assert told not in text and told not in repr(p256._Nonces(private, bytes(32)))
