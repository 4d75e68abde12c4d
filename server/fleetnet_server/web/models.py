"""The documents of the API, as OpenAPI shows them; times are unix ms."""

from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from fleetnet_server.identity.names import MAX_NAME

Item = TypeVar("Item")

# What a JSON number carries exactly; the store's own bound of times.
MOST_MS = 1 << 53

NAME = r"^[a-z0-9][a-z0-9._-]*$"
DeviceName = Annotated[str, Path(pattern=NAME, max_length=MAX_NAME, description="the device")]
DeviceFilter = Annotated[
    str | None, Query(pattern=NAME, max_length=MAX_NAME, description="only this device")
]
TextFilter = Annotated[str | None, Query(min_length=1, max_length=64)]
Milliseconds = Annotated[int | None, Query(ge=0, le=MOST_MS, description="unix ms")]


class Document(BaseModel):
    """A document whose fields are all known."""

    model_config = ConfigDict(extra="forbid")


class Page(Document, Generic[Item]):
    """Rows, and the cursor of the next page; null: this was the last."""

    items: list[Item]
    next: str | None


class Connection(Document):
    """What the running server knows of a device's session."""

    state: str = Field(description="online or offline")
    link: str = Field(description="tls, dtls, hub, or empty")
    address: str
    since_ms: int | None
    last_seen_ms: int | None
    ended: str = Field(description="why the last session ended")
    software: str
    boot: int
    identity: int
    is_quarantined: bool
    sessions: int
    messages: int = Field(description="stored since the server's start")
    duplicates: int
    lost: int = Field(description="messages that the device gave up")
    lag_ms: int | None = Field(description="age of the newest reading when it arrived")
    via: str = Field(description="the hub that it came through, or empty")
    node: str = Field("", description="which of several servers has it, or empty")


class Device(Document):
    """A registered device."""

    id: int
    name: str
    state: str = Field(description="enabled, disabled or quarantined")
    group: str
    labels: dict[str, str]
    created_ms: int
    expires_ms: int | None
    last_message_ms: int | None
    credential: str = Field(description="valid, expired, revoked or none")
    connection: Connection


class Listed(Device):
    """A device as the overview lists it."""

    status: str = Field(description="online, offline, disabled or quarantined")
    expires_level: str = Field(description="ok, soon, urgent or expired; empty: no certificate")
    last_seen_ms: int | None = Field(description="its last bytes, or its newest stored message")


class Counts(Document):
    """How many devices there are, whatever is filtered."""

    all: int
    online: int
    offline: int
    disabled: int
    quarantined: int
    expiring: int = Field(description="their certificate ends soon, or has ended")


class Overview(Document):
    """A part of the devices, and how many there are."""

    at_ms: int
    counts: Counts
    total: int = Field(description="devices that the filter lets through")
    offset: int
    items: list[Listed]


class Certificate(Document):
    """A certificate of a device."""

    serial: str
    issued_ms: int
    not_after_ms: int
    revoked_ms: int | None
    reason: str | None
    key_made: str
    generation: int


class Identity(Document):
    """One identity of a device, as rotation made it."""

    number: int
    serial: str | None
    state: str
    reason: str | None
    tries: int
    offered_ms: int
    ended_ms: int | None


class Identities(Document):
    """Certificates and identities of a device, the newest first."""

    certificates: list[Certificate]
    identities: list[Identity]


class Expiry(Document):
    """When a certificate ends."""

    kind: str = Field(description="device, server or ca")
    name: str
    not_after_ms: int
    level: str = Field(description="ok, soon, urgent or expired")


class DeviceChange(Document):
    """What to change; what is left out stays."""

    group: str | None = Field(None, max_length=64)
    labels: dict[str, str] = Field(default={}, max_length=64, description="to write")
    without: list[str] = Field(default=[], max_length=64, description="keys of labels to take away")


class Revoked(Document):
    """Serial numbers of certificates and identities of keys that are refused from now on."""

    name: str
    revoked: list[str]


class Reading(Document):
    """One stored reading; stream, epoch and seq are the key of its message."""

    device: str
    channel: str
    unix_ms: int
    value: Any
    stream: int
    epoch: str
    seq: int


class Summary(Document):
    """The numbers of a channel from `unix_ms` on, for one step."""

    unix_ms: int
    count: int
    low: float
    high: float
    mean: float


class Curve(Document):
    """A channel: its newest value, and its numbers by time."""

    name: str
    count: int
    unix_ms: int
    value: Any = Field(description="the newest; of what is only summed up, the newest mean")
    points: list[tuple[float, float, float, float]] = Field(
        description="unix ms, lowest, mean and highest number"
    )


class Curves(Document):
    """The channels of a device, summed up."""

    device: str
    start_ms: int
    end_ms: int
    step_ms: int
    is_complete: bool = Field(description="false: no time for all; the newest are missing")
    channels_left_out: int
    channels: list[Curve]


class Alarm(Document):
    """What a device reported as an event."""

    device: str
    name: str
    unix_ms: int | None
    value: Any


class LogLine(Document):
    """A line of a device's log."""

    unix_ms: int | None
    level: str
    text: str


class LiveReading(Document):
    """The newest best-effort reading of a channel; it is not stored."""

    channel: str
    unix_ms: int
    value: Any


class Live(Document):
    """The newest best-effort readings of a device that is online."""

    device: str
    readings: list[LiveReading]


class Failure(Document):
    """What a device's handler raised."""

    type: Any
    message: Any


class Command(Document):
    """A command, and how it stands."""

    id: str
    device: str
    name: str
    args: dict[str, Any] | list[Any]
    state: str = Field(description="queued, sent, ok, error, unknown, expired or lost")
    created_ms: int
    expires_ms: int
    ended_ms: int | None
    result: Any
    error: Failure | None
    issuer: str


class Call(Document):
    """A command to be run."""

    name: str = Field(min_length=1, max_length=64)
    args: dict[str, Any] | list[Any] = Field(default=[], description="by name, or by position")
    wait_s: float = Field(10.0, ge=0, le=60, description="wait so long for the result")
    expires_s: float | None = Field(
        None, gt=0, le=30 * 86_400,
        description="keep it so long for a device that is away; null: only while it is waited for",
    )  # fmt: skip


class ConfigDocument(Document):
    """The configuration that a device should have."""

    document: dict[str, Any]


class ConfigVersion(Document):
    """The version of a document that was set."""

    device: str
    version: int


class Config(Document):
    """A device's configuration, and what it says of it."""

    device: str
    version: int
    document: dict[str, Any]
    state_version: int | None
    state: str | None
    reported: Any
    set_ms: int
    state_ms: int | None


class Blob(Document):
    """A file or frame of a device."""

    id: int
    device: str
    name: str
    content_format: int = Field(description="IANA CoAP content format")
    size: int
    sha256: str
    time_ms: int | None
    received_ms: int


class AuditEntry(Document):
    """Who decided what."""

    id: int
    at_ms: int
    actor: str
    action: str
    device: str | None
    detail: dict[str, Any]


class Server(Document):
    """The running server; counters since its start."""

    version: str
    started_ms: int
    tls_port: int
    dtls_port: int
    is_ready: bool
    problems: list[str]
    online: dict[str, int] = Field(description="sessions by link")
    devices: dict[str, int] = Field(description="registered devices by state")
    received: int
    stored: int
    duplicates: int
    problem_messages: int
    lost: int
    backlog: int
    subscribers: int


class Health(Document):
    """Whether the process is alive, or can do its work."""

    status: str
    problems: list[str] = []


class Reloaded(Document):
    """Whether new connections get what the files say."""

    reloaded: bool


class Session(Document):
    """The token of a cookie."""

    name: str
    scopes: list[str]


class Login(Document):
    """A token, to be kept in a cookie by a browser."""

    token: str = Field(min_length=1, max_length=100)
