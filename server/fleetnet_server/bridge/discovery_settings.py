"""The section [home_assistant] of mqtt.toml: what a channel is, in Home Assistant's words."""

from fnmatch import fnmatchcase
from typing import NamedTuple

from fleetnet_server.bridge.reading import Section

# "device": one retained message a device (Home Assistant 2024.12 and newer); "component": one a
# channel, which every version knows.
DEVICE, COMPONENT = "device", "component"

# https://www.home-assistant.io/integrations/mqtt/ "Discovery messages", and
# https://www.home-assistant.io/integrations/sensor/ "Device class": the classes of sensors.
SENSOR_CLASSES = frozenset(
    (
        "absolute_humidity", "apparent_power", "aqi", "area", "atmospheric_pressure", "battery",
        "blood_glucose_concentration", "carbon_dioxide", "carbon_monoxide", "conductivity",
        "current", "data_rate", "data_size", "date", "distance", "duration", "energy",
        "energy_distance", "energy_storage", "enum", "frequency", "gas", "humidity",
        "illuminance", "irradiance", "moisture", "monetary", "nitrogen_dioxide",
        "nitrogen_monoxide", "nitrous_oxide", "ozone", "ph", "pm1", "pm10", "pm25", "pm4",
        "power", "power_factor", "precipitation", "precipitation_intensity", "pressure",
        "reactive_energy", "reactive_power", "signal_strength", "sound_pressure", "speed",
        "sulphur_dioxide", "temperature", "temperature_delta", "timestamp", "uptime",
        "volatile_organic_compounds", "volatile_organic_compounds_parts", "voltage", "volume",
        "volume_flow_rate", "volume_storage", "water", "weight", "wind_direction", "wind_speed",
    )
)  # fmt: skip
# https://www.home-assistant.io/integrations/binary_sensor/ "Device class".
BINARY_CLASSES = frozenset(
    (
        "battery", "battery_charging", "carbon_monoxide", "cold", "connectivity", "door",
        "garage_door", "gas", "heat", "light", "lock", "moisture", "motion", "moving",
        "occupancy", "opening", "plug", "power", "presence", "problem", "running", "safety",
        "smoke", "sound", "tamper", "update", "vibration", "window",
    )
)  # fmt: skip
# https://developers.home-assistant.io/docs/core/entity/sensor/ "Available state classes".
STATE_CLASSES = frozenset(("measurement", "measurement_angle", "total", "total_increasing"))
# Classes that have no unit: the same page, "Available device classes".
_WITHOUT_UNIT = frozenset(("aqi", "date", "enum", "ph", "timestamp", "uptime"))
_NO_STATE_CLASS = frozenset(("date", "enum", "timestamp", "uptime"))


class Channel(NamedTuple):
    """What channels that fit a pattern are; "" where it is not said.

    Attributes:
        platform: "sensor" or "binary_sensor"; "": channels that fit are left out.
    """

    match: str = "*"
    platform: str = "sensor"
    name: str = ""
    device_class: str = ""
    unit: str = ""
    state_class: str = ""
    icon: str = ""


class Discovery(NamedTuple):
    """The section; the first of ``channels`` that fits counts."""

    is_on: bool = False
    prefix: str = "homeassistant"
    style: str = DEVICE
    channels: tuple[Channel, ...] = ()

    def channel(self, name: str) -> Channel:
        """Return what a channel is; a plain sensor when nothing is said."""
        return next((one for one in self.channels if fnmatchcase(name, one.match)), Channel())


def read_discovery(values: Section) -> Discovery:
    """Read the section. Raises ConfigError."""
    found = Discovery(
        values.flag("enabled", False),
        values.template("prefix", "homeassistant", (), ()).text,
        values.choice("style", DEVICE, (DEVICE, COMPONENT)),
        tuple(_channel(one) for one in values.sections("channel")),
    )
    values.finish()
    return found


def _channel(values: Section) -> Channel:
    platform = values.choice("platform", "sensor", ("sensor", "binary_sensor", "none"))
    found = Channel(
        values.text("match", "*"),
        "" if platform == "none" else platform,
        values.text("name", ""),
        values.text("device_class", ""),
        values.text("unit", ""),
        values.text("state_class", ""),
        values.text("icon", ""),
    )
    values.finish()
    _check(values, found)
    return found


def _check(values: Section, found: Channel) -> None:
    classes = BINARY_CLASSES if found.platform == "binary_sensor" else SENSOR_CLASSES
    if found.device_class and found.device_class not in classes:
        raise values.error("device_class", f"{found.device_class!r} is none of {found.platform}'s")
    if found.state_class and found.state_class not in STATE_CLASSES:
        known = ", ".join(sorted(STATE_CLASSES))
        raise values.error("state_class", f"{found.state_class!r}: write one of {known}")
    if found.platform == "binary_sensor" and (found.unit or found.state_class):
        raise values.error("unit", "a binary sensor has neither unit nor state_class")
    if found.unit and found.device_class in _WITHOUT_UNIT:
        raise values.error("unit", f"device_class {found.device_class!r} has no unit")
    if found.state_class and found.device_class in _NO_STATE_CLASS:
        raise values.error("state_class", f"device_class {found.device_class!r} has none")
    if found.icon and not found.icon.partition(":")[2]:
        raise values.error("icon", f'{found.icon!r}: write it as "mdi:thermometer"')
