"""`fleetnet call`, `commands`, `config` and `logs` beside no server: what they say and write."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleetnet.commands import encode_config_state, encode_log, encode_result
from fleetnet.frame import CONFIG_STATE, LOG, RESULT
from fleetnet_server.cli import commands as commands_module
from fleetnet_server.cli.main import main
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.served import take_lock
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.sqlite import SqliteStore
from server.cli.conftest import Fleets
from server.cli.running import COMMAND, fleetnet

NOW = 1_800_000_000_000


@pytest.fixture
def fleet(fleets: Fleets, tmp_path: Path) -> Path:
    return fleets(tmp_path / "fleet", device="cam-1")


def put(folder: Path, seq: int, kind: int, body: bytes) -> None:
    with SqliteStore(folder / "fleet.db") as store:
        epoch = store.epoch_id(1, b"epoch-01")
        t0, t1, problem, kept = inspect_body(kind, body, lambda boot: None, NOW)
        store.commit([Message(1, epoch, 1, seq, kind, t0, t1, NOW, kept, problem)])


def test_call_without_a_server_says_what_to_do(fleet: Path) -> None:
    done = fleetnet("-C", fleet, "call", "cam-1", "blink", "--wait", "50ms", code=1)
    assert "is `fleetnet serve` running, the device connected? --expires" in done.stderr
    assert "fleetnet device list" in fleetnet("-C", fleet, "call", "nobody", "x", code=1).stderr


def test_call_that_waits_and_what_became_of_it(fleet: Path) -> None:
    kept = json.loads(
        fleetnet("-C", fleet, "call", "cam-1", "add", "[1,2]", "--expires", "1h", "--json").stdout
    )
    assert {key: kept[key] for key in ("device", "name", "args", "state", "result", "error")} == {
        "device": "cam-1",
        "name": "add",
        "args": [1, 2],
        "state": "queued",
        "result": None,
        "error": None,
    }
    assert kept["expires_ms"] - kept["created_ms"] == pytest.approx(3_600_000, abs=1000)
    second = json.loads(
        fleetnet("-C", fleet, "call", "cam-1", "blink", "--expires", "2d", "--json").stdout
    )
    plain = fleetnet("-C", fleet, "call", "cam-1", "later", "--expires", "5m").stdout
    assert "waits: `fleetnet commands cam-1`" in plain
    put(fleet, 1, RESULT, encode_result(kept["id"], "ok", {"sum": 3}))
    put(fleet, 2, RESULT, encode_result(second["id"], "error", ["OSError", "\x1b[31mEIO"]))
    rows = [row.split("\t") for row in fleetnet("-C", fleet, "commands").stdout.splitlines()]
    assert [row[2:] for row in rows] == [
        ["cam-1", "add", "ok", '{"sum":3}'],
        ["cam-1", "blink", "error", "OSError:  [31mEIO"],
        ["cam-1", "later", "queued", ""],
    ]
    failed = fleetnet("-C", fleet, "commands", "--id", second["id"], "--json").stdout
    assert json.loads(failed)["error"] == {"type": "OSError", "message": "\x1b[31mEIO"}
    assert len(fleetnet("-C", fleet, "commands", "cam-1", "--limit", 1).stdout.splitlines()) == 1
    fleetnet("-C", fleet, "commands", "--id", "nothing", code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("call", "cam-1", "x", "7"),
        ("call", "cam-1", "x", "{"),
        ("call", "cam-1", "x", "[NaN]"),
        ("call", "cam-1", "x" * 65),
        ("call", "cam-1", "x", "--wait", "10"),
        ("call", "cam-1", "x", "--wait", "0s"),
        ("call", "cam-1", "x", "--expires", "90d"),
        ("config", "set", "cam-1", "no-such-file"),
    ],
)
def test_wrong_usage(fleet: Path, arguments: tuple[str, ...]) -> None:
    assert fleetnet("-C", fleet, *arguments, code=2).stderr.startswith("Usage: ")
    assert fleetnet("-C", fleet, "commands").stdout == ""


def test_config(fleet: Path) -> None:
    missing = fleetnet("-C", fleet, "config", "get", "cam-1", code=1)
    assert "fleetnet config set cam-1 FILE" in missing.stderr
    done = fleetnet("-C", fleet, "config", "set", "cam-1", "-", text='{"rate": 5, "é": [1]}')
    assert done.stdout.startswith("Version 1 is set")
    shown = fleetnet("-C", fleet, "config", "get", "cam-1")
    assert json.loads(shown.stdout) == {"rate": 5, "é": [1]}
    assert shown.stderr == "version 1: waits for the device\n"
    put(fleet, 1, CONFIG_STATE, encode_config_state(1, "rejected", "too\x9b fast"))
    shown = fleetnet("-C", fleet, "config", "get", "cam-1")
    assert shown.stderr == "version 1: rejected: too  fast; what the device had before stays\n"
    late = fleetnet("-C", fleet, "config", "set", "cam-1", "-", "--wait", "50ms", text="{}", code=1)
    assert late.stdout.startswith("Version 2 is set")
    put(fleet, 2, CONFIG_STATE, encode_config_state(2, "applied", {"rate": 5}))
    whole = json.loads(fleetnet("-C", fleet, "config", "get", "cam-1", "--json").stdout)
    assert (whole["version"], whole["state"], whole["reported"]) == (2, "applied", {"rate": 5})
    assert "applied, reported" in fleetnet("-C", fleet, "config", "get", "cam-1").stderr
    fleetnet("-C", fleet, "config", "set", "cam-1", "-", text="[]", code=2)
    large = json.dumps({"x": "y" * 20_000})
    said = fleetnet("-C", fleet, "config", "set", "cam-1", "-", text=large, code=2).stderr
    assert "limit 16384 B: " in said and "make it shorter" in said and "blob" not in said
    fleetnet("-C", fleet, "config", "set", "nobody", "-", text="{}", code=1)


def test_logs(fleet: Path) -> None:
    put(fleet, 1, LOG, encode_log(NOW, 0, [(0, "info", "started"), (250, "error", "no\x1b focus")]))
    put(fleet, 2, LOG, encode_log(5_000, 7, [(0, "warning", "clock is not set")]))
    put(fleet, 3, LOG, b"[1,")
    plain = fleetnet("-C", fleet, "logs").stdout
    assert plain == (
        "2027-01-15T08:00:00.000Z\tcam-1\tinfo\tstarted\n"
        "2027-01-15T08:00:00.250Z\tcam-1\terror\tno  focus\n"
        "undated\tcam-1\twarning\tclock is not set\n"
    )
    lines = fleetnet("-C", fleet, "logs", "cam-1", "--since", NOW + 1, "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"device": "cam-1", "unix_ms": NOW + 250, "level": "error", "text": "no\x1b focus"}
    ]
    assert len(fleetnet("-C", fleet, "logs", "--limit", 1).stdout.splitlines()) == 1
    assert "fleetnet device list" in fleetnet("-C", fleet, "logs", "nobody", code=1).stderr


def test_call_says_at_once_that_no_server_runs(fleet: Path) -> None:
    call = ("-C", fleet, "call", "cam-1", "blink", "--wait", "50ms")
    assert "No server runs on" in fleetnet(*call, code=1).stderr
    with take_lock(fleet):
        assert "No server runs" not in fleetnet(*call, code=1).stderr


def test_ctrl_c_while_it_waits_says_what_becomes_of_the_command(fleet: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "-C", str(fleet), "call", "cam-1", "blink", "--wait", "60s"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert process.stderr is not None
    assert "No server runs" in process.stderr.readline()  # it waits now
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Error: interrupted: the device may get the command" in said and "Abort" not in said


@pytest.mark.parametrize("moment", ["add", "is_surely_idle", "_wait"])
def test_ctrl_c_at_any_moment_never_denies_a_command_that_is_kept(
    fleet: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = CommandTable if moment == "add" else commands_module
    whole = getattr(owner, moment)

    def pressed(*args: object, **named: object) -> None:
        whole(*args, **named)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(owner, moment, pressed)
    call = ["-C", str(fleet), "call", "cam-1", "blink", "--wait", "10ms"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 1
    assert "interrupted: the device may get the command all the same" in done.stderr
    kept = json.loads(fleetnet("-C", fleet, "commands", "cam-1", "--json").stdout)
    which = "cam-1" if moment == "add" else f"--id {kept['id']}"
    assert f"`fleetnet commands {which}` shows" in done.stderr
