"""`fleetnet ca` as a person runs it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from fleetnet_server.config import load_settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.identity import pki
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.sqlite import SqliteStore
from server.cli.conftest import Fleets
from server.cli.running import tried
from server.identity.openssl import openssl, verify


def ok(folder: Path, *arguments: object) -> str:
    answer = tried("-C", folder, "ca", *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def refused(folder: Path, *arguments: object) -> str:
    answer = tried("-C", folder, "ca", *arguments)
    assert answer.returncode == 1, answer
    assert "Traceback" not in answer.stderr
    return answer.stderr


def shown(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(ok(folder, "show", "--json"))
    return found


@pytest.fixture
def fleet(fleets: Fleets, tmp_path: Path) -> Path:
    return fleets(tmp_path / "fleet", host="fleet.example")


@pytest.fixture
def bare(fleets: Fleets, tmp_path: Path) -> Path:
    return fleets(tmp_path / "fleet", host="fleet.example", has_ca=False)


def works(folder: Path) -> None:
    """A device's and the server's certificates are accepted by openssl."""
    authority = Authority.load(folder)
    keys = ServerKeys(folder)
    for leaf, purpose in (
        (authority.issue_device("cam-9").certificate, "sslclient"),
        (keys.cert, "sslserver"),
    ):
        accepted, said = verify(
            folder, leaf, authority.issuing_certificate, authority.anchors[0], "-purpose", purpose
        )
        assert accepted, said


def test_init_with_an_offline_root_of_another_type(bare: Path, tmp_path: Path) -> None:
    assert "fleetnet ca init" in refused(bare, "show")
    assert "mbedTLS lacks" in refused(bare, "init", "--key-type", "ed25519")
    offline = tmp_path / "root.der"
    said = ok(
        bare, "init", "--key-type", "p384", "--name", "press", "--permit", "10.0.0.0/8",
        "--offline-root", offline,
    )  # fmt: skip
    assert str(offline) in said and offline.stat().st_mode & 0o777 == 0o600
    assert not list(bare.rglob("root-key.der"))
    works(bare)
    facts = shown(bare)
    assert facts["phase"] == "settled" and facts["devices_not_yet"] == []
    (one,) = facts["generations"]  # type: ignore[misc]
    assert one["root_key"] == "offline" and one["signs"] and one["role"] == "trusted"
    assert one["permitted"] == ["fleet.example", "10.0.0.0/8", "localhost", "127.0.0.0/8", "::1"]
    assert one["issuing"]["key_type"] == "p384" and "press issuing CA" in one["issuing"]["name"]
    line = openssl(
        "x509", "-noout", "-fingerprint", "-sha256", "-inform", "DER", "-in", bare / "ca" / "ca.der"
    ).stdout
    assert one["root"]["sha256"] == line.partition("=")[2].strip().replace(":", "").lower()
    assert "has a CA already" in refused(bare, "init")
    assert "p384" in ok(bare, "show") and "10.0.0.0/8" in ok(bare, "show")


def test_init_makes_no_second_ca_beside_devices_that_trust_the_first(fleet: Path) -> None:
    with SqliteStore(fleet / "fleet.db") as store:
        add_device(fleet, load_settings(fleet), store, "cam-1")
    shutil.rmtree(fleet / "ca")
    shutil.rmtree(fleet / "server")
    said = refused(fleet, "init")
    assert "1 registered device," in said and "copy ca/ and server/" in said
    assert not (fleet / "ca").exists() and not (fleet / "server").exists()
    ok(fleet, "init", "--force")
    works(fleet)


def test_init_looks_for_a_kept_server_pair_before_it_makes_a_ca(fleet: Path) -> None:
    shutil.rmtree(fleet / "ca")
    said = refused(fleet, "init")
    assert "cert.der exists and was left alone: copy the ca/" in said
    assert not (fleet / "ca").exists()
    shutil.rmtree(fleet / "server")
    ok(fleet, "init")
    works(fleet)


def test_rollover_in_three_steps(fleet: Path) -> None:
    first = Authority.load(fleet)
    settings = load_settings(fleet)
    with SqliteStore(settings.store_path(fleet)) as store:
        for name in ("cam-1", "cam-2", "cam-3"):
            add_device(fleet, settings, store, name)
        store.set_enabled("cam-3", False)
        assert "no rollover is under way" in refused(fleet, "rotate", "--finish")
        ok(fleet, "rotate")
        second = Authority.load(fleet)
        assert second.trusted == (2, 1) and second.anchors[1:] == first.anchors
        assert second.marks != first.marks and len(second.client_anchors) == 4
        assert (fleet / "ca" / "ca.der").read_bytes() == second.anchors[0]
        assert second.bundle_anchor == first.anchors[0]
        renewed = second.issue_server(["localhost"]).certificate
        assert pki.is_issued_by(renewed, first.issuing_certificate), "all devices know that one"
        device = second.issue_device("cam-9").certificate
        assert pki.is_issued_by(device, second.issuing_certificate)
        assert ServerKeys(fleet).chain == first.server_chain(ServerKeys(fleet).cert)
        assert "under way already" in refused(fleet, "rotate")
        assert "switch-server" in refused(fleet, "rotate", "--finish", "--force")
        said = refused(fleet, "rotate", "--switch-server")
        assert "cut off 2 devices" in said and "cam-1, cam-2" in said and "cam-3" not in said
        facts = shown(fleet)
        assert facts["phase"] == "begun" and facts["devices_not_yet"] == ["cam-1", "cam-2"]
        assert "2 of 2 devices: cam-1, cam-2" in ok(fleet, "show")
        take_new_anchors(store, second.marks, "cam-1", "cam-2")
        key = ServerKeys(fleet).key
        ok(fleet, "rotate", "--switch-server")
        assert ServerKeys(fleet).key == key
        assert Authority.load(fleet).marks == second.marks
        assert Authority.load(fleet).bundle_anchor == second.anchors[0]
        works(fleet)
        add_device(fleet, settings, store, "cam-4")
        store.add_device("psk-only")
        assert shown(fleet)["devices_not_yet"] == []
        ok(fleet, "rotate", "--finish")
    last = Authority.load(fleet)
    assert last.trusted == (2,) and last.anchors == second.anchors[:1]
    assert last.marks != second.marks
    works(fleet)


def take_new_anchors(store: SqliteStore, marks: str, *names: str) -> None:
    """What a rotation writes when a device works with its new identity."""
    for name in names:
        device = store.lookup(name)
        assert device is not None
        values = (device.id, marks)
        store.transact(
            lambda connection, values=values: connection.execute(
                "INSERT INTO identities(device, number, marks, pins, state, offered_ms) "
                "VALUES(?, 1, ?, '', 'working', 0)",
                values,
            )
        )


def test_new_issuing_authority_under_the_same_root(fleet: Path, tmp_path: Path) -> None:
    first = Authority.load(fleet)
    (fleet / "ca" / "1" / "root-key.der").rename(tmp_path / "offline.der")
    assert "--root-key" in refused(fleet, "rotate", "--issuing")
    key = tmp_path / "offline.der"
    ok(fleet, "rotate", "--issuing", "--permit", "new.example", "--root-key", key)
    second = Authority.load(fleet)
    assert second.anchors == first.anchors and second.marks != first.marks
    assert not list(fleet.rglob("root-key.der")), "the root's key stays offline"
    assert second.issue_server(["new.example", "fleet.example"])
    assert len(second.client_anchors) == 3
    works(fleet)
    ok(fleet, "rotate", "--finish")
    wrong = fleet / "ca" / "2" / "issuing-key.der"
    assert "does not belong" in refused(fleet, "rotate", "--issuing", "--root-key", wrong)
    assert shown(fleet)["phase"] == "settled"


def make_with_openssl(place: Path, key: list[str]) -> dict[str, Path]:
    """A root and an issuing CA as people make them with openssl, PEM."""
    paths = {name: place / name for name in ("root.pem", "root.key", "ca.pem", "ca.key")}
    (place / "ext").write_text("basicConstraints=critical,CA:TRUE,pathlen:0\n")

    def run(*arguments: object) -> None:
        answer = openssl(*arguments)
        assert answer.returncode == 0, answer.stderr

    run("req", "-x509", "-nodes", *key, "-keyout", paths["root.key"], "-out", paths["root.pem"],
        "-subj", "/O=Press works/CN=root", "-days", "100")  # fmt: skip
    run("req", "-new", "-nodes", *key, "-keyout", paths["ca.key"], "-out", place / "csr",
        "-subj", "/O=Press works/CN=issuing")  # fmt: skip
    run("x509", "-req", "-in", place / "csr", "-CA", paths["root.pem"], "-CAkey",
        paths["root.key"], "-CAcreateserial", "-out", paths["ca.pem"], "-days", "50",
        "-extfile", place / "ext")  # fmt: skip
    return paths


EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
RSA = ["-newkey", "rsa:2048"]


@pytest.mark.parametrize("key", [EC, RSA], ids=["ec", "rsa"])
def test_import_into_a_fleet_without_one(key: list[str], bare: Path, tmp_path: Path) -> None:
    files = make_with_openssl(tmp_path, key)
    assert "give that one with --root" in refused(
        bare, "import", "--cert", files["ca.pem"], "--key", files["ca.key"]
    )
    ok(bare, "import", "--cert", files["ca.pem"], "--key", files["ca.key"],
       "--root", files["root.pem"])  # fmt: skip
    authority = Authority.load(bare)
    issued = authority.issue_device("cam-1")
    assert len(issued.certificate) < 1000
    # -x509_strict wants a key usage that `openssl req` left out of the CA.
    (tmp_path / "leaf.pem").write_bytes(pki.to_pem(issued.certificate))
    answer = openssl("verify", "-CAfile", files["root.pem"], "-untrusted", files["ca.pem"],
                     "-purpose", "sslclient", tmp_path / "leaf.pem")  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert len(x509.load_pem_x509_certificates(ServerKeys(bare).chain)) == 2
    assert shown(bare)["generations"][0]["permitted"] is None  # type: ignore[index]


def test_import_begins_a_rollover_and_can_be_flat(fleet: Path, tmp_path: Path) -> None:
    ca = pki.create_ca("other", key_type="rsa2048")
    (tmp_path / "ca.der").write_bytes(ca.certificate)
    (tmp_path / "ca.key").write_bytes(ca.key)
    ok(fleet, "import", "--cert", tmp_path / "ca.der", "--key", tmp_path / "ca.key")
    authority = Authority.load(fleet)
    assert shown(fleet)["phase"] == "begun" and authority.anchors[0] == ca.certificate
    ok(fleet, "rotate", "--switch-server")
    assert len(x509.load_pem_x509_certificates(ServerKeys(fleet).chain)) == 1
    ok(fleet, "rotate", "--finish")
    assert Authority.load(fleet).client_anchors == (ca.certificate,)


def test_import_without_a_key_lets_devices_in_until_it_is_forgotten(
    fleet: Path, tmp_path: Path
) -> None:
    ca, other = pki.create_ca("theirs"), pki.create_ca("others")
    before = Authority.load(fleet)
    (tmp_path / "ca.pem").write_bytes(pki.to_pem(ca.certificate))
    from fleetnet_server.identity.crl import Revoked, make_crl, revoked_serials

    (tmp_path / "crl").write_bytes(make_crl(other, [], None))
    arguments = ("import", "--cert", tmp_path / "ca.pem", "--crl", tmp_path / "crl")
    assert "signed by no CA" in refused(fleet, *arguments)
    (tmp_path / "crl").write_bytes(make_crl(ca, [Revoked(5, 1_700_000_000_000)], None))
    ok(fleet, *arguments)
    authority = Authority.load(fleet)
    assert authority.anchors == before.anchors and authority.marks == before.marks
    assert authority.client_anchors == (*before.client_anchors, ca.certificate)
    assert {serial for _, serial in revoked_serials(fleet, authority.client_anchors)} == {5}
    assert "CA 2 (accepted)" in ok(fleet, "show")
    assert "no accepted one" in refused(fleet, "forget", "1")
    ok(fleet, "forget", "2")
    assert Authority.load(fleet).client_anchors == before.client_anchors


def test_import_refuses_by_reason(bare: Path, tmp_path: Path) -> None:
    root, ca = pki.create_root("root"), pki.create_ca("flat")
    issuing = pki.create_issuing(root, "issuing")
    below_flat = pki.create_issuing(ca, "below")
    leaf = pki.issue_device(ca, "cam-1")

    def why(cert: pki.Credential, key: bytes, above: bytes | None = None) -> str:
        (tmp_path / "c").write_bytes(cert.certificate)
        (tmp_path / "k").write_bytes(key)
        more: tuple[object, ...] = ()
        if above is not None:
            (tmp_path / "r").write_bytes(above)
            more = ("--root", tmp_path / "r")
        return refused(bare, "import", "--cert", tmp_path / "c", "--key", tmp_path / "k", *more)

    assert "is no CA" in why(leaf, leaf.key, ca.certificate)
    assert "path length 0" in why(below_flat, below_flat.key, ca.certificate)
    assert "not by the root" in why(issuing, issuing.key, ca.certificate)
    assert "not the CA's" in why(issuing, ca.key, root.certificate)
    assert "cannot be read as a private key" in why(issuing, b"x", root.certificate)
    assert "no certificate" in why(pki.Credential(b"x", b""), b"x")
    for arguments, reason in (
        (["-newkey", "ed25519"], "mbedTLS lacks"),
        (["-newkey", "rsa:1024"], "RSA of 1024 bits"),
        ([*EC, "-addext", "keyUsage=cRLSign"], "lacks keyCertSign"),
        ([*EC, "-addext", "keyUsage=keyCertSign"], "lacks cRLSign"),
        ([*EC, "-addext", "extendedKeyUsage=serverAuth"], "lacks clientAuth"),
        ([*EC, "-addext", "nameConstraints=critical,permitted;DNS:x.example"], "2.5.29.30"),
        ([*EC, "-sha1"], "broken hash"),
        ([*EC, "-days", "1", "-addext", "basicConstraints=critical,CA:FALSE"], "is no CA"),
    ):
        paths = made(tmp_path, *arguments)
        said = refused(bare, "import", "--cert", paths[0], "--key", paths[1])
        assert reason in said, (arguments, said)
    paths, encrypted = made(tmp_path, *EC), tmp_path / "encrypted"
    openssl("pkey", "-in", paths[1], "-aes256", "-passout", "pass:x", "-out", encrypted)
    said = refused(bare, "import", "--cert", paths[0], "--key", encrypted)
    assert "encrypted: decrypt it first" in said
    assert not list((bare / "ca").iterdir()), "a refused CA left something"


def made(place: Path, *arguments: str) -> tuple[Path, Path]:
    """A self-signed CA by `openssl req -x509`."""
    cert, key = place / "made.pem", place / "made.key"
    answer: subprocess.CompletedProcess[str] = openssl(
        "req", "-x509", "-nodes", *arguments, "-keyout", key, "-out", cert, "-subj", "/CN=x"
    )
    assert answer.returncode == 0, answer.stderr
    return cert, key


def test_folder_of_the_first_layout_is_taken_over(fleet: Path) -> None:
    ca = pki.create_ca()
    shutil.rmtree(fleet / "ca")
    (fleet / "ca").mkdir()
    (fleet / "ca" / "ca.der").write_bytes(ca.certificate)
    (fleet / "ca" / "key.der").write_bytes(ca.key)
    assert shown(fleet)["phase"] == "settled"
    assert "new root" in refused(fleet, "rotate", "--issuing")
    ok(fleet, "rotate")
    assert Authority.load(fleet).trusted == (2, 1)
    assert not (fleet / "ca" / "key.der").exists()
    ok(fleet, "rotate", "--switch-server")
    ok(fleet, "rotate", "--finish")
    works(fleet)
