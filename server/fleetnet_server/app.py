"""The composition root: the one place that knows every room.

Backend puts listeners, sessions, router, writer and store together from a fleet's folder.
"""

import asyncio
import fcntl
from pathlib import Path
from types import TracebackType
from typing import IO

import structlog

from fleetnet.ports.openssl_callbacks import missing_psk_names
from fleetnet_server.config import Settings
from fleetnet_server.core.blob_ports import BlobLimits
from fleetnet_server.core.blobs import Blobs
from fleetnet_server.core.commands import Commands
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.enrolment import Enrolment
from fleetnet_server.core.live import LiveReadings
from fleetnet_server.core.lookout import Lookout
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.psks import Psks
from fleetnet_server.core.rotation import Rotations
from fleetnet_server.core.router import Router
from fleetnet_server.core.services import Services
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.core.watch import Watch
from fleetnet_server.crls import Crls
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl_folder import CrlFolder
from fleetnet_server.identity.expiry import Expiry
from fleetnet_server.identity.policy import PolicyFile, Rules
from fleetnet_server.identity.psk import FindKey
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.identity.wanted import TrustFolder
from fleetnet_server.listeners import Listeners
from fleetnet_server.store.audit import Audit, AuditTable
from fleetnet_server.store.blobs import BlobFiles
from fleetnet_server.store.claims import ClaimTable
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.identities import IdentityTable
from fleetnet_server.store.psks import PskTable
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer
from fleetnet_server.upkeep import Upkeep

_log = structlog.get_logger("fleetnet")

# A restart takes a second; a fleet that comes back within it would only be sent away.
_RETRY_AFTER_MS = 2_000
_FLUSH_S = 5.0


class Backend:
    """A running back-end: ``async with Backend(folder, settings) as backend``.

    Raises, on entry:
        FolderError: another server uses the folder. CredentialError: keys cannot be used.
        StoreUnavailable, StoreError: the store cannot be opened.
        ConfigError: policy.toml is broken.
        OSError: a port is in use.

    Attributes:
        tls_port, dtls_port: the real ones, where the settings say 0.
        commands, configs: what a program tells its devices, see core/.
        policy: FOLDER/policy.toml. audit: who decided what, to be written to.
        rotations, enrolment: new identities of devices, and first ones by claim.
        live: best-effort readings, to be watched. blobs: files and frames of devices.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        self.tls_port = 0
        self.dtls_port = 0
        self._lock: IO[bytes] | None = None

    async def __aenter__(self) -> "Backend":
        self.policy = PolicyFile(self.folder)
        self._lists = CrlFolder(self.folder)
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
        self._make_services()
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

    def _make_services(self) -> None:
        settings = self.settings
        table = CommandTable(self.store)
        self.audit = Audit(self.store)
        self.commands = Commands(table, self._rules, self.audit)
        self.configs = Configs(table)
        self.live = LiveReadings()
        self._blob_files = BlobFiles(self.folder / "blobs", self.store)
        self.blobs = Blobs(self._blob_files, BlobLimits(settings.max_blob_bytes))
        trust = TrustFolder(self.folder, settings.device_lifetime_s)
        self.rotations = Rotations(
            IdentityTable(self.store), trust, settings.rotations_per_s, self.audit
        )
        crls = Crls(self.folder, self.store.registry.revoked)
        self.rotations.on_revoked = crls.soon
        self.enrolment = Enrolment(ClaimTable(self.store), trust, self.audit)
        self.psks = Psks(PskTable(self.store))
        self.sessions = Sessions(
            self.store,
            self.store,
            self.router,
            Services(
                (self.commands, self.configs, self.live, self.blobs, self.psks, self.rotations)
            ),
            audit=self.audit,
            keepalive_ms=int(settings.keepalive_s * 1000),
            datagram_keepalive_ms=int(settings.dtls_keepalive_s * 1000),
        )
        # First: whoever may no longer be here goes, whatever the others meet.
        changes = AuditTable(self.store)
        watch = Watch(changes, self.policy, self._lists, self.sessions, self.audit)
        watch.use_issuers(*Authority.load(self.folder).issuers)
        self._watch = watch
        self._lookout = Lookout(
            (
                watch, self.commands, self.configs, self.psks, self.rotations, self.enrolment,
                crls, self.audit,
            )
        )  # fmt: skip

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _rules(self, group: str) -> Rules | None:
        return self.policy.policy.rules(group)

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
        ServerKeys(self.folder).finish()
        self._upkeep = Upkeep(self.folder, settings, self.store, self.audit.note)
        # Before the first device comes: a server that was off for long may have an old one.
        await self._upkeep.renew()
        self.psks.live = self.sessions.live
        find_key: FindKey | None = FindKey(self.folder, PskTable(self.store).find)
        if missing := missing_psk_names():
            _log.warning("no pre-shared keys with this version of cryptography", missing=missing)
            find_key = None
        self.listeners = Listeners(
            self.folder,
            settings,
            self.sessions.accept,
            self.sessions.handshake_refused,
            find_key,
        )
        self.tls, self.dtls = self.listeners.tls, self.listeners.dtls
        if settings.enrol_port:
            self.listeners.add_enrolment(self.enrolment.accept)
        await self.listeners.start()
        self._lookout.add(self.listeners)
        self.listeners.on_reload = self._on_reload
        self._upkeep.start()
        self.tls_port = self.tls.port
        self.dtls_port = self.dtls.port
        _log.info("listening", bind=settings.bind, tls=self.tls_port, dtls=self.dtls_port)

    async def reload(self) -> bool:
        """Read certificates and keys anew; sessions go on. See Listeners.reload."""
        return await self.listeners.reload()

    def _on_reload(self) -> None:
        self._upkeep.wake()
        self._watch.use_issuers(*Authority.load(self.folder).issuers)
        detail = {"serial": f"{self.listeners.serial:x}"}
        self.audit.note("server", "certificates-reloaded", None, detail)

    def expiries(self) -> list[Expiry]:
        """Return when each certificate ends, the nearest first. Raises as Upkeep.expiries."""
        return self._upkeep.expiries()

    async def stop(self) -> None:
        """Commit what was received, acknowledge it, say BYE, close."""
        self.listeners.stop_accepting()
        await self._upkeep.stop()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self.writer.flush()
        except TimeoutError:
            _log.error("store unavailable: what it lacks was not acknowledged")
        await self._lookout.stop()
        await self.sessions.close(_RETRY_AFTER_MS)
        self.listeners.close()
        await self.writer.close()
        await self.blobs.close()
        self._blob_files.close()
        self.store.close()
        if self._lock is not None:
            self._lock.close()
        _log.info("stopped", stored=self.router.stored, duplicates=self.router.duplicates)
