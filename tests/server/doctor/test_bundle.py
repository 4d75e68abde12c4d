"""Faults of a bundle and of the server's certificates, each injected for real."""

import json
import socket
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from end_to_end.fleet import faked_clock
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.authority import Authority
from server.doctor.bundles import device_leaf, doctor, doctor_at, make_bundle
from server.identity.chains import Party, authority, chain_pem, server
from server.identity.openssl import openssl
from server.identity.tls_peer import tls_peer

HOSTS = ["localhost"]


@pytest.fixture(scope="module")
def root() -> Party:
    return authority("Root")


@pytest.fixture(scope="module")
def leaf(root: Party) -> Party:
    return device_leaf(root)


@pytest.fixture
def bundle(root: Party, leaf: Party, tmp_path: Path) -> Path:
    return make_bundle(tmp_path, leaf, root)


# -- files ---------------------------------------------------------------------------------


def test_pem_where_der_is_needed(bundle: Path, root: Party, leaf: Party) -> None:
    (bundle / "cert.der").write_bytes(leaf.pem)
    found = doctor("--bundle", bundle).only()
    assert found.startswith("bundle: cert.der is PEM, where a camera wants DER")
    assert "-> `fleetnet cert convert" in found


def test_a_key_that_does_not_match(bundle: Path) -> None:
    (bundle / "key.der").write_bytes(authority("Other").key_der)
    found = doctor("--bundle", bundle).only()
    assert "key.der does not match cert.der" in found
    assert found.endswith("make it again: `fleetnet device add cam-1 --again`")


def test_ed25519(bundle: Path, root: Party) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (bundle / "key.der").write_bytes(
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    found = doctor("--bundle", bundle).bad()
    assert any("Ed25519 or Ed448, which mbedTLS lacks -> make a P-256 key" in one for one in found)


def test_an_encrypted_key(bundle: Path, leaf: Party) -> None:
    key = leaf.key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (bundle / "key.der").write_bytes(key)
    assert "a camera knows no password" in doctor("--bundle", bundle).only()


def test_an_rsa_chain_too_big_for_dtls(root: Party, tmp_path: Path) -> None:
    middle = authority("Middle", root, kind="rsa2048")
    big = device_leaf(middle, kind="rsa2048")
    bundle = make_bundle(tmp_path, big, root, transport="dtls")
    (bundle / "cert.der").write_bytes(chain_pem(big, middle))
    found = doctor("--bundle", bundle).bad()
    assert any("is PEM" in one for one in found)  # a chain in one file can only be PEM
    assert any("too big for DTLS: 2 certificates" in one for one in found)
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "cert.der").write_bytes(big.der)
    words = "bundle: the certificate chain is too big for DTLS"
    assert any(one.startswith(words) for one in doctor("--bundle", bundle).bad("warn"))
    # Over TLS it is no trouble.
    (bundle / "config.json").write_text(json.dumps(config | {"transport": "tls"}))
    assert doctor("--bundle", bundle).bad("warn") == []


def test_swapped_and_missing_files(bundle: Path, leaf: Party) -> None:
    (bundle / "key.der").write_bytes(leaf.der)
    assert "key.der holds a certificate, not a private key" in doctor("--bundle", bundle).only()
    (bundle / "key.der").unlink()
    assert "No such file" in doctor("--bundle", bundle).only()
    (bundle / "config.json").write_text("{")
    assert any("no JSON" in one for one in doctor("--bundle", bundle).bad())
    assert "cannot be read" in doctor("--bundle", bundle / "nowhere").bad()[0]


def test_a_leaf_as_anchor(bundle: Path, root: Party) -> None:
    (bundle / "ca.der").write_bytes(server(root, HOSTS).der)
    assert "mbedTLS takes it for no anchor" in doctor("--bundle", bundle).only()


def test_another_devices_certificate(bundle: Path, root: Party) -> None:
    found = doctor("--bundle", bundle, "--name", "cam-2").only()
    assert "cert.der names device 'cam-1', not 'cam-2'" in found


# -- dates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [(-9, -1, "has expired"), (1, 9, "is not yet valid")],
    ids=["expired", "future"],
)
@pytest.mark.parametrize("whose", ["device", "anchor", "server"])
def test_dates(
    whose: str, start: float, end: float, words: str, root: Party, tmp_path: Path
) -> None:
    odd = {"start": start, "end": end}
    anchor = authority("Odd", **odd) if whose == "anchor" else root  # type: ignore[arg-type]
    mine = device_leaf(anchor, **odd if whose == "device" else {})
    theirs = server(anchor, HOSTS, **odd if whose == "server" else {})  # type: ignore[arg-type]
    with tls_peer(theirs, tls12=False) as peer:
        found = doctor("--bundle", make_bundle(tmp_path, mine, anchor, peer.port)).bad()
    names = {
        "device": "bundle: this device's certificate",
        "anchor": "bundle: the trust anchor ca.der",
        "server": "chain: the server's certificate",
    }
    assert len(found) == 1, found
    assert found[0].startswith(f"{names[whose]} {words}")


@pytest.mark.parametrize("clock", ["@1970-01-02 00:00:00", "@2000-01-01 00:00:00"])
def test_a_clock_that_was_never_set(clock: str, bundle: Path) -> None:
    found = doctor_at(faked_clock(clock), "doctor", "--bundle", bundle)
    assert "clock was never set: it says " + clock[1:8] in found.only()
    assert "timedatectl" in found.only()


def test_a_clock_behind_the_bundle(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["made_ms"] = 1_900_000_000_000
    (bundle / "config.json").write_text(json.dumps(config))
    assert "was made 2030-03-17" in doctor("--bundle", bundle).only()


# -- the server's chain --------------------------------------------------------------------


def test_all_is_well(root: Party, leaf: Party, tmp_path: Path) -> None:
    middle = authority("Middle", root)
    with tls_peer(server(middle, HOSTS), middle, tls12=False) as peer:
        found = doctor("--bundle", make_bundle(tmp_path, leaf, root, peer.port))
    assert "lead to the trust anchor" in found.ok("chain")
    # It is no fleetnet server; only the device's part can tell.
    assert [one.partition(":")[0] for one in found.bad()] == ["tls"]


def test_a_wrong_anchor(root: Party, leaf: Party, tmp_path: Path) -> None:
    other = authority("Other")
    middle = authority("Middle", other)
    with tls_peer(server(middle, HOSTS), middle) as peer:
        found = doctor("--bundle", make_bundle(tmp_path, leaf, root, peer.port)).only()
    assert f"wrong anchor: the server's chain leads to {other.name!r}" in found
    assert f"the device trusts {root.name!r}" in found


def test_a_missing_intermediate(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    create_fleet(folder, tuple(HOSTS))
    made = Authority.load(folder)
    issued = made.issue_server(HOSTS)
    key = serialization.load_der_private_key(issued.key, None)
    theirs = Party(x509.load_der_x509_certificate(issued.certificate), key)  # type: ignore[arg-type]
    anchor = theirs._replace(certificate=x509.load_der_x509_certificate(made.bundle_anchor))
    mine = device_leaf(authority("Any"))
    with tls_peer(theirs) as peer:
        bundle = make_bundle(tmp_path, mine, anchor, peer.port)
        # Without the fleet's folder it can only be guessed, with it it is named.
        guess = doctor("--bundle", bundle).only()
        found = [
            one
            for one in doctor("-C", folder, "doctor", "--bundle", bundle).bad()
            if one.startswith("chain")
        ]
    assert "the intermediate is missing, or the anchor is another CA's" in guess
    (issuing,) = [each for each in found if "the intermediate is missing" in each]
    name = x509.load_der_x509_certificate(made.issuing_certificate).subject.rfc4514_string()
    assert f"the server does not send {name!r}" in issuing


def test_a_chain_in_the_wrong_order(root: Party, leaf: Party, tmp_path: Path) -> None:
    upper = authority("Upper", root)
    lower = authority("Lower", upper)
    with tls_peer(server(lower, HOSTS), upper, lower) as peer:
        found = doctor("--bundle", make_bundle(tmp_path, leaf, root, peer.port)).bad()
    # OpenSSL sorts it, so that the connection itself succeeds from here.
    assert "in the wrong order" in found[0]


def test_a_name_that_is_not_in_the_san(root: Party, leaf: Party, tmp_path: Path) -> None:
    with tls_peer(server(root, ["fleet.example"])) as peer:
        found = doctor("--bundle", make_bundle(tmp_path, leaf, root, peer.port)).only()
    assert "'localhost' is not in the server's certificate (SAN)" in found
    assert "which is for fleet.example" in found
    assert "fleetnet cert server --host localhost" in found


def test_a_self_signed_stranger(root: Party, leaf: Party, tmp_path: Path) -> None:
    with tls_peer(server(None, HOSTS)) as peer:
        found = doctor("--bundle", make_bundle(tmp_path, leaf, root, peer.port)).only()
    assert "is self-signed, and the device trusts" in found


def test_a_closed_port_and_no_address(root: Party, leaf: Party, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = doctor("--bundle", make_bundle(tmp_path, leaf, root, port)).only()
    assert f"TCP port {port} of localhost is closed: nobody listens" in found
    assert "fleetnet serve" in found
    bundle = make_bundle(tmp_path, leaf, root, port, host="no-such-host.invalid")
    assert doctor("--bundle", bundle).only().startswith("name: 'no-such-host.invalid' has no addr")


# -- HOST ----------------------------------------------------------------------------------


def test_a_servers_address(root: Party, tmp_path: Path) -> None:
    ca = tmp_path / "ca.der"
    ca.write_bytes(root.der)
    peer_leaf = server(root, HOSTS)
    with tls_peer(peer_leaf) as peer:
        found = doctor(f"localhost:{peer.port}", "--ca", ca)
        assert found.bad() == []
        assert "closed: nobody listens" in found.only("warn")  # UDP
        other = doctor(f"127.0.0.1:{peer.port}", "--ca", ca).only()
        assert "'127.0.0.1' is not in the server's certificate" in other
        assert doctor(f"127.0.0.1:{peer.port}", "--ca", ca, "--name", "localhost").bad() == []
        ca.write_bytes(peer_leaf.der)
        found = doctor(f"localhost:{peer.port}", "--ca", ca)
        assert "the anchor is the server's own certificate" in found.only()
        assert "or the anchor is another CA's" in doctor(f"localhost:{peer.port}").only()


def test_a_key_for_another_program_is_seen(bundle: Path, tmp_path: Path) -> None:
    """What openssl makes is read like anything else."""
    made = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1",
                   "-outform", "DER", "-out", bundle / "key.der")  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert any("secp256k1" in one for one in doctor("--bundle", bundle).bad())
