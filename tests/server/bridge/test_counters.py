"""What the bridge counts is in /metrics, in the page about it, and in the log once a minute."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from fleetnet_server.bridge import counters
from fleetnet_server.bridge.counters import Counters
from fleetnet_server.web.collector import mqtt_metrics
from rules.tree import ROOT
from server.bridge.broker import Mosquitto, needs_mosquitto
from server.bridge.world import World


class _Bridged:
    """The part of /metrics that is about the bridge."""

    def __init__(self, world: World):
        self._world = world

    def collect(self) -> Iterator[Metric]:
        return mqtt_metrics(self._world.bridge)


def text_of(world: World) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Bridged(world))  # type: ignore[arg-type]
    return generate_latest(registry).decode()


@needs_mosquitto
async def test_metrics(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        async with World(tmp_path / "fleet", broker.plain) as world:
            await world.connected()
            await world.put("cam-1", 1, {"t": 1, "h": 2})
            await world.until(lambda: world.bridge.counters.readings == 2)
            world.bridge.counters.drop("expired", 3)
            world.bridge.counters.requests["ok"] += 1
            text = text_of(world)
            for line in (
                "fleetnet_mqtt_connected 1.0", "fleetnet_mqtt_readings_total 2.0",
                'fleetnet_mqtt_sent_total{sort="readings"} 1.0',
                'fleetnet_mqtt_dropped_total{reason="expired"} 3.0',
                'fleetnet_mqtt_requests_total{state="ok"} 1.0',
                "fleetnet_mqtt_connections_total 1.0",
            ):  # fmt: skip
                assert line in text, line
            page = (ROOT / "docs" / "mqtt.md").read_text()
            found = set(re.findall(r"^(fleetnet_mqtt_\w+?)(?:_created)?(?:{| )", text, re.M))
            assert found == set(re.findall(r"fleetnet_mqtt_\w+", page))
            broker.kill()
            await world.until(lambda: not world.bridge.is_connected)
            await world.put("cam-1", 2, {"t": 1})
            await world.until(lambda: world.bridge.behind == 1)
            assert "fleetnet_mqtt_behind_messages 1.0" in text_of(world)


def test_a_reason_is_said_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[str, object]] = []
    now = 1000.0
    monkeypatch.setattr(counters.time, "monotonic", lambda: now)
    monkeypatch.setattr(
        counters._log, "warning", lambda text, **more: said.append((more["why"], more["total"]))
    )
    made = Counters()
    for _ in range(3):
        made.drop("a")
    made.drop("b", 2)
    made.drop("b", 0)
    assert said == [("a", 1), ("b", 2)]
    now += 61
    made.drop("a")
    assert said[2:] == [("a", 4)] and made.dropped == {"a": 4, "b": 2}
