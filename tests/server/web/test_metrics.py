"""Metrics: named by convention, in the text format, and all that dashboard and rules name."""

import asyncio
import json
import re
import shutil
import subprocess
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleetnet_device import Device
from rules.tree import ROOT
from server.web.devices import online, until
from server.web.test_events import metric
from server.web.world import WebFleet

DASHBOARD = ROOT / "deploy" / "grafana" / "fleetnet.json"
RULES = ROOT / "deploy" / "prometheus" / "fleetnet.rules.yml"
MQTT = ROOT / "docs" / "mqtt.md"
ALERTS = ROOT / "tests" / "server" / "web" / "alerts.test.yml"
DOCUMENT = ROOT / "docs" / "metrics.md"
PROMTOOL = shutil.which("promtool")

_NAME = re.compile(r"\b(?:fleetnet|process)_[a-z0-9_]+")
_UNITS = ("_seconds", "_bytes", "_info", "_total")
# Numbers of things that are there now have no unit.
_COUNTS = {
    "fleetnet_sessions", "fleetnet_devices", "fleetnet_store_backlog_messages",
    "fleetnet_store_available", "fleetnet_store_windows_shut", "fleetnet_device_certificates",
    "fleetnet_event_subscribers", "fleetnet_handshakes_pending", "fleetnet_herd_awaited_devices",
}  # fmt: skip


class Family(NamedTuple):
    """A metric: its type, the names of its labels, its text."""

    kind: str
    labels: tuple[str, ...]
    text: str


async def exposition(fleet: WebFleet) -> str:
    answer = await fleet.ask("GET", "/metrics", token="read")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.body.decode()


def families(text: str) -> dict[str, Family]:
    """Every metric, by the name that queries use; a histogram by its bare name."""
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name + "_total" if family.type == "counter" else family.name
        labels = {key for sample in family.samples for key in sample.labels if key != "le"}
        found[name] = Family(family.type, tuple(sorted(labels)), family.documentation)
        assert family.documentation, name
    return found


def queryable(found: dict[str, Family]) -> set[str]:
    """Every name that an expression may use."""
    parts = ("_bucket", "_count", "_sum")
    return {
        name + part
        for name, family in found.items()
        for part in (parts if family.kind == "histogram" else ("",))
    }


def expressions() -> list[str]:
    """Everything that the dashboard and the rules ask for."""
    board = json.loads(DASHBOARD.read_text())
    texts = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    texts += re.findall(r"expr: (.*)", RULES.read_text())
    assert len(texts) > 40
    return texts


async def test_names_are_by_convention_and_used_ones_exist(fleet: WebFleet) -> None:
    await fleet.ask("GET", "/api/v1/server")
    text = await exposition(fleet)
    found = families(text)
    ours = {name for name in found if name.startswith("fleetnet_")}
    assert {name for name in ours if not name.endswith(_UNITS)} == _COUNTS
    assert {name for name in ours if name.endswith("_total")} == {
        name for name in ours if found[name].kind == "counter"
    }
    named = {name for text in expressions() for name in _NAME.findall(text)}
    # Those of a bridge are not here without one: tests/server/bridge/test_counters.py.
    bridge = {name for name in named if name in MQTT.read_text()}
    assert len(bridge) > 4 and named - bridge - queryable(found) == set()
    # Labels that are asked for are there.
    for one in expressions():
        for name in set(_NAME.findall(one)) & ours:
            for key in re.findall(r"by \(([a-z, ]+)\)", one):
                wanted = set(key.split(", ")) - {"job", "instance", "le"}
                assert wanted <= set(found[name].labels), one
    rows = [
        f"| `{name}` | {found[name].kind} | {', '.join(found[name].labels)} | {found[name].text} |"
        for name in sorted(ours)
    ]
    shown = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `fleetnet_")]
    assert sorted(shown) == sorted(rows), "docs/metrics.md should have:\n" + "\n".join(rows)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
async def test_promtool_finds_nothing_to_object_to(fleet: WebFleet) -> None:
    text = await exposition(fleet)
    assert await asyncio.to_thread(promtool, "check", "metrics", text=text) == ""


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_the_rules_are_good_and_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(ALERTS))


def promtool(*arguments: str, text: str = "") -> str:
    """Run it; return what it says."""
    done = subprocess.run(
        ["promtool", *arguments], input=text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_alert_is_made_to_fire() -> None:
    """By alerts.test.yml, which promtool runs."""
    text = RULES.read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) == len(set(alerts)) > 15
    fired = re.findall(r'alertname="(\w+)", alertstate="firing"', ALERTS.read_text())
    assert sorted(fired) == sorted(alerts)
    for block in text.split("- alert: ")[1:]:
        assert re.search(r"labels: \{severity: (critical|warning|info)\}", block), block
        assert "summary: " in block


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    spots = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(spots)) == len(spots)
    # No address of a data source of whoever drew it.
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {"${source}"}


async def test_what_happens_is_counted(fleet: WebFleet) -> None:
    async with online(fleet, "cam-1") as device:
        for number in range(10):
            await device.send("x", number)
        await device.flush(20_000)
        call = {"name": "double", "args": [1]}
        await fleet.ask("POST", "/api/v1/devices/cam-1/call", call)
        assert await metric(fleet, 'fleetnet_sessions{link="tls"}') == 1
        assert await metric(fleet, "fleetnet_readings_received_total") == 10
        assert await metric(fleet, 'fleetnet_handshakes_total{link="tls"}') == 1
        assert await metric(fleet, 'fleetnet_commands_ended_total{state="ok"}') == 1
        assert await metric(fleet, "fleetnet_store_commit_duration_seconds_count") >= 1
    await fleet.ask("POST", "/api/v1/devices/cam-1/disable")
    refused = 'fleetnet_sessions_refused_total{reason="disabled"}'
    device_folder = str(fleet.devices_folder / "cam-1")
    async with Device(device_folder):
        await until(lambda: metric(fleet, refused), lambda number: number >= 1)
    failed = 'fleetnet_handshakes_refused_total{link="tls",reason="broken"}'
    _, writer = await asyncio.open_connection(*fleet.tls)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    await until(lambda: metric(fleet, failed), lambda number: number == 1)
    writer.close()
    await fleet.ask("GET", "/metrics", token="command")
    assert await metric(fleet, 'fleetnet_http_denied_total{reason="scope"}') == 1
