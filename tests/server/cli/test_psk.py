"""`fleetnet psk`: what it prints, and above all what it does not."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forked
from fleetnet_server.config import load_settings
from fleetnet_server.identity.psk import FindKey
from fleetnet_server.store.psks import PskTable
from fleetnet_server.store.sqlite import SqliteStore
from server.cli.conftest import Fleets
from server.cli.running import environment

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "fleet"


@pytest.fixture
def fleetnet(fleets: Fleets, folder: Path) -> Run:
    """Function that runs a command in a new fleet; JSON comes back as an object."""

    def run(*arguments: object, code: int = 0) -> Any:
        done = forked.run(("-C", folder, *arguments), environment())
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        if code:
            return done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    fleets(folder)
    return run


def key_of(folder: Path, identity: str) -> str:
    """The key that the server would use."""
    with SqliteStore(load_settings(folder).store_path(folder)) as store:
        key = FindKey(folder, PskTable(store).find)(identity.encode())
    assert key is not None
    return key.hex()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_shown_once(fleetnet: Run, folder: Path) -> None:
    shown = fleetnet("psk", "add", "cam-1", "--json")
    assert shown == {"name": "cam-1", "identity": "cam-1.1", "key": key_of(folder, "cam-1.1")}
    assert len(shown["key"]) == 64
    # It was registered on the way.
    assert [one["name"] for one in fleetnet("device", "list", "--json")] == ["cam-1"]
    assert mode_of(folder / "secret.key") == 0o600
    again = fleetnet("psk", "add", "cam-1", code=1)
    for said in (again, fleetnet("psk", "list"), fleetnet("psk", "list", "--json")):
        assert shown["key"] not in str(said)
    assert "psk rotate cam-1" in again


def test_for_people_it_says_what_to_do(fleetnet: Run, folder: Path) -> None:
    text = fleetnet("psk", "add", "cam-1", "--bits", "128")
    key = key_of(folder, "cam-1.1")
    assert len(key) == 32
    assert text == f"Identity cam-1.1, key {key}. It is not shown again.\n"
    text = fleetnet("psk", "list")
    assert text.split("\t")[0] == "cam-1.1" and text.split("\t")[2:] == ["never", "everything\n"]
    assert fleetnet("psk", "remove", "cam-1").startswith("Removed: cam-1.1.")
    assert "psk list" in fleetnet("psk", "remove", "cam-1", code=1)


def test_a_bundle_holds_the_key_and_nothing_shows_it(fleetnet: Run, folder: Path) -> None:
    shown = fleetnet("psk", "add", "cam-1", "--bundle", "--enrol", "--transport", "tls", "--json")
    bundle = folder / "devices" / "cam-1"
    assert shown == {"name": "cam-1", "identity": "cam-1.1", "bundle": str(bundle)}
    assert os.listdir(bundle) == ["config.json"]
    assert mode_of(bundle) == 0o700 and mode_of(bundle / "config.json") == 0o600
    config = json.loads((bundle / "config.json").read_text())
    assert config["psk"] == {"identity": "cam-1.1", "key": key_of(folder, "cam-1.1")}
    assert (config["name"], config["transport"]) == ("cam-1", "tls")
    assert len(config["pins"][0]) == 64
    (listed,) = fleetnet("psk", "list", "--json")
    assert listed["enrol"] is True and listed["used_ms"] is None
    assert config["psk"]["key"] not in fleetnet("psk", "list")


def test_a_bundle_is_never_overwritten_by_add(fleetnet: Run, folder: Path) -> None:
    fleetnet("device", "add", "cam-1")
    assert "left alone" in fleetnet("psk", "add", "cam-1", "--bundle", code=1)
    assert fleetnet("psk", "list", "--json") == []
    assert not (folder / "secret.key").exists()  # not needed yet
    assert "no bundle with a pre-shared key" in fleetnet(
        "psk", "rotate", "cam-1", "--bundle", code=1
    )
    fleetnet("psk", "add", "cam-1")  # beside the certificate, and shown


def test_rotate(fleetnet: Run, folder: Path) -> None:
    assert "not registered" in fleetnet("psk", "rotate", "cam-1", code=1)
    fleetnet("psk", "add", "cam-1", "--bundle")
    path = folder / "devices" / "cam-1" / "config.json"
    before = json.loads(path.read_text())
    assert "psk" not in fleetnet("psk", "rotate", "cam-1", "--bundle", "--json")
    config = json.loads(path.read_text())
    assert config["psk"] == {"identity": "cam-1.2", "key": key_of(folder, "cam-1.2")}
    assert mode_of(path) == 0o600
    assert {**config, "psk": before["psk"]} == before
    key_of(folder, "cam-1.1")  # still holds
    shown = fleetnet("psk", "rotate", "cam-1", "--now", "--json")
    assert shown["key"] == key_of(folder, "cam-1.3")
    assert [one["identity"] for one in fleetnet("psk", "list", "--json")] == ["cam-1.3"]


def test_export(fleetnet: Run, folder: Path, tmp_path: Path) -> None:
    keys = {
        shown["identity"]: shown["key"]
        for shown in (
            fleetnet("psk", "add", "cam-1", "--json"),
            fleetnet("psk", "add", "cam-2", "--bits", "128", "--json"),
        )
    }
    fleetnet("psk", "add", "cam-3", "--enrol")
    fleetnet("psk", "add", "cam-4")
    fleetnet("device", "disable", "cam-4")
    file = tmp_path / "psk.txt"
    file.write_text("older")
    file.chmod(0o644)
    said = fleetnet("psk", "export", "--mosquitto", file)
    assert said.startswith("2 keys in") and not any(key in said for key in keys.values())
    assert file.read_text() == "".join(f"{name}:{key}\n" for name, key in keys.items())
    assert mode_of(file) == 0o600
    assert "cannot be written" in fleetnet(
        "psk", "export", "--mosquitto", tmp_path / "nowhere" / "psk.txt", code=1
    )


def test_without_the_secret_nothing_is_added_or_shown(fleetnet: Run, folder: Path) -> None:
    fleetnet("psk", "add", "cam-1")
    (folder / "secret.key").unlink()
    for arguments in (("add", "cam-2"), ("rotate", "cam-1"), ("export", "--mosquitto", "x")):
        assert "put the file back from a backup" in fleetnet("psk", *arguments, code=1)
    assert not (folder / "secret.key").exists()
    fleetnet("psk", "remove", "cam-1")  # the way out that the message names
    fleetnet("psk", "add", "cam-1")


def test_names(fleetnet: Run) -> None:
    assert "no device name" in fleetnet("psk", "add", "Cam 1", code=1)
    assert "not registered" in fleetnet("psk", "remove", "cam-9", code=1)
    assert "Invalid value" in fleetnet("psk", "add", "cam-1", "--bits", "64", code=2)
    assert fleetnet("psk", "list", "--json") == []
