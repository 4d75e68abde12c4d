"""`fleetnet cert list` and `fleetnet cert server`, as programs, and OpenSSL on what they make."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.sqlite import SqliteStore
from server.cli.conftest import Fleets
from server.cli.running import tried

YEAR_MS = 365 * 86_400_000


@pytest.fixture
def fleet(fleets: Fleets, tmp_path: Path) -> Path:
    return fleets(tmp_path / "fleet", host="fleet.example", device="cam-1")


def openssl_verify(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    server = folder / "server"
    return subprocess.run(
        ["openssl", "verify", "-CAfile", folder / "ca" / "ca.pem", "-purpose", "sslserver",
         *options, "-untrusted", server / "chain.pem", server / "chain.pem"],
        capture_output=True, text=True,
    )  # fmt: skip


def audited(folder: Path) -> list[tuple[str, str]]:
    with SqliteStore(folder / "fleet.db") as store:
        rows = store.read("SELECT actor, action, detail FROM audit WHERE action LIKE 'server-%'")
    assert all(actor.startswith("cli") for actor, _, _ in rows)
    return [(action, json.loads(detail)["serial"]) for _, action, detail in rows]


def test_list_says_when_everything_ends(fleet: Path) -> None:
    listed = tried("-C", fleet, "cert", "list")
    rows = [line.split("\t") for line in listed.stdout.splitlines()]
    assert [row[2] for row in rows] == sorted(row[2] for row in rows)
    assert [(kind, name, level) for kind, name, _, level in rows[2:]] == [
        ("ca", "issuing 1", "ok"),
        ("ca", "root 1", "ok"),
    ]
    assert sorted((kind, name, level) for kind, name, _, level in rows[:2]) == [
        ("device", "cam-1", "ok"),
        ("server", "fleet.example", "ok"),
    ]
    assert rows[1][2][:4] == time.strftime("%Y", time.gmtime(time.time() + 825 * 86_400))
    assert tried("-C", fleet, "cert", "list", "--soon").stdout == ""
    with SqliteStore(fleet / "fleet.db") as store:
        device = store.add_device("old")
        store.add_certificate(device.id, 1, time.time_ns() // 1_000_000 - 5)
    (soon,) = json.loads(tried("-C", fleet, "cert", "list", "--soon", "--json").stdout)
    assert (soon["kind"], soon["name"], soon["level"]) == ("device", "old", "expired")


def test_list_works_before_there_is_a_ca(bare: Path) -> None:
    listed = tried("-C", bare, "cert", "list")
    assert (listed.returncode, listed.stdout) == (0, "")
    refused = tried("-C", bare, "cert", "server")
    assert refused.returncode == 1
    assert "`fleetnet ca init`" in refused.stderr


def test_a_new_certificate_for_the_same_key(fleet: Path) -> None:
    before = ServerKeys(fleet)
    done = tried("-C", fleet, "cert", "server", "--json")
    answer = json.loads(done.stdout)
    after = ServerKeys(fleet)
    assert answer == {
        "serial": f"{after.serial:x}",
        "hosts": ["fleet.example", "localhost", "127.0.0.1", "::1"],
        "not_after_ms": after.not_after_ms,
        "pins": before.pins(),
        "key_changed": False,
    }
    assert after.serial != before.serial
    assert openssl_verify(fleet, "-verify_hostname", "fleet.example").returncode == 0
    assert done.stderr == ""
    assert audited(fleet) == [("server-certificate-renewed", f"{after.serial:x}")]


def test_what_is_damaged_beside_the_key_is_made_anew(fleet: Path) -> None:
    before = ServerKeys(fleet)
    for name in ("cert.der", "chain.pem", "next-key.der"):
        (fleet / "server" / name).write_bytes(b"damaged")
        done = tried("-C", fleet, "cert", "server")
        assert done.returncode == 0
        assert f"{name}" in done.stderr
        after = ServerKeys(fleet)
        assert (after.key, after.hosts) == (before.key, before.hosts)
    assert after.pins()[1] != before.pins()[1]
    (fleet / "server" / "cert.der").unlink()
    assert tried("-C", fleet, "cert", "server").returncode == 0
    (fleet / "server" / "key.der").write_bytes(b"damaged")
    refused = tried("-C", fleet, "cert", "server")
    assert refused.returncode == 1
    assert "key.der cannot be read as a private key" in refused.stderr


def test_other_hosts_within_what_the_ca_may_sign(fleet: Path) -> None:
    done = tried("-C", fleet, "cert", "server", "--host", "eu.fleet.example")
    assert done.returncode == 0
    assert "eu.fleet.example" in done.stdout
    assert "not for fleet.example, the host of this fleet's settings" in done.stderr
    assert openssl_verify(fleet, "-verify_hostname", "eu.fleet.example").returncode == 0
    assert openssl_verify(fleet, "-verify_hostname", "fleet.example").returncode != 0
    before = ServerKeys(fleet).cert
    refused = tried("-C", fleet, "cert", "server", "--host", "other.example")
    assert refused.returncode == 1
    assert "may not sign for other.example" in refused.stderr
    assert ServerKeys(fleet).cert == before


def test_the_key_changes_to_the_one_that_devices_have_pinned(fleet: Path) -> None:
    bundle = json.loads((fleet / "devices" / "cam-1" / "config.json").read_text())
    before = ServerKeys(fleet)
    assert bundle["pins"] == before.pins()
    answer = json.loads(tried("-C", fleet, "cert", "server", "--change-key", "--json").stdout)
    assert answer["key_changed"]
    assert answer["pins"][0] == before.pins()[1]
    assert openssl_verify(fleet).returncode == 0
    # Its bundle knows nothing of the key that follows now.
    unchanged = ServerKeys(fleet).cert
    assert audited(fleet) == [("server-key-changed", answer["serial"])]
    refused = tried("-C", fleet, "cert", "server", "--change-key")
    assert refused.returncode == 1
    assert "do not know the next key: cam-1" in refused.stderr
    assert ServerKeys(fleet).cert == unchanged
    assert tried("-C", fleet, "cert", "server", "--change-key", "--force").returncode == 0
    assert ServerKeys(fleet).pins()[0] == answer["pins"][1]
    assert tried("-C", fleet, "device", "disable", "cam-1").returncode == 0
    assert tried("-C", fleet, "cert", "server", "--change-key").returncode == 0
