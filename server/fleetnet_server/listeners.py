"""The listeners of a back-end, and the contexts that they share.

Contexts are made from the fleet's files. ``reload`` makes them anew and hands them to the
listeners: new connections get the new ones, sessions that live keep what they were opened
with. Files that are broken, or do not belong together, change nothing.
"""

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from fleetnet.errors import FleetError
from fleetnet.ports import port
from fleetnet_server.config import Settings
from fleetnet_server.core.transport import Accept, Refused
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.server_keys import FOLDER, WATCHED, ServerKeys
from fleetnet_server.net.admission import Admission, Door
from fleetnet_server.net.dtls import DtlsListener
from fleetnet_server.net.tls import TlsListener
from fleetnet_server.served import port_error

if TYPE_CHECKING:
    from fleetnet.ports.openssl_callbacks import FindKey
    from fleetnet.ports.openssl_context import Context

_log = structlog.get_logger("fleetnet.listeners")

_LEDGER = ("ca", "authority.json")

# The settings that name the ports of devices; what is open may be less. 0: of enrol_port, none.
PORTS = {
    "tls_port": socket.SOCK_STREAM,
    "dtls_port": socket.SOCK_DGRAM,
    "enrol_port": socket.SOCK_STREAM,
}


class Listener(Protocol):
    """What a transport's listener is to Listeners; net/tls.py and net/dtls.py have one each.

    Attributes:
        door: places for handshakes under way. port: the real one.
    """

    door: Door
    port: int

    async def start(self, host: str, port: int, sock: socket.socket | None = None, /) -> None:
        """Open the port, or use ``sock``. Raises OSError: it cannot be had."""

    def use(self, context: "Context", /) -> None:
        """Give new connections another context; the others keep theirs."""

    def use_timeout(self, handshake_timeout_s: float, /) -> None:
        """Give new handshakes so long."""

    def stop_accepting(self) -> None:
        """Take no new connections; the others go on."""

    def close(self) -> None:
        """Stop, and drop what is still connected."""


class Inherited(NamedTuple):
    """What a worker's listeners have from the process that started it (workers/).

    Attributes:
        sockets: bound already, by the setting's name of their port.
        cookie_key: that all workers share, 32 bytes.
    """

    sockets: Mapping[str, socket.socket]
    cookie_key: bytes


class Contexts(NamedTuple):
    """One for each kind of listener.

    Attributes:
        tls, dtls: clients must show a certificate, or share a key where ``find_key`` was given.
        enrol: TLS for devices that have no identity yet: clients show nothing.
        serial: of the server's certificate. digest: of everything that they were made of.
    """

    tls: "Context"
    dtls: "Context"
    enrol: "Context"
    serial: int
    digest: bytes


def make_contexts(folder: Path, find_key: "FindKey | None" = None) -> Contexts:
    """Make contexts of FOLDER's files; every listener of the back-end gets its own here.

    Args:
        find_key: function(identity) -> pre-shared key or None, see fleetnet.server_context.

    Raises:
        CredentialError: a file is missing, damaged, or belongs to another one.
    """
    keys = ServerKeys(folder)
    anchors = list(Authority.load(folder).client_anchors)
    chain, key = keys.chain, keys.key
    return Contexts(
        port.server_context(chain, key, anchors, psk=find_key),
        port.server_context(chain, key, anchors, datagram=True, psk=find_key),
        port.server_context(chain, key),
        keys.serial,
        hashlib.sha256(b"\0".join((chain, key, *anchors))).digest(),
    )


class Listeners:
    """TLS and DTLS, and TLS for enrolment where it is wanted; implements core.lookout.Looking.

    Args:
        accept, refused: what the listeners call, see core/transport.py.
        find_key: see make_contexts.
        limited: hears of an address that comes too often, once a minute.
        inherited: sockets to use instead of opening the ports of the settings.

    Attributes:
        tls, dtls: the listeners. Those of all are in ``all``, by the name of their context:
            "tls", "dtls", and "enrol" behind ``add_enrolment``.
        serial: of the certificate that new connections get.
        on_reload: called when new connections get other contexts than before.

    Raises:
        CredentialError: as make_contexts.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        accept: Accept,
        refused: Refused,
        find_key: "FindKey | None" = None,
        limited: Callable[[str], None] = lambda network: None,
        inherited: Inherited | None = None,
    ):
        self._inherited = inherited or Inherited({}, b"")
        self._folder = folder
        self._settings = settings
        self._refused = refused
        self._find_key = find_key
        self._seen = self._stat()
        self._contexts = contexts = make_contexts(folder, find_key)
        # One for all: an address has no more of the server's time because it uses two ports.
        self.admission = Admission(
            settings.address_handshakes_per_s, settings.address_handshakes_burst, limited
        )
        self.tls = self._tls(contexts.tls, accept)
        self.dtls = DtlsListener(
            contexts.dtls,
            accept,
            refused,
            handshake_timeout_s=settings.handshake_timeout_s,
            max_handshakes=settings.max_handshakes,
            admission=self.admission,
            cookie_key=self._inherited.cookie_key,
            compact=settings.compact_dtls,
        )
        self.all: dict[str, Listener] = {"tls": self.tls, "dtls": self.dtls}
        self.on_reload: Callable[[], None] = lambda: None
        self._reloading = asyncio.Lock()
        self._task: asyncio.Task[bool] | None = None

    def _tls(self, context: "Context", accept: Accept) -> TlsListener:
        return TlsListener(
            context,
            accept,
            self._refused,
            handshake_timeout_s=self._settings.handshake_timeout_s,
            max_handshakes=self._settings.max_handshakes,
            admission=self.admission,
        )

    @property
    def serial(self) -> int:
        return self._contexts.serial

    @property
    def doors(self) -> dict[str, Door]:
        """Their places for handshakes, by name."""
        return {name: listener.door for name, listener in self.all.items()}

    # -- their life ------------------------------------------------------------------------

    def add_enrolment(self, accept: Accept) -> None:
        """Make the listener for devices without an identity; ``start`` opens it."""
        self.all["enrol"] = self._tls(self._contexts.enrol, accept)

    async def start(self) -> None:
        """Open the ports of the settings. Raises ConfigError: one cannot be had; none is open."""
        bind = self._settings.bind
        for name, listener in self.all.items():
            key = f"{name}_port"
            number, protocol = getattr(self._settings, key), protocol_of(key)
            try:
                await listener.start(bind, number, self._inherited.sockets.get(key))
            except OSError as error:
                self.close()
                raise port_error(bind, key, number, error, protocol) from error

    def use_limits(self, settings: Settings) -> None:
        """Let the numbers of other settings hold from now on."""
        self._settings = settings
        self.admission.table.use(
            settings.address_handshakes_per_s, settings.address_handshakes_burst
        )
        for listener in self.all.values():
            listener.use_timeout(settings.handshake_timeout_s)
            listener.door.most = settings.max_handshakes

    def stop_accepting(self) -> None:
        """Take no new connections; sessions go on."""
        for listener in self.all.values():
            listener.stop_accepting()

    def close(self) -> None:
        """Close the ports and whatever is still connected."""
        for listener in self.all.values():
            listener.close()

    # -- new files -------------------------------------------------------------------------

    def look(self) -> None:
        """Reload when a file changed; a few stat calls, no reading."""
        if self._task is not None and not self._task.done():
            return
        if self._stat() != self._seen:
            self._task = asyncio.get_running_loop().create_task(self.reload())

    async def stop(self) -> None:
        """End a reload that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def reload(self) -> bool:
        """Read the files, and let new connections have what they say.

        Returns:
            True when new connections get what the files say. False: they cannot be used; the
            reason was logged, and everything goes on as before.
        """
        async with self._reloading:
            self._seen = self._stat()
            try:
                # Reading and parsing take milliseconds that sessions should not wait for.
                contexts = await asyncio.to_thread(make_contexts, self._folder, self._find_key)
            except Exception as error:
                # Whatever it is: a back-end that runs does not stop for a file.
                reason = str(error) if isinstance(error, FleetError) else repr(error)
                _log.error("certificates not reloaded, those in force stay", reason=reason)
                return False
            if contexts.digest != self._contexts.digest:
                self._use(contexts)
                _log.info("certificates reloaded", serial=f"{contexts.serial:x}")
            return True

    def _use(self, contexts: Contexts) -> None:
        self._contexts = contexts
        for name, listener in self.all.items():
            listener.use(getattr(contexts, name))
        self.on_reload()

    def _stat(self) -> tuple[tuple[int, int, int] | None, ...]:
        return marks_of(self._folder)


def protocol_of(key: str) -> str:
    """Return "TCP" or "UDP" for a key of PORTS."""
    return "UDP" if PORTS[key] == socket.SOCK_DGRAM else "TCP"


def marks_of(folder: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what changes when one of the files changes that contexts are made of."""
    paths = [folder.joinpath(*_LEDGER)]
    paths.extend(folder / FOLDER / name for name in WATCHED)
    return tuple(_mark(path) for path in paths)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
