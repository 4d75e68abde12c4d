"""What the web needs of a running back-end; app.Backend is one. web imports no store."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from fleetnet_server.config import Settings
from fleetnet_server.core.audit_ports import AuditLog
from fleetnet_server.core.blobs import Blobs
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.events import Events
from fleetnet_server.core.histogram import Histogram
from fleetnet_server.core.live import LiveReadings
from fleetnet_server.core.presence import Presence
from fleetnet_server.core.router import Router
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.core.taps import ReadingsTap
from fleetnet_server.identity.expiry import Expiry
from fleetnet_server.identity.policy import PolicyFile
from fleetnet_server.identity.registry import Device

Row = dict[str, Any]
Page = tuple[list[Row], list[Any] | None]
P = ParamSpec("P")
Result = TypeVar("Result")


class Holder(Protocol):
    """A token that was shown (store/tokens.py)."""

    @property
    def name(self) -> str: ...

    @property
    def scopes(self) -> frozenset[str]: ...

    @property
    def used_ms(self) -> int | None: ...

    @property
    def actor(self) -> str: ...


class Tokens(Protocol):
    """The table of tokens (store/tokens.py)."""

    def find(self, token: str) -> Holder | None: ...

    def note_used(self, name: str) -> None: ...


class Registry(Protocol):
    """What changes devices (store/registry.py); each commits, on a thread."""

    def last_message_ms(self, device_id: int) -> int | None: ...

    def credential(self, device_id: int) -> str: ...

    def set_enabled(self, name: str, enabled: bool, actor: str = ...) -> None: ...

    def change(
        self, name: str, actor: str = ..., group: str | None = ...,
        labels: Mapping[str, str] | None = ..., without: tuple[str, ...] = ...,
    ) -> Device: ...  # fmt: skip

    def revoke(self, name: str, reason: str = ..., actor: str = ...) -> list[str]: ...

    def remove(self, name: str, actor: str = ...) -> None: ...


class History(Protocol):
    """What a page about a device shows of its past (store/history.py)."""

    def curves(self, device: str, start_ms: int, end_ms: int, points: int) -> Row: ...

    def alarms(self, device: str | None, before: list[int] | None, limit: int) -> Page: ...

    def log(self, device: str, before: list[int] | None, limit: int) -> Page: ...


class Listed(Protocol):
    """One device of all (store/overview.py)."""

    @property
    def id(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def labels(self) -> dict[str, str]: ...

    @property
    def created_ms(self) -> int: ...

    @property
    def expires_ms(self) -> int | None: ...

    @property
    def level(self) -> str: ...


class Overview(Protocol):
    """All devices at once (store/overview.py)."""

    def devices(self) -> Sequence[Listed]: ...

    def last_ms(self, device_id: int) -> int | None: ...


class Access(Protocol):
    """Tokens, claims, new identities (store/access.py); each call commits, on a thread."""

    def add_device(self, name: str, actor: str) -> None: ...

    def claim(self, name: str, expires_ms: int, actor: str) -> str: ...

    def claims(self) -> list[Row]: ...

    def renew(self, device: Device, actor: str) -> None: ...

    def tokens(self) -> list[Row]: ...

    def add_token(
        self, name: str, scopes: list[str], actor: str, expires_ms: int | None
    ) -> str: ...

    def revoke_token(self, name: str, actor: str) -> None: ...


class Views(Protocol):
    """Pages of the store, to be called through ``run`` (store/views.py)."""

    @property
    def history(self) -> History: ...

    @property
    def overview(self) -> Overview: ...

    @property
    def access(self) -> Access: ...

    @property
    def registry(self) -> Registry: ...

    async def run(
        self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result: ...

    def device(self, name: str) -> Device | None: ...

    def devices(
        self, after: str = ..., limit: int = ..., *, group: str | None = ...,
        state: str | None = ..., labels: list[tuple[str, str]] = ...,
        is_wanted: Callable[[str], bool] | None = ...,
    ) -> Page: ...  # fmt: skip

    def device_row(self, name: str) -> Row | None: ...

    def certificates(self, device_id: int) -> list[Row]: ...

    def identities(self, device_id: int) -> list[Row]: ...

    def device_states(self) -> dict[str, int]: ...

    def expiries(self) -> list[Expiry]: ...

    def readings(
        self, device: str | None, channel: str | None, start_ms: int, end_ms: int, limit: int,
        after: tuple[int, int] | None = ...,
    ) -> Page: ...  # fmt: skip

    def summaries(
        self, device: str, channel: str, start_ms: int, end_ms: int, step_ms: int, limit: int
    ) -> Page: ...

    def commands(self, device: str | None, before: int | None, limit: int) -> Page: ...

    def command(self, command_id: str) -> Row | None: ...

    def blobs(
        self, device: str | None, name: str | None, before: int | None, limit: int
    ) -> Page: ...

    def blob(self, blob_id: int) -> tuple[Row, Path] | None: ...

    def latest_frame(self, device_id: int) -> tuple[Row, Path] | None: ...

    def audit(
        self, device: str | None, action: str | None, before: int | None, limit: int
    ) -> Page: ...


class Commits(Protocol):
    """The writer's counters (store/writer.py)."""

    @property
    def backlog(self) -> int: ...

    @property
    def is_available(self) -> bool: ...

    @property
    def took(self) -> Histogram: ...


class Door(Protocol):
    """Places for handshakes at one listener (net/admission.py)."""

    limited: int
    overloaded: int
    displaced: int

    def __len__(self) -> int: ...


class Listeners(Protocol):
    """The ports of devices (listeners.py)."""

    @property
    def doors(self) -> Mapping[str, Door]: ...


class BridgeCounters(Protocol):
    """What a bridge counts (bridge/counters.py)."""

    readings: int
    connections: int

    @property
    def sent(self) -> Mapping[str, int]: ...

    @property
    def dropped(self) -> Mapping[str, int]: ...

    @property
    def requests(self) -> Mapping[str, int]: ...


class Bridge(Protocol):
    """The bridge to MQTT (bridge/mqtt.py)."""

    is_connected: bool

    @property
    def counters(self) -> BridgeCounters: ...

    @property
    def behind(self) -> int: ...


class WorkerState(Protocol):
    """One worker of `fleetnet serve --workers` (workers/mirrors.py)."""

    @property
    def is_up(self) -> bool: ...

    @property
    def sessions(self) -> int: ...

    @property
    def received(self) -> int: ...

    @property
    def cpu_s(self) -> float: ...

    @property
    def restarts(self) -> int: ...


class Workers(Protocol):
    """All workers (workers/mirrors.py)."""

    restarts: list[int]
    audit_lost: int

    def states(self) -> Sequence[WorkerState]: ...


class Node(Protocol):
    """This server among several at one database (node.py)."""

    name: str

    @property
    def alive(self) -> int: ...

    @property
    def lag_s(self) -> float: ...

    def leads(self) -> bool: ...


class AuditCounter(AuditLog, Protocol):
    """The audit log, with the rows that found no room."""

    lost: int


class Running(Protocol):
    """A running back-end (app.py)."""

    folder: Path
    settings: Settings
    tls_port: int
    dtls_port: int
    is_draining: bool
    policy: PolicyFile

    @property
    def audit(self) -> AuditCounter: ...

    @property
    def writer(self) -> Commits: ...

    @property
    def tokens(self) -> Tokens: ...

    @property
    def views(self) -> Views: ...

    @property
    def listeners(self) -> Listeners: ...

    @property
    def bridge(self) -> Bridge | None: ...

    @property
    def workers(self) -> Workers | None: ...

    @property
    def node(self) -> Node | None: ...

    commands: Commands
    configs: Configs
    blobs: Blobs
    live: LiveReadings
    events: Events
    tap: ReadingsTap
    presence: Presence
    sessions: Sessions
    router: Router

    def revoked(self) -> None:
        """Have the revocation lists written."""

    async def reload(self) -> bool: ...
