"""`fleetnet cert inspect|convert|self-signed` as a person runs them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import pkcs7

from fleetnet_server.cli.main import main
from fleetnet_server.identity import crl, pki
from interpreters import interpreters
from server.identity.chains import Party, authority, chain_pem, make_key, server
from server.identity.openssl import openssl
from server.identity.tls_peer import loads


@pytest.fixture(scope="module")
def party() -> Party:
    return authority("Root")


def cert(*arguments: object, code: int = 0) -> str:
    answer = CliRunner().invoke(main, ["cert", *map(str, arguments)])
    assert answer.exit_code == code, answer.output
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    return answer.stderr if code else answer.stdout


def inspected(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
    answer = CliRunner().invoke(main, ["cert", "inspect", "--json", *map(str, arguments)])
    assert answer.exit_code == code, answer.output
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


def files(folder: Path, **contents: bytes) -> list[Path]:
    paths = [folder / name.replace("__", ".") for name in contents]
    for path, data in zip(paths, contents.values(), strict=True):
        path.write_bytes(data)
    return paths


# -- inspect -------------------------------------------------------------------------------


def test_inspect_says_what_matters_of_a_devices_certificate(tmp_path: Path) -> None:
    root = pki.create_root("Test")
    issuing = pki.create_issuing(root, "Test issuing")
    device = pki.issue_device(issuing, "cam-01", days=90.5)
    (path, key) = files(tmp_path, cert__der=device.certificate, key__der=device.key)
    about, keys = inspected(path, key, "--key", key)
    one = about["items"][0]
    assert one["device"] == "cam-01"
    assert one["names"] == ["URI:urn:fleetnet:device:cam-01"]
    assert one["purposes"] == ["clientAuth"]
    assert (one["key"], one["signature"]) == ("P-256", "ECDSA with SHA256")
    assert one["days_left"] == 90
    assert one["bytes"] == len(device.certificate) < 1000
    assert (one["ca"], one["self_signed"], one["state"]) == (False, False, "valid")
    assert about["camera"] == [{"level": "ok", "text": "a camera can load it", "remedy": ""}]
    assert keys["items"][0]["form"] == "SEC 1"
    assert keys["items"][0]["pin"] == one["pin"]
    told = openssl("x509", "-inform", "DER", "-in", path, "-noout", "-fingerprint", "-sha256")
    fingerprint = told.stdout.strip().partition("=")[2]
    text = cert("inspect", path)
    assert f"SHA-256    {fingerprint}" in text
    assert "fleetnet" not in text.partition("names")[0]  # the device's name has its own row
    assert "device     cam-01" in text
    assert "90 days left" in text


def test_inspect_says_what_restricts_a_ca(tmp_path: Path) -> None:
    constraints = x509.NameConstraints([x509.DNSName("a.example")], None)
    root = pki.create_root("Test")
    issuing = pki.create_issuing(root, "Test issuing", constraints=constraints)
    (path,) = files(tmp_path, ca__der=issuing.certificate)
    one = inspected(path)[0]["items"][0]
    assert (one["ca"], one["path_length"], one["permitted"]) == (True, 0, ["a.example"])
    assert one["key_usage"] == ["key_cert_sign", "crl_sign"]
    assert one["critical"] == ["basicConstraints", "keyUsage"]
    assert "CA, path length 0" in cert("inspect", path)


def test_inspect_knows_every_form(tmp_path: Path, party: Party) -> None:
    key: Any = party.key
    plain, pem, der = (
        serialization.NoEncryption(), serialization.Encoding.PEM, serialization.Encoding.DER,
    )  # fmt: skip
    sec1 = serialization.PrivateFormat.TraditionalOpenSSL
    pkcs8 = serialization.PrivateFormat.PKCS8
    secret = serialization.BestAvailableEncryption(b"secret")
    rsa: Any = make_key("rsa2048")
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(party.certificate.subject)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    ca = pki.create_ca("Test")
    listed = crl.make_crl(ca, [], None)
    public = key.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    forms = {
        "a.der": (party.der, "certificate", "X.509"),
        "a.pem": (b"some words before\n" + party.pem, "certificate", "X.509"),
        "a.p7b": (pkcs7.serialize_certificates([party.certificate], der), "certificate", "PKCS #7"),
        "a.p7": (pkcs7.serialize_certificates([party.certificate], pem), "certificate", "PKCS #7"),
        "sec1.der": (key.private_bytes(der, sec1, plain), "private key", "SEC 1"),
        "sec1.pem": (key.private_bytes(pem, sec1, plain), "private key", "SEC 1"),
        "pkcs1.der": (rsa.private_bytes(der, sec1, plain), "private key", "PKCS #1"),
        "pkcs1.pem": (rsa.private_bytes(pem, sec1, plain), "private key", "PKCS #1"),
        "pkcs8.der": (key.private_bytes(der, pkcs8, plain), "private key", "PKCS #8"),
        "pkcs8.pem": (key.private_bytes(pem, pkcs8, plain), "private key", "PKCS #8"),
        "locked.der": (key.private_bytes(der, pkcs8, secret), "private key", "PKCS #8"),
        "locked.pem": (key.private_bytes(pem, pkcs8, secret), "private key", "PKCS #8"),
        "old.pem": (key.private_bytes(pem, sec1, secret), "private key", "SEC 1"),
        "public.der": (public.public_bytes(der, spki), "public key", "SPKI"),
        "public.pem": (public.public_bytes(pem, spki), "public key", "SPKI"),
        "request.der": (request.public_bytes(der), "certificate request", "PKCS #10"),
        "list.der": (listed, "revocation list", "X.509"),
        "request.pem": (request.public_bytes(pem), "certificate request", "PKCS #10"),
    }
    paths = []
    for name, (data, _, _) in forms.items():
        (tmp_path / name).write_bytes(data)
        paths.append(tmp_path / name)
    for document, (name, (_, kind, form)) in zip(
        inspected(*paths, code=1), forms.items(), strict=True
    ):
        one = document["items"][0]
        assert (one["kind"], one["form"]) == (kind, form), name
        is_pem = name.endswith((".pem", ".p7"))
        assert one["encoding"] == ("PEM" if is_pem else "DER"), name
        assert one.get("encrypted", False) == name.startswith(("locked", "old")), name
        if kind not in ("certificate", "private key") or one.get("encrypted"):
            assert document["camera"][0]["level"] == "bad", name


BAD_FILES = {
    b"": "is empty",
    b"\n \n": "is empty",
    b"hello": "neither DER nor PEM",
    b"<!DOCTYPE html><html>": "is a web page",
    b"\xff\xfe-\0-\0": "UTF-16",
    b"ssh-ed25519 AAAA": "public key of SSH",
    b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----": "OpenSSH",
    b"-----BEGIN CERTIFICATE-----\nMIIB": "cut off",
    b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n": "damaged certificate",
    b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----": "Diffie-Hellman",
    b"0\x82\x02\x00abc": "cut off at 7 B",
    b"0\x03\x02\x01\x05": "is DER, but no certificate",
    b"MIIBkTCB+wIJAK" * 10: "Base64 without its BEGIN",
}


@pytest.mark.parametrize("data", BAD_FILES)
def test_a_wrong_file_is_named_with_what_to_do(data: bytes, tmp_path: Path) -> None:
    (path,) = files(tmp_path, file=data)
    said = cert("convert", path, tmp_path / "out.der", code=1)
    assert said.startswith(f"Error: {path} ")
    assert BAD_FILES[data] in said
    assert inspected(path, code=1)[0]["camera"][0]["level"] == "bad"
    assert not (tmp_path / "out.der").exists()


def test_pkcs12_and_missing_files(tmp_path: Path, party: Party) -> None:
    from cryptography.hazmat.primitives.serialization import pkcs12

    key: Any = party.key
    data = pkcs12.serialize_key_and_certificates(
        b"x", key, party.certificate, None, serialization.BestAvailableEncryption(b"p")
    )
    (path,) = files(tmp_path, a__p12=data)
    assert "is PKCS #12" in cert("convert", path, tmp_path / "o.der", code=1)
    assert "No such file" in cert("convert", tmp_path / "none", tmp_path / "o.der", code=1)


# -- convert -------------------------------------------------------------------------------


def test_certificates_there_and_back(tmp_path: Path, party: Party) -> None:
    (der,) = files(tmp_path, a__der=party.der)
    pem, back = tmp_path / "a.pem", tmp_path / "b.der"
    cert("convert", der, pem)
    assert pem.read_bytes() == party.pem
    cert("convert", pem, back)
    assert back.read_bytes() == party.der
    assert back.stat().st_mode & 0o777 == 0o644
    assert "left alone" in cert("convert", pem, back, code=1)


@pytest.mark.parametrize("kind", ["p256", "SECP384R1", "rsa2048"])
def test_keys_come_out_as_a_camera_loads_them(kind: str, tmp_path: Path) -> None:
    party = authority("Root", kind=kind)
    key: Any = party.key
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    paths = files(tmp_path, locked__pem=locked, password=b"secret\n", wrong=b"other\n",
                  cert__der=party.der)  # fmt: skip
    source, password, wrong, certificate = paths
    out = tmp_path / "key.der"
    assert "--password-file" in cert("convert", source, out, "--camera", code=1)
    said = cert("convert", source, out, "--camera", "--password-file", wrong, code=1)
    assert "does not open with that password" in said
    cert("convert", source, out, "--camera", "--password-file", password)
    assert out.read_bytes() == party.key_der
    assert out.stat().st_mode & 0o777 == 0o600
    assert inspected(certificate, "--key", out)[0]["camera"][0]["level"] == "ok"
    for interpreter in interpreters():
        assert loads(interpreter, certificate, out) == "ok"
    # And back, for other programs.
    cert("convert", out, tmp_path / "key.pem")
    told = openssl("pkey", "-in", tmp_path / "key.pem", "-noout", "-check")
    assert told.returncode == 0, told.stderr


def test_a_key_that_no_camera_loads_is_refused(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (path,) = files(tmp_path, key__pem=pem)
    said = cert("convert", path, tmp_path / "key.der", "--camera", code=1)
    assert "Ed25519" in said
    assert "P-256" in said
    assert not (tmp_path / "key.der").exists()
    cert("convert", path, tmp_path / "key.der")  # for something else than a camera


def test_one_of_several_is_picked(tmp_path: Path, party: Party) -> None:
    leaf = server(party, ["a.example"])
    (chain,) = files(tmp_path, chain__pem=chain_pem(leaf, party))
    out = tmp_path / "out.der"
    said = cert("convert", chain, out, code=1)
    assert "1 certificate, 2 certificate: a DER file holds one, --pick N" in said
    assert "--pick 1 to 2" in cert("convert", chain, out, "--pick", 3, code=1)
    cert("convert", chain, out, "--pick", 2, "--camera")
    assert out.read_bytes() == party.der
    both = files(tmp_path, two__der=leaf.der + party.der)[0]
    assert "the first counts alone" in inspected(both, code=1)[0]["camera"][0]["text"]
    cert("convert", both, tmp_path / "both.pem")
    assert (tmp_path / "both.pem").read_bytes() == chain_pem(leaf, party)


def test_the_form_is_asked_for_when_the_name_does_not_tell(tmp_path: Path, party: Party) -> None:
    (path,) = files(tmp_path, a=party.pem)
    assert "--to der or --to pem" in cert("convert", path, tmp_path / "b", code=1)
    cert("convert", path, tmp_path / "b", "--to", "der")
    assert (tmp_path / "b").read_bytes() == party.der


def test_a_key_that_is_not_the_certificates(tmp_path: Path, party: Party) -> None:
    path, key = files(tmp_path, cert__der=party.der, key__der=authority("Other").key_der)
    first = inspected(path, "--key", key, code=1)[0]["camera"][0]
    assert "every handshake fails" in first["text"]


# -- self-signed ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048"])
def test_a_self_signed_pair_as_a_camera_takes_it(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "pair"
    said = cert("self-signed", "openmv", "192.168.1.50", "--key-type", kind, "--days", 30.5,
                "--out", out)  # fmt: skip
    one = inspected(out / "server.der", "--key", out / "server.key.der")[0]["items"][0]
    assert one["names"] == ["DNS:openmv", "IP:192.168.1.50"]
    assert one["days_left"] == 30
    assert one["self_signed"]
    assert one["sha256"] in said.replace(":", "").lower()
    assert {path.name: path.stat().st_mode & 0o777 for path in out.iterdir()} == {
        "server.der": 0o644, "server.crt": 0o644, "server.key.der": 0o600, "server.key": 0o600,
    }  # fmt: skip
    for interpreter in interpreters():
        assert loads(interpreter, out / "server.der", out / "server.key.der") == "ok"
        assert loads(interpreter, out / "server.der") == "ok"
    told = openssl("verify", "-CAfile", out / "server.crt", out / "server.crt")
    assert told.returncode == 0, told.stderr
    again = cert("self-signed", "openmv", "--out", out, code=1)
    assert "server.der exists and was left alone" in again


def test_a_clients_pair_and_what_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "pair"
    cert("self-signed", "--name", "client", "--out", out)
    assert inspected(out / "client.der")[0]["items"][0]["subject"] == "CN=client"
    assert "Ed25519" in cert("self-signed", "a", "--key-type", "ed25519", "--out", out, code=1)
    assert "part of a file name" in cert("self-signed", "--name", "a/b", "--out", out, code=1)
