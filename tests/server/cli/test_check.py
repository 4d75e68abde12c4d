"""`fleetnet check`: each cause is found and named, and no secret is shown."""

import fcntl
import json
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from end_to_end.fleet import free_port
from fleetnet_server.config import Settings
from fleetnet_server.doctor import fleet, preflight
from fleetnet_server.errors import FolderError
from fleetnet_server.redaction import shown
from fleetnet_server.served import (
    Served,
    find_server,
    is_served,
    is_surely_idle,
    take_lock,
    write_ports,
)
from server.cli.running import fleetnet


def check(folder: Path, code: int = 0, **more: str) -> dict[str, list[tuple[str, str, str]]]:
    done = fleetnet("-C", folder, "check", "--json", code=code, **more)
    found: dict[str, list[tuple[str, str, str]]] = {}
    for one in json.loads(done.stdout)["findings"]:
        found.setdefault(one["check"], []).append((one["level"], one["text"], one["remedy"]))
    return found


def free_ports() -> dict[str, str]:
    number = str(free_port())
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


def test_the_dashboards_packages_are_looked_for(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETNET_WEB_PORT", "8080")
    assert [one.level for one in preflight.examine(empty) if one.check == "web"] == ["ok"]
    monkeypatch.setattr(preflight, "_WEB_NEEDS", ("fastapi", "absent_package"))
    (found,) = [one for one in preflight.examine(empty) if one.check == "web"]
    assert found.level == "bad" and "absent_package" in found.text
    assert "fleetnet[web]" in found.remedy and "'.[server,web]'" in found.remedy


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
    assert any("others from reading it" in text for _, text, _ in check(empty)["folder"])
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


def test_a_server_that_runs_is_named(empty: Path) -> None:
    with take_lock(empty) as lock:
        assert find_server(empty) == Served(os.getpid(), {})  # it starts
        write_ports(lock, {"tls_port": 1234, "dtls_port": 5678})
        ((level, text, _),) = check(empty)["ports"]
        assert level == "ok"
        assert f"a server (pid {os.getpid()}, tls_port 1234, dtls_port 5678) runs" in text
        with pytest.raises(FolderError, match=rf"pid {os.getpid()}, tls_port 1234.*stop it"):
            take_lock(empty)
    assert find_server(empty) is None and not is_served(empty) and is_surely_idle(empty)


def test_a_lock_whose_words_are_none_of_ours(empty: Path) -> None:
    for content in (b"", b"[1]", b'{"pid": "x"}', b"\xff" * 9000):
        (empty / "serve.lock").write_bytes(content)
        with (empty / "serve.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert find_server(empty) == Served(0, {})


def test_a_look_does_not_keep_a_server_from_starting(empty: Path) -> None:
    (empty / "serve.lock").touch()
    looking = (empty / "serve.lock").open("rb")
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.03, looking.close)
    timer.start()
    take_lock(empty).close()
    timer.join()


def test_doctor_asks_a_server_on_the_ports_that_it_really_has(empty: Path) -> None:
    settings = Settings(bind="127.0.0.1", tls_port=9, dtls_port=9)
    with socket.create_server(("127.0.0.1", 0)) as tcp, take_lock(empty) as lock:
        number = tcp.getsockname()[1]
        write_ports(lock, {"tls_port": number, "dtls_port": number})
        tcp.close()  # what is said of it is enough: nobody answers
        said = [one.text for one in fleet.examine(empty, settings) if one.check == "tcp"]
    assert len(said) == 1 and f"ports {number} (TCP)" in said[0]
