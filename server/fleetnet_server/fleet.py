"""The Python API: a back-end inside a program of one's own. docs/python-api.md.

    async with Fleet("fleet") as fleet:
        await fleet.device("cam-01").call("set_exposure", us=5000)
        async for reading in fleet.readings(device="cam-*", channel="temp"):
            print(reading.device, reading.unix_ms, reading.value)

It sets no signal handler and configures no logging: both are the program's.
"""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, TypeVar, overload

import structlog
from pydantic import TypeAdapter, ValidationError
from structlog.typing import EventDict

from fleetnet_server.app import Backend
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.core.events import Subscription
from fleetnet_server.errors import ConfigError, FleetNotRunning, unknown_device
from fleetnet_server.feeds import LiveFeed, Readings, patterns
from fleetnet_server.fleet_device import FleetDevice
from fleetnet_server.handlers import Function, Handler, Handlers
from fleetnet_server.store.query import Reading
from fleetnet_server.store.selection import Selection, matches, select

Names = str | tuple[str, ...] | list[str] | None
_Function = TypeVar("_Function", bound=Function)

# What a record of the standard library has by itself; the last three structlog hands on as such.
_TAKEN = {*vars(logging.makeLogRecord({})), "message", "asctime"} - {
    "exc_info", "stack_info", "stacklevel",
}  # fmt: skip

# Rows in one read: some 200 KB.
_PAGE = 500


class Fleet:
    """A running back-end: ``async with Fleet(folder) as fleet``.

    Args:
        folder: the fleet's folder, made by `fleetnet init`; or Settings of the fleet in ./fleet.
        settings: None: FOLDER/fleetnet.toml and the environment.
        changes: settings that win over both, as ``tls_port=0``.

    Raises:
        ConfigError: an unknown or wrong setting. On entry also what Backend raises: another
            server has the folder (FolderError), a port is in use (OSError) and so on.

    Attributes:
        folder, settings: as they are in force.
        handlers: one for each function of ``on_reading``, with its counters.
    """

    def __init__(
        self,
        folder: str | Path | Settings = "fleet",
        settings: Settings | None = None,
        **changes: Any,
    ):
        if isinstance(folder, Settings):
            settings, folder = folder, "fleet"
        self.folder = Path(folder)
        self.settings = _changed(settings or load_settings(self.folder), changes)
        self._handlers = Handlers()
        self._backend: Backend | None = None
        # Weak: who leaves an `async for` by break has ended its feed.
        self._feeds: weakref.WeakSet[Readings | LiveFeed] = weakref.WeakSet()

    async def __aenter__(self) -> "Fleet":
        _route_logs()
        self._backend = await Backend(self.folder, self.settings).__aenter__()
        self._handlers.start(self._feed)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        backend = self.backend
        try:
            await self._handlers.stop()
            for feed in list(self._feeds):
                await feed.aclose()
        finally:
            self._backend = None
            await backend.stop()

    @property
    def backend(self) -> Backend:
        """What is below this: commands, policy, audit log, sessions. Raises FleetNotRunning."""
        if self._backend is None:
            raise FleetNotRunning("the fleet does not run: use `async with Fleet(...) as fleet`")
        return self._backend

    @property
    def handlers(self) -> list[Handler]:
        """See the class."""
        return list(self._handlers.all)

    # -- devices -----------------------------------------------------------------------

    def device(self, name: str) -> FleetDevice:
        """Return a device of the fleet, connected or not. Raises StoreError: not registered."""
        if self.backend.store.lookup(name) is None:
            raise unknown_device(name)
        return FleetDevice(self.backend, name)

    def devices(self, pattern: str = "*") -> list[FleetDevice]:
        """Return the registered devices that a pattern names, by name."""
        names = sorted(one.name for one in self.backend.store.devices())
        return [FleetDevice(self.backend, name) for name in names if matches(name, (pattern,))]

    # -- readings ----------------------------------------------------------------------

    @overload
    def readings(self, device: Names = ..., channel: Names = ...) -> Readings: ...

    @overload
    def readings(
        self, device: Names = ..., channel: Names = ..., *, live: bool
    ) -> Readings | LiveFeed: ...

    def readings(
        self, device: Names = None, channel: Names = None, *, live: bool = False
    ) -> Readings | LiveFeed:
        """Return an endless asynchronous iterator over readings, from this call on.

        Args:
            device, channel: a name, a pattern ("cam-*"), several, or None for all.
            live: False: stored ones, each once it is durable; none is lost, however slow the
                reader: 2,000,000 messages behind it hears StoreError. True: best-effort ones at
                once; a slow reader loses the oldest.
        """
        feed = self._make_feed(patterns(device), patterns(channel), live)
        self._feeds.add(feed)
        return feed

    async def query(
        self,
        device: Names = None,
        channel: Names = None,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Reading]:
        """Yield stored readings in order of time, as `fleetnet query`; it streams.

        Args:
            since_ms, until_ms: unix ms; from the first on, before the second.

        Raises:
            StoreError: a name, or every pattern, fits no device. StoreUnavailable.
        """
        wanted = Selection(patterns(device), patterns(channel), since_ms, until_ms)
        found = select(self.settings.store_place(self.folder), wanted, limit)
        try:
            while page := await asyncio.to_thread(_take, found):
                for reading in page:
                    yield reading
        finally:
            if isinstance(found, Generator):
                # Cancelled, its thread may still be at it; it ends with its last reference.
                with contextlib.suppress(ValueError):
                    found.close()

    @overload
    def on_reading(self, function: _Function) -> _Function: ...

    @overload
    def on_reading(
        self, function: None = ..., *, device: Names = ..., channel: Names = ..., live: bool = ...
    ) -> Callable[[_Function], _Function]: ...

    def on_reading(
        self,
        function: _Function | None = None,
        *,
        device: Names = None,
        channel: Names = None,
        live: bool = False,
    ) -> Any:
        """Call a function with each reading; a decorator, before or after the entry.

        A coroutine function is awaited, any other runs in a thread of its own. Each has a queue
        of 1,024 readings: one that is slower loses the oldest of them, one that raises is
        counted, and no other notices. See ``handlers``.
        """

        def add(function: _Function) -> _Function:
            handler = Handler(function, patterns(device), patterns(channel), live)
            self._handlers.add(handler)
            return function

        return add if function is None else add(function)

    def events(
        self, kinds: Collection[str] | None = None, device: str | None = None
    ) -> Subscription:
        """Return an asynchronous iterator over what happens from now on; ``close`` ends it.

        Args:
            kinds: of core/events.py's KINDS, as "alarm"; None: all but single readings.
            device: only what concerns this one.
        """
        return self.backend.events.subscribe(kinds, device)

    def _feed(self, live: bool) -> Readings | LiveFeed:
        return self._make_feed((), (), live)

    def _make_feed(
        self, devices: tuple[str, ...], channels: tuple[str, ...], live: bool
    ) -> Readings | LiveFeed:
        backend = self.backend
        if live:
            return LiveFeed(backend.live, devices, channels)
        path = self.settings.store_place(self.folder)
        return Readings(path, newest_message(backend), devices, channels, backend.followers)


def newest_message(backend: Backend) -> int:
    """Return the place of the newest message in the store, 0 before the first."""
    place = backend.settings.store_place(backend.folder)
    if isinstance(place, Path):
        ((newest,),) = backend.store.read("SELECT coalesce(max(id), 0) FROM messages")
        return int(newest)
    from fleetnet_server.store.postgres.following import newest_soon

    return newest_soon(place)


def _take(found: Iterator[Reading]) -> list[Reading]:
    page = []
    for reading in found:
        page.append(reading)
        if len(page) == _PAGE:
            break
    return page


def _changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    """Return settings with some replaced, each checked as in the file. Raises ConfigError."""
    values: dict[str, Any] = {}
    for key, value in changes.items():
        field = Settings.model_fields.get(key)
        if field is None:
            raise ConfigError(f"no setting is called {key!r}: see docs/server.md")
        try:
            kind: Any = Annotated[field.annotation, field]
            values[key] = TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"{key}: {error.errors()[0]['msg']}, not {value!r}") from None
    return settings.model_copy(update=values)


def _route_logs() -> None:
    """Let structlog's lines go where the standard library's go.

    Unless told otherwise structlog prints to standard output, which is the program's. A program
    that has configured structlog, before or later, has its own way.
    """
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                _with_free_names,
                structlog.stdlib.render_to_log_kwargs,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )


def _with_free_names(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Let logging have its names: it raises KeyError for a detail that is called as one of them."""
    return {f"{key}_" if key in _TAKEN else key: value for key, value in event.items()}
