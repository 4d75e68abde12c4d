"""`fleetnet mqtt`: what mqtt.toml leads to, before and while a server runs with it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetnet_server.store.outbox import Outbox
from fleetnet_server.store.sqlite import SqliteStore
from pki import Pki
from server.bridge.broker import HOST, Mosquitto, needs_mosquitto
from server.cli.running import fleetnet, put

pytestmark = needs_mosquitto

HOME = "[state]\nenabled = true\n[home_assistant]\nenabled = true\n"


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", pki) as it:
        yield it


def write(fleet: Path, number: int, more: str = "", extra: str = "") -> None:
    text = f'[broker]\nhost = "{HOST}"\nport = {number}\n{extra}\n{more}'
    (fleet / "mqtt.toml").write_text(text)


def test_check(empty: Path, broker: Mosquitto) -> None:
    write(empty, broker.plain)
    said = fleetnet("-C", empty, "mqtt", "check").stdout
    assert f"{HOST}:{broker.plain} accepts 'fleetnet', without TLS" in said
    assert "20 messages without an answer" in said  # mosquitto's own limit
    assert "readings: fleetnet/{device}/readings" in said and "frames" not in said
    found = json.loads(fleetnet("-C", empty, "mqtt", "check", "--json").stdout)
    assert found["ok"] and found["receive_maximum"] == 20 and found["retain"]
    assert set(found) == {"broker", "ok", "receive_maximum", "maximum_packet", "retain", "tls"}
    assert "PUBLISH" not in broker.log


def test_check_says_what_is_wrong(empty: Path, broker: Mosquitto) -> None:
    said = fleetnet("-C", empty, "mqtt", "check", code=1).stderr
    assert "no " in said and "mqtt.toml" in said and "docs/mqtt.md" in said
    write(empty, broker.plain, "[redings]\n")
    assert "did you mean [readings]" in fleetnet("-C", empty, "mqtt", "check", code=1).stderr
    write(empty, broker.password, "", f'[broker.tls]\nca = "{broker.folder}/ca.pem"\n')
    said = fleetnet("-C", empty, "mqtt", "check", code=1).stderr
    assert "authori" in said.lower() and "Traceback" not in said
    write(empty, broker.password, "", f'[broker.tls]\nca = "{broker.folder}/otherca.pem"\n')
    found = json.loads(fleetnet("-C", empty, "mqtt", "check", "--json", code=1).stdout)
    assert not found["ok"] and "certificate verify failed" in found["error"]
    broker.kill()
    write(empty, broker.plain)
    said = fleetnet("-C", empty, "mqtt", "check", code=1).stderr
    assert "refused: is the broker running" in said


def test_serve_refuses_a_broken_file(empty: Path) -> None:
    (empty / "mqtt.toml").write_text("[broker]\n")
    said = fleetnet("-C", empty, "serve", code=1, FLEETNET_TLS_PORT="0", FLEETNET_DTLS_PORT="0")
    assert "[broker] host: is missing" in said.stderr and "Traceback" not in said.stderr


def test_show_and_forget(empty: Path) -> None:
    assert fleetnet("-C", empty, "mqtt", "show").stdout == ""
    with SqliteStore(empty / "fleet.db") as store:
        outbox = Outbox(store, "home")
        outbox.start(1000)
    put(empty, "cam-1", ("temp", 0, 1), ("temp", 1, 2), size=1)
    with SqliteStore(empty / "fleet.db") as store:
        Outbox(store, "home").move(1, 1000, 1, 5)
    row = fleetnet("-C", empty, "mqtt", "show").stdout.split("\t")
    assert row[:3] == ["home", "1", "1"] and [one.strip() for one in row[4:]] == ["1", "5"]
    (found,) = json.loads(fleetnet("-C", empty, "mqtt", "show", "--json").stdout)
    assert found["behind"] == 1 and found["dropped"] == 5
    fleetnet("-C", empty, "mqtt", "forget", "home")
    assert "no bridge" in fleetnet("-C", empty, "mqtt", "forget", "home", code=1).stderr


def test_discovery(empty: Path) -> None:
    write(empty, 1883, HOME)
    assert json.loads(fleetnet("-C", empty, "mqtt", "discovery", "--json").stdout) == {}
    put(empty, "cam-1", ("temp", 0, 1))
    put(empty, "cam-2", ("door", 0, True))
    found = json.loads(fleetnet("-C", empty, "mqtt", "discovery", "--json").stdout)
    assert set(found) == {
        "homeassistant/device/fleetnet-cam-1/config", "homeassistant/device/fleetnet-cam-2/config",
    }  # fmt: skip
    said = fleetnet("-C", empty, "mqtt", "discovery", "cam-1").stdout
    assert '"name": "temp"' in said and "cam-2" not in said
    assert "not registered" in fleetnet("-C", empty, "mqtt", "discovery", "x", code=1).stderr


def test_fleetnet_check_reads_the_file(empty: Path) -> None:
    def found() -> dict[str, str]:
        done = fleetnet("-C", empty, "check", "--json", code=1, FLEETNET_TLS_PORT="1",
                        FLEETNET_BIND="192.0.2.1")  # fmt: skip
        findings = json.loads(done.stdout)["findings"]
        return {one["check"]: one["level"] for one in findings}

    assert "mqtt" not in found()
    write(empty, 1883)
    assert found()["mqtt"] == "ok"
    write(empty, 1883, "[x]\n")
    assert found()["mqtt"] == "bad"
