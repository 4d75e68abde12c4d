"""The composition root: the one place that knows every room.

Backend puts listeners, sessions, router, writer and store together from a fleet's folder.
"""

import asyncio
import fcntl
from pathlib import Path
from types import TracebackType
from typing import IO

import structlog

from fleetnet.ports import port
from fleetnet_server.config import Settings
from fleetnet_server.core.blob_ports import BlobLimits
from fleetnet_server.core.blobs import Blobs
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.live import LiveReadings
from fleetnet_server.core.lookout import Lookout
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.router import Router
from fleetnet_server.core.services import Services
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.errors import FolderError
from fleetnet_server.net.dtls import DtlsListener
from fleetnet_server.net.tls import TlsListener
from fleetnet_server.store.blobs import BlobFiles
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer

_log = structlog.get_logger("fleetnet")

# A restart takes a second; a fleet that comes back within it would only be sent away.
_RETRY_AFTER_MS = 2_000
_FLUSH_S = 5.0


class Backend:
    """A running back-end: ``async with Backend(folder, settings) as backend``.

    Raises, on entry:
        FolderError: another server uses the folder. CredentialError: keys cannot be used.
        StoreUnavailable, StoreError: the store cannot be opened.
        OSError: a port is in use.

    Attributes:
        tls_port, dtls_port: the real ones, where the settings say 0.
        commands, configs: what a program tells its devices, see core/.
        live: best-effort readings, to be watched. blobs: files and frames of devices.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.tls_port = 0
        self.dtls_port = 0
        self._lock: IO[bytes] | None = None

    async def __aenter__(self) -> "Backend":
        self._lock = self._take_lock()
        settings = self.settings
        self.store = SqliteStore(settings.store_path(self.folder))
        self.router = Router()
        self.writer: Writer[Peer] = Writer(
            self.store,
            self.router.on_durable,
            interval_s=settings.commit_interval_ms / 1000,
            max_rows=settings.commit_rows,
        )
        self.router.writer = self.writer
        table = CommandTable(self.store)
        self.commands = Commands(table)
        self.configs = Configs(table)
        self.live = LiveReadings()
        self._blob_files = BlobFiles(self.folder / "blobs", self.store)
        self.blobs = Blobs(self._blob_files, BlobLimits(settings.max_blob_bytes))
        self.sessions = Sessions(
            self.store,
            self.store,
            self.router,
            Services((self.commands, self.configs, self.live, self.blobs)),
            keepalive_ms=int(settings.keepalive_s * 1000),
            datagram_keepalive_ms=int(settings.dtls_keepalive_s * 1000),
        )
        self._lookout = Lookout((self.commands, self.configs))
        try:
            await self._listen()
        except BaseException:
            await self._lookout.stop()
            await self.writer.close()
            self._blob_files.close()
            self.store.close()
            self._lock.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _take_lock(self) -> IO[bytes]:
        """Two servers on one store would give the same numbers to different epochs."""
        file = (self.folder / "serve.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise FolderError(
                f"another `fleetnet serve` uses {self.folder}: stop it, or use another folder"
            ) from None
        return file

    async def _listen(self) -> None:
        settings = self.settings
        server = self.folder / "server"
        cert, key = server / "cert.der", server / "key.der"
        anchor = self.folder / "ca" / "ca.der"
        limits = {
            "handshake_timeout_s": settings.handshake_timeout_s,
            "max_handshakes": settings.max_handshakes,
        }
        accept, refused = self.sessions.accept, self.sessions.handshake_refused
        self.tls = TlsListener(
            port.server_context(cert, key, anchor), accept, refused, **limits  # type: ignore[arg-type]
        )
        self.dtls = DtlsListener(
            port.server_context(cert, key, anchor, datagram=True), accept, refused, **limits  # type: ignore[arg-type]
        )
        await self.tls.start(settings.bind, settings.tls_port)
        try:
            await self.dtls.start(settings.bind, settings.dtls_port)
        except OSError:
            self.tls.close()
            raise
        self.tls_port = self.tls.port
        self.dtls_port = self.dtls.port
        _log.info("listening", bind=settings.bind, tls=self.tls_port, dtls=self.dtls_port)

    async def stop(self) -> None:
        """Commit what was received, acknowledge it, say BYE, close."""
        self.tls.stop_accepting()
        self.dtls.stop_accepting()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self.writer.flush()
        except TimeoutError:
            _log.error("store unavailable: what it lacks was not acknowledged")
        await self._lookout.stop()
        await self.sessions.close(_RETRY_AFTER_MS)
        self.tls.close()
        self.dtls.close()
        await self.writer.close()
        await self.blobs.close()
        self._blob_files.close()
        self.store.close()
        if self._lock is not None:
            self._lock.close()
        _log.info("stopped", stored=self.router.stored, duplicates=self.router.duplicates)
