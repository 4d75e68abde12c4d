"""Discovery messages for Home Assistant: a device's channels appear by themselves.

Sources: https://www.home-assistant.io/integrations/mqtt/ ("MQTT discovery": topics, device and
origin, "Device discovery payload", availability), .../integrations/sensor.mqtt/,
.../integrations/binary_sensor.mqtt/ and .../integrations/image.mqtt/ ("Configuration variables").
What they demand is checked by ``check``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fleetnet import __version__
from fleetnet_server.bridge.discovery_settings import COMPONENT, Channel
from fleetnet_server.bridge.settings import Mqtt
from fleetnet_server.bridge.topics import slug

ONLINE, OFFLINE = "online", "offline"
IMAGE = "frame"

# integrations/mqtt, "Discovery topic": node_id and object_id are [a-zA-Z0-9_-].
_OBJECT = re.compile(r"[a-zA-Z0-9_-]+")
# Of a component, besides those that all have.
_COMMON = {"platform", "unique_id", "name", "icon"}
_KEYS = {
    "sensor": {"state_topic", "value_template", "device_class", "unit_of_measurement",
               "state_class"},
    "binary_sensor": {"state_topic", "value_template", "device_class", "payload_on",
                      "payload_off"},
    "image": {"image_topic", "content_type"},
}  # fmt: skip
_NEEDED = {"sensor": {"state_topic"}, "binary_sensor": {"state_topic"}, "image": {"image_topic"}}
_SHARED = {"device", "origin", "availability", "availability_mode", "qos"}

Document = dict[str, Any]


def messages(
    settings: Mqtt, device: str, channels: Iterable[str], software: str = ""
) -> dict[str, bytes]:
    """Return topic -> payload of the retained messages that make a device known."""
    found = settings.discovery
    parts = components(settings, device, channels)
    shared = _shared(settings, device, software)
    node = slug(f"{settings.broker.name}-{device}")
    if found.style == COMPONENT:
        return {
            _component_topic(found.prefix, node, key, part["platform"]): _json(
                {key: value for key, value in part.items() if key != "platform"} | shared
            )
            for key, part in parts.items()
        }
    if not parts:
        return {}
    return {f"{found.prefix}/device/{node}/config": _json({**shared, "components": parts})}


def components(settings: Mqtt, device: str, channels: Iterable[str]) -> dict[str, Document]:
    """Return the components of a device by their object ids."""
    topic = settings.state.out.topic.fill(device=device)
    parts = {}
    for channel in sorted(set(channels)):
        kind = settings.discovery.channel(channel)
        if kind.platform:
            parts[f"c_{slug(channel)}"] = _component(settings, device, channel, kind, topic)
    if settings.frames.out.is_on:
        parts[IMAGE] = {
            "platform": "image",
            "unique_id": _unique(settings, device, IMAGE),
            "name": "Frame",
            "image_topic": settings.frames.out.topic.fill(device=device),
            "content_type": "image/jpeg",
        }
    return parts


def _component(
    settings: Mqtt, device: str, channel: str, kind: Channel, topic: str
) -> Document:
    value = f"value_json.get({_literal(channel)})"
    found: Document = {
        "platform": kind.platform,
        "unique_id": _unique(settings, device, f"c_{slug(channel)}"),
        "name": kind.name or channel,
        "state_topic": topic,
        "value_template": f"{{{{ {value} }}}}",
    }
    if kind.platform == "binary_sensor":
        on = f"none if {value} is none else 'ON' if {value} else 'OFF'"
        found["value_template"] = f"{{{{ {on} }}}}"
    for key, text in (
        ("device_class", kind.device_class), ("unit_of_measurement", kind.unit),
        ("state_class", kind.state_class), ("icon", kind.icon),
    ):  # fmt: skip
        if text:
            found[key] = text
    return found


def _shared(settings: Mqtt, device: str, software: str) -> Document:
    about: Document = {
        "identifiers": [_unique(settings, device, "")], "name": device, "manufacturer": "fleetnet",
    }  # fmt: skip
    if software:
        about["sw_version"] = software
    return {
        "device": about,
        "origin": {"name": "fleetnet", "sw_version": __version__},
        # The device may be here and the bridge not: then nobody knows.
        "availability": [
            {"topic": settings.status.text},
            {
                "topic": settings.presence.topic.fill(device=device),
                "value_template": "{{ value_json.state }}",
            },
        ],
        "availability_mode": "all",
        "qos": 1,
    }


def check(topic: str, payload: bytes, prefix: str) -> list[str]:
    """Return what Home Assistant would object to; []: nothing. ``payload`` b"" removes."""
    levels = topic.removeprefix(f"{prefix}/").split("/")
    kind = levels[0]
    wrong = [f"{one!r} is no id" for one in levels[1:-1] if not _OBJECT.fullmatch(one)]
    if levels[-1] != "config" or kind not in (*_KEYS, "device"):
        wrong.append(f"{topic!r} is no discovery topic")
    if not payload:
        return wrong
    document = json.loads(payload)
    for name in ("device", "origin"):
        if not isinstance(document.get(name), Mapping):
            wrong.append(f"{name} is missing")
    if not document.get("device", {}).get("identifiers"):
        wrong.append("device has no identifiers")
    if not document.get("origin", {}).get("name"):
        wrong.append("origin has no name")
    wrong += [
        "availability has no topic"
        for one in document.get("availability", [])
        if not one.get("topic")
    ]
    if kind != "device":
        own = {key: value for key, value in document.items() if key not in _SHARED}
        return wrong + _check_component(own | {"platform": kind})
    if unknown := document.keys() - _SHARED - {"components"}:
        wrong.append(f"unknown: {sorted(unknown)}")
    parts = document.get("components", {})
    names = [one.get("unique_id") for one in parts.values()]
    if len(set(names)) != len(names):
        wrong.append("unique_id is not unique")
    return wrong + [text for part in parts.values() for text in _check_component(part)]


def _check_component(part: Document) -> list[str]:
    platform = part.get("platform", "")
    wrong = [f"{key} is missing" for key in ("platform", "unique_id") if not part.get(key)]
    wrong += [f"{key} is missing" for key in _NEEDED.get(platform, ()) if not part.get(key)]
    if unknown := part.keys() - _COMMON - _KEYS.get(platform, set()):
        wrong.append(f"unknown for {platform}: {sorted(unknown)}")
    return wrong


def _component_topic(prefix: str, node: str, key: str, platform: str) -> str:
    return f"{prefix}/{platform}/{node}/{key}/config"


def _unique(settings: Mqtt, device: str, part: str) -> str:
    return "-".join(one for one in (slug(settings.broker.name), slug(device), part) if one)


def _literal(text: str) -> str:
    """Return a string of Jinja, which undoes Python's escapes; nothing in it can end it."""
    shown = "".join(
        char if char.isascii() and (char.isalnum() or char in " _-.") else f"\\U{ord(char):08x}"
        for char in text
    )
    return f'"{shown}"'


def _json(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
