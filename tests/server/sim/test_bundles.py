"""Identities in bulk: registered in one transaction, kept between runs, private."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import crypto

from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.config import load_settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.errors import FolderError, IdentityError
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity.authority import Authority
from fleetnet_server.sim.bundles import bundles_path, make_bundles, read_bundles
from fleetnet_server.sim.contexts import SharingCredentials
from fleetnet_server.store.bulk import register
from fleetnet_server.store.sqlite import SqliteStore

Make = Callable[[int], list[dict[str, object]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_fleet(tmp_path / "fleet", ("localhost",))
    return tmp_path / "fleet"


@pytest.fixture
def store(folder: Path) -> SqliteStore:
    return SqliteStore(load_settings(folder).store_path(folder))


@pytest.fixture
def make(folder: Path) -> Make:
    def work(count: int) -> list[dict[str, object]]:
        path = make_bundles(folder, load_settings(folder), count, lambda number: None)
        return list(read_bundles(path))

    return work


def shown_by(connection: SslObject) -> str:
    """The common name of the certificate that a connection will show."""
    native = Binding.lib.SSL_get_certificate(connection._ssl)
    assert native != Binding.ffi.NULL
    Binding.lib.X509_up_ref(native)
    certificate = crypto.X509._from_raw_x509_ptr(native).to_cryptography()
    return certificate.subject.rfc4514_string().removeprefix("CN=")


def rows(store: SqliteStore, sql: str) -> list[tuple[object, ...]]:
    return store.read(sql)


def test_bundles_are_what_device_add_registers(
    make: Make, folder: Path, store: SqliteStore
) -> None:
    (bundle,) = make(1)
    add_device(folder, load_settings(folder), store, "cam-1", "tls")
    for sql in (
        "SELECT state, grp, labels FROM devices WHERE name = '%s'",
        "SELECT revoked_ms, reason, key_made, generation, length(serial) > 20 FROM certificates"
        " JOIN devices AS d ON d.id = device WHERE name = '%s'",
        "SELECT number, marks, pins, i.state, ended_ms FROM identities AS i"
        " JOIN devices AS d ON d.id = device WHERE name = '%s'",
        "SELECT action, detail FROM audit WHERE device = '%s'",
    ):
        made = rows(store, sql % "sim-00001")
        assert made == rows(store, sql % "cam-1") and len(made) == 1, sql
    config = json.loads((folder / "devices" / "cam-1" / "config.json").read_text())
    for key in ("pins", "server_hostname"):
        assert bundle[key] == config[key]
    assert bundle["ca"] == (folder / "devices" / "cam-1" / "ca.der").read_bytes()


def test_bundles_are_kept_and_added_to(make: Make) -> None:
    few = make(3)
    more = make(5)
    assert [bundle["cert"] for bundle in more[:3]] == [bundle["cert"] for bundle in few]
    assert [bundle["name"] for bundle in more] == [f"sim-{n:05d}" for n in range(1, 6)]
    assert len(make(2)) == 5


def test_only_the_owner_reads_them(make: Make, folder: Path) -> None:
    make(1)
    path = bundles_path(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_removed_device_is_made_anew(make: Make, store: SqliteStore) -> None:
    before = make(2)
    store.registry.remove("sim-00002", "test")
    after = make(2)
    assert before[1]["cert"] != after[1]["cert"]
    device = store.lookup("sim-00002")
    assert device is not None and device.is_enabled


def test_another_ca_makes_them_anew(make: Make, folder: Path) -> None:
    before = make(1)
    path = bundles_path(folder)
    head, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps({**json.loads(head), "pins": ["00" * 32]}) + "\n" + rest)
    assert make(1)[0]["cert"] != before[0]["cert"]


def test_a_bad_name_registers_nobody(folder: Path, store: SqliteStore) -> None:
    authority = Authority.load(folder)
    issued = authority.issue_device("good")
    with pytest.raises(IdentityError):
        register(store, authority, [("good", issued), ("bad name", issued)], [], "test")
    assert store.devices() == []


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", '{"ca": "AA=="}\n{"name": 1}\n', "\xff"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "devices.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FolderError, match="--only-make"):
        list(read_bundles(path))


def test_devices_share_a_context_and_keep_their_pair(make: Make) -> None:
    connections = []
    contexts = []
    for bundle in make(2):
        config = {**bundle, "host": "h", "tls_port": 1, "dtls_port": 1}
        contexts.append(SharingCredentials(config).context(False, False))
        connections.append(SslObject(contexts[-1], "localhost", "server"))
    assert contexts[0].native is contexts[1].native
    assert [shown_by(each) for each in connections] == ["sim-00001", "sim-00002"]
    assert contexts[0].mode == "verified" and contexts[0].verified


def test_a_device_without_a_date_has_a_context_of_its_own(make: Make) -> None:
    (bundle,) = make(1)
    config = {**bundle, "host": "h", "tls_port": 1, "dtls_port": 1}
    credentials = SharingCredentials(config)
    assert credentials.context(False, True).mode == "pinned"
