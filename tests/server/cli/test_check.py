"""`fleetnet check`: each cause is found and named, and no secret is shown."""

import fcntl
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fleetnet_server.config import Settings
from fleetnet_server.doctor import preflight
from fleetnet_server.redaction import shown
from server.cli.running import fleetnet


def check(folder: Path, code: int = 0, **more: str) -> dict[str, list[tuple[str, str, str]]]:
    done = fleetnet("-C", folder, "check", "--json", code=code, **more)
    found: dict[str, list[tuple[str, str, str]]] = {}
    for one in json.loads(done.stdout)["findings"]:
        found.setdefault(one["check"], []).append((one["level"], one["text"], one["remedy"]))
    return found


def free_ports() -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        number = str(tcp.getsockname()[1])
    return {"FLEETNET_BIND": "127.0.0.1", "FLEETNET_TLS_PORT": number,
            "FLEETNET_DTLS_PORT": number}  # fmt: skip


def test_a_new_fleet_is_ready(empty: Path) -> None:
    found = check(empty, **free_ports())
    assert {key for key, rows in found.items() if rows[0][0] != "ok"} <= {"user", "limits", "disk"}
    assert {"settings", "policy", "clock", "ca", "folder", "server", "store", "registry", "ports",
            "disk", "limits"} <= set(found)  # fmt: skip
    assert [text.rpartition(" is ")[2] for _, text, _ in found["ports"]] == ["free", "free"]
    before = {path: path.read_bytes() for path in empty.rglob("*.toml")}
    plain = fleetnet("-C", empty, "check", **free_ports()).stdout
    assert plain.startswith("ok    settings: bind=127.0.0.1, tls_port=")
    assert before == {path: path.read_bytes() for path in empty.rglob("*.toml")}


def test_a_taken_port(empty: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        number = str(tcp.getsockname()[1])
        found = check(empty, 1, FLEETNET_BIND="127.0.0.1", FLEETNET_TLS_PORT=number)
    ((level, text, remedy), *_) = found["ports"]
    assert level == "bad" and f"TCP port {number}" in text and "another tls_port" in remedy


def test_a_server_that_runs_is_no_problem(empty: Path) -> None:
    with (empty / "serve.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ((level, text, _),) = check(empty)["ports"]
    assert level == "ok" and "a server runs" in text


@pytest.mark.parametrize(
    ("name", "text", "check_name", "words"),
    [
        ("fleetnet.toml", "tls_prot = 1\n", "settings", "did you mean 'tls_port'"),
        ("fleetnet.toml", "tls_port = 99999\n", "settings", "99999"),
        ("fleetnet.toml", "tls_port = \n", "settings", "cannot be read"),
        ("policy.toml", "[group.x]\nchanels = []\n", "policy", "channels"),
    ],
)
def test_broken_files(empty: Path, name: str, text: str, check_name: str, words: str) -> None:
    (empty / name).write_text(text)
    ((level, said, remedy),) = check(empty, 1)[check_name]
    assert level == "bad" and words in said and remedy


def test_no_fleet_at_all(tmp_path: Path) -> None:
    ((level, said, _),) = check(tmp_path / "nowhere", 1)["settings"]
    assert level == "bad" and "fleetnet init" in said


def test_keys_that_others_can_read_and_folders_that_they_can_write(empty: Path) -> None:
    (empty / "server" / "key.der").chmod(0o644)
    assert any("can be read by others" in text for _, text, _ in check(empty, 1)["folder"])
    (empty / "server" / "key.der").chmod(0o600)
    (empty / "ca").chmod(0o777)
    assert any("can be written by others" in text for _, text, _ in check(empty, 1)["folder"])


def test_missing_ca_and_damaged_store(empty: Path) -> None:
    shutil.rmtree(empty / "ca")
    assert check(empty, 1)["ca"][0][0] == "bad"
    (empty / "fleet.db").write_bytes(b"no database at all, but long enough" * 100)
    assert check(empty, 1)["store"][0][0] == "bad"


def test_few_files_are_a_warning_that_strict_minds(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda what: (100, 4096))
    found = {one.check: one for one in preflight.examine(empty)}
    assert found["limits"].level == "warn" and "ulimit -n" in found["limits"].remedy
    if os.geteuid() == 0:  # root is a warning
        fleetnet("-C", empty, "check", "--strict", code=1, **free_ports())


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("mqtt_password", "hunter2", "***"),
        ("web_token", "abc", "***"),
        ("mqtt_password", "", ""),
        ("broker", "mqtts://user:hunter2@broker.example:8883/x", "mqtts://***@broker.example:8883/x"),
        ("postgres_dsn", "host=db password=hunter2", "***"),
        ("anything", SecretStr("hunter2"), "***"),
        ("host", "fleet.example", "fleet.example"),
        ("tls_port", 7443, 7443),
    ],
)
def test_secrets_are_replaced(key: str, value: Any, expected: Any) -> None:
    assert shown(key, value) == expected


def test_a_secret_setting_is_shown_nowhere(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithSecret(Settings):
        mqtt_password: str = ""
        upstream: str = ""

    made = WithSecret(**{"mqtt_password": "hunter2", "upstream": "mqtts://me:hunter2@broker"})
    monkeypatch.setattr(preflight, "load_settings", lambda folder: made)
    said = " ".join(map(str, preflight.examine(empty))) + str(preflight.document_of(made))
    assert "hunter2" not in said and "mqtt_password=***" in said
