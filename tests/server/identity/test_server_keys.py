"""The server's pair: what it says, how it changes, and that no power cut breaks it."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetnet.errors import CredentialError
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.certificate import public_key_hash
from fleetnet_server.identity.server_keys import ServerKeys

HOSTS = ("fleet.example", "10.0.0.5")
FILES = ("cert.der", "chain.pem", "key.der", "next-key.der")
MORE = Path(__file__).parent / "cut_short.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet with a CA and a server's pair."""
    folder = tmp_path_factory.mktemp("made") / "fleet"
    folder.mkdir()
    ServerKeys.create(folder, Authority.create(folder, permit=HOSTS), HOSTS)
    return folder


@pytest.fixture
def fleet(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "fleet")


def public(key: bytes) -> bytes:
    return (
        serialization.load_der_private_key(key, None)
        .public_key()
        .public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "server").iterdir()}


def test_a_new_pair_and_the_key_that_follows(fleet: Path) -> None:
    keys = ServerKeys(fleet)
    assert sorted(contents(fleet)) == sorted((*FILES, "lock"))
    for name in ("key.der", "next-key.der"):
        assert (fleet / "server" / name).stat().st_mode & 0o777 == 0o600
    assert keys.hosts == HOSTS
    assert keys.pins()[0] == public_key_hash(keys.cert).hex()
    assert len(set(keys.pins())) == 2
    leaf, issuing = x509.load_pem_x509_certificates(keys.chain)
    assert leaf.public_bytes(serialization.Encoding.DER) == keys.cert
    leaf.verify_directly_issued_by(issuing)
    assert keys.was_issued_by(issuing.public_bytes(serialization.Encoding.DER))
    assert not keys.was_issued_by(keys.cert)


def test_a_pair_is_never_made_over_another(fleet: Path) -> None:
    before = contents(fleet)
    with pytest.raises(FolderError, match="left alone"):
        ServerKeys.create(fleet, Authority.load(fleet), HOSTS)
    assert contents(fleet) == before


def test_renewal_keeps_the_key_and_the_pins(fleet: Path) -> None:
    before = ServerKeys(fleet)
    after = before.renew(Authority.load(fleet), lifetime=timedelta(days=3))
    assert (after.key, after.next_key, after.pins()) == (before.key, before.next_key, before.pins())
    assert after.serial != before.serial
    assert after.hosts == before.hosts
    assert abs(after.not_after_ms - before.not_before_ms - 4 * 86_400_000) < 86_400_000
    assert ServerKeys(fleet).cert == after.cert
    other = after.renew(Authority.load(fleet), ("sub.fleet.example",))
    assert other.hosts == ("sub.fleet.example",)


def test_a_change_of_key_takes_the_pinned_one_and_makes_another(fleet: Path) -> None:
    before = ServerKeys(fleet)
    after = before.renew(Authority.load(fleet), change_key=True)
    assert after.key == before.next_key
    assert after.pins()[0] == before.pins()[1]
    assert after.pins()[1] not in before.pins()
    assert x509.load_der_x509_certificate(after.cert).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    ) == public(before.next_key)


def test_a_stale_snapshot_changes_what_is_there_now(fleet: Path) -> None:
    authority, stale = Authority.load(fleet), ServerKeys(fleet)
    second = stale.renew(authority, change_key=True)
    third = stale.renew(authority, change_key=True)
    assert third.pins()[0] == second.pins()[1]


def test_keys_of_other_types_follow_their_kind(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, permit=HOSTS, key_type="p384")
    keys = ServerKeys.create(tmp_path, authority, HOSTS)
    for _ in range(2):
        keys = keys.renew(authority, change_key=True)
        key = serialization.load_der_private_key(keys.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP384R1)


def test_without_a_next_key_no_change_and_a_renewal_makes_one(fleet: Path) -> None:
    (fleet / "server" / "next-key.der").unlink()
    keys = ServerKeys(fleet)
    assert len(keys.pins()) == 1
    assert keys.next_made_ms == 0
    before = contents(fleet)
    with pytest.raises(CredentialError, match=r"next-key\.der is missing"):
        keys.renew(Authority.load(fleet), change_key=True)
    assert contents(fleet) == before
    assert len(keys.renew(Authority.load(fleet)).pins()) == 2


def test_a_folder_of_the_first_layout_is_read(fleet: Path) -> None:
    for name in ("chain.pem", "next-key.der", "lock"):
        (fleet / "server" / name).unlink()
    keys = ServerKeys(fleet)
    assert x509.load_pem_x509_certificates(keys.chain)[0].serial_number == keys.serial
    assert len(x509.load_pem_x509_certificates(keys.renew(Authority.load(fleet)).chain)) == 2


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("key.der", b"", "key.der cannot be read as a private key"),
        ("key.der", None, "cannot read .*key.der: No such file"),
        ("key.der", "next-key.der", "key.der is not the key of .*cert.der"),
        ("cert.der", b"\x30\x03\x02\x01\x00", "cert.der is no certificate in DER"),
        ("cert.der", None, "cannot read .*cert.der"),
        ("chain.pem", b"nothing", "chain.pem holds no certificates"),
        ("chain.pem", b"", "chain.pem holds no certificates"),
        ("chain.pem", "../ca/ca.pem", "chain.pem does not begin with .*cert.der"),
        ("next-key.der", b"\x30\x00", "next-key.der cannot be read"),
        ("pending.json", b"{", "pending.json is damaged"),
        ("pending.json", b'{"cert.der": 5}', "pending.json is damaged"),
    ],
)
def test_files_that_are_damaged_or_strangers_are_named(
    fleet: Path, name: str, data: bytes | str | None, said: str
) -> None:
    path = fleet / "server" / name
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data if isinstance(data, bytes) else (path.parent / data).read_bytes())
    with pytest.raises(CredentialError, match=said):
        ServerKeys(fleet)


def test_two_changes_at_once_are_one_after_the_other(fleet: Path) -> None:
    """And a reader beside them never meets a certificate with another one's key."""
    authority = Authority.load(fleet)
    problems: list[BaseException] = []
    is_over = threading.Event()

    def run(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            problems.append(error)

    def change() -> None:
        for _ in range(6):
            ServerKeys(fleet).renew(authority, change_key=True)

    def read() -> None:
        while not is_over.is_set():
            ServerKeys(fleet).pins()

    reader = threading.Thread(target=run, args=(read,))
    writers = [threading.Thread(target=run, args=(change,)) for _ in range(2)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    is_over.set()
    reader.join()
    assert not problems
    assert sorted(contents(fleet)) == sorted((*FILES, "lock"))


@pytest.mark.parametrize("action", ["create", "renew", "change_key", "finish"])
def test_a_power_cut_at_any_call_leaves_the_old_state_or_the_new_one(
    fleet: Path, tmp_path: Path, action: str
) -> None:
    if action == "create":
        shutil.rmtree(fleet / "server")
        before = None
    else:
        before = ServerKeys(fleet)
    if action == "finish":
        # As a cut left it: the change is decided, and none of the files is replaced.
        old = contents(fleet)
        before.renew(Authority.load(fleet), change_key=True)  # type: ignore[union-attr]
        before = ServerKeys(fleet)
        names = {"cert.der": before.cert, "key.der": before.key, "chain.pem": before.chain}
        _leave_pending(fleet, names | {"next-key.der": before.next_key}, old)
        assert ServerKeys(fleet).cert == before.cert
    cuts = _run(fleet, tmp_path / "copies", action)
    assert cuts > (3 if action == "create" else 10), "the calls were not counted"
    seen = [
        _check(tmp_path / "copies" / f"{number}-{kind}", before, action)
        for number in range(cuts)
        for kind in ("whole", "torn")
    ]
    assert seen[-1] == "new"
    if action in ("renew", "change_key"):
        assert seen[0] == "old"
        assert seen == sorted(seen, reverse=True), "a new state gave way to the old one"


def _leave_pending(fleet: Path, named: dict[str, bytes], old: dict[str, bytes]) -> None:
    pending = {name: base64.b64encode(data).decode() for name, data in named.items()}
    (fleet / "server" / "pending.json").write_text(json.dumps(pending))
    for name in FILES:
        (fleet / "server" / name).write_bytes(old[name])


def _run(fleet: Path, copies: Path, action: str) -> int:
    copies.mkdir()
    done = subprocess.run(
        [sys.executable, str(MORE), str(fleet), str(copies), action],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def _check(copy: Path, before: ServerKeys | None, action: str) -> str:
    """Return "old" or "new": what a copy holds, which must be whole and go on working."""
    authority = Authority.load(copy)
    if before is None:
        try:
            ServerKeys(copy)
        except CredentialError:
            # Nothing yet: what the cut left is no hindrance for another try.
            assert not (copy / "server" / "pending.json").exists()
            assert ServerKeys.create(copy, authority, HOSTS).hosts == HOSTS
            return "none"
        state = "new"
    else:
        found = ServerKeys(copy)
        pair = (found.key, found.next_key)
        if action == "change_key":
            is_old = pair == (before.key, before.next_key)
            assert is_old or found.key == before.next_key
            state = "old" if is_old else "new"
        else:
            assert pair == (before.key, before.next_key)
            state = "old" if found.cert == before.cert and action == "renew" else "new"
        assert (found.cert == before.cert) == (state == "old" or action == "finish")
    decided = ServerKeys(copy)
    decided.finish()
    after = ServerKeys(copy)
    assert (after.cert, after.key, after.chain, after.pins()) == (
        decided.cert, decided.key, decided.chain, decided.pins(),
    )  # fmt: skip
    assert not (copy / "server" / "pending.json").exists()
    renewed = after.renew(authority)
    assert renewed.key == after.key
    assert sorted(contents(copy)) == sorted((*FILES, "lock")), "something was left over"
    return state
