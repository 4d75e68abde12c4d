"""Discovery messages keep Home Assistant's rules, and the rules see what breaks them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetnet_server.bridge import discovery
from fleetnet_server.bridge.settings import Mqtt, load_mqtt

TEXT = """
[broker]
host = "broker"
name = "home"
[state]
enabled = true
[frames]
enabled = true
[home_assistant]
enabled = true
style = "STYLE"
[[home_assistant.channel]]
match = "temp*"
device_class = "temperature"
unit = "°C"
state_class = "measurement"
icon = "mdi:thermometer"
[[home_assistant.channel]]
match = "door"
platform = "binary_sensor"
device_class = "door"
[[home_assistant.channel]]
match = "raw*"
platform = "none"
"""


def settings(folder: Path, style: str) -> Mqtt:
    (folder / "mqtt.toml").write_text(TEXT.replace("STYLE", style))
    found = load_mqtt(folder)
    assert found is not None
    return found


def test_a_device_in_one_message(tmp_path: Path) -> None:
    found = discovery.messages(settings(tmp_path, "device"), "cam-1", ["temp", "door", "raw1"], "x")
    ((topic, payload),) = found.items()
    assert topic == "homeassistant/device/home-cam-1/config"
    document = json.loads(payload)
    assert document["device"] == {
        "identifiers": ["home-cam-1"], "name": "cam-1", "manufacturer": "fleetnet",
        "sw_version": "x",
    }  # fmt: skip
    assert document["availability"] == [
        {"topic": "fleetnet/_bridge/status"},
        {"topic": "fleetnet/cam-1/presence", "value_template": "{{ value_json.state }}"},
    ]
    assert document["components"] == {
        "c_temp": {
            "platform": "sensor", "unique_id": "home-cam-1-c_temp", "name": "temp",
            "state_topic": "fleetnet/cam-1/state",
            "value_template": '{{ value_json.get("temp") }}', "device_class": "temperature",
            "unit_of_measurement": "°C", "state_class": "measurement", "icon": "mdi:thermometer",
        },
        "c_door": {
            "platform": "binary_sensor", "unique_id": "home-cam-1-c_door", "name": "door",
            "state_topic": "fleetnet/cam-1/state", "device_class": "door",
            "value_template": '{{ none if value_json.get("door") is none else'
            ' \'ON\' if value_json.get("door") else \'OFF\' }}',
        },
        "frame": {
            "platform": "image", "unique_id": "home-cam-1-frame", "name": "Frame",
            "image_topic": "fleetnet/cam-1/frame", "content_type": "image/jpeg",
        },
    }  # fmt: skip
    assert discovery.check(topic, payload, "homeassistant") == []


def test_a_channel_in_one_message(tmp_path: Path) -> None:
    found = discovery.messages(settings(tmp_path, "component"), "cam-1", ["temp", "a/b c"])
    assert set(found) == {
        "homeassistant/sensor/home-cam-1/c_temp/config",
        "homeassistant/sensor/home-cam-1/c_a_2fb_20c/config",
        "homeassistant/image/home-cam-1/frame/config",
    }
    for topic, payload in found.items():
        assert "platform" not in json.loads(payload)
        assert discovery.check(topic, payload, "homeassistant") == []


@given(st.lists(st.text(min_size=1, max_size=8), max_size=6, unique=True), st.booleans())
def test_whatever_channels_are_called(
    tmp_path_factory: pytest.TempPathFactory, channels: list[str], is_device: bool
) -> None:
    style = "device" if is_device else "component"
    folder = tmp_path_factory.mktemp("fleet")
    for topic, payload in discovery.messages(
        settings(folder, style), "cam.1_x", channels
    ).items():  # fmt: skip
        assert discovery.check(topic, payload, "homeassistant") == []
        assert payload.isascii()


@pytest.mark.parametrize("text", ["plain", 'a"b', "a'b", "a\\b", "{{x}}", "%}", "\n", "ü", "😀"])
def test_a_name_in_a_template_is_that_name(text: str) -> None:
    literal = discovery._literal(text)
    assert literal.isascii() and not set(literal[1:-1]) & set("\"'{}%\n")
    # As Jinja reads it: jinja2/lexer.py, wrap(), "string".
    assert literal[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape") == text


def broken(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    part = document["components"]["c_temp"]
    return [
        ("device is missing", {k: v for k, v in document.items() if k != "device"}),
        ("no identifiers", document | {"device": {"name": "x"}}),
        ("no name", document | {"origin": {}}),
        ("availability", document | {"availability": [{}]}),
        ("unknown", document | {"colour": 1}),
        ("not unique", document | {"components": {"a": part, "b": part}}),
        ("unique_id is missing", document | {"components": {"a": {**part, "unique_id": ""}}}),
        ("state_topic is missing", document | {"components": {"a": {**part, "state_topic": ""}}}),
        ("platform is missing", document | {"components": {"a": {**part, "platform": ""}}}),
        ("unknown for sensor", document | {"components": {"a": {**part, "payload_on": "x"}}}),
    ]


def test_the_rules_see_what_is_wrong(tmp_path: Path) -> None:
    found = discovery.messages(settings(tmp_path, "device"), "cam-1", ["temp"])
    ((topic, payload),) = found.items()
    for text, document in broken(json.loads(payload)):
        wrong = discovery.check(topic, json.dumps(document).encode(), "homeassistant")
        assert any(text in one for one in wrong), (text, wrong)
    for bad in ("homeassistant/device/a b/config", "homeassistant/tree/a/config", "x/device/a/set"):
        assert discovery.check(bad, b"", "homeassistant"), bad
