"""Revocation lists: openssl reads and obeys ours; those of imported CAs are read and believed."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fleetnet.errors import CredentialError
from fleetnet_server.identity import crl, pki, rollover
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl import Revoked, issuer_hash, revoked_serials
from fleetnet_server.identity.server_keys import ServerKeys
from server.identity.openssl import openssl, verify

NOW_MS = 1_800_000_000_000


def check(place: Path, leaf: bytes, authority: Authority) -> tuple[bool, str]:
    """`openssl verify -crl_check` with FOLDER/ca/crl.pem."""
    lists = ("-crl_check", "-CRLfile", place / "ca" / "crl.pem")
    return verify(place, leaf, authority.issuing_certificate, authority.bundle_anchor, *lists)


def test_openssl_obeys_the_list(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    good, bad = authority.issue_device("good"), authority.issue_device("bad")
    assert check(tmp_path, bad.certificate, authority)[0], "an empty list is there from the start"
    authority.write_crls(tmp_path, [Revoked(bad.serial, NOW_MS, "keyCompromise")])
    assert check(tmp_path, good.certificate, authority)[0]
    accepted, said = check(tmp_path, bad.certificate, authority)
    assert not accepted and "certificate revoked" in said
    issuing = tmp_path / "ca" / "1" / "issuing.pem"
    for form, name in (("DER", "crl.der"), ("PEM", "crl.pem"), ("DER", "crl-1.der")):
        answer = openssl(
            "crl", "-inform", form, "-in", tmp_path / "ca" / name, "-noout", "-text",
            "-CAfile", issuing,
        )  # fmt: skip
        assert "verify OK" in answer.stderr, answer
        assert "Key Compromise" in answer.stdout and f"{bad.serial:X}" in answer.stdout
    found = x509.load_der_x509_crl((tmp_path / "ca" / "crl.der").read_bytes())
    assert (
        found.next_update_utc and found.next_update_utc - found.last_update_utc == crl.NEXT_UPDATE
    )


def test_number_grows_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.create(tmp_path)
    path = tmp_path / "ca" / "crl.der"
    numbers = [crl.number_of(path.read_bytes())]
    for clock in (None, None, 1.0):  # the last with a clock that was set back
        if clock is not None:
            monkeypatch.setattr(crl.time, "time", lambda: 1.0)
        authority.write_crls(tmp_path, [])
        numbers.append(crl.number_of(path.read_bytes()))
    assert numbers == sorted(set(numbers))
    monkeypatch.undo()
    (tmp_path / "ca" / "crl-1.der").unlink()
    authority.write_crls(tmp_path, [])
    assert crl.number_of(path.read_bytes()) >= numbers[0], "a lost list does not begin anew"


def test_reasons() -> None:
    ca = pki.create_ca()
    revoked = [
        Revoked(1, NOW_MS, "superseded"), Revoked(2, NOW_MS, "left the fleet"),
        Revoked(3, NOW_MS), Revoked(4, NOW_MS, "cessation-of-operation"), Revoked(1, NOW_MS),
        Revoked(5, NOW_MS, "unspecified"), Revoked(6, NOW_MS, "removeFromCRL"),
    ]  # fmt: skip
    found = x509.load_der_x509_crl(crl.make_crl(ca, revoked[:4] + revoked[5:], None))
    reasons = {
        one.serial_number: [extension.value.reason.value for extension in one.extensions]  # type: ignore[attr-defined]
        for one in found
    }
    assert reasons == {
        1: ["superseded"], 2: [], 3: [], 4: ["cessationOfOperation"], 5: [], 6: [],
    }  # fmt: skip
    with pytest.raises(CredentialError, match="not here"):
        crl.make_crl(pki.Credential(ca.certificate, b""), [], None)


def test_each_generation_has_its_own(tmp_path: Path) -> None:
    first = Authority.create(tmp_path)
    ServerKeys.create(tmp_path, first, ("localhost",))
    old = first.issue_device("cam-1")
    second = rollover.begin(tmp_path, name="second")
    new = second.issue_device("cam-2")
    second.write_crls(
        tmp_path, [Revoked(old.serial, NOW_MS, "", 1), Revoked(new.serial, NOW_MS, "", 2),
                   Revoked(77, NOW_MS)],
    )  # fmt: skip
    listed = {
        name: {one.serial_number for one in x509.load_der_x509_crl(path.read_bytes())}
        for name in ("crl-1.der", "crl-2.der", "crl.der")
        for path in [tmp_path / "ca" / name]
    }
    assert listed["crl-1.der"] == {old.serial, 77}
    assert listed["crl-2.der"] == listed["crl.der"] == {new.serial, 77}
    everything = (tmp_path / "ca" / "crl.pem").read_bytes()
    assert everything.count(b"BEGIN X509 CRL") == 2
    assert not check(tmp_path, old.certificate, first)[0]
    assert "certificate revoked" in verify(
        tmp_path, new.certificate, second.issuing_certificate, second.anchors[0],
        "-crl_check", "-CRLfile", tmp_path / "ca" / "crl.pem",
    )[1]  # fmt: skip
    (tmp_path / "ca" / "1" / "issuing-key.der").unlink()
    Authority.load(tmp_path).write_crls(tmp_path, [])
    assert (tmp_path / "ca" / "crl.pem").read_bytes().count(b"BEGIN X509 CRL") == 2


def test_lists_of_imported_authorities(tmp_path: Path) -> None:
    foreign, stranger = pki.create_ca("foreign"), pki.create_ca("stranger")
    device = pki.issue_device(foreign, "cam-1")
    place = tmp_path / "ca" / "crls"
    assert revoked_serials(tmp_path, [foreign.certificate]) == frozenset()
    place.mkdir(parents=True)
    one = crl.make_crl(foreign, [Revoked(device.serial, NOW_MS)], None)
    (place / "one.der").write_bytes(one)
    two = x509.load_der_x509_crl(crl.make_crl(foreign, [Revoked(9, NOW_MS)], one))
    (place / "two.pem").write_bytes(two.public_bytes(Encoding.PEM))
    (place / "README").write_text("no list")
    found = revoked_serials(tmp_path, [stranger.certificate, foreign.certificate])
    assert found == {(issuer_hash(device.certificate), serial) for serial in (device.serial, 9)}
    with pytest.raises(CredentialError, match=r"one\.der: signed by no CA that this fleet"):
        revoked_serials(tmp_path, [stranger.certificate])
    forged = pki.create_ca("foreign")
    with pytest.raises(CredentialError, match="signed by no CA"):
        revoked_serials(tmp_path, [forged.certificate])
    (place / "bad.crl").write_bytes(one[:-9])
    with pytest.raises(CredentialError, match=r"bad\.crl is no readable"):
        revoked_serials(tmp_path, [foreign.certificate])
    (place / "bad.crl").write_bytes(one[:-1] + bytes([one[-1] ^ 1]))
    with pytest.raises(CredentialError, match=r"bad\.crl: signed by no CA"):
        revoked_serials(tmp_path, [foreign.certificate])
