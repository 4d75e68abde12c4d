"""What the bridge to MQTT does: FOLDER/mqtt.toml. Without the file there is no bridge.

    [broker]
    host = "mqtt.example.org"
    port = 8883
    user = "fleetnet"
    password_file = "mqtt-password"     # below the folder, readable by its owner alone
    [broker.tls]
    ca = "broker-ca.pem"                # left out: the authorities that the system trusts
    [readings]
    mode = "single"                     # one message a reading; "batch": one a message
    topic = "fleetnet/{device}/{channel}"

Every key and its default is in docs/mqtt.md. A misspelt key is an error.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fleetnet_server.bridge import topics
from fleetnet_server.bridge.discovery_settings import Discovery, read_discovery
from fleetnet_server.bridge.reading import Section
from fleetnet_server.bridge.topics import Template
from fleetnet_server.errors import ConfigError

FILE_NAME = "mqtt.toml"
BATCH, SINGLE = "batch", "single"

# Some thousand channels of Home Assistant's section; a larger file is another one.
_MAX_FILE = 1 << 20
_SECTIONS = (
    "broker", "readings", "events", "presence", "state", "frames", "commands", "config",
    "home_assistant",
)  # fmt: skip
_DAY_S = 86_400.0


class Tls(NamedTuple):
    """Paths, None: not given. ``psk``: identity and the file with the key in hexadecimal."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    psk: tuple[str, Path] | None = None


class Broker(NamedTuple):
    """Whom to connect to.

    Attributes:
        name: client identifier, and the name of the bridge's place in the store.
        keepalive_s: of the connection. in_flight: messages without an answer; a broker that
            takes fewer says so. window: messages that a crash may repeat.
        max_backoff_s: between two attempts, at most.
    """

    host: str
    port: int
    name: str = "fleetnet"
    user: str | None = None
    password_file: Path | None = None
    tls: Tls | None = None
    keepalive_s: int = 30
    in_flight: int = 100
    window: int = 1000
    max_backoff_s: float = 60.0


class Output(NamedTuple):
    """Messages of one sort that go out; ``expiry_s`` None: a broker may keep them for ever."""

    is_on: bool
    topic: Template
    qos: int = 1
    retain: bool = False
    expiry_s: int | None = None


class Readings(NamedTuple):
    """Readings; ``out`` is their Output.

    Attributes:
        mode: BATCH or SINGLE. is_plain: SINGLE sends the value and nothing else.
        devices, channels, groups: patterns of what goes out.
        keep_s: what the broker did not take for so long is dropped.
    """

    out: Output
    mode: str = BATCH
    is_plain: bool = False
    devices: tuple[str, ...] = ("*",)
    channels: tuple[str, ...] = ("*",)
    groups: tuple[str, ...] = ("*",)
    keep_s: float = 7 * _DAY_S


class Frames(NamedTuple):
    """Newest images; ``max_bytes`` of one."""

    out: Output
    max_bytes: int = 1 << 20


class State(NamedTuple):
    """The newest value of each channel of a device; ``every_s``: between two of one device."""

    out: Output
    every_s: float = 1.0


class Inbound(NamedTuple):
    """Requests that come in.

    Attributes:
        reply: where answers go when the request names no response topic.
        responses: filters of the response topics that a request may name.
        timeout_s: of a request that has no expiry.
    """

    is_on: bool
    topic: Template
    reply: Template
    responses: tuple[str, ...] = ()
    timeout_s: float = 10.0


class Mqtt(NamedTuple):
    """The whole file."""

    broker: Broker
    status: Template
    readings: Readings
    events: Output
    presence: Output
    state: State
    frames: Frames
    commands: Inbound
    config: Inbound
    discovery: Discovery


def load_mqtt(folder: str | Path) -> Mqtt | None:
    """Read FOLDER/mqtt.toml; None: there is none.

    Raises:
        ConfigError: not TOML, an unknown key, or a wrong value; names file and key.
    """
    path = Path(folder) / FILE_NAME
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE + 1)
        if len(text) > _MAX_FILE:
            raise ConfigError(f"{path} is larger than 1 MiB: is it the right file?")
        document = tomllib.loads(text.decode())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    _check_sections(path, document)

    def section(name: str) -> Section:
        return Section(path, name, document.get(name, {}))

    return _mqtt(Path(folder), section)


def _check_sections(path: Path, document: Mapping[str, Any]) -> None:
    for name in document:
        if name not in _SECTIONS:
            near = difflib.get_close_matches(name.lower(), _SECTIONS, n=1, cutoff=0.5)
            hint = f"did you mean [{near[0]}]?" if near else f"there are {', '.join(_SECTIONS)}"
            raise ConfigError(f"{path}: unknown section {name!r}; {hint}")
    if "broker" not in document:
        raise ConfigError(f"{path}: write [broker] with host = \"...\"")


def _mqtt(folder: Path, section: Callable[[str], Section]) -> Mqtt:
    presence = section("presence")
    status = presence.template("status", "fleetnet/_bridge/status", (), ())
    found = Mqtt(
        broker=_broker(folder, section("broker")),
        status=status,
        readings=_readings(section("readings")),
        events=_output(
            section("events"), "fleetnet/{device}/event/{kind}", ("device", "kind"), True
        ),
        presence=_output(presence, "fleetnet/{device}/presence", ("device",), True, retain=True),
        state=_state(section("state")),
        frames=_frames(section("frames")),
        commands=_inbound(
            section("commands"), ("device", "command"),
            "fleetnet/{device}/command/{command}", "fleetnet/{device}/reply/{command}",
        ),
        config=_inbound(
            section("config"), ("device",),
            "fleetnet/{device}/config/set", "fleetnet/{device}/reply/config",
        ),
        discovery=read_discovery(section("home_assistant")),
    )  # fmt: skip
    _check_together(found, section("home_assistant"))
    return found


def _check_together(found: Mqtt, where: Section) -> None:
    if found.discovery.is_on and not (found.state.out.is_on and found.presence.is_on):
        raise where.error("enabled", "discovery refers to the topics of [state] and [presence]: "
                          "enable these two")  # fmt: skip
    filters = [one.topic.filter for one in (found.commands, found.config) if one.is_on]
    outputs = [found.readings.out, found.events, found.presence, found.state.out, found.frames.out]
    for out in outputs:
        topic = out.topic.filter.replace("+", "x")
        if out.is_on and any(topics.matches(one, topic) for one in filters):
            raise where.error(
                "topic", f"{out.topic.text!r} goes out and would come in again as a request: "
                "give one of the two another topic",
            )  # fmt: skip


def _broker(folder: Path, values: Section) -> Broker:
    tls_values = values.section("tls")
    tls = None
    if tls_values is not None:
        tls = _tls(folder, tls_values)
    password = values.text("password_file", "")
    user = values.text("user", "")
    if password and not user:
        raise values.error("password_file", "a password needs a user beside it")
    found = Broker(
        host=values.text("host"),
        port=values.whole("port", 1883 if tls is None else 8883, 1, 65535),
        name=values.text("name", "fleetnet", most=64),
        user=user or None,
        password_file=folder / password if password else None,
        tls=tls,
        keepalive_s=values.whole("keepalive_s", 30, 5, 3600),
        in_flight=values.whole("in_flight", 100, 1, 1000),
        window=values.whole("window", 1000, 1, 100_000),
        max_backoff_s=values.number("max_backoff_s", 60.0, 0.05, 3600),
    )
    values.finish()
    return found


def _tls(folder: Path, values: Section) -> Tls:
    names = {key: values.text(key, "") for key in ("ca", "cert", "key", "psk_file")}
    paths = {key: folder / name if name else None for key, name in names.items()}
    identity = values.text("psk_identity", "")
    values.finish()
    if bool(paths["cert"]) != bool(paths["key"]):
        raise values.error("cert", "cert and key are given together")
    if bool(identity) != bool(paths["psk_file"]):
        raise values.error("psk_identity", "psk_identity and psk_file are given together")
    key_file = paths["psk_file"]
    if key_file is None:
        return Tls(paths["ca"], paths["cert"], paths["key"])
    if paths["ca"] or paths["cert"]:
        raise values.error("psk_identity", "a pre-shared key takes the place of certificates")
    return Tls(psk=(identity, key_file))


def _output(
    values: Section, topic: str, fields: tuple[str, ...], is_on: bool, retain: bool = False
) -> Output:
    found = _take_output(values, topic, fields, fields, is_on, retain)
    values.finish()
    return found


def _take_output(
    values: Section, topic: str, needed: tuple[str, ...], known: tuple[str, ...], is_on: bool,
    retain: bool,
) -> Output:  # fmt: skip
    expiry = values.age("expiry", None)
    return Output(
        values.flag("enabled", is_on),
        values.template("topic", topic, needed, known),
        values.whole("qos", 1, 0, 1),
        values.flag("retain", retain),
        None if expiry is None else max(1, round(expiry)),
    )


def _readings(values: Section) -> Readings:
    mode = values.choice("mode", BATCH, (BATCH, SINGLE))
    fields: tuple[str, ...] = ("device",) if mode == BATCH else ("device", "channel")
    topic = "fleetnet/{device}/readings" if mode == BATCH else "fleetnet/{device}/reading/{channel}"
    payload = values.choice("payload", "json", ("json", "value"))
    if payload == "value" and mode == BATCH:
        raise values.error("payload", '"value" needs mode = "single"')
    found = Readings(
        _take_output(values, topic, fields, ("group", *fields), True, False),
        mode,
        payload == "value",
        values.names("devices"),
        values.names("channels"),
        values.names("groups"),
        values.age("keep", 7 * _DAY_S) or 0.0,
    )
    values.finish()
    return found


def _state(values: Section) -> State:
    every = values.number("every_s", 1.0, 0.05, 3600)
    out = _output(values, "fleetnet/{device}/state", ("device",), False, retain=True)
    return State(out, every)


def _frames(values: Section) -> Frames:
    most = values.size("max", 1 << 20)
    return Frames(_output(values, "fleetnet/{device}/frame", ("device",), False, True), most)


def _inbound(values: Section, fields: tuple[str, ...], topic: str, reply: str) -> Inbound:
    found = Inbound(
        values.flag("enabled", False),
        topics.parse_levels(values.place("topic"), values.text("topic", topic), fields, fields),
        values.template("reply", reply, ("device",), fields),
        values.names("responses", ("fleetnet/+/reply/#", "reply/#")),
        values.number("timeout_s", 10.0, 1, 3600),
    )
    values.finish()
    return found
