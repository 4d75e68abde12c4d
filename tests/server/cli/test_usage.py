"""What is written wrong, or cannot be: the word that is said, and the exit code."""

import json
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from fleetnet_server.cli import audit
from fleetnet_server.cli.main import main
from interpreters import ROOT

USAGE, FAILURE = 2, 1


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("device", "add", "x", "--again", "--no-bundle"), USAGE, "leave --no-bundle out"),
        (("device", "renew"), USAGE, "name devices, or pass --all"),
        (("doctor", "localhost", "--bundle", "b"), USAGE, "one at a time"),
        (("doctor", "localhost:x"), USAGE, "is no port number"),
        (("doctor", "localhost:1", "--ca", "{f}/ca/authority.json"), FAILURE, "DER nor PEM"),
        (("doctor", "localhost:1", "--ca", "{f}/server/key.der"), FAILURE, "holds no certificate"),
        (("sim", "--scale", "5"), USAGE, "say how much with --days"),
        (("sim", "--server", "localhost"), USAGE, "--server needs --bundles"),
        (("sim", "--server", "a:0", "--bundles", "{f}/fleetnet.toml"), USAGE, "1 to 65535"),
        (("export", "-", "--format", "parquet"), USAGE, "Parquet is no stream"),
        (("export", "readings"), USAGE, "which format?"),
        (("ca", "init", "--flat", "--offline-root", "{f}/root"), FAILURE, "has a CA already"),
        (("ca", "rotate", "--finish", "--issuing"), USAGE, "one step at a time"),
        (("commands", "--id", "nothing"), FAILURE, "list them without --id"),
        (("blob", "get", "9", "x"), FAILURE, "9"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    empty: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    said = run("-C", empty, *(one.format(f=empty) for one in arguments), code=code)
    assert words in said and "Traceback" not in said


def test_a_bundle_by_name_needs_a_fleet(tmp_path: Path) -> None:
    said = run("-C", tmp_path / "none", "doctor", "--name", "cam-1", code=USAGE)
    assert "name the bundle with --bundle" in said


def test_a_flat_ca_has_no_offline_key(bare: Path) -> None:
    said = run("-C", bare, "ca", "init", "--flat", "--offline-root", bare / "root", code=USAGE)
    assert "it cannot be offline" in said and not (bare / "root").exists()


def test_a_server_that_is_away_is_found_so(empty: Path) -> None:
    anchor = str(empty / "ca/ca.der")
    words = ["doctor", "127.0.0.1:1", "--ca", anchor, "--timeout", "0.5", "--json"]
    done = CliRunner().invoke(main, words)
    bad = [one for one in json.loads(done.stdout)["findings"] if one["level"] == "bad"]
    assert done.exit_code == FAILURE and "127.0.0.1" in bad[0]["text"] and bad[0]["remedy"]


def test_a_device_without_a_bundle(empty: Path) -> None:
    """It comes with a certificate of an imported CA, or with a key."""
    said = run("-C", empty, "device", "add", "cam-1", "--no-bundle")
    assert "with a certificate of an imported CA" in said
    made = json.loads(run("-C", empty, "device", "add", "cam-2", "--no-bundle", "--json"))
    assert made == {"name": "cam-2", "bundle": None, "transport": None}
    assert list((empty / "devices").iterdir()) == []


def test_audit_follows_what_comes(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row once, in order, until Ctrl-C, which is its end."""
    comes = [("b", "c"), (), ("d",)]

    def wait(_seconds: float) -> None:
        if not comes:
            raise KeyboardInterrupt
        for name in comes.pop(0):
            run("-C", empty, "token", "add", name)

    run("-C", empty, "token", "add", "a")
    monkeypatch.setattr(audit, "time", SimpleNamespace(sleep=wait))
    rows = run("-C", empty, "audit", "--follow", "--json").splitlines()
    assert [json.loads(row)["detail"]["token"] for row in rows] == ["a", "b", "c", "d"]


def test_the_index_of_a_repository_is_written_whole(tmp_path: Path) -> None:
    """It is the package.json that the repository itself has."""
    said = run("device", "package", tmp_path, "--url", "github:fleetnet/fleetnet")
    assert "package.json written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["package.json"]
    assert (tmp_path / "package.json").read_text() == (ROOT / "package.json").read_text()
    assert "write github:OWNER/NAME" in run(
        "device", "package", tmp_path, "--url", "github:fleetnet", code=FAILURE
    )


def test_a_user_without_a_name_is_the_command_line(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs as a number."""

    def unknown(_number: int) -> None:
        raise KeyError

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    run("-C", empty, "token", "add", "t")
    (row,) = map(json.loads, run("-C", empty, "audit", "--json").splitlines())
    assert (row["actor"], row["action"]) == ("cli", "token-add")
