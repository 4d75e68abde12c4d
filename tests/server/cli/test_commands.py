"""The commands as a person runs them: in processes, with their exit codes."""

import json
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.served import take_lock
from fleetnet_server.store.sqlite import SqliteStore
from server.cli.running import COMMAND, environment, tried

NOW = 1_800_000_000_000


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    folder = tmp_path / "fleet"
    answer = tried("init", folder, "--host", "fleet.example", "--host", "10.0.0.5")
    assert answer.returncode == 0, answer.stderr
    return folder


def store_offset(boot: int) -> None:
    return None


def put(folder: Path, seq: int, body: str) -> None:
    with SqliteStore(folder / "fleet.db") as store:
        epoch = store.epoch_id(1, b"epoch-01")
        t0, t1, problem, kept = inspect_body(READINGS, body.encode(), store_offset, NOW)
        store.commit([Message(1, epoch, 3, seq, READINGS, t0, t1, NOW, kept, problem)])


def test_init_keeps_secrets_private_and_never_overwrites(fleet: Path) -> None:
    modes = {
        str(path.relative_to(fleet)): stat.S_IMODE(path.stat().st_mode)
        for path in (fleet, *fleet.rglob("*"))
    }
    for folder in (".", "ca", "server", "devices"):
        assert modes[folder] == 0o700
    for key in ("ca/1/root-key.der", "ca/1/issuing-key.der", "server/key.der"):
        assert modes[key] == 0o600
    before = {path: path.read_bytes() for path in fleet.rglob("*") if path.is_file()}
    again = tried("init", fleet)
    assert again.returncode == 1
    assert "not empty and was left alone" in again.stderr
    assert {path: path.read_bytes() for path in fleet.rglob("*") if path.is_file()} == before
    assert [path.name for path in fleet.parent.iterdir()] == ["fleet"], "something was left over"


def test_init_takes_an_empty_folder_and_leaves_nothing_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = tried("-C", tmp_path / "empty", "init", "--json")
    assert json.loads(answer.stdout) == {"folder": str(tmp_path / "empty"), "host": "localhost"}
    assert tried("init", tmp_path / "bad", "--host", "not a host").returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_device_add_makes_a_bundle_once(fleet: Path) -> None:
    added = tried("-C", fleet, "device", "add", "cam-1", "--json")
    bundle = fleet / "devices" / "cam-1"
    assert json.loads(added.stdout) == {
        "name": "cam-1",
        "bundle": str(bundle),
        "transport": "auto",
    }
    assert sorted(path.name for path in bundle.iterdir()) == [
        "ca.der",
        "cert.der",
        "config.json",
        "key.der",
    ]
    config = json.loads((bundle / "config.json").read_text())
    assert abs(config.pop("made_ms") - time.time() * 1000) < 60_000
    assert config == {
        "name": "cam-1",
        "host": "fleet.example",
        "tls_port": 7443,
        "dtls_port": 7443,
        "server_hostname": "fleet.example",
        "transport": "auto",
        "pins": ServerKeys(fleet).pins(),
    }
    key = (bundle / "key.der").read_bytes()
    again = tried("-C", fleet, "device", "add", "cam-1")
    assert again.returncode == 1
    assert "already registered" in again.stderr
    assert (bundle / "key.der").read_bytes() == key
    assert "no device name" in tried("-C", fleet, "device", "add", "../x").stderr
    assert [path.name for path in (fleet / "devices").iterdir()] == ["cam-1"]


def test_device_list_and_disable(fleet: Path) -> None:
    for name in ("cam-2", "cam-1"):
        assert tried("device", "add", name, FLEETNET_FOLDER=str(fleet)).returncode == 0
    assert tried("-C", fleet, "device", "disable", "cam-2").returncode == 0
    listed = json.loads(tried("-C", fleet, "device", "list", "--json").stdout)
    assert [(one["id"], one["name"], one["state"]) for one in listed] == [
        (2, "cam-1", "enabled"),
        (1, "cam-2", "disabled"),
    ]
    plain = tried("-C", fleet, "device", "list").stdout.splitlines()
    assert [line.split("\t")[:3] for line in plain] == [
        ["cam-1", "enabled", "default"],
        ["cam-2", "disabled", "default"],
    ]
    assert tried("-C", fleet, "device", "disable", "nobody").returncode == 1


def test_query(fleet: Path) -> None:
    tried("-C", fleet, "device", "add", "cam-1")
    put(fleet, 1, f'[{NOW},0,["t","h"],[[0,0,1.5],[1,250,"a\\u001b[31m\\u009b"]]]')
    lines = tried("-C", fleet, "query", "--json").stdout.splitlines()
    assert json.loads(lines[0]) == {
        "device": "cam-1",
        "channel": "t",
        "unix_ms": NOW,
        "value": 1.5,
        "stream": 3,
        "epoch": b"epoch-01".hex(),
        "seq": 1,
    }
    assert len(lines) == 2
    plain = tried("-C", fleet, "query", "--since", "2027-01-15T08:00:00.250").stdout
    assert plain == '2027-01-15T08:00:00.250Z\tcam-1\th\t"a\\u001b[31m "\n'
    assert tried("-C", fleet, "query", "--until", NOW).stdout == ""
    assert tried("-C", fleet, "query", "--device", "nobody").returncode == 1
    assert tried("-C", fleet, "query", "--since", "soon").returncode == 2


def test_tail_shows_what_becomes_durable_and_ends_with_0(fleet: Path) -> None:
    tried("-C", fleet, "device", "add", "cam-1")
    put(fleet, 1, '[1,0,["t"],[[0,0,1]]]')
    # A shell starts background jobs with SIGINT ignored, and a child inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*COMMAND, "-C", str(fleet), "tail", "--json", "--from-start"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout
        assert json.loads(process.stdout.readline())["value"] == 1
        put(fleet, 2, '[1,0,["t"],[[0,0,2]]]')
        assert json.loads(process.stdout.readline())["value"] == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stdout.read() == ""
    finally:
        signal.signal(signal.SIGINT, before)
        watchdog.cancel()
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def test_no_fleet_and_wrong_usage(tmp_path: Path) -> None:
    missing = tried("-C", tmp_path / "none", "query")
    assert missing.returncode == 1
    assert "fleetnet init" in missing.stderr
    assert tried("nonsense").returncode == 2
    assert tried("query", "--nonsense").returncode == 2


def test_tail_says_at_once_that_no_server_runs(fleet: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "-C", str(fleet), "tail"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stderr
        assert process.stderr.readline().startswith(f"No server runs on {fleet}: nothing new")
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def test_tail_says_that_the_server_has_ended_and_come_back(fleet: Path) -> None:
    tried("-C", fleet, "device", "add", "cam-1")
    put(fleet, 1, '[1,0,["t"],[[0,0,1]]]')
    with take_lock(fleet):
        process = subprocess.Popen(
            [*COMMAND, "-C", str(fleet), "tail", "--from-start"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        assert process.stdout and process.stdout.readline()  # it has looked for the server
    try:
        assert process.stderr
        assert process.stderr.readline().startswith(f"The server of {fleet} has ended: nothing")
        with take_lock(fleet):
            assert process.stderr.readline() == f"The server of {fleet} is there again.\n"
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("key", ["tls_port", "dtls_port", "enrol_port", "web_port"])
def test_serve_names_the_port_that_it_cannot_have(fleet: Path, key: str) -> None:
    kind = socket.SOCK_DGRAM if key == "dtls_port" else socket.SOCK_STREAM
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        number = taken.getsockname()[1]
        ports = {"FLEETNET_TLS_PORT": "0", "FLEETNET_DTLS_PORT": "0"}
        ports |= {"FLEETNET_BIND": "127.0.0.1", f"FLEETNET_{key.upper()}": str(number)}
        done = tried("-C", fleet, "serve", **ports)
    name = "UDP" if key == "dtls_port" else "TCP"
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: {name} port {number} of 127.0.0.1 cannot be had: Address already in use: "
        f"stop what has it, or choose another {key}"
    )


@pytest.mark.parametrize("bind", ["192.0.2.1", "no-such-host.invalid"])
def test_serve_says_when_it_is_the_address_that_is_wrong(fleet: Path, bind: str) -> None:
    said = tried("-C", fleet, "serve", FLEETNET_BIND=bind).stderr.splitlines()[-1]
    assert said.startswith(f"Error: TCP port 7443 of {bind} cannot be had: ")
    assert said.endswith(": bind has to be an address of this machine (`ip address` lists them)")
