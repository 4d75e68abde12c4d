"""`fleetnet device` and `fleetnet audit` beside no server."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from server.cli.running import fleetnet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "fleet"
    fleetnet("init", folder)
    for name in ("cam-1", "cam-2", "door-1"):
        fleetnet("-C", folder, "device", "add", name)
    return folder


@pytest.fixture
def fleet(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "fleet"))


def names(fleet: Path, *arguments: str) -> list[str]:
    listed = json.loads(fleetnet("-C", fleet, "device", "list", "--json", *arguments).stdout)
    return [one["name"] for one in listed]


def show(fleet: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        fleetnet("-C", fleet, "device", "show", name, "--json").stdout
    )
    return found


def test_groups_labels_and_filters(fleet: Path) -> None:
    said = fleetnet("-C", fleet, "device", "set", "cam-1", "--group", "eyes", "--label", "room=7")
    assert said.stdout == "Device cam-1: group eyes, labels: room=7.\n"
    fleetnet("-C", fleet, "device", "set", "cam-2", "--label", "room=7", "--label", "a=b=c")
    fleetnet("-C", fleet, "device", "disable", "door-1")
    assert names(fleet) == ["cam-1", "cam-2", "door-1"]
    assert names(fleet, "--group", "eyes") == ["cam-1"]
    assert names(fleet, "--label", "room=7") == ["cam-1", "cam-2"]
    assert names(fleet, "--label", "room=7", "--label", "a=b=c") == ["cam-2"]
    assert names(fleet, "--state", "disabled") == ["door-1"]
    fleetnet("-C", fleet, "device", "set", "cam-1", "--unlabel", "room")
    assert names(fleet, "--label", "room=7") == ["cam-2"]
    line = fleetnet("-C", fleet, "device", "list", "--group", "eyes").stdout.split("\t")
    assert line[:4] == ["cam-1", "enabled", "eyes", ""]
    assert line[5] == "-\n"
    assert "--group, --label" in fleetnet("-C", fleet, "device", "set", "cam-1", code=2).stderr
    fleetnet("-C", fleet, "device", "set", "cam-1", "--label", "room", code=2)


def test_a_group_that_the_policy_does_not_have_is_refused(fleet: Path) -> None:
    (fleet / "policy.toml").write_text("[group.sensors]\nmax_rate = 5\n")
    said = fleetnet("-C", fleet, "device", "set", "cam-1", "--group", "sensor", code=1)
    assert "policy.toml has no [group.sensor]: it has sensors" in said.stderr
    fleetnet("-C", fleet, "device", "set", "cam-1", "--group", "sensors")
    fleetnet("-C", fleet, "device", "set", "cam-1", "--group", "default")


def test_revoke_writes_the_list(fleet: Path) -> None:
    serial = int(show(fleet, "cam-1")["certificates"][0]["serial"], 16)
    said = fleetnet("-C", fleet, "device", "revoke", "cam-1", "--reason", "key-compromise")
    first, following = said.stdout.splitlines()
    assert first == f"Device cam-1: 1 revoked: {serial:x}."
    assert "`fleetnet device add cam-1 --again`" in following
    crl = x509.load_der_x509_crl((fleet / "ca" / "crl.der").read_bytes())
    entry = crl.get_revoked_certificate_by_serial_number(serial)
    assert entry is not None
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason == x509.ReasonFlags.key_compromise
    shown = show(fleet, "cam-1")
    assert (shown["state"], shown["expires_ms"]) == ("enabled", None)
    assert shown["certificates"][0]["reason"] == "key-compromise"
    assert "revoked 2" in fleetnet("-C", fleet, "device", "show", "cam-1").stdout
    again = fleetnet("-C", fleet, "device", "revoke", "cam-1")
    assert again.stdout == "Device cam-1 has nothing left to revoke.\n"
    fleetnet("-C", fleet, "device", "revoke", "nobody", code=1)


def test_a_revoked_device_is_not_called_enabled_alone(fleet: Path) -> None:
    assert show(fleet, "cam-1")["credential"] == "valid"
    fleetnet("-C", fleet, "device", "revoke", "cam-1")
    assert show(fleet, "cam-1")["credential"] == "revoked"
    assert "enabled, revoked" in fleetnet("-C", fleet, "device", "show", "cam-1").stdout
    assert "enabled, revoked" in fleetnet("-C", fleet, "device", "list").stdout
    again = "`fleetnet device add cam-1 --again`"
    said = fleetnet("-C", fleet, "device", "enable", "cam-1").stdout
    assert "its certificate is revoked" in said and again in said
    assert again in fleetnet("-C", fleet, "device", "renew", "cam-1").stderr
    assert again not in fleetnet("-C", fleet, "device", "renew", "cam-2").stderr
    fleetnet("-C", fleet, "device", "add", "cam-1", "--again")
    assert fleetnet("-C", fleet, "device", "enable", "cam-1").stdout == "Device cam-1 enabled.\n"


def test_revoke_without_the_ca_counts_all_the_same(fleet: Path) -> None:
    shutil.rmtree(fleet / "ca")
    said = fleetnet("-C", fleet, "device", "revoke", "cam-1", "--json", code=3)
    assert "the revocation list was not written" in json.loads(said.stdout)["crl_problem"]
    assert "the revocation list was not written" in said.stderr
    assert show(fleet, "cam-1")["certificates"][0]["revoked_ms"]


def test_a_new_bundle(fleet: Path) -> None:
    bundle = fleet / "devices" / "cam-1"
    old = (bundle / "cert.der").read_bytes()
    fleetnet("-C", fleet, "device", "revoke", "cam-1")
    said = fleetnet("-C", fleet, "device", "add", "--again", "cam-1")
    assert "has a new bundle" in said.stdout
    assert (bundle / "cert.der").read_bytes() != old
    assert sorted(path.name for path in bundle.iterdir()) == [
        "ca.der", "cert.der", "config.json", "key.der",
    ]  # fmt: skip
    assert sorted(path.name for path in (fleet / "devices").iterdir()) == [
        "cam-1", "cam-2", "door-1",
    ]  # fmt: skip
    assert [bool(one["revoked_ms"]) for one in show(fleet, "cam-1")["certificates"]] == [
        False, True,
    ]  # fmt: skip
    assert (
        "leave --again out"
        in fleetnet("-C", fleet, "device", "add", "--again", "nobody", code=1).stderr
    )
    assert "already registered" in fleetnet("-C", fleet, "device", "add", "cam-1", code=1).stderr


def test_remove_and_add(fleet: Path) -> None:
    before = show(fleet, "cam-1")
    said = fleetnet("-C", fleet, "device", "remove", "cam-1")
    assert said.stdout == "Device cam-1 removed; its readings stay.\n"
    assert not (fleet / "devices" / "cam-1").exists()
    assert names(fleet) == ["cam-2", "door-1"]
    for command in ("show", "remove", "enable", "revoke"):
        fleetnet("-C", fleet, "device", command, "cam-1", code=1)
    fleetnet("-C", fleet, "device", "add", "cam-1")
    after = show(fleet, "cam-1")
    assert after["id"] == before["id"]
    assert [bool(one["revoked_ms"]) for one in after["certificates"]].count(True) == 1


def test_the_audit_log(fleet: Path) -> None:
    fleetnet("-C", fleet, "device", "disable", "cam-1")
    fleetnet("-C", fleet, "device", "enable", "cam-1")
    fleetnet("-C", fleet, "call", "cam-2", "wifi", '["secret"]', "--expires", "1h")
    lines = fleetnet("-C", fleet, "audit", "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["action"], row["device"]) for row in rows] == [
        ("device-add", "cam-1"),
        ("device-add", "cam-2"),
        ("device-add", "door-1"),
        ("device-disable", "cam-1"),
        ("device-enable", "cam-1"),
        ("command", "cam-2"),
    ]
    assert all(row["actor"].startswith("cli") for row in rows)
    assert "secret" not in "".join(lines)
    assert len(fleetnet("-C", fleet, "audit", "--device", "cam-1").stdout.splitlines()) == 3
    assert len(fleetnet("-C", fleet, "audit", "--action", "device-add").stdout.splitlines()) == 3
    assert len(fleetnet("-C", fleet, "audit", "--since", "2h").stdout.splitlines()) == 6
    assert fleetnet("-C", fleet, "audit", "--since", "1ms").stdout == ""
    last = fleetnet("-C", fleet, "audit", "--limit", "1").stdout.split("\t")
    assert last[2:4] == ["command", "cam-2"]
