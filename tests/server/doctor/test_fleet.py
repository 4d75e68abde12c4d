"""`fleetnet doctor` on a fleet's folder: each fault injected for real."""

import errno
import os
import shutil
import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from cryptography import x509

from end_to_end.fleet import faked_clock, free_port
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.doctor.fleet import anchors_of, known_to
from fleetnet_server.doctor.handshake import diagnose
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store import schema
from fleetnet_server.store.sqlite import SqliteStore
from server.doctor.bundles import Diagnosis, doctor, doctor_at
from server.identity.chains import authority, server
from server.identity.tls_peer import tls_peer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "fleet"
    create_fleet(made, ("localhost",))
    set_port(made, free_port())
    return made


def set_port(folder: Path, port: int) -> None:
    text = f'host = "localhost"\nbind = "127.0.0.1"\ntls_port = {port}\ndtls_port = {port}\n'
    (folder / "fleetnet.toml").write_text(text)


def look(folder: Path) -> Diagnosis:
    return doctor("-C", folder, "doctor")


def test_a_new_fleet_is_well(folder: Path) -> None:
    found = look(folder)
    assert found.bad() == []
    assert found.only("warn").endswith("-> start it: `fleetnet serve`")
    assert "certificate for localhost" in found.ok("server")
    assert "none yet" in found.ok("registry")


def test_no_fleet_there(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from fleetnet_server.cli.main import main

    answer = CliRunner().invoke(main, ["-C", str(tmp_path / "none"), "doctor"])
    assert answer.exit_code == 1
    assert "run `fleetnet init" in answer.stderr


@pytest.mark.parametrize("clock", ["@1970-01-02 00:00:00", "@2000-01-01 00:00:00"])
def test_a_clock_that_was_never_set(clock: str, folder: Path) -> None:
    found = doctor_at(faked_clock(clock), "-C", folder, "doctor")
    assert f"clock was never set: it says {clock[1:8]}" in found.only()


def test_a_clock_behind_the_ca(folder: Path) -> None:
    found = doctor_at(faked_clock("-5d"), "-C", folder, "doctor")
    assert "but what it looks at was made" in found.only()


def test_expired_and_soon(folder: Path) -> None:
    made = Authority.load(folder)
    ServerKeys(folder).renew(made, lifetime=timedelta(days=20))
    assert not any("ends" in one for one in look(folder).bad("warn"))
    found = doctor_at(faked_clock("+15d"), "-C", folder, "doctor").bad("warn")
    words = "server: the certificate of localhost ends in "
    assert any(one.startswith(words) and "`fleetnet cert server`" in one for one in found), found
    found = doctor_at(faked_clock("+30d"), "-C", folder, "doctor").bad()
    assert found == [
        "server: the certificate of localhost has expired -> `fleetnet cert server`"
    ]
    found = doctor_at(faked_clock("+25y"), "-C", folder, "doctor").bad()
    assert "ca: the certificate of root 1 has expired -> `fleetnet ca rotate`" in found


def test_a_key_that_others_can_read(folder: Path) -> None:
    key = folder / "ca" / "1" / "issuing-key.der"
    key.chmod(0o644)
    found = look(folder).bad("warn")
    assert any(f"{key}: only a folder keeps others" in one and "(mode 644)" in one for one in found)
    folder.chmod(0o755)
    (folder / "ca").chmod(0o755)
    (folder / "ca" / "1").chmod(0o755)
    found = look(folder)
    assert f"every user of this machine can read {key}" in found.only()
    # One fault has one remedy, and it is enough.
    assert f"chmod -R go-rwx {folder}" in found.only()
    subprocess.run(["chmod", "-R", "go-rwx", str(folder)], check=True)
    assert "their owner's alone" in look(folder).ok("folder")


def test_keys_that_only_the_group_can_read_get_the_same_remedy(folder: Path) -> None:
    (folder / "server" / "key.der").chmod(0o640)
    folder.chmod(0o755)
    (warned,) = [one for one in look(folder).bad("warn") if one.startswith("folder")]
    assert f"chmod -R go-rwx {folder}" in warned and look(folder).bad() == []


def test_a_server_pair_that_does_not_match(folder: Path) -> None:
    (folder / "server" / "key.der").write_bytes(authority("Other").key_der)
    assert "is not the key of" in look(folder).only()


def test_pem_where_der_is_needed(folder: Path) -> None:
    keys = ServerKeys(folder)
    (folder / "server" / "cert.der").write_bytes(keys.chain)
    found = look(folder).only()
    assert "server/cert.der is PEM, where DER is needed" in found
    assert "fleetnet cert convert" in found


def test_a_host_that_the_certificate_lacks(folder: Path) -> None:
    text = (folder / "fleetnet.toml").read_text().replace('"localhost"', '"fleet.example"')
    (folder / "fleetnet.toml").write_text(text)
    found = look(folder).only()
    assert "server: 'fleet.example' is not in the server's certificate" in found
    assert "fleetnet cert server --host fleet.example" in found


def test_a_certificate_of_another_ca(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    create_fleet(other, ("localhost",))
    shutil.rmtree(folder / "server")
    shutil.copytree(other / "server", folder / "server")
    found = look(folder).only()
    assert "is not signed by the CA in" in found and "`fleetnet cert server`" in found


def test_a_bundle_from_before_a_change_of_the_ca(folder: Path, tmp_path: Path) -> None:
    create_fleet(tmp_path / "old", ("localhost",))
    trusted = anchors_of(Authority.load(tmp_path / "old"))
    chain = x509.load_pem_x509_certificates(ServerKeys(folder).chain)
    (found,) = diagnose(chain, "localhost", trusted, known_to(Authority.load(folder)))
    assert "`fleetnet device add NAME --again`" in found.remedy
    (blind,) = diagnose(chain, "localhost", trusted)  # without the fleet's folder
    assert "`fleetnet anchor HOST" in blind.remedy


def test_a_ca_that_is_gone_is_copied_back_and_not_made_anew(folder: Path) -> None:
    shutil.move(folder / "ca", folder / "away")
    assert "`fleetnet ca init`" in look(folder).only()
    with SqliteStore(folder / "fleet.db") as store:
        store.add_device("cam-1")
    found = look(folder).only()
    assert "copy ca/ and server/ from where you keep them" in found and "init" not in found


def test_a_key_that_this_user_may_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "issuing-key.der":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (found,) = [one for one in look(folder).bad() if one.startswith("ca")]
    assert "Permission denied" in found and "owner" in found and "init" not in found


def test_no_ca_and_no_store(folder: Path) -> None:
    shutil.rmtree(folder / "ca")
    (folder / "fleet.db").unlink()
    found = look(folder).bad()
    assert [one.partition(":")[0] for one in found] == ["ca", "store"]
    assert not (folder / "fleet.db").exists()


def test_a_damaged_store(folder: Path) -> None:
    path = folder / "fleet.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    (found,) = [one for one in look(folder).bad() if one.startswith("store")]
    assert "backup" in found


def test_garbage_in_the_place_of_the_store(folder: Path) -> None:
    (folder / "fleet.db").write_bytes(b"garbage" * 1000)
    found = look(folder).only()
    assert "another store" not in found
    assert "no SQLite file" in found and "-> restore it from a backup" in found


def test_a_store_that_this_user_may_not_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise apsw.ReadOnlyError("attempt to write a readonly database")

    monkeypatch.setattr(schema, "open_writable", refuse)
    found = look(folder).only()
    assert found.count("user that it belongs to") == 1 and "backup" not in found


def test_a_server_key_that_is_gone(folder: Path) -> None:
    (folder / "server" / "key.der").unlink()
    found = look(folder).only()
    assert "copy server/ from where you keep the keys" in found
    assert found.endswith("-> copy ca/ and server/ from where you keep them")


def test_a_device_whose_certificate_has_ended(folder: Path) -> None:
    settings = Settings(**load_settings(folder).model_dump() | {"device_lifetime_s": 86_400.0})
    with SqliteStore(folder / "fleet.db") as store:
        add_device(folder, settings, store, "cam-1")
    assert look(folder).bad() == []
    found = doctor_at(faked_clock("+3d"), "-C", folder, "doctor").only()
    assert found.startswith("registry: the certificate has ended of cam-1")
    assert "`fleetnet device add NAME --again`" in found


# -- ports ---------------------------------------------------------------------------------


def test_another_program_has_the_port(folder: Path) -> None:
    stranger = server(authority("Stranger"), ["stranger.example"])
    with tls_peer(stranger) as peer:
        set_port(folder, peer.port)
        found = look(folder).bad()
    assert any("is not this fleet's server" in one for one in found)
    assert any(one.startswith("udp: UDP port") for one in found)


def test_an_old_certificate_is_still_presented(folder: Path) -> None:
    with tls_peer(server(authority("Old"), ["localhost"])) as peer:
        set_port(folder, peer.port)
        found = look(folder).bad()
    assert any("presents another certificate than this folder's" in one for one in found)


def test_another_program_has_the_udp_port(folder: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", load_settings(folder).dtls_port))
        found = look(folder).bad()
    assert any("another program has the UDP port" in one for one in found)
