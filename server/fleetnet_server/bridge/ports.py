"""What the bridge needs of a running back-end (app.Backend) and of the store; injected by app."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from fleetnet_server.core.audit_ports import AuditLog
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.events import Events
from fleetnet_server.core.presence import Presence
from fleetnet_server.identity.policy import PolicyFile
from fleetnet_server.identity.registry import Device

P = ParamSpec("P")
Result = TypeVar("Result")


class Row(Protocol):
    """One message (store/outbox.py)."""

    @property
    def id(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def kind(self) -> int: ...
    @property
    def t0(self) -> int | None: ...
    @property
    def received(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def epoch(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def body(self) -> str: ...


class Outbox(Protocol):
    """The messages of the store and a place among them (store/outbox.py)."""

    def start(self, keep_ms: int) -> tuple[int, int]: ...

    def move(self, message: int, keep_ms: int, sent: int, dropped: int) -> None: ...

    def read(self, after: int, limit: int) -> tuple[int, Sequence[Row]]: ...

    def behind(self, message: int) -> int: ...

    def channels(self) -> Mapping[str, Sequence[str]]: ...

    def close(self) -> None: ...


class Registry(Protocol):
    """The devices (store/sqlite.py)."""

    def lookup(self, name: str) -> Device | None: ...


class Named(Protocol):
    """One device of all."""

    @property
    def name(self) -> str: ...


class Overview(Protocol):
    """All devices at once (store/overview.py)."""

    def devices(self) -> Sequence[Named]: ...


class Views(Protocol):
    """What is read beside the event loop (store/views.py)."""

    @property
    def overview(self) -> Overview: ...

    async def run(
        self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result: ...

    def latest_frame(self, device_id: int) -> tuple[Mapping[str, Any], Path] | None: ...


class Running(Protocol):
    """A running back-end (app.py)."""

    folder: Path
    policy: PolicyFile
    commands: Commands
    configs: Configs
    events: Events
    presence: Presence

    @property
    def audit(self) -> AuditLog: ...

    @property
    def store(self) -> Registry: ...

    @property
    def views(self) -> Views: ...
