"""What docs/cli.md says of --json: each command's form and members."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from fleetnet_server.cli.main import main
from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity import pki
from fleetnet_server.store.blobs import _insert, content_path
from fleetnet_server.store.outbox import Outbox
from fleetnet_server.store.sqlite import SqliteStore
from interpreters import ROOT
from server.cli.running import NOW, fleetnet, put

_ROW = re.compile(r"^\| `([a-z -]+)` \| (document|list|lines) \| (.*) \|$", re.MULTILINE)
TABLE = {
    name: (form, members)
    for name, form, members in _ROW.findall((ROOT / "docs/cli.md").read_text(encoding="utf-8"))
}


def members_of(name: str) -> set[str]:
    text = re.sub(r"\([^)]*\)", "", TABLE[name][1])
    found = set()
    for part in text.split(", "):
        if part.startswith("as "):
            found |= members_of(re.findall("`([^`]+)`", part)[0])
        else:
            found |= set(re.findall("`([^`]+)`", part))
    return found


RUN: dict[str, tuple[str, ...]] = {
    "init": ("{tmp}/other",),
    "doctor": (),
    "check": (),
    "device add": ("cam-9",),
    "device list": (),
    "device show": ("cam-1",),
    "device set": ("cam-1", "--label", "room=7"),
    "device enable": ("cam-1",),
    "device disable": ("cam-1",),
    "device revoke": ("cam-1",),
    "device remove": ("cam-1",),
    "device renew": ("cam-1",),
    "device claim": ("cam-9",),
    "device package": ("{tmp}/site", "--url", "http://10.0.0.5:8000"),
    "ca show": (),
    "ca rotate": (),
    "ca init": (),
    "ca import": ("--cert", "{tmp}/theirs.pem"),
    "ca forget": ("2",),
    "cert list": (),
    "cert server": (),
    "cert inspect": ("{fleet}/server/cert.der",),
    "cert convert": ("{fleet}/server/chain.pem", "{tmp}/leaf.der", "--pick", "1"),
    "cert self-signed": ("box", "--out", "{tmp}/pair"),
    "hub assign": ("probe", "cam-1"),
    "hub unassign": ("probe", "cam-1"),
    "hub list": (),
    "mqtt show": (),
    "mqtt discovery": (),
    "mqtt forget": ("home",),
    "psk add": ("cam-2",),
    "psk rotate": ("probe",),
    "psk remove": ("probe",),
    "psk list": (),
    "psk export": ("--mosquitto", "{tmp}/psk.txt"),
    "token add": ("grafana",),
    "token list": (),
    "token revoke": ("dashboard",),
    "store show": (),
    "store backup": ("{tmp}/backup",),
    "store restore": ("{tmp}/backup",),
    "store migrate": (),
    "sim": ("--devices", "2", "--seconds", "0.2"),
    "plan size": ("1000",),
    "plan storm": ("100",),
    "query": (),
    "export": ("{tmp}/x.csv",),
    "plot": ("cam-1", "temp"),
    "call": ("cam-1", "blink", "--expires", "1h"),
    "commands": (),
    "config set": ("cam-1", "{tmp}/config.json"),
    "config get": ("cam-1",),
    "logs": (),
    "audit": (),
    "blob list": (),
    "blob get": ("1", "{tmp}/frame"),
}
# Their members are looked at where there is what they need.
ELSEWHERE = {
    "anchor": "a server: test_anchor.py",
    "bench": "test_bench.py",
    "demo": "MicroPython: tests/end_to_end/test_made_fleets.py",
    "device install": "a board: tests/provision/",
    "hub cert": "a flat CA: test_hub.py",
    "mqtt check": "a broker: test_mqtt.py",
    "serve": "it has no end: tests/end_to_end/",
    "store copy": "PostgreSQL: test_store_copy.py",
    "store roles": "PostgreSQL: test_store_postgres.py",
    "tail": "it has no end: test_commands.py",
}
# What needs no fleet, or makes it.
WITHOUT_FLEET = (
    "init", "device package", "cert inspect", "cert convert", "cert self-signed", "store restore",
    "plan size", "plan storm",
)  # fmt: skip
# A fleet that lacks what they do.
_BEFORE: dict[str, tuple[tuple[str, ...], ...]] = {
    "ca forget": (("ca", "import", "--cert", "{tmp}/theirs.pem"),),
    "store restore": (("store", "backup", "{tmp}/backup"),),
}
_MQTT = '[broker]\nhost = "192.0.2.1"\n[state]\nenabled = true\n[home_assistant]\nenabled = true\n'
# Their rows come from a device; the tests of end_to_end/ and of logs see them.
_EMPTY_HERE = ("logs",)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet to be copied."""
    place = tmp_path_factory.mktemp("members")
    folder = place / "fleet"
    create_fleet(folder, ("localhost",))
    with (folder / "fleetnet.toml").open("a") as settings:
        settings.write("\nenrol_port = 1\n")
    fleetnet("-C", folder, "device", "add", "cam-1")
    fleetnet("-C", folder, "psk", "add", "probe")
    fleetnet("-C", folder, "hub", "assign", "probe", "cam-1")
    fleetnet("-C", folder, "token", "add", "dashboard")
    (place / "config.json").write_text('{"rate": 5}')
    fleetnet("-C", folder, "config", "set", "cam-1", place / "config.json")
    fleetnet("-C", folder, "call", "cam-1", "blink", "--expires", "1h")
    put(folder, "cam-1", ("temp", 0, 1), ("temp", 1, 2))
    with SqliteStore(folder / "fleet.db") as store:
        row = BlobRow(1, 1, "frame", 22, 4, bytes(32), NOW, NOW)
        store.transact(lambda db: _insert(db, [row]))
        Outbox(store, "home").start(1000)
    path = folder / "blobs" / content_path(bytes(32))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xd8\xff\xd9")
    return folder


@pytest.fixture
def fleet(template: Path, tmp_path: Path, name: str) -> Path:
    folder = tmp_path / "fleet"
    if name == "ca init":
        create_fleet(folder, ("localhost",), has_ca=False)
    else:
        shutil.copytree(template, folder)
    (tmp_path / "config.json").write_text('{"rate": 5}')
    if name.startswith("mqtt"):
        (folder / "mqtt.toml").write_text(_MQTT)
    (tmp_path / "theirs.pem").write_bytes(pki.to_pem(pki.create_ca("theirs").certificate))
    for arguments in _BEFORE.get(name, ()):
        fleetnet("-C", folder, *(one.format(tmp=tmp_path) for one in arguments))
    return folder


def commands_with_json() -> set[str]:
    def below(name: str, command: click.Command) -> Iterator[str]:
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name)
            for part in command.list_commands(context):
                found = command.get_command(context, part)
                assert found is not None
                yield from below(f"{name} {part}".strip(), found)
        elif any("--json" in each.opts for each in command.params):
            yield name

    return set(below("", main))


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(RUN) | set(ELSEWHERE) == commands_with_json()


@pytest.mark.parametrize("name", RUN)
def test_members(fleet: Path, tmp_path: Path, name: str) -> None:
    arguments = [one.format(tmp=tmp_path, fleet=fleet) for one in RUN[name]]
    code = 1 if name in ("check", "doctor") else 0
    more = {"FLEETNET_TLS_PORT": "1", "FLEETNET_BIND": "192.0.2.1"} if code else {}
    folder = tmp_path / "restored" if name == "store restore" else fleet
    done = fleetnet("-C", folder, *name.split(), *arguments, "--json", code=code, **more)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    form = TABLE[name][0]
    if form != "lines":
        assert len(lines) == 1
    documents: list[dict[str, Any]] = lines[0] if form == "list" else lines
    assert documents or name in _EMPTY_HERE
    for each in documents:
        assert isinstance(each, dict)
        assert members_of(name) <= set(each)
        for key, value in each.items():
            if key.endswith("_ms") and name != "sim":
                assert value is None or abs(value - NOW) < 30 * 365 * 86_400_000
