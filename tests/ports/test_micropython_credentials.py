"""Keys and certificates on real MicroPython: where they come from, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mpremote.romfs import make_romfs

from fleetnet import der
from fleetnet_server.identity.pki import Credential, to_pem
from interpreters import Interpreter, interpreters
from pki import Pki, key_pem
from ports.peers import VERSIONS, greet, run_client, server, server_of, write_files

PROGRAM = Path(__file__).with_name("surface_client.py")

every_runtime = pytest.mark.parametrize("runtime", interpreters(), ids=lambda each: each.name)


def load(
    runtime: Interpreter, ca: bytes, cert: bytes | None = None, key: bytes | None = None
) -> dict[str, Any]:
    """Make a context of bytes; the answer of the program."""
    given = {"ca": ca, "cert": cert, "key": key}
    data = {name: value.hex() for name, value in given.items() if value is not None}
    return run_client(runtime, "load", PROGRAM, hex=data)


def sec1(credential: Credential, form: serialization.Encoding) -> bytes:
    key = serialization.load_der_private_key(credential.key, None)
    return key.private_bytes(
        form, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def encrypted_der(credential: Credential) -> bytes:
    key = serialization.load_der_private_key(credential.key, None)
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@every_runtime
@pytest.mark.parametrize("form", ["der", "pem", "sec1", "sec1 pem", "rsa", "rsa sec1"])
def test_forms_that_load(runtime: Interpreter, form: str, pki: Pki) -> None:
    device = pki.server_rsa if "rsa" in form else pki.device
    cert, key = device
    if "pem" in form:
        cert, key = to_pem(cert), key_pem(key)
    if "sec1" in form:
        encoding = serialization.Encoding.PEM if "pem" in form else serialization.Encoding.DER
        key = sec1(device, encoding)
    ca = to_pem(pki.ca.certificate) if "pem" in form else pki.ca.certificate
    assert load(runtime, ca, cert, key) == {"result": "verified"}


@every_runtime
def test_what_cannot_be_used(runtime: Interpreter, pki: Pki) -> None:
    """Each with its remedy."""
    ca, (cert, key) = pki.ca.certificate, pki.device
    odd = pki.ed25519
    pem = to_pem(cert)
    cases: list[tuple[tuple[bytes, bytes | None, bytes | None], list[str]]] = [
        ((ca, cert, pki.server.key), ["not that of the certificate"]),
        ((ca, pki.server_rsa.certificate, pki.rsa_1024.key), ["not that of the certificate"]),
        ((ca, cert, pki.server_rsa.key), ["not that of the certificate"]),
        ((ca, pem, key_pem(pki.server.key)), ["not that of the certificate"]),
        ((ca, pem, pki.server.key), ["not that of the certificate"]),
        ((ca, odd.certificate, odd.key), ["Ed25519", "P-256"]),
        ((ca, cert, odd.key), ["key is Ed25519", "P-256"]),
        ((ca, odd.certificate, key), ["certificate is for Ed25519", "P-256"]),
        ((odd.certificate, None, None), ["Ed25519", "P-256"]),
        ((ca, cert, encrypted_der(pki.device)), ["encrypted", "without a pass phrase"]),
        ((ca, cert, key_pem(key, b"secret")), ["encrypted", "without a pass phrase"]),
        ((ca + pki.other_ca.certificate, None, None), ["as a list"]),
        ((ca, cert + ca, key), ["chain as PEM"]),
        ((ca[:-1], None, None), ["cut short"]),
        ((key, None, None), ["another kind of file"]),
        ((ca, cert, cert), ["key"]),
        ((b"", None, None), ["no trust anchor", "ca="]),
        ((b"ssh-rsa AAAA", None, None), ["neither DER nor PEM"]),
        ((pem[:200], None, None), ["PEM", "fleetnet cert convert"]),
        ((ca, cert, None), ["cert= and key="]),
        ((ca, None, key), ["cert= and key="]),
    ]
    for given, words in cases:
        answer = load(runtime, *given)
        assert answer.get("error") == "CredentialError", (answer, words)
        assert all(word in answer["text"] for word in words), answer["text"]


@every_runtime
def test_messages_name_the_file(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    files = write_files(tmp_path, pki.ca, pki.device)
    Path(files["key"]).write_bytes(pki.server.key)
    for server_side in (False, True):
        answer = run_client(runtime, "load", PROGRAM, server=server_side, **files)
        assert answer["error"] == "CredentialError"
        assert files["key"] in answer["text"] and files["cert"] in answer["text"]
    Path(files["ca"]).write_bytes(b"\x30\x03")
    answer = run_client(runtime, "load", PROGRAM, ca=files["ca"])
    assert files["ca"] in answer["text"]
    Path(files["ca"]).unlink()
    answer = run_client(runtime, "load", PROGRAM, ca=files["ca"])
    assert answer["error"] == "CredentialError" and files["ca"] in answer["text"]


@every_runtime
@pytest.mark.parametrize("form", ["der", "pem"])
def test_files_in_a_romfs(runtime: Interpreter, form: str, pki: Pki, tmp_path: Path) -> None:
    """The image is what mpremote would write to a board; here it is mounted from memory."""
    folder = tmp_path / "rom" / "keys"
    folder.mkdir(parents=True)
    names = {name: f"keys/{name}.{form}" for name in ("ca", "cert", "key")}
    pem = form == "pem"
    ca, (cert, key) = pki.ca.certificate, pki.device
    contents = {
        "ca": to_pem(ca) if pem else ca,
        "cert": to_pem(cert) if pem else cert,
        "key": key_pem(key) if pem else key,
    }
    for name, data in contents.items():
        (tmp_path / "rom" / names[name]).write_bytes(data)
    image = tmp_path / "image.romfs"
    image.write_bytes(make_romfs(str(tmp_path / "rom"), mpy_cross=False))
    with server(server_of(tmp_path, pki.server, VERSIONS[0], pki.ca), greet) as (port, ends):
        answer = run_client(runtime, "rom", PROGRAM, port=port, image=str(image), **names)
    assert answer["result"]["line"] == "welcome\n", answer
    assert ends == ["done"]


def test_der_reads_real_certificates_as_cryptography_does(pki: Pki) -> None:
    for name, credential in pki._asdict().items():
        cert = x509.load_der_x509_certificate(credential.certificate)
        info = cert.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert der.spki(credential.certificate) == info, name
        uris: list[Any] = []
        try:
            names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            pass
        assert der.san_uris(credential.certificate) == uris, name
        point = der.public_point(credential.key)
        if name == "ed25519":
            assert point is None
            assert der.algorithm(credential.key) == der.algorithm(info) == der.ED25519
        else:
            assert point is not None and point in info, name
            assert der.algorithm(credential.key) == der.algorithm(info), name
    assert len(der.san_uris(pki.device.certificate)) == 1
