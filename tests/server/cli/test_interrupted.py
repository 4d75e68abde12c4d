"""Commands that are cut short: by Ctrl-C, SIGTERM, a full disk, a power cut between two steps.

Each case is a moment at which something was left that nobody could go on from, or a lie was told.
"""

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner, Result

from fleetnet_server import device_bundles, fleet_folder
from fleetnet_server.cli import blob, configs, install, psk, query, token
from fleetnet_server.cli.main import main
from fleetnet_server.config import load_settings
from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.doctor import fleet as doctor_fleet
from fleetnet_server.errors import FolderError
from fleetnet_server.identity import files, generations, pki, rollover
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl import Revoked, kept_crl, make_crl
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store import restore
from fleetnet_server.store.blobs import _insert, content_path
from fleetnet_server.store.sqlite import SqliteStore
from server.cli.running import NOW, put

Patch = pytest.MonkeyPatch


def run(folder: Path, *arguments: object, code: int | None = 1) -> Result:
    """Run a command in this process; what is patched here counts. ``code`` None: either."""
    done = CliRunner().invoke(main, ["-C", str(folder), *map(str, arguments)])
    assert code in (None, done.exit_code), (done.output, done.exception)
    return done


def cut(patch: Patch, owner: Any, name: str, number: int = signal.SIGINT) -> None:
    """Let a signal come when a function has done its work."""
    whole = getattr(owner, name)

    def pressed(*args: Any, **named: Any) -> Any:
        answer = whole(*args, **named)
        signal.raise_signal(number)
        return answer

    patch.setattr(owner, name, pressed)


def full(patch: Patch, owner: Any, name: str) -> None:
    def fail(*args: Any, **named: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(owner, name, fail)


def known(folder: Path, name: str) -> list[int] | None:
    with SqliteStore(folder / "fleet.db") as store:
        device = store.lookup(name)
        if device is None:
            return None
        return [one.serial for one in store.registry.certificates(device.id)]


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


# -- devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["make_private_folder", "bundle_config", "_place"])
def test_a_device_that_was_not_registered_leaves_no_bundle(
    empty: Path, moment: str, monkeypatch: Patch
) -> None:
    cut(monkeypatch, device_bundles, moment)
    done = run(empty, "device", "add", "cam-1")
    assert "interrupted; what it had done by then stays done: `fleetnet audit`" in done.stderr
    assert list((empty / "devices").iterdir()) == [] and known(empty, "cam-1") is None
    monkeypatch.undo()
    run(empty, "device", "add", "cam-1", code=0)


def test_a_device_that_was_registered_keeps_its_bundle(empty: Path, monkeypatch: Patch) -> None:
    """The commit was done when Ctrl-C came: the bundle is good, and can be revoked."""
    cut(monkeypatch, device_bundles, "add_with_bundle")
    run(empty, "device", "add", "cam-1")
    assert len(known(empty, "cam-1") or ()) == 1
    assert (empty / "devices/cam-1/key.der").is_file() and not hidden(empty)
    assert "--again" in run(empty, "device", "add", "cam-1").stderr


def test_a_bundle_that_was_to_be_replaced_is_there(empty: Path, monkeypatch: Patch) -> None:
    run(empty, "device", "add", "cam-1", code=0)
    before = (empty / "devices/cam-1/cert.der").read_bytes()
    full(monkeypatch, device_bundles, "move_folder_into_place")
    said = run(empty, "device", "add", "cam-1", "--again").stderr
    assert "No space left" in said and "; make room on the disk" in said
    monkeypatch.undo()
    cut(monkeypatch, device_bundles, "renew_with_bundle")
    run(empty, "device", "add", "cam-1", "--again")
    assert (empty / "devices/cam-1/cert.der").read_bytes() == before and not hidden(empty)
    monkeypatch.undo()
    run(empty, "device", "add", "cam-1", "--again", code=0)
    assert (empty / "devices/cam-1/cert.der").read_bytes() != before
    assert len(known(empty, "cam-1") or ()) == 4, "who was made a certificate can be revoked"


def test_remove_goes_on_with_the_bundle_of_a_device_that_is_gone(empty: Path) -> None:
    run(empty, "device", "add", "cam-1", code=0)
    with SqliteStore(empty / "fleet.db") as store:
        store.registry.remove("cam-1")
    run(empty, "device", "remove", "cam-1", code=0)
    assert not (empty / "devices/cam-1").exists()
    assert "is not registered" in run(empty, "device", "remove", "cam-1").stderr
    assert "no device name" in run(empty, "device", "remove", "../ca").stderr
    assert (empty / "ca").is_dir()


# -- what is shown once ----------------------------------------------------------------------


def test_a_token_that_nobody_saw_is_revoked(empty: Path, monkeypatch: Patch) -> None:
    full(monkeypatch, token, "print_result")
    assert "could not be shown (No space left" in run(empty, "token", "add", "t").stderr
    monkeypatch.undo()
    run(empty, "token", "add", "t", code=0)


def test_a_key_that_nobody_saw_is_removed(empty: Path, monkeypatch: Patch) -> None:
    full(monkeypatch, psk, "_show")
    assert "could not be shown (No space left" in run(empty, "psk", "add", "p").stderr
    monkeypatch.undo()
    run(empty, "psk", "add", "p", code=0)


# -- certificate authorities -----------------------------------------------------------------


def test_ca_init_goes_on_where_it_was_cut_short(bare: Path) -> None:
    """A CA, and no pair of the server's: nothing could make one."""
    Authority.create(bare)
    found = doctor_fleet.examine_folder(bare, load_settings(bare))
    assert [one.remedy[:20] for one in found if one.level == "bad"] == ["`fleetnet ca init` m"]
    assert "one by `fleetnet ca init`" in run(bare, "cert", "server").stderr
    (bare / "ca.der").write_bytes(pki.create_ca("other").certificate)
    run(bare, "device", "add", "--no-bundle", "cam-1", code=0)
    assert "1 registered device" in run(bare, "ca", "init").stderr
    done = run(bare, "ca", "init", "--force", code=0)
    assert "was there already, the server's pair is made now" in done.stdout
    assert ServerKeys(bare).was_issued_by(Authority.load(bare).issuing_certificate)
    assert "has a CA already" in run(bare, "ca", "init").stderr


def test_ca_import_says_how_to_go_on(bare: Path, tmp_path: Path) -> None:
    ca = pki.create_ca("theirs")
    (tmp_path / "ca.der").write_bytes(ca.certificate)
    (tmp_path / "ca.key").write_bytes(ca.key)
    rollover.begin_imported(bare, ca, ca)
    arguments = ("ca", "import", "--cert", tmp_path / "ca.der", "--key", tmp_path / "ca.key")
    assert "`fleetnet ca init` goes on from there" in run(bare, *arguments).stderr
    run(bare, "ca", "init", code=0)
    assert ServerKeys(bare).was_issued_by(ca.certificate)
    assert "CA 1 is this one" in run(bare, *arguments, code=0).stdout
    assert Authority.load(bare).trusted == (1,), "a rollover from a CA to itself"


def test_an_imported_ca_never_counts_without_its_list(
    empty: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    ca = pki.create_ca("theirs")
    (tmp_path / "ca.der").write_bytes(ca.certificate)
    (tmp_path / "crl").write_bytes(make_crl(ca, [Revoked(5, 1_700_000_000_000)], None))
    arguments = ("ca", "import", "--cert", tmp_path / "ca.der", "--crl", tmp_path / "crl")
    cut(monkeypatch, rollover, "write_generation")
    run(empty, *arguments)
    assert not Authority.load(empty).ledger.accepted
    monkeypatch.undo()
    cut(monkeypatch, rollover, "write_ledger")
    run(empty, *arguments)
    (number,) = Authority.load(empty).ledger.accepted
    assert kept_crl(empty, number).exists()
    monkeypatch.undo()
    (tmp_path / "crl").write_bytes(make_crl(ca, [Revoked(6, 1_700_000_000_000)], None))
    assert f"CA {number} is this one" in run(empty, *arguments, code=0).stdout
    assert Authority.load(empty).ledger.accepted == (number,), "it would count twice"
    assert kept_crl(empty, number).read_bytes() == (tmp_path / "crl").read_bytes()


def test_forget_goes_on_with_the_list_of_a_ca_that_is_gone(empty: Path) -> None:
    """The server does not start with such a list: `check` says so."""
    ca = pki.create_ca("theirs")
    number = rollover.accept(empty, ca, ca, make_crl(ca, [], None)).ledger.accepted[0]
    rollover.forget(empty, number)
    found = doctor_fleet.examine_folder(empty, load_settings(empty))
    assert [one.text.count("signed by no CA") for one in found if one.level == "bad"] == [1]
    run(empty, "ca", "forget", number, code=0)
    assert not kept_crl(empty, number).exists()
    assert "is no accepted one" in run(empty, "ca", "forget", number).stderr


@pytest.mark.parametrize("moment", ["fsync", "move_folder_into_place"])
def test_no_key_is_left_elsewhere_of_a_ca_that_never_was(
    bare: Path, tmp_path: Path, moment: str, monkeypatch: Patch
) -> None:
    key = tmp_path / "stick" / "root.key"
    key.parent.mkdir()
    if moment == "fsync":
        synced = os.fsync

        def fail(descriptor: int) -> None:
            if key.exists():
                raise OSError(errno.ENOSPC, "No space left on device")
            synced(descriptor)

        monkeypatch.setattr(os, moment, fail)
    else:
        full(monkeypatch, generations, moment)
    assert "No space left" in run(bare, "ca", "init", "--offline-root", key).stderr
    assert not key.exists() and not hidden(bare)
    monkeypatch.undo()
    run(bare, "ca", "init", "--offline-root", key, code=0)
    assert key.exists()


# -- files -----------------------------------------------------------------------------------


@pytest.fixture
def with_blob(empty: Path) -> Path:
    put(empty, "cam-1", ("temp", 0, 1), ("temp", 1000, 2))
    row = BlobRow(1, 1, "frame", 22, 4, bytes(32), NOW, NOW)
    with SqliteStore(empty / "fleet.db") as store:
        store.transact(lambda db: _insert(db, [row]))
    path = empty / "blobs" / content_path(bytes(32))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xd8\xff\xd9")
    return empty


def test_half_a_blob_has_no_name(with_blob: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    target = tmp_path / "frame.jpg"

    def half(content: Any, copy: Any) -> None:
        copy.write(content.read(2))
        copy.flush()
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(blob.shutil, "copyfileobj", half)
    for is_full in (False, True):
        said = run(with_blob, "blob", "get", 1, target).stderr
        assert ("make room" if is_full else "interrupted") in said
        assert list(tmp_path.glob("*frame*")) == []
        target.write_bytes(b"older")
        run(with_blob, "blob", "get", 1, target, "--overwrite")
        assert target.read_bytes() == b"older"
        target.unlink()
    monkeypatch.undo()
    run(with_blob, "blob", "get", 1, target, code=0)
    assert "was left alone" in run(with_blob, "blob", "get", 1, target).stderr
    assert target.read_bytes() == b"\xff\xd8\xff\xd9"
    shutil.rmtree(with_blob / "blobs")
    assert "is missing" in run(with_blob, "blob", "get", 1, "-").stderr


def test_an_image_with_keys_is_private_and_whole(tmp_path: Path, monkeypatch: Patch) -> None:
    image = tmp_path / "cam-1.romfs"
    image.write_bytes(b"older")
    full(monkeypatch, os, "fsync")
    with pytest.raises(FolderError, match="cannot be written"):
        install._write_private(image, b"with a key")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]
    monkeypatch.undo()
    install._write_private(image, b"with a key")
    assert (image.read_bytes(), image.stat().st_mode & 0o777) == (b"with a key", 0o600)


def test_a_private_file_goes_at_whatever_moment(tmp_path: Path, monkeypatch: Patch) -> None:
    for moment in ("open", "fsync"):
        cut(monkeypatch, files.os, moment)
        for write in (files.replace_file, files.write_new_file):
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path / "key.der", b"secret")
        monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_what_a_restore_says(
    empty: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """SQLite has rolled back by itself then, and a second time is another error."""

    def fail(connection: Any, *_words: Any) -> None:
        connection.execute("ROLLBACK")
        raise apsw.FullError("database or disk is full")

    run(empty, "store", "backup", tmp_path / "all.tar", code=0)
    monkeypatch.setattr(restore, "add_audit", fail)
    said = run(tmp_path / "new", "store", "restore", tmp_path / "all.tar").stderr
    assert "cannot be written: database or disk is full; free the disk" in said
    assert not (tmp_path / "new").exists() and list(tmp_path.glob(".new.*")) == []


def test_check_names_what_a_killed_command_left(empty: Path) -> None:
    left = [empty / "devices" / ".cam-1.0123abcd", empty.parent / ".fleet.0123abcd"]
    for path in left:
        path.mkdir()
    assert "was killed" not in run(empty, "check", code=None).output, "it may be under way"
    for path in left:
        os.utime(path, (0, 0))
    said = run(empty, "check", code=None).output
    assert f"was killed left {left[1]} and 1 more; there may be keys in it" in said
    assert f"`rm -r {left[1]} {left[0]}`" in said


# -- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_clears_up(
    tmp_path: Path, number: int, monkeypatch: Patch
) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        cut(monkeypatch, fleet_folder, "create_credentials", number)
        done = run(tmp_path / "fleet", "init")
        assert "interrupted; the fleet is there whole or not at all" in done.stderr
        assert list(tmp_path.iterdir()) == []
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_what_is_interrupted_says_where_to_look(empty: Path, monkeypatch: Patch) -> None:
    (empty / "c.json").write_text("{}")
    run(empty, "device", "add", "cam-1", code=0)
    cut(monkeypatch, configs, "_wait")
    said = run(empty, "config", "set", "cam-1", empty / "c.json").stderr
    assert "interrupted; `fleetnet config get DEVICE` shows what is set" in said
    assert json.loads(run(empty, "config", "get", "cam-1", code=0).stdout) == {}
    cut(monkeypatch, query, "has_sums")
    assert run(empty, "query").stderr == "Error: interrupted\n"
