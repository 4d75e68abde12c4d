"""One device of a fleet, as the Python API shows it."""

import asyncio
from typing import Any, NamedTuple

from fleetnet_server.app import Backend
from fleetnet_server.core.configs import Config
from fleetnet_server.core.live import LiveReading
from fleetnet_server.errors import DeviceOffline, StoreError
from fleetnet_server.store.blobs import list_blobs

# IANA CoAP content formats of pictures: JPEG, PNG (RFC 7252 section 12.3 and its registry).
_PICTURES = (22, 23)
_LOOKED_AT = 200


class Frame(NamedTuple):
    """A picture that a device sent.

    Attributes:
        name: of the blob. content_format: 22 for JPEG, 23 for PNG.
        unix_ms: when it was taken, None while its device has no date.
        received_ms: when it was complete. sha256: hexadecimal. data: the file.
    """

    device: str
    name: str
    content_format: int
    unix_ms: int | None
    received_ms: int
    sha256: str
    data: bytes


class FleetDevice:
    """A registered device; made by ``Fleet.device``.

    Attributes:
        name: as in its certificate.
    """

    def __init__(self, backend: Backend, name: str):
        self._backend = backend
        self.name = name

    def __repr__(self) -> str:
        return f"FleetDevice({self.name!r})"

    @property
    def is_online(self) -> bool:
        """Has it a session now?"""
        found = self._backend.store.lookup(self.name)
        peer = None if found is None else self._backend.sessions.live.get(found.id)
        return peer is not None and peer.is_open

    async def online(self, timeout_s: float = 60.0) -> None:
        """Return when it has a session. Raises DeviceOffline when it gets none in time."""
        happened = self._backend.events.subscribe(("session-opened",), self.name)
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_online:
                    await anext(happened)
        except TimeoutError:
            raise DeviceOffline(f"device {self.name!r} did not come in {timeout_s:g} s") from None
        except StopAsyncIteration:
            raise DeviceOffline(f"the server ended before {self.name!r} came") from None
        finally:
            happened.close()

    @property
    def latest(self) -> dict[str, LiveReading]:
        """The newest best-effort reading of each channel; empty while it is not connected."""
        return self._backend.live.latest(self.name)

    async def call(
        self, name: str, /, *args: Any, timeout_s: float = 10.0, **by_name: Any
    ) -> Any:
        """Run a command on it and return what its handler returned.

        Arguments go by position or by name, not both: ``call("set_exposure", us=5000)``.

        Args:
            timeout_s: the device does not begin it later, and stops it then.

        Raises:
            DeviceOffline, CommandTimeout, CommandUnknown, NotAllowed,
            CommandFailed (its handler raised).
            ValueError: no JSON, or above 16 KiB. StoreUnavailable: it was not sent.
        """
        arguments = _arguments(args, by_name)
        return await self._backend.commands.call(self.name, name, arguments, timeout_s)

    async def queue(
        self, name: str, /, *args: Any, expires_s: float = 3600.0, **by_name: Any
    ) -> str:
        """Keep a command until the device takes it; return its id. Raises as ``call``."""
        arguments = _arguments(args, by_name)
        return await self._backend.commands.queue(self.name, name, arguments, expires_s)

    @property
    def config(self) -> Config | None:
        """Its configuration and what it says of it; None: it never had one."""
        return self._backend.configs.get(self.name)

    async def set_config(self, document: dict[str, Any]) -> int:
        """Give it a configuration, now or when it comes; return its version.

        Raises:
            ValueError: no object, no JSON, or above 16 KiB. StoreUnavailable: it was not kept.
        """
        return await self._backend.configs.set(self.name, document)

    async def latest_frame(self, name: str | None = None) -> Frame | None:
        """Return its newest picture (JPEG or PNG), None when it sent none.

        Args:
            name: only of blobs of this name.

        Raises:
            StoreError: the file is missing.
        """
        return await asyncio.to_thread(self._latest_frame, name)

    def _latest_frame(self, name: str | None) -> Frame | None:
        folder = self._backend.folder
        path = self._backend.settings.store_place(folder)
        for one in list_blobs(path, self.name, name, _LOOKED_AT):
            if one.content_format in _PICTURES:
                try:
                    data = (folder / "blobs" / one.path).read_bytes()
                except OSError as error:
                    raise StoreError(f"blob {one.id}: {error}") from error
                return Frame(
                    one.device, one.name, one.content_format, one.time_ms, one.received_ms,
                    one.sha256, data,
                )  # fmt: skip
        return None


def _arguments(args: tuple[Any, ...], by_name: dict[str, Any]) -> Any:
    if args and by_name:
        raise ValueError("arguments of a command go by position or by name, not both")
    return by_name or list(args)
