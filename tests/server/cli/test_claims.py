"""`fleetnet device claim` and `fleetnet device renew`."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleetnet_server.cli.main import main
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.claims import ClaimTable
from fleetnet_server.store.identities import IdentityTable
from fleetnet_server.store.sqlite import SqliteStore


@pytest.fixture
def folder(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEETNET_ENROL_PORT", "8885")
    return empty


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["-C", str(folder), *arguments])


def test_claim_makes_a_bundle_without_a_key(folder: Path) -> None:
    result = run(folder, "device", "claim", "cam-1", "--days", "2", "--transport", "tls", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.output)
    bundle = folder / "devices" / "cam-1"
    assert shown["bundle"] == str(bundle)
    assert [path.name for path in bundle.iterdir()] == ["config.json"]
    assert (bundle / "config.json").stat().st_mode & 0o777 == 0o600
    config = json.loads((bundle / "config.json").read_text())
    assert config["claim"] == {"token": shown["token"], "port": 8885}
    assert config["pins"] == ServerKeys(folder).pins()
    assert (config["name"], config["transport"]) == ("cam-1", "tls")
    with SqliteStore(folder / "fleet.db") as store:
        claim = ClaimTable(store).find(shown["token"])
        assert claim is not None and claim.device == "cam-1"
        assert claim.expires_ms == shown["expires_ms"]
        created = store.read("SELECT created_ms FROM claims")[0][0]
        assert abs(claim.expires_ms - created - 2 * 86_400_000) < 10_000
        notes = store.read("SELECT action, device, actor FROM audit ORDER BY id DESC LIMIT 1")
        assert notes[0][:2] == ("claim-made", "cam-1") and notes[0][2].startswith("cli:")
    assert shown["token"].encode() not in (folder / "fleet.db").read_bytes()


def test_the_token_is_printed_once(folder: Path) -> None:
    result = run(folder, "device", "claim", "cam-1")
    token = json.loads((folder / "devices/cam-1/config.json").read_text())["claim"]["token"]
    assert result.output.count(token) == 1


def test_a_claim_is_made_anew_but_no_key_is_thrown_away(folder: Path) -> None:
    first = json.loads(run(folder, "device", "claim", "cam-1", "--json").output)
    second = json.loads(run(folder, "device", "claim", "cam-1", "--json").output)
    assert first["token"] != second["token"]
    with SqliteStore(folder / "fleet.db") as store:
        assert ClaimTable(store).find(first["token"]) is None
    run(folder, "device", "add", "cam-2")
    key = (folder / "devices/cam-2/key.der").read_bytes()
    result = run(folder, "device", "claim", "cam-2")
    assert result.exit_code == 1 and "remove it first" in result.output
    assert (folder / "devices/cam-2/key.der").read_bytes() == key


def test_a_claim_beside_a_working_certificate_says_what_it_ends(folder: Path) -> None:
    assert "takes its place" not in run(folder, "device", "claim", "cam-1").stderr
    run(folder, "device", "add", "cam-2")
    shutil.rmtree(folder / "devices" / "cam-2")
    result = run(folder, "device", "claim", "cam-2")
    assert result.exit_code == 0 and "cam-2 can come in already" in result.stderr


def test_a_closed_port_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETNET_ENROL_PORT", "0")
    result = run(folder, "device", "claim", "cam-1")
    assert result.exit_code == 1 and "set enrol_port in" in result.output
    assert not (folder / "devices/cam-1").exists()


def test_renew(folder: Path) -> None:
    for name in ("cam-1", "cam-2", "cam-3"):
        assert run(folder, "device", "add", name).exit_code == 0
    result = run(folder, "device", "renew", "cam-1", "cam-3", "--json")
    assert json.loads(result.output) == {"asked": ["cam-1", "cam-3"]}
    with SqliteStore(folder / "fleet.db") as store:
        table = IdentityTable(store)
        asked = [table.facts(number, 0).asked_ms is not None for number in (1, 2, 3)]
        assert asked == [True, False, True]
    assert json.loads(run(folder, "device", "renew", "--all", "--json").output)["asked"] == [
        "cam-1", "cam-2", "cam-3",
    ]  # fmt: skip


def test_renew_wants_names_or_all(folder: Path) -> None:
    assert run(folder, "device", "renew").exit_code == 2
    assert run(folder, "device", "renew", "--all", "cam-1").exit_code == 2
    result = run(folder, "device", "renew", "cam-9")
    assert result.exit_code == 1 and "cam-9" in result.output
